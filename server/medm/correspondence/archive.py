"""Finds codes again that were in view before, by the surface point that they stand for.

For sub-pixel coding. All codes that ever went out of view are filed in a hash of voxels on the surface: object, fineness, place. A
pixel looks in the voxels around its own surface point, so the time does not grow with the number of codes filed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medm.correspondence.surface import SurfaceFrame, offset, tangents

OFF_SURFACE = 0.5
"""Pixels by which a code may lie off the plane around the pixel that takes it."""
AT_BIRTH = 1.0
"""Pixels, in the frame of its birth, by which a code may lie from the point that a pixel shows."""

_PROBES = {-1: (5, 3), 0: (5, 3), 1: (3, 2)}
"""Places around a pixel's centre where it looks, along the longer and the shorter side of its footprint, by how many times finer (-1) or
coarser (1) the codes were born that it looks for: a factor of 2 each, and no code is looked for that is further off than a factor of 4."""
_AROUND = 0.75
"""Pixels from the centre to the outer of those places."""
_CHUNK = 2**18
"""Pixels looked up at once: they need most of a kilobyte each."""
_MAX_CHAIN = 64
_SHIFT = 0.3819660
"""Of a voxel, by which the grid is off the origin: else floors, which lie at 0, would lie between two voxels, in either by rounding."""


class Archive:
    """Surface points of codes, and which of the codes are in view. Codes are numbered from 0 in the order of `add`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._count = self._filed_count = 0
        self._points = torch.empty(0, 3, device=device)
        self._normals = torch.empty(0, 3, device=device)
        self._along_x = torch.empty(0, 3, device=device)
        self._along_y = torch.empty(0, 3, device=device)
        self._keys = torch.empty(0, dtype=torch.int64, device=device)  # 0: no surface point is known
        self._objects = torch.empty(0, dtype=torch.int32, device=device)
        self._next = torch.empty(0, dtype=torch.int64, device=device)  # in the chain of its bucket; -1 at the end
        self._filed = torch.empty(0, dtype=torch.bool, device=device)
        self._in_view = torch.empty(0, dtype=torch.bool, device=device)
        self._heads = torch.full((2**12,), -1, dtype=torch.int64, device=device)

    def add(self, frame: SurfaceFrame, pixel: Tensor) -> None:
        """Codes born at pixels (N,) of a frame; they are in view."""
        first, last = self._count, self._count + len(pixel)
        if last > len(self._keys):
            self._grow(max(last, 2 * len(self._keys)))
        along_x, along_y, known = tangents(frame, pixel)
        points = frame.coordinates.index_select(0, pixel)
        level = _level(along_x, along_y)
        objects = frame.object_id.index_select(0, pixel)
        self._points[first:last] = points
        self._along_x[first:last], self._along_y[first:last] = along_x, along_y
        self._normals[first:last] = frame.normal.index_select(0, pixel)
        self._objects[first:last] = objects
        self._keys[first:last] = torch.where(known & level.isfinite(), _key(objects, level, points), 0)
        self._filed[first:last] = False
        self._in_view[first:last] = True
        self._count = last

    def leave(self, code: Tensor) -> None:
        """Codes (N,) that go out of view."""
        self._in_view[code] = False
        new = code[~self._filed[code] & (self._keys[code] != 0)]
        self._filed[new] = True
        self._filed_count += len(new)
        if self._filed_count > len(self._heads):
            buckets = len(self._heads)
            while buckets < self._filed_count:
                buckets *= 4
            self._heads = torch.full((buckets,), -1, dtype=torch.int64, device=self._device)
            new = self._filed[: self._count].nonzero()[:, 0]
        self._link(new)

    def come_back(self, code: Tensor) -> None:
        """Codes (N,) that are in view again."""
        self._in_view[code] = True

    def near(self, frame: SurfaceFrame, pixel: Tensor, reach: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Codes out of view whose surface points pixels (N,) of a frame show.

        The code is of the pixel's object and of the same side of the surface. It lies within `reach` pixels of the pixel's centre, within
        half a pixel of the plane around it, and would have lain within a pixel of it in the frame of the code's birth.

        Returns:
            pixel: (P,) of each pair found; pairs may be repeated.
            code: (P,) of each pair.
            dx, dy: (P,) pixels from the pixel's centre to the code.
        """
        if not self._filed_count or not len(pixel):
            return self._nothing()
        parts = [self._near(frame, some, reach) for some in torch.split(pixel, _CHUNK)]
        pixel, code, dx, dy = (torch.cat(part) for part in zip(*parts, strict=True))
        return pixel, code, dx, dy

    def _near(self, frame: SurfaceFrame, pixel: Tensor, reach: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        along_x, along_y, known = tangents(frame, pixel)
        level = _level(along_x, along_y)
        keep = (known & level.isfinite()).nonzero()[:, 0]
        pixel, along_x, along_y, level = pixel[keep], along_x[keep], along_y[keep], level[keep]
        points, objects = frame.coordinates[pixel], frame.object_id[pixel]
        normals = frame.normal[pixel]
        sides = along_x.square().sum(-1), along_y.square().sum(-1)
        footprint = torch.maximum(*sides)
        radius = (reach * (sides[0].sqrt() + sides[1].sqrt())).square() + OFF_SURFACE**2 * footprint
        which, code = self._look_up(points, objects, level, along_x, along_y)
        found = []
        for _ in range(_MAX_CHAIN):
            if not len(which):
                break
            # The cheap questions first: most codes on the way are in view, or too far.
            out = (~self._in_view.index_select(0, code)).nonzero()[:, 0]
            one, other = which.index_select(0, out), code.index_select(0, out)
            apart = self._points.index_select(0, other) - points.index_select(0, one)
            close = (apart.square().sum(-1) <= radius.index_select(0, one)).nonzero()[:, 0]
            one, other, apart = one[close], other[close], apart[close]
            dx, dy, off = offset(along_x.index_select(0, one), along_y.index_select(0, one), apart)
            born_x, born_y, _ = offset(self._along_x.index_select(0, other), self._along_y.index_select(0, other), apart)
            fits = (dx * dx + dy * dy <= reach**2) & (born_x * born_x + born_y * born_y <= AT_BIRTH**2)
            fits &= off <= OFF_SURFACE**2 * footprint.index_select(0, one)
            fits &= self._objects.index_select(0, other) == objects.index_select(0, one)
            fits &= (self._normals.index_select(0, other) * normals.index_select(0, one)).sum(-1) > 0
            hit = fits.nonzero()[:, 0]
            found.append((pixel[one[hit]], other[hit], dx[hit], dy[hit]))
            code = self._next[code]
            more = (code >= 0).nonzero()[:, 0]
            which, code = which[more], code[more]
        if not found:
            return self._nothing()
        pixel, code, dx, dy = (torch.cat(part) for part in zip(*found, strict=True))
        return pixel, code, dx, dy

    def _nothing(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        none = torch.empty(0, device=self._device)
        return none.long(), none.long(), none, none

    def _look_up(self, points: Tensor, objects: Tensor, level: Tensor, along_x: Tensor, along_y: Tensor) -> tuple[Tensor, Tensor]:
        """The first codes in the chains of the voxels around points (N,): index of the point, and code."""
        x_longer = (along_x.square().sum(-1) >= along_y.square().sum(-1))[:, None]
        long_side, short_side = torch.where(x_longer, along_x, along_y), torch.where(x_longer, along_y, along_x)
        found = []
        for step, (rows, columns) in _PROBES.items():
            ups, acrosses = (torch.linspace(-_AROUND, _AROUND, number, device=self._device) for number in (rows, columns))
            lines = [points + up * long_side for up in ups]
            places = torch.stack([torch.stack([line + across * short_side for across in acrosses]) for line in lines])
            bucket = self._bucket(_key(objects, level + step, places))  # (rows, columns, N)
            heads = self._heads.index_select(0, bucket.reshape(-1)).reshape(bucket.shape)
            heads[1:].masked_fill_(bucket[1:] == bucket[:-1], -1)  # the voxel of the place before
            heads[:, 1:].masked_fill_(bucket[:, 1:] == bucket[:, :-1], -1)
            hit = (heads.reshape(-1) >= 0).nonzero()[:, 0]
            found.append((hit % len(points), heads.reshape(-1)[hit]))
        which, code = (torch.cat(part) for part in zip(*found, strict=True))
        return which, code

    def _link(self, new: Tensor) -> None:
        """Put codes at the heads of their buckets' chains."""
        bucket, order = self._bucket(self._keys[new]).sort(stable=True)
        new = new[order]
        last = torch.ones_like(bucket, dtype=torch.bool)
        last[:-1] = bucket[1:] != bucket[:-1]
        follower = torch.empty_like(new)
        follower[:-1] = new[1:]
        self._next[new] = torch.where(last, self._heads[bucket], follower)
        first = torch.ones_like(last)
        first[1:] = last[:-1]
        self._heads[bucket[first]] = new[first]

    def _bucket(self, key: Tensor) -> Tensor:
        return (key ^ (key >> 17) ^ (key >> 34)) & (len(self._heads) - 1)

    def _grow(self, size: int) -> None:
        for name in ("_points", "_normals", "_along_x", "_along_y", "_keys", "_objects", "_next", "_filed", "_in_view"):
            old: Tensor = getattr(self, name)
            new = torch.empty(size, *old.shape[1:], dtype=old.dtype, device=old.device)
            new[: self._count] = old[: self._count]
            setattr(self, name, new)


def _level(along_x: Tensor, along_y: Tensor) -> Tensor:
    """log2 of the side of the square that covers as much surface as the pixel, rounded down; not finite where it covers none."""
    area: Tensor = torch.linalg.cross(along_x, along_y).square().sum(-1)
    return area.log2().div(4).floor()


def _key(objects: Tensor, level: Tensor, place: Tensor) -> Tensor:
    """A hash of object, level and voxel, never 0. The voxels of a level are up to twice as wide as its pixels."""
    voxel = (place * torch.exp2(-level - 1)[:, None] + _SHIFT).floor().long()
    key = objects.long() * 0x1F123BB5 + level.long() * 0x5F356495
    for axis, factor in enumerate((0x2545F4914F6CDD1D, 0x369DEA0F31A53F85, 0x27BB2EE687B0B0FD)):
        key = (key ^ voxel[..., axis]) * factor
        key ^= key >> 29
    return key | 1

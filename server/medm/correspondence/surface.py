"""Which surface point a pixel shows, in coordinates that do not depend on the frame.

For sub-pixel coding, which finds codes again by them. A pixel's surface coordinates are

    static objects      the world position
    rigid objects       the position in object space, by the object's matrix in that frame
    deforming objects   the place on the undeformed mesh, where the shot has a rest pass
    the background      the direction of the pixel's ray; unknown under an orthographic camera, all of whose pixels look the same way

In a shot that does not list its objects, those are static that were never seen to move: what moves while it is out of view, or over a
cut, is not noticed. `Trust` compares all coordinates with the flow, and drops those of objects that are at odds with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medm.correspondence.background import pixel_grid
from medm.correspondence.objects import pixels_by_object
from medm.shot import Float32, Float64, GBuffer, ObjectMotion, Shot

MOVES = 0.05
"""Pixels by which the flow of a static object differs at most from what the cameras alone say: exact flow differs by a thousandth."""

OUT_OF_SURFACE = 0.9
"""Share of a step from pixel to pixel that goes along the normal, above which it leads off the surface: at 64 degrees, as bump maps may."""

_EVERY = 4
"""Pixels from one that is compared with the flow to the next, along x and y."""
_AT_LEAST = 8
"""Pixels that an object must have been looked at in a frame to be judged."""
_MISS = 1.0
"""Pixels by which half of an object's surface must miss the flow for its coordinates to be wrong."""


@dataclass(frozen=True)
class SurfaceFrame:
    """What one frame of H x W pixels shows, row-major; N = H * W.

    Attributes:
        coordinates: (N, 3) float32, NaN where unknown.
        normal: (N, 3) float32, of unit length, in a space that does not depend on the frame either: tells the sides of a thin surface
            apart. Of rest coordinates, to which no normal belongs, it is (1, 1, 1) on the front and (-1, -1, -1) on the back.
        object_id: (N,) int32.
        height: H.
        width: W.
    """

    coordinates: Tensor
    normal: Tensor
    object_id: Tensor
    height: int
    width: int


class Surface:
    """The surface coordinates of a shot, worked out frame by frame.

    Args:
        shot: the shot, or a part of it.
        gbuffer: its passes.
        device: where the coordinates are wanted.
        backwards: frame 0 is the shot's last.
        movers: objects that were seen to move in the part before; what is noticed is added.
    """

    def __init__(
        self,
        shot: Shot,
        gbuffer: GBuffer,
        device: str | torch.device = "cpu",
        backwards: bool = False,
        movers: set[int] | None = None,
    ) -> None:
        self._shot, self._gbuffer, self._backwards = shot, gbuffer, backwards
        self._device = torch.device(device)
        self._objects = shot.objects
        self._movers: set[int] = set() if movers is None else movers

    def frame(self, t: int) -> SurfaceFrame:
        """What frame t shows."""
        t = len(self._shot) - 1 - t if self._backwards else t
        camera, sky, ids = self._shot.cameras[t], self._gbuffer.background[t], self._gbuffer.object_id[t]
        coordinates, normal = self._gbuffer.position[t].copy(), self._gbuffer.normal[t].copy()
        if camera.orthographic:
            coordinates[sky] = np.nan
        elif sky.any():
            coordinates[sky] = camera.rays(pixel_grid(*self._shot.size)[sky])[1]
            normal[sky] = -coordinates[sky]
        if self._objects:
            self._leave_the_world(t, ids, coordinates, normal, ~sky)
        else:
            self._notice_movers(t)
            coordinates[np.isin(ids, list(self._movers)) & ~sky] = np.nan
        height, width = ids.shape
        return SurfaceFrame(self._rows(coordinates), self._rows(normal), self._rows(ids), height, width)

    def _leave_the_world(self, t: int, ids: np.ndarray, coordinates: Float32, normal: Float32, surface: np.ndarray) -> None:
        """From world space, which is right for what is static, to that of each object; in place, so both must be contiguous."""
        rest = self._shot.rest(t, self._gbuffer)
        places, normals = coordinates.reshape(-1, 3), normal.reshape(-1, 3)
        for number, mine in pixels_by_object(ids, surface):
            motion = self._objects.get(number)
            if motion is not None and motion.kind == "static":
                continue
            if motion is not None and motion.kind == "rigid":
                to_object = _inverse(motion, t)
                if to_object is not None:
                    places[mine] = places[mine] @ to_object[:3, :3].T + to_object[:3, 3]
                    turned = normals[mine] @ np.linalg.inv(to_object[:3, :3])
                    normals[mine] = turned / np.linalg.norm(turned, axis=-1, keepdims=True)
                    continue
            if motion is not None and motion.kind == "deforming" and rest is not None:
                places[mine] = rest.coordinates.reshape(-1, 3)[mine]
                normals[mine] = np.where(rest.back.ravel()[mine, None], np.float32(-1), np.float32(1))
                continue
            places[mine] = np.nan

    def _notice_movers(self, t: int) -> None:
        """Take down the objects that move in frame t: half of what is looked at has another flow than the cameras alone would give it.

        What frame t-1 does not show may have been hidden from the render then, and Blender says 0 of that.
        """
        if self._shot.cuts[t]:
            return
        some = (slice(_EVERY // 2, None, _EVERY),) * 2
        ids, surface = self._gbuffer.object_id[t][some], ~self._gbuffer.background[t][some]
        still = self._shot.cameras[t - 1].project(self._gbuffer.position[t][some])[0] - pixel_grid(*self._shot.size)[some]
        with np.errstate(invalid="ignore", over="ignore"):
            moves = np.linalg.norm(self._gbuffer.flow_to_prev[t][some] - still, axis=-1) > MOVES
        surface &= np.isin(ids, self._gbuffer.object_id[t - 1])
        objects, index = np.unique(ids[surface], return_inverse=True)
        seen, moved = np.bincount(index), np.bincount(index, weights=moves[surface])
        self._movers.update(objects[(seen >= _AT_LEAST) & (moved > seen / 2)].tolist())

    def _rows(self, plane: np.ndarray) -> Tensor:
        return torch.from_numpy(plane.reshape(-1, *plane.shape[2:])).to(self._device)


def _inverse(motion: ObjectMotion, t: int) -> Float64 | None:
    """World to object space in frame t; None if it is not known."""
    matrix = motion.matrices[t] if motion.matrices is not None else None
    return None if matrix is None or not np.isfinite(matrix).all() else np.linalg.inv(matrix)


def tangents(frame: SurfaceFrame, pixel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How the surface coordinates change from pixel to pixel, around some pixels (N,).

    The mean of the steps to both neighbours where they are alike, else the shorter one: the longer may lead over an edge. Only
    neighbours of the pixel's own object count. What is one pixel wide, as a wire, has none across; that step is taken to be as long as the
    other, at a right angle to it and to the normal. Nothing is known where a step leads out of the surface, along its normal (leaves one
    behind the other), nor where rest coordinates, which have no normal to tell, go on unevenly.

    Returns:
        along_x: (N, 3), coordinates per pixel to the right.
        along_y: (N, 3), coordinates per pixel down.
        known: (N,) bool; the other two are meaningless where it is False.
    """
    here, own = frame.coordinates.index_select(0, pixel), frame.object_id.index_select(0, pixel)
    normal = frame.normal.index_select(0, pixel)
    in_rest = normal.square().sum(-1) > 2  # see SurfaceFrame
    sides = []
    along = []
    for place, size, stride in ((pixel % frame.width, frame.width, 1), (pixel // frame.width, frame.height, frame.width)):
        steps, lengths = [], []
        for sign, inside in ((1, place < size - 1), (-1, place > 0)):
            other = torch.where(inside, pixel + sign * stride, pixel)
            step = (frame.coordinates.index_select(0, other) - here) * sign
            length = step.square().sum(-1)
            own_too = inside & (frame.object_id.index_select(0, other) == own) & length.isfinite()
            steps.append(step)
            leaves = ~in_rest & ((step * normal).sum(-1).square() > OUT_OF_SURFACE**2 * length)
            lengths.append(torch.where(own_too & ~leaves, length, torch.inf))
        short, long = torch.minimum(*lengths), torch.maximum(*lengths)
        alike = (long <= 4 * short) & ((steps[0] * steps[1]).sum(-1) > 0.5 * short)
        shorter = torch.where((lengths[0] <= lengths[1])[:, None], steps[0], steps[1])
        along.append(torch.where(alike[:, None], (steps[0] + steps[1]) / 2, shorter))
        sides.append(short.isfinite() & (alike | ~in_rest | ~long.isfinite()))
    for mine, known, sign in ((0, 1, -1), (1, 0, 1)):  # right x towards the camera = down
        across = torch.linalg.cross(along[known], normal) * sign
        across = across * (along[known].norm(dim=-1) / across.norm(dim=-1))[:, None]
        along[mine] = torch.where((sides[known] & ~sides[mine])[:, None], across, along[mine])
    return along[0], along[1], sides[0] | sides[1]


def offset(along_x: Tensor, along_y: Tensor, apart: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many pixels (dx, dy) further the surface is `apart` (N, 3) away, by least squares in the tangent plane.

    Returns:
        dx, dy: (N,) pixels; NaN or infinite where the tangents span no plane.
        off: (N,) squared length of what of `apart` is not in the plane.
    """
    a, b, c = (along_x * along_x).sum(-1), (along_x * along_y).sum(-1), (along_y * along_y).sum(-1)
    u, v = (along_x * apart).sum(-1), (along_y * apart).sum(-1)
    determinant = a * c - b * b
    determinant = torch.where(determinant > 1e-6 * a * c, determinant, torch.nan)
    dx, dy = (c * u - b * v) / determinant, (a * v - b * u) / determinant
    return dx, dy, (apart - dx[:, None] * along_x - dy[:, None] * along_y).square().sum(-1)


class Trust:
    """Which objects' surface coordinates agree with the flow, and so do not depend on the frame as they should not.

    A point's coordinates in frame t-1, where the flow says it was, must be those that it has in frame t. Once half of what is seen of an
    object misses by more than a pixel, the object is not trusted any more. That is so where a mesh changes its topology, and with it its
    rest coordinates, or where a manifest is wrong.
    """

    def __init__(self) -> None:
        self._before: SurfaceFrame | None = None
        self._distrusted: Tensor | None = None

    def check(self, frame: SurfaceFrame, flow_to_prev: Tensor, occluded: Tensor) -> SurfaceFrame:
        """The same frame, without the coordinates of objects that are not trusted.

        Args:
            frame: frame t; frames come in order.
            flow_to_prev: (N, 2) pixels.
            occluded: (N,) pixels that the flow says nothing of; all of them at a cut.
        """
        if self._before is not None:
            self._compare(frame, self._before, flow_to_prev, occluded)
        self._before = frame
        if self._distrusted is None or not len(self._distrusted):
            return frame
        unknown = torch.isin(frame.object_id, self._distrusted)
        coordinates = frame.coordinates.masked_fill(unknown[:, None], torch.nan)
        return SurfaceFrame(coordinates, frame.normal, frame.object_id, frame.height, frame.width)

    def _compare(self, frame: SurfaceFrame, before: SurfaceFrame, flow_to_prev: Tensor, occluded: Tensor) -> None:
        device = frame.object_id.device
        rows, columns = (torch.arange(_EVERY // 2, size, _EVERY, device=device) for size in (frame.height, frame.width))
        pixel = (rows[:, None] * frame.width + columns).reshape(-1)
        pixel = pixel[~occluded[pixel] & frame.coordinates[pixel].isfinite().all(-1)]
        x, y = pixel % frame.width + flow_to_prev[pixel, 0], pixel // frame.width + flow_to_prev[pixel, 1]
        near_x, near_y = x.round(), y.round()
        inside = (near_x >= 0) & (near_x < frame.width) & (near_y >= 0) & (near_y < frame.height)
        pixel, x, y, near_x, near_y = (values[inside] for values in (pixel, x, y, near_x, near_y))
        there = near_y.long() * frame.width + near_x.long()
        ids = frame.object_id[pixel]
        along_x, along_y, known = tangents(before, there)
        dx, dy, off = offset(along_x, along_y, frame.coordinates[pixel] - before.coordinates[there])
        scale = (along_x.square().sum(-1) + along_y.square().sum(-1)) / 2
        miss = (dx - (x - near_x)).square() + (dy - (y - near_y)).square() + off / scale
        judged = known & (before.object_id[there] == ids) & miss.isfinite()
        ids, wrong = ids[judged], miss[judged] > _MISS**2
        objects, index = torch.unique(ids, return_inverse=True)
        seen = torch.bincount(index, minlength=len(objects))
        missed = torch.bincount(index, weights=wrong.double(), minlength=len(objects))
        bad = objects[(seen >= _AT_LEAST) & (missed > seen / 2)]
        self._distrusted = bad if self._distrusted is None else torch.unique(torch.cat([self._distrusted, bad]))

"""Sub-pixel Flow Coding: codes that travel on continuous trajectories, and come back after they were hidden.

For correspondence.analyse, and for whoever has flow from elsewhere; the paper's own way is in coding.py, and docs/correspondence.md
compares them. Frame after frame, on any torch device; a frame's codes do not depend on the frames after it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medm.correspondence.archive import Archive
from medm.correspondence.birthplaces import Birthplaces
from medm.correspondence.codes import Codes
from medm.correspondence.occlusion import MAX_ROUND_TRIP
from medm.correspondence.surface import Surface, SurfaceFrame, Trust
from medm.progress import Progress, silent
from medm.shot import Bool, Float32, Int32

REACH = 0.8
"""Pixels within which a pixel takes a code. Half a pixel's diagonal, 0.71, is the least with which an even lattice leaves no gaps."""
REACH_BACK = 1.0
"""The same for a code that comes back: what lay even when it was seen last need not any more."""
SMOOTH = 0.5
"""Pixels within which the flow of the four pixels around a place must agree to be interpolated."""
PATIENCE = 8
"""Frames that a code in view stays without a pixel: bounds the codes in view where a camera has come close and draws back."""

_ROUNDS = 3
_STEPS = 2**24
_NO_BID = 2**60
_NOBODY = 2**62
_LOW = 2**32 - 1


def subpixel(
    flow_to_prev: Float32,
    flow_to_next: Float32,
    occluded: Bool,
    object_id: Int32,
    cuts: Bool,
    surface: Surface | None = None,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> Codes:
    """Codes that travel on continuous trajectories.

    From one frame to the next every code in view moves by `flow_to_next`, bilinear where the four pixels around it agree within 0.5 px and
    show its object, else of the nearest that does. A pixel may take a code that lands within 0.8 px of it if it shows the code's object, is
    not occluded, and its `flow_to_prev` leads back to within 1 px of where the code came from. Every pixel takes one code and every code
    is taken by one pixel (`match`). A code that no pixel may take, or that none has taken for 8 frames, goes out of view; at a cut all do.

    With `surface`, a code goes out of view too once what the pixel shows was more than a pixel away from it in the frame of its birth.
    And pixels that are still without a code may take one that is out of view and stands for the surface point that they show,
    within 1 px now and in the frame of its birth: a point that was hidden, out of the frame, or seen before a cut, takes its old code.
    If there are fewer such codes than pixels, the pixels left that are within 0.8 px of one share it, and go on sharing it.

    Pixels that find no code give birth to one, at their centre. So codes are born exactly where a surface comes into view, and where it
    comes closer: there it covers more pixels than it has codes, and what can be seen in more detail gets more codes.

    Args:
        flow_to_prev: (T, H, W, 2) float32, pixels, background filled. Not finite: the pixel takes no code over.
        flow_to_next: (T, H, W, 2) float32, pixels, background filled.
        occluded: (T, H, W), pixels without a counterpart in the frame before.
        object_id: (T, H, W), no code is ever shared between two ids.
        cuts: (T,) bool, frames into which no code moves; the first always is one.
        surface: what the pixels show; None: no code comes back.
        device: where the work is done. `surface` must be there too.
        progress: told once a frame.

    Raises:
        ValueError: frames of a single row or column of pixels, between which nothing can be interpolated.
    """
    length, height, width = occluded.shape
    if min(height, width) < 2:
        raise ValueError(f"sub-pixel coding needs frames of at least 2 x 2 pixels, not {width} x {height}")
    coder = _Coder(height, width, torch.device(device))
    trust = Trust()
    codes = np.empty((length, height, width), np.int32)
    for t in range(length):
        progress(t / length, "code")
        ids = coder.pixels(object_id[t])
        back, novel = coder.pixels(flow_to_prev[t]), coder.pixels(occluded[t])
        here = None if surface is None else trust.check(surface.frame(t), back, novel | bool(cuts[t]))
        coder.begin()
        if t == 0 or cuts[t]:
            coder.cut()
        else:
            coder.carry_on(coder.pixels(flow_to_next[t - 1]), coder.pixels(object_id[t - 1]), back, novel, ids, here)
        if here is not None:
            coder.bring_back(here)
        codes[t] = coder.finish_frame(ids, here).cpu().numpy()
    progress(1.0, "code")
    return Codes(codes, coder.count, *coder.births())


@dataclass(frozen=True)
class _InView:
    """Codes in view: number, continuous place (pixels), object, frames since a pixel took it; (N,) each."""

    code: Tensor
    x: Tensor
    y: Tensor
    object_id: Tensor
    idle: Tensor

    def only(self, keep: Tensor) -> _InView:
        return _InView(*(values.index_select(0, keep) for values in vars(self).values()))

    def and_also(self, other: _InView) -> _InView:
        return _InView(*(torch.cat(pair) for pair in zip(vars(self).values(), vars(other).values(), strict=True)))


class _Coder:
    """The state from frame to frame. For each frame: begin, cut or carry_on, perhaps bring_back, finish_frame."""

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        self.count = 0
        self._height, self._width, self._device = height, width, device
        self._births: list[Tensor] = []
        self._archive: Archive | None = None
        self._birthplaces = Birthplaces(device)
        self._codes = torch.empty(0, dtype=torch.int64, device=device)
        nothing = torch.empty(0, device=device)
        self._in_view = _InView(nothing.long(), nothing, nothing, nothing.int(), nothing.int())

    def pixels(self, plane: np.ndarray) -> Tensor:
        """A frame's plane (H, W, ...) as (H * W, ...) on the device."""
        return torch.from_numpy(np.ascontiguousarray(plane)).to(self._device).reshape(-1, *plane.shape[2:])

    def births(self) -> tuple[Int32, Float32]:
        """(count,) int32 frame and (count, 2) float32 place of each code's birth."""
        frames = [np.full(len(pixel), t, np.int32) for t, pixel in enumerate(self._births)]
        pixel = torch.cat(self._births)
        places = torch.stack([pixel % self._width, pixel // self._width], dim=-1).to(torch.float32)
        return np.concatenate(frames), places.cpu().numpy()

    def begin(self) -> None:
        """A frame none of whose pixels has a code."""
        self._codes = torch.full((self._height * self._width,), -1, dtype=torch.int64, device=self._device)

    def cut(self) -> None:
        """Nothing of the frame before is in view."""
        self._leave(self._in_view)
        self._in_view = self._in_view.only(torch.empty(0, dtype=torch.int64, device=self._device))

    def carry_on(
        self,
        flow_to_next: Tensor,
        ids_before: Tensor,
        flow_to_prev: Tensor,
        occluded: Tensor,
        ids: Tensor,
        surface: SurfaceFrame | None,
    ) -> None:
        """Move the codes in view on by one frame, and let the pixels take them. All arguments as `subpixel`'s, of one frame, row-major."""
        here = self._in_view
        width, height = self._width, self._height
        flow_x, flow_y = sample_flow(here.x, here.y, here.object_id, flow_to_next, ids_before, height, width)
        x, y = here.x + flow_x, here.y + flow_y
        inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)  # nothing that is not a number is
        x, y = torch.where(inside, x, torch.inf), torch.where(inside, y, torch.inf)
        owners = torch.where(occluded, _NOBODY, ids.long())
        offers = _Offers(x, y, flow_x, flow_y, here.object_id, owners, flow_to_prev, height, width)

        # Nearly every code can go to the pixel that it is in; only the others have to look around.
        owner = torch.full((height * width,), -1, dtype=torch.int64, device=x.device)
        every = torch.arange(len(x), device=x.device)
        pixel, distance = offers.in_pixel()
        rest = match(every, pixel[None], distance[None], owner, rounds=1)
        pixel, distance = offers.around(rest)
        wanted = functools.reduce(torch.logical_or, distance.isfinite())
        rest, pixel, distance = rest[wanted], pixel[:, wanted], distance[:, wanted]
        match(rest, pixel, distance, owner, rounds=_ROUNDS)
        free = torch.ones_like(every, dtype=torch.bool)
        taken = owner[owner >= 0]
        free[taken] = False
        left = free[rest].nonzero()[:, 0]
        offers.exchange(owner, rest[left], pixel[:, left], distance[:, left])

        owned = (owner >= 0).nonzero()[:, 0]
        idle = here.idle + 1
        idle[owner[owned]] = 0
        stays = idle == 0
        stays[rest] |= idle[rest] <= PATIENCE
        if surface is not None:
            strayed = self._birthplaces.strayed(surface, owned, here.code[owner[owned]])
            stays[owner[owned[strayed]]] = False
            owned = owned[~strayed]
            idling = (stays & (idle > 0)).nonzero()[:, 0]
            under = y[idling].round().long() * width + x[idling].round().long()
            stays[idling[self._birthplaces.strayed(surface, under, here.code[idling])]] = False
        self._codes[owned] = here.code[owner[owned]]
        self._leave(here.only((~stays).nonzero()[:, 0]))
        self._in_view = _InView(here.code, x, y, here.object_id, idle).only(stays.nonzero()[:, 0])
        if self._archive is not None:
            self._archive.come_back(self._in_view.code)  # some were left by one of the pixels that share them only

    def bring_back(self, surface: SurfaceFrame) -> None:
        """Let pixels without a code take one that is out of view."""
        if self._archive is None:
            self._archive = Archive(self._device)
        pixel, code, dx, dy = self._archive.near(surface, (self._codes < 0).nonzero()[:, 0], REACH_BACK)
        if not len(pixel):
            return
        distance = dx * dx + dy * dy
        codes, index = torch.unique(code, return_inverse=True)
        owner = torch.where(self._codes >= 0, _NOBODY, -1)
        match(torch.arange(len(codes), device=self._device), *_in_columns(index, pixel, distance), owner, rounds=_ROUNDS)
        owned = ((owner >= 0) & (owner < _NOBODY)).nonzero()[:, 0]
        self._codes[owned] = codes[owner[owned]]
        pairs = (self._codes.index_select(0, pixel) == code).nonzero()[:, 0]
        pair = torch.empty_like(self._codes)
        pair[pixel[pairs]] = pairs  # the same pair may have been found more than once
        pair = pair[owned]
        self._see(surface, owned, code[pair], dx[pair], dy[pair])
        # Fewer codes than pixels, where it was seen from further away or at a slant: the rest share, each pixel with a place of its own.
        left = ((self._codes.index_select(0, pixel) < 0) & (distance <= REACH**2)).nonzero()[:, 0]
        nearest = _smallest(pixel[left], ((distance[left] * _STEPS).long() << 32) | code[left], len(self._codes))
        shared = (nearest < _NO_BID).nonzero()[:, 0]
        self._codes[shared] = nearest[shared] & _LOW
        centre = torch.zeros(len(shared), device=self._device)
        self._see(surface, shared, self._codes[shared], centre, centre)

    def _see(self, surface: SurfaceFrame, pixel: Tensor, code: Tensor, dx: Tensor, dy: Tensor) -> None:
        """Codes (N,) are in view, this many pixels from the centres of pixels."""
        if self._archive is not None:
            self._archive.come_back(code)
        x, y = pixel % self._width + dx, pixel // self._width + dy
        idle = torch.zeros(len(pixel), dtype=torch.int32, device=self._device)
        self._in_view = self._in_view.and_also(_InView(code, x, y, surface.object_id.index_select(0, pixel), idle))

    def finish_frame(self, ids: Tensor, surface: SurfaceFrame | None) -> Tensor:
        """Births of the pixels that are left; returns the frame's codes, (H, W) int32."""
        pixel = (self._codes < 0).nonzero()[:, 0]
        fresh = torch.arange(self.count, self.count + len(pixel), device=self._device)
        self._codes[pixel] = fresh
        self.count += len(pixel)
        self._births.append(pixel)
        x, y = (pixel % self._width).float(), (pixel // self._width).float()
        none = torch.zeros(len(pixel), dtype=torch.int32, device=self._device)
        self._in_view = self._in_view.and_also(_InView(fresh, x, y, ids.index_select(0, pixel), none))
        if surface is not None and self._archive is not None:
            self._archive.add(surface, pixel)
            self._birthplaces.add(surface, pixel)
        return self._codes.reshape(self._height, self._width).to(torch.int32)

    def _leave(self, gone: _InView) -> None:
        if self._archive is not None:
            self._archive.leave(gone.code)


@dataclass(frozen=True)
class _Offers:
    """Which pixels may take which of N codes that have moved into a frame.

    Attributes:
        x, y: (N,) places, pixels; infinite out of the frame.
        flow_x, flow_y: (N,) how they came there.
        object_id: (N,) int32.
        ids: (H * W,) int64, the objects of pixels that may take codes over, _NOBODY of the others.
        flow_to_prev: (H * W, 2).
        height: H.
        width: W.
    """

    x: Tensor
    y: Tensor
    flow_x: Tensor
    flow_y: Tensor
    object_id: Tensor
    ids: Tensor
    flow_to_prev: Tensor
    height: int
    width: int

    def in_pixel(self) -> tuple[Tensor, Tensor]:
        """(N,) the pixel that each code is in, and the distance as `_distance`'s."""
        x, y = self.x.round(), self.y.round()
        pixel = torch.where(x.isfinite(), y, 0).long() * self.width + torch.where(x.isfinite(), x, 0).long()
        return pixel, self._distance(pixel, x, y, self.x, self.y, self.flow_x, self.flow_y, self.object_id)

    def around(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """(4, n) the pixels around codes (n,), and their distance as `_distance`'s. None that is nearer than 1 px is missing."""
        x, y, flow_x, flow_y, object_id = (
            values.index_select(0, code) for values in (self.x, self.y, self.flow_x, self.flow_y, self.object_id)
        )
        across, down = torch.tensor([0, 1, 0, 1], device=x.device)[:, None], torch.tensor([0, 0, 1, 1], device=x.device)[:, None]
        near_x, near_y = x.floor() + across, y.floor() + down
        inside = (near_x >= 0) & (near_x < self.width) & (near_y >= 0) & (near_y < self.height)
        pixel = torch.where(inside, near_y, 0).long() * self.width + torch.where(inside, near_x, 0).long()
        distance = self._distance(pixel, near_x, near_y, x, y, flow_x, flow_y, object_id)
        return pixel, torch.where(inside, distance, torch.inf)

    def exchange(self, owner: Tensor, free: Tensor, pixel: Tensor, distance: Tensor) -> None:
        """Let pixels without a code have one whose pixel can do with another one that is free: once, the cheapest such exchange.

        Args:
            owner: (H * W,) the code of each pixel, -1: none; changed in place.
            free: (n,) codes that no pixel has, with
            pixel, distance: (4, n) the pixels that may take them.
        """
        # Pixel a, left without, takes code c from pixel b, and b takes the free code d.
        pixels = len(owner)
        other = _smallest(pixel, _bids(distance) | free, pixels)  # d of every b
        left = (owner < 0).nonzero()[:, 0]
        x, y = left % self.width, left // self.width
        found = []
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                inside = (x + across >= 0) & (x + across < self.width) & (y + down >= 0) & (y + down < self.height)
                b = torch.where(inside, left + down * self.width + across, left)
                can = ((owner.index_select(0, b) >= 0) & (other.index_select(0, b) < _NO_BID)).nonzero()[:, 0]
                found.append((left[can], b[can]))
        a, b = (torch.cat(part) for part in zip(*found, strict=True))
        c = owner[b]
        mine = (values.index_select(0, c) for values in (self.x, self.y, self.flow_x, self.flow_y, self.object_id))
        cost = _bids(self._distance(a, a % self.width, a // self.width, *mine))
        can = (cost < _NO_BID).nonzero()[:, 0]
        a, b, c, cost = a[can], b[can], c[can], cost[can]
        d = other[b] & _LOW
        cost = (cost + (other[b] & ~_LOW)) | torch.arange(len(can), device=cost.device)
        for partner in (a, c, d):  # each takes part in one exchange at most; b goes with c
            cost = cost | _barred(cost != _smallest(partner, cost, max(pixels, len(self.x))).index_select(0, partner))
        done = (cost < _NO_BID).nonzero()[:, 0]
        owner[a[done]], owner[b[done]] = c[done], d[done]

    def _distance(
        self, pixel: Tensor, near_x: Tensor, near_y: Tensor, x: Tensor, y: Tensor, flow_x: Tensor, flow_y: Tensor, object_id: Tensor
    ) -> Tensor:
        """Squared distance from codes to pixels, which are at (near_x, near_y); infinite if they may not take them."""
        flat = pixel.reshape(-1)
        back_x, back_y = (values.reshape(pixel.shape) for values in _pairs(self.flow_to_prev, flat))
        miss = (back_x + flow_x).square_().add_((back_y + flow_y).square_())
        may = (miss <= MAX_ROUND_TRIP**2) & (self.ids.index_select(0, flat).reshape(pixel.shape) == object_id)
        distance = (x - near_x).square_().add_((y - near_y).square_())
        return torch.where(may & (distance <= REACH**2), distance, torch.inf)


def match(code: Tensor, pixel: Tensor, distance: Tensor, owner: Tensor, rounds: int) -> Tensor:
    """Gives pixels codes, one each.

    Every pixel that has no code asks for the nearest, of equally near ones the first; of those that ask for it a code takes the nearest
    pixel, the first if equally near. Whoever is left asks again among the codes that are left.

    Args:
        code: (N,) numbers of the codes, ascending.
        pixel: (K, N) pixels near each of them.
        distance: (K, N) float32, from code to pixel, squared, pixels, less than 2; infinite: the pixel may not take it.
        owner: (H * W,) int64 the code of each pixel, -1: none; changed in place.
        rounds: how often may be asked.

    Returns:
        (n,) the codes that are left.
    """
    bids = _bids(distance)
    for _ in range(rounds):
        bids = bids | _barred(owner.index_select(0, pixel.reshape(-1)).reshape(pixel.shape) >= 0)
        # One number orders by distance first and then by number, so that the smallest is the same in whatever order they come.
        bid = bids | code
        asked = bid == _smallest(pixel, bid, len(owner)).index_select(0, pixel.reshape(-1)).reshape(bid.shape)
        answer = functools.reduce(torch.minimum, bids | pixel | _barred(~asked))  # many times as fast as amin(dim=0)
        agreed, rest = (answer < _NO_BID).nonzero()[:, 0], (answer >= _NO_BID).nonzero()[:, 0]
        owner[answer[agreed] & _LOW] = code[agreed]
        code, pixel, bids = code[rest], pixel.index_select(1, rest), bids.index_select(1, rest)
    return code


def _bids(distance: Tensor) -> Tensor:
    """Squared distances as the high bits of numbers; what is infinite is barred."""
    return (distance.clamp(max=2) * _STEPS).long() << 32 | _barred(distance >= 2)


def _in_columns(code: Tensor, pixel: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (P,) as `match` wants them, the pixels of code n in column n; every code occurs."""
    order = code.sort(stable=True).indices
    code, pixel, distance = code[order], pixel[order], distance[order]
    sizes = torch.bincount(code)
    row = torch.arange(len(code), device=code.device) - (sizes.cumsum(0) - sizes)[code]
    shape = int(sizes.max()), len(sizes)
    pixels, distances = torch.zeros(shape, dtype=torch.int64, device=code.device), torch.full(shape, torch.inf, device=code.device)
    pixels[row, code], distances[row, code] = pixel, distance
    return pixels, distances


def _barred(pairs: Tensor) -> Tensor:
    """A high bit for pairs that do not count: on a CPU in a fifth of the time of `torch.where`."""
    return pairs.long() << 60


def _smallest(place: Tensor, values: Tensor, size: int) -> Tensor:
    """(size,) the smallest of the values at each place; 2**60 where there is none."""
    result = torch.full((size,), _NO_BID, dtype=torch.int64, device=values.device)
    return result.scatter_reduce_(0, place.reshape(-1), values.reshape(-1), "amin")


def sample_flow(x: Tensor, y: Tensor, object_id: Tensor, flow: Tensor, ids: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The flow (H * W, 2) at places in the frame: bilinear where it is smooth, else that of the nearest pixel of the place's object.

    Args:
        x: (N,) pixels, as is y; at most half a pixel out of the frame.
        object_id: (N,) the object that is at each place.
        flow: (H * W, 2) pixels.
        ids: (H * W,) the objects that the pixels show.
        height: H, at least 2, as is width.

    Returns:
        x and y of the flow, (N,) each.
    """
    left, top = x.floor().clamp_(0, width - 2), y.floor().clamp_(0, height - 2)
    # Within half a pixel of the frame's border the shares leave 0 to 1: the flow is continued in a straight line.
    u, v = x - left, y - top
    corner = top.long() * width + left.long()
    values = [_pairs(flow, corner + step) for step in (0, 1, width, width + 1)]
    upper = [torch.lerp(values[0][axis], values[1][axis], u) for axis in (0, 1)]
    lower = [torch.lerp(values[2][axis], values[3][axis], u) for axis in (0, 1)]
    flow_x, flow_y = (torch.lerp(upper[axis], lower[axis], v) for axis in (0, 1))
    smooth = _smooth(flow, ids, height, width)
    rough = (smooth.index_select(0, corner) != object_id).nonzero()[:, 0]
    u, v, corner, mine = u[rough], v[rough], corner[rough], object_id[rough]
    # Of the corners that show the place's object the one with the largest weight is the nearest.
    best, nearest = torch.full_like(u, -torch.inf), corner
    for step, weight in ((0, (1 - u) * (1 - v)), (1, u * (1 - v)), (width, (1 - u) * v), (width + 1, u * v)):
        better = (ids[corner + step] == mine) & (weight > best)
        best, nearest = torch.where(better, weight, best), torch.where(better, corner + step, nearest)
    flow_x[rough], flow_y[rough] = _pairs(flow, nearest)
    return flow_x, flow_y


def _smooth(flow: Tensor, ids: Tensor, height: int, width: int) -> Tensor:
    """(H * W,) int64: the object of a pixel and its right and lower neighbours where it is one and their flow agrees, else 2**60."""
    grid = ids.reshape(height, width)
    agree = (grid[:-1, :-1] == grid[:-1, 1:]) & (grid[:-1, :-1] == grid[1:, :-1]) & (grid[:-1, :-1] == grid[1:, 1:])
    for axis in (0, 1):
        plane = flow[:, axis].reshape(height, width)
        low, high = torch.minimum(plane[:, :-1], plane[:, 1:]), torch.maximum(plane[:, :-1], plane[:, 1:])
        agree &= torch.maximum(high[:-1], high[1:]) - torch.minimum(low[:-1], low[1:]) <= SMOOTH
    result = torch.full((height, width), _NO_BID, dtype=torch.int64, device=ids.device)
    result[:-1, :-1] = torch.where(agree, grid[:-1, :-1].long(), _NO_BID)
    return result.reshape(-1)


def _pairs(flow: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Both components (N,) of rows of a flow (H * W, 2): a row is gathered as one 64-bit number, three times as fast."""
    rows = flow.view(torch.int64)[:, 0].index_select(0, index).view(torch.float32).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]

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
from medm.correspondence.matching import NOBODY, REACH, Offers, in_columns, match, nearest
from medm.correspondence.sampling import sample_flow
from medm.correspondence.surface import Surface, SurfaceFrame, Trust
from medm.progress import Progress, silent
from medm.shot import Bool, Float32, Int32

REACH_BACK = 1.0
"""The same for a code that comes back: what lay even when it was seen last need not any more."""
PATIENCE = 8
"""Frames that a code in view stays without a pixel: bounds the codes in view where a camera has come close and draws back."""

_ROUNDS = 3


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
    coding = Subpixel(height, width, device)
    codes = np.empty((length, height, width), np.int32)
    for t in range(length):
        progress(t / length, "follow surfaces")
        codes[t] = coding.frame(t, flow_to_prev, flow_to_next, occluded, object_id, cuts, surface)
    progress(1.0, "follow surfaces")
    return coding.finish(codes)


class Subpixel:
    """Sub-pixel Flow Coding, a frame at a time: so it can be given a long shot in parts. `subpixel` explains it."""

    def __init__(self, height: int, width: int, device: str | torch.device = "cpu") -> None:
        if min(height, width) < 2:
            raise ValueError(f"sub-pixel coding needs frames of at least 2 x 2 pixels, not {width} x {height}")
        self._coder = _Coder(height, width, torch.device(device))
        self._trust = Trust()

    def frame(
        self,
        t: int,
        flow_to_prev: Float32,
        flow_to_next: Float32,
        occluded: Bool,
        object_id: Int32,
        cuts: Bool,
        surface: Surface | None = None,
    ) -> Int32:
        """The codes (H, W) of the next frame, which is frame t of the arguments. These are `subpixel`'s, of a part of the shot that
        holds the frame and, but for the shot's first and for cuts, the one before."""
        coder = self._coder
        ids = coder.pixels(object_id[t])
        back, novel = coder.pixels(flow_to_prev[t]), coder.pixels(occluded[t])
        here = None if surface is None else self._trust.check(surface.frame(t), back, novel | bool(cuts[t]))
        coder.begin()
        if t == 0 or cuts[t]:
            coder.cut()
        else:
            coder.carry_on(coder.pixels(flow_to_next[t - 1]), coder.pixels(object_id[t - 1]), back, novel, ids, here)
        if here is not None:
            coder.bring_back(here)
        codes: Int32 = coder.finish_frame(ids, here).cpu().numpy()
        return codes

    def finish(self, codes: Int32) -> Codes:
        """The result, with the codes (T, H, W) that `frame` has returned."""
        return Codes(codes, self._coder.count, *self._coder.births())


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
        owners = torch.where(occluded, NOBODY, ids.long())
        offers = Offers(x, y, flow_x, flow_y, here.object_id, owners, flow_to_prev, height, width)

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
        owner = torch.where(self._codes >= 0, NOBODY, -1)
        match(torch.arange(len(codes), device=self._device), *in_columns(index, pixel, distance), owner, rounds=_ROUNDS)
        owned = ((owner >= 0) & (owner < NOBODY)).nonzero()[:, 0]
        self._codes[owned] = codes[owner[owned]]
        pairs = (self._codes.index_select(0, pixel) == code).nonzero()[:, 0]
        pair = torch.empty_like(self._codes)
        pair[pixel[pairs]] = pairs  # the same pair may have been found more than once
        pair = pair[owned]
        self._see(surface, owned, code[pair], dx[pair], dy[pair])
        # Fewer codes than pixels, where it was seen from further away or at a slant: the rest share, each pixel with a place of its own.
        left = ((self._codes.index_select(0, pixel) < 0) & (distance <= REACH**2)).nonzero()[:, 0]
        others = nearest(pixel[left], code[left], distance[left], len(self._codes))
        shared = (others >= 0).nonzero()[:, 0]
        self._codes[shared] = others[shared]
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

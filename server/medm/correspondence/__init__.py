"""Exact correspondences: which pixels of a shot show the same surface point.

For harmonisation and evaluation. `analyse` does it all; docs/correspondence.md defines everything. The steps: background.py (flow of
the sky), occlusion.py, then coding.py (the paper's Flow Coding, with distant.py for its equation 11) or subpixel.py (ours, with surface.py
and archive.py to find points again that were hidden). facts.py says what is known of each code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from medm.correspondence.background import fill_background
from medm.correspondence.codes import Codes
from medm.correspondence.coding import Distant, in_reverse, rounded
from medm.correspondence.cuts import Jumps, with_jumps
from medm.correspondence.distant import distant_flow
from medm.correspondence.occlusion import FRAMES_AFTER, FRAMES_BEFORE, occlusions
from medm.correspondence.subpixel import Subpixel, subpixel
from medm.correspondence.surface import Surface
from medm.errors import BadInput
from medm.progress import Progress, part, silent
from medm.shot import Bool, Float32, GBuffer, Int32, Shot

__all__ = ["Codes", "Correspondence", "analyse"]


@dataclass(frozen=True)
class Correspondence:
    """What is known about a shot's motion. T frames of H x W pixels; conventions as in medm.shot.

    Attributes:
        codes: which surface point every pixel shows.
        flow_to_prev: (T, H, W, 2) float32, pixels, background filled; 0 in the first frame.
        flow_to_next: (T, H, W, 2) float32, pixels, background filled; 0 in the last frame.
        occluded: (T, H, W) bool, pixels without a counterpart in the frame before; all of the first frame and of frames after a cut.
    """

    codes: Codes
    flow_to_prev: Float32
    flow_to_next: Float32
    occluded: Bool


def analyse(
    shot: Shot,
    gbuffer: GBuffer | None,
    coding: Literal["subpixel", "rounded"] = "subpixel",
    progress: Progress = silent,
    *,
    reidentify: bool = True,
    distant: int = 0,
    anchor: Literal["first", "last"] = "first",
    device: str | torch.device = "cpu",
    in_place: bool = False,
    window: int | None = None,
    flows: bool = True,
) -> Correspondence:
    """Background flow, cuts, occlusion and Flow Coding of a shot.

    Args:
        shot: its cameras, cuts, objects, and finer passes, if it has them, are used.
        gbuffer: the shot's passes. None: they are read here, and not kept.
        coding: `subpixel` follows continuous trajectories; `rounded` is the paper's algorithm 1.
        progress: told as work goes on.
        reidentify: of subpixel coding: a surface point that is seen again takes its old code.
        distant: of rounded coding: the d of equation 11's distant flows; 0: none.
        anchor: the frame that coding starts from. From the last one it runs backwards in time, along the forward flow; codes are then born
            in the last frame in which they are seen.
        device: where codes are made.
        in_place: fill the flows of `gbuffer` where they are, and return these: saves 16 bytes a pixel. What is of use in `gbuffer` stays.
        window: with no `gbuffer`, how many frames of it are held at a time, and up to 9 more. The result is the same, to the last bit.
        flows: whether the flows are wanted; else those of the result have no frames. Saves 16 bytes a pixel of what is read in windows.

    Raises:
        BadInput: passes cannot be read; or a window is given to what has to see the whole shot: distant flows, coding from the last frame.
    """
    if gbuffer is None and window is not None and window < len(shot):
        if distant or anchor == "last":
            raise BadInput("distant flows and codes from the last frame need the whole shot at once: leave out the window")
        return _in_windows(shot, window, coding, reidentify, device, flows, progress)
    if gbuffer is None:
        gbuffer, in_place = shot.gbuffer(part(progress, 0.0, 0.5)), True
        progress = part(progress, 0.5, 1.0)
    progress(0.0, "follow the background")
    to_prev, to_next = fill_background(gbuffer.flow_to_prev, gbuffer.flow_to_next, gbuffer.background, shot.cameras, in_place=in_place)
    progress(0.1, "find what is hidden")
    cuts = with_jumps(shot.cuts, gbuffer, shot.cameras)
    occluded, so_far = occlusions(gbuffer, to_prev, to_next, shot.cameras, cuts, shot.fine)
    progress(0.4, "follow surfaces")
    coder = _Coding(shot, gbuffer, coding, reidentify, distant, device)
    if anchor == "first":
        codes = coder.code(to_prev, to_next, (occluded, so_far), gbuffer.object_id, cuts, part(progress, 0.4, 1.0))
    else:
        codes = coder.code_backwards(to_prev, to_next, cuts, part(progress, 0.4, 1.0))
    progress(1.0, "follow surfaces")
    return Correspondence(codes, to_prev if flows else to_prev[:0].copy(), to_next if flows else to_next[:0].copy(), occluded)


def _in_windows(
    shot: Shot,
    window: int,
    coding: Literal["subpixel", "rounded"],
    reidentify: bool,
    device: str | torch.device,
    flows: bool,
    progress: Progress,
) -> Correspondence:
    """`analyse` from the first frame on, with the passes read as they are needed: each frame is told by those around it alone, and what
    codes hand on from frame to frame is no pass."""
    width, height = shot.size
    shape = (len(shot), height, width)
    codes, occluded = np.empty(shape, np.int32), np.empty(shape, np.bool_)
    kept = shape if flows else (0, height, width)
    to_prev, to_next = np.empty((*(shape if coding == "rounded" else kept), 2), np.float32), np.empty((*kept, 2), np.float32)
    jumps, coder, movers = Jumps(shot.cuts, shot.cameras), Subpixel(height, width, device), set[int]()

    def analyse_window(first: int, last: int, told: Progress) -> None:
        start, stop = max(first - FRAMES_BEFORE, 0), min(last + FRAMES_AFTER + 1, len(shot))  # a jump is told by the frame after it
        here = shot.part(start, stop)
        passes = here.gbuffer(part(told, 0.0, 0.5))
        back, forth = fill_background(passes.flow_to_prev, passes.flow_to_next, passes.background, here.cameras, in_place=True)
        jumps.look(passes, start)
        cuts, own = jumps.cuts[start:stop], range(first - start, last - start)
        known, so_far = occlusions(passes, back, forth, here.cameras, cuts, here.fine, own)
        occluded[first:last] = known[own.start : own.stop]
        for kept_flow, flow in ((to_prev, back), (to_next, forth)):
            if len(kept_flow):
                kept_flow[first:last] = flow[own.start : own.stop]
        if coding == "rounded":
            return
        surface = Surface(here, passes, device, movers=movers) if reidentify else None
        for t in own:
            told(0.7 + 0.3 * (t - own.start) / len(own), "follow surfaces")
            codes[start + t] = coder.frame(t, back, forth, so_far, passes.object_id, cuts, surface)

    for first in range(0, len(shot), window):
        last = min(first + window, len(shot))
        analyse_window(first, last, part(progress, first / len(shot), last / len(shot)))
    progress(1.0, "follow surfaces")
    made = coder.finish(codes) if coding == "subpixel" else rounded(to_prev, occluded, device=device)
    return Correspondence(made, to_prev if flows else to_prev[:0].copy(), to_next, occluded)


@dataclass(frozen=True)
class _Coding:
    """One of the codings, with its options; see `analyse`."""

    shot: Shot
    gbuffer: GBuffer
    coding: Literal["subpixel", "rounded"]
    reidentify: bool
    distant: int
    device: str | torch.device

    def code(
        self,
        to_prev: Float32,
        to_next: Float32,
        occlusions: tuple[Bool, Bool],
        object_id: Int32,
        cuts: Bool,
        progress: Progress,
        backwards: bool = False,
    ) -> Codes:
        occluded, so_far = occlusions
        # Sub-pixel codes hear only what is known by then: a longer shot begins as a shorter one. The paper's way gets the best there is.
        if self.coding == "subpixel":
            surface = Surface(self.shot, self.gbuffer, self.device, backwards) if self.reidentify else None
            return subpixel(to_prev, to_next, so_far, object_id, cuts, surface, self.device, progress)
        far = Distant(self.distant, lambda t, s: distant_flow(self.shot, self.gbuffer, t, s)) if self.distant else None
        return rounded(to_prev, occluded, distant=far.in_reverse(len(cuts)) if far and backwards else far, device=self.device)

    def code_backwards(self, to_prev: Float32, to_next: Float32, cuts: Bool, progress: Progress) -> Codes:
        """The same with time running the other way: what was the next frame is the one before."""
        passes = GBuffer(**{name: values[::-1] for name, values in vars(self.gbuffer).items()})
        to_prev, to_next = to_next[::-1], to_prev[::-1]
        cuts = np.append(True, cuts[:0:-1])  # a cut lies between two frames, and belongs to the later one
        occluded = occlusions(passes, to_prev, to_next, self.shot.cameras[::-1], cuts)
        return in_reverse(self.code(to_prev, to_next, occluded, passes.object_id, cuts, progress, backwards=True))

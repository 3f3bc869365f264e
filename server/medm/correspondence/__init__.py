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
from medm.correspondence.cuts import with_jumps
from medm.correspondence.distant import distant_flow
from medm.correspondence.occlusion import occlusions
from medm.correspondence.subpixel import subpixel
from medm.correspondence.surface import Surface
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
    gbuffer: GBuffer,
    coding: Literal["subpixel", "rounded"] = "subpixel",
    progress: Progress = silent,
    *,
    reidentify: bool = True,
    distant: int = 0,
    anchor: Literal["first", "last"] = "first",
    device: str | torch.device = "cpu",
) -> Correspondence:
    """Background flow, cuts, occlusion and Flow Coding of a shot.

    Args:
        shot: its cameras, cuts, objects, and finer passes, if it has them, are used.
        gbuffer: the shot's passes.
        coding: `subpixel` follows continuous trajectories; `rounded` is the paper's algorithm 1.
        progress: told as work goes on.
        reidentify: of subpixel coding: a surface point that is seen again takes its old code.
        distant: of rounded coding: the d of equation 11's distant flows; 0: none.
        anchor: the frame that coding starts from. From the last one it runs backwards in time, along the forward flow; codes are then born
            in the last frame in which they are seen.
        device: where codes are made.
    """
    progress(0.0, "background flow")
    to_prev, to_next = fill_background(gbuffer.flow_to_prev, gbuffer.flow_to_next, gbuffer.background, shot.cameras)
    progress(0.1, "occlusion")
    cuts = with_jumps(shot.cuts, gbuffer, shot.cameras)
    occluded, so_far = occlusions(gbuffer, to_prev, to_next, shot.cameras, cuts, shot.fine)
    progress(0.4, "code")
    coder = _Coding(shot, gbuffer, coding, reidentify, distant, device)
    if anchor == "first":
        codes = coder.code(to_prev, to_next, (occluded, so_far), gbuffer.object_id, cuts, part(progress, 0.4, 1.0))
    else:
        codes = coder.code_backwards(to_prev, to_next, cuts, part(progress, 0.4, 1.0))
    progress(1.0, "code")
    return Correspondence(codes, to_prev, to_next, occluded)


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

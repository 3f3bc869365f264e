"""Exact correspondences: which pixels of a shot show the same surface point.

For harmonisation and evaluation. `analyse` does it all; docs/correspondence.md defines everything. The steps: background.py (flow of
the sky), occlusion.py, then coding.py (the paper's Flow Coding, with distant.py for its equation 11) or subpixel.py (ours, with surface.py
and archive.py to find points again that were hidden). facts.py says what is known of each code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from medm.correspondence.background import fill_background
from medm.correspondence.codes import Codes
from medm.correspondence.coding import Distant, rounded
from medm.correspondence.cuts import with_jumps
from medm.correspondence.distant import distant_flow
from medm.correspondence.occlusion import occluded_pixels
from medm.correspondence.subpixel import subpixel
from medm.correspondence.surface import Surface
from medm.progress import Progress, part, silent
from medm.shot import Bool, Float32, GBuffer, Shot

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
    device: str | torch.device = "cpu",
) -> Correspondence:
    """Background flow, occlusion, cuts and Flow Coding of a shot.

    Args:
        shot: its cameras, cuts, objects, and finer passes, if it has them, are used.
        gbuffer: the shot's passes.
        coding: `subpixel` follows continuous trajectories; `rounded` is the paper's algorithm 1.
        progress: told as work goes on.
        reidentify: of subpixel coding: a surface point that is seen again takes its old code.
        distant: of rounded coding: the d of equation 11's distant flows; 0: none.
        device: where codes are made.
    """
    progress(0.0, "background flow")
    to_prev, to_next = fill_background(gbuffer.flow_to_prev, gbuffer.flow_to_next, gbuffer.background, shot.cameras)
    progress(0.1, "occlusion")
    cuts = with_jumps(shot.cuts, gbuffer, shot.cameras)
    occluded = occluded_pixels(gbuffer, to_prev, to_next, shot.cameras, cuts, shot.fine)
    progress(0.3, "code")
    if coding == "rounded":
        far = Distant(distant, lambda t, s: distant_flow(shot, gbuffer, t, s)) if distant else None
        codes = rounded(to_prev, occluded, distant=far, device=device)
    else:
        surface = Surface(shot, gbuffer, device) if reidentify else None
        codes = subpixel(to_prev, to_next, occluded, gbuffer.object_id, cuts, surface, device, part(progress, 0.3, 1.0))
    progress(1.0, "code")
    return Correspondence(codes, to_prev, to_next, occluded)

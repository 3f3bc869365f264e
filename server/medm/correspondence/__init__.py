"""Exact correspondences: which pixels of a shot show the same surface point.

For harmonisation and evaluation. `analyse` does it all; the steps are in background.py, occlusion.py and coding.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medm.correspondence.background import fill_background
from medm.correspondence.coding import Codes, rounded, subpixel
from medm.correspondence.occlusion import occluded_pixels
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
    shot: Shot, gbuffer: GBuffer, coding: Literal["subpixel", "rounded"] = "subpixel", progress: Progress = silent
) -> Correspondence:
    """Background flow, occlusion and Flow Coding of a shot.

    Args:
        shot: its cameras and cuts are used.
        gbuffer: the shot's passes.
        coding: `subpixel` follows continuous trajectories; `rounded` is the paper's algorithm 1.
        progress: told as work goes on.
    """
    cuts = shot.cuts
    progress(0.0, "background flow")
    to_prev, to_next = fill_background(gbuffer.flow_to_prev, gbuffer.flow_to_next, gbuffer.background, shot.cameras)
    progress(0.1, "occlusion")
    occluded = occluded_pixels(gbuffer, to_prev, to_next, shot.cameras, cuts)
    progress(0.3, "code")
    if coding == "rounded":
        codes = rounded(to_prev, occluded)
    else:
        codes = subpixel(to_prev, to_next, occluded, gbuffer.object_id, cuts, part(progress, 0.3, 1.0))
    progress(1.0, "code")
    return Correspondence(codes, to_prev, to_next, occluded)

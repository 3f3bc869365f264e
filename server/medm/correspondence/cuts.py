"""Cuts that the timeline does not show: a camera that is keyed to another place within one frame.

For correspondence.analyse. The manifest knows when another camera is bound; that one and the same camera jumps has to be told from its
moving fast.

The **pace** of frame t is the median over its pixels of how far what they show is displaced in the picture by the camera alone, as
seen by the camera of frame t-1; the sky is displaced as a direction, and what that camera has behind it infinitely far. A camera
jumps at t if

1. the pace is above a quarter of the frame's width, and four times the pace of the frame before and of the frame after: motion, however
   fast, has a frame beside it that is about as fast; or
2. less than a twentieth of what frame t shows is within the frame of camera t-1: there is nothing to take over.
"""

from __future__ import annotations

import numpy as np

from medm.correspondence.background import background_flow
from medm.shot import Bool, Camera, Float64, GBuffer

FAR = 0.25
"""Of the frame's width: no jump is shorter."""
SUDDEN = 4.0
"""How many times as fast as the frames beside it a jump is."""
IN_VIEW = 0.05
"""Share of a frame that the camera before must have in its frame, or it jumped."""
_EVERY = 4  # pixels in x and y: a median needs no more


def with_jumps(cuts: Bool, gbuffer: GBuffer, cameras: list[Camera]) -> Bool:
    """(T,) bool: `cuts`, and the frames at which the camera jumps.

    Args:
        cuts: (T,) frames that take nothing over from the one before, as far as it is known; the first is one.
        gbuffer: its positions and background are used.
        cameras: T cameras.
    """
    pace, in_view = np.zeros(len(cuts)), np.ones(len(cuts))
    for t in range(1, len(cuts)):
        if not cuts[t]:
            pace[t], in_view[t] = _camera_motion(gbuffer, t, cameras[t], cameras[t - 1])
    beside = np.maximum(np.append(0.0, pace[:-1]), np.append(pace[1:], 0.0))
    return np.asarray(cuts | (pace > np.maximum(FAR * cameras[0].width, SUDDEN * beside)) | (in_view < IN_VIEW))


def _camera_motion(gbuffer: GBuffer, t: int, camera: Camera, before: Camera) -> tuple[float, float]:
    """The pace of frame t, pixels; and the share of what it shows that the camera before has within its frame."""
    background = gbuffer.background[t, ::_EVERY, ::_EVERY]
    y, x = np.mgrid[: camera.height : _EVERY, : camera.width : _EVERY]
    xy: Float64 = np.stack([x, y], axis=-1).astype(np.float64)
    there, depth = before.project(gbuffer.position[t, ::_EVERY, ::_EVERY])
    there[depth <= 0] = np.inf
    there[background] = xy[background] + background_flow(camera, before, xy[background])
    inside = ((there > -0.5) & (there < [camera.width - 0.5, camera.height - 0.5])).all(axis=-1)
    with np.errstate(invalid="ignore"):
        moved = np.nan_to_num(np.linalg.norm(there - xy, axis=-1), nan=np.inf, posinf=np.inf)
    return float(np.median(moved)), float(inside.mean())

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
from medm.shot import Bool, Camera, Float32, Float64, GBuffer

FAR = 0.25
"""Of the frame's width: no jump is shorter."""
SUDDEN = 4.0
"""How many times as fast as the frames beside it a jump is."""
IN_VIEW = 0.05
"""Share of a frame that the camera before must have in its frame, or it jumped."""
_EVERY = 4  # pixels in x and y: a median needs no more


def with_jumps(cuts: Bool, gbuffer: GBuffer, cameras: list[Camera]) -> Bool:
    """(T,) bool: `cuts`, and the frames at which the camera jumps. Arguments as those of `Jumps` and `Jumps.look`, at all frames."""
    jumps = Jumps(cuts, cameras)
    jumps.look(gbuffer, 0)
    return jumps.cuts


class Jumps:
    """Finds the frames at which the camera jumps, while the shot's frames come in order.

    Args:
        cuts: (T,) frames that take nothing over from the one before, as far as it is known; the first is one.
        cameras: T cameras.
    """

    def __init__(self, cuts: Bool, cameras: list[Camera]) -> None:
        self._cuts, self._cameras = cuts, cameras
        self._pace, self._in_view = np.zeros(len(cuts)), np.ones(len(cuts))
        self._seen = 1

    def look(self, gbuffer: GBuffer, first: int) -> None:
        """Take in some frames, of which those that were seen before are passed over.

        Args:
            gbuffer: their positions and background are used.
            first: the shot's frame that is its frame 0; at most one after the last that was seen.
        """
        for t in range(self._seen, first + len(gbuffer.background)):
            if not self._cuts[t]:
                here = gbuffer.position[t - first], gbuffer.background[t - first]
                self._pace[t], self._in_view[t] = _camera_motion(*here, self._cameras[t], self._cameras[t - 1])
            self._seen = t + 1

    @property
    def cuts(self) -> Bool:
        """(T,) bool: the cuts that are known, and the jumps; final for all frames but the last that was seen."""
        beside = np.maximum(np.append(0.0, self._pace[:-1]), np.append(self._pace[1:], 0.0))
        jumps = (self._pace > np.maximum(FAR * self._cameras[0].width, SUDDEN * beside)) | (self._in_view < IN_VIEW)
        return np.asarray(self._cuts | jumps)


def _camera_motion(position: Float32, background: Bool, camera: Camera, before: Camera) -> tuple[float, float]:
    """The pace of a frame, pixels; and the share of what it shows that the camera before has within its frame."""
    background = background[::_EVERY, ::_EVERY]
    y, x = np.mgrid[: camera.height : _EVERY, : camera.width : _EVERY]
    xy: Float64 = np.stack([x, y], axis=-1).astype(np.float64)
    there, depth = before.project(position[::_EVERY, ::_EVERY])
    there[depth <= 0] = np.inf
    there[background] = xy[background] + background_flow(camera, before, xy[background])
    inside = ((there > -0.5) & (there < [camera.width - 0.5, camera.height - 0.5])).all(axis=-1)
    with np.errstate(invalid="ignore"):
        moved = np.nan_to_num(np.linalg.norm(there - xy, axis=-1), nan=np.inf, posinf=np.inf)
    return float(np.median(moved)), float(inside.mean())

"""Which pixels of a frame show something that the frame before does not: they have no counterpart to take a code from.

For correspondence.analyse. A pixel is occluded if any of these holds, sampling frame t-1 at the pixel nearest to x + flow_to_prev:

1. the sample is out of the frame (or the flow is not finite);
2. the sample disagrees (another object id, or the flows there and back miss each other by more than 1 px) **and** stands in front:
   z_sample < 1.02 z, with z the depth of Position(t) seen by camera t-1; a point behind that camera counts as hidden too;
3. the sample is another object that does *not* stand in front, and our object is nowhere in the 3x3 pixels around it either: it
   was not there, as with an object that is hidden in t-1, of which Blender says that it did not move.

Why 2 asks for "in front": along silhouettes the nearest pixel often shows what is behind the edge, though our point is in view right
beside it. Why 3 looks around: to tell that case from an object that appears.
"""

from __future__ import annotations

import numpy as np

from medm.correspondence.background import pixel_grid
from medm.shot import Bool, Camera, Float32, GBuffer, Int32

MAX_ROUND_TRIP = 1.0
"""Pixels by which the flow there and the flow back may miss each other."""
IN_FRONT = 1.02
"""A sample stands in front if its depth is below this many times the depth that our point has seen from there."""


def occluded_pixels(gbuffer: GBuffer, flow_to_prev: Float32, flow_to_next: Float32, cameras: list[Camera], cuts: Bool) -> Bool:
    """(T, H, W) bool: pixels without a counterpart in the frame before.

    Args:
        gbuffer: the passes; its own flows are not used.
        flow_to_prev: (T, H, W, 2) pixels, background filled.
        flow_to_next: (T, H, W, 2) pixels, background filled.
        cameras: T cameras.
        cuts: (T,) frames that take nothing over; all their pixels are occluded. The first frame is one of them always.
    """
    occluded = np.ones(gbuffer.background.shape, np.bool_)
    depth = np.where(gbuffer.background, np.float32(np.inf), gbuffer.depth)  # versions of Blender differ in the depth of nothing
    ids = np.where(gbuffer.background, np.int32(0), gbuffer.object_id)
    grid = pixel_grid(ids.shape[2], ids.shape[1])
    for t in range(1, len(cameras)):
        if cuts[t]:
            continue
        target, inside = nearest_pixel(grid + flow_to_prev[t], ids.shape[2], ids.shape[1])
        x, y = target[..., 0], target[..., 1]
        with np.errstate(invalid="ignore", over="ignore"):
            round_trip = np.square(flow_to_prev[t] + flow_to_next[t - 1, y, x]).sum(axis=-1)
            _, seen = cameras[t - 1].project(gbuffer.position[t])
        seen = np.where(gbuffer.background[t], np.inf, seen).astype(np.float32)
        other = ids[t - 1, y, x] != ids[t]
        disagrees = other | ~(round_trip <= MAX_ROUND_TRIP**2)  # a round trip that is not a number disagrees
        in_front = (depth[t - 1, y, x] < np.float32(IN_FRONT) * seen) | (seen <= 0)
        absent = other & ~in_front & ~_near(ids[t - 1], ids[t], x, y)
        occluded[t] = ~inside | (disagrees & in_front) | absent
    return occluded


def nearest_pixel(xy: Float32, width: int, height: int) -> tuple[Int32, Bool]:
    """The pixels nearest to `xy` (..., 2), halves to even, clamped into the frame; and whether they were inside before that.

    Anything that is not finite is outside.
    """
    with np.errstate(invalid="ignore"):
        rounded = np.rint(xy)
        limit = np.array([width - 1, height - 1], np.float32)
        inside: Bool = np.asarray(((rounded >= 0) & (rounded <= limit)).all(axis=-1))
    return np.where(inside[..., None], rounded, 0).astype(np.int32), inside


def _near(ids_there: Int32, ids_here: Int32, x: Int32, y: Int32) -> Bool:
    """Whether the object of each pixel is among the 3x3 pixels around (x, y) of the other frame."""
    padded = np.pad(ids_there, 1, mode="edge")
    found = np.zeros(ids_here.shape, np.bool_)
    for dy in range(3):
        for dx in range(3):
            found |= padded[y + dy, x + dx] == ids_here
    return found

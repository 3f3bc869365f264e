"""How much detail pictures have: a clip is also steady if it is blurred, so no measure of steadiness goes without this one."""

from __future__ import annotations

import math

import numpy as np

from medm.evaluation import LUMINANCE, Frames, unit
from medm.shot import Int32


def sharpness(frames: Frames, object_id: Int32) -> float:
    """Mean magnitude of the luminance gradient inside of objects: what is left of texture and shading.

    Differences to the right and the lower neighbour; pixels whose neighbours show another object are left out, because silhouettes
    stay sharp whatever is done to the surfaces. The background counts as an object. NaN if no pixel is left.

    Args:
        frames: (T, H, W, 3).
        object_id: (T, H, W) int32.
    """
    total, pixels = 0.0, 0
    for frame, ids in zip(frames, object_id, strict=True):
        luminance = unit(frame) @ LUMINANCE
        right = np.diff(luminance, axis=1)[:-1]
        down = np.diff(luminance, axis=0)[:, :-1]
        inside = (ids[:-1, :-1] == ids[:-1, 1:]) & (ids[:-1, :-1] == ids[1:, :-1])
        total += float(np.hypot(right, down)[inside].sum(dtype=np.float64))
        pixels += int(inside.sum())
    return total / pixels if pixels else math.nan

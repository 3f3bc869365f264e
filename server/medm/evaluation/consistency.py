"""Whether surfaces keep their colours: measured with the exact correspondences, so that no estimator stands between number and picture."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from medm.correspondence import Codes
from medm.correspondence.background import pixel_grid
from medm.evaluation import Frames, unit
from medm.shot import Bool, Float32

_AT_ONCE = 4
"""Frames of which floating-point copies are held at a time."""


def warping_error(frames: Frames, flow_to_prev: Iterable[Float32], occluded: Bool) -> float:
    """Mean squared difference between every frame and the frame before, moved by the exact flow.

    Frame t at x is compared with frame t-1 at x + flow_to_prev, bilinearly sampled, wherever x is not occluded and all four taps are in
    the frame. Taps on the other side of an edge are not excluded, so a sharp and perfectly steady clip has an error above 0 too:
    compare with the same number for the beauty, the floor.

    Args:
        frames: (T, H, W, 3).
        flow_to_prev: (T, H, W, 2) float32, pixels, or (H, W, 2) of every frame in turn.
        occluded: (T, H, W) bool.

    Returns:
        The mean over all compared pixels of all frames and channels; NaN if there are none.
    """
    _, height, width = occluded.shape
    grid = pixel_grid(width, height)
    total, compared = 0.0, 0
    for t, flow in enumerate(flow_to_prev):
        if t == 0:
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            x, y = np.moveaxis(grid + flow, -1, 0)
            valid = ~occluded[t] & (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        warped = _bilinear(unit(frames[t - 1]), x[valid], y[valid])
        total += float(np.square(unit(frames[t])[valid] - warped, dtype=np.float64).sum())
        compared += warped.size
    return total / compared if compared else math.nan


def code_spread(frames: Frames, codes: Codes) -> float:
    """Mean variance of the values within a code, over the pixels that do not have their code to themselves.

    0 is what global harmonisation reaches. NaN if no code has two pixels.

    Args:
        frames: (T, H, W, 3).
        codes: the shot's codes.
    """
    sizes = np.zeros(codes.count, np.int64)
    for part in _parts(len(frames)):  # bincount makes its input 8 bytes a pixel
        sizes += np.bincount(codes.codes[part].ravel(), minlength=codes.count)
    pixels = int(sizes[sizes > 1].sum())
    if not pixels:
        return math.nan
    sums = np.zeros((frames.shape[-1], codes.count))
    for part in _parts(len(frames)):
        flat, values = codes.codes[part].ravel(), unit(frames[part])
        for channel, total in enumerate(sums):
            total += np.bincount(flat, weights=values[..., channel].ravel(), minlength=codes.count)
    mean = (sums / np.maximum(sizes, 1)).astype(np.float32)
    squares = 0.0
    for part in _parts(len(frames)):
        shared = sizes[codes.codes[part]] > 1
        flat, values = codes.codes[part][shared], unit(frames[part])[shared]
        squares += float(np.square(values - mean[:, flat].T, dtype=np.float64).sum())
    return squares / (pixels * int(frames.shape[-1]))


def _parts(length: int) -> list[slice]:
    return [slice(first, first + _AT_ONCE) for first in range(0, length, _AT_ONCE)]


def _bilinear(frame: Float32, x: Float32, y: Float32) -> Float32:
    """Values (N, 3) of a frame (H, W, 3) at places inside of it."""
    height, width = frame.shape[:2]
    left = np.clip(np.floor(x).astype(np.int32), 0, width - 2)
    top = np.clip(np.floor(y).astype(np.int32), 0, height - 2)
    right_share, down_share = (x - left)[:, None], (y - top)[:, None]
    upper = frame[top, left] * (1 - right_share) + frame[top, left + 1] * right_share
    lower = frame[top + 1, left] * (1 - right_share) + frame[top + 1, left + 1] * right_share
    return np.asarray(upper * (1 - down_share) + lower * down_share, np.float32)

"""How steady a take is: measured with the exact flow, so that no estimator stands between the number and the picture.

For the command line (`medm evaluate`), take.json and the demo. All numbers are on display-referred values from 0 to 1.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medm import correspondence
from medm.correspondence import Codes, Correspondence
from medm.correspondence.background import pixel_grid
from medm.errors import BadInput
from medm.progress import Progress, part, silent
from medm.shot import Bool, Float32, Int32, Shot, frame_file, read_picture


def warping_error(frames: Float32, flow_to_prev: Float32, occluded: Bool) -> float:
    """Mean squared difference between every frame and the frame before, moved by the exact flow.

    Frame t at x is compared with frame t-1 at x + flow_to_prev, bilinearly sampled, wherever x is not occluded and all four taps are in
    the frame. Taps on the other side of an edge are not excluded, so a sharp and perfectly steady clip has an error above 0 too:
    compare with the same number for the beauty, the floor.

    Args:
        frames: (T, H, W, 3) float32, 0 to 1.
        flow_to_prev: (T, H, W, 2) float32, pixels.
        occluded: (T, H, W) bool.

    Returns:
        The mean over all compared pixels of all frames and channels; NaN if there are none.
    """
    length, height, width = occluded.shape
    grid = pixel_grid(width, height)
    total, compared = 0.0, 0
    for t in range(1, length):
        with np.errstate(invalid="ignore", over="ignore"):
            x, y = np.moveaxis(grid + flow_to_prev[t], -1, 0)
            valid = ~occluded[t] & (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        warped = _bilinear(frames[t - 1], x[valid], y[valid])
        total += float(np.square(frames[t][valid] - warped, dtype=np.float64).sum())
        compared += warped.size
    return total / compared if compared else math.nan


def code_spread(frames: Float32, codes: Codes) -> float:
    """Mean variance of the values within a code, over the pixels that do not have their code to themselves.

    0 is what global harmonisation reaches. NaN if no code has two pixels.

    Args:
        frames: (T, H, W, 3) float32, 0 to 1.
        codes: the shot's codes.
    """
    flat = codes.codes.ravel()
    sizes = np.bincount(flat, minlength=codes.count)
    shared = sizes[flat] > 1
    if not shared.any():
        return math.nan
    squares = 0.0
    for channel in np.moveaxis(frames, -1, 0).reshape(frames.shape[-1], -1):
        mean = np.bincount(flat, weights=channel, minlength=codes.count) / np.maximum(sizes, 1)
        squares += float(np.square(channel - mean[flat])[shared].sum())
    return squares / float(shared.sum() * frames.shape[-1])


def sharpness(frames: Float32, object_id: Int32) -> float:
    """Mean magnitude of the luminance gradient inside of objects: what is left of texture and shading.

    Differences to the right and the lower neighbour; pixels whose neighbours show another object are left out, because silhouettes
    stay sharp whatever is done to the surfaces. NaN if no pixel is left.

    Args:
        frames: (T, H, W, 3) float32, 0 to 1.
        object_id: (T, H, W) int32.
    """
    total, pixels = 0.0, 0
    for frame, ids in zip(frames, object_id, strict=True):
        luminance = frame @ np.array([0.2126, 0.7152, 0.0722], np.float32)
        right = np.diff(luminance, axis=1)[:-1]
        down = np.diff(luminance, axis=0)[:, :-1]
        inside = (ids[:-1, :-1] == ids[:-1, 1:]) & (ids[:-1, :-1] == ids[1:, :-1])
        total += float(np.hypot(right, down)[inside].sum(dtype=np.float64))
        pixels += int(inside.sum())
    return total / pixels if pixels else math.nan


def measure(frames: npt.NDArray[np.uint8], found: Correspondence, object_id: Int32) -> dict[str, float | None]:
    """All metrics of a clip (T, H, W, 3) uint8: `warping_error`, `code_spread`, `sharpness`; None where nothing could be compared."""
    values: Float32 = frames.astype(np.float32) / np.float32(255)
    numbers = {
        "warping_error": warping_error(values, found.flow_to_prev, found.occluded),
        "code_spread": code_spread(values, found.codes),
        "sharpness": sharpness(values, object_id),
    }
    return {name: None if math.isnan(number) else number for name, number in numbers.items()}


def evaluate(shot: Shot, take: str | Path, progress: Progress = silent) -> dict[str, object]:
    """Measure a take against its shot.

    Returns:
        `frames` (their number), `take` (the metrics of `measure`) and `beauty` (the same of the user's own render, None without one).

    Raises:
        BadInput: the folder holds no take, or its frames are not those of the shot.
    """
    frames = read_take(shot, take)
    gbuffer = shot.gbuffer(part(progress, 0.0, 0.4))
    found = correspondence.analyse(shot, gbuffer, progress=part(progress, 0.4, 0.8))
    progress(0.8, "measure")
    beauty = measure(shot.beauty(), found, gbuffer.object_id) if shot.has_beauty else None
    result = {"frames": len(frames), "take": measure(frames, found, gbuffer.object_id), "beauty": beauty}
    progress(1.0, "measure")
    return result


def read_take(shot: Shot, take: str | Path) -> npt.NDArray[np.uint8]:
    """The frames of a take, (T, H, W, 3) uint8, in the order of the shot's.

    Raises:
        BadInput: as `evaluate`.
    """
    folder = Path(take) / "frames"
    if not folder.is_dir():
        raise BadInput(f"{take} is not a take: it has no folder frames")
    names = [frame_file(number) for number in shot.frame_numbers]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInput(f"take {take} does not match the shot: frames/{missing[0]}{more} missing")
    return np.stack([read_picture(folder / name, shot.size) for name in names])


def _bilinear(frame: Float32, x: Float32, y: Float32) -> Float32:
    """Values (N, 3) of a frame (H, W, 3) at places inside of it."""
    height, width = frame.shape[:2]
    left = np.clip(np.floor(x).astype(np.int32), 0, width - 2)
    top = np.clip(np.floor(y).astype(np.int32), 0, height - 2)
    right_share, down_share = (x - left)[:, None], (y - top)[:, None]
    upper = frame[top, left] * (1 - right_share) + frame[top, left + 1] * right_share
    lower = frame[top + 1, left] * (1 - right_share) + frame[top + 1, left + 1] * right_share
    return np.asarray(upper * (1 - down_share) + lower * down_share, np.float32)

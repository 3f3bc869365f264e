"""The paper's measure: flow estimated on the pictures against the exact flow. A clip that flickers leads an estimator astray.

Everything goes backwards in time: of frame t the flow that points to frame t-1 is estimated, on the pixels of frame t, and compared with
the exact `flow_to_prev` there. An estimator is made for one clip and is asked frame by frame; `Estimate` is its type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medm.datasets.flo import read_flo
from medm.errors import BadInput
from medm.evaluation import Frames
from medm.progress import Progress, silent
from medm.shot import Bool, Float32, frame_file

Estimate = Callable[[int], Float32]
"""Estimated flow to the frame before, (H, W, 2) float32 pixels, of frame index t = 1 .. T-1. NaN where unknown."""

THRESHOLDS = (1, 3, 5)
"""Pixels: of these errors the paper gives portions (its figure 4b)."""
_SMALLEST = 16  # pixels of a side that DIS can make a pyramid of


@dataclass(frozen=True)
class MotionErrors:
    """How far estimated flow misses the exact one.

    Attributes:
        epe: mean endpoint error, pixels; NaN if nothing could be compared.
        portions: by the thresholds, the share of pixels with a larger error, 0 to 1; NaN as above.
    """

    epe: float
    portions: dict[int, float]


def endpoint_errors(estimate: Estimate, flow_to_prev: Float32, occluded: Bool, progress: Progress = silent) -> MotionErrors:
    """Mean endpoint error |estimated - exact| and the portions above 1, 3 and 5 pixels, over all frames.

    Pixels that count: those with a counterpart in the frame before (not occluded, not out of the frame), the background among them. An
    estimate that is not finite does not count.

    Args:
        estimate: asked for t = 1 .. T-1, except where the whole frame is occluded (cuts).
        flow_to_prev: (T, H, W, 2) float32, exact.
        occluded: (T, H, W) bool.
        progress: told as work goes on.
    """
    total, above, pixels = 0.0, np.zeros(len(THRESHOLDS), np.int64), 0
    for t in range(1, len(occluded)):
        progress(t / len(occluded), "estimate flow")
        seen = ~occluded[t]
        if not seen.any():
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            errors = np.linalg.norm(estimate(t)[seen].astype(np.float64) - flow_to_prev[t][seen], axis=-1)
        errors = errors[np.isfinite(errors)]
        total += float(errors.sum())
        above += [int((errors > threshold).sum()) for threshold in THRESHOLDS]
        pixels += len(errors)
    progress(1.0, "estimate flow")
    shares = above / pixels if pixels else np.full(len(THRESHOLDS), math.nan)
    return MotionErrors(total / pixels if pixels else math.nan, dict(zip(THRESHOLDS, shares.tolist(), strict=True)))


def dis(frames: Frames) -> Estimate:
    """OpenCV's Dense Inverse Search at its preset MEDIUM, which needs no weights. NaN on frames smaller than 16 pixels.

    Args:
        frames: (T, H, W, 3).
    """
    method: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def grey(t: int) -> Any:
        frame = frames[t] if frames.dtype == np.uint8 else (frames[t] * 255).round().clip(0, 255).astype(np.uint8)
        return cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)

    def estimate(t: int) -> Float32:
        if min(frames.shape[1:3]) < _SMALLEST:
            return np.full((*frames.shape[1:3], 2), np.nan, np.float32)
        return np.asarray(method.calc(grey(t), grey(t - 1), None), np.float32)

    return estimate


def from_folder(folder: Path, frame_numbers: Sequence[int], size: tuple[int, int]) -> Estimate:
    """Flow that another program has estimated: `0002.flo` is the flow from frame 2 to frame 1, and so on; the first frame needs none.

    Args:
        folder: of .flo files, named by the frame they start from, four digits.
        frame_numbers: of the clip.
        size: width and height, pixels.

    Raises:
        BadInput: files are missing, here; a file is no .flo or has another size, when it is asked for.
    """
    names = [frame_file(number, ".flo") for number in frame_numbers]
    missing = [name for name in names[1:] if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInput(f"{folder} lacks {missing[0]}{more}: the flow from that frame to the one before it")

    def estimate(t: int) -> Float32:
        flow = read_flo(folder / names[t])
        if flow.shape[:2] != size[::-1]:
            raise BadInput(f"{folder / names[t]} is {flow.shape[1]}x{flow.shape[0]}, but the shot is {size[0]}x{size[1]}")
        return flow

    return estimate

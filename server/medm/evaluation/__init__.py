"""The metrics, one module each kind; `medm.evaluate` puts them together. docs/evaluate.md defines them all.

consistency.py: warping error and spread within codes. motion.py: flow estimated on the pictures against the exact one. detail.py:
sharpness. light.py: how much of a slow change of light is kept.

Frames are (T, H, W, 3), uint8 or float32 from 0 to 1, display-referred.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medm.shot import Float32

Frames = npt.NDArray[np.uint8] | Float32

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
"""Weights of red, green and blue (Rec. 709), applied to display-referred values."""


def unit(frames: Frames) -> Float32:
    """Values from 0 to 1, float32."""
    return frames.astype(np.float32) / np.float32(255) if frames.dtype == np.uint8 else frames.astype(np.float32, copy=False)

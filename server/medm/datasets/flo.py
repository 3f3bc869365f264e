"""Flow files (.flo) of the Middlebury benchmark, which MPI Sintel and most estimators of optical flow write.

Little-endian: the float32 202021.25 (the bytes "PIEH"), width and height as int32, then u and v of every pixel as float32, row by row.
Components above 1e9 mean that the flow is unknown.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medm.errors import BadInput
from medm.shot import Float32

TAG = 202021.25
"""First number of .flo files, and of Sintel's .dpt and .cam files."""
UNKNOWN = 1e9
"""Components of flow from here on are no flow."""
MAX_SIDE = 16384


def read_flo(path: Path) -> Float32:
    """Flow (H, W, 2) float32, pixels to the right and down; NaN where unknown.

    Raises:
        BadInput: it is missing or no .flo file.
    """
    flow = read_tagged(path, channels=2)
    with np.errstate(invalid="ignore"):
        flow[~(np.abs(flow) < UNKNOWN).all(axis=-1)] = np.nan
    return flow


def write_flo(path: Path, flow: Float32) -> None:
    """Write flow (H, W, 2); what is not finite is written as unknown."""
    height, width = flow.shape[:2]
    values = np.where(np.isfinite(flow), flow, 2 * UNKNOWN).astype("<f4")
    path.write_bytes(np.array(TAG, "<f4").tobytes() + np.array([width, height], "<i4").tobytes() + values.tobytes())


def read_tagged(path: Path, channels: int) -> Float32:
    """A raster (H, W, channels) float32 of a file with the tag, width and height at its beginning.

    Raises:
        BadInput: it is missing or no such file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) < 12 or np.frombuffer(content, "<f4", 1)[0] != np.float32(TAG):
        raise BadInput(f"{path} is not a {path.suffix} file: it does not begin with PIEH")
    width, height = (int(side) for side in np.frombuffer(content, "<i4", 2, offset=4))
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE) or len(content) != 12 + 4 * channels * width * height:
        raise BadInput(f"{path} is damaged: it says {width}x{height} pixels and has {len(content)} bytes")
    return np.frombuffer(content, "<f4", offset=12).astype(np.float32).reshape(height, width, channels)

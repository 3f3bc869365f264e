"""OpenEXR files of Blender's, one part or many, as arrays by view layer and pass. For `medm.shot`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import OpenEXR  # type: ignore[import-not-found]

from medm.errors import BadInput

MAX_CHANNELS = 512

Channels = dict[tuple[str, str, str], npt.NDArray[Any]]
"""(H, W) planes by (view layer, pass, component)."""


def read_exr(path: Path, name: str, shape: tuple[int, int]) -> Channels:
    """All channels of all parts of one file; `name` is what messages call it. The header is checked before any pixel is read.

    Raises:
        BadInput: it is not an EXR or a damaged one, or its size is not `shape` (height, width).
    """
    broken = BadInput(f"{name} cannot be read as an OpenEXR file; export the shot's data again")
    declared = 0
    try:
        for part in OpenEXR.File(str(path), header_only=True).parts:
            low, high = (np.asarray(corner) for corner in part.header["dataWindow"])
            width, height = (int(side) for side in high - low + 1)
            if (height, width) != shape:
                raise BadInput(f"{name} is {width}x{height}, but shot.json says {shape[1]}x{shape[0]}; export the shot again")
            declared += len(part.header["channels"])
            if declared > MAX_CHANNELS:
                raise BadInput(f"{name} has more than {MAX_CHANNELS} channels; export the shot's data again")
        parts = OpenEXR.File(str(path), separate_channels=True).parts
    except (RuntimeError, ValueError, TypeError, KeyError, OSError, MemoryError):
        raise broken from None
    if sum(len(part.channels) for part in parts) != declared:  # the library drops the parts whose pixels are damaged, and only warns
        raise broken
    return {key: plane for part in parts for key, plane in _planes(part, name, shape)}


def _planes(part: Any, name: str, shape: tuple[int, int]) -> Iterator[tuple[tuple[str, str, str], npt.NDArray[Any]]]:
    for channel, content in part.channels.items():
        pieces = channel.rsplit(".", 2)  # from the right: a view layer's name may hold dots
        if len(pieces) == 3:
            if content.pixels.shape != shape:
                raise BadInput(f"{name}: channel {channel} is subsampled or deep; export the shot's data again")
            yield (pieces[0], pieces[1], pieces[2]), content.pixels

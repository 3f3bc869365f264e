"""What a dataset says of one clip, in one form for all of them. For `medm.datasets.writing`, which makes a shot of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from medm.errors import BadInput
from medm.shot import Float32, Float64, Int32


@dataclass(frozen=True)
class ClipFrame:
    """One frame of H x W pixels, of any size. Pixels and flow as in `medm.shot`.

    Attributes:
        beauty: (H, W, 3) uint8.
        depth: (H, W) float32, planar; infinite on the background.
        object_id: (H, W) int32; 0 on the background.
        flow_to_prev: (H, W, 2) float32, pixels; NOWHERE of `medm.correspondence.background` where there is no counterpart.
        flow_to_next: see flow_to_prev.
        intrinsics: (3, 3) float64, camera space to pixels.
        world_to_camera: (4, 4) float64, rigid; this camera space has x right, y **down** and z **forward**, as computer vision has it.
    """

    beauty: npt.NDArray[np.uint8]
    depth: Float32
    object_id: Int32
    flow_to_prev: Float32
    flow_to_next: Float32
    intrinsics: Float64
    world_to_camera: Float64


class Clip(Protocol):
    """A clip of a dataset, whose files are known to be there."""

    @property
    def name(self) -> str:
        """What to call the shot."""

    @property
    def source(self) -> str:
        """The dataset's name."""

    @property
    def fps(self) -> float:
        """Frames a second."""

    @property
    def numbers(self) -> list[int]:
        """The frames' numbers, one by one."""

    @property
    def notes(self) -> list[str]:
        """What the user should know of it, in sentences."""

    def frame(self, t: int) -> ClipFrame:
        """Frame of index t."""

    def objects(self) -> list[dict[str, Any]]:
        """The manifest's entries of what was seen in the frames read so far."""


def between(there: Iterable[int], first: int | None, last: int | None, folder: Path) -> list[int]:
    """The frame numbers from `first` to `last` (None: no limit) of those that are there, in order.

    Raises:
        BadInput: there are none, or some between them are missing.
    """
    chosen = sorted(n for n in there if (first is None or n >= first) and (last is None or n <= last))
    if not chosen:
        raise BadInput(f"{folder} has none of the frames that are asked for")
    missing = sorted(set(range(chosen[0], chosen[-1])) - set(chosen))
    if missing:
        raise BadInput(f"{folder} lacks frame {missing[0]}; flow joins neighbouring frames only")
    return chosen


def read_beauty(path: Path) -> npt.NDArray[np.uint8]:
    """A picture in colour, (H, W, 3) uint8.

    Raises:
        BadInput: as `read_image`, or it is of another kind.
    """
    picture = read_image(path)
    if picture.dtype != np.uint8 or picture.ndim != 3:
        raise BadInput(f"{path} is not a picture in colour with 8 bits a channel")
    return picture


def read_image(path: Path) -> npt.NDArray[Any]:
    """A picture as it is in the file, of any depth: (H, W) or (H, W, 3) with red first.

    Raises:
        BadInput: it is missing or no picture.
    """
    if not path.is_file():
        raise BadInput(f"{path} is missing")
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise BadInput(f"{path} is not a picture that can be read")
    return picture if picture.ndim == 2 else picture[..., 2::-1]

"""A scene of MPI Sintel (Butler and others, ECCV 2012), http://sintel.is.tue.mpg.de, as it is unpacked:

    training/final/alley_1/frame_0001.png          the pictures; also `clean` and `albedo`
    training/flow/alley_1/frame_0001.flo           flow from frame 1 to frame 2, of all frames but the last; exact
    training/occlusions/alley_1/frame_0001.png     255: what this pixel of frame 1 shows is not in view in frame 2
    training/invalid/alley_1/frame_0001.png        255: the flow of this pixel is not to be relied upon (optional)
    training/depth/alley_1/frame_0001.dpt          planar depth, as a .flo with one channel (a download of its own, optional)
    training/camdata_left/alley_1/frame_0001.cam   the tag of .flo, then 3x3 intrinsics, 3x4 world to camera: float64, row by row

There is no flow backwards and there are no normals: the backward flow is the inverse of the forward flow (`inverse.py`), normals come from
depth. Nothing tells objects apart, so all surfaces are one object, of which nothing is known but its flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medm.correspondence.background import NOWHERE
from medm.datasets.clip import ClipFrame, between, read_beauty, read_image
from medm.datasets.flo import TAG, read_flo, read_tagged
from medm.datasets.inverse import inverse_flow
from medm.errors import BadInput
from medm.shot import Bool, Float32, Float64

EVERYTHING = 1
"""The one object id."""


@dataclass(frozen=True)
class SintelClip:
    """A scene, by the folder of its pictures, such as `training/final/alley_1`; `first`, `last`: frame numbers, None for all."""

    folder: Path
    first: int | None = None
    last: int | None = None

    source = "MPI Sintel"
    fps = 24.0

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether this is a folder of Sintel's pictures beside which its flow lies."""
        return (folder.parent.parent / "flow" / folder.name / "frame_0001.flo").is_file()

    @property
    def name(self) -> str:
        """Scene and pass."""
        return f"{self.folder.name} ({self.folder.parent.name})"

    @cached_property
    def numbers(self) -> list[int]:
        """The frames' numbers, one by one."""
        there = (int(path.stem.removeprefix("frame_")) for path in self.folder.glob("frame_[0-9][0-9][0-9][0-9].png"))
        return between(there, self.first, self.last, self.folder)

    @cached_property
    def has_geometry(self) -> bool:
        """Whether depth and cameras are there."""
        return self._file("depth", self.numbers[0], "dpt").is_file() and self._file("camdata_left", self.numbers[0], "cam").is_file()

    @property
    def notes(self) -> list[str]:
        """What is derived, and what is not there."""
        notes = ["Flow to the frame before is the inverse of the shipped forward flow; all surfaces count as one object."]
        if not self.has_geometry:
            notes.append(
                "Without depth and camdata_left (a download of their own) the shot is flat: codes and evaluation are right, but its "
                "control images show no shape."
            )
        return notes

    def frame(self, t: int) -> ClipFrame:
        """Frame of index t.

        Raises:
            BadInput: a file is missing or damaged.
        """
        number = self.numbers[t]
        beauty = read_beauty(self._file(self.folder.parent.name, number, "png"))
        height, width = beauty.shape[:2]
        depth, intrinsics, pose = self._geometry(number, height, width)
        to_prev, to_next = (np.full((height, width, 2), NOWHERE, np.float32) for _ in range(2))
        if t + 1 < len(self.numbers):
            flow, trusted, _ = self._forward(number)
            to_next = np.where(trusted[..., None], flow, np.float32(NOWHERE))
        if t > 0:
            flow, trusted, hidden = self._forward(number - 1)
            depths = (self._geometry(number - 1, height, width)[0], depth) if self.has_geometry else None
            to_prev = inverse_flow(flow, trusted & ~hidden, depths)
        background = ~np.isfinite(depth)
        ids = np.where(background, np.int32(0), np.int32(EVERYTHING))
        frame = ClipFrame(beauty, depth, ids, to_prev, to_next, intrinsics, pose)
        shapes = {field: values.shape[:2] for field, values in vars(frame).items() if field not in ("intrinsics", "world_to_camera")}
        if len(set(shapes.values())) > 1:
            raise BadInput(f"the files of frame {number} of {self.folder} have different sizes: {shapes}")
        return frame

    def objects(self) -> list[dict[str, Any]]:
        """One object that may do anything."""
        return [{"id": EVERYTHING, "name": self.folder.name, "kind": "unknown"}]

    def _forward(self, number: int) -> tuple[Float32, Bool, Bool]:
        """Flow to the next frame (H, W, 2); where it can be trusted, and where what is seen is hidden in the next frame, (H, W) each."""
        flow = read_flo(self._file("flow", number, "flo"))
        hidden = _mask(self._file("occlusions", number, "png"))
        invalid = self._file("invalid", number, "png")
        trusted: Bool = np.asarray(np.isfinite(flow).all(axis=-1))
        if invalid.is_file():
            trusted = trusted & ~_mask(invalid)
        return flow, trusted, hidden

    def _geometry(self, number: int, height: int, width: int) -> tuple[Float32, Float64, Float64]:
        pose = np.eye(4)
        if not self.has_geometry:
            return (
                np.ones((height, width), np.float32),
                np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]]),
                pose,
            )
        depth = read_tagged(self._file("depth", number, "dpt"), channels=1)[..., 0]
        intrinsics, pose[:3] = read_cam(self._file("camdata_left", number, "cam"))
        with np.errstate(invalid="ignore"):
            return np.where(depth > 0, depth, np.float32(np.inf)), intrinsics, pose

    def _file(self, kind: str, number: int, suffix: str) -> Path:
        return self.folder.parent.parent / kind / self.folder.name / f"frame_{number:04d}.{suffix}"


def read_cam(path: Path) -> tuple[Float64, Float64]:
    """Intrinsics (3, 3) and world to camera (3, 4) of a .cam file, so that pixel = intrinsics @ extrinsics @ point.

    Raises:
        BadInput: it is missing or no .cam file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) != 4 + 8 * 21 or np.frombuffer(content, "<f4", 1)[0] != np.float32(TAG):
        raise BadInput(f"{path} is not a .cam file")
    numbers = np.frombuffer(content[4:], "<f8").astype(np.float64)
    return numbers[:9].reshape(3, 3), numbers[9:].reshape(3, 4)


def _mask(path: Path) -> Bool:
    picture = read_image(path)
    return np.asarray((picture if picture.ndim == 2 else picture[..., 0]) > 127)

"""A clip of Virtual KITTI 2 (Cabon, Murray and Humenberger, 2020), with its archives unpacked into one folder:

    Scene01/clone/intrinsic.txt, extrinsic.txt     a line of headings, then `frame cameraID fx fy cx cy` and `frame cameraID` and the
                                                   4x4 matrix from world to camera, row by row; y down, z forward
    Scene01/clone/colors.txt                       a line of headings, then `Category r g b` (optional: names of the classes)
    Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg
    .../depth/Camera_0/depth_00000.png             16 bits, centimetres; 65535 is the sky
    .../forwardFlow/Camera_0/flow_00000.png        16 bits of red and green: x and y from -(side - 1) to side - 1 pixels; blue 0: no flow
    .../backwardFlow/Camera_0/backwardFlow_00001.png   the same, from frame 1 to frame 0
    .../instanceSegmentation/Camera_0/instancegt_00000.png   track of the vehicle + 1, 0: no vehicle (optional)
    .../classSegmentation/Camera_0/classgt_00000.png   the colour of its class (optional)

Both flows are as shipped, in steps of 0.04 px across and 0.01 px down. There are no normals: they come from depth, which has steps of
1 cm. All that is no vehicle stands still.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from medm.correspondence.background import NOWHERE, pixel_grid
from medm.datasets.clip import ClipFrame, between, read_beauty, read_image
from medm.errors import BadInput
from medm.shot import Float32, Float64, Int32

SKY = 65535
"""Depth, centimetres."""
CLASS = 1 << 24
"""Added to a class's colour it is the object id of what is no vehicle."""
_CONTRADICTS = 1.0
"""Pixels by which half of a frame's flow there and back may miss."""


@dataclass
class VkittiClip:
    """A variation of a scene, by its folder, such as `Scene01/clone`; `camera`: 0 is the left one; `first`, `last`: frame numbers."""

    folder: Path
    camera: int = 0
    first: int | None = None
    last: int | None = None
    _seen: set[int] = field(default_factory=set)

    source = "Virtual KITTI 2"
    fps = 10.0

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether this is the folder of a variation."""
        return (folder / "frames").is_dir() and (folder / "extrinsic.txt").is_file()

    @property
    def name(self) -> str:
        """Scene and variation."""
        return f"{self.folder.parent.name} {self.folder.name}"

    @cached_property
    def numbers(self) -> list[int]:
        """The frames' numbers, one by one."""
        pictures = self._kind("rgb")
        stems = (path.stem.removeprefix("rgb_") for path in pictures.glob("rgb_*.*"))
        return between((int(stem) for stem in stems if stem.isdecimal()), self.first, self.last, pictures)

    @property
    def notes(self) -> list[str]:
        """What is derived, and what is not there."""
        notes = ["Normals come from depth, which is in steps of 1 cm."]
        if not self._kind("instanceSegmentation").is_dir():
            notes.append("Without instanceSegmentation vehicles are not told from what stands still.")
        return notes

    def frame(self, t: int) -> ClipFrame:
        """Frame of index t.

        Raises:
            BadInput: a file is missing or damaged, or the flows there and back contradict each other.
        """
        number = self.numbers[t]
        rgb = next((path for path in self._kind("rgb").glob(f"rgb_{number:05d}.*")), self._kind("rgb") / f"rgb_{number:05d}.jpg")
        beauty = read_beauty(rgb)
        nothing = np.full((*beauty.shape[:2], 2), NOWHERE, np.float32)
        to_prev = read_flow(self._file("backwardFlow", "backwardFlow", number)) if t > 0 else nothing
        to_next = read_flow(self._file("forwardFlow", "flow", number)) if t + 1 < len(self.numbers) else nothing
        if t > 0:
            self._check(number, to_prev, read_flow(self._file("forwardFlow", "flow", number - 1)))
        centimetres = read_image(self._file("depth", "depth", number))
        depth = np.where(centimetres >= SKY, np.inf, centimetres / 100).astype(np.float32)
        ids = self._ids(number, centimetres >= SKY)
        self._seen.update(np.unique(ids).tolist())
        intrinsics, pose = self._cameras[number]
        sizes = {values.shape[:2] for values in (beauty, depth, ids, to_prev, to_next)}
        if len(sizes) > 1:
            raise BadInput(f"the files of frame {number} of {self.folder} have different sizes: {sorted(sizes)}")
        return ClipFrame(beauty, depth, ids, to_prev, to_next, intrinsics, pose)

    def objects(self) -> list[dict[str, Any]]:
        """What was seen: vehicles may do anything, the rest stands still."""
        names = self._class_names()
        fixed = "static" if self._kind("instanceSegmentation").is_dir() else "unknown"
        return [
            {"id": number, "name": names.get(number - CLASS, f"class {number - CLASS:06x}"), "kind": fixed}
            if number >= CLASS
            else {"id": number, "name": f"vehicle {number - 1}", "kind": "unknown"}
            for number in sorted(self._seen - {0})
        ]

    def _ids(self, number: int, sky: np.ndarray) -> Int32:
        ids = np.full(sky.shape, CLASS, np.int32)
        colours = self._file("classSegmentation", "classgt", number)
        if colours.is_file():
            ids += read_image(colours).astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        vehicles = self._file("instanceSegmentation", "instancegt", number)
        if vehicles.is_file():
            track = read_indices(vehicles)
            ids = np.where(track > 0, track, ids)
        return np.where(sky, np.int32(0), ids)

    def _class_names(self) -> dict[int, str]:
        """Names of the classes by colour, 0xrrggbb."""
        path = self.folder / "colors.txt"
        lines = path.read_text().splitlines()[1:] if path.is_file() else []
        rows = [line.split() for line in lines]
        return {int(r) << 16 | int(g) << 8 | int(b): name for name, r, g, b in (row for row in rows if len(row) == 4)} | {0: "everything"}

    @cached_property
    def _cameras(self) -> dict[int, tuple[Float64, Float64]]:
        """Intrinsics (3, 3) and world to camera (4, 4) by frame number."""
        inner, outer = self._table("intrinsic.txt", 4), self._table("extrinsic.txt", 16)
        missing = [number for number in self.numbers if number not in inner or number not in outer]
        if missing:
            raise BadInput(f"{self.folder}: intrinsic.txt or extrinsic.txt says nothing of frame {missing[0]}, camera {self.camera}")
        matrices = {}
        for number in self.numbers:
            fx, fy, cx, cy = inner[number]
            matrices[number] = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), outer[number].reshape(4, 4)
        return matrices

    def _table(self, name: str, columns: int) -> dict[int, Float64]:
        path = self.folder / name
        try:
            rows = [line.split() for line in path.read_text().splitlines()[1:] if line.strip()]
            numbers = {int(row[0]): np.array(row[2:], np.float64) for row in rows if int(row[1]) == self.camera}
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, IndexError):
            raise BadInput(f"{path} is not a table of numbers under one line of headings") from None
        if any(len(row) != columns for row in numbers.values()):
            raise BadInput(f"{path}: every line must have {columns + 2} numbers")
        return numbers

    def _check(self, number: int, to_prev: Float32, forward: Float32) -> None:
        """Refuses a folder whose files do not mean what we read into them."""
        height, width = to_prev.shape[:2]
        there = np.rint(pixel_grid(width, height) + to_prev)
        inside = (there >= 0).all(axis=-1) & (there < [width, height]).all(axis=-1)
        x, y = there[inside].astype(np.intp).T
        if inside.any() and np.median(np.linalg.norm(to_prev[inside] + forward[y, x], axis=-1)) > _CONTRADICTS:
            raise BadInput(
                f"{self.folder}: backwardFlow_{number:05d}.png does not lead back along flow_{number - 1:05d}.png; unpack both again"
            )

    def _kind(self, kind: str) -> Path:
        return self.folder / "frames" / kind / f"Camera_{self.camera}"

    def _file(self, kind: str, prefix: str, number: int) -> Path:
        return self._kind(kind) / f"{prefix}_{number:05d}.png"


def read_flow(path: Path) -> Float32:
    """Flow (H, W, 2) float32 of a 16-bit PNG, pixels; NOWHERE where it holds none.

    Raises:
        BadInput: it is missing or no such file.
    """
    picture = read_image(path)
    if picture.dtype != np.uint16 or picture.ndim != 3:
        raise BadInput(f"{path} is no flow: it must be a PNG of 16 bits with three channels")
    height, width = picture.shape[:2]
    share = picture[..., :2].astype(np.float32) * np.float32(2 / 65535) - 1
    flow = share * np.array([width - 1, height - 1], np.float32)
    return np.where(picture[..., 2:] == 0, np.float32(NOWHERE), flow)


def read_indices(path: Path) -> Int32:
    """The indices (H, W) of a PNG with a palette, or its grey values: OpenCV would give the palette's colours.

    Raises:
        BadInput: it is no such picture.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("P", "L", "I;16", "I"):
                raise BadInput(f"{path} must hold one number a pixel, not {picture.mode}")
            return np.asarray(picture).astype(np.int32)
    except (OSError, UnidentifiedImageError, ValueError):
        raise BadInput(f"{path} is not a picture that can be read") from None

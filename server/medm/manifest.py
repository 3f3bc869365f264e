"""shot.json, checked: everything a shot folder says in words and numbers.

For `medm.shot`, which reads the pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medm.errors import BadInput

VERSION = 1
MAX_SIDE = 8192
MAX_FRAMES = 20_000
MAX_OBJECTS = 200_000
MAX_MATERIALS = 200_000
MAX_REFERENCES = 64
MAX_MANIFEST_BYTES = 64 * 2**20
MAX_NUMBER = 1e12
"""In an object's matrix."""

_Row = Annotated[list[float], Field(min_length=4, max_length=4)]
_Matrix = Annotated[list[_Row], Field(min_length=4, max_length=4)]

_Matrix16 = Annotated[list[float], Field(min_length=16, max_length=16)]


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class CameraEntry(_Document):
    """The camera of one frame, as the manifest has it."""

    type: Literal["PERSP", "ORTHO"]
    world_to_camera: _Matrix
    projection: _Matrix
    clip_start: float = 0.1
    clip_end: float = 1000.0


class FrameEntry(_Document):
    """One frame: its number, its files (relative to the shot folder) and its camera."""

    frame: int = Field(ge=-1_048_574, le=1_048_574)
    data: str = Field(min_length=1, max_length=255)
    beauty: str | None = Field(default=None, min_length=1, max_length=255)
    rest: str | None = Field(default=None, min_length=1, max_length=255)
    cut: bool = False
    camera: CameraEntry

    @property
    def files(self) -> list[str]:
        """All files of the frame that the shot has."""
        return [name for name in (self.data, self.beauty, self.rest) if name is not None]


class ColorEntry(_Document):
    """How the beauty was brought to the display."""

    display_device: str = "sRGB"
    view_transform: str = "Standard"
    look: str = "None"
    exposure: float = 0.0
    gamma: float = 1.0


class ObjectEntry(_Document):
    """How one object moves through the shot, as the manifest has it.

    `id`: the bits of its CryptoObject00.r. `matrices`: object to world, 16 numbers row by row for each frame, or null where the object is
    not there; only for what is rigid. Of two entries with one id neither can be believed, and `Shot.objects` calls it unknown.
    `collections`: names of those that hold the object, or hold one that does; null from exporters that did not note them.
    """

    id: int = Field(ge=-(2**31), le=2**31 - 1)
    name: str = Field(max_length=255)
    kind: Literal["static", "rigid", "deforming", "unknown"]
    matrices: list[_Matrix16 | None] | None = Field(default=None, max_length=MAX_FRAMES)
    collections: list[Annotated[str, Field(max_length=255)]] | None = Field(default=None, max_length=1000)


class MaterialEntry(_Document):
    """A material by name; `id`: the bits of its CryptoMaterial00.r."""

    id: int = Field(ge=-(2**31), le=2**31 - 1)
    name: str = Field(max_length=255)


class Manifest(_Document):
    """The contents of shot.json.

    `data_scale`: the data passes are this many times as wide and high as the shot, an odd number, so that a pixel of the shot has its
    centre in the middle one of the block of data pixels that it covers. `references`: pictures that came with the shot, whose look a take
    may follow.
    """

    format: Literal["medm-shot"]
    version: Literal[1]
    name: str = Field(default="shot", max_length=255)
    fps: float = Field(gt=0.0, le=1000.0)
    frame_start: int
    frame_end: int
    width: int = Field(ge=8, le=MAX_SIDE)
    height: int = Field(ge=8, le=MAX_SIDE)
    pixel_aspect: float = Field(default=1.0, gt=0.0)
    view_layer: str = Field(min_length=1, max_length=255)
    data_scale: Literal[1, 3] = 1
    color: ColorEntry = ColorEntry()
    versions: dict[str, str] = {}
    objects: list[ObjectEntry] = Field(default=[], max_length=MAX_OBJECTS)
    materials: list[MaterialEntry] = Field(default=[], max_length=MAX_MATERIALS)
    references: list[Annotated[str, Field(min_length=1, max_length=255)]] = Field(default=[], max_length=MAX_REFERENCES)
    frames: list[FrameEntry] = Field(min_length=1, max_length=MAX_FRAMES)


def read_manifest(folder: Path) -> Manifest:
    """Read and check shot.json.

    Raises:
        BadInput: there is none, it is not ours or of a newer format, or it contradicts itself.
    """
    path = folder / "shot.json"
    if not path.is_file():
        clip = (folder / "frame_0001.png").is_file() or (folder / "frames" / "rgb").is_dir()
        hint = "; `medm import` makes a shot of a clip of MPI Sintel or Virtual KITTI 2" if clip else ""
        raise BadInput(f"{folder} is not a shot folder: it has no shot.json{hint}")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BadInput(f"{path} is too large to be a shot's manifest")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        where, value = ".".join(str(part) for part in first["loc"]), first.get("input")
        if where == "format":
            message = "its format is not 'medm-shot'"
        elif where == "version":
            message = f"its format version is {str(value)[:20]}, and this server reads version {VERSION}"
        elif where.endswith("camera.type"):
            message = f"{where} is {str(value)[:20]}: only perspective and orthographic cameras have exact correspondences"
        else:
            message = f"{where}: {first['msg']}" if where else str(first["msg"])
        raise BadInput(f"{folder} is not a shot folder of ours: shot.json: {message}") from None
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    if manifest.width % 8 or manifest.height % 8:
        raise BadInput(f"the shot is {manifest.width}x{manifest.height}, but both sides must be multiples of 8; export it again")
    if max(manifest.width, manifest.height) * manifest.data_scale > MAX_SIDE:
        raise BadInput(
            f"data passes of {manifest.data_scale} times {manifest.width}x{manifest.height} are wider or higher than {MAX_SIDE} pixels; "
            "export with --data-supersampling 1"
        )
    numbers = [entry.frame for entry in manifest.frames]
    if numbers != list(range(manifest.frame_start, manifest.frame_end + 1)):
        raise BadInput(
            f"shot.json lists frames that are not {manifest.frame_start} to {manifest.frame_end} one by one; "
            "flow joins neighbouring frames only, so export with a frame step of 1"
        )
    for entry in manifest.frames:
        pose, lens = np.array(entry.camera.world_to_camera), np.array(entry.camera.projection)
        rigid = np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-3) and np.allclose(pose[3], [0, 0, 0, 1], atol=1e-6)
        if not rigid:
            raise BadInput(f"shot.json: world_to_camera of frame {entry.frame} is not rigid (rotation and place only)")
        last = [0, 0, -1, 0] if entry.camera.type == "PERSP" else [0, 0, 0, 1]
        if not np.allclose(lens[3], last, atol=1e-6) or abs(np.linalg.det(lens[:2, :2])) < 1e-12:
            raise BadInput(f"shot.json: projection of frame {entry.frame} is not that of a {entry.camera.type} camera")
    for thing in manifest.objects:
        _check_object(thing, len(numbers))


def _check_object(thing: ObjectEntry, frames: int) -> None:
    if thing.id == 0:
        raise BadInput("shot.json: an object has id 0, which is the background's")
    if thing.kind != "rigid":
        return
    if thing.matrices is None or len(thing.matrices) != frames:
        count = "no" if thing.matrices is None else str(len(thing.matrices))
        raise BadInput(f"shot.json: the rigid object {thing.name!r} has {count} matrices, and the shot {frames} frames")
    there = np.array([matrix for matrix in thing.matrices if matrix is not None]).reshape(-1, 4, 4)
    if not (there[:, 3] == [0, 0, 0, 1]).all() or (np.abs(there) > MAX_NUMBER).any():
        raise BadInput(f"shot.json: a matrix of the object {thing.name!r} does not place it in the world (its last row must be 0 0 0 1)")

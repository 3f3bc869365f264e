"""A shot folder as arrays: the one place where files of Blender's become numbers, and where the conventions are stated.

For everything behind it (correspondence, control images, evaluation), which then never asks what a channel is called.

Conventions, used by the whole package
    Frames are counted by index t = 0 .. T-1 in order of the manifest; `frame_numbers` are the numbers on Blender's timeline.
    Pixels: x right, y down, centres at whole numbers; the frame covers -0.5 <= x < W-0.5 and -0.5 <= y < H-0.5.
    Flow: (..., 2) float32 in pixels, (right, down). The surface point at (x, y) of frame t is at (x, y) + flow_to_prev[t, y, x]
        in frame t-1 and at (x, y) + flow_to_next[t, y, x] in frame t+1. flow_to_prev "points to" the previous frame.
        From Blender's Vector pass: flow_to_prev = (X, -Y), flow_to_next = (-Z, W).
    World space is Blender's. Camera space: x right, y up, looking along -z. Matrices act on columns: p_cam = world_to_camera @ p.
    `projection` maps camera space to OpenGL clip space; ndc = clip.xy / clip.w;
        x = (ndc_x + 1) / 2 * W - 0.5 and y = (1 - ndc_y) / 2 * H - 0.5.
    Depth is planar: -z in camera space, in scene units, positive in front of the camera.
    Normals are unit vectors in world space and (0, 0, 0) exactly where no surface is: that is the background.
    Object ids are the bits of CryptoObject00.r; 0 is the background.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import OpenEXR  # type: ignore[import-not-found]
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medm.errors import BadInput
from medm.progress import Progress, silent

FORMAT = "medm-shot"
VERSION = 1
MAX_SIDE = 8192
MAX_FRAMES = 20_000
MAX_MANIFEST_BYTES = 64 * 2**20
MAX_CHANNELS = 512

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]

_Row = Annotated[list[float], Field(min_length=4, max_length=4)]
_Matrix = Annotated[list[_Row], Field(min_length=4, max_length=4)]


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
    cut: bool = False
    camera: CameraEntry


class ColorEntry(_Document):
    """How the beauty was brought to the display."""

    display_device: str = "sRGB"
    view_transform: str = "Standard"
    look: str = "None"
    exposure: float = 0.0
    gamma: float = 1.0


class Manifest(_Document):
    """The contents of shot.json."""

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
    color: ColorEntry = ColorEntry()
    versions: dict[str, str] = {}
    frames: list[FrameEntry] = Field(min_length=1, max_length=MAX_FRAMES)


@dataclass(frozen=True)
class Camera:
    """Where a frame was seen from.

    Attributes:
        world_to_camera: (4, 4) float64, rigid.
        projection: (4, 4) float64, camera space to OpenGL clip space; holds lens, shift and pixel aspect.
        width: of the frame, pixels.
        height: of the frame, pixels.
    """

    world_to_camera: Float64
    projection: Float64
    width: int
    height: int

    @property
    def orthographic(self) -> bool:
        """Whether all rays are parallel."""
        return bool(self.projection[3, 3] > 0.5)

    def project(self, points: npt.ArrayLike) -> tuple[Float64, Float64]:
        """Where world points (..., 3) are in the picture.

        Returns:
            xy: (..., 2) pixels; NaN for points that a perspective camera has not in front of it.
            depth: (...) planar depth, negative behind the camera.
        """
        world = np.asarray(points, dtype=np.float64)
        camera = world @ self.world_to_camera[:3, :3].T + self.world_to_camera[:3, 3]
        return self.to_pixels(camera @ self.projection[:, :3].T + self.projection[:, 3]), -camera[..., 2]

    def to_pixels(self, clip: Float64) -> Float64:
        """Clip coordinates (..., 4) to pixels (..., 2); NaN where w is not positive."""
        w = clip[..., 3:]
        with np.errstate(divide="ignore", invalid="ignore"):
            ndc = np.where(w > 0, clip[..., :2] / w, np.nan)
        return np.stack([(ndc[..., 0] + 1) / 2 * self.width - 0.5, (1 - ndc[..., 1]) / 2 * self.height - 0.5], axis=-1)

    def rays(self, xy: npt.ArrayLike) -> tuple[Float64, Float64]:
        """The world rays through pixels (..., 2).

        Returns:
            origins: (..., 3), the camera's place; for an orthographic camera the ray's point in the camera's plane.
            directions: (..., 3), of unit length, away from the camera.
        """
        pixels = np.asarray(xy, dtype=np.float64)
        ndc = np.stack([(pixels[..., 0] + 0.5) / self.width * 2 - 1, 1 - (pixels[..., 1] + 0.5) / self.height * 2], axis=-1)
        # In the plane z = -1 of a perspective camera, and z = 0 of an orthographic one, clip.w is 1.
        z = 0.0 if self.orthographic else -1.0
        rest = self.projection[:2, 2] * z + self.projection[:2, 3]
        plane = (ndc - rest) @ np.linalg.inv(self.projection[:2, :2]).T
        in_camera = np.concatenate([plane, np.full((*plane.shape[:-1], 1), z)], axis=-1)
        rotation, centre = self.world_to_camera[:3, :3], self.position
        if self.orthographic:
            return in_camera @ rotation + centre, np.broadcast_to(-rotation[2], in_camera.shape).copy()
        directions = in_camera @ rotation
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        return np.broadcast_to(centre, directions.shape).copy(), directions

    @property
    def position(self) -> Float64:
        """(3,) the camera's place in the world."""
        return -self.world_to_camera[:3, 3] @ self.world_to_camera[:3, :3]

    def camera_normals(self, normals: npt.ArrayLike) -> Float32:
        """World normals (..., 3) in camera space: x right, y up, z towards the camera."""
        return np.asarray(np.asarray(normals, dtype=np.float32) @ self.world_to_camera[:3, :3].T.astype(np.float32))


@dataclass(frozen=True)
class GBuffer:
    """The passes of a whole shot, at pixel centres. T frames of H x W pixels; see the module's docstring for conventions.

    Attributes:
        normal: (T, H, W, 3) float32, world space, unit length; zero on the background.
        depth: (T, H, W) float32, planar, scene units; a huge number on the background.
        position: (T, H, W, 3) float32, world space; meaningless on the background.
        flow_to_prev: (T, H, W, 2) float32, pixels; meaningless on the background.
        flow_to_next: (T, H, W, 2) float32, pixels; meaningless on the background.
        object_id: (T, H, W) int32; 0 on the background.
        background: (T, H, W) bool, where no surface is.
    """

    normal: Float32
    depth: Float32
    position: Float32
    flow_to_prev: Float32
    flow_to_next: Float32
    object_id: Int32
    background: Bool


@dataclass(frozen=True)
class Shot:
    """A shot folder whose manifest has been read and whose files are all there. Pixels are read when asked for."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path) -> Shot:
        """Read and check shot.json.

        Raises:
            BadInput: not a shot folder, a newer format, a manifest that contradicts itself, a file that is missing.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        _check_manifest(manifest)
        for entry in manifest.frames:
            for name in (entry.data, entry.beauty):
                if name is not None and not _inside(folder, name).is_file():
                    raise BadInput(f"shot folder {folder} is incomplete: {name} is missing; export the shot again")
        return cls(folder, manifest)

    def __len__(self) -> int:
        return len(self.manifest.frames)

    @property
    def frame_numbers(self) -> list[int]:
        """The frames' numbers on Blender's timeline."""
        return [entry.frame for entry in self.manifest.frames]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.manifest.width, self.manifest.height

    @property
    def cuts(self) -> Bool:
        """(T,) where nothing is taken over from the frame before: the first frame, and changes of camera."""
        cuts = np.array([entry.cut for entry in self.manifest.frames])
        cuts[0] = True
        return cuts

    @cached_property
    def cameras(self) -> list[Camera]:
        """One camera a frame."""
        width, height = self.size
        return [
            Camera(np.array(entry.camera.world_to_camera), np.array(entry.camera.projection), width, height)
            for entry in self.manifest.frames
        ]

    @property
    def has_beauty(self) -> bool:
        """Whether every frame comes with the user's own render."""
        return all(entry.beauty is not None for entry in self.manifest.frames)

    def gbuffer(self, progress: Progress = silent) -> GBuffer:
        """Read all data passes.

        Raises:
            BadInput: a file is not an EXR, lacks a pass, has another size, or holds values that are not finite.
        """
        width, height = self.size
        shape = (len(self), height, width)
        result = GBuffer(
            normal=np.empty((*shape, 3), np.float32),
            depth=np.empty(shape, np.float32),
            position=np.empty((*shape, 3), np.float32),
            flow_to_prev=np.empty((*shape, 2), np.float32),
            flow_to_next=np.empty((*shape, 2), np.float32),
            object_id=np.empty(shape, np.int32),
            background=np.empty(shape, np.bool_),
        )
        for t, entry in enumerate(self.manifest.frames):
            progress(t / len(self), "read passes")
            _read_frame(result, t, _inside(self.folder, entry.data), entry.data, self.manifest)
        progress(1.0, "read passes")
        return result

    def beauty(self, progress: Progress = silent) -> npt.NDArray[np.uint8]:
        """The user's own render, (T, H, W, 3) uint8, display-referred.

        Raises:
            BadInput: the shot has none, or a picture cannot be read or has another size.
        """
        frames = []
        for t, entry in enumerate(self.manifest.frames):
            progress(t / len(self), "read beauty")
            if entry.beauty is None:
                raise BadInput(f"the shot has no beauty of frame {entry.frame}; export it with the beauty render")
            frames.append(read_picture(_inside(self.folder, entry.beauty), self.size))
        progress(1.0, "read beauty")
        return np.stack(frames)


def frame_file(number: int, suffix: str = ".png") -> str:
    """The name of a frame's file: `0001.png`, and `-003.png` before zero."""
    return f"{number:04d}{suffix}"


def read_picture(path: Path, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A display-referred picture as (H, W, 3) uint8.

    Raises:
        BadInput: it is missing, no picture, or not of `size` (width, height).
    """
    try:
        with Image.open(path) as image:
            if image.size != size:
                raise BadInput(f"{path.name} is {image.size[0]}x{image.size[1]}, but the shot is {size[0]}x{size[1]}")
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise BadInput(f"{path} is missing") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise BadInput(f"{path} is not a picture that can be read") from None


def _read_manifest(folder: Path) -> Manifest:
    path = folder / "shot.json"
    if not path.is_file():
        raise BadInput(f"{folder} is not a shot folder: it has no shot.json")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BadInput(f"{path} is too large to be a shot's manifest")
    try:
        return Manifest.model_validate_json(path.read_bytes())
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


def _check_manifest(manifest: Manifest) -> None:
    if manifest.width % 8 or manifest.height % 8:
        raise BadInput(f"the shot is {manifest.width}x{manifest.height}, but both sides must be multiples of 8; export it again")
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


def _inside(folder: Path, name: str) -> Path:
    """The path of a file that the manifest names, which must not lead out of the folder, by links either."""
    pure = PurePosixPath(name)
    path = folder / name
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or "\0" in name:
        raise BadInput(f"shot.json names a file outside of the shot folder: {name!r}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"shot.json names a file outside of the shot folder: {name!r}")
    return path


_PASSES = {"Normal": "XYZ", "Depth": "Z", "Position": "XYZ", "Vector": "XYZW", "CryptoObject00": "r"}


def _read_frame(result: GBuffer, t: int, path: Path, name: str, manifest: Manifest) -> None:
    channels = _read_exr(path, name, (manifest.height, manifest.width))

    def read(pass_name: str) -> list[npt.NDArray[Any]]:
        planes = [channels.get((manifest.view_layer, pass_name, c)) for c in _PASSES[pass_name]]
        found = [plane for plane in planes if plane is not None]
        if len(found) != len(planes):
            raise BadInput(f"{name} has no {pass_name} pass of view layer {manifest.view_layer!r}; export the shot's data again")
        return found

    result.normal[t] = np.stack(read("Normal"), axis=-1)
    result.depth[t] = read("Depth")[0]
    result.position[t] = np.stack(read("Position"), axis=-1)
    x, y, z, w = read("Vector")
    result.flow_to_prev[t] = np.stack([x, -y], axis=-1)
    result.flow_to_next[t] = np.stack([-z, w], axis=-1)
    result.background[t] = ~result.normal[t].any(axis=-1)
    result.object_id[t] = np.where(result.background[t], 0, read("CryptoObject00")[0].astype(np.float32).view(np.int32))
    for pass_name, values in (("Normal", result.normal[t]), ("Depth", result.depth[t]), ("Position", result.position[t])):
        surface = values[~result.background[t]]
        if not np.isfinite(surface).all():
            raise BadInput(f"{name}: the {pass_name} pass holds values that are not finite; look for a broken mesh in that frame")


def _read_exr(path: Path, name: str, shape: tuple[int, int]) -> dict[tuple[str, str, str], npt.NDArray[Any]]:
    """All channels of all parts by (view layer, pass, component). The header is checked before any pixel is read."""
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

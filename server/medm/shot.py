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
    Data passes finer than the shot (`data_scale` 3) hold the shot's pixel centres at every third pixel from the second on.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from medm.errors import BadInput
from medm.exr import Channels, read_exr
from medm.manifest import Manifest, ObjectEntry, read_manifest
from medm.progress import Progress, silent

REST_DEPTH_TOLERANCE = 1e-3
"""Relative difference in depth from which on a rest pass is not believed to show the surface that the data passes show."""

MAX_REFERENCE_PIXELS = 2**26
"""Pixels of the largest reference picture that is read: 8192 x 8192."""

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]


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
class Fine:
    """One frame's data passes as finely as they were rendered: `scale` times H x `scale` times W pixels.

    Pixel (x, y) of the shot has its centre at fine pixel (scale x + scale // 2, scale y + scale // 2).

    Attributes:
        scale: fine pixels for each pixel of the shot, along x and y.
        object_id: (sH, sW) int32; 0 on the background.
        depth: (sH, sW) float32, planar, scene units; a huge number on the background.
        flow_to_next: (sH, sW, 2) float32, in pixels of the shot; meaningless on the background.
        background: (sH, sW) bool, where no surface is.
    """

    scale: int
    object_id: Int32
    depth: Float32
    flow_to_next: Float32
    background: Bool


@dataclass(frozen=True)
class Rest:
    """Where the surface points that one frame shows are on their undeformed objects.

    Attributes:
        coordinates: (H, W, 3) float32, in the undeformed object's bounding box, which is 0 to 1 along each of its axes; NaN where unknown.
        back: (H, W) bool, whether the surface shows its back.
    """

    coordinates: Float32
    back: Bool


@dataclass(frozen=True)
class ObjectMotion:
    """How one object moves through the shot.

    Attributes:
        id: as in GBuffer.object_id.
        name: in Blender.
        kind: "static": mesh and place are the same in all frames. "rigid": the mesh is, its place is not. "deforming": the mesh changes.
            "unknown": nothing can be said; instances that move, hair, volumes.
        matrices: (T, 4, 4) float64, object to world, of what is rigid, else None. NaN in frames where the object is not there, or is
            flattened so that its points cannot be told from their places.
    """

    id: int
    name: str
    kind: Literal["static", "rigid", "deforming", "unknown"]
    matrices: Float64 | None


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
        manifest = read_manifest(folder)
        for name in [*(name for entry in manifest.frames for name in entry.files), *manifest.references]:
            if not _inside(folder, name).is_file():
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

    @cached_property
    def objects(self) -> dict[int, ObjectMotion]:
        """What is known of the objects' motion, by id. Shots of older exporters say nothing, and an object of the data may be missing."""
        motions: dict[int, ObjectMotion] = {}
        for entry in self.manifest.objects:
            if entry.id in motions:  # two names with one id: no pixel says which of them it shows
                motions[entry.id] = ObjectMotion(entry.id, entry.name, "unknown", None)
            else:
                motions[entry.id] = _motion(entry)
        return motions

    def part(self, first: int, last: int) -> Shot:
        """The shot of the frames `first` to `last` - 1 alone, whose frame 0 is this one's frame `first`. Reads nothing."""
        frames = self.manifest.frames[first:last]
        objects = [
            entry.model_copy(update={"matrices": entry.matrices[first:last] if entry.matrices is not None else None})
            for entry in self.manifest.objects
        ]
        numbers = {"frame_start": frames[0].frame, "frame_end": frames[-1].frame}
        return Shot(self.folder, self.manifest.model_copy(update={"frames": frames, "objects": objects, **numbers}))

    def gbuffer(self, progress: Progress = silent, frames: range | None = None) -> GBuffer:
        """Read the data passes, 49 bytes a pixel.

        Args:
            progress: told as frames are read.
            frames: a range of frames, one after the other; None: all.

        Raises:
            BadInput: a file is not an EXR, lacks a pass, has another size, or holds values that are not finite.
        """
        width, height = self.size
        frames = range(len(self)) if frames is None else frames
        shape = (len(frames), height, width)
        result = GBuffer(
            normal=np.empty((*shape, 3), np.float32),
            depth=np.empty(shape, np.float32),
            position=np.empty((*shape, 3), np.float32),
            flow_to_prev=np.empty((*shape, 2), np.float32),
            flow_to_next=np.empty((*shape, 2), np.float32),
            object_id=np.empty(shape, np.int32),
            background=np.empty(shape, np.bool_),
        )
        for index, t in enumerate(frames):
            progress(index / len(frames), "read passes")
            _read_frame(result, index, self._data(t), self.manifest.frames[t].data, self.manifest)
        progress(1.0, "read passes")
        return result

    def fine(self, t: int) -> Fine | None:
        """Frame t's passes as finely as they were rendered, read anew at every call; None if that is no finer than the shot.

        Raises:
            BadInput: as `gbuffer`.
        """
        scale, name = self.manifest.data_scale, self.manifest.frames[t].data
        if scale == 1:
            return None
        planes = _Passes(self._data(t), name, self.manifest.view_layer)
        background = planes.background()
        depth = planes.read("Depth", "Z")[..., 0]
        _check_finite(depth, background, name, "Depth")
        return Fine(scale, planes.object_ids(background), depth, planes.flow_to_next() / np.float32(scale), background)

    def material_ids(self, t: int) -> Int32:
        """Which material each pixel of frame t shows, as finely as the data were rendered, (sH, sW) int32; 0 on the background.

        Raises:
            BadInput: as `gbuffer`; the shot was exported without this pass.
        """
        planes = _Passes(self._data(t), self.manifest.frames[t].data, self.manifest.view_layer)
        return np.where(planes.background(), np.int32(0), planes.read("CryptoMaterial00", "r")[..., 0].view(np.int32))

    def rest(self, t: int, gbuffer: GBuffer) -> Rest | None:
        """Frame t's rest coordinates; None if the shot has none of it.

        Unknown (NaN) on the background and where the rest pass shows another surface than `gbuffer`, the shot's own data: it knows
        neither cut-outs nor displacement.

        Raises:
            BadInput: the file is not an EXR, lacks a pass, or has another size than the shot.
        """
        name = self.manifest.frames[t].rest
        if name is None:
            return None
        width, height = self.size
        planes = _Passes(read_exr(_inside(self.folder, name), name, (height, width)), name, self.manifest.view_layer)
        coordinates = planes.read("Rest", "RGB")
        depth = planes.read("Depth", "Z")[..., 0]
        with np.errstate(invalid="ignore", over="ignore"):
            same = np.abs(depth - gbuffer.depth[t]) <= REST_DEPTH_TOLERANCE * gbuffer.depth[t]
        unknown = gbuffer.background[t] | ~same | ~np.isfinite(coordinates).all(axis=-1)
        coordinates[unknown] = np.nan
        return Rest(coordinates, planes.read("RestSide", "X")[..., 0] > 0.5)

    def _data(self, t: int) -> Channels:
        name, scale = self.manifest.frames[t].data, self.manifest.data_scale
        width, height = self.size
        return read_exr(_inside(self.folder, name), name, (height * scale, width * scale))

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

    def reference(self, name: str) -> Image.Image:
        """A picture that came with the shot, as RGB; `name` as the manifest's `references` have it.

        Raises:
            BadInput: the shot brings no picture of that name, or it cannot be read.
        """
        if name not in self.manifest.references:
            brought = ", ".join(self.manifest.references) or "none"
            raise BadInput(f"the shot brings no reference picture {name!r}; it brings {brought}")
        return read_reference(_inside(self.folder, name))


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


def read_reference(path: Path) -> Image.Image:
    """A picture of any size that a take is to look like, as RGB, turned as its camera was held.

    Raises:
        BadInput: it is missing, no PNG, JPEG or WebP picture, or larger than MAX_REFERENCE_PIXELS.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(path, formats=("PNG", "JPEG", "WEBP"))
        with picture as image:
            if image.width * image.height > MAX_REFERENCE_PIXELS:
                raise BadInput(f"{path.name} is {image.width}x{image.height}, larger than a reference picture needs to be; make it smaller")
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise BadInput(f"the reference picture {path} is missing") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadInput(f"{path.name} is larger than a reference picture needs to be; make it smaller") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error):
        raise BadInput(f"{path} is not a PNG, JPEG or WebP picture that can be read") from None


def _inside(folder: Path, name: str) -> Path:
    """The path of a file that the manifest names, which must not lead out of the folder, by links either."""
    pure = PurePosixPath(name)
    path = folder / name
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or "\0" in name:
        raise BadInput(f"shot.json names a file outside of the shot folder: {name!r}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"shot.json names a file outside of the shot folder: {name!r}")
    return path


@dataclass(frozen=True)
class _Passes:
    """One file's channels; a `step` of 3 takes the shot's pixels out of finer ones."""

    channels: Channels
    name: str
    view_layer: str
    step: int = 1

    def read(self, pass_name: str, components: Sequence[str]) -> Float32:
        """(H, W, components) float32."""
        planes = [self.channels.get((self.view_layer, pass_name, component)) for component in components]
        centres = slice(self.step // 2, None, self.step)
        found = [plane[centres, centres] for plane in planes if plane is not None]
        if len(found) != len(planes):
            raise BadInput(f"{self.name} has no {pass_name} pass of view layer {self.view_layer!r}; export the shot's data again")
        return np.stack(found, axis=-1).astype(np.float32)

    def background(self) -> Bool:
        return np.asarray(~self.read("Normal", "XYZ").any(axis=-1))

    def object_ids(self, background: Bool) -> Int32:
        return np.where(background, np.int32(0), self.read("CryptoObject00", "r")[..., 0].view(np.int32))

    def flow_to_prev(self) -> Float32:
        return self.read("Vector", "XY") * np.array([1, -1], np.float32)

    def flow_to_next(self) -> Float32:
        return self.read("Vector", "ZW") * np.array([-1, 1], np.float32)


def _read_frame(result: GBuffer, t: int, channels: Channels, name: str, manifest: Manifest) -> None:
    scale = manifest.data_scale
    planes = _Passes(channels, name, manifest.view_layer, scale)
    result.normal[t] = planes.read("Normal", "XYZ")
    result.depth[t] = planes.read("Depth", "Z")[..., 0]
    result.position[t] = planes.read("Position", "XYZ")
    result.flow_to_prev[t] = planes.flow_to_prev() / np.float32(scale)
    result.flow_to_next[t] = planes.flow_to_next() / np.float32(scale)
    result.background[t] = ~result.normal[t].any(axis=-1)
    result.object_id[t] = planes.object_ids(result.background[t])
    for pass_name, values in (("Normal", result.normal[t]), ("Depth", result.depth[t]), ("Position", result.position[t])):
        _check_finite(values, result.background[t], name, pass_name)


def _check_finite(values: Float32, background: Bool, name: str, pass_name: str) -> None:
    if not np.isfinite(values[~background]).all():
        raise BadInput(f"{name}: the {pass_name} pass holds values that are not finite; look for a broken mesh in that frame")


def _motion(entry: ObjectEntry) -> ObjectMotion:
    if entry.kind != "rigid" or entry.matrices is None:
        return ObjectMotion(entry.id, entry.name, entry.kind, None)
    matrices = np.array([[0.0] * 16 if matrix is None else matrix for matrix in entry.matrices]).reshape(-1, 4, 4)
    sides = np.linalg.norm(matrices[:, :3, :3], axis=1).prod(axis=-1)
    flat = np.abs(np.linalg.det(matrices[:, :3, :3])) <= 1e-9 * sides
    matrices[flat] = np.nan
    return ObjectMotion(entry.id, entry.name, "rigid", matrices)

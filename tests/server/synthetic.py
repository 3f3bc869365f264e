"""Small scenes of moving rectangles whose passes and occlusions are known by ray casting, written as shot folders.

The stand-in for a Blender render in the server's tests: the same files, conventions and habits (vectors of a background that mean nothing,
vector 0 of an object that was hidden in the frame before), in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
from PIL import Image

from medm.shot import Camera, GBuffer, frame_file

Pose = Callable[[float], np.ndarray]
"""(4, 4) object-to-world matrix at a time; time 0 is the first frame, and the frames before and after it exist too."""


def at(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn: Sequence[float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """An object-to-world matrix: turned about x, then y, then z (radians), then moved."""
    a, b, c = turn
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_y @ about_x
    matrix[:3, 3] = x, y, z
    return matrix


def camera(
    pose: np.ndarray, width: int, height: int, lens: float = 1.0, shift: tuple[float, float] = (0, 0), ortho: float | None = None
) -> Camera:
    """A camera. lens: focal length over the width of the film; shift: as a share of the width, as in Blender; ortho: width of view."""
    projection = np.zeros((4, 4))
    near, far = 0.1, 100.0
    aspect = width / height
    if ortho is None:
        projection[0] = 2 * lens, 0, 2 * shift[0], 0
        projection[1] = 0, 2 * lens * aspect, 2 * shift[1] * aspect, 0
        projection[2] = 0, 0, -(far + near) / (far - near), -2 * far * near / (far - near)
        projection[3] = 0, 0, -1, 0
    else:
        projection[0] = 2 / ortho, 0, 0, -2 * shift[0]
        projection[1] = 0, 2 / ortho * aspect, 0, -2 * shift[1] * aspect
        projection[2] = 0, 0, -2 / (far - near), -(far + near) / (far - near)
        projection[3] = 0, 0, 0, 1
    return Camera(np.linalg.inv(pose), projection, width, height)


@dataclass(frozen=True)
class Rectangle:
    """A rectangle in its own xy plane, `half` its half sides."""

    object_id: int
    pose: Pose
    half: tuple[float, float] = (1.0, 1.0)
    visible: Callable[[float], bool] = lambda _: True


@dataclass(frozen=True)
class Scene:
    """Rectangles seen by a moving camera, over an empty background."""

    rectangles: Sequence[Rectangle]
    camera: Callable[[float], Camera] = lambda _: camera(np.eye(4), 64, 48)
    length: int = 4
    cuts: Sequence[int] = field(default=(0,))

    @property
    def cameras(self) -> list[Camera]:
        return [self.camera(t) for t in range(self.length)]

    @property
    def cut_mask(self) -> np.ndarray:
        return np.isin(np.arange(self.length), (0, *self.cuts))

    def cast(self, t: float, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First hits of rays (N, 3): distance (inf: none), index of the rectangle (-1: none), place on it (N, 2)."""
        distance = np.full(len(origins), np.inf)
        index = np.full(len(origins), -1)
        place = np.zeros((len(origins), 2))
        for number, rectangle in enumerate(self.rectangles):
            if not rectangle.visible(t):
                continue
            to_object = np.linalg.inv(rectangle.pose(t))
            o = origins @ to_object[:3, :3].T + to_object[:3, 3]
            d = directions @ to_object[:3, :3].T
            with np.errstate(divide="ignore", invalid="ignore"):
                s = -o[:, 2] / d[:, 2]
                hit = o[:, :2] + s[:, None] * d[:, :2]
                closer = (np.abs(hit) <= rectangle.half).all(axis=1) & (s > 1e-6) & (s < distance)
            distance[closer], index[closer], place[closer] = s[closer], number, hit[closer]
        return distance, index, place

    def hits(self, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Per pixel, row-major: world position, rectangle (-1: none), place on it, pixel."""
        view = self.camera(t)
        x, y = np.meshgrid(np.arange(view.width), np.arange(view.height))
        xy = np.stack([x, y], -1).reshape(-1, 2).astype(float)
        origins, directions = view.rays(xy)
        distance, index, place = self.cast(t, origins, directions)
        position = origins + np.where(np.isfinite(distance), distance, 0)[:, None] * directions
        return position, index, place, xy

    def moved(self, index: np.ndarray, place: np.ndarray, t: float) -> np.ndarray:
        """World positions at time t of places on rectangles."""
        result = np.full((len(index), 3), np.nan)
        local = np.concatenate([place, np.zeros((len(place), 1)), np.ones((len(place), 1))], axis=1)
        for number, rectangle in enumerate(self.rectangles):
            mine = index == number
            result[mine] = (local[mine] @ rectangle.pose(t).T)[:, :3]
        return result

    def gbuffer(self) -> GBuffer:
        """The passes, as a renderer would give them."""
        view = self.camera(0)
        shape = (self.length, view.height, view.width)
        result = GBuffer(
            normal=np.zeros((*shape, 3), np.float32),
            depth=np.full(shape, 1e10, np.float32),
            position=np.zeros((*shape, 3), np.float32),
            flow_to_prev=np.full((*shape, 2), 7.25, np.float32),  # on the background it means nothing
            flow_to_next=np.full((*shape, 2), -7.25, np.float32),
            object_id=np.zeros(shape, np.int32),
            background=np.ones(shape, np.bool_),
        )
        for t in range(self.length):
            position, index, place, xy = self.hits(t)
            y, x = xy[:, 1].astype(int), xy[:, 0].astype(int)
            for number, rectangle in enumerate(self.rectangles):
                mine = np.flatnonzero(index == number)
                pixel = (t, y[mine], x[mine])
                normal = rectangle.pose(t)[:3, 2]
                towards = (self.camera(t).rays(xy[mine])[1] @ normal) < 0
                result.normal[pixel] = np.where(towards[:, None], normal, -normal)
                result.position[pixel] = position[mine]
                result.depth[pixel] = self.camera(t).project(position[mine])[1]
                result.object_id[pixel] = rectangle.object_id
                result.background[pixel] = False
                for flow, other in ((result.flow_to_prev, t - 1), (result.flow_to_next, t + 1)):
                    target = self.camera(other).project(self.moved(index[mine], place[mine], other))[0]
                    flow[pixel] = target - xy[mine] if rectangle.visible(other) else 0
        return result

    def beauty(self) -> np.ndarray:
        """(T, H, W, 3) uint8: every rectangle painted with smooth waves that stick to it; the background is grey."""
        view = self.camera(0)
        frames = []
        for t in range(self.length):
            _, index, place, _ = self.hits(t)
            waves = [np.sin(place @ np.array(k) + index * 2.0) for k in ((3.0, 1.0), (-1.0, 4.0), (2.0, -3.0))]
            painted = np.where((index >= 0)[:, None], 0.5 + 0.35 * np.stack(waves, -1), 0.5)
            frames.append((painted * 255).round().astype(np.uint8).reshape(view.height, view.width, 3))
        return np.stack(frames)

    def hidden_before(self, t: int) -> np.ndarray:
        """(H, W) bool, by ray casting: the point that a pixel of frame t shows could not be seen in frame t-1. Background: False."""
        _, index, place, _ = self.hits(t)
        before, view = self.moved(index, place, t - 1), self.camera(t - 1)
        there, _ = view.project(before)
        origins, directions = view.rays(np.nan_to_num(there))
        first, _, _ = self.cast(t - 1, origins, directions)
        with np.errstate(invalid="ignore"):
            distance = ((before - origins) * directions).sum(-1)
            seen = (there > -0.5).all(-1) & (there < [view.width - 0.5, view.height - 0.5]).all(-1) & (first > distance * 0.999)
        was_there = np.array([*(rectangle.visible(t - 1) for rectangle in self.rectangles), True])
        return ((index >= 0) & ~(seen & was_there[index])).reshape(view.height, view.width)


def two_rectangles(width: int = 64, height: int = 48, length: int = 4) -> Scene:
    """A mover before a wall that does not fill the frame, under a camera that moves and turns a little."""
    return Scene(
        rectangles=[
            Rectangle(101, lambda t: at(-0.6 + 0.12 * t, 0.1, -3.0, turn=(0.0, 0.3, 0.1 * t)), half=(0.4, 0.5)),
            Rectangle(202, lambda t: at(0.3, 0.0, -6.0), half=(2.6, 1.6)),
        ],
        camera=lambda t: camera(at(0.05 * t, 0.0, 0.0, turn=(0.0, 0.01 * t, 0.0)), width, height),
        length=length,
    )


def channels_of(gbuffer: GBuffer, t: int, view_layer: str) -> dict[str, np.ndarray]:
    """The channels of one frame's EXR, in Blender's names and conventions."""
    planes = {
        "Combined.R": gbuffer.normal[t, ..., 0],
        "Depth.Z": gbuffer.depth[t],
        "Vector.X": gbuffer.flow_to_prev[t, ..., 0],
        "Vector.Y": -gbuffer.flow_to_prev[t, ..., 1],
        "Vector.Z": -gbuffer.flow_to_next[t, ..., 0],
        "Vector.W": gbuffer.flow_to_next[t, ..., 1],
        "CryptoObject00.r": gbuffer.object_id[t].view(np.float32),
    }
    for axis, letter in enumerate("XYZ"):
        planes[f"Normal.{letter}"] = gbuffer.normal[t, ..., axis]
        planes[f"Position.{letter}"] = gbuffer.position[t, ..., axis]
    return {f"{view_layer}.{name}": np.ascontiguousarray(plane) for name, plane in planes.items()}


def write_exr(path: Path, channels: dict[str, np.ndarray], multipart: bool = False) -> None:
    """One EXR: a single part, or one part a pass as Blender 5 writes without interleaving."""
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    if not multipart:
        OpenEXR.File(header, channels).write(str(path))
        return
    passes: dict[str, dict[str, np.ndarray]] = {}
    for name, plane in channels.items():
        passes.setdefault(name.rsplit(".", 1)[0], {})[name] = plane
    OpenEXR.File([OpenEXR.Part(dict(header), planes, name) for name, planes in passes.items()]).write(str(path))


def write_shot(
    folder: Path,
    scene: Scene | None = None,
    beauty: bool = True,
    view_layer: str = "View.Layer",
    first_frame: int = 1,
    multipart: bool = False,
) -> Path:
    """Write a whole shot folder (default: `two_rectangles()`); returns it."""
    scene = scene or two_rectangles()
    gbuffer, pictures = scene.gbuffer(), scene.beauty() if beauty else None
    (folder / "data").mkdir(parents=True)
    frames: list[dict[str, Any]] = []
    if beauty:
        (folder / "beauty").mkdir()
    for t, view in enumerate(scene.cameras):
        number = first_frame + t
        entry: dict[str, Any] = {
            "frame": number,
            "data": f"data/{frame_file(number, '.exr')}",
            "beauty": f"beauty/{frame_file(number)}" if beauty else None,
            "cut": bool(scene.cut_mask[t]),
            "camera": {
                "type": "ORTHO" if view.orthographic else "PERSP",
                "world_to_camera": view.world_to_camera.tolist(),
                "projection": view.projection.tolist(),
                "clip_start": 0.1,
                "clip_end": 100.0,
            },
        }
        frames.append(entry)
        write_exr(folder / entry["data"], channels_of(gbuffer, t, view_layer), multipart)
        if pictures is not None:
            Image.fromarray(pictures[t]).save(folder / entry["beauty"])
    manifest = {
        "format": "medm-shot",
        "version": 1,
        "name": "synthetic",
        "fps": 24.0,
        "frame_start": first_frame,
        "frame_end": first_frame + scene.length - 1,
        "width": scene.cameras[0].width,
        "height": scene.cameras[0].height,
        "pixel_aspect": 1.0,
        "view_layer": view_layer,
        "color": {"display_device": "sRGB", "view_transform": "Standard", "look": "None", "exposure": 0.0, "gamma": 1.0},
        "versions": {"blender": "5.2.3", "addon": "0.1.0"},
        "frames": frames,
    }
    (folder / "shot.json").write_text(json.dumps(manifest, indent=1))
    return folder


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Load shot.json, let `change` alter it in place, write it back."""
    manifest = json.loads((folder / "shot.json").read_text())
    change(manifest)
    (folder / "shot.json").write_text(json.dumps(manifest))

"""Small scenes of moving rectangles whose passes and occlusions are known by ray casting, written as shot folders.

The stand-in for a Blender render in the server's tests: the same files, conventions and habits (vectors of a background that mean nothing,
vector 0 of an object that was hidden in the frame before), in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
    """A rectangle in its own xy plane, `half` its half sides.

    slide: how it deforms, by time, at most 0.4: a place q at rest, with sides from -1 to 1, lies at q + slide (1 - q^2) along x.
    """

    object_id: int
    pose: Pose
    half: tuple[float, float] = (1.0, 1.0)
    visible: Callable[[float], bool] = lambda _: True
    slide: Callable[[float], float] = lambda _: 0.0

    def deformed(self, place: np.ndarray, t: float) -> np.ndarray:
        """Where places (N, 2) of the undeformed rectangle lie in its plane at time t."""
        q = place[:, 0] / self.half[0]
        return np.stack([self.half[0] * (q + self.slide(t) * (1 - q * q)), place[:, 1]], axis=-1)

    def undeformed(self, place: np.ndarray, t: float) -> np.ndarray:
        """The inverse of `deformed`; for places outside of the rectangle it means nothing."""
        q, k = place[:, 0] / self.half[0], self.slide(t)
        root = np.sqrt(np.maximum(1 - 4 * k * (q - k), 0))
        return np.stack([self.half[0] * 2 * (q - k) / (1 + root), place[:, 1]], axis=-1)


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

    def view(self, t: float, scale: int = 1) -> Camera:
        """The camera at time t of a picture `scale` times as wide and high."""
        view = self.camera(t)
        return replace(view, width=view.width * scale, height=view.height * scale)

    def cast(self, t: float, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First hits of rays (N, 3): distance (inf: none), index of the rectangle (-1: none), place on it at rest (N, 2)."""
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
            distance[closer], index[closer], place[closer] = s[closer], number, rectangle.undeformed(hit[closer], t)
        return distance, index, place

    def hits(self, t: int, scale: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Per pixel of a picture `scale` times as wide and high, row-major: world position, rectangle (-1: none), place on it, pixel."""
        view = self.view(t, scale)
        x, y = np.meshgrid(np.arange(view.width), np.arange(view.height))
        xy = np.stack([x, y], -1).reshape(-1, 2).astype(float)
        origins, directions = view.rays(xy)
        distance, index, place = self.cast(t, origins, directions)
        position = origins + np.where(np.isfinite(distance), distance, 0)[:, None] * directions
        return position, index, place, xy

    def moved(self, index: np.ndarray, place: np.ndarray, t: float) -> np.ndarray:
        """World positions at time t of places on rectangles at rest."""
        result = np.full((len(index), 3), np.nan)
        for number, rectangle in enumerate(self.rectangles):
            mine = index == number
            matrix = rectangle.pose(t)
            result[mine] = rectangle.deformed(place[mine], t) @ matrix[:3, :2].T + matrix[:3, 3]
        return result

    def gbuffer(self, scale: int = 1) -> GBuffer:
        """The passes, as a renderer would give them for a picture `scale` times as wide and high."""
        view = self.view(0, scale)
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
            position, index, place, xy = self.hits(t, scale)
            y, x = xy[:, 1].astype(int), xy[:, 0].astype(int)
            for number, rectangle in enumerate(self.rectangles):
                mine = np.flatnonzero(index == number)
                pixel = (t, y[mine], x[mine])
                normal = rectangle.pose(t)[:3, 2]
                towards = (self.view(t, scale).rays(xy[mine])[1] @ normal) < 0
                result.normal[pixel] = np.where(towards[:, None], normal, -normal)
                result.position[pixel] = position[mine]
                result.depth[pixel] = self.camera(t).project(position[mine])[1]
                result.object_id[pixel] = rectangle.object_id
                result.background[pixel] = False
                for flow, other in ((result.flow_to_prev, t - 1), (result.flow_to_next, t + 1)):
                    target = self.view(other, scale).project(self.moved(index[mine], place[mine], other))[0]
                    flow[pixel] = target - xy[mine] if rectangle.visible(other) else 0
        return result

    def rest(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) float32 places in the undeformed rectangle's box of 0 to 1, 0 on the background; (H, W) bool, where its back shows."""
        view = self.camera(t)
        _, index, place, xy = self.hits(t)
        coordinates, back = np.zeros((len(xy), 3), np.float32), np.zeros(len(xy), np.bool_)
        for number, rectangle in enumerate(self.rectangles):
            mine = index == number
            coordinates[mine, :2] = (place[mine] / rectangle.half + 1) / 2
            back[mine] = (view.rays(xy[mine])[1] @ rectangle.pose(t)[:3, 2]) > 0
        return coordinates.reshape(view.height, view.width, 3), back.reshape(view.height, view.width)

    def objects(self) -> list[dict[str, Any]]:
        """The manifest's entries: what each id's rectangle does, unknown where several rectangles have one id."""
        ids = [rectangle.object_id for rectangle in self.rectangles]
        return [
            self._object(rectangle)
            if ids.count(rectangle.object_id) == 1
            else {"id": rectangle.object_id, "name": "both", "kind": "unknown"}
            for number, rectangle in enumerate(self.rectangles)
            if rectangle.object_id not in ids[:number]
        ]

    def _object(self, rectangle: Rectangle) -> dict[str, Any]:
        times = range(self.length)
        entry: dict[str, Any] = {"id": rectangle.object_id, "name": f"rectangle {rectangle.object_id}"}
        if len({rectangle.slide(t) for t in times}) > 1:
            return {**entry, "kind": "deforming"}
        if all((rectangle.pose(t) == rectangle.pose(0)).all() for t in times):
            return {**entry, "kind": "static"}
        return {
            **entry,
            "kind": "rigid",
            "matrices": [rectangle.pose(t).ravel().tolist() if rectangle.visible(t) else None for t in times],
        }

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


def sliding_rectangle(width: int = 64, height: int = 48, length: int = 4) -> Scene:
    """A rectangle that moves and deforms in its plane before a wall, under a camera at rest."""
    scene = two_rectangles(width, height, length)
    slider = replace(scene.rectangles[0], half=(0.8, 0.6), slide=lambda t: 0.05 + 0.03 * t)
    return replace(scene, rectangles=[slider, scene.rectangles[1]], camera=lambda _: camera(np.eye(4), width, height))


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


def rest_channels(scene: Scene, t: int, view_layer: str) -> dict[str, np.ndarray]:
    """The channels of one frame's rest EXR."""
    coordinates, back = scene.rest(t)
    planes = {"RestSide.X": back.astype(np.float32), "Depth.Z": scene.gbuffer().depth[t]}
    planes |= {f"Rest.{letter}": coordinates[..., axis] for axis, letter in enumerate("RGB")}
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
    objects: bool = False,
    rest: bool = False,
    data_scale: int = 1,
) -> Path:
    """Write a whole shot folder (default: `two_rectangles()`); returns it.

    objects: say in the manifest what every object does. rest: add a rest pass to every frame.
    """
    scene = scene or two_rectangles()
    gbuffer, pictures = scene.gbuffer(data_scale), scene.beauty() if beauty else None
    (folder / "data").mkdir(parents=True)
    if rest:
        (folder / "rest").mkdir()
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
        if rest:
            entry["rest"] = f"rest/{frame_file(number, '.exr')}"
            write_exr(folder / entry["rest"], rest_channels(scene, t, view_layer), multipart)
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
    if data_scale != 1:
        manifest["data_scale"] = data_scale
    if objects:
        manifest["objects"] = scene.objects()
    (folder / "shot.json").write_text(json.dumps(manifest, indent=1))
    return folder


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Load shot.json, let `change` alter it in place, write it back."""
    manifest = json.loads((folder / "shot.json").read_text())
    change(manifest)
    (folder / "shot.json").write_text(json.dumps(manifest))

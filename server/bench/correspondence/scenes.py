"""Generated scenes with ground truth by ray casting: what the correspondence benchmark and its end-to-end test measure against.

Run with Blender's Python:
    .venv-bpy/bin/python server/bench/correspondence/scenes.py -o DIR [--scenes static,rigid] [--frames 48] [--size 384x216]
        [--data-supersampling 3]
Every scene becomes a shot folder DIR/NAME, exported by the add-on as any other, with `truth.npz` beside its shot.json. The truth
comes from the evaluated meshes and the cameras alone; no render pass is looked at. Pixel conventions are those of medm/shot.py.

truth.npz, for T frames of H x W pixels, V vertices, F triangles, O objects
    triangle (T, H, W) int32            what the ray through the pixel's centre hits first, an index into `triangles`; -1: nothing
    barycentric (T, H, W, 2) float32    where in it: point = (1 - u - v) a + u b + v c
    vertices (T, V, 3) float32          world positions, of objects that are hidden from the render too
    triangles (F, 3) int32              indices into `vertices`, the same in all frames
    object_of_triangle (F,) int32, object_names (O,)
    hidden_before (T, H, W) bool        the point could not be seen in frame t-1: behind something, out of the frame, or its object was
                                        not there. Sky pixels show a direction, and are asked the same. True at cuts and in frame 0.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bpy  # isort: skip  (it brings the two below)
import bmesh
import numpy as np
from mathutils import Matrix, Vector
from mathutils.bvhtree import BVHTree

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from medm_blender import passes

Pose = Callable[[float], tuple[Sequence[float], Sequence[float]]]
"""Location and Euler angles at a time that runs from 0 in the first frame to 1 in the last."""

SAME_PLACE = 1e-4
"""Share of its distance by which something must stand in front of a point to hide it: what float32 geometry leaves undecided."""


# -- building blocks ---------------------------------------------------------------------------------------------------


class Stage:
    """A scene under construction: `frames` frames, counted from 1, of an action that is stretched to that length."""

    def __init__(self, frames: int) -> None:
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self.scene = bpy.context.scene
        self.scene.frame_start, self.scene.frame_end = 1, frames
        self.frames = frames

    def mesh(self, name: str, shape: Callable[[Any], object], place: Sequence[float] = (0, 0, 0), turn: Sequence[float] = (0, 0, 0)) -> Any:
        """An object whose mesh `shape(bmesh)` makes."""
        work = bmesh.new()
        shape(work)
        mesh = bpy.data.meshes.new(name)
        work.to_mesh(mesh)
        work.free()
        thing = bpy.data.objects.new(name, mesh)
        thing.location, thing.rotation_euler = place, turn
        self.scene.collection.objects.link(thing)
        return thing

    def camera(self, pose: Pose, name: str = "Camera", lens: float = 35.0, shift: tuple[float, float] = (0, 0)) -> Any:
        """A camera; the first one becomes the scene's."""
        data = bpy.data.cameras.new(name)
        data.lens, (data.shift_x, data.shift_y) = lens, shift
        thing = bpy.data.objects.new(name, data)
        self.scene.collection.objects.link(thing)
        self.scene.camera = self.scene.camera or thing
        self.move(thing, pose)
        return thing

    def move(self, thing: Any, pose: Pose) -> None:
        """Key location and rotation at every frame, and at the two that lie beside the shot."""
        for frame, time in self.times():
            thing.location, thing.rotation_euler = pose(time)
            thing.keyframe_insert("location", frame=frame)
            thing.keyframe_insert("rotation_euler", frame=frame)

    def times(self) -> list[tuple[int, float]]:
        """Frame numbers from 0 to one behind the last, and their times."""
        return [(frame, (frame - 1) / max(self.frames - 1, 1)) for frame in range(self.frames + 2)]

    def hide(self, thing: Any, hidden: Callable[[float], bool]) -> None:
        """Key whether the render leaves an object out."""
        for frame, time in self.times():
            thing.hide_render = hidden(time)
            thing.keyframe_insert("hide_render", frame=frame)


def box(x: float, y: float, z: float) -> Callable[[Any], object]:
    """Around its origin, with these sides."""
    return lambda work: bmesh.ops.create_cube(work, size=1.0, matrix=Matrix.Diagonal((x, y, z, 1)))


def ball(radius: float, segments: int = 32) -> Callable[[Any], object]:
    """Around its origin."""
    return lambda work: bmesh.ops.create_uvsphere(work, u_segments=segments, v_segments=segments // 2, radius=radius)


def pole(radius: float, height: float, segments: int = 12) -> Callable[[Any], object]:
    """Upright, standing on its origin."""
    return lambda work: bmesh.ops.create_cone(
        work, cap_ends=True, segments=segments, radius1=radius, radius2=radius, depth=height, matrix=Matrix.Translation((0, 0, height / 2))
    )


def grid(x: float, y: float, steps: int) -> Callable[[Any], object]:
    """Flat, with these sides, of `steps` by `steps` squares."""
    return lambda work: bmesh.ops.create_grid(work, x_segments=steps, y_segments=steps, size=0.5, matrix=Matrix.Diagonal((x, y, 1, 1)))


def looking(place: Sequence[float], target: Sequence[float], roll: float = 0.0) -> tuple[Sequence[float], Sequence[float]]:
    """A pose at `place` that looks at `target`."""
    towards = (Vector(target) - Vector(place)).to_track_quat("-Z", "Y").to_matrix()
    return place, (towards @ Matrix.Rotation(roll, 3, "Z")).to_euler()


def a_set(stage: Stage) -> None:
    """Floor, two walls, boxes, balls, poles and a fence: near and far, large and thin, round and flat. Sky above the walls."""
    stage.mesh("Floor", grid(24, 16, 1))
    stage.mesh("Wall", box(9, 0.3, 3.2), (-1.5, 4.5, 1.6))
    stage.mesh("Side wall", box(0.3, 6, 2.2), (4.6, 2.0, 1.1), (0, 0, -0.25))
    stage.mesh("Crate", box(1.2, 1.2, 1.2), (-2.6, 0.6, 0.6), (0, 0, 0.5))
    stage.mesh("Crate on crate", box(0.7, 0.7, 0.7), (-2.5, 0.7, 1.55), (0, 0, 0.2))
    stage.mesh("Slab", box(2.4, 0.8, 0.25), (1.6, 2.6, 0.6), (0.25, 0.1, 0.3))
    stage.mesh("Ball", ball(0.8), (0.4, 1.2, 0.8))
    stage.mesh("Small ball", ball(0.3, 20), (1.7, -0.6, 0.3))
    stage.mesh("Pebble", ball(0.14, 12), (-0.9, -1.4, 0.14))
    for number in range(4):
        stage.mesh(f"Pole {number}", pole(0.05, 2.6), (-1.5 + 1.3 * number, -0.3 + 0.5 * (number % 2), 0))
    for number in range(9):
        stage.mesh(f"Fence {number}", pole(0.02, 1.0, 6), (1.9 + 0.22 * number, 0.4 + 0.1 * number, 0))


# -- the scenes --------------------------------------------------------------------------------------------------------


def static(stage: Stage) -> None:
    """Nothing moves but the camera, slowly."""
    a_set(stage)
    stage.camera(lambda s: looking((-2.2 + 2.6 * s, -7.5 + 0.8 * s, 2.0 + 0.5 * s), (0.2 * s, 1.0, 1.0)))


def rigid(stage: Stage) -> None:
    """Things that travel, spin and orbit behind poles and each other, before a camera that moves."""
    a_set(stage)
    stage.move(stage.mesh("Cart", box(1.4, 0.7, 0.7)), lambda s: ((-3.2 + 6.0 * s, -0.9, 0.45), (0.1 * math.sin(9 * s), 0, 0.6 * s)))
    stage.move(stage.mesh("Blade", box(2.0, 0.12, 0.25)), lambda s: ((-1.0, 0.9, 2.1), (0.3, 4.0 * s, 0.4)))
    stage.move(
        stage.mesh("Moon", ball(0.35)), lambda s: ((0.4 + 1.5 * math.cos(5 * s), 1.2 + 1.5 * math.sin(5 * s), 1.2), (3 * s, 0, 5 * s))
    )
    arm = stage.mesh("Arm", box(0.2, 0.2, 1.6))
    stage.move(arm, lambda s: ((2.4, 1.6 - s, 1.7), (0.5 * math.sin(6 * s), 0.8 * math.sin(4 * s), 0)))
    hand = stage.mesh("Hand", box(0.6, 0.5, 0.3), (0, 0, 0.95))
    hand.parent = arm
    stage.move(hand, lambda s: ((0, 0, 0.95), (0, 0, 5 * s)))
    stage.move(stage.mesh("Runner", pole(0.22, 1.5)), lambda s: ((3.4 - 6.5 * s, -0.2 + 1.5 * s, 0.02), (0, 0.2, 2 * s)))
    stage.camera(lambda s: looking((-1.0 + 2.2 * s, -7.6, 1.7 + 0.6 * s), (0.3 - 0.4 * s, 1.0, 1.0), 0.05 * s))


def deforming(stage: Stage) -> None:
    """A waving cloth and a breathing ball by shape keys, a bending column by bones under a subdivision, before a camera that moves."""
    a_set(stage)
    _cloth(stage)
    _breathing_ball(stage)
    _bending_column(stage)
    stage.camera(lambda s: looking((1.6 - 2.0 * s, -7.2 + 0.5 * s, 2.2), (0.0, 1.0, 1.1)))


def hidden(stage: Stage) -> None:
    """Surfaces that go out of sight and come back: behind a mover, out of the frame, by `hide_render`, and over a cut."""
    a_set(stage)
    stage.move(stage.mesh("Passer", box(0.9, 0.5, 1.9)), lambda s: ((-4.5 + 14 * s, -2.2, 0.96), (0, 0, 1.5 * s)))
    stage.move(stage.mesh("Wheel", pole(0.7, 0.2, 24), turn=(1.57, 0, 0)), lambda s: ((1.2, -1.0, 1.3), (1.57, 0.0, 2.5 * s)))
    ghost = stage.mesh("Ghost", ball(0.5), (-1.3, -1.1, 0.8))
    stage.hide(ghost, lambda s: 0.25 <= s < 0.45)
    lamp = stage.mesh("Lamp", box(0.5, 0.5, 0.5), turn=(0.3, 0.4, 0))
    stage.move(lamp, lambda s: ((2.6 - 2 * s, -0.8, 1.9), (0.3, 0.4, 2 * s)))
    stage.hide(lamp, lambda s: s < 0.15)
    pan = lambda s: 0.75 * math.sin(math.pi * min(max((s - 0.3) / 0.4, 0), 1)) ** 2  # noqa: E731
    first = stage.camera(lambda s: ((-0.4 + 0.8 * s, -7.4, 1.9), (1.47, 0.0, pan(s))))
    second = stage.camera(lambda s: looking((4.0, -5.5 + 0.5 * s, 2.6), (-0.5, 1.0, 0.8)), "Other camera", lens=28.0)
    for share, camera in ((0.0, first), (0.74, second), (0.87, first)):
        stage.scene.timeline_markers.new(camera.name, frame=1 + round(share * (stage.frames - 1))).camera = camera


def fast(stage: Stage) -> None:
    """Up to a tenth of the frame's width a frame: things that swing before a camera that whips from side to side."""
    a_set(stage)
    beat = lambda s, phase=0.0: math.sin(2 * math.pi * s * (stage.frames - 1) / 16 + phase)  # noqa: E731
    stage.move(stage.mesh("Swing", box(0.9, 0.5, 0.9)), lambda s: ((1.3 * beat(s), -1.2, 1.0), (0, beat(s), 0.8 * beat(s, 1))))
    stage.move(stage.mesh("Hammer", ball(0.5)), lambda s: ((-1.2, -0.5, 1.4 + 0.9 * beat(s, 2)), (2 * beat(s), 0, 0)))
    stage.move(stage.mesh("Bar", box(0.15, 0.15, 2.2)), lambda s: ((1.5 + beat(s, 4), -0.2, 1.3), (0, 1.5 * beat(s, 1), 0)))
    stage.camera(lambda s: ((0.4 * beat(s, 0.5), -7.2, 1.8), (1.49, 0.0, 0.1 * beat(s, 3))))


def sky(stage: Stage) -> None:
    """Mostly background: a few things in the air, before a shifted lens that turns."""
    stage.mesh("Ball", ball(0.9), (-0.8, 0, 1.2))
    stage.mesh("Ring of poles", pole(0.07, 3.0), (1.0, -1.0, 0))
    for number in range(5):
        stage.mesh(f"Stick {number}", pole(0.04, 3.2, 8), (-3.0 + 1.5 * number, 0.5 * (number % 3), -0.4), (0.1 * number, 0.15, 0))
    stage.move(stage.mesh("Kite", box(1.1, 0.1, 0.8)), lambda s: ((-2.0 + 4.5 * s, -1.5, 2.0 + 0.4 * math.sin(8 * s)), (0.4, 1.2 * s, s)))
    stage.camera(lambda s: ((0, -8, 1.2), (1.55 + 0.06 * s, 0.15 * s, 0.25 - 0.5 * s)), lens=30.0, shift=(0.12, -0.08))


def approach(stage: Stage) -> None:
    """The camera comes to a third of its distance, and goes back."""
    a_set(stage)
    distance = lambda s: 8.4 * 3 ** -(math.sin(math.pi * s) ** 2)  # noqa: E731
    stage.camera(lambda s: looking((-0.25 * distance(s), 0.6 - distance(s), 1.0 + 0.1 * distance(s)), (0.0, 0.6, 0.9)))


SCENES: dict[str, Callable[[Stage], None]] = {make.__name__: make for make in (static, rigid, deforming, hidden, fast, sky, approach)}


def _cloth(stage: Stage) -> None:
    """Two shape keys, a quarter of a wave apart, played as sine and cosine: a wave that runs through the cloth."""
    cloth = stage.mesh("Cloth", grid(3.0, 1.8, 24), (-1.9, -0.9, 1.5), (1.45, 0, 0.15))
    cloth.shape_key_add(name="Basis")
    for name, phase in (("sine", 0.0), ("cosine", math.pi / 2)):
        key = cloth.shape_key_add(name=name)
        key.slider_min = -1.0
        for point, vertex in zip(key.data, cloth.data.vertices, strict=True):
            x, y, _ = vertex.co
            reach = 0.28 * (x + 1.5) / 3.0  # it hangs from its left edge
            point.co = (x, y + 0.3 * reach * math.sin(3 * x + phase), reach * math.sin(4.2 * x + 1.4 * y + phase))
        for frame, time in stage.times():
            key.value = math.cos(9 * time + phase)
            key.keyframe_insert("value", frame=frame)


def _breathing_ball(stage: Stage) -> None:
    """A rough ball that is squeezed by a shape key while it travels."""
    thing = stage.mesh("Breathing ball", ball(0.7, 28), (1.6, -0.8, 0.9))
    thing.shape_key_add(name="Basis")
    key = thing.shape_key_add(name="squeezed")
    for point, vertex in zip(key.data, thing.data.vertices, strict=True):
        x, y, z = vertex.co
        point.co = (0.6 * x + 0.2 * z, 1.25 * y, 1.35 * z + 0.15 * math.sin(5 * x))
    for frame, time in stage.times():
        key.value = 0.5 - 0.5 * math.cos(7 * time)
        key.keyframe_insert("value", frame=frame)
    stage.move(thing, lambda s: ((1.6 + 0.8 * s, -0.8, 0.9 + 0.1 * s), (0, 0.4 * s, 1.0 * s)))


def _bending_column(stage: Stage) -> None:
    """A square column of rings, bent at two bones and smoothed by a subdivision."""

    def rings(work: Any) -> None:
        bmesh.ops.create_cube(work, size=1.0, matrix=Matrix.Translation((0, 0, 1.2)) @ Matrix.Diagonal((0.7, 0.5, 2.4, 1)))
        upright = [edge for edge in work.edges if abs(edge.verts[0].co.z - edge.verts[1].co.z) > 1]
        bmesh.ops.subdivide_edges(work, edges=upright, cuts=9, use_grid_fill=True)

    column = stage.mesh("Column", rings)
    rig = bpy.data.objects.new("Rig", bpy.data.armatures.new("Rig"))
    rig.location = (0.3, 0.2, 0.0)
    stage.scene.collection.objects.link(rig)
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    parent = None
    for number, (low, high) in enumerate(((0.0, 0.8), (0.8, 1.6), (1.6, 2.4))):
        bone = rig.data.edit_bones.new(f"bone {number}")
        bone.head, bone.tail, bone.parent = (0, 0, low), (0, 0, high), parent
        parent = bone
    bpy.ops.object.mode_set(mode="OBJECT")
    for number in range(3):
        group = column.vertex_groups.new(name=f"bone {number}")
        for vertex in column.data.vertices:
            group.add([vertex.index], max(0.0, 1 - abs(vertex.co.z - 0.4 - 0.8 * number) / 0.8), "REPLACE")
    column.parent = rig
    column.modifiers.new("Bend", "ARMATURE").object = rig
    smooth = column.modifiers.new("Smooth", "SUBSURF")
    smooth.levels = smooth.render_levels = 2
    for number in (1, 2):
        bone = rig.pose.bones[f"bone {number}"]
        bone.rotation_mode = "XYZ"
        for frame, time in stage.times():
            bone.rotation_euler = (0.5 * math.sin(6 * time), 0.9 * math.sin(4 * time + number), 0.6 * math.sin(5 * time))
            bone.keyframe_insert("rotation_euler", frame=frame)


# -- the truth ---------------------------------------------------------------------------------------------------------


class View:
    """A perspective camera of the manifest: rays through pixels, and places of points. On its own, so that it checks medm/shot.py too."""

    def __init__(self, entry: dict[str, Any], width: int, height: int) -> None:
        self.width, self.height = width, height
        self.world_to_camera, projection = np.array(entry["world_to_camera"]), np.array(entry["projection"])
        self.slope = projection[[0, 1], [0, 1]]
        self.offset = projection[:2, 2]
        self.place = np.linalg.inv(self.world_to_camera)[:3, 3]

    def directions(self) -> np.ndarray:
        """(H W, 3), row-major, of unit length."""
        x, y = np.meshgrid((np.arange(self.width) + 0.5) * 2 / self.width - 1, 1 - (np.arange(self.height) + 0.5) * 2 / self.height)
        plane = (np.stack([x.ravel(), y.ravel()], axis=-1) + self.offset) / self.slope
        towards = np.column_stack([plane, -np.ones(len(plane))]) @ self.world_to_camera[:3, :3]
        return towards / np.linalg.norm(towards, axis=-1, keepdims=True)

    def has(self, towards: np.ndarray) -> np.ndarray:
        """Whether directions (N, 3) are within the frame."""
        camera = towards @ self.world_to_camera[:3, :3].T
        with np.errstate(divide="ignore", invalid="ignore"):
            ndc = camera[:, :2] / -camera[:, 2:] * self.slope - self.offset
        return (camera[:, 2] < 0) & (np.abs(ndc) <= 1).all(axis=-1)


class Geometry:
    """All meshes of a scene as one list of triangles that stays the same while the vertices move."""

    def __init__(self, scene: Any) -> None:
        self.scene = scene
        self.objects = [thing for thing in scene.objects if thing.type == "MESH"]
        self.triangles, self.object_of_triangle = np.empty((0, 3), np.int32), np.empty(0, np.int32)
        count = 0
        for number, mesh in enumerate(self._meshes()):
            mesh.calc_loop_triangles()
            corners = np.empty(len(mesh.loop_triangles) * 3, np.int32)
            mesh.loop_triangles.foreach_get("vertices", corners)
            self.triangles = np.concatenate([self.triangles, corners.reshape(-1, 3) + count])
            self.object_of_triangle = np.concatenate([self.object_of_triangle, np.full(len(corners) // 3, number, np.int32)])
            count += len(mesh.vertices)

    def _meshes(self) -> list[Any]:
        depsgraph = bpy.context.evaluated_depsgraph_get()
        return [thing.evaluated_get(depsgraph).to_mesh() for thing in self.objects]

    def at(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """World positions (V, 3) of all vertices, and which triangles (F,) the render shows."""
        self.scene.frame_set(frame)
        depsgraph = bpy.context.evaluated_depsgraph_get()
        world = []
        for thing in self.objects:
            evaluated = thing.evaluated_get(depsgraph)
            mesh = evaluated.to_mesh()
            local = np.empty(len(mesh.vertices) * 3, np.float32)
            mesh.vertices.foreach_get("co", local)
            matrix = np.array(evaluated.matrix_world)
            world.append(local.reshape(-1, 3).astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3])
        shown = np.array([not thing.hide_render for thing in self.objects])
        return np.concatenate(world), shown[self.object_of_triangle]


class Rays:
    """First hits among the triangles that one frame shows."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray, shown: np.ndarray) -> None:
        self.numbers = np.flatnonzero(shown)
        self.tree = BVHTree.FromPolygons(vertices.tolist(), triangles[shown].tolist(), all_triangles=True)

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of rays (N, 3): the triangle (-1: none) and the distance (infinite: none)."""
        start, ray_cast = Vector(origin), self.tree.ray_cast
        hits = [ray_cast(start, direction)[2:] for direction in directions.tolist()]
        triangle = np.array([-1 if index is None else index for index, _ in hits], np.int64)
        distance = np.array([np.inf if length is None else length for _, length in hits])
        return np.where(triangle < 0, -1, self.numbers[triangle]), distance


def barycentric(origin: np.ndarray, directions: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(N, 2) u and v of the places where rays (N, 3) meet the planes of triangles (N, 3, 3)."""
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    across = np.cross(directions, two)
    volume = (one * across).sum(-1)
    from_corner = origin - corners[:, 0]
    u = (from_corner * across).sum(-1) / volume
    v = (directions * np.cross(from_corner, one)).sum(-1) / volume
    return np.stack([u, v], axis=-1)


def places(barycentrics: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(N, 3) points (1 - u - v) a + u b + v c."""
    u, v = barycentrics[:, :1], barycentrics[:, 1:]
    return (1 - u - v) * corners[:, 0] + u * corners[:, 1] + v * corners[:, 2]


def write_truth(scene: Any, folder: Path) -> None:
    """Cast the rays of all frames of the shot in `folder` and write truth.npz there."""
    manifest = json.loads((folder / "shot.json").read_text())
    width, height = manifest["width"], manifest["height"]
    geometry = Geometry(scene)
    found: dict[str, list[np.ndarray]] = {"triangle": [], "barycentric": [], "vertices": [], "hidden_before": []}
    before: tuple[View, Rays, np.ndarray, np.ndarray] | None = None
    for entry in manifest["frames"]:
        view = View(entry["camera"], width, height)
        vertices, shown = geometry.at(entry["frame"])
        rays = Rays(vertices, geometry.triangles, shown)
        directions = view.directions()
        triangle, _ = rays.cast(view.place, directions)
        surface = triangle >= 0
        corners = geometry.triangles[triangle[surface]]
        where = np.zeros((len(triangle), 2))
        where[surface] = barycentric(view.place, directions[surface], vertices[corners])

        hidden_before = np.ones(len(triangle), np.bool_)
        if before is not None and not entry["cut"]:
            view_before, rays_before, vertices_before, shown_before = before
            towards, distance = directions.copy(), np.full(len(triangle), np.inf)
            towards[surface] = places(where[surface], vertices_before[corners]) - view_before.place
            distance[surface] = np.linalg.norm(towards[surface], axis=-1)
            towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
            first, reach = rays_before.cast(view_before.place, towards)
            hidden_before = ~view_before.has(towards) | ((first != triangle) & (reach < distance * (1 - SAME_PLACE)))
            hidden_before[surface] |= ~shown_before[triangle[surface]]
        before = view, rays, vertices, shown

        found["triangle"].append(triangle.astype(np.int32).reshape(height, width))
        found["barycentric"].append(where.astype(np.float32).reshape(height, width, 2))
        found["vertices"].append(vertices.astype(np.float32))
        found["hidden_before"].append(hidden_before.reshape(height, width))
    np.savez_compressed(
        folder / "truth.npz",
        **{name: np.stack(frames) for name, frames in found.items()},
        triangles=geometry.triangles,
        object_of_triangle=geometry.object_of_triangle,
        object_names=np.array([thing.name for thing in geometry.objects]),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build benchmark scenes, export them as shots, and write their ground truth.")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--scenes", default=",".join(SCENES), help="comma-separated names (default: all)")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--size", default="384x216", help="WIDTHxHEIGHT, multiples of 8")
    parser.add_argument("--data-supersampling", type=int, choices=(1, 3), default=3)
    arguments = parser.parse_args()
    width, height = (int(side) for side in arguments.size.split("x"))
    for name in arguments.scenes.split(","):
        stage = Stage(arguments.frames)
        SCENES[name](stage)
        folder = passes.export_shot(
            stage.scene,
            arguments.out / name,
            name=name,
            size=(width, height),
            beauty=False,
            data_supersampling=arguments.data_supersampling,
        )
        write_truth(stage.scene, folder)
        print(folder, flush=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # the module of Blender 4.5 may hang in its own clean-up

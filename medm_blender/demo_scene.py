"""Builds the scene of the demo: a clay previs shot of one second in which everything happens that temporal consistency is hard for.

For `bootstrap.py demo`. The camera arcs and pushes in; a figure walks out from behind a column (bones deform one smooth body);
a ball rolls behind the other column and across the foot of the steps; the arch and the columns hide and reveal what is behind
them. Large smooth shapes in plain clay under a gradient sky, as a director blocks a shot.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import bmesh
import bpy
from mathutils import Matrix, Vector

from . import compat

NAME = "MeDM Demo"
CLAY = {
    "ground": (0.47, 0.44, 0.41),
    "stone": (0.56, 0.54, 0.52),
    "figure": (0.72, 0.62, 0.54),
    "ball": (0.62, 0.36, 0.28),
}


def build(frames: int = 24, size: tuple[int, int] = (384, 216)) -> Any:
    """Make the demo scene in the open file, make it the window's scene and return it.

    frames: length, at least 2; the action is stretched to it. size: (width, height) in pixels.
    Every other scene of the file stays; meant for a fresh, empty file.
    """
    scene = bpy.data.scenes.new(NAME)
    materials = {name: _clay(name, colour) for name, colour in CLAY.items()}
    _set(scene, materials)
    _figure(scene, materials["figure"], frames)
    _ball(scene, materials["ball"], frames)
    _camera(scene, frames)
    _light(scene)
    scene.frame_start, scene.frame_end = 1, frames
    scene.render.fps = 24
    scene.render.resolution_x, scene.render.resolution_y = size
    scene.render.engine = compat.CYCLES
    scene.cycles.samples = 8
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.use_denoising = True
    scene.cycles.denoising_prefilter, scene.cycles.denoising_quality = "NONE", "FAST"
    scene.cycles.max_bounces = 2
    scene.view_settings.view_transform = "Standard"
    scene.frame_set(1)
    if bpy.context.window:
        bpy.context.window.scene = scene
    return scene


# -- building blocks ---------------------------------------------------------------------------------------------------


def _clay(name: str, colour: Sequence[float]) -> Any:
    material = bpy.data.materials.new(f"Clay {name}")
    if material.node_tree is None:
        material.use_nodes = True  # 4.5; from 5.0 a material always has nodes
    shader = next(node for node in material.node_tree.nodes if node.bl_idname == "ShaderNodeBsdfPrincipled")
    shader.inputs["Base Color"].default_value = (*colour, 1.0)
    shader.inputs["Roughness"].default_value = 0.75
    return material


def _object(scene: Any, name: str, material: Any, shape: Callable[[Any], object], bevel: float = 0.0, smooth: bool = False) -> Any:
    """A mesh object made by `shape(bmesh)`; bevelled by `bevel` metres so that its edges catch the light."""
    mesh = bpy.data.meshes.new(name)
    work = bmesh.new()
    shape(work)
    if bevel:
        sharp = [edge for edge in work.edges if edge.is_manifold and edge.calc_face_angle() > 0.6]
        bmesh.ops.bevel(work, geom=sharp, offset=bevel, segments=3, profile=0.5, affect="EDGES")
    for face in work.faces:
        face.smooth = smooth
    work.to_mesh(mesh)
    work.free()
    mesh.materials.append(material)
    made = bpy.data.objects.new(name, mesh)
    scene.collection.objects.link(made)
    return made


def _box(size: Sequence[float], centre: Sequence[float]) -> Callable[[Any], object]:
    matrix = Matrix.Translation(centre) @ Matrix.Diagonal((*size, 1.0))
    return lambda work: bmesh.ops.create_cube(work, size=1.0, matrix=matrix)


def _lathe(profile: Iterable[tuple[float, float]], centre: Sequence[float], segments: int = 48) -> Callable[[Any], object]:
    """A body of revolution about z: `profile` is (radius, height) from the bottom up."""

    def shape(work: Any) -> None:
        rings = []
        for radius, height in profile:
            angles = (2 * math.pi * step / segments for step in range(segments))
            rings.append(
                [work.verts.new((centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a), centre[2] + height)) for a in angles]
            )
        for low, high in itertools.pairwise(rings):
            for i in range(segments):
                j = (i + 1) % segments
                work.faces.new((low[i], low[j], high[j], high[i]))
        work.faces.new(list(reversed(rings[0])))
        work.faces.new(rings[-1])

    return shape


def _arch(inner: float, outer: float, spring: float, depth: float, centre: Sequence[float], steps: int = 24) -> Callable[[Any], object]:
    """A round arch in the xz plane: radii in metres, `spring` the height where the round begins."""

    def shape(work: Any) -> None:
        def outline(radius: float) -> list[tuple[float, float]]:
            round_part = [
                (radius * math.cos(math.pi * step / steps), spring + radius * math.sin(math.pi * step / steps)) for step in range(steps + 1)
            ]
            return [(radius, 0.0), *round_part, (-radius, 0.0)]

        sections = []
        for (xi, zi), (xo, zo) in zip(outline(inner), outline(outer), strict=True):
            corners = ((xi, -depth / 2, zi), (xo, -depth / 2, zo), (xo, depth / 2, zo), (xi, depth / 2, zi))
            sections.append([work.verts.new(Vector(centre) + Vector(corner)) for corner in corners])
        for low, high in itertools.pairwise(sections):
            for i in range(4):
                j = (i + 1) % 4
                work.faces.new((low[i], low[j], high[j], high[i]))
        work.faces.new(sections[0])
        work.faces.new(list(reversed(sections[-1])))
        bmesh.ops.recalc_face_normals(work, faces=work.faces)

    return shape


# -- the set -----------------------------------------------------------------------------------------------------------


def _set(scene: Any, materials: dict[str, Any]) -> None:
    stone = materials["stone"]
    _object(scene, "Ground", materials["ground"], _box((120.0, 120.0, 0.2), (0.0, 30.0, -0.1)))
    column = ((0.62, 0.0), (0.62, 0.22), (0.46, 0.34), (0.43, 0.45), (0.37, 3.0), (0.42, 3.08), (0.58, 3.2), (0.58, 3.42))
    _object(scene, "Column left", stone, _lathe(column, (-2.1, 0.2, 0.0)), bevel=0.02, smooth=True)
    _object(scene, "Column right", stone, _lathe(column, (2.5, 0.9, 0.0)), bevel=0.02, smooth=True)
    _object(scene, "Arch", stone, _arch(1.5, 2.15, 2.0, 0.9, (0.3, 4.4, 0.0)), bevel=0.04)
    for number in range(3):
        step = _box((6.0 - 0.5 * number, 3.2 - 0.6 * number, 0.22), (0.3, 4.6 + 0.3 * number, 0.11 + 0.22 * number))
        _object(scene, f"Step {number + 1}", stone, step, bevel=0.03)
    crate = _object(scene, "Crate", materials["ball"], _box((1.1, 1.1, 1.1), (0.0, 0.0, 0.55)), bevel=0.06)
    crate.location, crate.rotation_euler = (-3.9, 2.4, 0.0), (0.0, 0.0, 0.5)
    block = _object(scene, "Block", stone, _box((1.5, 1.2, 0.8), (0.0, 0.0, 0.4)), bevel=0.06)
    block.location, block.rotation_euler = (4.2, 3.2, 0.0), (0.0, 0.0, -0.35)


# -- what moves --------------------------------------------------------------------------------------------------------


def _ball(scene: Any, material: Any, frames: int) -> None:
    """A ball that rolls without slipping from right to left, behind the right column and in front of the steps."""
    radius = 0.6

    def shape(work: Any) -> None:
        bmesh.ops.create_uvsphere(work, u_segments=48, v_segments=24, radius=radius)

    ball = _object(scene, "Ball", material, shape, smooth=True)
    start, end = Vector((4.1, 2.7, radius)), Vector((1.0, 1.5, radius))
    travelled = (end - start).length
    axis = Vector((0.0, 0.0, 1.0)).cross(end - start).normalized()
    ball.rotation_mode = "QUATERNION"
    for frame in range(1, frames + 1):
        share = (frame - 1) / (frames - 1)
        ball.location = start.lerp(end, share)
        ball.rotation_quaternion = Matrix.Rotation(share * travelled / radius, 4, axis).to_quaternion()
        ball.keyframe_insert("location", frame=frame)
        ball.keyframe_insert("rotation_quaternion", frame=frame)


BONES = {
    # name: (head, tail, parent, thickness at head and tail), in metres, facing -y
    "hips": ((0.0, 0.0, 0.98), (0.0, 0.0, 1.18), None, (0.2, 0.19)),
    "chest": ((0.0, 0.0, 1.18), (0.0, 0.0, 1.58), "hips", (0.19, 0.22)),
    "head": ((0.0, 0.0, 1.66), (0.0, -0.02, 2.0), "chest", (0.1, 0.22)),
    "thigh.L": ((0.13, 0.0, 0.96), (0.15, -0.02, 0.52), "hips", (0.15, 0.11)),
    "shin.L": ((0.15, -0.02, 0.52), (0.15, 0.02, 0.1), "thigh.L", (0.11, 0.08)),
    "foot.L": ((0.15, 0.02, 0.1), (0.15, -0.22, 0.07), "shin.L", (0.085, 0.07)),
    "arm.L": ((0.24, 0.0, 1.55), (0.5, 0.0, 1.25), "chest", (0.1, 0.075)),
    "hand.L": ((0.5, 0.0, 1.25), (0.68, -0.06, 0.96), "arm.L", (0.075, 0.085)),
}


def _mirrored(bones: dict[str, Any]) -> dict[str, Any]:
    both = dict(bones)
    for name, (head, tail, parent, thickness) in bones.items():
        if name.endswith(".L"):
            flip = [(-x, y, z) for x, y, z in (head, tail)]
            both[name[:-2] + ".R"] = (*flip, parent[:-2] + ".R" if parent.endswith(".L") else parent, thickness)
    return both


def _figure(scene: Any, material: Any, frames: int) -> None:
    """A smooth biped on a skeleton that walks from left to right, behind the left column and towards the camera."""
    bones = _mirrored(BONES)
    rig = _skeleton(scene, bones)
    body = _body(scene, material, bones)
    body.parent = rig
    body.modifiers.new("Skeleton", "ARMATURE").object = rig
    smooth = body.modifiers.new("Smooth", "SUBSURF")
    smooth.levels = smooth.render_levels = 1
    _walk(rig, frames)


def _skeleton(scene: Any, bones: dict[str, Any]) -> Any:
    armature = bpy.data.armatures.new("Figure")
    rig = bpy.data.objects.new("Figure rig", armature)
    scene.collection.objects.link(rig)
    previous = bpy.context.window.scene
    bpy.context.window.scene = scene  # edit bones exist only in edit mode, and that only in the window's scene
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    for name, (head, tail, parent, _) in bones.items():
        bone = armature.edit_bones.new(name)
        bone.head, bone.tail = head, tail
        bone.roll = 0.0
        if parent:
            bone.parent = armature.edit_bones[parent]
    bpy.ops.object.mode_set(mode="OBJECT")
    bpy.context.window.scene = previous
    rig.hide_render = True
    return rig


def _body(scene: Any, material: Any, bones: dict[str, Any]) -> Any:
    """One closed skin around the bones: metaballs, meshed, then weighted to the bones by distance."""
    meta = bpy.data.metaballs.new("Figure clay")
    meta.resolution = meta.render_resolution = 0.05
    meta.threshold = 0.35
    for head, tail, _, (thick, thin) in bones.values():
        start, end = Vector(head), Vector(tail)
        count = max(3, math.ceil((end - start).length / 0.05))
        for step in range(count + 1):
            element = meta.elements.new(type="BALL")
            element.co = start.lerp(end, step / count)
            element.radius = 1.55 * (thick + (thin - thick) * step / count)
    clay = bpy.data.objects.new("Figure clay", meta)
    scene.collection.objects.link(clay)
    scene.view_layers[0].update()
    depsgraph = scene.view_layers[0].depsgraph
    mesh = bpy.data.meshes.new_from_object(clay.evaluated_get(depsgraph), depsgraph=depsgraph)
    bpy.data.objects.remove(clay)
    bpy.data.metaballs.remove(meta)
    mesh.name = "Figure"
    mesh.materials.clear()
    mesh.materials.append(material)
    for polygon in mesh.polygons:
        polygon.use_smooth = True
    body = bpy.data.objects.new("Figure", mesh)
    scene.collection.objects.link(body)
    groups = {name: body.vertex_groups.new(name=name) for name in bones}
    for vertex in mesh.vertices:
        nearness = {name: _nearness(vertex.co, *bone) for name, bone in bones.items()}
        total = sum(nearness.values())
        for name, value in nearness.items():
            if value > 0.02 * total:
                groups[name].add([vertex.index], value / total, "REPLACE")
    return body


def _nearness(point: Vector, head: Sequence[float], tail: Sequence[float], parent: object, thickness: tuple[float, float]) -> float:
    """How much a bone holds a point: falls steeply with the distance in units of the limb's own thickness."""
    start, along = Vector(head), Vector(tail) - Vector(head)
    share = min(1.0, max(0.0, (point - start).dot(along) / along.length_squared))
    distance = (point - start - share * along).length / (thickness[0] + (thickness[1] - thickness[0]) * share)
    return float((distance + 0.3) ** -6)


def _walk(rig: Any, frames: int) -> None:
    start, end = Vector((-3.4, 2.0, 0.0)), Vector((-0.35, 0.55, 0.0))
    rig.scale = (1.15, 1.15, 1.15)
    rig.rotation_euler = (0.0, 0.0, math.atan2(end.y - start.y, end.x - start.x) + math.pi / 2)
    stride = 2 * math.pi * 1.25 / (frames - 1)  # one and a quarter double steps in the shot
    pose = rig.pose.bones
    for bone in pose:
        bone.rotation_mode = "XYZ"
    for frame in range(1, frames + 1):
        share, phase = (frame - 1) / (frames - 1), stride * (frame - 1)
        rig.location = start.lerp(end, share) + Vector((0.0, 0.0, 0.03 * math.cos(2 * phase) - 0.03))
        rig.keyframe_insert("location", frame=frame)
        for side, sign in (("L", 1.0), ("R", -1.0)):
            swing = sign * math.sin(phase)
            pose[f"thigh.{side}"].rotation_euler.x = 0.55 * swing
            pose[f"shin.{side}"].rotation_euler.x = -0.25 - 0.45 * max(0.0, sign * math.cos(phase))
            pose[f"foot.{side}"].rotation_euler.x = 0.15 * swing
            pose[f"arm.{side}"].rotation_euler.x = -0.45 * swing
        pose["chest"].rotation_euler.y = 0.12 * math.sin(phase)
        for bone in pose:
            bone.keyframe_insert("rotation_euler", frame=frame)


def _camera(scene: Any, frames: int) -> None:
    """An arc to the right and a push in, eased at both ends, looking a little above the middle of the set."""
    data = bpy.data.cameras.new("Camera")
    data.lens = 32.0
    camera = bpy.data.objects.new("Camera", data)
    scene.collection.objects.link(camera)
    scene.camera = camera
    target = Vector((0.1, 1.6, 1.2))
    for frame in range(1, frames + 1):
        share = (frame - 1) / (frames - 1)
        eased = 0.6 * share + 0.4 * share * share * (3 - 2 * share)
        angle = math.radians(-100 + 16 * eased)
        distance = 8.4 - 1.1 * eased
        camera.location = target + Vector((distance * math.cos(angle), distance * math.sin(angle), 1.2 - 0.15 * eased))
        camera.rotation_euler = (target - camera.location).to_track_quat("-Z", "Y").to_euler()
        camera.keyframe_insert("location", frame=frame)
        camera.keyframe_insert("rotation_euler", frame=frame)


# -- light -------------------------------------------------------------------------------------------------------------


def _light(scene: Any) -> None:
    """A soft sun from the left and a sky that fades from a pale horizon to blue."""
    sun = bpy.data.lights.new("Sun", "SUN")
    sun.energy, sun.angle, sun.color = 3.6, math.radians(6), (1.0, 0.93, 0.84)
    lamp = bpy.data.objects.new("Sun", sun)
    lamp.rotation_euler = Vector((0.75, 0.55, -0.8)).to_track_quat("-Z", "Y").to_euler()
    scene.collection.objects.link(lamp)

    world = bpy.data.worlds.new("Sky")
    if world.node_tree is None:
        world.use_nodes = True
    nodes, links = world.node_tree.nodes, world.node_tree.links
    nodes.clear()
    direction = nodes.new("ShaderNodeTexCoord")
    height = nodes.new("ShaderNodeSeparateXYZ")
    ramp = nodes.new("ShaderNodeValToRGB")
    background = nodes.new("ShaderNodeBackground")
    output = nodes.new("ShaderNodeOutputWorld")
    low, high = ramp.color_ramp.elements
    low.position, low.color = 0.0, (0.82, 0.84, 0.86, 1.0)
    high.position, high.color = 0.45, (0.27, 0.42, 0.62, 1.0)
    background.inputs["Strength"].default_value = 0.75
    links.new(direction.outputs["Generated"], height.inputs["Vector"])
    links.new(height.outputs["Z"], ramp.inputs["Fac"])
    links.new(ramp.outputs["Color"], background.inputs["Color"])
    links.new(background.outputs["Background"], output.inputs["Surface"])
    world.cycles.sampling_method = "MANUAL"
    world.cycles.sample_map_resolution = 64  # a gradient needs no finer map, and building a fine one takes longer than the picture
    scene.world = world

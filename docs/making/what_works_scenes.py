"""The scenes of docs/what-works.md: one kind of thing each, before a patterned wall, with a camera that moves past them.

`python docs/making/what_works_scenes.py OUT [NAME ...]`, with the bpy module, exports each as OUT/NAME/shot, and without the thing as
OUT/NAME/empty, so that it can be told which pixels it makes. Everything glows by itself: a picture that changes has moved.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from medm_blender import compat, passes

SIZE, FRAMES = (336, 224), 4


def build(name: str) -> tuple[Any, list[Any]]:
    """The scene called `name` in a fresh file; returns it, and the objects that are the thing."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = compat.CYCLES
    scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.use_adaptive_sampling = 48, False, False
    scene.cycles.max_bounces = 4
    scene.view_settings.view_transform = "Standard"
    scene.frame_start, scene.frame_end = 1, FRAMES
    wall = _mesh("Wall", lambda: bpy.ops.mesh.primitive_plane_add(size=14, location=(0, 3, 1), rotation=(math.pi / 2, 0, 0)))
    wall.data.materials.append(pattern("Wall", (0.05, 0.09, 0.13), (0.16, 0.24, 0.3), 9.0))
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.rotation_euler = (math.radians(86), 0, 0)
    slide(camera, (-0.15, -6.5, 1.2), (0.1, 0, 0))
    before = set(scene.objects)
    SCENES[name](scene)
    return scene, [thing for thing in scene.objects if thing not in before]


def pattern(name: str, dark: tuple[float, ...], light: tuple[float, ...], scale: float) -> Any:
    """A material that glows in a pattern which sticks to the object: blotches, so that every motion is seen."""
    material = bpy.data.materials.new(name)
    compat.use_nodes(material)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    place = nodes.new("ShaderNodeTexCoord")
    noise = nodes.new("ShaderNodeTexNoise")
    noise.inputs["Scale"].default_value = scale
    ramp = nodes.new("ShaderNodeValToRGB")
    ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[1].position = 0.42, 0.58
    ramp.color_ramp.elements[0].color, ramp.color_ramp.elements[1].color = (*dark, 1), (*light, 1)
    glow, out = nodes.new("ShaderNodeEmission"), nodes.new("ShaderNodeOutputMaterial")
    links.new(place.outputs["Generated"], noise.inputs["Vector"])
    links.new(noise.outputs[0], ramp.inputs[0])
    links.new(ramp.outputs["Color"], glow.inputs["Color"])
    links.new(glow.outputs[0], out.inputs["Surface"])
    return material


def slide(thing: Any, start: tuple[float, ...], by: tuple[float, ...], turn: float = 0.0) -> None:
    """Keyed on every frame: `by` metres a frame, and `turn` radians about z."""
    for frame in range(0, FRAMES + 2):
        thing.location = [a + b * (frame - 1) for a, b in zip(start, by, strict=True)]
        thing.rotation_euler.z = turn * (frame - 1)
        thing.keyframe_insert("location", frame=frame)
        thing.keyframe_insert("rotation_euler", frame=frame)


def _mesh(name: str, add: Callable[[], object]) -> Any:
    add()
    made = bpy.context.object
    made.name = name
    return made


def _sphere(name: str, material: Any, radius: float = 0.9) -> Any:
    ball = _mesh(name, lambda: bpy.ops.mesh.primitive_uv_sphere_add(radius=radius, segments=48, ring_count=24))
    for face in ball.data.polygons:
        face.use_smooth = True
    ball.data.materials.append(material)
    return ball


# -- the things --------------------------------------------------------------------------------------------------------


def hair(scene: Any) -> None:
    """A ball with 900 hairs of a particle system; thick ones, as in close-up."""
    ball = _sphere("Furry", pattern("Skin", (0.3, 0.12, 0.06), (0.75, 0.4, 0.2), 4.0), 0.7)
    ball.data.materials.append(pattern("Hair", (0.4, 0.2, 0.05), (0.95, 0.75, 0.35), 5.0))
    grown = ball.modifiers.new("Hair", "PARTICLE_SYSTEM").particle_system.settings
    grown.type, grown.count, grown.hair_length, grown.hair_step = "HAIR", 900, 0.45, 4
    grown.root_radius, grown.tip_radius, grown.radius_scale = 1.0, 0.2, 0.03
    grown.material = 2
    slide(ball, (0, 0, 1), (-0.05, 0, 0), 0.04)


def volume(scene: Any) -> None:
    """A cloud in a box, and a ball half in it."""
    box = _mesh("Cloud", lambda: bpy.ops.mesh.primitive_cube_add(size=1.9))
    cloud = bpy.data.materials.new("Cloud")
    compat.use_nodes(cloud)
    nodes, links = cloud.node_tree.nodes, cloud.node_tree.links
    nodes.clear()
    glow, out = nodes.new("ShaderNodeVolumePrincipled"), nodes.new("ShaderNodeOutputMaterial")
    glow.inputs["Density"].default_value, glow.inputs["Emission Strength"].default_value = 1.2, 0.9
    links.new(glow.outputs[0], out.inputs["Volume"])
    box.data.materials.append(cloud)
    slide(box, (-0.4, 0, 1), (0.12, 0, 0))
    ball = _sphere("Ball", pattern("Ball", (0.5, 0.1, 0.05), (0.95, 0.5, 0.2), 3.0), 0.6)
    slide(ball, (0.9, -0.2, 1), (-0.05, 0, 0))


def transparency(scene: Any) -> None:
    """From left to right: a cut-out, a pane of one third opacity, a ball of glass."""
    for name, place, opacity in (("Cut-out", (-1.6, 0, 1), None), ("Pane", (0, 0, 1), 0.33)):
        pane = _mesh(name, lambda: bpy.ops.mesh.primitive_plane_add(size=1.3))
        pane.rotation_euler.x = math.pi / 2
        pane.data.materials.append(_see_through(name, opacity))
        slide(pane, place, (0.06, 0, 0.03))
    glass = bpy.data.materials.new("Glass")
    compat.use_nodes(glass)
    nodes, links = glass.node_tree.nodes, glass.node_tree.links
    nodes.clear()
    bend, out = nodes.new("ShaderNodeBsdfGlass"), nodes.new("ShaderNodeOutputMaterial")
    bend.inputs["Roughness"].default_value = 0.0
    links.new(bend.outputs[0], out.inputs["Surface"])
    slide(_sphere("Glass ball", glass, 0.7), (1.6, 0, 1), (-0.06, 0, 0.03))


def _see_through(name: str, opacity: float | None) -> Any:
    """`pattern` with holes where it is dark, or as opaque as said."""
    material = pattern(name, (0.1, 0.3, 0.1), (0.5, 0.9, 0.4), 5.0)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    mix, clear = nodes.new("ShaderNodeMixShader"), nodes.new("ShaderNodeBsdfTransparent")
    glow, out = nodes["Emission"], nodes["Material Output"]
    links.new(clear.outputs[0], mix.inputs[1])
    links.new(glow.outputs[0], mix.inputs[2])
    links.new(mix.outputs[0], out.inputs["Surface"])
    if opacity is None:
        step = nodes.new("ShaderNodeMath")
        step.operation, step.inputs[1].default_value = "GREATER_THAN", 0.5
        links.new(nodes["Noise Texture"].outputs[0], step.inputs[0])
        links.new(step.outputs[0], mix.inputs[0])
    else:
        mix.inputs[0].default_value = opacity
    return material


def particles(scene: Any) -> None:
    """Cubes that a plane throws up, and that fall and turn."""
    cube = _mesh("Chip", lambda: bpy.ops.mesh.primitive_cube_add(size=1.0, location=(0, 60, 0)))
    cube.data.materials.append(pattern("Chip", (0.55, 0.2, 0.05), (0.98, 0.7, 0.25), 2.0))
    source = _mesh("Source", lambda: bpy.ops.mesh.primitive_plane_add(size=2.5, location=(0, 0, -1.2)))
    source.show_instancer_for_render = False
    thrown = source.modifiers.new("Throw", "PARTICLE_SYSTEM").particle_system.settings
    thrown.count, thrown.frame_start, thrown.frame_end, thrown.lifetime = 90, -40, -5, 200
    thrown.normal_factor, thrown.factor_random = 4.5, 0.6
    thrown.effector_weights.gravity = 0.35
    thrown.use_rotations, thrown.angular_velocity_mode, thrown.angular_velocity_factor = True, "RAND", 3.0
    thrown.render_type, thrown.instance_object = "OBJECT", cube
    thrown.particle_size, thrown.size_random = 0.32, 0.4
    # One frame more than the shot: the last one's motion leads there. Bake All goes by the scene's end.
    scene.frame_end = source.particle_systems[0].point_cache.frame_end = FRAMES + 1
    bpy.ops.ptcache.bake_all(bake=True)
    scene.frame_end = FRAMES


def instancing(scene: Any) -> None:
    """A collection, instanced twice and moved; and cubes on a grid by geometry nodes, which turn with time."""
    ball = _sphere("Pip", pattern("Pip", (0.1, 0.2, 0.5), (0.4, 0.7, 0.98), 3.0), 0.45)
    group = bpy.data.collections.new("Group")
    group.objects.link(ball)
    scene.collection.objects.unlink(ball)
    for number, place in enumerate(((-1.7, 0, 1.7), (-1.5, 0, 0.4))):
        empty = bpy.data.objects.new(f"Instance {number}", None)
        empty.instance_type, empty.instance_collection = "COLLECTION", group
        scene.collection.objects.link(empty)
        slide(empty, place, (0.06, 0, -0.04 * number), 0.1)
    cube = _mesh("Brick", lambda: bpy.ops.mesh.primitive_cube_add(size=0.42, location=(0, 60, 0)))
    cube.data.materials.append(pattern("Brick", (0.5, 0.15, 0.1), (0.98, 0.65, 0.4), 2.0))
    holder = _mesh("Grid", lambda: bpy.ops.mesh.primitive_plane_add(size=1, location=(0.9, 0, 1)))
    tree = bpy.data.node_groups.new("Bricks", "GeometryNodeTree")
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    nodes, links = tree.nodes, tree.links
    grid, put = nodes.new("GeometryNodeMeshGrid"), nodes.new("GeometryNodeInstanceOnPoints")
    what, clock = nodes.new("GeometryNodeObjectInfo"), nodes.new("GeometryNodeInputSceneTime")
    turn, axes, out = nodes.new("ShaderNodeMath"), nodes.new("ShaderNodeCombineXYZ"), nodes.new("NodeGroupOutput")
    for socket, value in (("Size X", 2.1), ("Size Y", 1.6), ("Vertices X", 4), ("Vertices Y", 3)):
        grid.inputs[socket].default_value = value
    what.inputs["Object"].default_value = cube
    turn.operation, turn.inputs[1].default_value = "MULTIPLY", 0.12
    links.new(clock.outputs["Frame"], turn.inputs[0])
    links.new(turn.outputs[0], axes.inputs["X"])
    links.new(axes.outputs[0], put.inputs["Rotation"])
    links.new(grid.outputs["Mesh"], put.inputs["Points"])
    links.new(what.outputs["Geometry"], put.inputs["Instance"])
    links.new(put.outputs[0], out.inputs[0])
    holder.modifiers.new("Bricks", "NODES").node_group = tree
    holder.rotation_euler.x = math.pi / 2


def text(scene: Any) -> None:
    """Extruded letters that fly past."""
    curve = bpy.data.curves.new("Text", "FONT")
    curve.body, curve.extrude, curve.bevel_depth, curve.size = "MeDM", 0.12, 0.02, 1.35
    curve.align_x = "CENTER"
    letters = bpy.data.objects.new("Text", curve)
    scene.collection.objects.link(letters)
    curve.materials.append(pattern("Text", (0.45, 0.1, 0.3), (0.98, 0.55, 0.75), 6.0))
    letters.rotation_euler.x = math.pi / 2
    slide(letters, (-0.2, 0, 0.55), (0.08, -0.1, 0.02), 0.05)


def grease_pencil(scene: Any) -> None:
    """A drawn monkey, moved."""
    bpy.ops.object.grease_pencil_add(type="MONKEY", location=(0, 0, 1))
    drawn = bpy.context.object
    drawn.scale = (1.2, 1.2, 1.2)
    drawn.use_grease_pencil_lights = False
    slide(drawn, (-0.3, 0, 1), (0.1, 0, 0))


SCENES: dict[str, Callable[[Any], None]] = {
    made.__name__: made for made in (hair, volume, transparency, particles, instancing, text, grease_pencil)
}


def export(name: str, out: Path) -> None:
    """Both shots of a scene."""
    scene, things = build(name)
    bpy.ops.wm.save_as_mainfile(filepath=str(out / f"{name}.blend"), check_existing=False)
    passes.export_shot(scene, out / "shot", name=name, size=SIZE)
    for thing in things:
        thing.hide_render = True
    passes.export_shot(scene, out / "empty", name=f"{name} without it", size=SIZE)


def main(arguments: list[str]) -> int:
    """Command line; see the module's first lines."""
    out = Path(arguments[0]).absolute()
    for name in arguments[1:] or SCENES:
        (out / name).mkdir(parents=True, exist_ok=True)
        export(name, out / name)
        print(f"[scene] {name}", flush=True)
    return 0


if __name__ == "__main__":
    compat.leave(main(sys.argv[1:]))

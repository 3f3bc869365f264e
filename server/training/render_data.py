"""Training data: random scenes rendered by Blender, each with its G-buffer as control channels and its picture in a look or several.

Run under Blender's Python module, as many processes as there are cores:

    PYTHONPATH=server .venv-bpy/bin/python server/training/render_data.py --out server/training/runs/data --count 2000 --seed 0

Each scene leaves `<n>.npy` (uint8, 5 x S x S: the channels that `medm.diffusion.control` makes for the bundled model) and
`<n>_<look>.png`. Scenes that are there are skipped, so that the command can be repeated and extended.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from pathlib import Path

import bpy
import numpy as np
import OpenEXR
from mathutils import Vector

from medm.diffusion.control import View, control_images

LOOKS = ("terracotta", "gold", "neon", "porcelain")
CONTROLS = ("normal", "depth", "lineart")


# --- scenes -----------------------------------------------------------------------------------------------------------


def _mesh_object(rng: random.Random, kind: str) -> bpy.types.Object:
    """One primitive about a unit across, at the origin."""
    ops = bpy.ops.mesh
    if kind == "box":
        ops.primitive_cube_add(size=1.0)
    elif kind == "ball":
        ops.primitive_uv_sphere_add(radius=0.5, segments=48, ring_count=24)
    elif kind == "column":
        ops.primitive_cylinder_add(radius=0.3, depth=1.0, vertices=48)
    elif kind == "cone":
        ops.primitive_cone_add(radius1=0.5, radius2=rng.choice((0.0, 0.2)), depth=1.0, vertices=48)
    elif kind == "ring":
        ops.primitive_torus_add(major_radius=0.4, minor_radius=rng.uniform(0.08, 0.18), major_segments=48, minor_segments=16)
    elif kind == "head":
        ops.primitive_monkey_add(size=0.8)
        bpy.context.object.modifiers.new("round", "SUBSURF").render_levels = 2
    else:
        ops.primitive_ico_sphere_add(radius=0.5, subdivisions=rng.choice((1, 2)))
    thing = bpy.context.object
    smooth = kind in ("ball", "ring", "head") or (kind in ("column", "cone") and rng.random() < 0.7)
    for polygon in thing.data.polygons:
        polygon.use_smooth = smooth and (kind not in ("column", "cone") or len(polygon.vertices) == 4)
    if kind in ("box", "column") and rng.random() < 0.6:
        bevel = thing.modifiers.new("bevel", "BEVEL")
        bevel.width, bevel.segments = rng.uniform(0.02, 0.1), 3
    return thing


def _figure(rng: random.Random, place: Vector, height: float) -> None:
    """A smooth body in a random pose, from metaballs: what a character looks like in previs."""
    meta = bpy.data.metaballs.new("figure")
    meta.resolution = meta.render_resolution = 0.035 * height
    thing = bpy.data.objects.new("figure", meta)
    bpy.context.scene.collection.objects.link(thing)
    turn = rng.uniform(0, 2 * math.pi)
    thing.location, thing.rotation_euler = place, (0, 0, turn)

    def limb(start: Vector, directions: list[Vector], length: float, thick: float) -> None:
        at = start
        for direction in directions:
            step = direction.normalized() * length
            for k in range(6):
                ball = meta.elements.new()
                ball.co, ball.radius = at + step * (k / 5), thick * (1.0 - 0.04 * k)
            at = at + step

    def pointing(down: float, spread: float) -> Vector:
        return Vector((rng.uniform(-0.8, 0.8), spread + rng.uniform(-0.4, 0.4), -down))

    h = height
    limb(Vector((0, 0, 0.5 * h)), [Vector((rng.uniform(-0.2, 0.2), rng.uniform(-0.1, 0.1), 1.0))], 0.28 * h, 0.19 * h)
    limb(Vector((0, 0, 0.93 * h)), [Vector((0, 0, 1))], 0.04 * h, 0.16 * h)
    for side in (-1, 1):
        limb(
            Vector((0, 0.09 * h * side, 0.48 * h)), [pointing(1.6, 0.2 * side), Vector((rng.uniform(-0.5, 0.2), 0, -1))], 0.24 * h, 0.11 * h
        )
        limb(
            Vector((0, 0.14 * h * side, 0.78 * h)),
            [pointing(rng.uniform(-0.8, 1.2), side), pointing(rng.uniform(-1, 1), side)],
            0.19 * h,
            0.085 * h,
        )

    # a mesh from here on: metaballs would be tessellated anew for every render
    bpy.context.view_layer.update()
    mesh = bpy.data.meshes.new_from_object(thing.evaluated_get(bpy.context.evaluated_depsgraph_get()))
    mesh.shade_smooth()
    body = bpy.data.objects.new("figure", mesh)
    body.matrix_world = thing.matrix_world
    bpy.context.scene.collection.objects.link(body)
    bpy.data.objects.remove(thing)


def build_scene(rng: random.Random, size: int) -> tuple[bpy.types.Object, float]:
    """A fresh random scene; returns its ground (or None) and the distance that textures are scaled for."""
    for block in (bpy.data.objects, bpy.data.meshes, bpy.data.metaballs, bpy.data.cameras, bpy.data.lights, bpy.data.materials):
        for item in list(block):
            block.remove(item)
    scene = bpy.context.scene

    ground = None
    if rng.random() < 0.93:
        bpy.ops.mesh.primitive_plane_add(size=400)
        ground = bpy.context.object
        ground.name = "ground"
    kinds = ("box", "ball", "column", "cone", "ring", "head", "gem")
    weights = (5, 3, 4, 1.5, 1.5, 1.5, 1)
    spread = rng.uniform(2.0, 5.0)
    if rng.random() < 0.45:  # walls, steps and arches: big flat sides
        for _ in range(rng.randint(1, 3)):
            wall = _mesh_object(rng, "box")
            wall.scale = (rng.uniform(1, 6), rng.uniform(0.3, 1.5), rng.uniform(0.4, 5))
            wall.location = (rng.uniform(-spread, spread), rng.uniform(0, spread * 1.5), wall.scale.z * 0.5)
            wall.rotation_euler.z = rng.choice((0, 0, rng.uniform(-1, 1)))
    if rng.random() < 0.3:
        for k in range(rng.randint(3, 6)):
            step = _mesh_object(rng, "box")
            step.scale, step.location = (3, 0.5, 0.25 * (k + 1)), (rng.uniform(-0.05, 0.05) - 1, 1 + 0.5 * k, 0.125 * (k + 1))
    for _ in range(rng.randint(2, 9)):
        kind = rng.choices(kinds, weights)[0]
        thing = _mesh_object(rng, kind)
        base = rng.uniform(0.5, 2.2)
        stretch = rng.uniform(1.5, 4.0) if kind == "column" else rng.uniform(0.7, 1.5)
        thing.scale = (
            (base * rng.uniform(0.7, 1.3), base * rng.uniform(0.7, 1.3), base * stretch) if kind in ("box", "column") else (base,) * 3
        )
        floating = rng.random() < 0.15
        half = 0.5 * thing.scale.z * (0.8 if kind == "head" else 0.35 if kind == "ring" else 1.0)
        thing.location = (rng.uniform(-spread, spread), rng.uniform(-spread, spread), half + (rng.uniform(0.3, 2) if floating else 0))
        free = kind in ("ring", "gem", "head") or floating
        thing.rotation_euler = (rng.uniform(-0.6, 0.6) if free else 0, rng.uniform(-0.6, 0.6) if free else 0, rng.uniform(0, 2 * math.pi))
    for _ in range(rng.choice((0, 1, 1, 2))):
        _figure(rng, Vector((rng.uniform(-2, 2), rng.uniform(-2, 1.5), 0)), rng.uniform(1.5, 2.6))

    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.data.lens = rng.uniform(24, 65)
    camera.data.sensor_fit = "AUTO"
    distance = rng.uniform(2.5, 5.5) * camera.data.lens / 32
    angle, rise = rng.uniform(-0.9, 0.9), rng.uniform(0.0, 0.55)
    target = Vector((rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.5, 1.8)))
    camera.location = target + distance * Vector((math.sin(angle) * math.cos(rise), -math.cos(angle) * math.cos(rise), math.sin(rise)))
    camera.location.z = max(camera.location.z, 0.3)
    camera.rotation_euler = (target - camera.location).to_track_quat("-Z", "Y").to_euler()
    camera.rotation_euler.y += rng.gauss(0, 0.03)
    return ground, distance * 36.0 / camera.data.lens / size  # world size of a pixel at the target


# --- looks ------------------------------------------------------------------------------------------------------------


class _Nodes:
    """A material's or world's node tree with a short way to add to it."""

    def __init__(self, block: bpy.types.Material | bpy.types.World) -> None:
        block.use_nodes = True
        self.tree = block.node_tree
        self.tree.nodes.clear()

    def add(self, kind: str, inputs: dict[str | int, object] | None = None, **settings: object) -> bpy.types.Node:
        node = self.tree.nodes.new(kind)
        for key, value in settings.items():
            setattr(node, key, value)
        for key, value in (inputs or {}).items():
            if isinstance(value, bpy.types.NodeSocket):
                self.tree.links.new(value, node.inputs[key])
            else:
                node.inputs[key].default_value = value
        return node

    def blobs(self, rng: random.Random, pixel: float, pixels: float, edge: float, level: float = 0.5) -> bpy.types.NodeSocket:
        """0..1 blobs about `pixels` wide on the surface, anywhere: what the control channels do not tell, so the noise decides."""
        place = self.add("ShaderNodeNewGeometry").outputs["Position"]
        moved = self.add("ShaderNodeVectorMath", {0: place, 1: [rng.uniform(-100, 100) for _ in range(3)]}, operation="ADD").outputs[0]
        noise = self.add("ShaderNodeTexNoise", {"Vector": moved, "Scale": 1.0 / (pixel * pixels), "Detail": 1.0, "Roughness": 0.4})
        ramp = self.add("ShaderNodeMapRange", {0: noise.outputs[0], 1: level - edge, 2: level + edge}, interpolation_type="SMOOTHSTEP")
        return ramp.outputs[0]

    def mix(self, factor: bpy.types.NodeSocket, a: object, b: object) -> bpy.types.NodeSocket:
        node = self.add("ShaderNodeMix", data_type="RGBA")
        self.tree.links.new(factor, node.inputs[0])
        for socket, value in ((node.inputs[6], a), (node.inputs[7], b)):
            if isinstance(value, bpy.types.NodeSocket):
                self.tree.links.new(value, socket)
            else:
                socket.default_value = (*value, 1.0)
        return node.outputs[2]

    def surface(self, shader: bpy.types.Node) -> None:
        out = self.add("ShaderNodeOutputWorld" if shader.bl_idname == "ShaderNodeBackground" else "ShaderNodeOutputMaterial")
        self.tree.links.new(shader.outputs[0], out.inputs[0])


def _vary(rng: random.Random, colour: tuple[float, float, float], amount: float = 0.08) -> tuple[float, ...]:
    return tuple(max(0.0, c * (1 + rng.uniform(-amount, amount))) for c in colour)


def _material(look: str, part: str, rng: random.Random, pixel: float) -> bpy.types.Material:
    """The material of `look` for the ground or for the things that stand on it."""
    material = bpy.data.materials.new(f"{look} {part}")
    n = _Nodes(material)
    roughness, metallic, normal, emission = 0.8, 0.0, None, None
    if look == "terracotta":
        if part == "things":
            colour = n.mix(n.blobs(rng, pixel, 26, 0.04, 0.56), _vary(rng, (0.60, 0.20, 0.085)), _vary(rng, (0.30, 0.085, 0.045)))
        else:
            colour = n.mix(n.blobs(rng, pixel, 40, 0.2), _vary(rng, (0.70, 0.53, 0.34)), _vary(rng, (0.60, 0.42, 0.25)))
    elif look == "gold":
        if part == "things":
            colour, metallic, roughness = n.mix(n.blobs(rng, pixel, 30, 0.2), (1.0, 0.66, 0.18), (0.95, 0.50, 0.10)), 1.0, 0.28
            bump = n.add("ShaderNodeBump", {"Height": n.blobs(rng, pixel, 16, 0.3), "Strength": 0.35, "Distance": pixel * 8})
            normal = bump.outputs[0]
        else:
            colour, roughness = n.mix(n.blobs(rng, pixel, 40, 0.1), (0.012, 0.045, 0.04), (0.02, 0.07, 0.06)), 0.35
    elif look == "neon":
        facing = n.add("ShaderNodeLayerWeight", {"Blend": 0.35}).outputs["Facing"]
        if part == "things":
            colour = n.mix(facing, (0.012, 0.01, 0.05), (0.02, 0.02, 0.08))
            glow = n.mix(n.blobs(rng, pixel, 30, 0.05), (1.0, 0.03, 0.55), (0.02, 0.65, 1.0))
            rim = n.add("ShaderNodeMath", {0: facing, 1: 2.0}, operation="POWER").outputs[0]
            power = n.add("ShaderNodeMath", {0: rim, 1: 2.2, 2: 0.06}, operation="MULTIPLY_ADD").outputs[0]
            emission, roughness = (glow, power), 0.4
        else:
            colour, roughness = n.mix(n.blobs(rng, pixel, 40, 0.2), (0.02, 0.008, 0.05), (0.035, 0.012, 0.09)), 0.3
    else:
        if part == "things":
            colour = n.mix(n.blobs(rng, pixel, 18, 0.03, 0.58), (0.86, 0.87, 0.88), _vary(rng, (0.02, 0.07, 0.42)))
            roughness = 0.12
        else:
            colour = n.mix(n.blobs(rng, pixel, 40, 0.2), _vary(rng, (0.50, 0.58, 0.60), 0.04), _vary(rng, (0.42, 0.50, 0.53), 0.04))
    inputs: dict[str | int, object] = {"Base Color": colour, "Roughness": roughness, "Metallic": metallic}
    if normal is not None:
        inputs["Normal"] = normal
    if emission is not None:
        inputs["Emission Color"], inputs["Emission Strength"] = emission
    n.surface(n.add("ShaderNodeBsdfPrincipled", inputs))
    return material


SKIES = {  # colour at the horizon, at the zenith, strength as a light, strength and colour of the sun
    "terracotta": ((0.95, 0.72, 0.50), (0.36, 0.56, 0.80), 0.55, 3.6, (1.0, 0.86, 0.66)),
    "gold": ((0.10, 0.22, 0.22), (0.01, 0.035, 0.04), 1.3, 3.4, (1.0, 0.9, 0.75)),
    "neon": ((0.20, 0.02, 0.26), (0.008, 0.006, 0.06), 0.7, 0.5, (0.35, 0.5, 1.0)),
    "porcelain": ((0.90, 0.92, 0.94), (0.66, 0.78, 0.90), 0.5, 2.6, (1.0, 0.98, 0.95)),
}


def apply_look(look: str, rng: random.Random, ground: bpy.types.Object | None, pixel: float) -> None:
    """Materials, sky and sun of `look`; the sun stands somewhere to the upper left behind the camera."""
    scene = bpy.context.scene
    things = _material(look, "things", rng, pixel)
    for thing in scene.objects:
        if thing.type == "MESH":
            thing.data.materials.clear()
            thing.data.materials.append(_material(look, "ground", rng, pixel) if thing is ground else things)
    horizon, zenith, light, power, tint = SKIES[look]
    scene.world = scene.world or bpy.data.worlds.new("sky")
    # a smooth sky needs no fine map of where its light comes from; the automatic one costs a second a render
    scene.world.cycles.sampling_method, scene.world.cycles.sample_map_resolution = "MANUAL", 64
    n = _Nodes(scene.world)
    height = n.add("ShaderNodeSeparateXYZ", {0: n.add("ShaderNodeTexCoord").outputs["Generated"]}).outputs[2]
    up = n.add("ShaderNodeMapRange", {0: height, 1: 0.0, 2: 0.45}, interpolation_type="SMOOTHSTEP").outputs[0]
    colour = n.mix(up, _vary(rng, horizon, 0.05), _vary(rng, zenith, 0.05))
    if look == "gold":  # metal needs something bright to mirror that the camera does not see
        panel = n.add("ShaderNodeMapRange", {0: height, 1: 0.25, 2: 0.6}, interpolation_type="SMOOTHSTEP").outputs[0]
        seen = n.add("ShaderNodeLightPath").outputs["Is Camera Ray"]
        colour = n.mix(seen, n.mix(panel, (0.08, 0.1, 0.1), (1.3, 1.2, 1.0)), colour)
    seen = n.add("ShaderNodeLightPath").outputs["Is Camera Ray"]
    strength = n.add("ShaderNodeMix", {0: seen, 2: light, 3: 1.0}).outputs[0]
    n.surface(n.add("ShaderNodeBackground", {0: colour, 1: strength}))
    for old in [o for o in scene.objects if o.type == "LIGHT"]:
        bpy.data.objects.remove(old)
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    scene.collection.objects.link(sun)
    sun.data.energy, sun.data.color, sun.data.angle = power, tint, 0.08
    bearing = scene.camera.rotation_euler.z + math.radians(-50 + rng.uniform(-25, 25))
    sun.rotation_euler = (math.radians(rng.uniform(40, 58)), 0, bearing)


# --- rendering --------------------------------------------------------------------------------------------------------


def _prepare(size: int, samples: int, threads: int) -> None:
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.resolution_percentage = 100
    scene.render.threads_mode, scene.render.threads = "FIXED", threads
    scene.cycles.samples, scene.cycles.use_adaptive_sampling = samples, False
    scene.cycles.denoising_quality = "BALANCED"
    scene.cycles.max_bounces, scene.cycles.diffuse_bounces = 3, 2
    scene.view_settings.view_transform = "Standard"
    layer = scene.view_layers[0]
    layer.use_pass_z = layer.use_pass_normal = layer.use_pass_cryptomatte_object = True


def render_control(path: Path, samples: int) -> np.ndarray:
    """Renders the data passes at one sample and returns the control channels, uint8 (5, S, S)."""
    scene = bpy.context.scene
    settings = scene.render.image_settings
    scene.cycles.samples, scene.cycles.use_denoising = 1, False
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format, settings.color_depth = "OPEN_EXR_MULTILAYER", "32"
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    scene.cycles.samples, scene.cycles.use_denoising = samples, True
    channels: dict[str, np.ndarray] = {}
    for part in OpenEXR.File(str(path), separate_channels=True).parts:
        channels |= {name.split(".", 1)[1]: channel.pixels for name, channel in part.channels.items() if "." in name}
    world = np.stack([channels[f"Normal.{c}"] for c in "XYZ"], -1)
    rotation = np.array(scene.camera.matrix_world.to_3x3().normalized(), np.float32)
    crypto = next(channels[k] for k in ("CryptoObject00.r", "CryptoObject00.R") if k in channels)
    view = View(
        normals=(world @ rotation).astype(np.float32)[None],
        depth=channels["Depth.Z"][None],
        object_id=crypto.view(np.int32)[None],
    )
    return np.round(control_images(view, CONTROLS, 5)[0] * 255).astype(np.uint8)


def render_picture(path: Path) -> None:
    """Renders the beauty to `path`, a PNG."""
    scene = bpy.context.scene
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "IMAGE"
    settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGB", "8"
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4000, help="scenes to render")
    parser.add_argument("--seed", type=int, default=0, help="number of the first scene")
    parser.add_argument("--size", type=int, default=160, help="pixels a side")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--looks", type=int, default=1, help="looks a scene")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    _prepare(args.size, args.samples, args.threads)
    exr = Path(tempfile.mkdtemp()) / "data.exr"
    for number in range(args.seed, args.seed + args.count):
        target = args.out / f"{number:06d}.npy"
        if target.exists():
            continue
        rng = random.Random(number)
        ground, pixel = build_scene(rng, args.size)
        control = render_control(exr, args.samples)
        for look in rng.sample(LOOKS, args.looks):
            apply_look(look, rng, ground, pixel)
            render_picture(args.out / f"{number:06d}_{look}.png")
        np.save(target, control)  # last: its presence says that the scene is complete
        print(f"scene {number}", file=sys.stderr)


if __name__ == "__main__":
    main()

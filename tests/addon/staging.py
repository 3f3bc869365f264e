"""Small scenes for the tests, and readers of what Blender wrote that share no code with the add-on."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import OpenEXR
from mathutils import Euler, Vector

SIZE = (64, 40)


def empty_file():
    """A factory-fresh file without objects; its scene renders 64x40 with Cycles."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 1
    scene.cycles.use_denoising = False
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    scene.frame_start, scene.frame_end = 1, 3
    return scene


def add_camera(scene, name="Camera", location=(0, 0, 10), rotation=(0, 0, 0), **properties):
    data = bpy.data.cameras.new(name)
    for key, value in properties.items():
        setattr(data, key, value)
    camera = bpy.data.objects.new(name, data)
    camera.location, camera.rotation_euler = location, rotation
    scene.collection.objects.link(camera)
    scene.camera = scene.camera or camera
    return camera


def add_plane(scene, name="Plane", size=(20, 20), location=(0, 0, 0), rotation=(0, 0, 0)):
    x, y = size[0] / 2, size[1] / 2
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata([(-x, -y, 0), (x, -y, 0), (x, y, 0), (-x, y, 0)], [], [(0, 1, 2, 3)])
    plane = bpy.data.objects.new(name, mesh)
    plane.location, plane.rotation_euler = location, rotation
    scene.collection.objects.link(plane)
    return plane


def add_grid(scene, name="Grid", size=4.0, cells=20, location=(0, 0, 0)):
    """A square of `cells` x `cells` faces."""
    ticks = [(i / cells - 0.5) * size for i in range(cells + 1)]
    points = [(x, y, 0.0) for y in ticks for x in ticks]
    corners = [j * (cells + 1) + i for j in range(cells) for i in range(cells)]
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(points, [], [(a, a + 1, a + cells + 2, a + cells + 1) for a in corners])
    grid = bpy.data.objects.new(name, mesh)
    grid.location = location
    scene.collection.objects.link(grid)
    return grid


def slide(x):
    """How far the places x of an `add_bending_plane` are moved at frame 3: to the right, most in the middle, and never past each other."""
    return 0.8 * np.exp(-(x**2))


def add_bending_plane(scene, name="Bender", location=(0, 0, 0)):
    """A square of 4 whose points slide to the right from frame 1 to frame 3, held by a shape key."""
    grid = add_grid(scene, name, location=location)
    grid.shape_key_add(name="Basis")
    key = grid.shape_key_add(name="Slid")
    for point in key.data:
        point.co.x += float(slide(point.co.x))
    for frame, value in ((1, 0.0), (3, 1.0)):
        key.value = value
        key.keyframe_insert("value", frame=frame)
    return grid


def move_evenly(thing, frames, *, by=(0, 0, 0), turn=(0, 0, 0)):
    """Key location and rotation on every frame: `by` metres and `turn` radians a frame, zero at frame 1."""
    start, angles = Vector(thing.location), Vector(thing.rotation_euler)
    for frame in frames:
        thing.location = start + Vector(by) * (frame - 1)
        thing.rotation_euler = Euler(angles + Vector(turn) * (frame - 1))
        thing.keyframe_insert("location", frame=frame)
        thing.keyframe_insert("rotation_euler", frame=frame)


def read_exr(file):
    """Channels of an EXR by `Pass.c`, whatever the view layer is called: float arrays (H, W)."""
    channels = {}
    for part in OpenEXR.File(str(file), separate_channels=True).parts:
        for name, channel in part.channels.items():
            channels[".".join(name.rsplit(".", 2)[-2:])] = channel.pixels
    return channels


def read_png(file):
    """(H, W, 3) uint8, without any colour management."""
    image = bpy.data.images.load(str(file))
    try:
        image.colorspace_settings.name = "Non-Color"
        width, height = image.size
        pixels = np.empty(width * height * 4, np.float32)
        image.pixels.foreach_get(pixels)
        return np.round(pixels.reshape(height, width, 4)[::-1, :, :3] * 255).astype(np.uint8)
    finally:
        bpy.data.images.remove(image)


def write_png(file, pixels):
    """Write (H, W, 3) uint8 as it is."""
    height, width, _ = pixels.shape
    image = bpy.data.images.new("to be written", width, height)
    try:
        image.colorspace_settings.name = "Non-Color"
        rgba = np.ones((height, width, 4), np.float32)
        rgba[..., :3] = pixels[::-1] / np.float32(255)
        image.pixels.foreach_set(rgba.ravel())
        image.file_format = "PNG"
        image.filepath_raw = str(file)
        image.save()
    finally:
        bpy.data.images.remove(image)


def read_shot(folder):
    """manifest, and per frame number: the channels, the camera's matrices."""
    folder = Path(folder)
    manifest = json.loads((folder / "shot.json").read_text())
    frames = {entry["frame"]: SimpleNamespace(entry=entry, **_frame(folder, entry)) for entry in manifest["frames"]}
    return SimpleNamespace(manifest=manifest, frames=frames, folder=folder)


def _frame(folder, entry):
    channels = read_exr(folder / entry["data"])
    stack = lambda name, letters: np.stack([channels[f"{name}.{c}"] for c in letters], axis=-1).astype(np.float64)  # noqa: E731
    vector = stack("Vector", "XYZW")
    return {
        "channels": channels,
        "normal": stack("Normal", "XYZ"),
        "position": stack("Position", "XYZ"),
        "flow_to_prev": np.stack([vector[..., 0], -vector[..., 1]], axis=-1),
        "flow_to_next": np.stack([-vector[..., 2], vector[..., 3]], axis=-1),
        "view": np.array(entry["camera"]["world_to_camera"]),
        "projection": np.array(entry["camera"]["projection"]),
    }


def project(points, frame, width, height):
    """World points (..., 3) to pixels (..., 2) by the manifest's camera: x right, y down, pixel centres at whole numbers."""
    clip = np.concatenate([points, np.ones_like(points[..., :1])], axis=-1) @ (frame.projection @ frame.view).T
    ndc = clip[..., :2] / clip[..., 3:]
    return np.stack([(ndc[..., 0] + 1) / 2 * width - 0.5, (1 - ndc[..., 1]) / 2 * height - 0.5], axis=-1)


def pixel_grid(width, height):
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y], axis=-1).astype(np.float64)


def dump_file():
    """All that a user could notice in the open file: every datablock's name and users, every property of what an export touches."""
    found = {}
    for collection in bpy.data.bl_rna.properties:
        if collection.type != "COLLECTION":
            continue
        for block in getattr(bpy.data, collection.identifier):
            where = f"{collection.identifier}[{block.name}]"
            found[f"{where}.users"] = block.users
            if collection.identifier in {"scenes", "objects", "cameras", "worlds", "actions", "node_groups"}:
                _dump(block, where, found, set())
    for window in bpy.context.window_manager.windows:
        found[f"window {window.as_pointer()}"] = (window.scene.name, window.view_layer.name)
    return found


def _dump(thing, where, found, seen):
    if thing.as_pointer() in seen and len(seen) > 1:
        return
    seen.add(thing.as_pointer())
    for prop in thing.bl_rna.properties:
        name = prop.identifier
        if name in {"rna_type", "depsgraph", "original", "id_data"}:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # all there is, what a later Blender drops too
            value = getattr(thing, name, None)
        path = f"{where}.{name}"
        if prop.type == "POINTER":
            if isinstance(value, bpy.types.ID) and not value.is_embedded_data:
                found[path] = value.name
            elif value is not None:
                _dump(value, path, found, seen)
        elif prop.type == "COLLECTION":
            items = list(value or ())
            found[f"{path}.count"] = len(items)
            for index, item in enumerate(items):
                if isinstance(item, bpy.types.ID):
                    found[f"{path}[{index}]"] = item.name
                elif item is not None:
                    _dump(item, f"{path}[{index}]", found, seen)
        else:
            found[path] = repr(tuple(value[:]) if getattr(prop, "is_array", False) and prop.type != "ENUM" else value)


def differences(before, after):
    keys = sorted(set(before) | set(after))
    return [f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}" for key in keys if before.get(key) != after.get(key)]


def tilted_world(scene):
    """A floor that fills most of a camera's view from an angle, and a wall that turns with nothing, both static."""
    add_plane(scene, "Floor", (60, 60))
    add_plane(scene, "Wall", (6, 4), (1, 2, 2), (math.radians(70), 0, 0.4))

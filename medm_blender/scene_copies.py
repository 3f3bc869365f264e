"""Copies of the user's scene that live only as long as they are rendered: set up for the data passes, the rest pass, or the beauty.

For `passes.py` and `viewport.py`. A copy shares its objects with the original. What has to be different is changed in the copy or in copies
of its cameras, and when the block ends everything is gone and the open file as it was, keyed values that the render moved included.
One copy serves all frames: Cycles then prepares anew only what has changed. And Blender holds on to the last picture of every scene that it
rendered, also of those that are gone, so that a copy for each frame would fill the memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import bpy

from . import animation, compat


@contextlib.contextmanager
def for_data(scene: Any, view_layer: str, size: tuple[int, int], scale: int = 1) -> Iterator[tuple[Any, dict[str, str]]]:
    """A copy that renders the data passes of one view layer into an EXR, and the names of the original cameras by those of their copies.

    size: (width, height) of the shot in pixels; the passes are `scale` times as wide and high. Needs Cycles to be enabled.
    """
    with _exact(scene, view_layer, (size[0] * scale, size[1] * scale)) as (copy, originals):
        _select_passes(copy.view_layers[view_layer], "z", "vector", "position", "normal", "cryptomatte_object", "cryptomatte_material")
        # Surfaces that are diced by the pixel's size stay those that the beauty shows.
        compat.set_if_there(copy.cycles, dicing_rate=copy.cycles.dicing_rate * scale)
        yield copy, originals


@contextlib.contextmanager
def for_rest(scene: Any, view_layer: str, size: tuple[int, int]) -> Iterator[Any]:
    """A copy that renders where the surface points are on their undeformed objects, and the depth, into an EXR.

    The passes are `Rest`, the Generated texture coordinates, and `RestSide`, 1 where a surface shows its back.
    """
    with _exact(scene, view_layer, size) as (copy, _), _rest_material() as material:
        layer = copy.view_layers[view_layer]
        _select_passes(layer, "z")
        layer.material_override = material
        for name, kind in (("Rest", "COLOR"), ("RestSide", "VALUE")):
            aov = layer.aovs.add()
            aov.name, aov.type = name, kind
        yield copy
        layer.material_override = None


@contextlib.contextmanager
def _exact(scene: Any, view_layer: str, size: tuple[int, int]) -> Iterator[tuple[Any, dict[str, str]]]:
    """What data and rest passes have in common: all that makes Cycles see exactly what is at the centre of each pixel."""
    with contextlib.ExitStack() as stack:
        # Entered first so that they are removed last: the scene copy still refers to them.
        originals = _cameras_of(scene)
        copies = {camera: stack.enter_context(_sharp_camera(camera)) for camera in originals}
        copy = stack.enter_context(_copy_of(scene, size))
        if copy.animation_data:
            copy.animation_data_clear()  # a keyed sample count would win over ours
        if copy.camera:
            copy.camera = copies[copy.camera]
        for marker in copy.timeline_markers:
            if marker.camera:
                marker.camera = copies[marker.camera]
        copy.world = None  # it only lights, and Cycles may spend longer on preparing that than on the frame
        _use_cycles_once(copy)
        for layer in copy.view_layers:
            layer.use = layer.name == view_layer
        copy.render.use_compositing = False
        copy.render.use_freestyle = False
        # Half of a frame's time goes into preparing what is there, and most of that stays as it is from frame to frame. Surfaces diced by
        # the pixel's size would stay as they were for the first frame's camera, while the beauty shows them as they are for each.
        copy.render.use_persistent_data = not any(map(compat.is_diced, bpy.data.objects))
        compat.save_as_multilayer_exr(copy.render.image_settings)
        yield copy, {copies[camera].name: camera.name for camera in originals}


@contextlib.contextmanager
def for_beauty(scene: Any, view_layer: str, size: tuple[int, int]) -> Iterator[Any]:
    """A copy that renders what the user sees into a PNG: their engine, samples, compositor and view transform.

    size: (width, height) in pixels. view_layer: the one that is rendered, unless a compositor asks for others too.
    """
    with _copy_of(scene, size) as copy:
        tree = compat.compositor_tree(copy) if copy.render.use_compositing else None
        own_tree = compat.own_compositor_tree(copy) if tree else None
        try:
            if tree is None:
                for layer in copy.view_layers:
                    layer.use = layer.name == view_layer
            else:
                for node in (own_tree or tree).nodes:
                    if getattr(node, "scene", None) == scene:
                        node.scene = copy  # or the original would be rendered, without what was set above
                    if node.bl_idname == "CompositorNodeOutputFile":
                        node.mute = True  # the user did not ask for these files now
            compat.save_as_png(copy.render.image_settings)
            yield copy
        finally:
            if own_tree is not None:
                bpy.data.node_groups.remove(own_tree)


@contextlib.contextmanager
def _copy_of(scene: Any, size: tuple[int, int]) -> Iterator[Any]:
    """A copy of the scene that shares its objects, set to what data and beauty have in common; it goes when the block ends."""
    images = set(bpy.data.images)
    values = animation.remember()
    copy = scene.copy()
    try:
        render = copy.render
        render.resolution_x, render.resolution_y, render.resolution_percentage = *size, 100
        render.use_motion_blur = False  # Vector is all zero with it, and a blurred beauty would not agree with the data
        render.use_border = False
        render.use_crop_to_border = False
        render.use_multiview = False
        render.use_sequencer = False  # a strip would be rendered in place of the scene
        for prop in render.bl_rna.properties:
            if prop.identifier.startswith("use_stamp"):
                setattr(render, prop.identifier, False)  # burned into the picture, or beside it: the same frame is to be the same file
        render.use_file_extension = True
        render.use_overwrite = True
        render.use_placeholder = False
        render.dither_intensity = 0.0
        yield copy
    finally:
        copy.render.use_persistent_data = False  # ends what the renderer keeps, while the scene is still there
        bpy.data.scenes.remove(copy)
        for image in set(bpy.data.images) - images:
            if image.type in {"RENDER_RESULT", "COMPOSITING"}:
                bpy.data.images.remove(image)
        animation.restore(values)


def _cameras_of(scene: Any) -> list[Any]:
    cameras = [marker.camera for marker in scene.timeline_markers if marker.camera]
    if scene.camera:
        cameras.append(scene.camera)
    return list(dict.fromkeys(cameras))


@contextlib.contextmanager
def _sharp_camera(camera: Any) -> Iterator[Any]:
    """A copy of a camera object without depth of field, which would jitter every pass, even at one sample."""
    data = camera.data.copy() if camera.type == "CAMERA" else camera.data
    copy = camera.copy()
    try:
        if camera.type == "CAMERA":
            copy.data = data
            data.dof.use_dof = False
            if data.animation_data:
                data.driver_remove("dof.use_dof")
                data.driver_add("dof.use_dof").driver.type = "SUM"  # of nothing: off, whatever is keyed
        yield copy
    finally:
        bpy.data.objects.remove(copy)
        if camera.type == "CAMERA":
            bpy.data.cameras.remove(data)


def _use_cycles_once(copy: Any) -> None:
    """Cycles at one sample, without anything that moves the sample off the pixel's centre or costs time for a colour nobody sees."""
    copy.render.engine = compat.CYCLES
    compat.set_if_there(
        copy.cycles,
        samples=1,
        sample_offset=0,
        use_sample_subset=False,
        time_limit=0.0,
        use_layer_samples="IGNORE",
        use_adaptive_sampling=False,
        use_denoising=False,
        use_guiding=False,
        pixel_filter_type="BOX",
        filter_width=1.0,
        use_pixel_jitter=False,
        max_bounces=0,
        use_fast_gi=False,
        film_exposure=0.0,  # Blender always writes the colour too: black takes no room in the file
    )


def _select_passes(layer: Any, *names: str) -> None:
    for owner, switch in compat.pass_switches(layer):
        setattr(owner, switch, False)
    for wanted in ("combined", *names):
        setattr(layer, f"use_pass_{wanted}", True)
    layer.pass_cryptomatte_depth = 2  # the least: at one sample a pixel shows one object
    for aov in list(layer.aovs):
        layer.aovs.remove(aov)


@contextlib.contextmanager
def _rest_material() -> Iterator[Any]:
    material = bpy.data.materials.new("MeDM rest")
    try:
        compat.use_nodes(material)
        nodes, link = material.node_tree.nodes, material.node_tree.links.new
        nodes.clear()
        # Without a surface a ray would go through, and every pass hold what is behind.
        link(nodes.new("ShaderNodeBsdfDiffuse").outputs[0], nodes.new("ShaderNodeOutputMaterial").inputs["Surface"])
        rest, side = nodes.new("ShaderNodeOutputAOV"), nodes.new("ShaderNodeOutputAOV")
        rest.aov_name, side.aov_name = "Rest", "RestSide"
        link(nodes.new("ShaderNodeTexCoord").outputs["Generated"], rest.inputs["Color"])
        link(nodes.new("ShaderNodeNewGeometry").outputs["Backfacing"], side.inputs["Value"])
        yield material
    finally:
        bpy.data.materials.remove(material)

"""Every difference between Blender 4.5 and 5.2 that MeDM meets, in one place; the rest of the add-on knows only one Blender.

Each function says what differs. What is only there for 4.5 can go when the manifest's `blender_version_min` is raised to 5.0.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import bpy

IS_5 = bpy.app.version >= (5, 0, 0)
EEVEE = "BLENDER_EEVEE" if IS_5 else "BLENDER_EEVEE_NEXT"
CYCLES = "CYCLES"

MOVING_ORTHOGRAPHIC_VECTORS = bpy.app.version >= (5, 2, 0)
"""Whether Cycles' Vector pass is right for an orthographic camera that moves: measured wrong in 4.5 (by many pixels), right in 5.2."""


def blender_version() -> str:
    """The running Blender's version as `5.2.3`."""
    return ".".join(str(part) for part in bpy.app.version)


def save_as_multilayer_exr(image_settings: Any) -> None:
    """Make `image_settings` write one 32-bit multilayer EXR a frame, all passes in one part.

    5.x asks for the media type first, and writes a part for every pass unless told to interleave; 4.5 has neither property.
    """
    if hasattr(image_settings, "media_type"):
        image_settings.media_type = "MULTI_LAYER_IMAGE"
    image_settings.file_format = "OPEN_EXR_MULTILAYER"
    image_settings.color_depth = "32"
    image_settings.exr_codec = "ZIP"
    if hasattr(image_settings, "use_exr_interleave"):
        image_settings.use_exr_interleave = True


def save_as_png(image_settings: Any) -> None:
    """Make `image_settings` write 8-bit RGB PNG with the scene's own view transform applied."""
    if hasattr(image_settings, "media_type"):
        image_settings.media_type = "IMAGE"
    image_settings.file_format = "PNG"
    image_settings.color_mode = "RGB"
    image_settings.color_depth = "8"
    image_settings.compression = 15
    image_settings.color_management = "FOLLOW_SCENE"


def save_as_movie(render: Any) -> None:
    """Make `render` write an MP4 that plays everywhere: H.264 at high quality, with the edit's sound. 5.x asks for the media type first."""
    if hasattr(render.image_settings, "media_type"):
        render.image_settings.media_type = "VIDEO"
    render.image_settings.file_format = "FFMPEG"
    render.image_settings.color_mode = "RGB"
    ffmpeg = render.ffmpeg
    ffmpeg.format, ffmpeg.codec, ffmpeg.audio_codec = "MPEG4", "H264", "AAC"
    ffmpeg.constant_rate_factor, ffmpeg.ffmpeg_preset, ffmpeg.gopsize = "HIGH", "GOOD", 12


def compositor_tree(scene: Any) -> Any | None:
    """The node tree the compositor runs for `scene`, or None. 5.x: a shared node group; 4.5: embedded in the scene."""
    if hasattr(scene, "compositing_node_group"):
        return scene.compositing_node_group
    return scene.node_tree if scene.use_nodes else None


def own_compositor_tree(copied_scene: Any) -> Any | None:
    """Give a copied scene a compositor tree of its own and return the node group to remove with it.

    4.5 copies the tree with its scene, so there is nothing to do and the answer is None; 5.x shares it.
    """
    if getattr(copied_scene, "compositing_node_group", None) is None:
        return None
    group = copied_scene.compositing_node_group.copy()
    copied_scene.compositing_node_group = group
    return group


def strips(scene: Any) -> Any:
    """The sequencer strips of `scene`, whose editor is made if need be. 4.5 has them as `sequences` too; 5.x only as `strips`."""
    editor = scene.sequence_editor or scene.sequence_editor_create()
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def strip_range(strip: Any) -> tuple[int, int]:
    """First frame of a strip, and the frame after its last. 5.2 has `left_handle` and `right_handle` for what 4.5 calls `frame_final_*`."""
    if hasattr(strip, "left_handle"):
        return int(strip.left_handle), int(strip.right_handle)
    return int(strip.frame_final_start), int(strip.frame_final_end)


def show_in_sequencers(scene: Any) -> None:
    """Make every workspace's sequencer edit `scene`. Only 5.x keeps a scene for it; in 4.5 the sequencer shows the window's scene."""
    for workspace in bpy.data.workspaces:
        if hasattr(workspace, "sequencer_scene"):
            workspace.sequencer_scene = scene


def show_in_empty_sequencers(scene: Any) -> None:
    """Make the sequencers of workspaces that edit no scene yet edit `scene`; in 4.5 there are none, see above."""
    for workspace in bpy.data.workspaces:
        if hasattr(workspace, "sequencer_scene") and workspace.sequencer_scene is None:
            workspace.sequencer_scene = scene


def sequencer_scene(context: Any) -> Any:
    """The scene that the sequencers of the context's workspace edit: from 5.0 on one of its own, if it is set; else the window's."""
    return getattr(context, "sequencer_scene", None) or context.scene


def edit_in(window: Any, workspace: Any, scene: Any) -> None:
    """Make the sequencers of `workspace`, which `window` shows, edit `scene`; in 4.5 the window itself has to show it."""
    if hasattr(workspace, "sequencer_scene"):
        workspace.sequencer_scene = scene
    else:
        window.scene = scene


def animated_paths(block: Any) -> set[str]:
    """The data paths of all that actions, NLA strips and drivers animate in a datablock. Slotted actions, as 4.4 brought them."""
    animation = block.animation_data
    if animation is None:
        return set()
    played = [(animation.action, animation.action_slot)]
    played += [(strip.action, strip.action_slot) for track in animation.nla_tracks for strip in track.strips]
    paths = {driver.data_path for driver in animation.drivers}
    for action, slot in played:
        if action is None or slot is None:
            continue
        for strip in (strip for layer in action.layers for strip in layer.strips):
            channels = strip.channelbag(slot)
            paths.update(curve.data_path for curve in (channels.fcurves if channels else ()))
    return paths


def pass_switches(view_layer: Any) -> Iterator[tuple[Any, str]]:
    """(owner, property name) of every boolean that adds a render pass to `view_layer`; which ones there are differs between versions."""
    for owner in (view_layer, getattr(view_layer, "cycles", None), getattr(view_layer, "eevee", None)):
        if owner is None:
            continue
        for prop in owner.bl_rna.properties:
            adds_pass = prop.identifier.startswith(("use_pass_", "pass_debug_")) or prop.identifier == "denoising_store_passes"
            if adds_pass and prop.type == "BOOLEAN" and not prop.is_readonly:
                yield owner, prop.identifier


def use_nodes(material: Any) -> None:
    """Give a new material its nodes. In 5.x it has them, and the switch of 4.5 is deprecated."""
    if material.node_tree is None:
        material.use_nodes = True


def is_diced(thing: Any) -> bool:
    """Whether an object is subdivided as finely as the camera sees it. In 5.x the modifier says so, in 4.5 the object's Cycles settings."""
    if getattr(getattr(thing, "cycles", None), "use_adaptive_subdivision", False):
        return True
    return any(getattr(modifier, "use_adaptive_subdivision", False) for modifier in thing.modifiers)


def is_changed() -> bool:
    """Whether operators have changed the open file since it was opened. 4.5 calls every file changed that is open without a window."""
    return bool(bpy.data.is_dirty) and not (bpy.app.background and not IS_5)


def set_if_there(owner: Any, **values: Any) -> None:
    """Set properties of `owner`, passing over those this Blender does not have."""
    for name, value in values.items():
        if hasattr(owner, name):
            setattr(owner, name, value)


def leave(exit_code: int) -> NoReturn:
    """End this process with `exit_code`. The 4.5 module hangs in its own clean-up if Python handlers or timers are left."""
    if IS_5:
        sys.exit(exit_code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def has_operator(identifier: str) -> bool:
    """Whether an operator such as `medm.cancel` is registered; `bpy.ops` gives a face to any name. The same in 4.5 and 5.2."""
    area, _, name = identifier.partition(".")
    try:
        getattr(getattr(bpy.ops, area), name).get_rna_type()
    except (AttributeError, KeyError):
        return False
    return True

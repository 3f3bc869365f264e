"""Presets of a scene's settings, through Blender's own preset system: those that MeDM brings, and the user's own.

A preset is a small script in `presets/medm`, as Blender writes them. It says all settings of how a take looks, and none of where it is
written, which frames it has, how large it is, or its seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy
from bl_operators.presets import AddPresetBase
from bl_ui.utils import PresetPanel

SUBDIR = "medm"
_FOLDER = Path(__file__).parent

_SAVED = (
    *("prompt", "negative_prompt", "mode", "strength", "consistency", "model", "control", "reference_scale", "steps", "guidance_scale"),
    *("sampler", "guess", "lora", "embeddings", "harmonisation", "w_steps", "w_start", "w_end", "window", "extra"),
)


class PresetError(Exception):
    """There is no such preset. The message is one line."""


class MEDM_PT_presets(PresetPanel, bpy.types.Panel):  # type: ignore[misc]
    """The presets, in the header of the panel."""

    bl_label = "MeDM Presets"
    preset_subdir = SUBDIR
    preset_operator = "script.execute_preset"
    preset_add_operator = "medm.preset_add"


class MEDM_OT_preset_add(AddPresetBase, bpy.types.Operator):  # type: ignore[misc]
    """Add or remove a preset of how takes are painted"""

    bl_idname = "medm.preset_add"
    bl_label = "Add MeDM Preset"
    preset_menu = "MEDM_PT_presets"
    preset_defines = ["medm = bpy.context.scene.medm"]
    preset_values = [f"medm.{name}" for name in _SAVED]
    preset_subdir = SUBDIR


def names() -> list[str]:
    """All presets as they are shown, rising."""
    return sorted(_files())


def apply(scene: Any, name: str) -> None:
    """Set the scene to the preset of that name, in any letters' case. Raises PresetError."""
    files = {shown.casefold(): file for shown, file in _files().items()}
    file = files.get(name.strip().casefold())
    if file is None:
        raise PresetError(f'there is no preset "{name}"; there are: {", ".join(names())}')
    with bpy.context.temp_override(scene=scene):
        bpy.utils.execfile(str(file))


def _files() -> dict[str, Path]:
    """Preset files by the names that Blender shows; the user's own come before MeDM's of that name."""
    folders = [Path(folder) for folder in bpy.utils.preset_paths(SUBDIR)] or [_FOLDER / "presets" / SUBDIR]
    files = (file for folder in reversed(folders) for file in sorted(folder.glob("*.py")))
    return {bpy.path.display_name(file.name): file for file in files}


_CLASSES = (MEDM_PT_presets, MEDM_OT_preset_add)


def register() -> None:
    """Make the presets known."""
    bpy.utils.register_preset_path(str(_FOLDER))
    for cls in _CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    """Take them away; the user's files stay."""
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
    bpy.utils.unregister_preset_path(str(_FOLDER))

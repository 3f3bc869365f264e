"""MeDM for Blender: paints an animation with a diffusion model, every surface point the same way in every frame.

Only registration stands here; what each module does, its first lines say.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = ("settings", "preferences", "server_operators", "status", "operators", "panels", "take_operators", "sequencer_panel", "cli")
"""Those that Blender has to be told of, in this order; in the reverse one they are taken away."""


def register() -> None:
    """Make MeDM available in Blender: called when the extension is enabled."""
    for module in map(_module, _MODULES):
        module.register()


def unregister() -> None:
    """Take MeDM out of Blender again: called when the extension is disabled."""
    for module in map(_module, reversed(_MODULES)):
        module.unregister()


def _module(name: str) -> Any:
    """Imported only now: what is bpy-free in this package can be imported without Blender."""
    return importlib.import_module(f".{name}", __name__)

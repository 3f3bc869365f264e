"""MeDM for Blender: paints an animation with a diffusion model, every surface point the same way in every frame.

Only registration stands here; what each module does, its first lines say.
"""

from __future__ import annotations


def register() -> None:
    """Make MeDM available in Blender: called when the extension is enabled."""
    from . import cli

    cli.register()


def unregister() -> None:
    """Take MeDM out of Blender again: called when the extension is disabled."""
    from . import cli

    cli.unregister()

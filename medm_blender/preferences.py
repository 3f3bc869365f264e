"""The extension's preferences: where the server is, and the operators that install, start and stop it."""

from __future__ import annotations

from typing import Any

import bpy


class Preferences(bpy.types.AddonPreferences):  # type: ignore[misc]
    """Where the server is."""

    bl_idname = __package__ or ""

    server_kind: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Server",
        description="Where takes are painted",
        items=(
            ("LOCAL", "This Computer", "A server of your own, which Blender installs, starts and stops"),
            ("REMOTE", "Another Computer", "A server that somebody runs elsewhere"),
        ),
        default="LOCAL",
    )
    remote_url: bpy.props.StringProperty(name="Address", description="Of the other computer's server, as in http://render:8765")  # type: ignore[valid-type]
    remote_token: bpy.props.StringProperty(name="Token", description="Opens the other computer's server", subtype="PASSWORD")  # type: ignore[valid-type]
    stop_with_blender: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Stop with Blender", description="End the server once no Blender uses it and no job is left", default=True
    )


def get() -> Preferences | None:
    """The preferences; None when MeDM is not enabled as an add-on, and the defaults apply."""
    addon = bpy.context.preferences.addons.get(__package__)
    return addon.preferences if addon else None


def target() -> Any:
    """The server that these preferences name, as `local_server.connect` takes it."""
    from .local_server import Target, default_store

    return Target(kind="local", url="", token="", python=None, store=default_store(), stop_when_unused=True)


def register() -> None:
    """Called when the extension is enabled."""
    bpy.utils.register_class(Preferences)


def unregister() -> None:
    """Called when the extension is disabled."""
    bpy.utils.unregister_class(Preferences)

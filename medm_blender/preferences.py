"""The extension's preferences: where the server is, what is installed of it, and how it is.

The buttons are the operators of `server_operators`.
"""

from __future__ import annotations

import ipaddress
import textwrap
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bpy
from bpy.props import BoolProperty, EnumProperty, StringProperty

from . import local_server, status
from .client import ServerError
from .install import Installation, Plan, Progress, in_words
from .local_server import Target
from .server_work import Worker, at_exit

ONLINE_ACCESS = "Allow Online Access in Preferences > System > Network"
"""What to do about it, for polls and messages."""
_ROOT = Path(__file__).resolve().parent
_LINE = 76  # characters that fit into the preferences' window


class Preferences(bpy.types.AddonPreferences):  # type: ignore[misc]
    """Where takes are painted."""

    bl_idname = __package__ or ""

    server_kind: EnumProperty(  # type: ignore[valid-type]
        name="Server",
        description="Where takes are painted",
        items=(
            ("LOCAL", "This Computer", "A server of your own, which Blender installs, starts and stops"),
            ("REMOTE", "Another Computer", "A server that runs elsewhere, for instance on a machine with a better GPU"),
        ),
        default="LOCAL",
    )
    remote_url: StringProperty(  # type: ignore[valid-type]
        name="Address", description="Address of the server on the other computer, for example http://render-node:8765"
    )
    remote_token: StringProperty(  # type: ignore[valid-type]
        name="Token",
        description="Password of the server: the content of the file `token` in its folder. It is kept in Blender's preferences",
        subtype="PASSWORD",
    )
    stop_with_blender: BoolProperty(  # type: ignore[valid-type]
        name="Stop with Blender",
        description="Have a server that Blender starts end with the last Blender that uses it, once no job is left to do",
        default=True,
    )
    torch_source: EnumProperty(  # type: ignore[valid-type]
        name="PyTorch",
        description="Which build of PyTorch is installed with the server",
        items=(
            ("AUTO", "Automatic", "The build that suits the GPU of this computer"),
            (
                "PYPI",
                "PyPI",
                "The build on the Python Package Index: with CUDA 13 on Linux, with Metal on macOS, for the processor on Windows",
            ),
            ("CU130", "CUDA 13.0", "For NVIDIA GPUs from the RTX 20 series on, with driver 580 or newer"),
            ("CU126", "CUDA 12.6", "For older NVIDIA GPUs and drivers"),
            ("CPU", "Processor Only", "The smallest build, for computers without an NVIDIA GPU"),
        ),
        default="AUTO",
    )

    def draw(self, _context: Any) -> None:
        """The panel in Preferences > Add-ons."""
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.row().prop(self, "server_kind", expand=True)
        if self.server_kind == "REMOTE":
            layout.prop(self, "remote_url")
            layout.prop(self, "remote_token")
            draw_health(layout)
            _values(layout).operator("medm.server_test")
            return
        if status.current().state != "installing":  # that says itself how far it is
            draw_health(layout)
        draw_installation(layout)
        layout.prop(self, "stop_with_blender")
        header, body = layout.panel("medm_server_advanced", default_closed=True)
        header.label(text="Advanced")
        if body:
            body.prop(self, "torch_source")
            if installation().python:
                _values(body).operator("medm.server_remove")


def get() -> Preferences | None:
    """The preferences; None where MeDM is not enabled as an add-on, and the defaults apply."""
    addon = bpy.context.preferences.addons.get(__package__)
    return addon.preferences if addon else None


def target() -> Target:
    """The server that the preferences name, as `local_server.connect` takes it. ServerError if none may be used."""
    preferences = get()
    if preferences is None or preferences.server_kind == "LOCAL":
        stop = preferences is None or preferences.stop_with_blender
        return Target("local", python=installation().python, stop_when_unused=stop)
    url, token = preferences.remote_url.strip(), preferences.remote_token.strip()
    if not url:
        raise ServerError("The server's address is not given: see the add-on's preferences", "bad_address")
    if not bpy.app.online_access and not is_loopback(url):
        raise ServerError(f"Blender is offline: {ONLINE_ACCESS}", "offline")
    return Target("remote", url=url, token=token)


def is_loopback(url: str) -> bool:
    """Whether an address stays on this computer."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def installation() -> Installation:
    """The local server, in the extension's folder of the user's, from the wheel that the extension's zip carries."""
    wheels = sorted((_ROOT / "server").glob("medm_server-*.whl"))
    try:
        folder = bpy.utils.extension_path_user(__package__, path="server")
    except ValueError:  # not installed as an extension, but imported from a checkout
        folder = bpy.utils.user_resource("DATAFILES", path="medm_server")
    return Installation(Path(folder), wheels[-1] if wheels else None)


def torch_source() -> str:
    """Which torch is to be installed, one of `install.TORCH_SOURCES`."""
    preferences = get()
    return str(preferences.torch_source) if preferences else "AUTO"


def plan() -> Plan | None:
    """What installing was found to download, unless another torch was chosen since."""
    return worker.plan if worker.plan is not None and worker.plan.torch_source == torch_source() else None


# -- drawing -----------------------------------------------------------------------------------------------------------

_ICONS = {
    "ready": "CHECKMARK",
    "off": "PAUSE",
    "starting": "SORTTIME",
    "installing": "IMPORT",
    "not_installed": "INFO",
    "wrong_version": "ERROR",
    "unreachable": "ERROR",
}


def draw_health(layout: Any) -> None:
    """One line: how the server is."""
    now = status.current()
    column = layout.column(align=True)
    wrapped(column, now.message or "Asking the server", _ICONS[now.state])
    if now.state == "ready" and now.busy:
        wrapped(column, "It is painting", "RENDER_ANIMATION")


def draw_installation(layout: Any) -> None:
    """Installing, updating, starting and stopping the local server: what can be done now. For the preferences and for panels."""
    now = status.current()
    column = layout.column()
    if worker.error:
        wrapped(column, worker.error, "ERROR")
    if now.state == "installing":
        wrapped(column.column(align=True), now.message)
        column.progress(factor=now.progress or 0.0, text=f"{now.progress or 0.0:.0%}", type="BAR")
        column.operator("medm.server_cancel_install", icon="CANCEL")
        return
    if worker.running:
        return
    found = plan()
    if found is not None:
        _draw_plan(column, found)
        return
    installed = installation()
    if installed.python is None:
        column.operator("medm.server_plan", text="Install Server...", icon="IMPORT")
        return
    if installed.wheel is not None and installed.installed_version() != installed.wheel_version():
        column.operator("medm.server_plan", text=f"Update to {installed.wheel_version()}...", icon="FILE_REFRESH")
    row = column.column(align=True) if _letters() < _LINE // 2 else column.row(align=True)
    if now.state == "wrong_version":
        row.operator("medm.server_start", text="Restart Server", icon="FILE_REFRESH")
    elif now.state != "ready":
        row.operator("medm.server_start", icon="PLAY")
    if now.state in ("ready", "wrong_version"):
        row.operator("medm.server_stop", icon="PAUSE")
    row.operator("medm.server_log", icon="TEXT")


def _draw_plan(column: Any, plan: Plan) -> None:
    box = column.box().column(align=True)
    wrapped(box, f"{plan.words()}. It takes {in_words(plan.disk)} of disk space in {plan.folder}", "INFO")
    for note in plan.notes:
        wrapped(box, note, "ERROR")
    row = column.column(align=True) if _letters() < _LINE // 2 else column.row(align=True)
    row.operator("medm.server_install", text="Download and Install", icon="IMPORT")
    row.operator("medm.server_cancel_install", text="Not Now", icon="X")


def wrapped(layout: Any, text: str, icon: str = "NONE") -> None:
    """A label of as many lines as the text takes; an icon at the first."""
    lines = layout.column(align=True)
    lines.scale_y = 0.85
    for number, line in enumerate(textwrap.wrap(text, _letters(), break_long_words=True) or [""]):
        lines.label(text=line, icon=icon if number == 0 or icon == "NONE" else "BLANK1")


def _letters() -> int:
    """How many there is room for in a line of the region that is drawn: Properties editors are narrow."""
    region = bpy.context.region
    if region is None:
        return _LINE
    return max(14, min(_LINE, int((region.width / bpy.context.preferences.system.ui_scale - 80) / 6.2)))


def _values(layout: Any) -> Any:
    """Where the values stand, right of the names."""
    split = layout.split(factor=0.4)
    split.label(text="")
    return split


# -- the server's state ------------------------------------------------------------------------------------------------


def _show(progress: Progress | None) -> None:
    """What the worker is at, instead of the server's state."""
    if progress is None:
        status.override(None)
        return
    share, words = progress
    state: status.State = "starting" if share < 0.0 else "installing"  # a server that starts does not say how far it is
    status.override(status.Status(state, words, progress=max(share, 0.0)))


worker = Worker(_show)
"""Does what the operators ask for."""
at_exit(worker)


def _question() -> status.Question:
    try:
        wanted = target()
    except ServerError as error:
        return status.Question(None, str(error))
    return status.Question(wanted, installed=installation().installed_version() if wanted.kind == "local" else None)


def register() -> None:
    """Called when the extension is enabled."""
    bpy.utils.register_class(Preferences)
    status.watch(_question)


def unregister() -> None:
    """Called when the extension is disabled."""
    worker.cancel(wait=5.0)
    local_server.release()
    bpy.utils.unregister_class(Preferences)

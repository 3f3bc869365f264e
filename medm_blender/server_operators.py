"""What can be done to the server: planned, installed, started, stopped, looked at. Thin shells around `install` and `local_server`.

From a button they work in a thread and return at once; called from a script (EXEC) they return when it is done.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import bpy

from . import local_server, preferences, status
from .client import ServerError
from .install import Installation, InstallError, Plan, Progress
from .preferences import worker
from .server_work import Steps


class _ServerOperator:
    """What they share: one thing at a time, an error in one line."""

    @classmethod
    def poll(cls, _context: Any) -> bool:
        """Not while something is being done to the server."""
        if worker.running:
            cls.poll_message_set("The server is being worked on already")  # type: ignore[attr-defined]
            return False
        return True

    def in_thread(self, steps: Steps, words: str) -> set[str]:
        """Do it beside; the panels show how far it is."""
        worker.start(steps, words)
        return {"FINISHED"}

    def now(self, steps: Steps) -> set[str]:
        """Do it and return when it is done."""
        try:
            worker.run(steps)
        except (InstallError, ServerError) as error:
            self.report({"ERROR"}, str(error))  # type: ignore[attr-defined]
            return {"CANCELLED"}
        status.refresh(wait=True)
        return {"FINISHED"}


class _OnlineOperator(_ServerOperator):
    """One that goes to the internet."""

    @classmethod
    def poll(cls, context: Any) -> bool:
        """Only where Blender may."""
        if not bpy.app.online_access:
            cls.poll_message_set(preferences.ONLINE_ACCESS)  # type: ignore[attr-defined]
            return False
        return super().poll(context)


class MEDM_OT_server_plan(_OnlineOperator, bpy.types.Operator):  # type: ignore[misc]
    """Find out what installing the server would download."""

    bl_idname = "medm.server_plan"
    bl_label = "Prepare Server Installation"
    bl_description = "Find out what installing the server on this computer downloads and how much. Nothing of it is downloaded yet"

    def invoke(self, _context: Any, _event: Any) -> set[str]:
        """From a button."""
        return self.in_thread(_plan(), "Finding out what is needed")

    def execute(self, _context: Any) -> set[str]:
        """From a script."""
        result = self.now(_plan())
        if worker.plan is not None:
            self.report({"INFO"}, worker.plan.words())
        return result


class MEDM_OT_server_install(_OnlineOperator, bpy.types.Operator):  # type: ignore[misc]
    """Install or update the server as planned."""

    bl_idname = "medm.server_install"
    bl_label = "Install Server"
    bl_description = "Download and install the server on this computer, in the background. It says first what it will download"

    def invoke(self, _context: Any, _event: Any) -> set[str]:
        """From a button: what has not been said yet is found out first, and the button has to be pressed again."""
        if preferences.plan() is None:
            return self.in_thread(_plan(), "Finding out what is needed")
        return self.in_thread(_install(), "Installing the server")

    def execute(self, _context: Any) -> set[str]:
        """From a script."""
        return self.now(_install())


class MEDM_OT_server_cancel_install(bpy.types.Operator):  # type: ignore[misc]
    """Stop installing the server."""

    bl_idname = "medm.server_cancel_install"
    bl_label = "Cancel Installation"
    bl_description = "Stop at once. A server that was installed before stays, and what was downloaded is kept for the next time"

    @classmethod
    def poll(cls, _context: Any) -> bool:
        """While there is something to cancel."""
        if not worker.running and worker.plan is None:
            cls.poll_message_set("Nothing is being installed")
            return False
        return True

    def execute(self, _context: Any) -> set[str]:
        """Stop; or forget the plan, which otherwise stays for another try."""
        if worker.running:
            worker.cancel()
        else:
            worker.plan = None
        status.redraw()
        return {"FINISHED"}


class MEDM_OT_server_start(_ServerOperator, bpy.types.Operator):  # type: ignore[misc]
    """Start the local server."""

    bl_idname = "medm.server_start"
    bl_label = "Start Server"
    bl_description = "Start the server on this computer now. Rendering a take starts it too"

    @classmethod
    def poll(cls, context: Any) -> bool:
        """Where there is one."""
        if not super().poll(context):
            return False
        if preferences.installation().python is None:
            cls.poll_message_set("The server is not installed")
            return False
        return True

    def invoke(self, _context: Any, _event: Any) -> set[str]:
        """From a button."""
        return self.in_thread(_start(), "Starting the server")

    def execute(self, _context: Any) -> set[str]:
        """From a script."""
        return self.now(_start())


class MEDM_OT_server_stop(_ServerOperator, bpy.types.Operator):  # type: ignore[misc]
    """Stop the local server."""

    bl_idname = "medm.server_stop"
    bl_label = "Stop Server"
    bl_description = "End the server on this computer, whoever started it. A take that is being painted is taken up again at its next start"

    def invoke(self, _context: Any, _event: Any) -> set[str]:
        """From a button."""
        return self.in_thread(_stop(), "Stopping the server")

    def execute(self, _context: Any) -> set[str]:
        """From a script."""
        return self.now(_stop())


class MEDM_OT_server_remove(_ServerOperator, bpy.types.Operator):  # type: ignore[misc]
    """Delete the installed server."""

    bl_idname = "medm.server_remove"
    bl_label = "Remove Server..."
    bl_description = "Stop the server on this computer and delete its installation. Takes, shots and models stay"

    def invoke(self, context: Any, event: Any) -> set[str]:
        """From a button: is it meant?"""
        answer: set[str] = context.window_manager.invoke_confirm(self, event)
        return answer

    def execute(self, _context: Any) -> set[str]:
        """Once it was confirmed, and from scripts."""
        if bpy.app.background:
            return self.now(_remove())
        return self.in_thread(_remove(), "Removing the server")


class MEDM_OT_server_test(bpy.types.Operator):  # type: ignore[misc]
    """Ask the server whether it is there."""

    bl_idname = "medm.server_test"
    bl_label = "Test Connection"
    bl_description = "Ask the server whether it is there and takes the token"

    def execute(self, _context: Any) -> set[str]:
        """Blocks for the few seconds that a connection may take."""
        now = status.refresh(wait=True)
        fine = now.state in ("ready", "off")
        self.report({"INFO" if fine else "ERROR"}, f"{now.message or 'The server is there'}")
        return {"FINISHED" if fine else "CANCELLED"}


class MEDM_OT_server_log(bpy.types.Operator):  # type: ignore[misc]
    """Show what the local server has written."""

    bl_idname = "medm.server_log"
    bl_label = "Show Log"
    bl_description = "Open the log of the server on this computer in the system's text editor"

    @classmethod
    def poll(cls, _context: Any) -> bool:
        """Once there is one."""
        if not local_server.log_file(local_server.default_store()).exists():
            cls.poll_message_set("The server has not been started yet")
            return False
        return True

    def execute(self, _context: Any) -> set[str]:
        """Not as a text datablock: that would be saved with the user's file."""
        if bpy.app.background:
            print(local_server.log_tail(local_server.default_store(), 40), flush=True)
        else:
            bpy.ops.wm.path_open(filepath=str(local_server.log_file(local_server.default_store())))
        return {"FINISHED"}


# -- the work ----------------------------------------------------------------------------------------------------------
# What needs Blender is asked for before the first step, in the main thread: these are called there, and stepped elsewhere.


def _plan() -> Steps:
    return preferences.installation().plan(preferences.torch_source())


def _install() -> Steps:
    return _install_and_tidy(preferences.installation(), preferences.plan(), preferences.torch_source())


def _install_and_tidy(installation: Installation, plan: Plan | None, torch_source: str) -> Generator[Progress, None, None]:
    yield from installation.install(plan, torch_source)
    _tidy(installation)


def _tidy(installation: Installation) -> None:
    """Delete the environment that an update has replaced; while a server runs, it may be that one's."""
    if local_server.find(local_server.default_store()) is None:
        installation.tidy()


def _start() -> Steps:
    return _connect(preferences.target(), preferences.installation())


def _connect(target: local_server.Target, installation: Installation) -> Generator[Progress, None, None]:
    yield -1.0, "The server is starting"
    _tidy(installation)
    local_server.connect(target)


def _stop() -> Generator[Progress, None, None]:
    yield -1.0, "The server is stopping"
    local_server.stop(local_server.default_store())


def _remove() -> Steps:
    return _stop_and_remove(preferences.installation())


def _stop_and_remove(installation: Installation) -> Generator[Progress, None, None]:
    yield -1.0, "The server is stopping"
    local_server.stop(local_server.default_store())
    yield 0.5, "Removing the server"
    installation.remove()


_CLASSES = (
    MEDM_OT_server_plan,
    MEDM_OT_server_install,
    MEDM_OT_server_cancel_install,
    MEDM_OT_server_start,
    MEDM_OT_server_stop,
    MEDM_OT_server_remove,
    MEDM_OT_server_test,
    MEDM_OT_server_log,
)


def register() -> None:
    """Called when the extension is enabled."""
    for cls in _CLASSES:
        bpy.utils.register_class(cls)


def unregister() -> None:
    """Called when the extension is disabled."""
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)

"""From the zip to the first take in a real window, click by click: for the test of it, and for the pictures of docs/quick-start.md.

Two things are not done by hand. Dragging the zip into the window: an X server without a desktop has nothing to drag from, so the
operator that Blender runs when it is dropped is called. And the server's download: it is there already, so the two clicks for it are
counted and not made (test_install.py makes a real installation).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from screen import Screen
from window import EXTENSION, ROOT, SERVER_PRESET, Window, run_blender

DOWNLOAD = ("Install Server", "Download and Install")
RUNNING = f"__import__('sys').modules['{EXTENSION}.running']"
_DEFAULT_BUTTON = (71, 114, 179)
_PROPERTIES = "next(area for area in bpy.context.window_manager.windows[0].screen.areas if area.type == 'PROPERTIES')"


def build_package() -> Path:
    """The zip, as the README says to build it."""
    done = subprocess.run([sys.executable, ROOT / "bootstrap.py", "build"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((ROOT / "dist").glob("medm_blender-*.zip"))


def first_take(package: Path, blend: Path, folder: Path, afterwards: Callable[[Window], object] = lambda window: None) -> list[str]:
    """Installs the zip into a Blender that has never seen it, opens the shot and renders a take; returns what was clicked.

    folder: for the user's folder, the project and `photos`. afterwards: is called with the window when the take is in the edit.
    """
    user, photos = folder / "user", folder / "photos"
    run_blender(user, "--python-expr", "import bpy; bpy.context.preferences.view.show_splash = False; bpy.ops.wm.save_userpref()")
    (folder / "project").mkdir()
    shot = Path(shutil.copy(blend, folder / "project/shot.blend"))
    clicks: list[str] = []
    with Screen((1600, 1000)) as screen, Window(screen, user, folder / "window", shot) as window:
        window.do(f"""
            with override("VIEW_3D"):
                bpy.ops.extensions.package_install_files("INVOKE_DEFAULT", url={str(package)!r})
            yield 1.0
        """)
        screen.click(*_default_button(screen.picture(photos / "1-install.png")))
        clicks.append("OK")
        window.wait(f"{EXTENSION!r} in bpy.context.preferences.addons", 60)
        window.do(SERVER_PRESET)
        clicks += DOWNLOAD

        x, top = window.do(f"""
            area = {_PROPERTIES}
            tabs = next(region for region in area.regions if region.type == "NAVIGATION_BAR")
            return tabs.x + tabs.width // 2, bpy.context.window_manager.windows[0].height - tabs.y - tabs.height
        """)
        screen.click(x, top + 46)  # the second tab
        clicks.append("Render tab")
        window.wait(f"{_PROPERTIES}.spaces.active.context == 'RENDER'", 10)
        window.do("yield 1.0")
        screen.picture(photos / "2-panel.png")
        window.click("medm.render_take(")
        clicks.append("Render Take")
        window.wait(f"{RUNNING}.is_running()", 5)
        window.wait(f"not {RUNNING}.is_running() or {RUNNING}.current().picture is not None", 300)
        window.do("redraw()\nyield 0.3")
        screen.picture(photos / "3-painting.png")
        window.wait(f"not {RUNNING}.is_running()", 300)
        window.do("redraw()\nyield 0.5")
        screen.picture(photos / "4-done.png")
        state, message = window.get(f"(lambda run: (run.state, run.message))({RUNNING}.current())")
        assert state == "done", message
        afterwards(window)
    assert window.complaints() == []
    return clicks


def _default_button(picture: Path) -> tuple[int, int]:
    """The middle of the widest thing in the colour of a dialog's default button."""
    seen = (np.abs(np.asarray(Image.open(picture).convert("RGB")).astype(int) - _DEFAULT_BUTTON).max(axis=-1) < 6).astype(np.int8)
    best = (0, 0, 0)
    for y, row in enumerate(seen):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            best = max(best, (right - left, y, (left + right) // 2))
    assert best[0] > 100, "no dialog with a default button is seen"
    return best[2], best[1] - 6  # of its equally wide rows, the lowest was found

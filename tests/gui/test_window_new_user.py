"""From the zip to the first take, as somebody who has just downloaded it: at most six clicks and no terminal, each photographed.

Two things are not done by hand. Dragging the zip into the window: an X server without a desktop has nothing to drag from, so the
operator that Blender runs when it is dropped is called. And the server's download: it is there already, so the two clicks for it are
counted and not made (test_install.py makes a real installation).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from screen import Screen
from window import EXTENSION, ROOT, SERVER_PRESET, Window, run_blender

pytestmark = pytest.mark.window

CLICKS = 6
DEFAULT_BUTTON = (71, 114, 179)
DOWNLOAD = ("Install Server", "Download and Install")
RUNNING = f"__import__('sys').modules['{EXTENSION}.running']"


@pytest.fixture(scope="module")
def package():
    """The zip, as the README says to build it."""
    done = subprocess.run([sys.executable, ROOT / "bootstrap.py", "build"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((ROOT / "dist").glob("medm_blender-*.zip"))


def default_button(picture):
    """The middle of the widest thing in the colour of a dialog's default button."""
    seen = (np.abs(np.asarray(Image.open(picture).convert("RGB")).astype(int) - DEFAULT_BUTTON).max(axis=-1) < 6).astype(np.int8)
    best = (0, 0, 0)
    for y, row in enumerate(seen):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            best = max(best, (right - left, y, (left + right) // 2))
    assert best[0] > 100, "no dialog with a default button is seen"
    return best[2], best[1] - 6  # of its equally wide rows, the lowest was found


def test_from_the_zip_to_the_first_take(package, blend, tmp_path):
    user, photos = tmp_path / "user", tmp_path / "photos"
    run_blender(user, "--python-expr", "import bpy; bpy.context.preferences.view.show_splash = False; bpy.ops.wm.save_userpref()")
    (tmp_path / "project").mkdir()
    shot = shutil.copy(blend, tmp_path / "project/shot.blend")
    clicks = []
    with Screen((1600, 1000)) as screen, Window(screen, user, tmp_path / "window", shot) as window:

        def photo(name):
            return screen.picture(photos / f"{len(clicks)} {name}.png")

        window.do(f"""
            with override("VIEW_3D"):
                bpy.ops.extensions.package_install_files("INVOKE_DEFAULT", url={str(package)!r})
            yield 1.0
        """)
        screen.click(*default_button(photo("the zip is dropped")))
        clicks.append("OK")
        window.wait(f"{EXTENSION!r} in bpy.context.preferences.addons", 30)
        window.do(SERVER_PRESET)
        clicks += DOWNLOAD

        # The tabs of the Properties editor are buttons without a name: the Render tab is the second.
        x, top = window.do("""
            window = bpy.context.window_manager.windows[0]
            area = next(area for area in window.screen.areas if area.type == "PROPERTIES")
            tabs = next(region for region in area.regions if region.type == "NAVIGATION_BAR")
            return tabs.x + tabs.width // 2, window.height - tabs.y - tabs.height
        """)
        photo("installed")
        screen.click(x, top + 46)
        clicks.append("Render tab")
        assert window.wait(
            "[a.spaces.active.context for a in bpy.context.window_manager.windows[0].screen.areas if a.type == 'PROPERTIES']"
        ) == ["RENDER"]
        window.do("yield 1.0")
        photo("the panel")
        window.click("medm.render_take(")
        clicks.append("Render Take")
        window.wait(f"{RUNNING}.is_running()", 5)
        window.wait(f"not {RUNNING}.is_running() or {RUNNING}.current().picture is not None", 240)
        window.do("redraw()\nyield 0.5")
        photo("painting")
        window.wait(f"not {RUNNING}.is_running()", 240)
        window.do("redraw()\nyield 0.5")
        photo("done")
        state, message = window.get(f"(lambda run: (run.state, run.message))({RUNNING}.current())")
        assert state == "done", message
        assert window.complaints() == []
    (photos / "clicks.json").write_text(json.dumps(clicks))
    print(f"{len(clicks)} clicks: {', '.join(clicks)}; {message}; photographed in {photos}")
    assert len(clicks) <= CLICKS

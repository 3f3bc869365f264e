"""Takes the pictures of docs/quick-start.md again, in three minutes: `BLENDER=$(.ci/blender) .venv/bin/python docs/making/quick_start.py`.

It goes the way of tests/gui/test_window_new_user.py with a larger shot, and then a second take and the sequencer.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "gui"))

from new_user import RUNNING, build_package, first_take  # noqa: E402
from screen import missing  # noqa: E402
from window import Window, demo_blend  # noqa: E402

IMAGES = ROOT / "docs" / "images" / "quick-start"
FRAMES, SIZE = 6, (320, 184)


def second_take(window: Window) -> None:
    """Another prompt, from the passes that are there; then the edit with both takes."""
    window.do("s = bpy.context.scene.medm; s.prompt = 'a gold sculpture'; s.reuse_shot = True")
    window.click("medm.render_take(")
    window.wait(f"{RUNNING}.is_running()", 5)
    window.wait(f"not {RUNNING}.is_running()", 300)
    window.do("""
        with override("PROPERTIES"):
            bpy.ops.medm.take_show("INVOKE_DEFAULT")
        yield 3.0
        bpy.context.window_manager.windows[0].scene.frame_set(4)
        redraw()
        yield 2.0
    """)
    window.picture(window.folder.parent / "photos" / "5-takes.png")


def main() -> int:
    """Photographs, and shrinks what is photographed to fit a page."""
    lacking = missing()
    if lacking:
        print(f"quick_start.py: {lacking}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first_take(build_package(), demo_blend(folder / "demo.blend", FRAMES, SIZE), folder, second_take)
        shutil.rmtree(IMAGES, ignore_errors=True)
        IMAGES.mkdir(parents=True)
        for photo in sorted((folder / "photos").glob("[1235]-*.png")):
            picture = Image.open(photo).convert("RGB")
            picture = picture.resize((1200, round(1200 * picture.height / picture.width)), Image.Resampling.LANCZOS)
            picture.save(IMAGES / photo.name, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

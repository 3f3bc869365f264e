"""Preview Frame in a real window: its picture comes up beside the settings, Escape brings back what was there, nothing is left behind."""

from __future__ import annotations

import pytest

from window import EXTENSION

pytestmark = pytest.mark.window
RUNNING = f"__import__('sys').modules['{EXTENSION}.running']"
AREAS = "[[area.type for area in window.screen.areas] for window in bpy.context.window_manager.windows]"


def preview(window):
    window.do("with override():\n    bpy.ops.medm.preview_frame('INVOKE_DEFAULT')")
    window.wait(f"not {RUNNING}.is_running()", 120)
    window.do("yield 1.5")
    run = window.get(f"(lambda run: (run.state, run.message))({RUNNING}.current())")
    assert run[0] == "done", run


def test_a_preview_is_shown_in_the_window_itself_until_escape(window):
    window.do("""
        s = bpy.context.scene.medm; s.steps = 4; s.prompt = 'a gold sculpture'
        area = next(area for area in bpy.context.screen.areas if area.type == 'OUTLINER')
        area.type = 'VIEW_3D'
        yield 1.0
        bpy.ops.wm.save_mainfile()
    """)
    before = window.get(AREAS)
    wanted = window.get("bpy.context.preferences.view.render_display_type")
    preview(window)
    shown = window.get(AREAS)
    assert len(shown) == 1, "a window of its own stands still while it opens, and covers the settings"
    assert "IMAGE_EDITOR" in shown[0]
    assert window.get("bpy.context.preferences.view.render_display_type") == wanted
    left, top, width, height = window.area("IMAGE_EDITOR")
    window.screen.move(left + width // 2, top + height // 2)
    window.do("yield 0.5")
    window.screen.key("Escape")
    window.do("yield 1.0")
    assert window.get(AREAS) == before
    window.do("bpy.ops.wm.save_mainfile()\nyield 0.2\nbpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)\nyield 0.5")
    assert window.get("[image.name for image in bpy.data.images if 'MeDM' in image.name]") == [], "the preview is not saved with the file"


def test_a_copy_of_the_file_is_saved_without_rendering_a_picture_of_it(window, tmp_path):
    """Which is what the window would stand still for."""
    said = window.do(f"""
        import sys, importlib
        from pathlib import Path
        background = importlib.import_module({EXTENSION + ".background"!r})
        wanted = bpy.context.preferences.filepaths.file_preview_type
        (Path({str(tmp_path)!r}) / "aside").mkdir()
        copy = background._save_copy(Path({str(tmp_path)!r}) / "aside")
        bpy.ops.wm.save_as_mainfile(filepath={str(tmp_path / "pictured.blend")!r}, copy=True, compress=False)
        with open({str(tmp_path / "pictured.blend")!r}, "rb") as file:
            pictured = b"TEST" in file.read(1000)
        with copy.open("rb") as file:
            return pictured, b"TEST" in file.read(1000), bpy.context.preferences.filepaths.file_preview_type == wanted
    """)
    assert said == [True, False, True]

"""What artists do while a take is made: undo, save as another file, rename, delete, switch the extension off. Nothing breaks or is lost."""

from __future__ import annotations

import time

import pytest

from window import EXTENSION, Window

pytestmark = pytest.mark.window
RUNNING = f"__import__('sys').modules['{EXTENSION}.running']"
OUTCOME = f"(lambda run: (run.state, run.message))({RUNNING}.current())"
EDITS = "[scene.name for scene in bpy.data.scenes if 'Edit' in scene.name]"
QUIT = 5.0
"""Seconds until Blender is gone: 3 on a machine that has nothing else to do."""


def start(window, steps=4):
    window.do(f"""
        s = bpy.context.scene.medm; s.steps = {steps}; s.prompt = 'a gold sculpture'; s.use_size = True; s.width, s.height = 128, 72
        with override():
            bpy.ops.medm.render_take('INVOKE_DEFAULT')
    """)


def wait(window):
    window.wait(f"not {RUNNING}.is_running()", 180)
    return window.get(OUTCOME)


def test_a_new_user_sees_what_came_of_the_default_scene(screen, user, tmp_path):
    with Window(screen, user, tmp_path / "window") as window:
        window.show_properties(full=False)
        window.do("bpy.context.scene.frame_end = 2")
        start(window)
        assert wait(window) == ["done", "Take 1 is in the edit"]
        window.do("yield 1.0")
        window.click("medm.take_show(")
        window.do("yield 2.0")
        assert window.get("bpy.context.window_manager.windows[0].workspace.name") == "Video Editing"
        assert not window.get(f"{RUNNING}.current()"), "what was seen is not told any more"
        began = time.monotonic()
        assert window.quit() == 0
        assert time.monotonic() - began < QUIT
    assert window.complaints() == []


def test_a_scene_is_renamed_or_deleted_while_its_take_is_made(window):
    start(window, steps=8)
    window.do("bpy.context.scene.name = 'Another Name'")
    state, message = wait(window)
    assert state == "done", message
    assert window.get(EDITS) == ["Another Name Edit"], message
    start(window, steps=8)
    window.do("""
        shot = bpy.context.scene
        bpy.data.scenes.new("Left")
        with override():
            bpy.context.window.scene = bpy.data.scenes["Left"]
        yield 0.3
        bpy.data.scenes.remove(shot)
        yield 0.5
    """)
    state, message = wait(window)
    assert state in ("done", "failed") and "scene" in message, message


def test_the_file_is_saved_under_another_name_while_a_take_is_made(window, tmp_path):
    start(window, steps=8)
    window.do(f"bpy.ops.wm.save_as_mainfile(filepath={str(tmp_path / 'project/other.blend')!r})")
    state, message = wait(window)
    assert state == "done", message
    assert len(window.get(EDITS)) == 1, message


def test_the_extension_is_switched_off_and_on_while_a_take_is_made(window):
    start(window, steps=20)
    window.wait(f"'ainting' in {RUNNING}.current().phase", 120)
    window.do(f"""
        bpy.ops.preferences.addon_disable(module={EXTENSION!r})
        yield 1.0
        bpy.ops.preferences.addon_enable(module={EXTENSION!r})
        yield 1.0
        redraw()
        yield 2.0
    """)
    start(window)
    state, message = wait(window)
    assert state == "done", message
    began = time.monotonic()
    assert window.quit() == 0
    assert time.monotonic() - began < QUIT


def test_a_strip_is_deleted_and_a_take_undone(window):
    start(window)
    assert wait(window)[0] == "done"
    window.do("""
        edit = next(scene for scene in bpy.data.scenes if 'Edit' in scene.name)
        edit.sequence_editor.strips.remove(next(strip for strip in edit.sequence_editor.strips if "Take" in strip.name))
        with override():
            bpy.ops.ed.undo_push(message="delete")
    """)
    start(window)
    state, message = wait(window)
    assert (state, message) == ("done", "Take 2 is in the edit")
    start(window, steps=8)
    window.do("with override():\n    bpy.ops.ed.undo()\nyield 0.5\nredraw()\nyield 0.5")
    state, message = wait(window)
    assert (state, message) == ("done", "Take 3 is in the edit")
    names = "sorted(s.name for c in bpy.data.scenes if 'Edit' in c.name for s in c.sequence_editor.strips)"
    assert "Take 3" in window.get(names)
    window.do("with override():\n    bpy.ops.ed.undo()\nyield 0.5\nredraw()\nyield 0.5")
    assert "Take 3" not in window.get(names)
    window.do("with override():\n    bpy.ops.medm.take_place('EXEC_DEFAULT', True)\nyield 0.5")
    assert "Take 3" in window.get(names)

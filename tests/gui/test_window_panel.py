"""The panels in a real window, in the states that a scene can be in: drawn without a word on stderr, with the buttons that mend."""

from __future__ import annotations

import pytest

from window import EXTENSION

pytestmark = pytest.mark.window
FINDINGS = f"[f.message for f in __import__('sys').modules['{EXTENSION}.preflight'].check(bpy.context.scene)]"

STATES = {
    "as it is": "",
    "motion blur": "bpy.context.scene.render.use_motion_blur = True",
    "no camera": "bpy.context.scene.camera = None",
    "panoramic camera": "bpy.context.scene.camera.data.type = 'PANO'",
    "odd size": "s = bpy.context.scene.medm; s.use_size = True; s.width, s.height = 199, 113",
    "assistive, from the viewport": "s = bpy.context.scene.medm; s.mode, s.beauty = 'ASSISTIVE', 'VIEWPORT'",
    "frames that are not there": "s = bpy.context.scene.medm; s.use_frame_range = True; s.frame_start, s.frame_end = 9, 3",
    "a model that is not there": "bpy.context.scene.medm.model = 'sdxl'",
    "workbench": "bpy.context.scene.render.engine = 'BLENDER_WORKBENCH'",
    "strips": "bpy.context.scene.sequence_editor_create().strips.new_effect('C', 'COLOR', 1, 1, length=9)",
}


def test_every_state_is_drawn_without_errors(window, tmp_path):
    for name, change in STATES.items():
        window.do(
            f"bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath, load_ui=False)\nyield 0.1\n{change or 'pass'}\nredraw()\nyield 0.6"
        )
        window.picture(tmp_path / f"{name}.png", "PROPERTIES")
        assert window.complaints() == [], name
        assert isinstance(window.get(FINDINGS), list)


def test_a_finding_is_mended_by_its_button_and_undone(window):
    window.do("bpy.context.scene.render.use_motion_blur = True\nwith override():\n    bpy.ops.ed.undo_push(message='blur')\nyield 1.0")
    assert any("otion blur" in message for message in window.get(FINDINGS))
    window.click("medm.motion_blur_off(")
    assert not window.get("bpy.context.scene.render.use_motion_blur")
    assert not any("otion blur" in message for message in window.get(FINDINGS))
    window.do("with override():\n    bpy.ops.ed.undo()\nyield 0.5")
    assert window.get("bpy.context.scene.render.use_motion_blur")


def test_the_settings_are_where_the_hand_expects_them(window):
    """The prompt is typed, the mode clicked."""
    x, y = window.find(".medm.prompt")
    window.screen.click(x, y)
    window.screen.click(x, y)
    window.screen.key("ctrl+a")
    window.screen.type("a neon sculpture")
    window.screen.key("Return")
    assert window.wait("bpy.context.scene.medm.prompt", 5) == "a neon sculpture"
    window.click(".medm.mode")
    window.wait("bpy.context.scene.medm.mode == 'ASSISTIVE'", 5)
    window.find(".medm.strength")

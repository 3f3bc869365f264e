"""Takes in a real window: the button is clicked, the window stays alive, Escape stops, and nothing is lost when Blender closes."""

from __future__ import annotations

import time

import pytest

from window import EXTENSION

pytestmark = pytest.mark.window

ALIVE = 0.5
"""Seconds that the window may stand still while a take is made."""
SMALL = "s = bpy.context.scene.medm; s.steps = 4; s.prompt = 'a gold sculpture'"
RUNNING = f"__import__('sys').modules['{EXTENSION}.running']"
TAKES = f"__import__('sys').modules['{EXTENSION}.takes']"
STRIPS = """
    found = []
    for scene in bpy.data.scenes:
        for strip in scene.sequence_editor.strips if scene.sequence_editor else ():
            found.append([scene.name, strip.name, strip.channel, strip.mute, len(getattr(strip, "elements", ()))])
    return found
"""


def start(window, **settings):
    """Clicks Render Take, and returns once something is being made."""
    window.do(SMALL + "".join(f"; s.{name} = {value!r}" for name, value in settings.items()))
    window.click("medm.render_take(")
    window.wait(f"{RUNNING}.is_running()", 5)


def outcome(window):
    """How the last take ended: its state and its words."""
    return window.get(f"(lambda run: (run.state, run.message))({RUNNING}.current())")


def wait_for(window, phase, timeout=120):
    """Waits until the phase has the word."""
    window.wait(f"not {RUNNING}.is_running() or {phase!r} in {RUNNING}.current().phase.lower()", timeout)
    assert window.get(f"{RUNNING}.is_running()"), outcome(window)


def test_render_take_is_clicked_and_becomes_a_strip(window, tmp_path):
    start(window, steps=20)  # a server shows what it paints after two seconds
    window.longest_gap()
    phases, seen = [], False
    while window.get(f"{RUNNING}.is_running()"):
        phase, picture = window.get(f"(lambda run: (run.phase, run.picture is not None))({RUNNING}.current())")
        phases += [phase] if phase not in phases else []
        if picture and not seen:
            seen = True
            window.picture(tmp_path / "painting.png")
    gap = window.longest_gap()
    window.picture(tmp_path / "done.png")
    state, message = outcome(window)
    print(f"stood still for {gap:.2f} s at most; {'; '.join(phases)}; {message}")
    assert state == "done", message
    assert seen, "there was no picture of what is painted"
    assert any("data" in phase or "passes" in phase for phase in phases), phases
    takes = [strip for strip in window.do(STRIPS) if "ake" in strip[1]]
    assert [strip[3:] for strip in takes] == [[False, 3]]
    assert gap < ALIVE
    window.do("s = bpy.context.scene.medm; s.seed = 5; s.reuse_shot = True")  # the passes are there: only painting is left
    window.click("medm.render_take(")
    window.wait(f"not {RUNNING}.is_running()", 120)
    assert outcome(window)[0] == "done", outcome(window)
    takes = [strip for strip in window.do(STRIPS) if "ake" in strip[1]]
    assert sorted(strip[3] for strip in takes) == [False, True], "only the newest take is not muted"


@pytest.mark.parametrize("phase", ["", "paint"])
def test_escape_stops_within_a_second(window, phase):
    """At once after the click, and while the server paints."""
    start(window, steps=30)
    wait_for(window, phase)
    ended = window.begin(f"while {RUNNING}.is_running():\n    yield\nreturn time.monotonic()")  # one clock for all processes
    window.screen.key("Escape")
    pressed = time.monotonic()
    took = window.result(ended, 20) - pressed
    print(f"stopped after {took:.2f} s")
    assert outcome(window) == ["cancelled", "Cancelled"]
    assert took < 1.0
    window.find("medm.render_take(")  # the panel offers the next one


def test_a_take_that_finishes_without_blender_is_offered_at_the_next_start(window):
    start(window, steps=12)
    wait_for(window, "paint")
    window.do("bpy.ops.wm.save_mainfile()")
    assert window.quit() == 0
    assert window.complaints() == []
    window.start()
    window.show_properties()
    window.wait(f"{TAKES}.pending(bpy.context.scene)", 60)
    assert not any("ake" in strip[1] for strip in window.do(STRIPS))


def test_undo_and_another_file_while_a_take_is_made(window, tmp_path):
    start(window, steps=6)
    blend = window.get("bpy.data.filepath")
    window.do("""
        with override():
            bpy.ops.ed.undo_push(message="before")
            bpy.context.scene.render.fps = 12
            bpy.ops.ed.undo_push(message="change")
            yield 0.2
            bpy.ops.ed.undo()
        yield 0.5
    """)
    assert window.get("bpy.context.scene.render.fps") == 24
    wait_for(window, "paint")
    window.do("bpy.ops.wm.read_homefile()\nyield 0.5")
    window.wait(f"not {RUNNING}.is_running()", 120)
    state, message = outcome(window)
    assert state == "done" and "opened again" in message, message
    assert window.do(STRIPS) == []
    window.do(f"bpy.ops.wm.open_mainfile(filepath={blend!r})\nyield 0.5")
    assert window.wait(f"{TAKES}.pending(bpy.context.scene) or {TAKES}.of(bpy.context.scene)", 30)


def test_editing_goes_on_while_passes_render(window):
    """What is changed after the click is not in the take; saving is possible at any time, and the copy that is rendered stays unseen."""
    start(window)
    window.do("bpy.data.objects['Ball'].hide_render = True\nbpy.ops.wm.save_mainfile()")
    assert not window.get("bpy.data.is_dirty")
    window.wait(f"not {RUNNING}.is_running()", 180)
    assert outcome(window)[0] == "done", outcome(window)
    assert window.get("bpy.data.objects['Ball'].hide_render")
    assert window.get("bpy.data.filepath").endswith("shot.blend")

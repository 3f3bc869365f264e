"""Runs inside a Blender that a test drives: does what scripts in its folder say, between the window's events, and watches its heartbeat.

A script is a file NUMBER.py with a function `main()`; what that returns goes to NUMBER.json. If it is a generator, it is stepped once
a tick, so that the window handles events in between; a number that it yields is the seconds until its next step.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
import traceback
from pathlib import Path

import bpy

TICK = 0.02
FOLDER = Path(sys.argv[sys.argv.index("--") + 1])
running = []  # (number, generator, time of its next step)
beat = {"last": None, "gap": 0.0, "since": 0.0}


def tick():
    now = time.monotonic()
    if beat["last"] is not None:
        beat["gap"] = max(beat["gap"], now - beat["last"])
    beat["last"] = now
    try:
        if running:
            step(*running.pop())
        else:
            for script in sorted(FOLDER.glob("*.py"))[:1]:
                number, code = script.stem, script.read_text(encoding="utf-8")
                script.unlink()
                start(number, code)
    except Exception:  # an agent that died would let the test wait for nothing
        traceback.print_exc()
    # Waking up costs what the script took; only what Blender or the add-on take counts as a gap.
    beat["last"] = time.monotonic()
    return TICK


def start(number, code):
    names = {"bpy": bpy, "beat": beat, "time": time, "Path": Path, "override": override, "redraw": redraw}
    try:
        exec(compile(code, f"script {number}", "exec"), names)
        result = names["main"]()
    except BaseException:
        answer(number, error=traceback.format_exc())
        return
    if inspect.isgenerator(result):
        running.append((number, result, 0.0))
    else:
        answer(number, result=result)


def step(number, script, at):
    if time.monotonic() < at:
        running.append((number, script, at))
        return
    try:
        wait = next(script)
    except StopIteration as done:
        answer(number, result=done.value)
    except BaseException:
        answer(number, error=traceback.format_exc())
    else:
        running.append((number, script, time.monotonic() + (wait or 0.0)))


def answer(number, result=None, error=None):
    written = FOLDER / f"{number}.part"
    written.write_text(json.dumps({"result": result, "error": error}, default=str), encoding="utf-8")
    written.replace(FOLDER / f"{number}.json")


def override(area_type=None, region_type="WINDOW", window=None):
    """Context for a script: the window's (the first one's), and in it the area and the region of these types."""
    window = window or bpy.context.window_manager.windows[0]
    if area_type is None:
        return bpy.context.temp_override(window=window)
    area = next(area for area in window.screen.areas if area.type == area_type)
    region = next(region for region in area.regions if region.type == region_type)
    return bpy.context.temp_override(window=window, area=area, region=region)


def redraw():
    """Have every area of every window drawn again."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            area.tag_redraw()


@bpy.app.handlers.persistent
def keep_ticking(*_):
    if not bpy.app.timers.is_registered(tick):
        bpy.app.timers.register(tick, first_interval=TICK, persistent=True)


bpy.app.handlers.load_post.append(keep_ticking)
keep_ticking()
(FOLDER / "ready.part").write_text(str(os.getpid()))
(FOLDER / "ready.part").replace(FOLDER / "ready")

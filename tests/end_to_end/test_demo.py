"""The whole demo at a small size: the commands that the README gives, real Blender, real server, the bundled model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from running import FRAMES, HEIGHT, ROOT, TAKES, WIDTH, bootstrap, clip


def test_everything_is_there(demo):
    assert clip(demo / "shot/beauty").shape == (FRAMES, HEIGHT, WIDTH, 3)
    for take in TAKES:
        assert clip(demo / "takes" / take / "frames").shape == (FRAMES, HEIGHT, WIDTH, 3)
        model = json.loads((demo / "takes" / take / "take.json").read_text())["model"]
        assert (model["name"], model["licence"]) == ("bundled", "CC0-1.0")
    for file in ("demo.blend", "scene.blend", "preview.mp4", "contact_sheet.png", "scan.png"):
        assert (demo / file).stat().st_size > 1000, file


def test_it_happens_visibly_and_in_order(demo):
    log = (demo / "log.txt").read_text()
    stages = [
        "[scene]",
        "[export]",
        "medm_progress 1 beauty",
        "[server]",
        "upload",
        "[take] full",
        "align frames",
        "[take] assistive",
        "[edit]",
        "warping error",
        "[medm] done in",
    ]
    places = [log.find(stage) for stage in stages]
    assert "download" in log
    assert -1 not in places
    assert places == sorted(places)


def test_the_takes_are_steady_where_frame_by_frame_is_not(demo):
    command = [sys.executable, "-m", "medm.cli", "compare", demo / "shot", "-o", demo / "again", "--json"]
    command += [f"{take}={demo / 'takes' / take}" for take in TAKES]
    metrics = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert metrics["full"]["warping_error"] < 0.25 * metrics["per-frame"]["warping_error"]
    assert metrics["assistive"]["warping_error"] < 0.25 * metrics["per-frame"]["warping_error"]
    assert metrics["full"]["sharpness"] > 0.5 * metrics["per-frame"]["sharpness"]


def test_assistive_keeps_more_of_the_beauty_than_full(demo):
    beauty = clip(demo / "shot/beauty").astype(np.float32)
    off = {take: float(np.abs(clip(demo / "takes" / take / "frames") - beauty).mean()) for take in ("full", "assistive")}
    assert off["assistive"] < off["full"]


EDIT = """
import json, sys
import bpy
sys.path.insert(0, sys.argv[1])
from medm_blender import compat, sequencer
bpy.ops.wm.open_mainfile(filepath=sys.argv[2])
scene = bpy.data.scenes["demo edit"]
strips = sorted(compat.strips(scene), key=lambda strip: strip.channel)
print("EDIT", json.dumps({
    "strips": [[s.name, s.channel, list(compat.strip_range(s)), [str(f) for f in sequencer.strip_files(s)]] for s in strips],
    "view": scene.view_settings.view_transform,
    "size": [scene.render.resolution_x, scene.render.resolution_y],
    "scenes": len(bpy.data.scenes),
    "relative": all(s.directory.startswith("//") for s in strips),
}))
sys.stdout.flush()
import os
os._exit(0)
"""


def test_the_saved_blend_holds_original_and_takes_in_sync(demo, tmp_path):
    moved = tmp_path / "moved"
    demo.rename(moved)  # the folder can be moved as a whole
    try:
        blender = next(ROOT / name / "bin/python" for name in (".venv-bpy", ".venv-bpy-4.5") if (ROOT / name / "bin/python").exists())
        done = subprocess.run([blender, "-c", EDIT, ROOT, moved / "demo.blend"], capture_output=True, text=True, timeout=120, check=True)
        edit = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("EDIT ")).removeprefix("EDIT "))
        assert [strip[:2] for strip in edit["strips"]] == [["original", 1], ["assistive", 2], ["full", 3]]
        assert len({tuple(strip[2]) for strip in edit["strips"]}) == 1
        for _, _, _, files in edit["strips"]:
            assert len(files) == FRAMES
            assert all(Path(file).is_file() for file in files)
        assert edit["view"] == "Standard"
        assert edit["size"] == [WIDTH, HEIGHT]
        assert edit["scenes"] == 2
        assert edit["relative"]
    finally:
        moved.rename(demo)


def test_a_second_call_finds_its_environments(demo):
    """`demo` says what it makes; the fixture ran where the environments exist already."""
    assert "making .venv" not in (demo / "log.txt").read_text()


def test_unknown_commands_print_the_help():
    done = bootstrap("paint")
    assert done.returncode == 2
    assert "bootstrap.py demo [--out DIR]" in done.stdout


def test_the_extension_builds():
    done = bootstrap("build")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (ROOT / "dist/medm_blender-0.1.0.zip").exists()

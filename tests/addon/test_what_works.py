"""What docs/what-works.md says of hair, smoke, glass and the like: the passes of its scenes, small, against the pictures they come with.

A scene is exported with the thing and without it; the thing's pixels are those that differ. Everything glows by itself, so where the passes
follow it, frame 2 is frame 1 moved.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bpy")

from medm_blender import passes
from staging import read_png, read_shot

pytestmark = pytest.mark.bpy

SIZE = (168, 112)
FOLLOWED = ("hair", "particles", "instancing", "text")
UNKNOWN = ("grease_pencil",)


def scenes():
    """The module that makes the page's scenes."""
    file = Path(__file__).resolve().parents[2] / "docs/making/what_works_scenes.py"
    spec = importlib.util.spec_from_file_location("what_works_scenes", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def shots(request, tmp_path):
    """Frames 2 and 3 of a scene, with the thing and without."""
    scene, things = scenes().build(request.param)
    scene.cycles.samples = 24
    out = []
    for name in ("shot", "empty"):
        for thing in things:
            thing.hide_render = name == "empty"
        folder = passes.export_shot(scene, tmp_path / name, size=SIZE, frame_range=(2, 3))
        shot = read_shot(folder)
        for frame in shot.frames.values():
            frame.picture = read_png(folder / frame.entry["beauty"]).astype(np.float32)
        out.append(shot.frames)
    return out


def seen(frames, empty, number):
    """Which pixels the thing makes."""
    return np.abs(frames[number].picture - empty[number].picture).max(axis=-1) > 24


@pytest.mark.parametrize("shots", FOLLOWED, indirect=True)
def test_the_passes_follow_what_is_said_to_work(shots):
    """Where the thing is in both frames, the frame before moved by the flow is nearer than the frame before as it is."""
    frames, empty = shots
    now, before = frames[3], frames[2]
    height, width, _ = now.picture.shape
    y, x = np.mgrid[:height, :width]
    from_x = np.clip(np.round(x + now.flow_to_prev[..., 0]).astype(int), 0, width - 1)
    from_y = np.clip(np.round(y + now.flow_to_prev[..., 1]).astype(int), 0, height - 1)
    known = np.linalg.norm(now.position - empty[3].position, axis=-1) > 1e-3
    same = known & (before.channels["CryptoObject00.r"][from_y, from_x] == now.channels["CryptoObject00.r"])
    judged = seen(frames, empty, 3) & same
    assert judged.mean() > 0.03
    moved = np.abs(now.picture - before.picture[from_y, from_x])[judged]
    still = np.abs(now.picture - before.picture)[judged]
    assert (moved**2).mean() < 0.6 * (still**2).mean()


@pytest.mark.parametrize("shots", ("hair", "particles", "instancing", "text"), indirect=True)
def test_it_is_in_the_passes_of_every_frame(shots):
    frames, empty = shots
    for number in (2, 3):
        thing = seen(frames, empty, number)
        known = np.linalg.norm(frames[number].position - empty[number].position, axis=-1) > 1e-3
        assert known[thing].mean() > 0.6


@pytest.mark.parametrize("shots", UNKNOWN, indirect=True)
def test_the_passes_know_nothing_of_what_is_said_not_to_work(shots):
    """Should a new Blender write it into the passes, the page is to say so."""
    frames, empty = shots
    thing = seen(frames, empty, 2)
    if thing.mean() < 0.03:
        pytest.skip("this Blender draws it only with a GPU or a screen")
    known = np.linalg.norm(frames[2].position - empty[2].position, axis=-1) > 1e-3
    assert known[thing].mean() < 0.05

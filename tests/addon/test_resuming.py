"""An export that broke off is continued by the same one: what was rendered is not rendered again, and nobody could tell afterwards."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bpy")

import bpy

from medm_blender import passes, resuming
from staging import add_bending_plane, add_camera, empty_file, read_exr, write_png

pytestmark = pytest.mark.bpy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def blend(tmp_path):
    """Six frames of something that bends, so that there are rest passes too."""
    scene = empty_file()
    add_camera(scene)
    add_bending_plane(scene)
    scene.frame_start, scene.frame_end = 1, 6
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"), check_existing=False)
    return tmp_path / "shot.blend"


def assert_same(shot, other):
    """To the last bit, but for the seconds that Cycles notes in the headers."""
    files = sorted(file.relative_to(shot) for file in shot.rglob("*"))
    assert files == sorted(file.relative_to(other) for file in other.rglob("*"))
    for file in files:
        if file.suffix == ".exr":
            here, there = read_exr(shot / file), read_exr(other / file)
            assert here.keys() == there.keys()
            for channel in here:
                np.testing.assert_array_equal(here[channel], there[channel])
        elif file.suffix == ".json":
            assert (shot / file).read_bytes() == (other / file).read_bytes()


def export(folder, source="the file", **options):
    return passes.export_steps(bpy.context.scene, folder, size=(64, 40), source=source, beauty=False, **options)


def to_the_end(steps):
    phases = []
    for _, phase in steps:
        phases.append(phase)
    return phases


def broken_off(folder, at=3, **options):
    """An export that finds the disk full after `at` data frames; returns what it says."""
    steps = export(folder, **options)
    for _ in range(6 + at):
        next(steps)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(passes.ShotError) as refused:
            next(steps)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return str(refused.value)


def stamps(shot):
    return {file.name: file.stat().st_mtime_ns for file in (shot / "data").iterdir()}


def test_after_a_full_disk_it_goes_on(blend, tmp_path):
    to_the_end(export(tmp_path / "undisturbed"))
    said = broken_off(tmp_path / "shot")
    assert said.endswith("is the disk full?; 3 pictures are kept, and the same command goes on with them")
    assert not (tmp_path / "shot" / "shot.json").exists()
    kept = stamps(tmp_path / "shot")
    assert sorted(kept) == ["0001.exr", "0002.exr", "0003.exr"]
    sent = []
    to_the_end(export(tmp_path / "shot", written=sent.append))
    assert {name: stamps(tmp_path / "shot")[name] for name in kept} == kept
    assert_same(tmp_path / "shot", tmp_path / "undisturbed")
    assert len(sent) == 12  # a server is to have those that were there, too
    assert not list((tmp_path / "shot").glob(".*"))


def test_what_is_not_the_same_begins_anew(blend, tmp_path):
    folder = tmp_path / "shot"
    for others in ({"source": "changed"}, {"source": None}, {"frame_range": (2, 6)}, {"data_supersampling": 3}):
        broken_off(folder)
        kept = stamps(folder)
        to_the_end(export(folder, **others))
        assert not kept.items() & stamps(folder).items()


def test_a_picture_that_is_not_whole_is_rendered_again(blend, tmp_path):
    to_the_end(export(tmp_path / "undisturbed"))
    broken_off(tmp_path / "shot")
    torn = tmp_path / "shot" / "data" / "0002.exr"
    torn.write_bytes(torn.read_bytes()[:-200])
    to_the_end(export(tmp_path / "shot"))
    assert_same(tmp_path / "shot", tmp_path / "undisturbed")


def test_closed_or_without_a_name_nothing_is_kept(blend, tmp_path):
    assert "kept" not in broken_off(tmp_path / "shot", source=None)
    assert not (tmp_path / "shot").exists()
    broken_off(tmp_path / "shot")
    steps = export(tmp_path / "shot")
    next(steps)
    steps.close()
    assert not (tmp_path / "shot").exists()


def test_a_refusal_on_the_way_back_keeps_what_was_rendered(blend, tmp_path, monkeypatch):
    broken_off(tmp_path / "shot")
    kept = stamps(tmp_path / "shot")
    monkeypatch.setattr(passes, "_render", lambda *_: (_ for _ in ()).throw(passes.ShotError("no")))
    with pytest.raises(passes.ShotError, match="no; 3 pictures are kept"):
        to_the_end(export(tmp_path / "shot"))
    monkeypatch.undo()
    to_the_end(export(tmp_path / "shot"))
    assert kept.items() <= stamps(tmp_path / "shot").items()


def test_killed_in_the_middle_the_same_command_goes_on(blend, tmp_path):
    def command(folder):
        return [sys.executable, "-m", "medm_blender", str(blend), "export", "--out", str(folder), "--size", "320x200", "--no-beauty"]

    subprocess.run(command(tmp_path / "undisturbed"), cwd=ROOT, check=True, timeout=60, capture_output=True)
    process = subprocess.Popen(command(tmp_path / "shot"), cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "shot" / "data" / "0003.exr").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {name: stamp for name, stamp in stamps(tmp_path / "shot").items() if not name.startswith(".")}
    subprocess.run(command(tmp_path / "shot"), cwd=ROOT, check=True, timeout=60, capture_output=True)
    assert kept.items() <= stamps(tmp_path / "shot").items()
    assert_same(tmp_path / "shot", tmp_path / "undisturbed")


def test_the_name_changes_with_what_is_rendered(blend, tmp_path):
    names = [resuming.source()]
    assert names[0] is not None and resuming.source() == names[0]
    (tmp_path / "textures").mkdir()
    texture, grey = tmp_path / "textures" / "wood.0001.png", np.full((2, 2, 3), 99, np.uint8)
    write_png(texture, grey)
    bpy.data.images.load(str(texture)).use_fake_user = True
    bpy.ops.wm.save_mainfile()
    names.append(resuming.source())
    write_png(tmp_path / "textures" / "wood.0002.png", grey)  # beside it: the next picture of a sequence
    names.append(resuming.source())
    os.utime(texture, ns=(1, 1))
    names.append(resuming.source())
    assert None not in names and len(set(names)) == 4
    bpy.ops.wm.read_factory_settings()
    assert resuming.source() is None

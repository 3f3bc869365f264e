"""`python -m medm_blender FILE export`, as scripts and farms call it: exit codes, progress, one-line errors."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("bpy")

import bpy

import medm_blender
from medm_blender import cli
from staging import add_camera, add_plane, read_shot

pytestmark = pytest.mark.bpy
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def blend(fresh, tmp_path):
    add_plane(fresh)
    add_camera(fresh)
    file = tmp_path / "previs.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(file), check_existing=False)
    return file


def medm(*arguments):
    command = [sys.executable, "-m", "medm_blender", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_export_of_a_file_tells_progress_line_by_line(blend, tmp_path):
    before = blend.read_bytes()
    done = medm(blend, "export", "--out", tmp_path / "shot", "--frames", "2:3", "--size", "32x24", "--no-beauty")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^medm_progress (\S+) (\w+)$", done.stdout, re.MULTILINE) == [
        ("0.01", "look"),
        ("0.02", "look"),
        ("0.51", "data"),
        ("1", "data"),
    ]
    manifest = read_shot(tmp_path / "shot").manifest
    assert (manifest["frame_start"], manifest["frame_end"], manifest["width"], manifest["height"]) == (2, 3, 32, 24)
    assert blend.read_bytes() == before


def test_bad_input_is_told_in_one_line_with_exit_code_2(blend, tmp_path):
    refused = medm(blend, "export", "--out", tmp_path / "shot", "--size", "33x24")
    assert refused.returncode == 2
    assert refused.stderr == "medm: the size 33 x 24 will not do: both sides must be multiples of 8, from 16 to 8192\n"
    absent = medm(tmp_path / "absent.blend", "export", "--out", tmp_path / "shot")
    assert (absent.returncode, absent.stderr) == (2, f"medm: {tmp_path / 'absent.blend'} does not exist\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["batch"], "SHOTS.toml"),
        ([], "COMMAND"),
        (["export", "--out", "x", "--frames", "1-24"], "write it as 1:24"),
        (["export", "--out", "x", "--size", "big"], "write it as 384x216"),
        (["export", "--out", "x", "--frmes", "1:2"], "--frmes"),
    ],
)
def test_wrong_usage_is_one_line_too(capsys, arguments, words):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_help_is_no_error(capsys):
    assert cli.main(["export", "--help"]) == 0
    assert "--no-beauty" in capsys.readouterr().out


def test_what_is_registered_is_unregistered(fresh):
    for _ in range(2):
        medm_blender.register()
        medm_blender.unregister()


def test_ctrl_c_stops_an_export_also_where_blender_swallows_it(capfd, fresh, tmp_path):
    """In the Python of a render engine or of a handler, which is where an export is most of the time."""
    add_plane(fresh)
    add_camera(fresh)
    handlers, before = bpy.app.handlers.render_pre, signal.getsignal(signal.SIGINT) or signal.SIG_DFL  # None: the application's own

    def ctrl_c(scene, _=None):
        if scene.frame_current == 2:
            signal.raise_signal(signal.SIGINT)

    handlers.append(ctrl_c)
    try:
        code = cli.main(["export", "--out", str(tmp_path / "shot"), "--frames", "1:3", "--size", "32x24", "--no-beauty"])
    finally:
        handlers.remove(ctrl_c)
        signal.signal(signal.SIGINT, before)
    assert code == cli.FAILED
    assert capfd.readouterr().err.endswith("medm: stopped\n")
    assert not (tmp_path / "shot").exists()
    assert cli.main(["export", "--out", str(tmp_path / "shot"), "--frames", "2", "--size", "32x24", "--no-beauty"]) == cli.DONE
    signal.signal(signal.SIGINT, before)

"""`render` on the command line, against a real server process: exit codes, progress, one-line errors, an untouched scene."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("bpy")

import bpy

from medm_blender import cli, local_server
from medm_blender.client import Client, ServerError
from staging import add_camera, add_plane, differences, dump_file

pytestmark = pytest.mark.bpy
ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--size", "32x24", "--model", "quick"]


@pytest.fixture
def scene(fresh):
    """Two frames of a plane."""
    add_plane(fresh)
    add_camera(fresh)
    fresh.frame_end = 2
    bpy.context.view_layer.update()
    return fresh


@pytest.fixture
def blend(scene, tmp_path):
    file = tmp_path / "Szene eins ä.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(file), check_existing=False)
    return file


@pytest.fixture
def at_server(server):
    """The options that lead to the server."""
    return ["--server", server.url, "--token-file", str(server.store / "token")]


def refused(capsys, arguments):
    """(exit code, the one line on stderr) of a command in this process; `attempt` leaves no handler behind in the tests."""
    code = cli.main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert error.startswith("medm: ") and error.count("\n") == 1 and error.endswith("\n")
    return code, error


def test_a_file_is_rendered_and_stays_as_it_was(blend, at_server, tmp_path):
    before = blend.read_bytes()
    command = [sys.executable, "-m", "medm_blender", blend, "render", "--out", tmp_path / "an out ä", *at_server, *SMALL, "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    steps = [(float(share), phase) for share, phase in re.findall(r"^medm_progress (\S+) (.+)$", done.stdout, re.MULTILINE)]
    assert [share for share, _ in steps] == sorted(share for share, _ in steps)
    assert (steps[0], steps[-1]) == ((0.0, "connect"), (1.0, "download"))
    assert {"data, frame 1 of 2", "data, frame 2 of 2", "upload"} < {phase for _, phase in steps}
    assert f"take: {tmp_path / 'an out ä' / 'take'}\n" in done.stdout
    assert (tmp_path / "an out ä" / "take" / "take.json").is_file()
    assert (tmp_path / "an out ä" / "shot" / "shot.json").is_file()
    assert blend.read_bytes() == before


def test_the_open_scene_is_unchanged_and_settings_arrive(scene, server, at_server, tmp_path):
    before = dump_file()
    options = ["--prompt", "gold", "--mode", "assistive", "--strength", "0.4", "--consistency", "0.7", "--steps", "9", "--seed", "3"]
    assert cli.main(["render", "--out", str(tmp_path / "out"), *at_server, *SMALL, *options]) == 0
    assert not differences(before, dump_file())
    settings = Client(server.url, server.token).jobs()[-1]["settings"]
    wanted = {"prompt": "gold", "mode": "assistive", "strength": 0.4, "w": 0.7, "steps": 9, "seed": 3}
    assert {name: settings[name] for name in wanted} == wanted


def test_every_setting_of_the_server_can_be_given(scene, server, at_server, tmp_path):
    (tmp_path / "look.png").write_bytes(b"\x89PNG, as far as anyone looks")
    options = ["--paint", "Plane, !Lamp", "--reference", str(tmp_path / "look.png"), "--control", "lineart@2:0.8, depth"]
    others = ["w_steps=2", "--final-harmonisation=mean", "w-end = 0.75", "sampler=dpm++", "negative_prompt=blur, text = bad", "window=16"]
    others = [f"--set={other}" for other in others]
    assert cli.main(["render", "--out", str(tmp_path / "out"), *at_server, *SMALL, *options, *others]) == 0
    settings = Client(server.url, server.token).jobs()[-1]["settings"]
    wanted = {
        "paint": "Plane, !Lamp",
        "reference": "reference/look.png",
        "control": "lineart@2:0.8, depth",
        "w_steps": 2,
        "final_harmonisation": "mean",
        "w_end": 0.75,
        "sampler": "dpm++",
        "negative_prompt": "blur, text = bad",
        "window": 16,
    }
    assert {name: settings[name] for name in wanted} == wanted
    assert (tmp_path / "out" / "shot" / "reference" / "look.png").is_file()
    assert len(list((tmp_path / "out" / "shot" / "beauty").iterdir())) == 2  # what is not painted is kept


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (["prompt"], '--set: "prompt" sets nothing: write it as NAME=VALUE'),
        (["=gold"], '--set: "=gold" sets nothing'),
        (["promt=gold"], "promt: there is no such setting"),
        (["w_steps=0"], "w_steps: Input should be greater than or equal to 1"),
        (["seed=1", "seed=2"], "seed is given twice"),
    ],
)
def test_a_wrong_setting_is_2_before_anything_is_rendered(capsys, scene, at_server, tmp_path, others, words):
    code, error = refused(capsys, ["render", "--out", tmp_path / "out", *at_server, *SMALL, *(f"--set={other}" for other in others)])
    assert code == 2
    assert words in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--strength", "1.2"], '--strength: "1.2" is no number from 0 to 1'),
        (["--strength", "0"], '--strength: "0" would leave the beauty as it is'),
        (["--consistency", "much"], '--consistency: "much" is no number from 0 to 1'),
        (["--steps", "0"], '--steps: "0" is no whole number from 1 to 1000'),
        (["--seed", "-1"], '--seed: "-1" is no whole number from 0'),
        (["--mode", "fast"], "--mode"),
        (["--steps", "3", "--set", "steps=4"], "steps is given twice"),
        (["--reference", "absent.png"], "absent.png cannot be read: "),
        (["--size", "33x24"], "both sides must be multiples of 8"),
        (["--frames", "2:1"], "the frame range 2 to 1 is empty"),
        (["--server", "http://host:port"], "'http://host:port' is not the address of a server"),
    ],
)
def test_bad_options_are_2(capsys, scene, at_server, tmp_path, options, words):
    code, error = refused(capsys, ["render", "--out", tmp_path / "out", *at_server, *SMALL, *options])
    assert code == 2
    assert words in error
    assert not (tmp_path / "out").exists()


def test_no_camera_is_2(capsys, fresh, at_server, tmp_path):
    assert refused(capsys, ["render", "--out", tmp_path / "out", *at_server]) == (2, 'medm: the scene "Scene" has no camera\n')
    assert not (tmp_path / "out").exists()


def test_no_server_is_3_before_anything_is_rendered(capsys, scene, start_server, tmp_path):
    server = start_server(tmp_path / "store")
    server.stop()
    at_server = ["--server", server.url, "--token-file", server.store / "token"]
    code, error = refused(capsys, ["render", "--out", tmp_path / "out", *at_server, *SMALL])
    assert (code, error) == (3, f"medm: No MeDM server answers at {server.url} (it is not running); start it with: medm serve\n")
    assert not (tmp_path / "out").exists()


def test_no_such_model_is_3_before_anything_is_rendered(capsys, scene, at_server, tmp_path):
    code, error = refused(capsys, ["render", "--out", tmp_path / "out", *at_server, "--model", "qick"])
    assert code == 3
    assert error.startswith('medm: The server has no model "qick" ready; it has: ') and "quick" in error
    assert not (tmp_path / "out").exists()


def test_tokens_that_do_not_open_are_3(capsys, scene, server, tmp_path, monkeypatch):
    start = ["render", "--out", tmp_path / "out", "--server", server.url]
    code, error = refused(capsys, [*start, "--token-file", tmp_path / "absent"])
    assert code == 3
    assert str(tmp_path / "absent") in error and "`token` in its store" in error
    (tmp_path / "other").write_text("not the token that it made\n")
    code, error = refused(capsys, [*start, "--token-file", tmp_path / "other"])
    assert code == 3
    assert "does not take this token" in error
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(local_server.sys, "platform", "linux")
    code, error = refused(capsys, ["render", "--out", tmp_path / "out"])  # the preferences' server, which is not installed here
    assert (code, error) == (3, "medm: The MeDM server is not installed; install it in the add-on's preferences\n")
    code, error = refused(capsys, ["render", "--out", tmp_path / "out", "--server", cli.DEFAULT_SERVER])
    assert code == 3
    assert str(tmp_path / "medm" / "server" / "token") in error and "medm serve" in error
    assert not (tmp_path / "out").exists()


def test_our_own_token_is_not_handed_to_another_server(capsys, scene, server, tmp_path):
    code, error = refused(capsys, ["render", "--out", tmp_path / "out", "--server", server.url])
    assert code == 2
    assert "give it with --token-file" in error


@pytest.mark.parametrize(("prompt", "code", "words"), [("refused", 2, "the shot shows nothing"), ("defect", 1, "")])
def test_a_job_that_fails_says_whose_fault_it_is(capsys, scene, at_server, tmp_path, prompt, code, words):
    got, error = refused(capsys, ["render", "--out", tmp_path / "out", *at_server, *SMALL, "--prompt", prompt])
    assert got == code
    assert words in error


def test_codes_of_the_server_are_exit_codes():
    codes = ("unreachable", "wrong_token", "unavailable", "bad_address", "bad_shot", "local_file", "internal", "worker_died", "damaged")
    assert [cli.exit_code(ServerError("", code)) for code in codes] == [3, 3, 3, 2, 2, 2, 1, 1, 1]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a single process")
def test_ctrl_c_cancels_the_job(blend, server, at_server, tmp_path):
    command = [sys.executable, "-m", "medm_blender", blend, "render", "--out", tmp_path / "out", *at_server, *SMALL, "--prompt", "slow"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "sampling" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (1, "medm: stopped\n")
    assert time.monotonic() - start < 10
    server.wait(Client(server.url, server.token).jobs()[-1]["id"], "cancelled")


def test_the_token_is_looked_for_where_the_server_makes_it(server_python, tmp_path, monkeypatch):
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data ä"))
    else:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    command = [server_python, "-I", "-m", "medm.cli", "serve", "--port", "0", "--stop-when-stdin-closes"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        url = process.stdout.readline().split()[1]
        token = (local_server.default_store() / "token").read_text("ascii")
        assert Client(url, token).health()["status"] == "ok"
        process.stdin.close()

"""What the command line does with a scene's own settings, folder and takes, against a real server process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("bpy")

import bpy

from medm_blender import client as client_module
from medm_blender import preset_files, settings
from medm_blender.client import Client
from staging import add_camera, add_plane, empty_file, move_evenly, read_shot

pytestmark = pytest.mark.bpy
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def blend(tmp_path):
    """A file whose panel says what to paint, in its second scene too."""
    empty_file()
    settings.register()
    try:
        for name in ("Scene", "Nacht ä"):
            scene = bpy.data.scenes[0] if name == "Scene" else bpy.data.scenes.new(name)
            move_evenly(add_plane(scene, size=(3, 3)), range(-3, 3), by=(0.3, 0, 0))
            add_camera(scene)
            scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 1, False
            scene.frame_end = 2
            medm = scene.medm
            medm.prompt, medm.seed, medm.model = "quick", 7, "quick"
            medm.use_size, medm.width, medm.height = True, 32, 24
        medm.use_frame_range, medm.frame_start, medm.frame_end = True, -2, 1
        bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "prévis.blend"), check_existing=False)
    finally:
        settings.unregister()
    return tmp_path / "prévis.blend"


def medm(server, blend, *arguments):
    where = ["--server", server.url, "--token-file", server.store / "token"] if arguments[0] != "export" else []
    command = [sys.executable, "-m", "medm_blender", blend, *arguments, *where]
    return subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=90, check=False)


def test_what_is_not_told_is_as_the_panel_says(server, blend, tmp_path):
    done = medm(server, blend, "render")
    assert (done.returncode, done.stderr) == (0, "")
    take = tmp_path / "medm" / "Scene" / "take_001"
    assert done.stdout.endswith(f"take: {take}\n")
    record = json.loads((take / "record.json").read_text("utf-8"))
    assert {name: record[name] for name in ("state", "number", "frame_start", "frame_end", "width")} == {
        "state": "ready",
        "number": 1,
        "frame_start": 1,
        "frame_end": 2,
        "width": 32,
    }
    assert (record["settings"]["seed"], record["settings"]["prompt"]) == (7, "quick")
    assert read_shot(tmp_path / "medm" / "Scene" / "shot").manifest["width"] == 32
    done = medm(server, blend, "render", "--seed", "8", "--reuse-shot", "--set", "w_steps=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "data, frame" not in done.stdout
    assert Client(server.url, server.token).jobs()[-1]["settings"]["seed"] == 8
    done = medm(server, blend, "takes")
    assert re.findall(r"^(\d+)  (\w+) +(\S+)  seed (\d+)  (\w+)$", done.stdout, re.MULTILINE) == [
        ("001", "ready", "1:2", "7", "quick"),
        ("002", "ready", "1:2", "8", "quick"),
    ]


def test_another_scene_and_frames_before_0(server, blend, tmp_path):
    done = medm(server, blend, "export", "--scene", "Nacht ä")
    assert (done.returncode, done.stderr) == (0, "")
    shot = read_shot(tmp_path / "medm" / "Nacht ä" / "shot")
    assert list(shot.frames) == [-2, -1, 0, 1]
    centre = {number: frame.position[12, :, 0][frame.normal[12, :, 2] > 0].mean() for number, frame in shot.frames.items()}
    for number in shot.frames:
        assert centre[number] == pytest.approx(0.3 * (number - 1), abs=0.2)
        moving = shot.frames[number].flow_to_prev[12][shot.frames[number].normal[12, :, 2] > 0]
        assert abs(moving[:, 0]).min() > 0.5
    assert sorted(file.name for file in (shot.folder / "beauty").iterdir()) == ["-001.png", "-002.png", "0000.png", "0001.png"]
    refused = medm(server, blend, "export", "--scene", "Tag")
    assert (refused.returncode, refused.stderr) == (2, 'medm: there is no scene "Tag" in the file; there are: "Nacht ä", "Scene"\n')
    done = medm(server, blend, "export", "--frames", "-1:0", "--out", tmp_path / "range", "--no-beauty")
    assert (done.returncode, list(read_shot(tmp_path / "range").frames)) == (0, [-1, 0])


def test_presets_come_before_the_files_own_settings(server, blend, tmp_path):
    name = preset_files.names()[0]
    done = medm(server, blend, "render", "--preset", name, "--model", "quick", "--prompt", "quick")
    assert (done.returncode, done.stderr) == (0, "")
    refused = medm(server, blend, "render", "--preset", "no such")
    assert refused.returncode == 2
    assert 'there is no preset "no such"; there are: ' in refused.stderr


def test_what_was_submitted_is_fetched_later(server, blend, tmp_path):
    client = Client(server.url, server.token)
    done = medm(server, blend, "render", "--submit")
    assert (done.returncode, done.stderr) == (0, "")
    (job,) = re.findall(r"^medm_job (\S+)$", done.stdout, re.MULTILINE)
    take = tmp_path / "medm" / "Scene" / "take_001"
    assert [file.name for file in take.iterdir()] == ["record.json"]
    server.wait(job, "done")
    listed = medm(server, blend, "takes", "--json")
    assert [record["state"] for record in json.loads(listed.stdout.splitlines()[-1])] == ["painting"]
    done = medm(server, blend, "takes", "--fetch")
    assert (done.returncode, done.stderr) == (0, "")
    assert "001  ready" in done.stdout
    assert (take / "frames" / "0001.png").is_file()
    assert client.job(job)["state"] == "done"


def test_what_was_submitted_to_a_folder_of_its_own_is_fetched_from_there(server, blend, tmp_path):
    out = ["--out", tmp_path / "farm ä"]
    done = medm(server, blend, "takes", *out)
    assert done.returncode == 0
    assert done.stdout.endswith(f'"Scene" has no takes yet in {tmp_path / "farm ä"}\n')
    done = medm(server, blend, "render", "--submit", *out)
    assert (done.returncode, done.stderr) == (0, "")
    (job,) = re.findall(r"^medm_job (\S+)$", done.stdout, re.MULTILINE)
    server.wait(job, "done")
    done = medm(server, blend, "takes", "--fetch", *out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ready" in done.stdout
    assert (tmp_path / "farm ä" / "take" / "frames" / "0001.png").is_file()


def test_a_server_lost_half_way_loses_nothing(start_server, blend, tmp_path):
    server = start_server(tmp_path / "store")
    command = [sys.executable, "-m", "medm_blender", blend, "render", "--prompt", "slow"]
    command += ["--server", server.url, "--token-file", server.store / "token"]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "sampling" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    server.kill()
    _, error = process.communicate(timeout=client_module.PATIENCE + 30)
    assert process.returncode == 3
    assert error.count("\n") == 1
    assert error.endswith("The shot is whole, and `takes --fetch` brings the take home when the server is there again\n")
    assert (tmp_path / "medm" / "Scene" / "shot" / "shot.json").is_file()
    again = start_server(tmp_path / "store")  # it takes the job up anew
    assert Client(again.url, again.token).jobs()[-1]["state"] in {"queued", "running"}
    done = medm(again, blend, "takes")
    assert "001  painting" in done.stdout


def test_a_server_lost_while_it_renders_does_not_stop_the_rendering(start_server, blend, tmp_path):
    server = start_server(tmp_path / "store")
    command = [sys.executable, "-m", "medm_blender", blend, "render", "--frames", "1:40", "--out", tmp_path / "out"]
    command += ["--server", server.url, "--token-file", server.store / "token"]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "data, frame 3" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    server.kill()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 3
    assert error.startswith("medm: No MeDM server answers") and error.count("\n") == 1
    assert len(read_shot(tmp_path / "out" / "shot").frames) == 40

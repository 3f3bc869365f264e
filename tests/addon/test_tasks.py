"""The generators that make a take, stepped against a real server process; only what renders a scene needs Blender."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medm_blender import client as client_module
from medm_blender import tasks
from medm_blender.client import Client, ServerError
from service_process import write_shot

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def client(server):
    return Client(server.url, server.token)


@pytest.fixture
def shot(tmp_path, request):
    return write_shot(tmp_path / "Szene eins ä", request.node.name)  # the name makes it a shot that the server does not have yet


def step_to(steps, phase):
    deadline = time.monotonic() + 15
    for _, now in steps:
        if now == phase:
            return
        assert time.monotonic() < deadline, now
    raise AssertionError(f"ended before {phase}")


def assert_steady(reports):
    fractions = [fraction for fraction, _ in reports]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0 and fractions[-1] == 1.0
    assert all(after != before for before, after in itertools.pairwise(reports)), "a log full of lines that say nothing"


def test_a_shot_becomes_a_take(client, shot, tmp_path):
    reports = []
    take = tasks.run(
        tasks.paint_take(client, shot, {"model": "quick", "prompt": "quick"}, tmp_path / "take ä"), lambda *report: reports.append(report)
    )
    assert take == tmp_path / "take ä"
    assert sorted(file.relative_to(take).as_posix() for file in take.rglob("*") if file.is_file()) == ["frames/0001.png", "take.json"]
    assert (take / "frames/0001.png").read_bytes() == b"".join((shot / f"data/000{n}.exr").read_bytes() for n in (1, 2))
    assert_steady(reports)
    phases = list(dict.fromkeys(phase for _, phase in reports))
    assert (phases[0], phases[-1]) == ("upload", "download")
    assert {"half", "written"} & set(phases)


def test_frames_of_an_earlier_longer_take_are_gone(client, shot, tmp_path):
    frames = tmp_path / "take" / "frames"
    frames.mkdir(parents=True)
    for name in ("0001.png", "0002.png", "mine.png", "notes.txt"):
        (frames / name).write_bytes(b"before")
    tasks.run(tasks.paint_take(client, shot, {"model": "quick", "prompt": "quick"}, tmp_path / "take"), lambda *report: None)
    assert sorted(file.name for file in frames.iterdir()) == ["0001.png", "mine.png", "notes.txt"]
    assert (frames / "0001.png").read_bytes() != b"before"


def test_closing_while_it_paints_cancels_the_job(client, server, shot, tmp_path):
    steps = tasks.paint_take(client, shot, {"model": "quick", "prompt": "slow"}, tmp_path / "take")
    step_to(steps, "sampling")
    job = client.jobs()[-1]["id"]
    steps.close()
    server.wait(job, "cancelled")
    assert not (tmp_path / "take").exists()


def test_an_exception_of_the_one_who_watches_cancels_the_job_too(client, server, shot, tmp_path):
    def interrupt(fraction, phase):
        if phase == "sampling":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tasks.run(tasks.paint_take(client, shot, {"model": "quick", "prompt": "slow"}, tmp_path / "take"), interrupt)
    server.wait(client.jobs()[-1]["id"], "cancelled")


def test_closing_while_the_job_is_on_its_way_cancels_it_as_well(server, shot, tmp_path):
    arrived, go_on = threading.Event(), threading.Event()

    class SlowNetwork(Client):
        def submit(self, shot_id, settings):
            job = super().submit(shot_id, settings)
            arrived.set()
            go_on.wait(10)
            return job

    steps = tasks.paint_take(SlowNetwork(server.url, server.token), shot, {"model": "quick", "prompt": "slow"}, tmp_path / "take")
    while not arrived.is_set():
        next(steps)
    start = time.monotonic()
    next(steps)
    next(steps)
    assert time.monotonic() - start < 1.0, "a window that steps it would stand still"
    steps.close()
    go_on.set()
    server.wait(Client(server.url, server.token).jobs()[-1]["id"], "cancelled")


def test_an_upload_that_was_stopped_is_taken_up_again(client, server, shot, tmp_path):
    with (shot / "data" / "0002.exr").open("wb") as large:
        large.truncate(48 << 20)  # long enough to be stopped in
    before = len(client.jobs())
    steps = tasks.paint_take(client, shot, {"model": "quick", "prompt": "quick"}, tmp_path / "take")
    while next(steps)[0] < 0.05 * 0.02:
        pass
    steps.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "medm-transfer"]
    assert len(client.jobs()) == before
    name = (shot / "data" / "0001.exr").read_bytes()
    (first,) = [file for file in (server.store / "shots").rglob("0001.exr") if file.read_bytes() == name]
    assert not first.with_name("0002.exr").exists()
    arrived = first.stat().st_ino
    tasks.run(tasks.paint_take(client, shot, {"model": "quick", "prompt": "quick"}, tmp_path / "take"), lambda *report: None)
    assert first.stat().st_ino == arrived  # sent again, it would be another file
    assert (tmp_path / "take" / "frames" / "0001.png").stat().st_size == len(name) + (48 << 20)


def test_a_server_that_dies_ends_the_steps(start_server, shot, tmp_path, monkeypatch):
    monkeypatch.setattr(client_module, "PATIENCE", 0.5)
    server = start_server(tmp_path / "store")
    steps = tasks.paint_take(Client(server.url, server.token), shot, {"model": "quick", "prompt": "slow"}, tmp_path / "take")
    step_to(steps, "sampling")
    server.kill()
    with pytest.raises(ServerError, match=r"^No MeDM server answers at .*medm serve$"):
        tasks.run(steps, lambda *report: None)


def test_what_fails_at_the_server_is_raised_here(client, shot, tmp_path):
    with pytest.raises(ServerError, match=r"^the shot shows nothing$") as caught:
        tasks.run(tasks.paint_take(client, shot, {"model": "quick", "prompt": "refused"}, tmp_path / "take"), lambda *report: None)
    assert caught.value.code == "bad_input"
    with pytest.raises(ServerError, match="promt"):
        tasks.run(tasks.paint_take(client, shot, {"promt": "gold"}, tmp_path / "take"), lambda *report: None)


HIT_BY_CTRL_C = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # an application has another
from medm_blender.client import Client
from medm_blender.local_server import LocalServer
with LocalServer(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])) as local:
    try:
        print("ready", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        time.sleep(1)
        print(Client(local.url, local.token).health()["status"], flush=True)
print("stopped", local.running, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups as terminals of POSIX make them")
def test_ctrl_c_in_a_terminal_leaves_the_local_server_up_to_cancel_its_job(server_python, tmp_path):
    command = [sys.executable, "-c", HIT_BY_CTRL_C, server_python, tmp_path / "store ä"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.read() == "ok\nstopped False\n"


# -- from a scene ------------------------------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path):
    """Two frames of a plane, in a file of its own folder."""
    bpy = pytest.importorskip("bpy")
    from staging import add_camera, add_plane, empty_file

    scene = empty_file()
    add_plane(scene)
    add_camera(scene)
    scene.frame_end = 2
    (tmp_path / "Szene ä").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "Szene ä" / "previs.blend"), check_existing=False)
    return scene


@pytest.mark.bpy
@pytest.mark.parametrize("mode", ["full", "assistive"])
def test_a_scene_becomes_a_take_and_stays_as_it_is(client, scene, tmp_path, mode):
    from staging import differences, dump_file, read_shot

    before = dump_file()
    reports = []
    steps = tasks.render_take(scene, client, {"model": "quick", "prompt": "quick", "mode": mode}, "//an out", size=(32, 24))
    take = tasks.run(steps, lambda *report: reports.append(report))
    assert not differences(before, dump_file())
    assert take == tmp_path / "Szene ä" / "an out" / "take"  # `//` is beside the file
    assert sorted(path.name for path in take.rglob("*") if path.is_file()) == ["0001.png", "take.json"]
    assert [entry["beauty"] is not None for entry in read_shot(take.parent / "shot").manifest["frames"]] == [mode == "assistive"] * 2
    assert_steady(reports)
    phases = list(dict.fromkeys(phase for _, phase in reports))
    passes = [f"{kind}, frame {n} of 2" for kind in ["look", "data", *["beauty"] * (mode == "assistive")] for n in (1, 2)]
    assert phases[:-1][: phases.index("upload")] == ["connect", *passes]
    assert phases[-1] == "download"


@pytest.mark.bpy
def test_nothing_is_rendered_for_a_server_that_is_not_there(start_server, scene, tmp_path):
    server = start_server(tmp_path / "store")
    client = Client(server.url, server.token)
    server.stop()
    with pytest.raises(ServerError, match="it is not running"):
        tasks.run(tasks.render_take(scene, client, {}, tmp_path / "out"), lambda *report: None)
    assert not (tmp_path / "out").exists()

"""What the server says of itself and of its jobs: health, plans, the time left, previews."""

import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import synthetic
import tiny_models
from medm.diffusion import preview
from medm.diffusion.plan import ModelFacts, plan
from medm.diffusion.rendering import render_take
from medm.presets import BUNDLED
from medm.service.device import _free_of_gpu, facts
from medm.service.planning import said
from medm.service.remaining import Remaining
from medm.settings import RenderSettings
from medm.shot import Shot
from medm_blender.client import Client, ServerError
from medm_blender.local_server import LocalServer
from service_process import ServerProcess, write_shot


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ServerProcess(tmp_path_factory.mktemp("health") / "store")
    yield server
    server.stop()


@pytest.fixture
def client(server):
    return Client(server.url, server.token)


def submitted(client, folder, prompt):
    return client.submit(client.upload_shot(write_shot(folder), lambda *_: None), {"prompt": prompt, "model": "quick"})


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


# Health


def test_health_answers_at_once_and_knows_the_device_soon(client, server):
    start = time.monotonic()
    first = client.health()
    assert time.monotonic() - start < 1.0, "nobody waits for torch"
    assert (first["status"], first["worker"], first["device"]) == ("ok", "idle", None)
    assert first["disk_free_gb"] > 0
    device = wait_until(lambda: client.health()["device"])
    known = facts()
    assert (device["kind"], device["name"]) == (known["kind"], known["name"])
    assert 0 < device["free_gb"] <= device["memory_gb"]
    assert "torch" not in Path(f"/proc/{server.process.pid}/maps").read_text()


def test_health_says_what_the_worker_does(client, tmp_path):
    job = submitted(client, tmp_path / "shot", "slow")
    wait_until(lambda: client.health()["worker"] == "busy")
    client.cancel(job)
    wait_until(lambda: client.health()["worker"] == "idle")


def test_a_gpu_that_the_driver_does_not_know_has_no_memory_to_tell():
    assert _free_of_gpu("GPU-00000000-0000-0000-0000-000000000000") is None


def test_a_server_is_stopped_by_who_has_its_token(tmp_path):
    server = ServerProcess(tmp_path / "store")
    with pytest.raises(ServerError, match="does not take this token"):
        Client(server.url, "wrong").stop()
    Client(server.url, server.token).stop()
    server._end()
    assert server.process.returncode == 0


# Plans


def test_a_plan_says_whether_a_take_fits(client, server):
    small = client.plan(512, 288, 48, {})
    assert small["fits"] is True
    assert 0 < small["needs_gb"] < small["free_gb"]
    assert small["message"].startswith(f"It needs {small['needs_gb']:.1f} GB of ")
    large = client.plan(16384, 16384, 8, {})
    assert large["fits"] is False
    assert large["needs_gb"] > large["free_gb"] and "smaller" in large["message"] and "\n" not in large["message"]
    assert "torch" not in Path(f"/proc/{server.process.pid}/maps").read_text()


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ({"width": 64, "height": 64}, "frames must be a whole number from 1"),
        ({"width": "64", "height": 64, "frames": 1}, "width must be"),
        ({"width": 64, "height": -1, "frames": 1}, "height must be"),
        ({"width": True, "height": 64, "frames": 1}, "width must be"),
        ({"width": 10**9, "height": 64, "frames": 1}, "width must be"),
        ({"width": 64, "height": 64, "frames": 1, "settings": {"promt": ""}}, "promt: there is no such setting"),
        ({"width": 64, "height": 64, "frames": 1, "settings": {"model": "../x"}}, "names none"),
        ({"width": 64, "height": 64, "frames": 1, "settings": {"model": "sd15"}}, "there is no model in"),
        ({"shot": 1}, "a plan is asked for with"),
        ([], "a plan is asked for with"),
    ],
)
def test_what_cannot_be_planned_is_named(server, question, says):
    status, _, answer = server.request("POST", "/v1/plan", question)
    assert status in (400, 503) and says in answer["error"]["message"]


def test_a_plan_names_the_memory_that_is_short():
    model = ModelFacts.of(BUNDLED, 0)
    gpu = said(plan(48, 576, 1024, model, "cuda", RenderSettings(), free_device=10**8, free_host=10**12))
    assert not gpu["fits"] and "GB of GPU memory" in gpu["message"]
    main = said(plan(480, 576, 1024, model, "cuda", RenderSettings(), free_device=10**12, free_host=10**8))
    assert not main["fits"] and "GB of memory" in main["message"]
    windows = said(plan(1000, 576, 1024, model, "cpu", RenderSettings(), free_host=24 * 10**9, free_device=24 * 10**9))
    assert windows["fits"] and "frames are painted at a time" in windows["message"]


# The time left


def test_the_time_left_is_told_by_the_steps_that_were_timed():
    left = Remaining()
    left.note(0.0, "load model", 0.0)
    left.note(0.05, "code", 300.0)  # however long that took
    assert left.seconds(301.0) is None
    for step in range(10):
        begun = 400.0 + 10.0 * step + (50.0 if step else 0.0)  # the first step took a minute: everything was cold
        left.note(0.1 + 0.09 * step, f"paint, step {step + 1} of 10", begun)
        if step < 2:
            assert left.seconds(begun) is None
        else:
            rest = (1.0 - (0.1 + 0.09 * step)) / 0.09 * 10.0
            assert left.seconds(begun) == pytest.approx(rest, abs=0.1)
            assert left.seconds(begun + 4.0) == pytest.approx(rest - 4.0, abs=0.1)
    assert left.seconds(10_000.0) == 0.0


def test_progress_that_stands_still_tells_no_time():
    left = Remaining()
    for step in range(5):
        left.note(0.5, f"paint, step {step + 1} of 20", float(step))
    assert left.seconds(5.0) is None


def test_a_job_tells_its_time_left(client, tmp_path):
    job = submitted(client, tmp_path / "shot", "steps")
    told = []
    while (state := client.job(job))["state"] in ("queued", "running"):
        told.append((time.monotonic(), state["remaining"]))
        time.sleep(0.05)
    end = time.monotonic()
    assert told[0][1] is None and state["remaining"] is None
    known = [(when, left) for when, left in told if left is not None]
    wrong = sorted(abs((end - when) - left) for when, left in known)
    assert wrong[len(wrong) // 2] < 1.0, "the quick server's steps take 0.2 s, more where others keep the machine busy"


# Previews


def test_a_preview_is_there_while_the_job_runs_and_then_gone(client, server, tmp_path):
    job = submitted(client, tmp_path / "shot", "slow")
    assert client.preview(job) is None or client.preview(job) == b"a picture"
    assert wait_until(lambda: client.preview(job)) == b"a picture"
    assert server.request("GET", f"/v1/jobs/{job}/preview")[1]["content-type"] == "image/jpeg"
    client.cancel(job)
    wait_until(lambda: client.job(job)["state"] == "cancelled")
    assert client.preview(job) is None
    wait_until(lambda: not list((server.store / "jobs" / job).iterdir()))
    assert server.request("GET", "/v1/jobs/x/preview")[0] == 404


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "unipc", "euler"])
def test_previews_come_to_look_like_the_take(tmp_path, shot_folder, monkeypatch, sampler):
    monkeypatch.setattr(preview, "PERIOD", 0.0)
    monkeypatch.setattr(preview, "SHARE", 1.0)
    model = tiny_models.write(tmp_path / "model")
    settings = RenderSettings(model=str(model), steps=6, sampler=sampler, w=0.0)
    pictures = []
    plain = render_take(Shot.open(shot_folder), settings, tmp_path / "unseen")
    assert render_take(Shot.open(shot_folder), settings, tmp_path / "take", preview=pictures.append) == plain, "looking changes nothing"
    assert len(pictures) == 6 and pictures[0].size == (64, 48)
    with Image.open(tmp_path / "take" / "frames" / "0003.png") as frame:
        final = np.asarray(frame.convert("RGB"), np.float32)
    first, last = (float(np.abs(np.asarray(picture, np.float32) - final).mean()) for picture in (pictures[0], pictures[-1]))
    assert last <= first and last < 2.0


def test_previews_wait_until_they_are_paid_for(monkeypatch):
    class Model:
        device = torch.device("cpu")

        def decode(self, latents, tiny):
            assert tiny
            time.sleep(0.02)
            return latents.expand(1, 3, 400, 800)

    monkeypatch.setattr(preview, "PERIOD", 0.1)
    pictures = []
    watch = preview.Preview(pictures.append)
    start = time.monotonic()
    while time.monotonic() - start < 2.0:
        watch.look(Model(), lambda: torch.zeros(1, 1, 1, 1))
        time.sleep(0.001)
    assert 1 <= len(pictures) <= 2, "0.02 s of work are 1.5 % of 1.3 s"
    assert pictures[0].size == (384, 192)


def test_a_real_jobs_preview_is_a_small_picture(tmp_path):
    """With the worker's own renderer; the shot is large enough to take longer than a preview's period."""
    store = tmp_path / "store"
    tiny_models.write(store / "models" / "tiny")
    with LocalServer(Path(sys.executable), store) as local:
        client = Client(local.url, local.token)
        folder = synthetic.write_shot(tmp_path / "shot", synthetic.two_rectangles(128, 96, 8))
        job = client.submit(client.upload_shot(folder, lambda *_: None), {"model": "tiny", "steps": 400, "w_steps": 3})
        data = wait_until(lambda: client.preview(job), 90)
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.size) == ("JPEG", (128, 96))
        state = client.job(job)
        assert "step" in state["phase"] and state["remaining"] > 0
        client.cancel(job)
        wait_until(lambda: client.job(job)["state"] == "cancelled")
        assert client.preview(job) is None
        assert json.loads((store / "server.json").read_text())["stops_when_unused"] is False

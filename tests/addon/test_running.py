"""A take from the button to its record, with a real server whose renderer is quick: done, cancelled, failed, and with another file open.

Timers do not tick in the module, so the tests take the steps; a window takes them all by itself (tests/gui).
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest

pytest.importorskip("bpy")

import bpy

import medm_blender
from medm_blender import folders, local_server, preferences, preflight, running, status, takes, tasks
from medm_blender.client import Client, ServerError
from staging import SIZE, add_camera, add_plane, differences, dump_file

pytestmark = pytest.mark.bpy


@pytest.fixture(autouse=True)
def registered(fresh, server, monkeypatch):
    medm_blender.register()
    target = local_server.Target("remote", url=server.url, token=server.token)
    monkeypatch.setattr(preferences, "target", lambda: target)
    monkeypatch.setattr(running, "_report", lambda *_: None)  # there is no window to show it in
    status.override(status.Status("off"))
    preflight._answers.clear()
    yield
    running.let_go()
    running._current = None
    if bpy.app.timers.is_registered(running._tick):
        bpy.app.timers.unregister(running._tick)
    status.override(None)
    medm_blender.unregister()
    client = Client(server.url, server.token)
    for job in client.jobs():
        client.cancel(job["id"])


@pytest.fixture
def scene(registered, tmp_path):
    scene = bpy.context.scene
    add_camera(scene)
    add_plane(scene, size=(3, 3))
    scene.frame_end = 2
    scene.medm.model = "quick"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "Übung eins.blend"))
    return bpy.context.scene


@pytest.fixture
def client(server):
    return Client(server.url, server.token)


def step_until(condition, seconds=30):
    """Take the timer's steps until it is so."""
    deadline = time.monotonic() + seconds
    while not condition(running.current()):
        assert time.monotonic() < deadline, running.current()
        assert running.current().is_running, running.current()
        running._tick()
        time.sleep(0.01)
    return running.current()


def begin(scene, prompt, kind="take"):
    scene.medm.prompt = prompt
    return running.start(running.request_of(scene, kind))  # as the operator does when it is invoked, which it cannot be without a window


def ended(run):
    return not run.is_running


def test_a_take_from_the_button_to_its_record(scene, client):
    """What this server paints is no picture, so the way ends where the take is placed; its record says how far it came."""
    before = dump_file()
    began = time.monotonic()
    run = begin(scene, "quick")
    assert time.monotonic() - began < 1.0, "the button came back late"
    phases = []
    while run.is_running:
        running._tick()
        if not phases or phases[-1] != run.phase:
            phases.append(run.phase)
        time.sleep(0.005)
    assert phases[0] == "Connecting to the server"
    assert "Rendering passes, frame 2 of 2" in phases and any("Fetching" in phase for phase in phases), phases
    record = takes.read(run.take)
    assert (record.number, record.scene, record.frame_start, record.frame_end) == (1, scene.name, 1, 2)
    assert (record.width, record.height) == SIZE and record.settings["prompt"] == "quick"
    assert client.job(record.job)["state"] == "done"
    assert takes.is_complete(run.take)
    assert run.take.parent == folders.root(scene) and run.take.parent.parent == Path(bpy.path.abspath("//medm"))
    assert not [line for line in differences(before, dump_file()) if "medm.prompt" not in line]


def test_shares_only_grow_and_the_server_tells_its_steps(scene):
    run = begin(scene, "steps")
    shares, phases = [], set()
    while run.is_running:
        running._tick()
        shares.append(run.share)
        phases.add(run.phase)
        time.sleep(0.01)
    assert shares == sorted(shares)
    assert any(phase.startswith("Painting, step ") and phase.endswith(" of 10") for phase in phases), phases


def test_steps_never_hold_up_the_window_while_the_server_works(scene):
    run = begin(scene, "slow")
    step_until(lambda run: run.phase == "Sampling")
    longest = 0.0
    for _ in range(40):
        began = time.perf_counter()
        running._tick()
        longest = max(longest, time.perf_counter() - began)
        time.sleep(0.01)
    assert longest < 0.1
    step_until(lambda run: run.picture == b"a picture")
    assert run.is_running


def test_cancelling_while_passes_are_rendered_leaves_nothing(scene):
    scene.frame_end = 20
    run = begin(scene, "quick")
    step_until(lambda run: "frame 2" in run.phase)
    began = time.monotonic()
    assert bpy.ops.medm.cancel() == {"FINISHED"}
    assert time.monotonic() - began < 1.5
    assert (run.state, run.message) == ("cancelled", "Cancelled")
    assert not run.take.exists()
    assert takes.of(scene) == []
    assert running._tick() is None
    assert bpy.ops.medm.render_take.poll()


def test_cancelling_while_it_is_painted_calls_the_job_off(scene, client):
    run = begin(scene, "slow")
    step_until(lambda run: run.phase == "Sampling")
    began = time.monotonic()
    bpy.ops.medm.cancel()
    assert time.monotonic() - began < 1.0
    assert takes.read(run.take).state == "cancelled"
    deadline = time.monotonic() + 10
    while client.job(run.job)["state"] != "cancelled":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("prompt", "words"), [("refused", "The shot shows nothing"), ("defect", "shapes do not match")])
def test_what_the_server_says_is_kept_in_the_panel_and_the_record(scene, prompt, words):
    run = begin(scene, prompt)
    step_until(ended)
    assert run.state == "failed" and words in run.message and "\n" not in run.message
    record = takes.read(run.take)
    assert record.state == "failed" and words.lower() in record.error.lower()
    bpy.ops.medm.dismiss()
    assert running.current() is None


def test_a_scene_that_cannot_be_exported_is_said_and_no_take_stays(scene):
    run = begin(scene, "quick")
    step_until(lambda run: run.client is not None)
    scene.frame_step = 3
    step_until(ended)
    assert run.state == "failed" and "frame step" in run.message
    assert takes.of(scene) == []


def test_settings_that_the_server_refuses_cost_no_render(scene):
    bpy.ops.medm.extra_add(name="deblurr", value="1")
    run = begin(scene, "quick")
    step_until(ended)
    assert run.state == "failed" and "deblurr" in run.message
    assert not (folders.root(scene) / "shot").exists()


def test_another_file_may_be_opened_while_it_is_painted(scene, client, tmp_path):
    """It goes on, and its take waits for its file."""
    file = bpy.data.filepath
    run = begin(scene, "slow")
    step_until(lambda run: run.phase == "Sampling")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    for _ in range(5):
        running._tick()
        time.sleep(0.02)
    assert run.is_running
    running.let_go()  # Blender closes: the job stays
    time.sleep(0.5)
    assert client.job(run.job)["state"] == "running"
    bpy.ops.wm.open_mainfile(filepath=file)
    assert [record.job for record in takes.pending(bpy.context.scene)] == [run.job]


def test_a_take_whose_file_is_not_open_when_it_is_done_is_offered_later(scene):
    file = bpy.data.filepath
    run = begin(scene, "steps")
    step_until(lambda run: run.phase.startswith("Painting"))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    step_until(ended)
    assert run.state == "done" and run.message == "Take 1 is ready: it is offered when its file is opened again"
    bpy.ops.wm.open_mainfile(filepath=file)
    assert [record.number for record in takes.pending(bpy.context.scene)] == [1]


def test_opening_another_file_before_the_passes_are_safe_says_so(scene):
    run = begin(scene, "quick")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    step_until(ended)
    assert run.state == "failed" and "its file closed" in run.message


def test_a_scene_is_known_whatever_it_is_called_by_now(scene):
    scene.name = "Before"
    run = begin(scene, "steps")
    scene.name = "After"
    step_until(lambda run: run.phase.startswith("Painting"))
    scene.name = "And Again"
    assert run.request.find() == scene


def test_what_is_made_of_a_file_never_saved_is_not_put_into_another(scene):
    """Both are called "Scene", and neither has a path."""
    request = running.request_of(scene, "take")
    unsaved = dataclasses.replace(request, blend="")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.scene.name = scene_name = request.scene
    assert unsaved.find() is None and scene_name == bpy.context.scene.name_full
    assert "is ready in" in unsaved.where(1, request.root / "take_001")


def test_two_blenders_do_not_render_into_one_folder_at_once(scene):
    with takes.folders.alone(takes.folders.prepare(scene)):
        run = begin(scene, "quick")
        step_until(ended)
    assert run.state == "failed" and "Another Blender is rendering passes" in run.message
    run = begin(scene, "steps")
    step_until(lambda run: run.phase.startswith("Painting"))


def test_scripts_get_it_done_in_one_call(scene, capfd, monkeypatch):
    """EXEC blocks, prints its progress, and raises what went wrong."""
    with pytest.raises(RuntimeError, match="The shot shows nothing"):
        bpy.ops.medm.render_take(settings=json.dumps({"model": "quick", "prompt": "refused"}))
    assert "medm_progress " in capfd.readouterr().out
    assert bpy.ops.medm.preview_frame(settings=json.dumps({"model": "quick", "prompt": "quick"}), frame=1) == {"FINISHED"}
    assert running.current().result == folders.preview(scene) / "take" / "frames" / "0001.png"
    assert running.current().result.is_file()
    assert takes.of(scene)[-1].state == "failed" and len(takes.of(scene)) == 1, "a preview is no take"


def test_a_take_of_other_settings_frames_and_size(scene):
    given = {"model": "quick", "prompt": "refused", "seed": 7}
    with pytest.raises(RuntimeError):
        bpy.ops.medm.render_take(settings=json.dumps(given), frame_start=2, frame_end=3, width=48, height=32)
    record = takes.of(scene)[0]
    assert (record.frame_start, record.frame_end, record.width, record.height) == (2, 3, 48, 32)
    assert record.settings == given


def test_passes_are_painted_anew_without_rendering(scene):
    with pytest.raises(RuntimeError):
        bpy.ops.medm.render_take(settings=json.dumps({"model": "quick", "prompt": "refused"}))
    scene.medm.reuse_shot = True
    run = begin(scene, "steps")
    phases = set()
    while run.is_running:
        running._tick()
        phases.add(run.phase)
        time.sleep(0.01)
    assert not any("Rendering" in phase for phase in phases), phases
    assert takes.read(run.take).job


def test_losing_the_server_leaves_a_take_that_is_waited_for(scene, start_server, tmp_path, monkeypatch):
    mine = start_server(tmp_path / "mine")
    target = local_server.Target("remote", url=mine.url, token=mine.token)
    monkeypatch.setattr(preferences, "target", lambda: target)
    run = begin(scene, "slow")
    step_until(lambda run: run.phase == "Sampling")
    mine.kill()
    step_until(ended, 60)
    assert run.state == "failed" and "when the server is there again" in run.message
    assert [record.number for record in takes.pending(scene)] == [1]


def test_aside_yields_at_once_and_hands_over_what_happens():
    def work(seconds, result):
        yield 0.5, "half"
        time.sleep(seconds)
        if isinstance(result, Exception):
            raise result
        return result

    steps = running._aside(work(0.3, "done"))
    began = time.perf_counter()
    next(steps)
    assert time.perf_counter() - began < 0.2
    assert tasks.run(steps, lambda *_: None) == "done"
    with pytest.raises(ServerError, match="gone"):
        tasks.run(running._aside(work(0.0, ServerError("gone", "unreachable"))), lambda *_: None)

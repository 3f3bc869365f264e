"""Takes are placed, compared, loaded, deleted and exported by operators that scripts can call too, each of which can be undone."""

from __future__ import annotations

import json
import os
import socket
import time

import numpy as np
import pytest

pytest.importorskip("bpy")

import bpy

import medm_blender
from medm_blender import folders, local_server, preferences, sequencer, sequencer_panel, take_operators, takes, waiting
from medm_blender.client import Client, ServerError
from service_process import write_shot
from staging import SIZE, read_png, write_png
from test_takes import paint, shown, submit, take_of

pytestmark = pytest.mark.bpy


@pytest.fixture(scope="module", autouse=True)
def registered():
    medm_blender.register()
    yield
    medm_blender.unregister()


@pytest.fixture
def shot(fresh, tmp_path):
    """The scene of a saved file, with the extension enabled."""
    (tmp_path / "project").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "project" / "shot.blend"))
    waiting._listed.clear()
    return bpy.context.scene


def numbers(scene):
    return [strip[sequencer.TAKE] for strip in sequencer.take_strips(sequencer.edit_of(scene))]


def test_every_operator_can_be_found_has_a_tooltip_and_says_why_it_cannot_be_used(shot):
    for operator in take_operators.OPERATORS:
        assert operator.bl_label.istitle() or " of " in operator.bl_label
        assert operator.__doc__ and not operator.__doc__.endswith(".")
        for name in operator.__annotations__:
            prop = getattr(bpy.ops.medm, operator.bl_idname.removeprefix("medm.")).get_rna_type().properties[name]
            assert prop.description or prop.is_hidden or prop.type == "ENUM", f"{operator.bl_idname}.{name}"
    for refused in (bpy.ops.medm.take_solo, bpy.ops.medm.take_compare, bpy.ops.medm.take_export, bpy.ops.medm.take_show):
        with pytest.raises(RuntimeError, match="No take of this shot has been placed yet"):
            refused()


def test_takes_on_the_disk_are_placed_and_that_can_be_undone(shot):
    for _ in range(2):
        paint(submit(shot), (1, 2, 3))
    takes.fail(submit(shot), "Out of memory")
    bpy.ops.ed.undo_push(message="before")
    assert bpy.ops.medm.take_place() == {"FINISHED"}
    bpy.ops.ed.undo_push(message="placed")
    assert numbers(bpy.context.scene) == [1, 2]
    bpy.ops.ed.undo()
    assert sequencer.edit_of(bpy.context.scene) is None
    assert len(takes.of(bpy.context.scene)) == 3
    bpy.ops.medm.take_place(take=2)
    assert numbers(bpy.context.scene) == [2]
    with pytest.raises(RuntimeError, match="take 3 has no frames in"):
        bpy.ops.medm.take_place(take=3)
    bpy.ops.medm.take_place()
    with pytest.raises(RuntimeError, match="every take is in the edit already"):
        bpy.ops.medm.take_place()


def test_takes_are_shown_toggled_and_compared(shot, tmp_path):
    pictures = {n: read_png(take_of(shot) / "frames" / "0002.png") for n in (1, 2, 3)}
    edit = sequencer.edit_of(shot)
    bpy.ops.medm.take_solo(take=1)
    assert sequencer.shown(edit) == 1
    bpy.ops.medm.take_toggle()
    assert sequencer.shown(edit) == 3
    bpy.ops.medm.take_compare(left=1, right=2, split=0.25)
    seen = shown(edit, 2, tmp_path)
    np.testing.assert_array_equal(seen[:, :16], pictures[1][:, :16])
    np.testing.assert_array_equal(seen[:, 16:], pictures[2][:, 16:])
    bpy.ops.medm.take_compare_end()
    np.testing.assert_array_equal(shown(edit, 2, tmp_path), pictures[2])
    with pytest.raises(RuntimeError, match="no takes are compared"):
        bpy.ops.medm.take_compare_end()


def test_what_is_selected_in_the_list_is_what_operators_take(shot):
    take_of(shot), take_of(shot), submit(shot)
    manager = bpy.context.window_manager
    sequencer_panel.fill_rows(bpy.context)
    assert [row.number for row in manager.medm_takes] == [1, 2, 3]
    assert manager.medm_take_index == 2, "the newest"
    manager.medm_take_index = 0
    bpy.ops.medm.take_solo()
    assert sequencer.shown(sequencer.edit_of(shot)) == 1
    bpy.ops.medm.take_compare()
    assert sequencer.compared(sequencer.edit_of(shot)) == (2, 1), "what was shown before, against what is selected"
    waiting.redraw()
    sequencer_panel.fill_rows(bpy.context)
    assert manager.medm_take_index == 0, "the selection stays"
    take_of(shot)
    waiting.redraw()
    sequencer_panel.fill_rows(bpy.context)
    assert manager.medm_takes[manager.medm_take_index].number == 4, "a new one is selected"


def test_in_the_edit_the_same_takes_are_meant(shot):
    take_of(shot)
    edit = sequencer.edit_of(shot)
    bpy.context.window.scene = edit
    assert take_operators.shot_of(bpy.context) == shot
    assert bpy.ops.medm.take_solo(take=1) == {"FINISHED"}


def test_settings_go_back_into_the_panel_and_that_can_be_undone(shot):
    take_of(shot, prompt="neon", mode="assistive", strength=0.7, seed=5)
    shot.medm.prompt = "now"
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.medm.take_load_settings(take=1)
    bpy.ops.ed.undo_push(message="loaded")
    medm = bpy.context.scene.medm
    assert (medm.prompt, medm.mode, medm.seed) == ("neon", "ASSISTIVE", 5)
    assert medm.strength == pytest.approx(0.7)
    bpy.ops.ed.undo()
    assert bpy.context.scene.medm.prompt == "now"
    (folders.root(bpy.context.scene) / "take_001" / "record.json").write_text("{")
    (folders.root(bpy.context.scene) / "take_001" / "take.json").write_text("{}")
    with pytest.raises(RuntimeError, match="the settings of take 1 are not known"):
        bpy.ops.medm.take_load_settings(take=1)


def test_a_deleted_take_is_gone_with_its_files_and_nothing_else(shot, tmp_path):
    first, second = take_of(shot), take_of(shot)
    (second / "preview.mp4").write_bytes(b"x")
    (second / "scan.png").write_bytes(b"x")
    (second / ".preview.mp4.77.part").write_bytes(b"x")
    (first / "notes.txt").write_text("the artist's")
    (first / "frames" / "retouched.png").write_text("the artist's")
    bpy.ops.medm.take_delete(take=2)
    assert not second.exists() and first.is_dir()
    assert numbers(shot) == [1]
    assert sequencer.shown(sequencer.edit_of(shot)) == 1
    bpy.ops.medm.take_delete(take=1)
    assert sorted(file.name for file in first.rglob("*")) == ["frames", "notes.txt", "retouched.png"]
    assert numbers(shot) == []
    with pytest.raises(RuntimeError, match='there is no take 1 of "Scene"'):
        bpy.ops.medm.take_delete(take=1)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_deleting_follows_no_links(shot, tmp_path):
    outside = tmp_path / "outside"
    (outside / "frames").mkdir(parents=True)
    for file in (outside / "record.json", outside / "frames" / "0001.png"):
        file.write_text("precious")
    take = submit(shot)
    (take / "frames").symlink_to(outside / "frames", target_is_directory=True)
    bpy.ops.medm.take_delete(take=1)
    assert (outside / "frames" / "0001.png").read_text() == "precious"
    linked = folders.root(shot) / "take_005"
    linked.symlink_to(outside, target_is_directory=True)
    with pytest.raises(takes.TakeError, match="is not a folder that MeDM made"):
        take_operators.delete_files(linked)
    with pytest.raises(takes.TakeError, match="is not a folder that MeDM made"):
        take_operators.delete_files(tmp_path)
    assert (outside / "record.json").read_text() == "precious"


def test_the_edit_is_exported_as_pictures_exactly_and_as_a_movie(shot, tmp_path):
    take = take_of(shot)
    bpy.ops.medm.take_export(filepath=str(tmp_path / "out" / "cut.png"), kind="PNG")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["cut_0001.png", "cut_0002.png", "cut_0003.png"]
    for frame in (1, 2, 3):
        np.testing.assert_array_equal(read_png(tmp_path / "out" / f"cut_{frame:04d}.png"), read_png(take / "frames" / f"{frame:04d}.png"))
    bpy.ops.medm.take_export(filepath=str(tmp_path / "out" / "cut.mp4"))
    movie = (tmp_path / "out" / "cut.mp4").read_bytes()
    assert movie[4:8] == b"ftyp" and len(movie) > 1000
    clip = bpy.data.movieclips.load(str(tmp_path / "out" / "cut.mp4"))
    assert (tuple(clip.size), clip.frame_duration) == (SIZE, 3)
    bpy.data.movieclips.remove(clip)
    (tmp_path / "blocked").write_text("a file")
    with pytest.raises(RuntimeError, match="cannot be written"):
        bpy.ops.medm.take_export(filepath=str(tmp_path / "blocked" / "cut.mp4"))


def test_the_shot_renders_as_before_after_an_export(shot, tmp_path):
    take_of(shot)
    before = shot.render.filepath, shot.render.image_settings.file_format, shot.frame_current
    bpy.ops.medm.take_export(filepath=str(tmp_path / "cut.mp4"))
    assert (shot.render.filepath, shot.render.image_settings.file_format, shot.frame_current) == before


def test_a_take_is_rendered_again_with_its_own_settings_range_and_size(shot, monkeypatch):
    """The render itself has its own tests: here an operator of its name notes what it is asked for."""
    take_of(shot, prompt="neon", seed=5)
    bpy.utils.unregister_class(bpy.types.MEDM_OT_render_take)
    asked = []

    class MEDM_OT_render_take(bpy.types.Operator):  # noqa: N801
        bl_idname, bl_label = "medm.render_take", "Render Take"
        settings: bpy.props.StringProperty()
        frame_start: bpy.props.IntProperty()
        frame_end: bpy.props.IntProperty()
        width: bpy.props.IntProperty()
        height: bpy.props.IntProperty()

        def execute(self, context):
            asked.append((context.scene.name, json.loads(self.settings), self.frame_start, self.frame_end, self.width, self.height))
            return {"FINISHED"}

    from medm_blender import operators

    real = next(cls for cls in vars(operators).values() if getattr(cls, "bl_idname", "") == "medm.render_take")
    bpy.utils.register_class(MEDM_OT_render_take)
    try:
        bpy.context.window.scene = sequencer.edit_of(shot)
        bpy.ops.medm.take_rerender(take=1)
        bpy.ops.medm.take_rerender(take=1, another_seed=True)
    finally:
        bpy.utils.unregister_class(MEDM_OT_render_take)
        bpy.utils.register_class(real)
    assert asked[0][0] == shot.name and asked[0][1]["prompt"] == "neon" and asked[0][1]["seed"] == 5
    assert asked[0][2:] == (1, 3, *SIZE)
    assert asked[1][1]["seed"] == 6


# -- takes that finished while Blender was closed ----------------------------------------------------------------------


@pytest.fixture
def left_behind(server, shot, tmp_path, monkeypatch):
    """Submits a job to a real server, and leaves its take's record as it is when Blender is closed then."""
    client = Client(server.url, server.token)
    monkeypatch.setattr(preferences, "target", lambda: local_server.Target(kind="remote", url=server.url, token=server.token))
    folder = write_shot(tmp_path / "uploaded", tmp_path.name)
    write_png(tmp_path / "painted.png", np.random.default_rng(9).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
    picture = (tmp_path / "painted.png").read_bytes()
    (folder / "data" / "0001.exr").write_bytes(picture[:100])  # this server's renderer joins them
    (folder / "data" / "0002.exr").write_bytes(picture[100:])
    uploaded = client.upload_shot(folder, lambda *_: None)
    waiting._news.clear()

    def leave(prompt):
        take = folders.new_take(shot, takes.highest(shot))
        job = client.submit(uploaded, {"prompt": prompt, "model": "quick"})
        takes.begin(shot, take, job, server.url, {"prompt": prompt, "model": "quick"})
        return take, job

    yield leave, client
    for job in client.jobs():
        client.cancel(job["id"])


def until(client, job, state):
    deadline = time.monotonic() + 20
    while client.job(job)["state"] != state:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def told(shot):
    """What the panel says after the server was asked once."""
    waiting._ask(preferences.target(), waiting.waiting(shot))
    waiting._tick()
    return [(waiting.news(record).state, waiting.news(record).message) for record in waiting.waiting(shot)]


def test_a_take_that_finished_while_blender_was_closed_is_offered_and_placed(left_behind, shot, tmp_path):
    leave, client = left_behind
    take, job = leave("quick")
    until(client, job, "done")
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    shot = bpy.context.scene
    assert [waiting.news(record).state for record in waiting.waiting(shot)] == ["unknown"]
    assert told(shot) == [("finished", "Take 1 finished while Blender was closed")]
    assert not (take / "frames").exists(), "nothing is fetched unasked"
    bpy.ops.medm.take_place(take=1)
    assert takes.pending(shot) == []
    np.testing.assert_array_equal(shown(sequencer.edit_of(shot), 1, tmp_path), read_png(tmp_path / "painted.png"))


def test_one_that_is_still_painted_says_so_and_stays(left_behind, shot):
    leave, client = left_behind
    _, job = leave("slow")
    until(client, job, "running")
    ((state, message),) = told(shot)
    assert state == "painting" and message.startswith("Take 1 is still being painted, ")
    with pytest.raises(RuntimeError, match="Take 1 is still being painted"):
        bpy.ops.medm.take_place(take=1)
    assert len(takes.pending(shot)) == 1


def test_one_that_failed_or_that_the_server_does_not_know_says_why_and_can_be_forgotten(left_behind, shot, server):
    leave, client = left_behind
    _, failed = leave("refused")
    until(client, failed, "failed")
    takes.begin(shot, folders.new_take(shot), "0" * 32, "http://elsewhere:8765", {})
    assert told(shot) == [
        ("lost", "Take 1 failed: the shot shows nothing"),
        ("lost", f"Take 2 is not known to the server at {server.url}; it was painted at http://elsewhere:8765"),
    ]
    bpy.ops.medm.take_forget(take=1)
    bpy.ops.medm.take_forget(take=2)
    assert told(shot) == []
    with pytest.raises(RuntimeError, match="take 2 is not waited for"):
        bpy.ops.medm.take_forget(take=2)


def test_only_the_server_of_the_preferences_is_ever_asked(shot, monkeypatch):
    """A record comes with a project: a stranger's could name any address, and a token must not go there."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(1.0)
        takes.begin(shot, folders.new_take(shot), "job", f"http://127.0.0.1:{trap.getsockname()[1]}", {})
        monkeypatch.setattr(preferences, "target", lambda: local_server.Target(kind="remote", url="http://127.0.0.1:9", token="secret"))
        assert [state for state, _ in told(shot)] == ["unknown"]
        with pytest.raises(RuntimeError, match=r"No MeDM server answers at http://127\.0\.0\.1:9"):
            bpy.ops.medm.take_place(take=1)
        with pytest.raises(TimeoutError):
            trap.accept()


def test_no_server_is_asked_that_the_preferences_do_not_allow(shot, monkeypatch):
    def refused():
        raise ServerError("Blender is offline: allow online access", "offline")

    monkeypatch.setattr(preferences, "target", refused)
    takes.begin(shot, folders.new_take(shot), "job", "http://render.example:8765", {})
    with pytest.raises(RuntimeError, match="Blender is offline"):
        bpy.ops.medm.take_place(take=1)
    with pytest.raises(ServerError, match="Blender is offline"):
        waiting.fetch(shot, takes.find(shot, 1))
    assert waiting._fetches == []


def test_without_a_window_nothing_runs_by_itself(shot):
    assert bpy.app.background
    waiting.look()
    assert waiting._after_load not in bpy.app.handlers.load_post
    assert not any(bpy.app.timers.is_registered(timer) for timer in (waiting._tick, waiting._look_again, waiting._look_once))

"""A take is noted when it is submitted, placed when it is there, and shows its own pixels in its shot's edit; nothing else is touched."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("bpy")

import bpy

from medm_blender import compat, folders, sequencer, takes
from staging import SIZE, differences, dump_file, read_png, write_png

pytestmark = pytest.mark.bpy
LENGTH_OR_END = {"length": 3} if compat.IS_5 else {"frame_end": 4}
SETTINGS = {"prompt": "gold", "seed": 2**40, "mode": "full", "strength": 0.5, "model": "bundled"}


@pytest.fixture
def shot(fresh, tmp_path):
    """The scene of a saved file, frames 1 to 3."""
    (tmp_path / "project").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "project" / "shot.blend"))
    return bpy.context.scene


def paint(take, frames, size=SIZE, seed=0, settings=SETTINGS):
    """What a server's download leaves in a take's folder: frames of noise."""
    noise = np.random.default_rng(seed)
    (take / "frames").mkdir(exist_ok=True)
    for frame in frames:
        write_png(take / "frames" / f"{frame:04d}.png", noise.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    (take / "take.json").write_text(json.dumps({"format": "medm-take", "version": 1, "settings": {**settings, "w": 1.0, "control": None}}))


def submit(scene, **changes):
    take = folders.new_take(scene, takes.highest(scene))
    takes.begin(scene, take, "job1", "http://127.0.0.1:8765", {**SETTINGS, **changes}, frame_range=(1, 3), size=SIZE)
    return take


def take_of(scene, frames=(1, 2, 3), size=SIZE, **changes):
    take = submit(scene, **changes)
    paint(take, frames, size, seed=folders.take_number(take), settings={**SETTINGS, **changes})
    takes.finish(scene, take)
    return take


def shown(edit, frame, folder):
    """The pixels that the edit scene renders at `frame`, in the window: else a still is of the frame the window is at."""
    bpy.context.window.scene = edit
    edit.frame_set(frame)
    edit.render.filepath = str(folder / f"shown_{frame}.png")
    edit.render.image_settings.file_format = "PNG"
    edit.render.image_settings.color_mode = "RGB"
    bpy.ops.render.render(write_still=True)
    return read_png(edit.render.filepath)


def test_a_record_says_what_is_painted_where(shot):
    take = submit(shot)
    document = json.loads((take / "record.json").read_text())
    assert document.pop("created")
    assert document == {
        "format": "medm-take-record",
        "version": 1,
        "number": 1,
        "scene": "Scene",
        "blend": bpy.data.filepath,
        "frame_start": 1,
        "frame_end": 3,
        "fps": 24.0,
        "width": 64,
        "height": 40,
        "settings": SETTINGS,
        "server": "http://127.0.0.1:8765",
        "job": "job1",
        "state": "painting",
        "error": "",
    }
    assert [record.number for record in takes.pending(shot)] == [1]
    assert [file.name for file in take.iterdir()] == ["record.json"]


def test_a_finished_take_is_pending_no_more_and_one_that_failed_says_why(shot):
    take_of(shot)
    failed, cancelled = submit(shot), submit(shot)
    takes.fail(failed, "Out of\nmemory")
    takes.fail(cancelled, "Cancelled", cancelled=True)
    assert [(record.number, record.state, record.error) for record in takes.of(shot)] == [
        (1, "ready", ""),
        (2, "failed", "Out of memory"),
        (3, "cancelled", "Cancelled"),
    ]
    assert takes.pending(shot) == []


def test_the_edit_shows_exactly_the_newest_take(shot, tmp_path):
    folders_of = [take_of(shot) for _ in range(2)]
    edit = sequencer.edit_of(shot)
    for frame in (1, 3):
        np.testing.assert_array_equal(shown(edit, frame, tmp_path), read_png(folders_of[1] / "frames" / f"{frame:04d}.png"))
    sequencer.show_only(edit, 1)
    np.testing.assert_array_equal(shown(edit, 2, tmp_path), read_png(folders_of[0] / "frames" / "0002.png"))


def test_every_take_has_a_channel_that_bears_its_name_and_only_the_newest_is_seen(shot):
    take_of(shot), take_of(shot, mode="assistive"), take_of(shot)
    edit = sequencer.edit_of(shot)
    strips = sequencer.take_strips(edit)
    assert [(strip.name, strip.channel, strip.mute) for strip in strips] == [("Take 1", 2, True), ("Take 2", 3, True), ("Take 3", 4, False)]
    assert [edit.sequence_editor.channels[channel].name for channel in (1, 2, 3, 4)] == ["Beauty", "Take 1", "Take 2", "Take 3"]
    assert strips[0].color_tag == strips[2].color_tag != strips[1].color_tag
    assert {compat.strip_range(strip) for strip in strips} == {(1, 4)}


def test_the_beauty_is_at_the_bottom_and_follows_the_latest_export(shot, tmp_path):
    beauty = folders.prepare(shot) / "shot" / "beauty"
    beauty.mkdir(parents=True)
    for frame in (1, 2, 3):
        write_png(beauty / f"{frame:04d}.png", np.full((SIZE[1], SIZE[0], 3), 40 + frame, np.uint8))
    take_of(shot)
    edit = sequencer.edit_of(shot)
    assert [(strip.name, strip.channel, strip.mute) for strip in sequencer.take_strips(edit)] == [("Beauty", 1, True), ("Take 1", 2, False)]
    sequencer.show_only(edit, sequencer.BEAUTY)
    assert (shown(edit, 2, tmp_path) == 42).all()
    (beauty / "0003.png").unlink()
    take_of(shot)
    assert compat.strip_range(sequencer.take_strips(edit)[0]) == (1, 3)
    shutil.rmtree(beauty)
    take_of(shot)
    assert [strip.name for strip in sequencer.take_strips(edit)] == ["Take 1", "Take 2", "Take 3"]


def test_the_edit_is_known_however_it_and_the_shot_are_called_and_after_saving(shot, tmp_path):
    take_of(shot)
    edit = sequencer.edit_of(shot)
    assert edit.name == "Scene Edit"
    edit.name, shot.name = "My Cut", "Shot 010"
    assert sequencer.edit_of(shot) == edit and sequencer.shot_of(edit) == shot
    assert [record.number for record in takes.of(shot)] == [1], "found through the edit, for the folder has the old name"
    assert takes.highest(shot) == 1
    take_of(shot)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    shot = bpy.data.scenes["Shot 010"]
    edit = sequencer.edit_of(shot)
    assert edit.name == "My Cut"
    assert [strip.name for strip in sequencer.take_strips(edit)] == ["Take 1", "Take 2"]
    assert len(bpy.data.scenes) == 2


def test_strips_say_prompt_seed_model_and_settings_also_after_saving(shot):
    take = take_of(shot)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    strip = sequencer.strip_of(sequencer.edit_of(bpy.context.scene), 1)
    assert strip["prompt"] == "gold"
    assert strip["seed"] == str(2**40), "more than the 32 bits of a custom property"
    assert strip["model"] == "bundled"
    assert strip["mode"] == "full"
    assert json.loads(strip["settings"]) == {**SETTINGS, "w": 1.0}, "with what the server filled in"
    assert strip["folder"] == str(take)
    assert strip.directory.startswith("//")
    assert sequencer.take_folder(strip) == take


def test_the_users_scene_is_left_as_it_was(shot):
    bpy.context.scene.render.fps, bpy.context.scene.frame_current = 30, 2
    bpy.ops.wm.save_mainfile()
    before = dump_file()
    take_of(shot)
    after = dump_file()
    edit = sequencer.edit_of(shot).name
    changed = [line for line in differences(before, after) if f"[{edit}]" not in line]
    left = [line for line in changed if not line.startswith((f"scenes[{shot.name}].users", "worlds", "images", "texts"))]
    assert left == []
    assert bpy.context.scene == shot


def test_the_edit_is_set_up_for_what_a_take_is(shot):
    shot.render.fps, shot.render.fps_base = 24, 1.001
    take_of(shot)
    edit = sequencer.edit_of(shot)
    assert edit.render.fps / edit.render.fps_base == pytest.approx(24 / 1.001, abs=1e-4)
    assert (edit.render.resolution_x, edit.render.resolution_y) == SIZE
    assert (edit.frame_start, edit.frame_end) == (1, 3)
    edit.frame_current = 2
    take_of(shot)
    assert edit.frame_current == 2, "the artist's place in time stays"


def test_takes_of_other_sizes_fill_the_picture_and_show_their_own_pixels(shot, tmp_path):
    small, large = take_of(shot), take_of(shot, size=(128, 80))
    edit = sequencer.edit_of(shot)
    np.testing.assert_array_equal(shown(edit, 2, tmp_path), read_png(large / "frames" / "0002.png"))
    sequencer.show_only(edit, 1)
    seen = shown(edit, 2, tmp_path)
    assert seen.shape == (80, 128, 3)
    assert np.abs(seen[::2, ::2].astype(int) - read_png(small / "frames" / "0002.png")).mean() < 60
    assert (seen[:, :20].std() > 20) and (seen[:8].std() > 20), "it fills the picture"


def test_frames_before_zero_are_in_their_place(shot, tmp_path):
    take = take_of(shot, frames=range(-10, 11))
    edit = sequencer.edit_of(shot)
    assert compat.strip_range(sequencer.strip_of(edit, 1)) == (-10, 11)
    assert (edit.frame_preview_start, edit.frame_preview_end) == (-10, 10)
    for frame, name in ((-10, "-010.png"), (0, "0000.png"), (10, "0010.png")):
        np.testing.assert_array_equal(shown(edit, frame, tmp_path), read_png(take / "frames" / name))


def test_the_artists_own_strips_stay(shot, tmp_path):
    take_of(shot)
    edit = sequencer.edit_of(shot)
    title = compat.strips(edit).new_effect(name="Title", type="COLOR", channel=6, frame_start=1, **LENGTH_OR_END)
    take_of(shot)
    sequencer.show_only(edit, 1)
    assert not title.mute and title.channel == 6
    assert sequencer.strip_of(edit, 2).channel == 7
    assert edit.sequence_editor.channels[6].name == "Channel 6"


def test_a_comparison_shows_left_and_right(shot, tmp_path):
    pictures = [read_png(take_of(shot) / "frames" / "0002.png") for _ in range(3)]
    edit = sequencer.edit_of(shot)
    for left, right in ((1, 2), (2, 1), (3, 1)):
        sequencer.compare(edit, left, right)
        seen = shown(edit, 2, tmp_path)
        np.testing.assert_array_equal(seen[:, :32], pictures[left - 1][:, :32])
        np.testing.assert_array_equal(seen[:, 32:], pictures[right - 1][:, 32:])
        assert sequencer.compared(edit) == (left, right)
    sequencer.compare(edit, 1, 2, 0.25)
    seen = shown(edit, 2, tmp_path)
    np.testing.assert_array_equal(seen[:, :16], pictures[0][:, :16])
    np.testing.assert_array_equal(seen[:, 16:], pictures[1][:, 16:])
    sequencer.show_only(edit, 2)
    np.testing.assert_array_equal(shown(edit, 2, tmp_path), pictures[1])
    assert sequencer.compared(edit) is None
    with pytest.raises(sequencer.StripError, match="with itself"):
        sequencer.compare(edit, 2, 2)
    with pytest.raises(sequencer.StripError, match="take 9 is not in the edit"):
        sequencer.compare(edit, 2, 9)


def test_toggling_goes_back_and_forth_between_two_takes(shot):
    take_of(shot)
    edit = sequencer.edit_of(shot)
    with pytest.raises(sequencer.StripError, match="only one"):
        sequencer.toggle(edit)
    take_of(shot), take_of(shot)
    sequencer.show_only(edit, 1)
    assert [sequencer.toggle(edit) for _ in range(3)] == [3, 1, 3]
    sequencer.compare(edit, 1, 2)
    assert [sequencer.toggle(edit) for _ in range(3)] == [1, 2, 1]
    sequencer.remove_take(edit, 1)
    assert sequencer.shown(edit) == 3


def test_the_same_take_is_not_placed_twice(shot):
    take = take_of(shot)
    strip = takes.finish(shot, take)
    edit = sequencer.edit_of(shot)
    assert sequencer.take_strips(edit) == [strip]
    paint(take, (1, 2))
    shutil.rmtree(take / "frames")
    paint(take, (1, 2))
    assert compat.strip_range(takes.finish(shot, take)) == (1, 3)
    assert [strip.channel for strip in sequencer.take_strips(edit)] == [2]


def test_what_cannot_be_placed_is_refused_in_one_line(shot, tmp_path):
    take = submit(shot)
    with pytest.raises(takes.TakeError, match="take 1 has no frames in"):
        takes.finish(shot, take)
    (take / "frames").mkdir()
    (take / "frames" / "0001.png").write_text("no picture")
    with pytest.raises(sequencer.StripError, match="is no PNG picture"):
        takes.finish(shot, take)
    with pytest.raises(takes.TakeError, match="there is no take in"):
        takes.finish(shot, tmp_path / "take_009")
    with pytest.raises(takes.TakeError, match='there is no take 7 of "Scene"'):
        takes.find(shot, 7)
    assert sequencer.edit_of(shot) is None, "no edit is made of nothing"


HOSTILE = {
    "empty": b"",
    "half": b'{"format": "medm-take-record", "version": 1, "num',
    "a list": b"[1, 2]",
    "deep": b"[" * 200_000,
    "bytes": b"\xff\xfe\x00",
    "another format": b'{"format": "x", "version": 1}',
    "huge": b'{"format": "' + b"x" * 2**21 + b'"}',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_record_that_cannot_be_read_is_a_failed_take_and_one_with_frames_is_ready(shot, content):
    take = submit(shot)
    (take / "record.json").write_bytes(content)
    (record,) = takes.of(shot)
    assert (record.number, record.state, record.error) == (1, "failed", "its record cannot be read")
    paint(take, (1, 2, 3))
    (record,) = takes.of(shot)
    assert (record.state, record.prompt) == ("ready", "gold")
    takes.finish(shot, take)
    assert takes.of(shot)[0].frame_end == 3


def test_a_records_values_are_taken_with_suspicion(shot):
    take = submit(shot)
    document = {
        "format": "medm-take-record",
        "version": 1,
        "number": 99,
        "frame_start": "x",
        "frame_end": 1e300,
        "fps": float("nan"),
        "width": -4,
        "height": True,
        "settings": ["no"],
        "server": {"a": 1},
        "job": 7,
        "state": "rm -rf",
        "error": "two\nlines\u202e",
        "folder": "/etc",
        "created": "y" * 20_000,
    }
    (take / "record.json").write_text(json.dumps(document))
    (record,) = takes.of(shot)
    assert record == takes.Record(take, 1, error="two lines", created="y" * 10_000)
    assert takes.pending(shot) == []


def test_takes_whose_frames_come_late_are_seen_although_folders_are_remembered(shot):
    take = folders.new_take(shot)
    assert takes.of(shot) == [], "nothing was submitted yet"
    takes.begin(shot, take, "a", "b", {})
    assert takes.of(shot)[0].state == "painting"
    takes.fail(take, "no")
    assert takes.of(shot)[0].state == "failed"


def test_a_full_disk_does_not_lose_the_take(shot, monkeypatch):
    take = submit(shot)
    paint(take, (1, 2, 3))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(takes.os, "fsync", full)
    assert takes.finish(shot, take).name == "Take 1"
    with pytest.raises(takes.TakeError, match="cannot be written: no space left on device"):
        takes.begin(shot, folders.new_take(shot), "job", "server", {})
    assert not list(take.glob(".*"))

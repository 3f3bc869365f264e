"""Takes placed as strips show their own pixels, in sync, also after the file was saved, moved and opened again."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

pytest.importorskip("bpy")

import bpy

from medm_blender import compat, sequencer
from staging import SIZE, read_png, write_png

pytestmark = pytest.mark.bpy
FIRST, COUNT = 5, 3


@pytest.fixture
def takes(fresh, tmp_path):
    """Folders of three frames of noise each, numbered from 5: every value of a byte occurs."""
    noise = np.random.default_rng(0)
    folders = {}
    for name in ("original", "take one", "take two"):
        folder = tmp_path / "project" / name / "frames"
        folder.mkdir(parents=True)
        for frame in range(FIRST, FIRST + COUNT):
            write_png(folder / f"{frame:04d}.png", noise.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
        folders[name] = folder
    return folders


def edit_with(takes, fps=24.0):
    scene = sequencer.edit_scene("Edit", fps, *SIZE, COUNT, FIRST)
    strips = [sequencer.place(scene, name, folder, FIRST) for name, folder in takes.items()]
    return scene, strips


def shown(scene, frame, folder):
    """The pixels that the edit scene renders at `frame`."""
    scene.frame_start = scene.frame_end = frame
    scene.render.filepath = str(folder / "shown_")
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGB"
    bpy.ops.render.render(animation=True, scene=scene.name)
    return read_png(scene.render.frame_path(frame=frame))


def test_the_original_is_lowest_and_the_newest_take_on_top_all_in_sync(takes):
    scene, strips = edit_with(takes)
    assert [(strip.name, strip.channel) for strip in strips] == [("original", 1), ("take one", 2), ("take two", 3)]
    assert {compat.strip_range(strip) for strip in strips} == {(FIRST, FIRST + COUNT)}
    assert (scene.frame_start, scene.frame_end) == (FIRST, FIRST + COUNT - 1)


def test_frames_shown_already_are_not_placed_again(takes):
    scene, strips = edit_with(takes)
    assert sequencer.place(scene, "again", takes["original"], FIRST) == strips[0]
    assert len(compat.strips(scene)) == 3


def test_strips_show_the_takes_own_pixels_after_the_project_was_moved(takes, tmp_path):
    scene, _ = edit_with(takes)
    sequencer.show(scene)
    sequencer.save(tmp_path / "project" / "demo.blend")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    shutil.move(tmp_path / "project", tmp_path / "moved")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "moved" / "demo.blend"))

    scene = bpy.context.scene
    assert scene.name == "Edit"
    assert scene.view_settings.view_transform == "Standard"
    strips = {strip.name: strip for strip in compat.strips(scene)}
    for name, strip in strips.items():
        assert strip.directory == f"//{name}/frames/"
        assert compat.strip_range(strip) == (FIRST, FIRST + COUNT)
        assert sequencer.strip_files(strip) == [tmp_path / "moved" / name / "frames" / f"{n:04d}.png" for n in range(FIRST, FIRST + COUNT)]
    for hidden in ((), ("take two",), ("take two", "take one")):
        for name, strip in strips.items():
            strip.mute = name in hidden
        top = [name for name in takes if name not in hidden][-1]
        for frame in (FIRST, FIRST + COUNT - 1):
            expected = read_png(tmp_path / "moved" / top / "frames" / f"{frame:04d}.png")
            np.testing.assert_array_equal(shown(scene, frame, tmp_path), expected)


def test_the_edit_scene_is_made_once_and_has_the_takes_rate_and_size(fresh):
    scene = sequencer.edit_scene("Edit", 24 / 1.001, 384, 216, 24)
    assert scene.render.fps / scene.render.fps_base == pytest.approx(24 / 1.001, abs=1e-4)
    assert (scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage) == (384, 216, 100)
    assert (scene.frame_start, scene.frame_end) == (1, 24)
    view = scene.view_settings
    assert (view.view_transform, view.look, view.exposure, view.gamma) == ("Standard", "None", 0.0, 1.0)
    assert sequencer.edit_scene("Edit", 25.0, 384, 216, 48) == scene
    assert (scene.frame_end, scene.render.fps) == (48, 25)


def test_sequencers_of_all_workspaces_show_the_edit(fresh):
    scene = sequencer.edit_scene("Edit", 24.0, 64, 40, 3)
    assert bpy.data.workspaces
    if not compat.IS_5:  # the sequencer has a scene of its own from 5.0 on
        assert not any(hasattr(workspace, "sequencer_scene") for workspace in bpy.data.workspaces)
        return
    assert {workspace.sequencer_scene for workspace in bpy.data.workspaces} == {scene}


def test_what_cannot_be_placed_is_refused(takes, tmp_path):
    scene = sequencer.edit_scene("Edit", 24.0, *SIZE, COUNT, FIRST)
    (tmp_path / "empty").mkdir()
    with pytest.raises(sequencer.StripError, match="there are no frames in"):
        sequencer.place(scene, "none", tmp_path / "empty")
    (takes["take one"] / "0006.png").unlink()
    with pytest.raises(sequencer.StripError, match="frame 6 is missing in"):
        sequencer.place(scene, "gap", takes["take one"])
    with pytest.raises(sequencer.StripError, match=r"0006\.png is missing"):
        sequencer.place(scene, "gap", [takes["take one"] / "0005.png", takes["take one"] / "0006.png"])
    with pytest.raises(sequencer.StripError, match="in one folder"):
        sequencer.place(scene, "mixed", [takes["take one"] / "0005.png", takes["take two"] / "0006.png"])
    assert len(compat.strips(scene)) == 0

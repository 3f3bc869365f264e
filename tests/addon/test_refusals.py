"""Every scene and folder that cannot be exported is refused in one line that says what to do about it."""

from __future__ import annotations

import pytest

pytest.importorskip("bpy")

import addon_utils
import bpy

from medm_blender import passes
from staging import add_camera, add_plane

pytestmark = pytest.mark.bpy


def refusal(scene, folder, **options):
    with pytest.raises(passes.ShotError) as refused:
        passes.export_shot(scene, folder, beauty=False, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_no_camera(fresh, tmp_path):
    assert refusal(fresh, tmp_path) == 'the scene "Scene" has no camera'


def test_a_panoramic_camera(fresh, tmp_path):
    add_camera(fresh, type="PANO")
    assert '"Camera" is panoramic' in refusal(fresh, tmp_path)


def test_a_panoramic_camera_later_in_the_shot(fresh, tmp_path):
    fresh.timeline_markers.new("start", frame=1).camera = add_camera(fresh)
    fresh.timeline_markers.new("cut", frame=3).camera = add_camera(fresh, "Dome", type="PANO")
    assert '"Dome" is panoramic' in refusal(fresh, tmp_path)
    passes.export_shot(fresh, tmp_path / "before it", beauty=False, frame_range=(1, 2), size=(16, 16))


def test_something_else_as_the_camera(fresh, tmp_path):
    fresh.camera = add_plane(fresh)
    assert refusal(fresh, tmp_path) == '"Plane" is used as the camera but is none'


def test_no_cycles(fresh, tmp_path):
    add_camera(fresh)
    addon_utils.disable("cycles")
    try:
        assert "enable the add-on Cycles" in refusal(fresh, tmp_path / "shot")
    finally:
        addon_utils.enable("cycles")
    assert not (tmp_path / "shot").exists()


def test_a_frame_step(fresh, tmp_path):
    add_camera(fresh)
    fresh.frame_step = 2
    assert "set Frame Step to 1" in refusal(fresh, tmp_path)


def test_no_view_layer_for_rendering(fresh, tmp_path):
    add_camera(fresh)
    fresh.view_layers[0].use = False
    assert "no view layer" in refusal(fresh, tmp_path)


def test_an_empty_range(fresh, tmp_path):
    add_camera(fresh)
    assert refusal(fresh, tmp_path, frame_range=(5, 4)) == "the frame range 5 to 4 is empty"


@pytest.mark.parametrize("size", [(63, 40), (64, 41), (8, 8), (0, 0), (64, 16384)])
def test_sizes_that_no_model_takes(fresh, tmp_path, size):
    add_camera(fresh)
    assert "multiples of 8" in refusal(fresh, tmp_path, size=size)


def test_data_that_would_be_too_large(fresh, tmp_path):
    add_camera(fresh)
    with pytest.raises(passes.ShotError, match="data passes of 3 times 4096 x 64 pixels are too large: at most 8192"):
        passes.export_shot(fresh, tmp_path / "shot", size=(4096, 64), data_supersampling=3)
    with pytest.raises(passes.ShotError, match="cannot be 2 times as fine: choose 1 or 3"):
        passes.export_shot(fresh, tmp_path / "shot", data_supersampling=2)
    assert not (tmp_path / "shot").exists()


def test_a_file_where_the_folder_should_be(fresh, tmp_path):
    add_camera(fresh)
    (tmp_path / "taken").write_text("")
    assert refusal(fresh, tmp_path / "taken" / "shot") == f"{tmp_path / 'taken' / 'shot'} cannot be written: not a directory"


def test_a_render_that_writes_nothing(fresh, tmp_path):
    """Everything is checked before, but the folder may go while a long export runs."""
    import shutil

    add_camera(fresh)
    steps = passes.export_steps(fresh, tmp_path / "shot", beauty=False)
    next(steps)
    shutil.rmtree(tmp_path / "shot")
    (tmp_path / "shot").write_text("")
    with pytest.raises(passes.ShotError, match="frame 2"):
        next(steps)
    assert len(bpy.data.scenes) == 1

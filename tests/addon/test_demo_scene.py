"""The demo's shot has in it what it is there to show."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("bpy")

import bpy

from medm_blender import demo_scene, passes
from staging import empty_file, pixel_grid, project, read_shot

pytestmark = pytest.mark.bpy
SIZE = (96, 56)


@pytest.fixture(scope="module")
def shot(tmp_path_factory):
    """Three frames across the shot, data only."""
    empty_file()
    scene = demo_scene.build(frames=24, size=SIZE)
    assert (scene.frame_start, scene.frame_end) == (1, 24)
    assert (scene.render.resolution_x, scene.render.resolution_y) == SIZE
    names = {o.name for o in scene.objects}
    frames = {}
    for first in (1, 12, 23):
        folder = passes.export_shot(scene, tmp_path_factory.mktemp("demo") / "shot", beauty=False, frame_range=(first, first + 1))
        frames |= read_shot(folder).frames
    return frames, names


def object_ids(frame):
    return np.ascontiguousarray(frame.channels["CryptoObject00.r"]).view(np.int32)


def test_ground_below_sky_above(shot):
    frames, _ = shot
    for frame in frames.values():
        sky = np.linalg.norm(frame.normal, axis=-1) == 0
        assert 0.1 < sky.mean() < 0.4
        assert sky[: SIZE[1] // 4].mean() > 0.4
        assert sky[SIZE[1] // 2 :].mean() < 0.02


def test_the_camera_moves_all_the_time(shot):
    frames, _ = shot
    for frame in (frames[1], frames[12], frames[23]):
        seen = np.linalg.norm(frame.normal, axis=-1) > 0
        assert np.median(np.linalg.norm(frame.flow_to_next[seen], axis=-1)) > 0.1


def test_figure_and_ball_move_on_their_own_and_are_hidden_and_revealed(shot):
    """What moves on its own is where the flow is not what the camera's own motion makes of the same points."""
    frames, _ = shot
    shares = {}
    for first in (1, 12, 23):
        now, after = frames[first], frames[first + 1]
        seen = np.linalg.norm(now.normal, axis=-1) > 0
        static = project(now.position, after, *SIZE) - pixel_grid(*SIZE)
        moving = seen & (np.linalg.norm(now.flow_to_next - static, axis=-1) > 0.2)
        movers = [(object_ids(now) == i).mean() for i in np.unique(object_ids(now)[moving]) if (object_ids(now)[moving] == i).sum() > 4]
        assert len(movers) == 2, first
        shares[first] = max(movers)
    assert shares[12] < 0.75 * shares[23]  # half way both stand behind columns


def test_no_object_is_left_over_from_building(shot):
    _, names = shot
    assert "Figure clay" not in names
    assert not bpy.data.metaballs

"""The conventions everything else is built on: where Vector points, and that Position, cameras and pixels agree."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("bpy")

from medm_blender import compat, passes
from staging import SIZE, add_camera, add_plane, empty_file, move_evenly, pixel_grid, project, read_shot, tilted_world

pytestmark = pytest.mark.bpy
WIDTH, HEIGHT = SIZE


def test_a_plane_that_moves_3_right_and_2_down_a_frame(fresh, tmp_path):
    """In an orthographic view 64 metres wide a metre is a pixel."""
    add_camera(fresh, type="ORTHO", ortho_scale=64.0)
    plane = add_plane(fresh, size=(20, 12))
    move_evenly(plane, range(0, 5), by=(3, -2, 0))
    frame = read_shot(passes.export_shot(fresh, tmp_path / "shot", beauty=False, frame_range=(2, 2))).frames[2]
    on_plane = np.linalg.norm(frame.normal, axis=-1) > 0
    assert on_plane.sum() == 20 * 12
    np.testing.assert_allclose(frame.flow_to_prev[on_plane], np.broadcast_to((-3, -2), (240, 2)), atol=1e-3)
    np.testing.assert_allclose(frame.flow_to_next[on_plane], np.broadcast_to((3, 2), (240, 2)), atol=1e-3)


CAMERAS = {
    "perspective": {},
    "shifted": {"shift_x": 0.2, "shift_y": -0.15},
    **({"orthographic": {"type": "ORTHO", "ortho_scale": 14.0}} if compat.MOVING_ORTHOGRAPHIC_VECTORS else {}),
    "zooming": {},
    "narrow pixels": {},
    "wide pixels": {},
}


@pytest.fixture(scope="module", params=CAMERAS)
def moving_camera(request, tmp_path_factory):
    """Three frames of a static world by a camera that pans, tilts and travels, in a scene with blur, depth of field and an odd filter."""
    scene = empty_file()
    tilted_world(scene)
    camera = add_camera(scene, location=(0, -12, 7), rotation=(math.radians(62), 0, 0), **CAMERAS[request.param])
    if request.param == "zooming":
        for frame, lens in ((0, 38), (4, 46)):
            camera.data.lens = lens
            camera.data.keyframe_insert("lens", frame=frame)
    move_evenly(camera, range(0, 6), by=(0.3, 0.2, 0.05), turn=(0.01, 0.005, 0.03))
    scene.render.pixel_aspect_x = 2.0 if request.param == "wide pixels" else 1.0
    scene.render.pixel_aspect_y = 1.5 if request.param == "narrow pixels" else 1.0
    scene.render.use_motion_blur = True
    camera.data.dof.aperture_fstop = 0.1
    camera.data.dof.use_dof = True
    camera.data.dof.keyframe_insert("use_dof", frame=1)
    scene.cycles.filter_width = 5.0
    scene.cycles.use_sample_subset, scene.cycles.sample_offset = True, 7
    scene.view_layers[0].samples = 16
    scene.cycles.keyframe_insert("samples", frame=1)
    return read_shot(passes.export_shot(scene, tmp_path_factory.mktemp("moving") / "shot", beauty=False, frame_range=(1, 3)))


def test_position_projects_to_its_own_pixel_centre(moving_camera):
    for frame in moving_camera.frames.values():
        seen = np.linalg.norm(frame.normal, axis=-1) > 0
        assert seen.mean() > 0.3
        error = np.linalg.norm(project(frame.position, frame, WIDTH, HEIGHT) - pixel_grid(WIDTH, HEIGHT), axis=-1)[seen]
        assert error.max() < 0.01


def test_flow_leads_to_where_the_other_frames_camera_sees_the_point(moving_camera):
    now = moving_camera.frames[2]
    seen = np.linalg.norm(now.normal, axis=-1) > 0
    for flow, other in ((now.flow_to_prev, moving_camera.frames[1]), (now.flow_to_next, moving_camera.frames[3])):
        truth = project(now.position, other, WIDTH, HEIGHT) - pixel_grid(WIDTH, HEIGHT)
        error = np.linalg.norm(flow - truth, axis=-1)[seen]
        assert np.median(np.linalg.norm(truth, axis=-1)[seen]) > 0.5  # there is something to measure
        assert np.median(error) < 1e-3
        assert np.quantile(error, 0.999) < 0.02


def test_depth_is_the_distance_along_the_view(moving_camera):
    frame = moving_camera.frames[2]
    seen = np.linalg.norm(frame.normal, axis=-1) > 0
    z = (np.concatenate([frame.position, np.ones((HEIGHT, WIDTH, 1))], axis=-1) @ frame.view.T)[..., 2]
    np.testing.assert_allclose(frame.channels["Depth.Z"][seen], -z[seen], rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "key", "words"),
    [("PERSP", "shift_x", "shift at frame 2"), ("ORTHO", "shift_y", "orthographic scale"), ("ORTHO", "ortho_scale", "orthographic scale")],
)
def test_camera_changes_that_vectors_leave_out_are_refused(fresh, tmp_path, kind, key, words):
    add_plane(fresh)
    camera = add_camera(fresh, type=kind)
    for frame in (1, 3):
        setattr(camera.data, key, getattr(camera.data, key) + 0.1 * (frame - 1))
        camera.data.keyframe_insert(key, frame=frame)
    with pytest.raises(passes.ShotError, match=words):
        passes.export_shot(fresh, tmp_path / "shot", beauty=False)


def test_a_moving_orthographic_camera_is_refused_where_vectors_are_wrong(fresh, tmp_path):
    add_plane(fresh)
    camera = add_camera(fresh, type="ORTHO")
    move_evenly(camera, range(1, 4), by=(0.1, 0, 0))
    if compat.MOVING_ORTHOGRAPHIC_VECTORS:  # that they are right there, the tests above say
        passes.export_shot(fresh, tmp_path / "shot", beauty=False)
        return
    with pytest.raises(passes.ShotError, match='orthographic camera "Camera" moves at frame 2'):
        passes.export_shot(fresh, tmp_path / "shot", beauty=False)

"""Flow between frames that are not neighbours, against exact projection and ray casting; and what equation 11 gains by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import synthetic
from coded_scenes import errors, wall, written
from medm.correspondence import analyse
from medm.correspondence.distant import distant_flow
from medm.shot import Shot
from synthetic import Rectangle, Scene, at, camera, sliding_rectangle, two_rectangles


def truth(scene: Scene, t: int, s: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the points of frame t are in frame s, (H, W, 2), NaN on the background; the rectangle of each pixel, -1 for none; and
    whether it is seen in frame s."""
    view = scene.camera(s)
    _, index, place, _ = scene.hits(t)
    moved = scene.moved(index, place, s)
    there, _ = view.project(moved)
    origins, directions = view.rays(np.nan_to_num(there))
    first, _, _ = scene.cast(s, origins, directions)
    with np.errstate(invalid="ignore"):
        seen = (there > -0.5).all(-1) & (there < [view.width - 0.5, view.height - 0.5]).all(-1)
        seen &= first > ((moved - origins) * directions).sum(-1) * 0.999
    shape = view.height, view.width
    return there.reshape(*shape, 2), index.reshape(shape), seen.reshape(shape)


def flow_of(shot: Shot, t: int, s: int) -> tuple[np.ndarray, np.ndarray]:
    flow, occluded = distant_flow(shot, shot.gbuffer(), t, s)
    assert flow.dtype == np.float32
    assert flow.shape == (48, 64, 2)
    assert occluded.dtype == np.bool_
    return flow, occluded


GRID = np.stack(np.meshgrid(np.arange(64), np.arange(48)), -1)


@pytest.mark.parametrize(("t", "s"), [(5, 0), (0, 5), (4, 1), (3, 3)])
def test_the_flow_of_what_is_static_or_rigid_is_exact(tmp_path: Path, t: int, s: int) -> None:
    scene = two_rectangles(length=6)
    flow, occluded = flow_of(written(tmp_path / "shot", scene), t, s)
    there, index, seen = truth(scene, t, s)
    surface = index >= 0
    np.testing.assert_allclose((GRID + flow)[surface], there[surface], atol=2e-3)
    wrong = surface & (occluded == seen)
    assert wrong.sum() < 0.05 * surface.sum()
    # Wrong only where something's edge is, of which the other frame's pixels know no more than on which side their centres are.
    _, index_there, _ = truth(scene, s, s)
    x, y = np.clip(np.rint(np.nan_to_num(there)), 0, [63, 47]).astype(int).transpose(2, 0, 1)
    assert not (wrong & ~near_an_edge(index) & ~near_an_edge(index_there)[y, x]).any()


def near_an_edge(index: np.ndarray) -> np.ndarray:
    """(H, W) bool, whether one of the eight pixels around shows another rectangle."""
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return np.any([np.roll(index, shift, (0, 1)) != index for shift in shifts], axis=0)


def test_the_background_moves_with_the_cameras(tmp_path: Path) -> None:
    scene = two_rectangles(length=6)
    shot = written(tmp_path / "shot", scene)
    flow, occluded = flow_of(shot, 5, 0)
    sky = shot.gbuffer().background[5]
    far = scene.camera(5).rays(GRID[sky])
    there, _ = scene.camera(0).project(far[0] + 1e9 * far[1])
    np.testing.assert_allclose((GRID + flow)[sky], there, atol=1e-3)
    inside = (np.rint(there) >= 0).all(-1) & (np.rint(there) <= [63, 47]).all(-1)
    assert occluded[sky][~inside].all()
    assert not occluded[sky][inside].all()


def test_nothing_is_known_of_what_deforms(tmp_path: Path) -> None:
    scene = sliding_rectangle(length=4)
    shot = written(tmp_path / "shot", scene, rest=True)
    flow, occluded = flow_of(shot, 3, 0)
    slider = shot.gbuffer().object_id[3] == 101
    assert occluded[slider].all()
    assert np.isnan(flow[slider]).all()
    assert np.isfinite(flow[~slider]).all()


def test_nothing_is_known_of_a_rigid_object_in_frames_in_which_it_is_not_there(tmp_path: Path) -> None:
    scene = two_rectangles(length=4)
    comes = replace(scene.rectangles[0], visible=lambda t: t > 0)
    shot = written(tmp_path / "shot", replace(scene, rectangles=[comes, scene.rectangles[1]]))
    mover = shot.gbuffer().object_id[3] == 101
    flow, occluded = flow_of(shot, 3, 0)
    assert occluded[mover].all()
    assert np.isnan(flow[mover]).all()
    _, occluded = flow_of(shot, 3, 1)
    assert not occluded[mover].all()


def test_what_stands_behind_something_is_hidden_though_it_has_the_same_id(tmp_path: Path) -> None:
    front = Rectangle(7, lambda _: at(0, 0, -1), half=(0.1, 0.1))
    behind = Rectangle(7, lambda _: at(0, 0, -2), half=(5, 5))
    scene = Scene([front, behind], camera=lambda t: camera(at(0.15 * t), 64, 48), length=4)
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", scene, beauty=False, objects=True))
    synthetic.change_manifest(shot.folder, lambda m: m["objects"][0].update(kind="static"))
    _, occluded = flow_of(Shot.open(shot.folder), 3, 0)
    _, _, seen = truth(scene, 3, 0)
    assert (occluded == ~seen).mean() > 0.98
    assert (~seen).sum() > 100


def test_the_other_side_of_what_has_turned_round_was_not_seen(tmp_path: Path) -> None:
    turning = Rectangle(101, lambda t: at(0.01, 0.02, -2, turn=(0, 0.3 + np.pi * t / 5, 0)), half=(0.6, 0.5))
    scene = Scene([turning, Rectangle(202, lambda _: at(0, 0, -6), half=(20, 20))], length=6)
    shot = written(tmp_path / "shot", scene)
    _, occluded = flow_of(shot, 5, 0)
    mover = shot.gbuffer().object_id[5] == 101
    assert mover.sum() > 300
    assert occluded[mover].all()
    assert not occluded[~mover].all()


@pytest.mark.parametrize("distance", [1, 8])
def test_distant_flows_take_away_some_of_the_drift(tmp_path: Path, distance: int) -> None:
    """0.3 pixels a frame: to the nearest pixel that is none. Rounding every d-th step only, the codes lag that much less."""
    scene = Scene([wall()], camera=lambda t: camera(at(0.3 * t / 32, 0.2 * t / 32), 64, 48), length=20)
    shot = written(tmp_path / "shot", scene)
    g = shot.gbuffer()
    near, far = (analyse(shot, g, "rounded", distant=d) for d in (0, distance))
    assert np.median(errors(scene, far.codes)[-1]) < np.median(errors(scene, near.codes)[-1]) - 1

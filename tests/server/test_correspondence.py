"""Background flow, occlusion and jumps of the camera, against exact projection and ray casting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import synthetic
from coded_scenes import backwards, written
from medm import correspondence
from medm.correspondence.background import NOWHERE, background_flow, fill_background, pixel_grid
from medm.correspondence.coding import in_reverse
from medm.correspondence.cuts import with_jumps
from medm.correspondence.occlusion import nearest_pixel, occluded_pixels
from medm.errors import BadInput
from medm.shot import Camera, Fine, Shot
from synthetic import Rectangle, Scene, at, camera


def far_flow(here: Camera, there: Camera, xy: np.ndarray, distance: float = 1e9) -> np.ndarray:
    """By the definition: a point very far along the pixel's ray, projected by the other camera."""
    origins, directions = here.rays(xy)
    return there.project(origins + distance * directions)[0] - xy


GRID = pixel_grid(64, 48).astype(np.float64)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (camera(at(), 64, 48), camera(at(turn=(0.02, -0.05, 0.03)), 64, 48)),
        (camera(at(1, 2, 3, turn=(1, 0, 2)), 64, 48), camera(at(-4, 2, 8, turn=(1.01, 0.02, 2)), 64, 48)),
        (camera(at(), 64, 48, lens=1.0, shift=(0.2, -0.1)), camera(at(turn=(0, 0.03, 0)), 64, 48, lens=1.3, shift=(-0.1, 0.3))),
    ],
    ids=["turning", "turning and moving", "shift and zoom"],
)
def test_background_flow_is_that_of_far_points(here: Camera, there: Camera) -> None:
    np.testing.assert_allclose(background_flow(here, there, GRID), far_flow(here, there, GRID), atol=1e-4)


def test_background_flow_of_a_pan_has_a_known_size() -> None:
    here, there = camera(at(), 64, 48, lens=1.0), camera(at(turn=(0, 0.01, 0)), 64, 48, lens=1.0)  # turned to the left
    centre = np.array([31.5, 23.5])
    np.testing.assert_allclose(background_flow(here, there, centre), [64 * np.tan(0.01), 0], atol=1e-9)


def test_moving_without_turning_leaves_the_sky_where_it_is() -> None:
    flow = background_flow(camera(at(), 64, 48), camera(at(5, -3, 2), 64, 48), GRID)
    np.testing.assert_allclose(flow, 0, atol=1e-9)


def test_sky_behind_the_other_camera_is_nowhere() -> None:
    flow = background_flow(camera(at(), 64, 48), camera(at(turn=(0, np.pi, 0)), 64, 48), GRID)
    assert (flow == NOWHERE).all()


def test_orthographic_background_moves_as_every_depth_does() -> None:
    here = camera(at(0, 0, 5), 64, 48, ortho=4.0)
    there = camera(at(0.25, 0.5, 7, turn=(0, 0, 0.1)), 64, 48, ortho=3.0, shift=(0.1, 0))
    expected = far_flow(here, there, GRID, distance=3.0)
    np.testing.assert_allclose(background_flow(here, there, GRID), expected, atol=1e-9)
    np.testing.assert_allclose(far_flow(here, there, GRID, distance=300.0), expected, atol=1e-9)


def test_orthographic_background_stands_still_when_the_view_turns() -> None:
    here, there = camera(at(), 64, 48, ortho=4.0), camera(at(1, 0, 0, turn=(0, 0.1, 0)), 64, 48, ortho=4.0)
    assert not background_flow(here, there, GRID).any()


def test_change_of_the_kind_of_camera_has_no_background_flow() -> None:
    assert (background_flow(camera(at(), 64, 48), camera(at(), 64, 48, ortho=2.0), GRID) == NOWHERE).all()


def test_filling_touches_the_background_only() -> None:
    scene = synthetic.two_rectangles()
    g = scene.gbuffer()
    assert g.background.any()
    assert (~g.background).any()
    before = g.flow_to_prev.copy()
    to_prev, to_next = fill_background(g.flow_to_prev, g.flow_to_next, g.background, scene.cameras)
    np.testing.assert_array_equal(g.flow_to_prev, before)
    assert not to_prev[0].any()
    assert not to_next[-1].any()
    for t in range(1, len(scene.cameras)):
        surface = ~g.background[t]
        np.testing.assert_array_equal(to_prev[t][surface], g.flow_to_prev[t][surface])
        expected = far_flow(scene.cameras[t], scene.cameras[t - 1], GRID)[~surface]
        np.testing.assert_allclose(to_prev[t][~surface], expected, atol=1e-4)
        # There and back is the way home.
        back = far_flow(scene.cameras[t - 1], scene.cameras[t], GRID + to_prev[t])
        np.testing.assert_allclose((to_prev[t] + back)[~surface], 0, atol=1e-3)


def test_filling_in_place_gives_the_same_and_keeps_the_surfaces() -> None:
    scene = synthetic.two_rectangles()
    g, given = scene.gbuffer(), scene.gbuffer()
    expected = fill_background(g.flow_to_prev, g.flow_to_next, g.background, scene.cameras)
    filled = fill_background(given.flow_to_prev, given.flow_to_next, given.background, scene.cameras, in_place=True)
    assert filled[0] is given.flow_to_prev and filled[1] is given.flow_to_next
    for mine, theirs in zip(filled, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_nearest_pixel() -> None:
    xy = np.array(
        [[0.5, 1.5], [-0.5, 0], [-0.51, 0], [3.49, 2.4], [3.51, 0], [np.nan, 0], [np.inf, 0], [-np.inf, 1], [1e30, 0]], np.float32
    )
    pixel, inside = nearest_pixel(xy, 4, 3)
    assert inside.tolist() == [True, True, False, True, False, False, False, False, False]
    assert pixel[inside].tolist() == [[0, 2], [0, 0], [3, 2]]  # halves go to the even pixel
    assert ((pixel >= 0) & (pixel < [4, 3])).all()


def occluded_of(scene: Scene, fine: Callable[[int], Fine] | None = None) -> np.ndarray:
    g = scene.gbuffer()
    to_prev, to_next = fill_background(g.flow_to_prev, g.flow_to_next, g.background, scene.cameras)
    return occluded_pixels(g, to_prev, to_next, scene.cameras, scene.cut_mask, fine)


def wall(z: float = -6.0) -> Rectangle:
    return Rectangle(202, lambda t: at(0, 0, z), half=(20, 20))


def test_first_frame_and_cuts_are_all_new() -> None:
    occluded = occluded_of(Scene([wall()], length=4, cuts=(2,)))
    assert occluded[0].all()
    assert not occluded[1].any()
    assert occluded[2].all()
    assert not occluded[3].any()


def test_what_a_mover_uncovers_is_new_and_nothing_else() -> None:
    # At z = -2 with lens 1 and 64 pixels a unit is 32 pixels: the mover is 16 wide, and goes 4 pixels to the right.
    scene = Scene([wall(-4), Rectangle(101, lambda t: at(0.01 + 0.125 * t, 0.01, -2), half=(0.25, 0.25))], length=2)
    occluded = occluded_of(scene)[1]
    ids = scene.gbuffer().object_id
    uncovered = (ids[0] == 101) & (ids[1] != 101)
    assert uncovered.sum() == 4 * 16
    np.testing.assert_array_equal(occluded, uncovered)


def test_what_a_mover_uncovers_of_the_sky_is_new() -> None:
    scene = Scene([Rectangle(101, lambda t: at(0.01 + 0.125 * t, 0.01, -2), half=(0.25, 0.25))], length=2)
    ids = scene.gbuffer().object_id
    np.testing.assert_array_equal(occluded_of(scene)[1], (ids[0] == 101) & (ids[1] == 0))


def test_two_parts_of_one_object_hide_each_other() -> None:
    scene = Scene(
        [Rectangle(5, lambda t: at(0, 0, -4), half=(9, 9)), Rectangle(5, lambda t: at(0.01 + 0.125 * t, 0.01, -2), half=(0.25, 0.25))]
    )
    g = scene.gbuffer()
    front = g.depth < 3
    np.testing.assert_array_equal(occluded_of(scene)[1], front[0] & ~front[1])


def test_an_object_that_appears_is_new() -> None:
    """Blender's vector of an object that was hidden is 0, and what stood there before stands behind it."""
    scene = Scene([wall(), Rectangle(101, lambda t: at(0, 0, -2), half=(0.3, 0.2), visible=lambda t: t >= 1)], length=3)
    occluded = occluded_of(scene)
    np.testing.assert_array_equal(occluded[1], scene.gbuffer().object_id[1] == 101)
    assert not occluded[2].any()


def test_an_object_that_appears_before_the_sky_is_new() -> None:
    scene = Scene([Rectangle(101, lambda t: at(0, 0, -2), half=(0.3, 0.2), visible=lambda t: t >= 1)], length=2)
    np.testing.assert_array_equal(occluded_of(scene)[1], scene.gbuffer().object_id[1] == 101)


def test_what_a_vanishing_object_hid_is_new() -> None:
    scene = Scene([wall(), Rectangle(101, lambda t: at(0, 0, -2), half=(0.3, 0.2), visible=lambda t: t < 1)], length=2)
    np.testing.assert_array_equal(occluded_of(scene)[1], scene.gbuffer().object_id[0] == 101)


def test_what_was_behind_the_camera_is_new() -> None:
    """The camera backs out of a corridor that is one object: what it passes has no place in the frame before, whatever its vector says."""
    corridor = [Rectangle(5, lambda t: at(0, 0, -6), half=(20, 20)), Rectangle(5, lambda t: at(0, 0, -2), half=(0.5, 0.5))]
    scene = Scene(corridor, camera=lambda t: camera(at(0, 0, -3 + 3 * t), 64, 48), length=2)
    g = scene.gbuffer()
    passed = (g.depth[1] < 3) & (np.linalg.norm(g.flow_to_next[0], axis=-1) > 1)
    g.flow_to_prev[1][passed] = 0  # a place in the frame, of a point that was behind it
    assert passed.sum() > 100
    occluded = occluded_pixels(g, g.flow_to_prev, g.flow_to_next, scene.cameras, scene.cut_mask)
    assert occluded[1][passed].all()


def test_what_enters_the_frame_is_new() -> None:
    scene = Scene([wall(-2)], camera=lambda t: camera(at(0.125 * t), 64, 48), length=2)  # 4 pixels to the right
    expected = np.zeros((48, 64), bool)
    expected[:, -4:] = True
    np.testing.assert_array_equal(occluded_of(scene)[1], expected)


def movers(ortho: float | None, pace: float, finer: int = 1) -> Scene:
    """Two things that travel and turn before a wall, and a pole; `finer` times as many pixels along each side."""
    return Scene(
        [
            Rectangle(101, lambda t: at(-0.6 + 0.15 * pace * t, 0.1, -3.0, turn=(0.0, 0.3, 0.15 * pace * t)), half=(0.5, 0.4)),
            Rectangle(102, lambda t: at(0.5, -0.3 + 0.1 * pace * t, -4.0, turn=(0.4, 0.1 * pace * t, 0.0)), half=(0.3, 0.6)),
            Rectangle(103, lambda t: at(0.2, 0, -2.0, turn=(0, 0, 0.2)), half=(0.03, 2.0)),
            Rectangle(202, lambda t: at(0, 0, -6, turn=(0.1, 0.2, 0)), half=(20, 20)),
        ],
        camera=lambda t: camera(
            at(0.06 * pace * t, 0, 0, turn=(0.0, 0.0 if ortho else 0.01 * pace * t, 0.005 * pace * t)), 96 * finer, 72 * finer, ortho=ortho
        ),
        length=7,
    )


def fine_of(scene: Scene, scale: int) -> Callable[[int], Fine]:
    """The passes of a scene with more pixels as those of a shot's finer data."""
    g = scene.gbuffer()
    return lambda t: Fine(scale, g.object_id[t], g.depth[t], g.flow_to_next[t] / np.float32(scale), g.background[t])


@pytest.mark.parametrize("pace", [1.0, 0.3], ids=["fast", "slow"])
@pytest.mark.parametrize("ortho", [None, 4.0])
@pytest.mark.parametrize("finer", [1, 3])
def test_agrees_with_ray_casting(ortho: float | None, pace: float, finer: int) -> None:
    scene = movers(ortho, pace)
    occluded = occluded_of(scene, fine_of(movers(ortho, pace, finer), finer) if finer > 1 else None)
    truth = np.stack([scene.hidden_before(t) for t in range(1, scene.length)])
    found = occluded[1:]
    f1 = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert truth.sum() > 200
    thin = 0.035 if ortho and pace < 1 else 0  # without perspective next to nothing comes into view, and all of it lies along edges
    assert f1 > {1: 0.96, 3: 0.985}[finer] - thin


def test_what_turns_into_view_is_new() -> None:
    """Two sides of a box: the one is seen at first, the other at last. Its points, seen from behind, had places in the frame before."""

    def side(turn: float) -> Rectangle:
        return Rectangle(5, lambda t: at(0, 0, -4) @ at(turn=(0, 0.9 * t + turn, 0)) @ at(0, 0, 0.8), half=(0.8, 0.8))

    scene = Scene([side(0.0), side(-np.pi / 2), wall()], camera=lambda t: camera(at(), 96, 72), length=2)
    came = (scene.hits(1)[1] == 1).reshape(72, 96)
    assert came.sum() > 300
    assert occluded_of(scene)[1][came].mean() > 0.95


def test_what_vanishes_while_the_camera_moves_leaves_no_trace() -> None:
    """Frames in which the occluder is not there do not tell where its edge was."""
    scene = Scene(
        [wall(), Rectangle(101, lambda t: at(0.01, 0, -2, turn=(0, 0, 0.3)), half=(0.3, 0.2), visible=lambda t: t < 3)],
        camera=lambda t: camera(at(0.013 * t, 0.007 * t, 0), 64, 48),
        length=5,
    )
    truth, found = scene.hidden_before(3), occluded_of(scene)[3]
    assert truth.sum() > 200
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.96


def test_passes_beyond_a_cut_are_not_asked() -> None:
    slow = movers(None, 0.3)
    alone = Scene(slow.rectangles, lambda t: slow.camera(t + 2), length=3)
    shown = Scene([Rectangle(r.object_id, lambda t, r=r: r.pose(t + 2), r.half) for r in slow.rectangles], alone.camera, length=3)
    cut = Scene(slow.rectangles, slow.camera, length=5, cuts=(2,))
    np.testing.assert_array_equal(occluded_of(cut)[2:], occluded_of(shown))


def test_flow_that_is_not_a_number_is_new() -> None:
    scene = Scene([wall()], length=2)
    g = scene.gbuffer()
    g.flow_to_prev[1, 3, 4] = np.nan
    g.flow_to_prev[1, 5, 6] = np.inf
    g.flow_to_prev[1, 7, 8] = 3e38
    occluded = occluded_pixels(g, g.flow_to_prev, g.flow_to_next, scene.cameras, scene.cut_mask)
    assert np.argwhere(occluded[1]).tolist() == [[3, 4], [5, 6], [7, 8]]


def test_flow_and_projection_agree_with_position(tmp_path: Path) -> None:
    """Of a static surface: Position, projected by the neighbours' cameras, is where the flow points."""
    scene = Scene([wall()], camera=lambda t: camera(at(0.1 * t, 0, 0.05 * t, turn=(0, 0.02 * t, 0)), 64, 48, shift=(0.1, 0)), length=3)
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", scene))
    g = shot.gbuffer()
    for other, flow in ((0, g.flow_to_prev[1]), (2, g.flow_to_next[1])):
        target, _ = shot.cameras[other].project(g.position[1])
        np.testing.assert_allclose(pixel_grid(64, 48) + flow, target, atol=1e-3)


@pytest.mark.parametrize("coding", ["subpixel", "rounded"])
def test_analysing_a_shot(shot_folder: Path, coding: str) -> None:
    shot = Shot.open(shot_folder)
    gbuffer = shot.gbuffer()
    seen: list[float] = []
    found = correspondence.analyse(shot, gbuffer, coding, lambda share, _: seen.append(share))  # type: ignore[arg-type]
    assert found.codes.codes.shape == found.occluded.shape == (4, 48, 64)
    assert found.codes.codes.dtype == np.int32
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert found.codes.count < 1.3 * 48 * 64
    without = correspondence.analyse(shot, gbuffer, coding, reidentify=False).codes  # type: ignore[arg-type]
    for t in range(1, 4):  # a new pixel has an old code only if its point was seen earlier
        fresh = without.birth_frame[without.codes[t][found.occluded[t]]]
        assert (fresh == t).all()


def eventful() -> Scene:
    """All that is told by more than one frame: a mover, a thing that comes and goes, sky, a camera that pans, a cut, a jump, a way back."""
    angles = [0, 1, 2, 3, 4, 5, 60, 61, 62, 63, 4, 3, 2, 1, 0, -1]

    def at_frame(t: int) -> Camera:
        t = min(max(t, 0), len(angles) - 1)
        return camera(at(0.02 * t, turn=(0, np.radians(angles[t]), 0.01 * t)), 64, 48)

    slider = Rectangle(101, lambda t: at(-0.8 + 0.11 * t, 0.1, -2.5, turn=(0, 0, 0.05 * t)), half=(0.3, 0.5))
    guest = Rectangle(303, lambda t: at(0.4, -0.3, -3), half=(0.4, 0.3), visible=lambda t: t % 5 < 3)
    return Scene([Rectangle(202, lambda _: at(0, 0.5, -6), half=(20, 2)), slider, guest], at_frame, length=len(angles), cuts=(13,))


@pytest.mark.parametrize("window", [1, 3, 5, 11, 15])
@pytest.mark.parametrize("options", [{}, {"reidentify": False}, {"coding": "rounded"}], ids=["subpixel", "flow alone", "rounded"])
@pytest.mark.parametrize("lists_objects", [True, False])
def test_a_shot_read_in_windows_gives_the_same_to_the_last_bit(
    tmp_path: Path, window: int, options: dict[str, Any], lists_objects: bool
) -> None:
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", eventful(), beauty=False, objects=lists_objects))
    told: list[float] = []
    found = correspondence.analyse(shot, None, window=window, progress=lambda share, _: told.append(share), **options)
    same(found, correspondence.analyse(shot, shot.gbuffer(), **options))
    assert told == sorted(told)
    assert told[-1] == 1.0


def same(found: correspondence.Correspondence, expected: correspondence.Correspondence) -> None:
    assert found.codes.count == expected.codes.count
    for name in ("codes", "birth_frame", "birth_xy"):
        np.testing.assert_array_equal(getattr(found.codes, name), getattr(expected.codes, name))
    for name in ("occluded", "flow_to_prev", "flow_to_next"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_finer_passes_and_rest_passes_are_read_in_windows_too(tmp_path: Path) -> None:
    slow = replace(eventful(), length=8, cuts=())
    fine = Shot.open(synthetic.write_shot(tmp_path / "fine", slow, beauty=False, data_scale=3))
    same(correspondence.analyse(fine, None, window=3), correspondence.analyse(fine, fine.gbuffer()))
    bending = replace(slow, rectangles=[slow.rectangles[0], replace(slow.rectangles[1], slide=lambda t: 0.02 * t)])
    rest = Shot.open(synthetic.write_shot(tmp_path / "rest", bending, beauty=False, objects=True, rest=True))
    same(correspondence.analyse(rest, None, window=3), correspondence.analyse(rest, rest.gbuffer()))


def test_the_flows_need_not_be_kept(shot_folder: Path) -> None:
    shot = Shot.open(shot_folder)
    whole = correspondence.analyse(shot, shot.gbuffer())
    for found in (correspondence.analyse(shot, None, flows=False), correspondence.analyse(shot, None, window=2, flows=False)):
        assert found.flow_to_prev.shape == found.flow_to_next.shape == (0, 48, 64, 2)
        np.testing.assert_array_equal(found.codes.codes, whole.codes.codes)
        np.testing.assert_array_equal(found.occluded, whole.occluded)


def test_given_up_passes_are_filled_where_they_are(shot_folder: Path) -> None:
    shot, gbuffer = Shot.open(shot_folder), Shot.open(shot_folder).gbuffer()
    found = correspondence.analyse(shot, gbuffer, in_place=True)
    assert found.flow_to_prev is gbuffer.flow_to_prev and found.flow_to_next is gbuffer.flow_to_next
    same(found, correspondence.analyse(shot, shot.gbuffer()))


@pytest.mark.parametrize("options", [{"coding": "rounded", "distant": 2}, {"anchor": "last"}])
def test_what_needs_the_whole_shot_has_no_windows(shot_folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="leave out the window"):
        correspondence.analyse(Shot.open(shot_folder), None, window=2, **options)


def test_finer_passes_are_used_where_a_shot_has_them(tmp_path: Path) -> None:
    scene = movers(None, 0.3)
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", scene, beauty=False, data_scale=3))
    gbuffer = shot.gbuffer()
    flows = fill_background(gbuffer.flow_to_prev, gbuffer.flow_to_next, gbuffer.background, shot.cameras)
    with_and_without = [occluded_pixels(gbuffer, *flows, shot.cameras, shot.cuts, fine) for fine in (shot.fine, None)]
    assert (with_and_without[0] != with_and_without[1]).any()
    np.testing.assert_array_equal(correspondence.analyse(shot, gbuffer, "rounded").occluded, with_and_without[0])


def room() -> list[Rectangle]:
    return [wall(-6.0), Rectangle(101, lambda t: at(0.3 * t, 0.1, -3.0), half=(0.5, 0.4))]


def turning(*degrees: float) -> Scene:
    """One camera that looks in these directions, one a frame."""
    return Scene(
        room(), camera=lambda t: camera(at(turn=(0, np.radians(degrees[min(max(t, 0), len(degrees) - 1)]), 0)), 64, 48), length=len(degrees)
    )


@pytest.mark.parametrize(
    ("degrees", "jumps"),
    [
        ((0, 1, 2, 25, 26, 27), [3]),
        ((0, 1, 2, 180, 181, 182), [3]),  # nothing is in view of both
        ((0, 25), [1]),
        ((0, 0, 0, 0), []),
        ((0, 1, 4, 10, 18, 26, 32, 35, 36), []),  # a whip pan
        ((0, 12, 24, 36, 24, 12, 0), []),
        ((0, 0, 18, 36, 36), []),  # from rest to rest in two frames
        ((0, 60, 120, 180), [1, 2, 3]),  # fast as it is everywhere, but nothing is left to take over
    ],
)
def test_a_camera_that_jumps_is_told_from_one_that_is_fast(degrees: tuple[float, ...], jumps: list[int]) -> None:
    scene = turning(*degrees)
    assert np.flatnonzero(with_jumps(scene.cut_mask, scene.gbuffer(), scene.cameras)).tolist() == [0, *jumps]


def test_a_camera_that_is_put_elsewhere_jumps() -> None:
    places = [(0, 0), (0.1, 0), (0.2, 0), (3.0, -2.0), (3.1, -2.0)]
    scene = Scene(room(), camera=lambda t: camera(at(places[min(max(t, 0), 4)][0], 0, places[min(max(t, 0), 4)][1]), 64, 48), length=5)
    assert np.flatnonzero(with_jumps(scene.cut_mask, scene.gbuffer(), scene.cameras)).tolist() == [0, 3]


@pytest.mark.parametrize("coding", ["subpixel", "rounded"])
@pytest.mark.parametrize("anchor", ["first", "last"])
def test_a_cut_parts_the_codes_before_it_from_those_after_it(tmp_path: Path, anchor: Literal["first", "last"], coding: Any) -> None:
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", Scene([wall()], length=5, cuts=(2,)), beauty=False))
    codes = correspondence.analyse(shot, shot.gbuffer(), coding, reidentify=False, anchor=anchor).codes.codes
    assert [not set(codes[t].flat) & set(codes[t - 1].flat) for t in range(1, 5)] == [False, True, False, False]


@pytest.mark.parametrize(
    "options", [{}, {"coding": "rounded"}, {"coding": "rounded", "distant": 2}], ids=["subpixel", "rounded", "rounded with distant flows"]
)
def test_from_the_last_frame_is_as_from_the_first_of_the_film_in_reverse(tmp_path: Path, options: dict[str, Any]) -> None:
    scene = Scene(
        [wall(-4), Rectangle(101, lambda t: at(-0.7 + 0.2 * t, 0.05, -2, turn=(0, 0, 0.05 * t)), half=(0.2, 0.5))],
        camera=lambda t: camera(at(0.03 * t * t, turn=(0, 0, 0.02 * t)), 64, 48),
        length=8,
    )
    film, reverse = (written(tmp_path / name, played) for name, played in (("film", scene), ("reverse", backwards(scene))))
    ours = correspondence.analyse(film, film.gbuffer(), anchor="last", **options).codes
    expected = in_reverse(correspondence.analyse(reverse, reverse.gbuffer(), **options).codes)
    np.testing.assert_array_equal(ours.codes, expected.codes)
    np.testing.assert_array_equal(ours.birth_frame, expected.birth_frame)
    np.testing.assert_array_equal(ours.birth_xy, expected.birth_xy)


def test_nothing_is_taken_over_when_the_camera_jumps(tmp_path: Path) -> None:
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", turning(0, 1, 25, 26), beauty=False))
    found = correspondence.analyse(shot, shot.gbuffer(), "rounded")
    assert found.occluded.all(axis=(1, 2)).tolist() == [True, False, True, False]


def test_known_cuts_stay_and_do_not_hide_a_jump_beside_them() -> None:
    scene = turning(0, 1, 90, 115, 116)
    known = np.array([True, False, True, False, False])
    assert with_jumps(known, scene.gbuffer(), scene.cameras).tolist() == [True, False, True, True, False]


def test_things_that_appear_before_a_camera_at_rest_are_no_jump() -> None:
    scene = Scene([wall(), Rectangle(101, lambda t: at(0, 0, -1), half=(9, 9), visible=lambda t: t >= 1)], length=3)
    assert occluded_of(scene)[1].all()
    assert not with_jumps(scene.cut_mask, scene.gbuffer(), scene.cameras)[1:].any()


@pytest.mark.filterwarnings("error")
def test_garbage_in_the_flow_is_new_and_stays_where_it_is() -> None:
    scene = movers(None, 1.0)
    g = scene.gbuffer()
    clean = occluded_pixels(g, g.flow_to_prev, g.flow_to_next, scene.cameras, scene.cut_mask)
    rng = np.random.default_rng(0)
    broken = {name: rng.random(clean.shape) < 0.01 for name in ("to_prev", "to_next")}
    flows = {"to_prev": g.flow_to_prev.copy(), "to_next": g.flow_to_next.copy()}
    for name, flow in flows.items():
        flow[broken[name]] = rng.choice(np.array([np.nan, np.inf, -np.inf, 3e38, -1e20], np.float32), (broken[name].sum(), 2))
    occluded = occluded_pixels(g, flows["to_prev"], flows["to_next"], scene.cameras, scene.cut_mask)
    assert occluded[broken["to_prev"]].all()
    elsewhere = ~broken["to_prev"]
    assert (occluded != clean)[elsewhere].mean() < 0.01

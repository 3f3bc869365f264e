"""Codes that come back: what is hidden and seen again, however it moved meanwhile, and what must not come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import synthetic
from coded_scenes import analysed, check, errors, fresh, seen_again, shared_within_a_frame, wall, written
from medm.correspondence import Correspondence, analyse
from medm.correspondence.codes import Codes
from medm.correspondence.occlusion import occlusions
from medm.correspondence.subpixel import subpixel
from medm.correspondence.surface import Surface, SurfaceFrame, Trust, offset, tangents
from medm.shot import Shot
from synthetic import Rectangle, Scene, at, camera

pytestmark = pytest.mark.usefixtures("one_thread")

POLE, MOVER = 303, 101


def pole(half: float = 0.15) -> Rectangle:
    """In the middle of the frame, in front of everything; 12 pixels wide."""
    return Rectangle(POLE, lambda _: at(0.013, 0, -1.6), half=(half, 3))


def mover(speed: float = 0.07, start: float = -0.6, **more: object) -> Rectangle:
    """Goes to the right behind the pole; 0.07 are 2.3 pixels a frame."""
    return Rectangle(MOVER, lambda t: at(start + speed * t, 0.02, -1.9), half=(0.22, 0.4), **more)  # type: ignore[arg-type]


def drifting(t: float) -> synthetic.Camera:
    """A hand-held camera: no pixel lies where one lay before."""
    return camera(at(0.011 * np.sin(t), 0.009 * np.cos(1.3 * t), 0.004 * np.sin(0.7 * t)), 64, 48)


BEFORE_A_WALL = Scene([Rectangle(MOVER, lambda t: at(-0.7 + 0.09 * t, 0.03, -1.5), half=(0.2, 0.4)), wall()], camera=drifting, length=16)
BEHIND_A_POLE = Scene([pole(), mover(), wall()], camera=drifting, length=16)
DEFORMING = replace(BEHIND_A_POLE, rectangles=[pole(), mover(slide=lambda t: 0.02 * t), wall()])
OUT_AND_BACK = Scene([wall()], camera=lambda t: camera(at(0.5 * np.sin(t * np.pi / 12)), 64, 48), length=13)
CUT_AND_BACK = Scene(
    [mover(0.02, 0.1), wall()],
    camera=lambda t: drifting(t) if not 4 <= t < 7 else camera(at(9, 0, 0, turn=(0, 0.2, 0)), 64, 48),
    length=11,
    cuts=(4, 7),
)
SKY = Scene(
    [Rectangle(MOVER, lambda t: at(-0.7 + 0.09 * t, 0.03, -1.5), half=(0.2, 0.4))],
    camera=lambda t: camera(at(turn=(0, 0.004 * np.sin(t), 0.01 * t)), 64, 48),
    length=16,
)


@pytest.mark.parametrize(
    ("scene", "rest", "least"),
    [
        (BEFORE_A_WALL, False, 300),
        (BEHIND_A_POLE, False, 300),
        (DEFORMING, True, 300),
        (OUT_AND_BACK, False, 300),
        (CUT_AND_BACK, False, 2000),
    ],
    ids=["a wall behind a mover", "a mover behind a pole", "deforming behind a pole", "out of the frame and back", "cut away and back"],
)
def test_a_point_that_is_seen_again_takes_its_old_code(tmp_path: Path, scene: Scene, rest: bool, least: int) -> None:
    shot = written(tmp_path / "shot", scene, rest=rest)
    g = shot.gbuffer()
    result = analyse(shot, g)
    check(result.codes, g.object_id)
    again, kept, off = came_back(scene, result)
    assert again >= least
    assert kept > 0.95 * again
    assert np.median(off) < 0.6
    assert (off > 1.05).mean() < 0.01
    everywhere = errors(scene, result.codes)
    assert (everywhere[np.isfinite(everywhere)] > 1.05).mean() < 0.01
    without = analyse(shot, g, reidentify=False)
    assert came_back(scene, without)[1] < 0.1 * again
    assert result.codes.count < without.codes.count


def came_back(scene: Scene, result: Correspondence) -> tuple[int, int, np.ndarray]:
    """Number of pixels without a counterpart in the frame before whose surface points had been in view earlier; of those that have an old
    code; and their errors."""
    again, kept, off = 0, 0, []
    old = ~fresh(result.codes)
    error = errors(scene, result.codes)
    for t in range(2, scene.length):
        pixels = seen_again(scene, t, range(t - 1)) & result.occluded[t]
        again += int(pixels.sum())
        kept += int((pixels & old[t]).sum())
        off.append(error[t][result.occluded[t] & old[t]])
    return again, kept, np.concatenate(off)


def test_the_sky_is_found_again_by_its_direction(tmp_path: Path) -> None:
    """It has no surface to cast rays at, so: where in its birth frame is the direction that a pixel looks in?"""
    result = analysed(tmp_path / "shot", SKY)
    sky = SKY.gbuffer().background
    back = sky & result.occluded & ~fresh(result.codes)
    grid = np.stack(np.meshgrid(np.arange(64), np.arange(48)), -1)
    off = []
    for t, y, x in np.argwhere(back)[::7]:
        code = result.codes.codes[t, y, x]
        _, direction = SKY.camera(t).rays(grid[y, x])
        birth = SKY.camera(int(result.codes.birth_frame[code]))
        off.append(np.linalg.norm(birth.project(birth.position + 1e6 * direction)[0] - result.codes.birth_xy[code]))
    assert len(off) > 30
    assert max(off) < 1.05
    assert (sky & result.occluded & fresh(result.codes))[5:, 8:-8, 8:-8].sum() < 0.1 * back.sum()


def test_what_was_cut_away_from_and_has_moved_meanwhile_keeps_its_codes(tmp_path: Path) -> None:
    """A rigid object that crosses the frame, and turns, while another camera shows another place."""
    scene = Scene(
        [
            Rectangle(MOVER, lambda t: at(-0.4, 0, -1.8) if t < 3 else at(0.4, 0.1, -1.8, turn=(0.1, 0.2, 1.5)), half=(0.3, 0.25)),
            wall(),
        ],
        camera=lambda t: camera(at(), 64, 48) if not 3 <= t < 5 else camera(at(9, 0, 0), 64, 48),
        length=8,
        cuts=(3, 5),
    )
    result = analysed(tmp_path / "shot", scene)
    moved = scene.gbuffer().object_id[5] == MOVER
    kept = result.codes.birth_frame[result.codes.codes[5]] == 0
    assert moved.sum() > 200
    assert (moved & kept).sum() > 0.9 * moved.sum()
    off = errors(scene, result.codes)[5]
    assert np.nanmax(off[kept]) < 1.1


@pytest.mark.parametrize("deforming", [False, True])
def test_the_other_side_of_a_thin_thing_has_codes_of_its_own(tmp_path: Path, deforming: bool) -> None:
    """A sheet that turns round: its front and its back lie in the same plane, and each gets its own codes back."""

    def sheet_at(t: float) -> np.ndarray:
        return at(0.01, 0.02, -2, turn=(0, 0.1 + np.pi * t / 5, 0))

    slide = (lambda t: 0.01 * t) if deforming else (lambda _: 0.0)
    sheet_and_sky = [Rectangle(MOVER, sheet_at, half=(0.5, 0.4), slide=slide), Rectangle(5, lambda _: at(z=-9), half=(90, 90))]
    scene = Scene(sheet_and_sky, length=16)
    result = analysed(tmp_path / "shot", scene, rest=deforming)
    sheet = scene.gbuffer().object_id == MOVER
    codes = result.codes.codes
    front = np.concatenate([codes[t][sheet[t] & ~scene.rest(t)[1]] for t in range(16)])
    back = np.concatenate([codes[t][sheet[t] & scene.rest(t)[1]] for t in range(16)])
    assert min(len(front), len(back)) > 500
    assert not np.intersect1d(front, back).size
    for t, first in ((10, 0), (15, 5)):  # once round
        old = result.codes.birth_frame[codes[t][sheet[t]]]
        assert (old <= first).mean() > 0.9


def test_two_things_with_one_id_get_no_code_back(tmp_path: Path) -> None:
    """Their kind is unknown, as nobody can say which of them a pixel shows; the wall behind them does."""
    one, two = mover(0.07, -0.7), replace(mover(-0.07, 0.7), object_id=MOVER)
    scene = replace(BEHIND_A_POLE, rectangles=[pole(), one, two, wall()])
    result = analysed(tmp_path / "shot", scene)
    ids = scene.gbuffer().object_id
    new = fresh(result.codes)
    hidden = result.occluded & (ids == MOVER)
    assert hidden.sum() > 100
    assert new[hidden].all()
    assert not new[result.occluded & (ids == 202)].all()


def test_frames_in_which_a_rigid_object_has_no_matrix_bring_nothing_back(tmp_path: Path) -> None:
    folder = synthetic.write_shot(tmp_path / "shot", BEHIND_A_POLE, beauty=False, objects=True)

    def forget(manifest: dict) -> None:
        (entry,) = (entry for entry in manifest["objects"] if entry["id"] == MOVER)
        entry["matrices"][10:] = [None] * 6

    synthetic.change_manifest(folder, forget)
    shot = Shot.open(folder)
    g = shot.gbuffer()
    surface = Surface(shot, g)
    for t, known in ((9, True), (10, False)):
        frame = surface.frame(t)
        mine = (g.object_id[t] == MOVER).ravel()
        assert torch.isfinite(frame.coordinates[mine]).all() == known
        assert torch.isfinite(frame.coordinates[(g.object_id[t] == 202).ravel()]).all()
    result = analyse(shot, g)
    late = np.arange(16)[:, None, None] >= 10
    assert fresh(result.codes)[late & result.occluded & (g.object_id == MOVER)].all()
    check(result.codes, g.object_id)


def test_what_the_manifest_does_not_list_brings_nothing_back(tmp_path: Path) -> None:
    folder = synthetic.write_shot(tmp_path / "shot", BEHIND_A_POLE, beauty=False, objects=True)
    synthetic.change_manifest(folder, lambda m: m.update(objects=[entry for entry in m["objects"] if entry["id"] != MOVER]))
    shot = Shot.open(folder)
    g = shot.gbuffer()
    result = analyse(shot, g)
    assert fresh(result.codes)[result.occluded & (g.object_id == MOVER)].all()
    assert not fresh(result.codes)[result.occluded & (g.object_id == 202)].all()


@pytest.mark.parametrize("scene", [BEHIND_A_POLE, BEFORE_A_WALL], ids=["behind a pole", "before a wall"])
def test_without_a_list_what_moves_is_not_trusted_and_what_stands_still_is(tmp_path: Path, scene: Scene) -> None:
    """A shot of an exporter that did not write `objects`: all is taken to be static until the flow says otherwise."""
    result = analysed(tmp_path / "shot", scene, objects=False)
    ids = scene.gbuffer().object_id
    check(result.codes, ids)
    assert fresh(result.codes)[result.occluded & (ids == MOVER)].all()
    off = errors(scene, result.codes)
    assert (off[np.isfinite(off)] > 1.05).mean() < 0.01
    walls = result.occluded & (ids == 202)
    walls[:6] = False
    assert (~fresh(result.codes))[walls].mean() > 0.5


@pytest.mark.parametrize("pace", [0.1, 0.4, 0.8], ids=lambda pace: f"{pace} px a frame")
def test_without_a_list_slow_movers_are_noticed_too(tmp_path: Path, pace: float) -> None:
    """A bar passes in front of a board that creeps before a wall: over twenty frames it has gone far, though never a pixel at once."""
    scene = Scene(
        [
            wall(),
            Rectangle(MOVER, lambda t: at(-0.3 + pace * t / 64 * 1.5, 0.01, -1.5), half=(0.4, 0.3)),
            Rectangle(7, lambda t: at(-0.9 + 0.07 * t, 0, -1), half=(0.1, 1)),
        ],
        length=24,
    )
    result = analysed(tmp_path / "shot", scene, objects=False)
    ids = scene.gbuffer().object_id
    assert fresh(result.codes)[1:][(result.occluded & (ids == MOVER))[1:]].all()
    off = errors(scene, result.codes)
    assert (off[np.isfinite(off)] > 1.05).mean() < 0.01


def test_without_a_list_cutting_back_to_a_set_still_finds_its_codes(tmp_path: Path) -> None:
    scene = replace(CUT_AND_BACK, rectangles=[wall()])
    result = analysed(tmp_path / "shot", scene, objects=False)
    assert (~fresh(result.codes))[7].mean() > 0.95


def test_deforming_things_without_a_rest_pass_bring_nothing_back(tmp_path: Path) -> None:
    result = analysed(tmp_path / "shot", DEFORMING, rest=False)
    ids = DEFORMING.gbuffer().object_id
    assert fresh(result.codes)[result.occluded & (ids == MOVER)].all()


def test_only_codes_that_came_back_are_shared(tmp_path: Path) -> None:
    """Seen from afar, cut away, and then from twice as near: four pixels for each old code. They share it, and go on sharing it."""
    scene = Scene(
        [wall()],
        camera=lambda t: camera(at(0.002 * t, 0, 0), 64, 48) if t < 2 else camera(at(0.002 * t, 0, -0.8), 64, 48),
        length=6,
        cuts=(2,),
    )
    shot = written(tmp_path / "shot", scene)
    g = shot.gbuffer()
    result = analyse(shot, g)
    check(result.codes, g.object_id)
    assert shared_within_a_frame(subset(result.codes, slice(0, 2))) == 0
    assert shared_within_a_frame(subset(result.codes, slice(2, 6))) > 0.5
    for t in range(2, 6):
        numbers, counts = np.unique(result.codes.codes[t], return_counts=True)
        assert (result.codes.birth_frame[numbers[counts > 1]] < 2).all()
    for t in range(3, 6):
        assert (result.codes.codes[t] == result.codes.codes[t - 1]).mean() > 0.9
    assert np.nanmax(errors(scene, result.codes)) < 1.05
    assert shared_within_a_frame(analyse(shot, g, reidentify=False).codes) == 0


def test_a_code_that_is_shared_is_in_view_while_one_of_its_pixels_is(tmp_path: Path) -> None:
    """Something passes in front of pixels that share codes. Those that it hides come back only where no other pixel has kept them."""
    near = [wall(), Rectangle(MOVER, lambda t: at(-0.25 + 0.05 * (t - 2), 0.011, -1.2), half=(0.05, 0.07), visible=lambda t: t > 1)]
    scene = Scene(near, camera=lambda t: camera(at(0, 0, 0 if t < 2 else -0.8), 64, 48), length=14, cuts=(2,))
    result = analysed(tmp_path / "shot", scene)
    old, back = ~fresh(result.codes), 0
    for t in range(3, 14):
        returned = np.unique(result.codes.codes[t][result.occluded[t] & old[t]])
        assert not np.intersect1d(returned, result.codes.codes[t][~result.occluded[t]]).size
        back += len(returned)
    assert back > 50


def test_a_code_comes_back_once(tmp_path: Path) -> None:
    """A slanted wall, cut away from and back to the very same view: every pixel has its code again, and none to spare for a second one
    when the camera comes closer."""
    slanted = Rectangle(202, lambda _: at(0, 0, -2, turn=(0.5, 0.4, 0.7)), half=(20, 20))
    scene = Scene(
        [slanted],
        camera=lambda t: camera(at(9), 64, 48) if t == 1 else camera(at(0.012 * t, 0.006 * t, -0.02 * t) if t > 2 else at(), 64, 48),
        length=7,
        cuts=(1, 2),
    )
    result = analysed(tmp_path / "shot", scene)
    np.testing.assert_array_equal(result.codes.codes[2], result.codes.codes[0])
    assert shared_within_a_frame(result.codes) < 0.001


@pytest.mark.parametrize("length", [3, 6, 11])
@pytest.mark.parametrize("scene", [BEHIND_A_POLE, SKY], ids=["a mover behind a pole", "sky"])
def test_a_longer_shot_begins_with_the_codes_of_a_shorter_one(tmp_path: Path, scene: Scene, length: int) -> None:
    """Though its frames say more about where edges are: also about those of the frames before them."""
    long, short = (analysed(tmp_path / str(frames), replace(scene, length=frames)).codes for frames in (scene.length, length))
    np.testing.assert_array_equal(long.codes[:length], short.codes)
    np.testing.assert_array_equal(long.birth_frame[: short.count], short.birth_frame)
    np.testing.assert_array_equal(long.birth_xy[: short.count], short.birth_xy)


def subset(result: Codes, frames: slice) -> Codes:
    return replace(result, codes=result.codes[frames])


def test_coming_back_does_not_depend_on_frames_to_come(tmp_path: Path) -> None:
    shot = written(tmp_path / "shot", BEHIND_A_POLE)
    g = shot.gbuffer()
    whole = analyse(shot, g)
    flows = whole.flow_to_prev, whole.flow_to_next
    passes = (*flows, occlusions(g, *flows, shot.cameras, shot.cuts)[1], g.object_id, shot.cuts)
    for frames in (9, 13):
        start = subpixel(*(part[:frames] for part in passes), Surface(shot, g))
        np.testing.assert_array_equal(start.codes, whole.codes.codes[:frames])
        np.testing.assert_array_equal(start.birth_frame, whole.codes.birth_frame[: start.count])
    again = analyse(shot, g)
    np.testing.assert_array_equal(again.codes.codes, whole.codes.codes)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_codes_stay_sound_whatever_the_surface_says(seed: int) -> None:
    """Random coordinates, some of them not finite, some alike: a code may come back anywhere, but only on its object, and out of view."""
    rng = np.random.default_rng(seed)
    length, height, width = 5, 4, 6
    shape = (length, height, width)
    ids = rng.integers(0, 2, shape, dtype=np.int32)
    flow = rng.choice(np.array([0, 0, 0.4, -1, np.nan], np.float32), (*shape, 2))
    occluded, cuts = rng.random(shape) < 0.4, rng.random(length) < 0.2
    still = plane((1, 0, 0), (0, 1, 0), height, width)

    class Any(Surface):
        def __init__(self) -> None:
            pass

        def frame(self, t: int) -> SurfaceFrame:
            random = np.random.default_rng(seed + t)
            moved = random.choice([0, 0.3, 1e6, np.nan, np.inf], (height, width, 3), p=[0.8, 0.17, 0.01, 0.01, 0.01])
            return frame_of(still + moved, ids=ids[t])

    result = subpixel(flow, -flow[::-1], occluded, ids, cuts, Any())
    check(result, ids)
    start = subpixel(flow[:3], -flow[::-1][:3], occluded[:3], ids[:3], cuts[:3], Any())
    np.testing.assert_array_equal(start.codes, result.codes[:3])


# --- Surface


def test_surface_coordinates_are_the_same_in_all_frames(tmp_path: Path) -> None:
    """World space for the wall, object space for the mover, the undeformed box for what deforms, a direction for the sky."""
    below = Rectangle(7, lambda t: at(-0.6 + 0.07 * t, -0.5, -1.7, turn=(0.1 * t, 0.2, 0)), half=(0.4, 0.2))
    scene = replace(DEFORMING, rectangles=[wall(0.9), below, mover(slide=lambda t: 0.02 * t)])
    scene = replace(
        scene,
        rectangles=[
            replace(r, pose=lambda t, r=r, n=n: r.pose(t) @ at(0, (n - 1) * 0.5, n * 0.01)) for n, r in enumerate(scene.rectangles)
        ],
    )
    shot = written(tmp_path / "shot", scene, rest=True)
    surface = Surface(shot, shot.gbuffer())
    for t in (0, 9):
        frame = surface.frame(t)
        position, index, place, xy = scene.hits(t)
        got = frame.coordinates.numpy()
        np.testing.assert_allclose(got[index == 0], position[index == 0], atol=1e-5)
        for number, half in ((1, np.array([1, 1])), (2, np.array([0.22, 0.4]))):
            mine = index == number
            assert mine.sum() > 30
            expected = place[mine] if number == 1 else (place[mine] / half + 1) / 2
            np.testing.assert_allclose(got[mine, :2], expected, atol=1e-4)
            np.testing.assert_allclose(got[mine, 2], 0, atol=1e-5)
        np.testing.assert_allclose(got[index < 0], scene.camera(t).rays(xy)[1][index < 0], atol=1e-6)
        assert (frame.normal.numpy()[index == 1, 2] > 0).all()  # towards the camera is up in its own space, too


def test_the_sky_of_an_orthographic_camera_is_unknown(tmp_path: Path) -> None:
    scene = Scene([wall(0.3)], camera=lambda t: camera(at(0.01 * t), 64, 48, ortho=2.0), length=3)
    shot = written(tmp_path / "shot", scene)
    g = shot.gbuffer()
    known = torch.isfinite(Surface(shot, g).frame(1).coordinates).all(-1).numpy().reshape(48, 64)
    np.testing.assert_array_equal(known, ~g.background[1])
    assert g.background[1].any()


def test_the_passes_of_the_shot_are_left_as_they_are(tmp_path: Path) -> None:
    shot = written(tmp_path / "shot", DEFORMING, rest=True)
    g = shot.gbuffer()
    before = {name: getattr(g, name).copy() for name in ("position", "normal", "object_id")}
    Surface(shot, g).frame(3)
    for name, values in before.items():
        np.testing.assert_array_equal(getattr(g, name), values)


# --- tangents and offset


def frame_of(coordinates: np.ndarray, ids: np.ndarray | None = None, normal: Sequence[float] = (0, 0, -1)) -> SurfaceFrame:
    """A frame of (H, W, 3) coordinates, x to the right and y down, seen from where z is negative."""
    height, width = coordinates.shape[:2]
    normals = np.tile(np.asarray(normal, np.float32), (height * width, 1))
    numbers = np.zeros((height, width), np.int32) if ids is None else ids
    rows = coordinates.astype(np.float32).reshape(-1, 3), normals, numbers.reshape(-1)
    return SurfaceFrame(*(torch.from_numpy(row) for row in rows), height, width)


def test_nothing_is_known_between_leaves_one_behind_the_other() -> None:
    """Each pixel another leaf: what leads from one to the next is no step on a surface, however short it is."""
    leaves = plane((0.1, 0, 0), (0, 0.1, 0)) + np.random.default_rng(0).choice([-1.0, 1.0, 3.0, 5.0], (5, 7, 1)) * np.array([0, 0, 1])
    leaves[:, ::2, 2] += 17
    leaves[::2, :, 2] += 37
    assert not tangents(frame_of(leaves), torch.arange(35))[2].any()
    assert tangents(frame_of(plane((0.1, 0, 0), (0, 0.1, 0))), torch.arange(35))[2].all()


def test_nothing_is_known_of_uneven_rest_coordinates() -> None:
    noise = np.random.default_rng(0).random((40, 40, 3))
    inner = torch.arange(1600).reshape(40, 40)[1:-1, 1:-1].reshape(-1)
    assert tangents(frame_of(noise, normal=(1, 1, 1)), inner)[2].float().mean() < 0.25
    even = plane((0.01, 0, 0.001), (0, 0.02, 0), 40, 40)
    assert tangents(frame_of(even, normal=(-1, -1, -1)), inner)[2].all()


def plane(along_x: np.ndarray, along_y: np.ndarray, height: int = 5, width: int = 7) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return x[..., None] * np.asarray(along_x) + y[..., None] * np.asarray(along_y)


vectors = hnp.arrays(np.float64, 3, elements=st.floats(-3, 3))


@given(along_x=vectors, along_y=vectors, dx=st.floats(-2, 2), dy=st.floats(-2, 2), up=st.floats(-1, 1))
@settings(max_examples=100, deadline=None)
def test_the_offset_in_a_plane_is_found_with_what_lies_off_it(along_x, along_y, dx: float, dy: float, up: float) -> None:
    normal = np.cross(along_x, along_y)
    area = np.linalg.norm(normal)
    sides = np.linalg.norm(along_x), np.linalg.norm(along_y)
    if min(sides) < 0.1 or area < 0.1 * sides[0] * sides[1]:
        return  # no plane to speak of
    frame = frame_of(plane(along_x, along_y), normal=normal / area)
    pixel = torch.arange(35)
    to_right, to_below, known = tangents(frame, pixel)
    assert known.all()
    torch.testing.assert_close(to_right, torch.tensor(along_x).float().expand(35, 3), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(to_below, torch.tensor(along_y).float().expand(35, 3), atol=1e-5, rtol=1e-4)
    apart = torch.tensor(dx * along_x + dy * along_y + up * normal / area).float().expand(35, 3)
    found_x, found_y, off = offset(to_right, to_below, apart)
    assert torch.allclose(found_x, torch.tensor(dx).float(), atol=2e-3)
    assert torch.allclose(found_y, torch.tensor(dy).float(), atol=2e-3)
    assert torch.allclose(off.sqrt(), torch.tensor(abs(up)).float(), atol=1e-2)


def test_tangents_do_not_lead_over_edges() -> None:
    """A step in the surface between columns 2 and 3, another object from row 3 on, and a hole: the shorter step counts."""
    coordinates = plane((1.0, 0, 0), (0, 1.0, 0))
    coordinates[:, 3:, 2] = 50
    coordinates[1, 5] = np.nan
    ids = np.zeros((5, 7), np.int32)
    ids[3:] = 1
    coordinates[3:] += 9
    to_right, to_below, known = tangents(frame_of(coordinates, ids=ids), torch.arange(35))
    assert known.reshape(5, 7).numpy().sum() == 34
    assert not known[1 * 7 + 5]
    here = torch.arange(35) != 1 * 7 + 5
    torch.testing.assert_close(to_right[here], torch.tensor([1.0, 0, 0]).expand(34, 3))
    torch.testing.assert_close(to_below[here], torch.tensor([0, 1.0, 0]).expand(34, 3))


@pytest.mark.parametrize("upright", [True, False])
def test_what_is_one_pixel_wide_is_taken_to_be_as_wide_as_a_pixel_of_it_is_long(upright: bool) -> None:
    ids = np.zeros((7, 7), np.int32)
    ids[:, 3] = 1
    along_x, along_y = np.array([0.5, 0, 0]), np.array([0, 0.2, 0])
    frame = frame_of(plane(along_x, along_y, 7, 7), ids=ids if upright else ids.T)
    to_right, to_below, known = tangents(frame, torch.tensor([3 * 7 + 3]))
    assert known.all()
    long = 0.2 if upright else 0.5
    torch.testing.assert_close(to_right, torch.tensor([[long, 0, 0]]))
    torch.testing.assert_close(to_below, torch.tensor([[0, long, 0]]))


def test_of_a_single_pixel_nothing_is_known() -> None:
    ids = np.zeros((5, 7), np.int32)
    ids[2, 3] = 1
    assert not tangents(frame_of(plane((1, 0, 0), (0, 1, 0)), ids=ids), torch.tensor([2 * 7 + 3]))[2].any()


def test_no_offset_is_known_where_the_tangents_span_no_plane() -> None:
    dx, dy, _ = offset(torch.tensor([[1.0, 0, 0]]), torch.tensor([[2.0, 0, 0]]), torch.tensor([[1.0, 0, 0]]))
    assert not torch.isfinite(dx).any()
    assert not torch.isfinite(dy).any()


# --- Trust


def trusted(
    step: Callable[[np.ndarray], np.ndarray], flow: tuple[float, float], ids: np.ndarray | None = None, occluded: bool = False
) -> np.ndarray:
    """Whether the coordinates of the second of two frames of a plane are kept, (H, W); `step` changes them from the first."""
    first = plane((0.1, 0, 0), (0, 0.1, 0.05), 32, 48)
    trust = Trust()
    to_prev = torch.tensor(flow).float().expand(32 * 48, 2)
    nowhere = torch.ones(32 * 48, dtype=torch.bool)
    trust.check(frame_of(first, ids=ids), to_prev, nowhere)
    frame = trust.check(frame_of(step(first), ids=ids), to_prev, nowhere if occluded else ~nowhere)
    return torch.isfinite(frame.coordinates).all(-1).reshape(32, 48).numpy()


def test_coordinates_that_move_with_the_flow_are_trusted() -> None:
    assert trusted(lambda first: first, (0, 0)).all()
    assert trusted(lambda first: first + np.array([0.25, 0.1, 0.05]), (2.5, 1)).all()
    assert trusted(lambda first: first + np.array([0.3, 0, 0]), (2.5, 0)).all()  # half a pixel off


def test_coordinates_that_do_not_move_with_the_flow_are_not() -> None:
    assert not trusted(lambda first: first, (2.5, 0)).any()
    assert not trusted(lambda first: first + np.array([0.25, 0, 0]), (0, 0)).any()
    assert not trusted(lambda first: first + np.array([0, -1, 2]), (0, 0)).any()  # off the surface


def test_only_the_object_that_misses_loses_trust() -> None:
    ids = np.zeros((32, 48), np.int32)
    ids[:, 20:] = 4

    def half_moves(first: np.ndarray) -> np.ndarray:
        return np.where(ids[..., None] == 4, first + np.array([0.3, 0, 0]), first)

    np.testing.assert_array_equal(trusted(half_moves, (0, 0), ids), ids == 0)


def test_nothing_is_judged_at_a_cut() -> None:
    assert trusted(lambda first: first + np.array([5.0, 0, 0]), (0, 0), occluded=True).all()


def test_lost_trust_is_not_regained() -> None:
    plain = frame_of(plane((0.1, 0, 0), (0, 0.1, 0), 32, 48))
    moved = frame_of(plane((0.1, 0, 0), (0, 0.1, 0), 32, 48) + np.array([0.5, 0, 0]))
    still, seen = torch.zeros(32 * 48, 2), torch.zeros(32 * 48, dtype=torch.bool)
    trust = Trust()
    kept = [torch.isfinite(trust.check(frame, still, seen).coordinates).all() for frame in (plain, plain, moved, moved, moved)]
    assert kept == [True, True, False, False, False]

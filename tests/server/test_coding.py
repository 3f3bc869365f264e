"""Flow Coding: algorithm 1 against the paper's example and a literal reading; sub-pixel codes against known surfaces."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import synthetic
from medm.correspondence.background import fill_background
from medm.correspondence.coding import REACH, Codes, rounded, subpixel
from medm.correspondence.occlusion import occluded_pixels
from synthetic import Rectangle, Scene, at, camera


def literal(flow: np.ndarray, occluded: np.ndarray, direction: str = "backward") -> tuple[np.ndarray, int]:
    """Algorithm 1, pixel by pixel, its lines numbered as in the paper."""
    length, height, width = occluded.shape
    if direction == "forward":  # 1 to 3
        flow, occluded = flow[::-1], occluded[::-1]
    n = height * width  # 4
    encoded = [[y * width + x for x in range(width)] for y in range(height)]  # 5, 6
    frames = [encoded]  # 7
    for i in range(1, length):  # 8
        previous = encoded  # 9
        encoded = [[-1] * width for _ in range(height)]
        novel = []
        for y in range(height):  # 10
            for x in range(width):
                with np.errstate(over="ignore"):
                    target_x = np.float32(x) + flow[i, y, x, 0]
                    target_y = np.float32(y) + flow[i, y, x, 1]
                inside = False
                if np.isfinite(target_x) and np.isfinite(target_y):
                    to_x, to_y = round(float(target_x)), round(float(target_y))  # 11; Python rounds halves to even, too
                    inside = 0 <= to_x < width and 0 <= to_y < height
                if inside:
                    encoded[y][x] = previous[to_y][to_x]  # 12
                if occluded[i, y, x] or not inside:  # 13
                    novel.append((y, x))
        for y, x in novel:  # 14, 15
            encoded[y][x] = n
            n += 1
        frames.append(encoded)  # 16
    if direction == "forward":  # 18 to 20
        frames = frames[::-1]
    return np.array(frames), n


def test_the_papers_toy_example() -> None:
    """Figures 2 and 3: from frame 0 to 1 code 2 moves from the bottom left to the bottom right; then all stay, moving less than a pixel."""
    flow = np.zeros((3, 2, 2, 2), np.float32)
    flow[1, 1, 1] = -1, 0  # the bottom right of frame 1 was at the bottom left
    flow[2] = 0.4, -0.3
    occluded = np.zeros((3, 2, 2), bool)
    occluded[1, 1, 0] = True  # what stands where it was has not been seen before
    result = rounded(flow, occluded)
    assert result.codes.tolist() == [[[0, 1], [2, 3]], [[0, 1], [4, 2]], [[0, 1], [4, 2]]]
    assert result.count == 5
    assert result.birth_frame.tolist() == [0, 0, 0, 0, 1]
    assert result.birth_xy.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [0, 1]]


flows = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.just(2)),
    elements=st.one_of(
        st.sampled_from([0.5, -0.5, 1.5, -1.5, 0.0, 1.0, float("nan"), float("inf"), -3e38, 1e6]),
        st.floats(-4, 4, width=32),
    ),
)


@given(flow=flows, seed=st.integers(0, 2**32 - 1), direction=st.sampled_from(["backward", "forward"]))
@settings(max_examples=150, deadline=None)
def test_rounded_is_algorithm_1_to_the_bit(flow: np.ndarray, seed: int, direction: str) -> None:
    occluded = np.random.default_rng(seed).random(flow.shape[:3]) < 0.2
    result = rounded(flow, occluded, direction)  # type: ignore[arg-type]
    expected, count = literal(flow, occluded, direction)
    np.testing.assert_array_equal(result.codes, expected)
    assert result.count == count
    check(result)


@given(flow=flows, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_subpixel_codes_stay_sound_whatever_the_flow(flow: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    if min(flow.shape[1:3]) < 2:
        flow = np.pad(flow, ((0, 0), (0, 1), (0, 1), (0, 0)))
    occluded = rng.random(flow.shape[:3]) < 0.2
    ids = rng.integers(0, 2, flow.shape[:3], dtype=np.int32)
    cuts = rng.random(flow.shape[0]) < 0.2
    result = subpixel(flow, -flow[::-1], occluded, ids, cuts)
    check(result)
    born_on = ids[result.birth_frame, result.birth_xy[:, 1].astype(int), result.birth_xy[:, 0].astype(int)]
    np.testing.assert_array_equal(born_on[result.codes], ids)  # every code's pixels lie on one object
    fresh = result.birth_frame[result.codes] == np.arange(len(flow))[:, None, None]
    assert fresh[occluded].all()
    for t in np.flatnonzero(cuts):
        assert fresh[t].all()


def check(result: Codes) -> None:
    """What holds of all codes: each is used, and was born where it is said to have been."""
    assert result.codes.dtype == result.birth_frame.dtype == np.int32
    assert result.birth_xy.dtype == np.float32
    assert np.array_equal(np.unique(result.codes), np.arange(result.count))
    x, y = result.birth_xy.astype(int).T
    np.testing.assert_array_equal(result.codes[result.birth_frame, y, x], np.arange(result.count))


def coded(scene: Scene) -> tuple[Codes, Codes]:
    g = scene.gbuffer()
    to_prev, to_next = fill_background(g.flow_to_prev, g.flow_to_next, g.background, scene.cameras)
    occluded = occluded_pixels(g, to_prev, to_next, scene.cameras, scene.cut_mask)
    return subpixel(to_prev, to_next, occluded, g.object_id, scene.cut_mask), rounded(to_prev, occluded)


def errors(scene: Scene, result: Codes) -> np.ndarray:
    """Pixels between a code's birth and the place, in its birth frame, of the surface point that a pixel shows; NaN on the background."""
    found = []
    for t in range(scene.length):
        _, index, place, _ = scene.hits(t)
        code = result.codes[t].ravel()
        there = np.full((len(code), 2), np.nan)
        for birth in np.unique(result.birth_frame[code]):
            mine = (result.birth_frame[code] == birth) & (index >= 0)
            there[mine] = scene.cameras[birth].project(scene.moved(index[mine], place[mine], birth))[0]
        found.append(np.linalg.norm(there - result.birth_xy[code], axis=-1))
    return np.stack(found)


def wall(half: float = 20) -> Rectangle:
    return Rectangle(202, lambda t: at(0, 0, -2), half=(half, half))


def test_subpixel_codes_do_not_drift() -> None:
    """A slow camera, as in the measurements of method.md: rounding to whole pixels sticks, sub-pixel places follow."""
    scene = Scene(
        [wall(), Rectangle(101, lambda t: at(0.2, 0, -1.5, turn=(0, 0.02 * t, 0)), half=(0.2, 0.2))],
        camera=lambda t: camera(at(0.013 * t, 0.006 * t, 0.004 * t, turn=(0, 0.002 * t, 0.004 * t)), 64, 48),
        length=16,
    )
    fine, coarse = coded(scene)
    check(fine)
    check(coarse)
    off, off_rounded = errors(scene, fine)[1:], errors(scene, coarse)[1:]
    assert np.nanmedian(off) < 0.45
    assert (off > 1).mean() < 0.01
    assert np.nanmedian(off_rounded) > 1
    assert fine.count < 2 * 64 * 48


def test_a_whole_pixel_a_frame_is_exact_in_both() -> None:
    scene = Scene([wall()], camera=lambda t: camera(at(t * 2 / 64), 64, 48), length=4)
    for result in coded(scene):
        for t in range(1, 4):
            np.testing.assert_array_equal(result.codes[t][:, :-t], result.codes[0][:, t:])
        assert result.count == 48 * (64 + 3)


def test_no_motion_has_one_code_a_pixel() -> None:
    for result in coded(Scene([wall(0.5)], length=3)):
        assert result.count == 64 * 48
        assert (result.codes == result.codes[0]).all()


def test_a_slow_pan_keeps_the_number_of_codes() -> None:
    """0.4 px a frame: what is new is the strip of 4 px that enters, not a share of every pixel."""
    scene = Scene([wall()], camera=lambda t: camera(at(0.4 * t / 32), 64, 48), length=11)
    fine, _ = coded(scene)
    assert 48 * (64 + 3) <= fine.count <= 48 * (64 + 5)


def test_a_cut_starts_new_codes() -> None:
    scene = Scene([wall()], length=4, cuts=(2,))
    for result in coded(scene):
        assert (result.birth_frame[result.codes[:2]] == 0).all()
        assert (result.birth_frame[result.codes[2:]] == 2).all()


def test_codes_of_what_gets_hidden_die() -> None:
    scene = Scene([wall(), Rectangle(101, lambda t: at(0.01 - 0.3 + 0.0625 * 1.5 * t, 0.01, -1), half=(0.08, 0.2))], length=8)
    ids = scene.gbuffer().object_id
    for result in coded(scene):
        born_on = ids[result.birth_frame, result.birth_xy[:, 1].astype(int), result.birth_xy[:, 0].astype(int)]
        np.testing.assert_array_equal(born_on[result.codes], ids)
    fine, _ = coded(scene)
    assert np.nanmax(errors(scene, fine)) < 1


def test_codes_of_a_part_that_another_part_of_the_object_hides_die() -> None:
    """One id, so it is the flow there and back that tells: 3.4 px a frame, and the wall's codes would be nearer than the mover's."""
    scene = Scene(
        [
            Rectangle(5, lambda t: at(0, 0, -2), half=(20, 20)),
            Rectangle(5, lambda t: at(-0.4 + 3.4 / 64 * t, 0.01, -1), half=(0.1, 0.2)),
        ],
        length=8,
    )
    fine, _ = coded(scene)
    assert np.nanmax(errors(scene, fine)) < 1


def test_trajectories_through_affine_flow_are_exact() -> None:
    """A rolling camera before a wall: no pixel is farther from its code than it may reach, after however many frames."""
    scene = Scene([wall()], camera=lambda t: camera(at(turn=(0, 0, 0.06 * t)), 64, 48), length=20)
    fine, _ = coded(scene)
    assert np.nanmax(errors(scene, fine)) < REACH + 0.01


def test_coming_closer_gives_birth_to_detail() -> None:
    scene = Scene([wall()], camera=lambda t: camera(at(0, 0, -0.1 * t), 64, 48), length=8)
    fine, coarse = coded(scene)
    assert (errors(scene, fine)[1:] < 1.5).all()
    per_code = np.bincount(fine.codes[-1].ravel(), minlength=fine.count).max()
    assert per_code <= 4
    assert np.bincount(coarse.codes[-1].ravel()).max() >= per_code


def test_codes_do_not_depend_on_frames_to_come() -> None:
    scene = synthetic.two_rectangles(length=5)
    g = scene.gbuffer()
    to_prev, to_next = fill_background(g.flow_to_prev, g.flow_to_next, g.background, scene.cameras)
    occluded = occluded_pixels(g, to_prev, to_next, scene.cameras, scene.cut_mask)
    whole = subpixel(to_prev, to_next, occluded, g.object_id, scene.cut_mask)
    start = subpixel(to_prev[:3], to_next[:3], occluded[:3], g.object_id[:3], scene.cut_mask[:3])
    np.testing.assert_array_equal(whole.codes[:3], start.codes)
    again = subpixel(to_prev, to_next, occluded, g.object_id, scene.cut_mask)
    np.testing.assert_array_equal(whole.codes, again.codes)


def test_a_pixel_takes_the_nearest_code_within_reach() -> None:
    scene = Scene([wall()], camera=lambda t: camera(at(0.3 * t * 2 / 64), 64, 48), length=2)
    fine, _ = coded(scene)
    np.testing.assert_array_equal(fine.codes[1], fine.codes[0])  # 0.3 px: the nearest is still the own one
    assert 0.5 < REACH**2 < 0.51


@pytest.mark.parametrize("coding", ["rounded", "subpixel"])
def test_is_fast_enough(coding: str) -> None:
    """24 frames of 384x216 in 2 s; half the length here, and with room for a busy machine."""
    view = np.array([0.37, -0.21], np.float32)
    to_prev = np.broadcast_to(view, (12, 216, 384, 2)).copy()
    occluded = np.zeros((12, 216, 384), bool)
    occluded[0] = True
    cuts = np.arange(12) == 0
    start = time.process_time()
    if coding == "rounded":
        rounded(to_prev, occluded)
    else:
        subpixel(to_prev, -to_prev, occluded, np.zeros_like(occluded, np.int32), cuts)
    assert time.process_time() - start < 2

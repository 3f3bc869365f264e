"""The paper's Flow Coding: algorithm 1 and equation 11, against the paper's example and a literal reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coded_scenes import Passes, check, fresh, panning, wall
from medm.correspondence.coding import Distant, _Destinations, in_reverse, rounded
from synthetic import Scene, two_rectangles

Direction = Literal["backward", "forward"]
Between = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def literal(flow: np.ndarray, occluded: np.ndarray, direction: Direction = "backward", distance: int = 0, between: Between | None = None):
    """Algorithm 1, pixel by pixel, its lines numbered as in the paper; with equation 11 if there are flows between distant frames."""
    length, height, width = occluded.shape
    if direction == "forward":  # 1 to 3
        flow, occluded = flow[::-1], occluded[::-1]
    n = height * width  # 4
    frames = [[[y * width + x for x in range(width)] for y in range(height)]]  # 5 to 7
    for i in range(length - 1):  # 8
        before = max(i - distance, 0)
        if between is not None and before < i:
            far, far_occluded = between(i + 1, before) if direction == "backward" else between(length - 2 - i, length - 1 - before)
        encoded = [[-1] * width for _ in range(height)]
        novel = []
        for y in range(height):  # 10
            for x in range(width):
                to = destination(flow[i + 1], y, x)  # 11
                if occluded[i + 1, y, x] or to is None:  # 13
                    novel.append((y, x))
                    continue
                encoded[y][x] = frames[i][to[0]][to[1]]  # 9, 12
                if between is not None and before < i:
                    to = destination(far, y, x)
                    if not far_occluded[y, x] and to is not None:  # (11)
                        encoded[y][x] = frames[before][to[0]][to[1]]
        for y, x in novel:  # 14, 15
            encoded[y][x] = n
            n += 1
        frames.append(encoded)  # 16
    if direction == "forward":  # 18 to 20
        frames = frames[::-1]
    return np.array(frames), n


def destination(flow: np.ndarray, y: int, x: int) -> tuple[int, int] | None:
    """The row and column that a pixel's flow leads to; None: out of the frame."""
    height, width = flow.shape[:2]
    with np.errstate(over="ignore", invalid="ignore"):
        to_x, to_y = np.float32(x) + flow[y, x, 0], np.float32(y) + flow[y, x, 1]
    if not (np.isfinite(to_x) and np.isfinite(to_y)):
        return None
    column, row = round(float(to_x)), round(float(to_y))  # Python rounds halves to even, too
    return (row, column) if 0 <= column < width and 0 <= row < height else None


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


def test_forward_flow_has_the_last_frame_as_anchor() -> None:
    flow = np.zeros((2, 1, 3, 2), np.float32)
    flow[0, ..., 0] = 1  # all moves to the right, and what is at the right leaves
    result = rounded(flow, np.zeros((2, 1, 3), bool), "forward")
    assert result.codes.tolist() == [[[1, 2, 3]], [[0, 1, 2]]]
    assert result.birth_frame.tolist() == [1, 1, 1, 0]
    assert result.birth_xy.tolist() == [[0, 0], [1, 0], [2, 0], [2, 0]]


ODD = [0.5, -0.5, 1.5, -1.5, 0.0, 1.0, float("nan"), float("inf"), -3e38, 1e6]
flows = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.just(2)),
    elements=st.one_of(st.sampled_from(ODD), st.floats(-4, 4, width=32)),
)
directions = st.sampled_from(["backward", "forward"])


@given(flow=flows, seed=st.integers(0, 2**32 - 1), direction=directions)
@settings(max_examples=150, deadline=None)
def test_rounded_is_algorithm_1_to_the_bit(flow: np.ndarray, seed: int, direction: Direction) -> None:
    occluded = np.random.default_rng(seed).random(flow.shape[:3]) < 0.2
    result = rounded(flow, occluded, direction)
    expected, count = literal(flow, occluded, direction)
    np.testing.assert_array_equal(result.codes, expected)
    assert result.count == count
    check(result)


@given(flow=flows, seed=st.integers(0, 2**32 - 1), direction=directions, distance=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_with_distant_flows_it_is_equation_11_to_the_bit(flow: np.ndarray, seed: int, direction: Direction, distance: int) -> None:
    rng = np.random.default_rng(seed)
    occluded = rng.random(flow.shape[:3]) < 0.2
    length = len(flow)
    pairs = {(t, s): (t, s) for t in range(length) for s in range(length)}
    far = {pair: (rng.choice(np.array([*ODD, -1, 2], np.float32), flow.shape[1:]), rng.random(flow.shape[1:3]) < 0.3) for pair in pairs}

    def between(t: int, s: int) -> tuple[np.ndarray, np.ndarray]:
        assert 0 <= t < length
        assert 1 < abs(t - s) <= distance + 1
        assert (s < t) == (direction == "backward")
        return far[t, s]

    result = rounded(flow, occluded, direction, Distant(distance, between))
    expected, count = literal(flow, occluded, direction, distance, between)
    np.testing.assert_array_equal(result.codes, expected)
    assert result.count == count
    check(result)


def test_distant_flow_wins_where_it_is_known_and_the_frame_before_where_not() -> None:
    """Four pixels in a row and four frames, d = 1: frame 3 looks at frame 1, but what is new since frame 2 stays new."""
    flow, occluded = np.zeros((4, 1, 4, 2), np.float32), np.zeros((4, 1, 4), bool)
    occluded[3, 0, 3] = True
    far = np.zeros((1, 4, 2), np.float32)
    far[..., 0] = 1, 1, 1, 0
    result = rounded(flow, occluded, distant=Distant(1, lambda t, s: (far, np.array([[False, True, False, False]]))))
    assert result.codes[2:].tolist() == [[[1, 1, 3, 3]], [[1, 1, 3, 4]]]


def test_distant_flows_in_reverse_are_those_of_the_reversed_clip() -> None:
    asked = []
    flow = np.zeros((1, 1, 2), np.float32)
    distant = Distant(2, lambda t, s: (asked.append((t, s)), (flow, np.zeros((1, 1), bool)))[1])
    distant.in_reverse(5).between(4, 1)
    distant.in_reverse(5).in_reverse(5).between(4, 1)
    assert asked == [(0, 3), (4, 1)]


@pytest.mark.parametrize("frames", [0, -3])
def test_a_distance_of_no_frame_is_refused(frames: int) -> None:
    nothing = np.zeros((2, 2, 2), bool)
    with pytest.raises(ValueError, match=f"at least one frame further, not {frames}"):
        rounded(np.zeros((2, 2, 2, 2), np.float32), nothing, distant=Distant(frames, lambda t, s: (np.zeros((2, 2, 2)), nothing[0])))


@given(flow=flows, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_time_can_be_turned_round(flow: np.ndarray, seed: int) -> None:
    occluded = np.random.default_rng(seed).random(flow.shape[:3]) < 0.2
    backward = rounded(flow, occluded)
    forward = rounded(flow[::-1], occluded[::-1], "forward")
    np.testing.assert_array_equal(forward.codes, backward.codes[::-1])
    np.testing.assert_array_equal(in_reverse(forward).codes, backward.codes)
    np.testing.assert_array_equal(in_reverse(forward).birth_frame, backward.birth_frame)
    np.testing.assert_array_equal(forward.birth_xy, backward.birth_xy)
    check(forward)


def test_codes_do_not_depend_on_frames_to_come() -> None:
    passes = Passes(two_rectangles(length=6))
    whole, start = rounded(passes.flows[0], passes.occluded), rounded(passes.flows[0][:3], passes.occluded[:3])
    np.testing.assert_array_equal(whole.codes[:3], start.codes)
    np.testing.assert_array_equal(whole.birth_xy[: start.count], start.birth_xy)


def test_a_frame_of_more_than_16_million_pixels_does_not_lose_the_odd_ones() -> None:
    """A float32 holds whole numbers up to 2**24 only; the last rows of a frame of 6000 x 6000 are far beyond it."""
    destinations = _Destinations(6000, 6000, torch.device("cpu"))
    destinations._y = destinations._y[-2:]  # only these rows are asked for: it is a matter of seconds otherwise
    flow = np.zeros((2, 6000, 2), np.float32)
    flow[..., 1] = -1
    place, out = destinations.of(flow, np.zeros((2, 6000), bool))
    np.testing.assert_array_equal(place, np.arange(5997 * 6000, 5999 * 6000))
    assert not out.any()


def test_a_whole_pixel_a_frame_is_exact() -> None:
    passes = Passes(panning(1, 4))
    result = rounded(passes.flows[0], passes.occluded)
    for t in range(1, 4):
        np.testing.assert_array_equal(result.codes[t][:, :-t], result.codes[0][:, t:])
    assert result.count == 48 * (64 + 3)


def test_no_motion_has_one_code_a_pixel() -> None:
    passes = Passes(Scene([wall(0.5)], length=3))
    result = rounded(passes.flows[0], passes.occluded)
    assert result.count == 64 * 48
    assert (result.codes == result.codes[0]).all()


def test_a_cut_starts_new_codes() -> None:
    passes = Passes(Scene([wall()], length=4, cuts=(2,)))
    result = rounded(passes.flows[0], passes.occluded)
    assert fresh(result)[[0, 2]].all()
    assert not fresh(result)[[1, 3]].any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_a_gpu_gives_the_codes_that_a_cpu_gives(direction: Direction) -> None:
    """To the bit: float32 sums of two numbers and roundings are the same everywhere."""
    rng = np.random.default_rng(4)
    shape = (8, 48, 64)
    flow = rng.normal(0, 3, (*shape, 2)).astype(np.float32)
    flow[rng.random(shape) < 0.1] = np.nan
    occluded = rng.random(shape) < 0.1
    distant = Distant(2, lambda t, s: (flow[t] * abs(t - s), occluded[s]))
    for far in (None, distant):
        here, there = rounded(flow, occluded, direction, far), rounded(flow, occluded, direction, far, "cuda")
        np.testing.assert_array_equal(here.codes, there.codes)
        np.testing.assert_array_equal(here.birth_xy, there.birth_xy)

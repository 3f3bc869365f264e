"""Sub-pixel codes: sound whatever the flow, exact where the flow is; and `match`, which deals them out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coded_scenes import Passes, backwards, born_at, check, errors, fresh, panning, shared_within_a_frame, wall
from medm.correspondence.codes import Codes
from medm.correspondence.coding import rounded
from medm.correspondence.matching import NOBODY, REACH, Offers, in_columns, match
from medm.correspondence.sampling import sample_flow
from medm.correspondence.subpixel import PATIENCE, subpixel
from synthetic import Rectangle, Scene, at, camera, two_rectangles

pytestmark = pytest.mark.usefixtures("one_thread")

ODD = [0.5, -0.5, 1.5, -1.5, 0.0, 1.0, float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e6]
flows = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(2, 6), st.integers(2, 6), st.just(4)),
    elements=st.one_of(st.sampled_from(ODD), st.floats(-3, 3, width=32)),
)


def one_object(flow_to_prev: np.ndarray, flow_to_next: np.ndarray, occluded: np.ndarray | None = None) -> Codes:
    """Codes of a clip without cuts that shows one object."""
    shape = flow_to_prev.shape[:3]
    hidden = np.zeros(shape, bool) if occluded is None else occluded
    return subpixel(flow_to_prev, flow_to_next, hidden, np.zeros(shape, np.int32), np.arange(shape[0]) == 0)


def uniform(x: float, y: float, length: int, size: tuple[int, int] = (12, 16)) -> tuple[np.ndarray, np.ndarray]:
    """The flows to the frames before and after, all pixels moving alike."""
    to_next = np.broadcast_to(np.array([x, y], np.float32), (length, *size, 2)).copy()
    return -to_next, to_next


@given(flow=flows, seed=st.integers(0, 2**32 - 1), agree=st.booleans())
@settings(max_examples=150, deadline=None)
def test_codes_stay_sound_whatever_the_flow(flow: np.ndarray, seed: int, agree: bool) -> None:
    """On any flow, whether those there and back are each other's inverse or have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    to_prev, to_next = np.ascontiguousarray(flow[..., :2]), np.ascontiguousarray(flow[..., 2:])
    if agree:
        to_next = -to_prev[:1].repeat(len(flow), axis=0)
        to_prev = -to_next
    occluded = rng.random(flow.shape[:3]) < 0.2
    ids = rng.integers(0, 2, flow.shape[:3], dtype=np.int32)
    cuts = rng.random(flow.shape[0]) < 0.2
    result = subpixel(to_prev, to_next, occluded, ids, cuts)
    check(result, ids)
    assert shared_within_a_frame(result) == 0
    assert fresh(result)[0].all()
    assert fresh(result)[cuts].all()
    assert fresh(result)[1:][(occluded | ~np.isfinite(to_prev).all(-1))[1:]].all()
    # A frame's codes are known before the next is.
    start = subpixel(*(part[: len(flow) - 1] for part in (to_prev, to_next, occluded, ids, cuts))) if len(flow) > 1 else result
    np.testing.assert_array_equal(start.codes, result.codes[: len(start.codes)])
    np.testing.assert_array_equal(start.birth_xy, result.birth_xy[: start.count])


@given(flow=flows, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_no_motion_has_one_code_a_pixel_whatever_is_beyond_the_clip(flow: np.ndarray, seed: int) -> None:
    """The first frame's flow to the one before it, and the last one's to the one after, are not read."""
    to_prev, to_next = np.zeros((2, *flow.shape[:3], 2), np.float32)
    to_prev[0], to_next[-1] = flow[0, ..., :2], flow[0, ..., 2:]
    ids = np.random.default_rng(seed).integers(0, 3, (1, *flow.shape[1:3]), dtype=np.int32).repeat(len(flow), axis=0)
    result = subpixel(to_prev, to_next, np.zeros(ids.shape, bool), ids, np.arange(len(ids)) == 0)
    assert result.count == flow[0, ..., 0].size
    assert (result.codes == result.codes[0]).all()


@given(x=st.integers(-5, 5), y=st.integers(-5, 5))
@settings(max_examples=30, deadline=None)
def test_whole_pixels_are_exact(x: int, y: int) -> None:
    result = one_object(*uniform(x, y, 4))
    for t in range(1, 4):
        rows, columns = slice(max(y, 0), 12 + min(y, 0)), slice(max(x, 0), 16 + min(x, 0))
        old = result.codes[t - 1, max(-y, 0) : 12 + min(-y, 0), max(-x, 0) : 16 + min(-x, 0)]
        np.testing.assert_array_equal(result.codes[t][rows, columns], old)
    assert result.count == 12 * 16 + 3 * (12 * 16 - (12 - abs(y)) * (16 - abs(x)))


@given(x=st.floats(-2, 2), y=st.floats(-2, 2))
@settings(max_examples=20, deadline=None)
def test_uniform_motion_does_not_drift(x: float, y: float) -> None:
    """However far it went, a pixel is within reach of its code, and hardly more codes are born than pixels come into the frame."""
    result = one_object(*uniform(x, y, 8))
    t = np.arange(8)[:, None, None]
    row, column = np.mgrid[:12, :16]
    birth_y, birth_x = (values[result.codes] for values in born_at(result))
    age = t - result.birth_frame[result.codes]
    off = np.hypot(column - birth_x - age * np.float32(x), row - birth_y - age * np.float32(y))
    assert off.max() < REACH + 1e-3
    assert np.median(off) < 0.55
    entered = 7 * (12 * 16 - (12 - abs(y)) * (16 - abs(x)))
    assert result.count < 1.4 * (12 * 16 + entered)  # those that came in at different times meet in lattices that leave a gap


def test_affine_motion_does_not_drift() -> None:
    """A camera that rolls before a wall, once round in 105 frames: no pixel is farther from its code than it may reach."""
    scene = Scene([wall()], camera=lambda t: camera(at(turn=(0, 0, 0.06 * t)), 64, 48), length=30)
    result = Passes(scene).subpixel()
    off = errors(scene, result)
    assert np.nanmax(off) < REACH + 0.01
    middle = fresh(result)[1:, 12:-12, 16:-16]  # nothing comes in there; without exchanges 450 codes would be born
    assert middle.sum() < 200


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e6], ids=str)
@pytest.mark.parametrize("which", ["to_prev", "to_next"])
@pytest.mark.parametrize("axis", [0, 1])
def test_flow_that_means_nothing_is_new_and_disturbs_no_other_pixel(value: float, which: str, axis: int) -> None:
    to_prev, to_next = uniform(0.11, 0.06, 5)
    good = one_object(to_prev, to_next)
    broken = to_prev, to_next
    t, y, x = (2, 5, 7) if which == "to_prev" else (1, 5, 7)
    broken[0 if which == "to_prev" else 1][t, y, x, axis] = value
    result = one_object(*broken)
    assert fresh(result)[2, y, x]
    other = np.ones((12, 16), bool)
    other[y, x] = False
    same_points = births(good)[2] == births(result)[2]
    assert same_points[other].mean() == 1
    for t in (3, 4):
        row, column = np.nonzero(births(good)[t] != births(result)[t])  # near what moved on from there they may be dealt out otherwise
        assert len(row) <= 4
        assert np.hypot(row - y, column - x).max() <= 1.5
    assert np.isfinite(result.birth_xy).all()


def births(result: Codes) -> np.ndarray:
    """(T, H, W) a number for the place and frame of each pixel's birth: unlike a code it does not change if others are born before."""
    x, y = result.birth_xy.astype(int).T
    return ((result.birth_frame * 100 + y) * 100 + x)[result.codes]


def test_a_cut_starts_new_codes() -> None:
    result = Passes(Scene([wall()], length=4, cuts=(2,))).subpixel()
    assert fresh(result)[[0, 2]].all()
    assert not fresh(result)[[1, 3]].any()


def test_a_slow_pan_keeps_the_number_of_codes() -> None:
    """0.4 px a frame: what is new is the strip of 4 px that enters, not a share of every pixel."""
    result = Passes(panning(0.4, 11)).subpixel()
    assert 48 * (64 + 3) <= result.count <= 48 * (64 + 5)


def test_a_slow_camera_does_not_blur_as_rounding_does() -> None:
    """As in the measurements of method.md: rounding to whole pixels sticks, sub-pixel places follow."""
    scene = Scene(
        [wall(), Rectangle(101, lambda t: at(0.2, 0, -1.5, turn=(0, 0.02 * t, 0)), half=(0.2, 0.2))],
        camera=lambda t: camera(at(0.013 * t, 0.006 * t, 0.004 * t, turn=(0, 0.002 * t, 0.004 * t)), 64, 48),
        length=16,
    )
    passes = Passes(scene)
    fine, coarse = passes.subpixel(), rounded(passes.flows[0], passes.occluded)
    check(fine, passes.gbuffer.object_id)
    off, off_rounded = errors(scene, fine)[1:], errors(scene, coarse)[1:]
    assert np.nanmedian(off) < 0.4
    assert (off > 1).mean() < 0.005
    assert np.nanmedian(off_rounded) > 1
    assert fine.count < 2 * 64 * 48


def test_codes_of_what_gets_hidden_die() -> None:
    scene = Scene([wall(), Rectangle(101, lambda t: at(0.01 - 0.3 + 0.0625 * 1.5 * t, 0.01, -1), half=(0.08, 0.2))], length=8)
    passes = Passes(scene)
    result = passes.subpixel()
    check(result, passes.gbuffer.object_id)
    assert np.nanmax(errors(scene, result)) < 1


def test_codes_of_a_part_that_another_part_of_the_object_hides_die() -> None:
    """One id, so it is the flow there and back that tells: 3.4 px a frame, and the wall's codes would be nearer than the mover's."""
    scene = Scene(
        [
            Rectangle(5, lambda _: at(0, 0, -2), half=(20, 20)),
            Rectangle(5, lambda t: at(-0.4 + 3.4 / 64 * t, 0.01, -1), half=(0.1, 0.2)),
        ],
        length=8,
    )
    assert np.nanmax(errors(scene, Passes(scene).subpixel())) < 1


def test_coming_closer_gives_birth_to_detail() -> None:
    """Every pixel has a code of its own, so what covers more pixels gets more codes; the old ones stay in use."""
    scene = Scene([wall()], camera=lambda t: camera(at(0, 0, -0.1 * t), 64, 48), length=8)
    result = Passes(scene).subpixel()
    assert (errors(scene, result)[1:] < 1.5).all()
    assert shared_within_a_frame(result) == 0
    share = (result.birth_frame[result.codes[-1]] == 0).mean()
    assert share > 0.8 * (1.3 / 2) ** 2  # of the first frame's codes as many are left in view as fit


def test_a_film_in_reverse_is_as_good() -> None:
    """Other codes, as they are born at the other end, but about as many, and as near to their points."""
    scene = two_rectangles(length=10)
    found = []
    for film in (scene, backwards(scene)):
        passes = Passes(film)
        result = passes.subpixel()
        check(result, passes.gbuffer.object_id)
        off = errors(film, result)[1:]
        assert np.nanmedian(off) < 0.45
        assert (off[np.isfinite(off)] > 1).mean() < 0.01
        found.append(result.count)
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_codes_do_not_depend_on_frames_to_come() -> None:
    passes = Passes(two_rectangles(length=6))
    whole, start = passes.subpixel(), passes.subpixel(slice(3))
    np.testing.assert_array_equal(whole.codes[:3], start.codes)
    np.testing.assert_array_equal(whole.birth_xy[: start.count], start.birth_xy)


def test_the_same_codes_at_every_run_with_any_number_of_threads() -> None:
    passes = Passes(two_rectangles(256, 192, length=3))  # large enough for torch to use several threads
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 1, 3):
            torch.set_num_threads(number)
            found.append(passes.subpixel().codes)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_a_place_just_out_of_the_frame_is_gone_and_one_on_its_rim_is_not() -> None:
    """The frame ends half a pixel beyond the outer pixels' centres."""
    for shift, stays in ((0.49, True), (0.51, False), (-0.49, True), (-0.51, False)):
        for axis in (0, 1):
            # It leaves in the second frame; if it stayed in view, it would come back in the third.
            to_prev, to_next = np.zeros((2, 3, 12, 16, 2), np.float32)
            to_next[0, ..., axis], to_prev[1, ..., axis] = shift, -shift
            to_next[1, ..., axis], to_prev[2, ..., axis] = -shift, shift
            result = one_object(to_prev, to_next)
            rim = (slice(None), -1 if shift > 0 else 0) if axis == 0 else (-1 if shift > 0 else 0, slice(None))
            assert ((result.codes[2] == result.codes[0])[rim] == stays).all()


@pytest.mark.parametrize("size", [(2, 2), (2, 9), (9, 2)])
def test_the_smallest_frames(size: tuple[int, int]) -> None:
    result = one_object(*uniform(0.3, 0.2, 4, size))
    check(result)
    assert not fresh(result)[1].any()


@pytest.mark.parametrize("size", [(1, 9), (9, 1), (1, 1)])
def test_frames_of_one_row_or_column_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"at least 2 x 2 pixels, not {size[1]} x {size[0]}"):
        one_object(*uniform(0.3, 0.2, 4, size))


def waiting(frames: int) -> Codes:
    """Pixel (4, 4)'s code moves next to pixel (3, 4), which keeps its own, while a new one is born in (4, 4); `frames` frames after the
    last in which the old code had a pixel, the new one flies off."""
    to_prev, to_next = np.zeros((2, frames + 1, 8, 8, 2), np.float32)
    occluded = np.zeros((frames + 1, 8, 8), bool)
    to_next[0, 4, 4, 0] = -0.55
    occluded[1, 4, 4] = True
    to_next[frames - 1, 4, 4, 0] = 50
    return one_object(to_prev, to_next, occluded)


def test_a_code_waits_eight_frames_for_a_pixel() -> None:
    for frames, kept in ((2, True), (PATIENCE, True), (PATIENCE + 1, True), (PATIENCE + 2, False)):
        result = waiting(frames)
        assert fresh(result)[1, 4, 4]
        assert (result.codes[frames, 4, 4] == result.codes[0, 4, 4]) == kept
        assert fresh(result)[frames, 4, 4] != kept


def test_progress_is_told_once_a_frame() -> None:
    told = []
    to_prev, to_next = uniform(0, 0, 4)
    cuts, ids = np.arange(4) == 0, np.zeros((4, 12, 16), np.int32)
    subpixel(to_prev, to_next, cuts[:, None, None] | np.zeros_like(ids, bool), ids, cuts, progress=lambda share, _: told.append(share))
    assert told == [0, 0.25, 0.5, 0.75, 1]


# --- sample_flow


def sampled(x: float, y: float, flow: np.ndarray, ids: np.ndarray, object_id: int = 0) -> tuple[float, float]:
    height, width = ids.shape
    place = torch.tensor([x]), torch.tensor([y]), torch.tensor([object_id], dtype=torch.int32)
    flow_x, flow_y = sample_flow(*place, torch.from_numpy(flow.reshape(-1, 2)), torch.from_numpy(ids.reshape(-1)), height, width)
    return float(flow_x), float(flow_y)


@given(
    x=st.floats(-0.5, 6.5, width=32), y=st.floats(-0.5, 4.5, width=32), coefficients=st.lists(st.floats(-0.2, 0.2), min_size=6, max_size=6)
)
@settings(max_examples=60, deadline=None)
def test_affine_flow_is_sampled_exactly_up_to_the_rim(x: float, y: float, coefficients: list[float]) -> None:
    a, b, c, d, e, f = coefficients
    row, column = np.mgrid[:5, :7]
    flow = np.stack([a * column + b * row + c, d * column + e * row + f], -1).astype(np.float32)
    assert sampled(x, y, flow, np.zeros((5, 7), np.int32)) == pytest.approx((a * x + b * y + c, d * x + e * y + f), abs=1e-5)


def test_flow_is_not_mixed_over_edges() -> None:
    flow = np.zeros((4, 6, 2), np.float32)
    flow[:, 3:, 0] = 0.4
    one, two = np.zeros((4, 6), np.int32), np.zeros((4, 6), np.int32)
    two[:, 3:] = 1
    assert sampled(2.75, 1.5, flow, one)[0] == pytest.approx(0.3)  # smooth enough
    assert sampled(2.75, 1.5, flow, two)[0] == 0  # of its own object only
    assert sampled(2.25, 1.5, flow, two, 1)[0] == pytest.approx(0.4)
    flow[:, 3:, 0] = 0.6
    assert sampled(2.75, 1.5, flow, one)[0] == pytest.approx(0.6)  # the nearest
    assert sampled(2.25, 1.5, flow, one)[0] == 0


# --- match


def pairs_of(distance: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A full table of squared distances, codes down and pixels across, as `match` takes it."""
    codes, pixels = distance.shape
    pixel = torch.arange(pixels)[:, None].expand(pixels, codes).contiguous()
    return torch.arange(codes), pixel, torch.from_numpy(distance.T.copy())


def literal_match(distance: np.ndarray, taken: np.ndarray, rounds: int) -> dict[int, int]:
    """`match` as its docstring reads: {pixel: code}."""
    codes, pixels = distance.shape
    owner: dict[int, int] = {}
    free = set(range(codes))
    for _ in range(rounds):
        asked: dict[int, list[int]] = {}
        for pixel in range(pixels):
            near = [(distance[code, pixel], code) for code in sorted(free) if np.isfinite(distance[code, pixel])]
            if near and pixel not in owner and not taken[pixel]:
                asked.setdefault(min(near)[1], []).append(pixel)
        for code, who in asked.items():
            owner[min(who, key=lambda pixel: (distance[code, pixel], pixel))] = code
            free.remove(code)
    return owner


# Few values, so that many are equal; multiples of 2**-6, so that nothing is rounded.
tables = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    elements=st.sampled_from([0.0, 0.25, 0.265625, 0.5, 1.0, float("inf"), float("inf")]),
)


@given(distance=tables, seed=st.integers(0, 2**32 - 1), rounds=st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_match_deals_out_codes_as_it_says(distance: np.ndarray, seed: int, rounds: int) -> None:
    codes, pixels = distance.shape
    taken = np.random.default_rng(seed).random(pixels) < 0.2
    owner = torch.from_numpy(np.where(taken, NOBODY, -1))
    left = match(*pairs_of(distance), owner, rounds)
    given = {pixel: int(code) for pixel, code in enumerate(owner) if code not in (-1, NOBODY)}
    assert given == literal_match(distance, taken, rounds)
    assert len(set(given.values())) == len(given)  # no code twice
    assert sorted([*left.tolist(), *given.values()]) == list(range(codes))
    assert (owner.numpy()[taken] == NOBODY).all()


@given(distance=tables, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_pairs_in_any_order_give_the_same_match(distance: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for code in np.flatnonzero(~np.isfinite(distance).any(axis=1)):
        distance[code, 0] = 0.5  # every code occurs
    owners = []
    code, pixel = np.nonzero(np.isfinite(distance))
    for _ in range(2):
        order = rng.permutation(len(code))
        given = (torch.from_numpy(values[order]) for values in (code, pixel, distance[code, pixel]))
        owner = torch.full((distance.shape[1],), -1)
        match(torch.arange(len(distance)), *in_columns(*given), owner, rounds=7)
        owners.append(owner)
    assert torch.equal(*owners)
    taken = np.zeros(distance.shape[1], bool)
    assert {p: int(c) for p, c in enumerate(owners[0]) if c >= 0} == literal_match(distance, taken, 7)


# --- exchange


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.3, 1.5))
@settings(max_examples=60, deadline=None)
def test_exchanging_only_ever_gives_more_pixels_a_code(seed: int, share: float) -> None:
    """Codes at random places, still; every pixel keeps a code that it may have, no code is had twice, and none is lost."""
    rng = np.random.default_rng(seed)
    height, width = 6, 7
    n = int(share * height * width)
    x, y = (torch.from_numpy(rng.uniform(-0.5, size - 0.5, n).astype(np.float32)) for size in (width, height))
    ids = torch.from_numpy(rng.integers(0, 2, height * width))
    object_id = torch.from_numpy(rng.integers(0, 2, n, dtype=np.int32))
    offers = Offers(x, y, torch.zeros(n), torch.zeros(n), object_id, ids, torch.zeros(height * width, 2), height, width)
    pixel, distance = offers.around(torch.arange(n))
    assert ((distance <= REACH**2 + 1e-6) | distance.isinf()).all()
    owner = torch.full((height * width,), -1)
    left = match(torch.arange(n), pixel, distance, owner, rounds=1)
    before = owner.clone()
    offers.exchange(owner, left, pixel[:, left], distance[:, left])
    assert (owner[before >= 0] >= 0).all()
    codes = owner[owner >= 0].tolist()
    assert len(set(codes)) == len(codes)
    assert set(before[before >= 0].tolist()) <= set(codes)
    for p, c in enumerate(owner.tolist()):
        if c >= 0:
            assert ids[p] == object_id[c]
            assert np.hypot(float(x[c]) - p % width, float(y[c]) - p // width) <= REACH + 1e-6


def test_a_pixel_left_without_takes_from_one_that_can_do_with_another() -> None:
    """Three pixels in a row: the middle one has the code that the first could have, too, and there is one to spare at its right."""
    x, y = torch.tensor([0.55, 1.6]), torch.zeros(2)
    ids = torch.tensor([0, 0, NOBODY, 0, 0, 0])
    offers = Offers(x, y, torch.zeros(2), torch.zeros(2), torch.zeros(2, dtype=torch.int32), ids, torch.zeros(6, 2), 2, 3)
    owner = torch.tensor([-1, 0, -1, -1, -1, -1])
    free = torch.tensor([1])
    pixel, distance = offers.around(free)
    offers.exchange(owner, free, pixel, distance)
    assert owner.tolist() == [0, 1, -1, -1, -1, -1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_codes_that_a_cpu_gives() -> None:
    """But for places at which a sum of the GPU's, which may fuse a product with it, is rounded to another nearest pixel."""
    passes = Passes(two_rectangles(length=6))
    here, there = passes.subpixel(), passes.subpixel(device="cuda")
    check(there, passes.gbuffer.object_id)
    assert abs(here.count - there.count) <= 0.001 * here.count
    assert (births(here) == births(there)).mean() > 0.998

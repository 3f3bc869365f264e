"""Harmonisation against literal readings of its equations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import synthetic
from medm import harmonize
from medm.correspondence import analyse
from medm.correspondence.facts import confidence, gather_facts
from medm.errors import BadInput
from medm.harmonize import RIDGE, Harmonizer, gaussian, key_order
from medm.shot import Shot

DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")])]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def dense(codes: np.ndarray) -> tuple[np.ndarray, int]:
    """The same partition with codes 0 to count - 1."""
    unique, inverse = np.unique(codes, return_inverse=True)
    return inverse.reshape(codes.shape).astype(np.int32), len(unique)


def literal_mean(frames: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Listing 1, code by code."""
    result = np.empty_like(frames)
    for code in np.unique(codes):
        t, y, x = np.nonzero(codes == code)
        result[t, :, y, x] = frames[t, :, y, x].mean(axis=0)
    return result


def literal_local(frames: np.ndarray, codes: np.ndarray, sigma: float, width: int) -> np.ndarray:
    """Equations 12 to 14, code by code and tap by tap, with numpy's reflection."""
    kernel = [np.exp(-0.5 * ((x - width / 2) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi)) for x in range(width + 1)]
    kernel = [weight / sum(kernel) for weight in kernel]
    result = np.empty_like(frames)
    for code in np.unique(codes):
        where = [(i, y, x) for i, y, x in np.ndindex(*codes.shape) if codes[i, y, x] == code]  # equation 12
        row = np.array([frames[i, :, y, x] for i, y, x in where])
        padded = np.pad(row, ((width // 2, width // 2), (0, 0)), mode="reflect") if len(row) > 1 else np.repeat(row, width + 1, axis=0)
        for place, (i, y, x) in enumerate(where):  # equation 13
            result[i, :, y, x] = sum(weight * padded[place + tap] for tap, weight in enumerate(kernel))
    return result


def literal_line(frames: np.ndarray, codes: np.ndarray, sigma: float, width: int) -> np.ndarray:
    """The line through the neighbours of every pixel, by least squares with one more equation: (slope - slope around) * sqrt(RIDGE) = 0."""
    covariance, spread = np.empty_like(frames), np.empty(codes.shape)
    near_of = {}
    for code in np.unique(codes):
        where = [(i, y, x) for i, y, x in np.ndindex(*codes.shape) if codes[i, y, x] == code]
        row = np.array([frames[i, :, y, x] for i, y, x in where])
        times = np.array([i for i, _, _ in where], float)
        for place, (i, y, x) in enumerate(where):
            near = slice(max(place - width // 2, 0), place + width // 2 + 1)
            near = np.arange(len(row))[near][np.abs(times[near] - i) <= width / 2]
            weight = np.exp(-0.5 * ((times[near] - i) / sigma) ** 2)
            away = times[near] - np.average(times[near], weights=weight)
            near_of[i, y, x] = row[near], times[near], weight
            covariance[i, :, y, x], spread[i, y, x] = (weight * away) @ row[near], weight @ away**2
    result = np.empty_like(frames)
    for (i, y, x), (row, times, weight) in near_of.items():
        box = i, slice(max(y - 4, 0), y + 5), slice(max(x - 4, 0), x + 5)
        around = covariance[box[0], :, box[1], box[2]].mean((1, 2)) / (spread[box].mean() + RIDGE)
        middle = np.average(times, weights=weight)
        line = np.stack([np.ones(len(row)), times - middle], axis=1) * np.sqrt(weight)[:, None]
        equations = np.concatenate([line, [[0, np.sqrt(RIDGE)]]])
        values = np.concatenate([row * np.sqrt(weight)[:, None], np.sqrt(RIDGE) * around[None]])
        high, slope = np.linalg.lstsq(equations, values, rcond=None)[0]
        result[i, :, y, x] = high + slope * (i - middle)
    return result


def random_clip(seed: int, length: int = 6, height: int = 4, width: int = 5, share: float = 0.5) -> tuple[np.ndarray, np.ndarray, int]:
    rng = np.random.default_rng(seed)
    codes, count = dense(rng.integers(0, max(1, int(length * height * width * share)), (length, height, width)))
    return rng.normal(size=(length, 3, height, width)), codes, count


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_all_ways_agree_with_their_literal_reading(device: str, dtype: torch.dtype, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, codes, count = random_clip(1, share=share)
    tensor = torch.from_numpy(frames).to(device, dtype)
    exact = tensor.double().cpu().numpy()
    for chunk in (2**20, 37):  # all at once, and in pieces
        monkeypatch.setattr(harmonize, "CHUNK_PIXELS", chunk)
        harmonizer = Harmonizer(codes, count, device)
        in_half = TOLERANCE[dtype] if dtype == torch.float64 else 2e-3  # the slopes around are kept in half precision
        for got, expected, tolerance in (
            (harmonizer.global_mean(tensor), literal_mean(exact, codes), TOLERANCE[dtype]),
            (harmonizer.local(tensor, 1.2, 4, "reflect"), literal_local(exact, codes, 1.2, 4), TOLERANCE[dtype]),
            (harmonizer.local(tensor, 1.2, 4), literal_line(exact, codes, 1.2, 4), max(TOLERANCE[dtype], in_half)),
        ):
            assert got.dtype == dtype
            assert got.shape == tensor.shape
            assert got.is_contiguous()
            np.testing.assert_allclose(got.double().cpu().numpy(), expected, atol=tolerance, rtol=tolerance)


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.01, 1.0), width=st.sampled_from([0, 2, 6, 20]), sigma=st.floats(0.2, 5))
@settings(max_examples=40, deadline=None)
def test_local_of_any_trajectories(seed: int, share: float, width: int, sigma: float) -> None:
    """Among them trajectories far shorter than the kernel: the reflection goes on to and fro."""
    frames, codes, count = random_clip(seed, length=4, height=2, width=3, share=share)
    harmonizer, tensor = Harmonizer(codes, count), torch.from_numpy(frames)
    np.testing.assert_allclose(harmonizer.local(tensor, sigma, width, "reflect"), literal_local(frames, codes, sigma, width), atol=1e-12)
    np.testing.assert_allclose(harmonizer.local(tensor, sigma, width), literal_line(frames, codes, sigma, width), atol=1e-12)


def one_row(values: list[float] | torch.Tensor, sigma: float, width: int, present: list[int] | None = None) -> torch.Tensor:
    """One pixel through time, made local; `present`: the frames in which it shows its code, by default all."""
    clip = torch.as_tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)
    codes = np.arange(1, len(clip) + 1)
    codes[slice(None) if present is None else present] = 0
    return Harmonizer(codes.reshape(-1, 1, 1), len(clip) + 1).local(clip, sigma, width).flatten()


def test_far_from_the_ends_a_line_is_the_gaussian_mean() -> None:
    values = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = one_row(values, 2.0, 8)
    kernel = torch.tensor(gaussian(2.0, 8), dtype=torch.float64)
    torch.testing.assert_close(got[4:-4], torch.nn.functional.conv1d(values[None, None], kernel[None, None])[0, 0])


@given(length=st.integers(1, 40), width=st.sampled_from([2, 8, 16, 24]), sigma=st.floats(0.3, 40))
@settings(max_examples=60, deadline=None)
def test_no_steady_change_is_late_by_more_than_half_a_frame(length: int, width: int, sigma: float) -> None:
    steady = torch.arange(length, dtype=torch.float64)
    assert (one_row(steady, sigma, width) - steady).abs().max() <= 0.5 + 1e-9


def test_a_steady_change_is_kept_where_reflection_flattens_it() -> None:
    fade = torch.linspace(1, 0.6, 24, dtype=torch.float64)
    harmonizer = Harmonizer(np.zeros((24, 1, 1), np.int32), 1)
    line, reflected = (harmonizer.local(fade.reshape(-1, 1, 1, 1), 4.0, 16, ends).flatten() for ends in ("line", "reflect"))
    torch.testing.assert_close(line[8:-8], fade[8:-8])
    assert (line - fade).abs().max() < 0.25 * 0.4 / 23  # of what changes in a frame
    assert (reflected - fade).abs().max() > 2.5 * 0.4 / 23


@pytest.mark.parametrize("length", [2, 3, 4])
def test_a_row_that_has_just_begun_follows_the_light_around_it(length: int) -> None:
    """A small new thing before a wall, in light that fades: it is told by the wall how fast."""
    fade = torch.linspace(1, 0.6, 24, dtype=torch.float64)[:, None, None, None].expand(24, 1, 9, 9).contiguous()
    codes = np.repeat(np.arange(81).reshape(1, 9, 9), 24, axis=0)
    codes[-length:, 4, 4] = 81
    got = Harmonizer(codes, 82).local(fade, 4.0, 16)
    assert (got - fade)[-1, 0, 4, 4].abs() < 0.05 * 0.4 / 23  # of what changes in a frame


@pytest.mark.parametrize("length", [2, 3, 4])
def test_short_rows_do_not_keep_their_flicker(length: int) -> None:
    """A line that is not held back goes through two pixels exactly, and close to three or four that rise or fall."""
    for values in ([1.0, -1.0, 1.0, -1.0][:length], [0.0, *[1.0] * (length - 1)], [*[0.0] * (length - 1), 1.0]):
        flicker = torch.tensor(values, dtype=torch.float64)
        frames = torch.zeros(length, 1, 9, 9, dtype=torch.float64)
        frames[:, 0, 4, 4] = flicker
        got = Harmonizer(np.repeat(np.arange(81).reshape(1, 9, 9), length, axis=0), 81).local(frames, 4.0, 16)[:, 0, 4, 4]
        assert got.std() < 0.6 * flicker.std()
        frames[:] = flicker[:, None, None, None]  # all of what is around flickers alike
        got = Harmonizer(np.repeat(np.arange(81).reshape(1, 9, 9), length, axis=0), 81).local(frames, 4.0, 16)[:, 0, 4, 4]
        assert got.std() < 0.75 * flicker.std()


def test_what_was_seen_long_ago_has_no_say() -> None:
    """A surface that is hidden for 20 frames, while the light goes out."""
    values = torch.cat([torch.ones(5), torch.full((20,), 9.0), torch.zeros(5)])
    shown = [*range(5), *range(25, 30)]
    got = one_row(values, 4.0, 16, shown)
    torch.testing.assert_close(got, values.double())
    harmonizer = Harmonizer(np.where(np.isin(np.arange(30), shown), 0, 1).reshape(-1, 1, 1), 2)
    assert harmonizer.local(values.reshape(-1, 1, 1, 1), 4.0, 16, "reflect")[4] < 0.7


def test_two_pixels_of_a_frame_stand_at_one_time() -> None:
    """A code that takes two pixels a frame, under light that fades: both are as late as one would be."""
    fade = torch.linspace(0, 1, 12, dtype=torch.float64)[:, None, None, None].expand(12, 1, 1, 2).contiguous()
    got = Harmonizer(np.zeros((12, 1, 2), np.int32), 1).local(fade, 2.0, 16)
    assert (got - fade).abs().max() < 0.5 / 11
    torch.testing.assert_close(got[4:-4], fade[4:-4], atol=0.01, rtol=0)


def test_reflection_is_that_of_pytorch_where_pytorch_has_one() -> None:
    frames = torch.randn(9, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(frames.reshape(1, 1, 9), (3, 3), mode="reflect")
    expected = torch.nn.functional.conv1d(padded, torch.tensor(gaussian(1.0, 6), dtype=torch.float64).reshape(1, 1, 7))
    got = Harmonizer(np.zeros((9, 1, 1), np.int32), 1).local(frames, 1.0, 6, "reflect")
    torch.testing.assert_close(got.flatten(), expected.flatten())


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_a_pixel_alone_with_its_code_is_unchanged(dtype: torch.dtype) -> None:
    codes = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    frames = torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    harmonizer = Harmonizer(codes, codes.size)
    assert torch.equal(harmonizer.global_mean(frames), frames)
    assert torch.equal(harmonizer.local(frames, 0.7, 8), frames)
    assert torch.equal(harmonizer.local(frames, 0.7, 8, "reflect"), frames)
    assert torch.equal(harmonizer.keyed(frames), frames)


def test_half_precision_sums_do_not_lose_anything() -> None:
    """4096 halves of 1.0 and 1.0: a sum in float16 would stop growing at 2048."""
    frames = torch.ones(4096, 1, 1, 1, dtype=torch.float16)
    assert torch.equal(Harmonizer(np.zeros((4096, 1, 1), np.int64), 1).global_mean(frames), frames)


def test_the_input_stays_as_it_is_and_any_layout_will_do() -> None:
    frames, codes, count = random_clip(3)
    tensor = torch.from_numpy(frames).float().contiguous(memory_format=torch.channels_last)
    before = tensor.clone()
    harmonizer = Harmonizer(torch.from_numpy(codes), count)
    torch.testing.assert_close(harmonizer.global_mean(tensor), harmonizer.global_mean(tensor.contiguous()))
    torch.testing.assert_close(harmonizer.local(tensor, 1.0, 4), harmonizer.local(tensor.contiguous(), 1.0, 4))
    assert torch.equal(tensor, before)


def test_harmonising_twice_changes_nothing_more() -> None:
    frames, codes, count = random_clip(4)
    harmonizer = Harmonizer(codes, count)
    once = harmonizer.global_mean(torch.from_numpy(frames))
    torch.testing.assert_close(harmonizer.global_mean(once), once)
    torch.testing.assert_close(harmonizer.local(once, 1.0, 4), once)


@pytest.mark.parametrize("length", [*range(1, 12), 24, 100])
def test_every_frame_is_a_key_once(length: int) -> None:
    order = key_order(length)
    assert sorted(order) == list(range(length))
    assert order[0] == length // 2


def test_keys_are_spread_over_the_clip() -> None:
    assert key_order(9) == [4, 0, 8, 2, 6, 1, 3, 5, 7]
    for count in (3, 5, 9):  # the first keys: the largest gap between them is what even steps would leave
        assert np.diff(sorted(key_order(97)[:count])).max() <= 96 // (count - 1)


def literal_keyed(frames: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Code by code: the first key frame that shows it, and there its first pixel."""
    result = np.empty_like(frames)
    for code in np.unique(codes):
        t = next(t for t in key_order(len(codes)) if (codes[t] == code).any())
        first_y, first_x = np.argwhere(codes[t] == code)[0]
        i, y, x = np.nonzero(codes == code)
        result[i, :, y, x] = frames[t, :, first_y, first_x]
    return result


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_keyed_is_its_literal_reading(device: str, dtype: torch.dtype, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, codes, count = random_clip(11, share=share)
    tensor = torch.from_numpy(frames).to(device, dtype)
    for chunk in (2**20, 37):
        monkeypatch.setattr(harmonize, "CHUNK_PIXELS", chunk)
        got = Harmonizer(codes, count, device).keyed(tensor)
        assert got.dtype == dtype
        assert np.array_equal(got.double().cpu().numpy(), literal_keyed(tensor.double().cpu().numpy(), codes))  # copied: nothing is lost


def test_of_several_pixels_in_the_key_frame_the_first_is_taken() -> None:
    codes = np.array([[[0, 0, 0]], [[1, 0, 0]], [[0, 1, 1]]])  # the first key is frame 1
    frames = torch.arange(9.0).reshape(3, 1, 1, 3)
    assert Harmonizer(codes, 2).keyed(frames).flatten().tolist() == [4, 4, 4, 3, 4, 4, 4, 3, 3]


@pytest.mark.parametrize("kind", ["mean", "keyed"])
@pytest.mark.parametrize("sizes", [(6,), (1, 1, 1, 1, 1, 1), (4, 2), (1, 3, 2)])
def test_a_repository_may_be_filled_and_read_in_any_chunks(kind: str, sizes: tuple[int, ...]) -> None:
    frames, codes, count = random_clip(12, share=0.1)
    tensor = torch.from_numpy(frames).float()
    harmonizer = Harmonizer(codes, count, weights=random_weights(codes))
    repository = harmonizer.mean_repository(3) if kind == "mean" else harmonizer.keyed_repository(3)
    whole = harmonizer.global_mean(tensor) if kind == "mean" else harmonizer.keyed(tensor)
    first = 0
    for size in sizes:
        repository.add(tensor[first : first + size], first)
        first += size
    for bounds in ((0, 6), (2, 3), (4, 6)):
        torch.testing.assert_close(repository.read(*bounds), whole[slice(*bounds)], atol=1e-6, rtol=1e-6)
    assert repository.values().shape == (count, 3)


def test_keys_see_their_point_clearly_if_any_pixel_does() -> None:
    codes = np.array([[[0, 0, 1]], [[0, 0, 1]], [[0, 1, 1]]])  # the first key is frame 1, then 0, then 2
    frames = torch.arange(9.0).reshape(3, 1, 1, 3)
    clear = np.array([[[False, True, False]], [[False, False, False]], [[True, False, False]]])
    got = Harmonizer(codes, 2, clear=clear).keyed(frames).flatten()
    assert got.tolist() == [1, 1, 5, 1, 1, 5, 1, 5, 5]  # code 0: the clear pixel of frame 0; code 1 has none, and takes the first key


def test_keyed_is_the_same_every_time() -> None:
    frames, codes, count = random_clip(13, length=12, height=20, width=30, share=0.05)
    tensor = torch.from_numpy(frames).half()
    assert torch.equal(Harmonizer(codes, count).keyed(tensor), Harmonizer(torch.from_numpy(codes), count).keyed(tensor))


def flickering(length: int = 12, size: int = 24) -> tuple[torch.Tensor, np.ndarray, int]:
    """A still picture whose brightness jumps from frame to frame; in the last frame one pixel and the right third are new."""
    picture = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    frames = 0.5 * picture + torch.linspace(-0.2, 0.2, length).roll(3)[:, None, None, None]
    codes = np.broadcast_to(np.arange(size * size).reshape(size, size), (length, size, size)).copy()
    codes[-1, 5, 5] = codes.max() + 1
    codes[-1, :, size * 2 // 3 :] = codes.max() + 1 + np.arange(size * (size - size * 2 // 3)).reshape(size, -1)
    return frames, *dense(codes)


def test_feathering_takes_the_speckle_out_of_fresh_pixels() -> None:
    frames, codes, count = flickering()
    harmonizer = Harmonizer(codes, count)
    plain, feathered = harmonizer.global_mean(frames), harmonizer.feathered_mean(frames)
    steady = plain[0, :, 5, 5]  # what the fresh pixel would be if it had been seen all along
    before, after = (plain[-1, :, 5, 5] - steady).abs().max(), (feathered[-1, :, 5, 5] - steady).abs().max()
    assert after < 0.15 * before
    edge = 24 * 2 // 3
    assert (feathered - plain)[-1, :, :, edge].abs().min() > 0.03  # at its edge a fresh region follows what is beside it
    assert torch.equal(feathered[-1, :, :, -3:], plain[-1, :, :, -3:])  # and far from it stays as it was
    for code in np.unique(codes[codes < 40]):
        t, y, x = np.nonzero(codes == code)
        assert (feathered[t, :, y, x] == feathered[t[0], :, y[0], x[0]]).all()  # one value a code, still


def test_feathering_leaves_a_steady_clip_alone() -> None:
    frames, codes, count = flickering()
    harmonizer = Harmonizer(codes, count)
    steady = harmonizer.global_mean(frames)
    torch.testing.assert_close(harmonizer.feathered_mean(steady), steady)
    assert harmonizer.feathered_mean(steady.half()).dtype == torch.float16


@pytest.mark.parametrize("device", DEVICES)
def test_feathering_is_its_formula(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, codes, count = random_clip(5, height=7, width=11)
    sizes = np.bincount(codes.ravel(), minlength=count)
    mean = literal_mean(frames, codes)
    confidence = (1 - 1 / sizes)[codes]
    change = np.zeros((count, 3))
    for t, y, x in np.ndindex(*codes.shape):
        box = np.s_[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5]
        a = confidence[t][box]
        change[codes[t, y, x]] += (
            (a * (mean - frames)[t][(slice(None), *box)]).mean(axis=(1, 2)) / (a.mean() + 0.05) / sizes[codes[t, y, x]]
        )
    expected = mean + np.moveaxis(change[codes], -1, 1)
    for chunk in (2**20, 100):
        monkeypatch.setattr(harmonize, "CHUNK_PIXELS", chunk)
        got = Harmonizer(codes, count, device).feathered_mean(torch.from_numpy(frames).to(device))
        np.testing.assert_allclose(got.cpu().numpy(), expected, atol=1e-12)


def literal_weighted_mean(frames: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean, code by code; plain where a code has no weight at all."""
    result = np.empty_like(frames)
    for code in np.unique(codes):
        t, y, x = np.nonzero(codes == code)
        own = weights[t, y, x] if weights[t, y, x].any() else np.ones(len(t))
        result[t, :, y, x] = np.average(frames[t, :, y, x], axis=0, weights=own)
    return result


def random_weights(codes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Weights over several magnitudes; some are 0, and one code has no other."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(size=codes.shape).astype(np.float32) ** 4
    weights[rng.uniform(size=codes.shape) < 0.2] = 0
    weights[codes == codes[0, 0, 0]] = 0
    return weights


def test_a_weighted_mean_by_hand() -> None:
    """Two pixels of code 0, one of code 1: (3 * 0.5 + 1 * 0.1) / 4 = 0.4."""
    codes = np.array([[[0, 1]], [[0, 2]]])
    frames = torch.tensor([[[[0.5, 0.7]]], [[[0.1, 0.9]]]])
    weights = np.array([[[3.0, 2.0]], [[1.0, 0.0]]])
    got = Harmonizer(codes, 3, weights=weights).global_mean(frames)
    torch.testing.assert_close(got, torch.tensor([[[[0.4, 0.7]]], [[[0.4, 0.9]]]]))
    assert torch.equal(got[..., 1], frames[..., 1])  # alone with its code: unchanged to the last bit, whatever its weight


@pytest.mark.parametrize("weight", [1.0, 0.3, 1e-30, 1e30])
def test_equal_weights_are_the_plain_mean_to_the_last_bit(weight: float) -> None:
    frames, codes, count = random_clip(6)
    tensor = torch.from_numpy(frames).float()
    plain, weighted = Harmonizer(codes, count), Harmonizer(codes, count, weights=np.full(codes.shape, weight, np.float32))
    assert torch.equal(weighted.global_mean(tensor), plain.global_mean(tensor))
    torch.testing.assert_close(weighted.feathered_mean(tensor), plain.feathered_mean(tensor))


def test_a_code_without_any_weight_has_its_plain_mean() -> None:
    frames, codes, count = random_clip(7, share=0.1)
    tensor = torch.from_numpy(frames)
    nothing = np.zeros(codes.shape, np.float32)
    assert torch.equal(Harmonizer(codes, count, weights=nothing).global_mean(tensor), Harmonizer(codes, count).global_mean(tensor))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_weighted_means_agree_with_their_literal_reading(device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, codes, count = random_clip(8, share=0.1)
    weights = random_weights(codes)
    tensor = torch.from_numpy(frames).to(device, dtype)
    expected = literal_weighted_mean(tensor.double().cpu().numpy(), codes, weights)
    for chunk in (2**20, 37):
        monkeypatch.setattr(harmonize, "CHUNK_PIXELS", chunk)
        got = Harmonizer(codes, count, device, weights).global_mean(tensor)
        assert got.dtype == dtype
        tolerance = max(TOLERANCE[dtype], 1e-6)  # weights are float32
        np.testing.assert_allclose(got.double().cpu().numpy(), expected, atol=tolerance, rtol=tolerance)


def test_no_code_needs_to_be_seen() -> None:
    """Numbers that no pixel has are no division by 0."""
    frames = torch.ones(1, 3, 1, 2)
    for weights in (None, np.full((1, 1, 2), 0.5)):
        harmonizer = Harmonizer(np.array([[[1, 3]]]), 6, weights=weights)
        assert torch.equal(harmonizer.global_mean(frames), frames)
        assert torch.isfinite(harmonizer.feathered_mean(frames)).all()


def test_a_far_pixel_counts_less(tmp_path: Path) -> None:
    """A wall before a camera that comes closer: sharp near by, blurred from afar. With the weights the near pictures decide."""
    scene = synthetic.Scene(
        [synthetic.Rectangle(7, lambda _: synthetic.at(z=-8.0), half=(20.0, 20.0))],
        camera=lambda t: synthetic.camera(synthetic.at(z=-float(t)), 64, 48),
    )
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", scene))
    gbuffer = shot.gbuffer()
    codes = analyse(shot, gbuffer).codes
    facts = gather_facts(codes, gbuffer, shot.cameras)
    frames = torch.linspace(0, 1, 4)[:, None, None, None].expand(4, 1, 48, 64).contiguous()
    seen_throughout = (facts.frames == 4)[codes.codes[3]] & (facts.length == 4)[codes.codes[3]]
    assert seen_throughout.any()
    got = Harmonizer(codes.codes, codes.count, weights=confidence(facts, codes)).global_mean(frames)
    near = got[3, 0][torch.from_numpy(seen_throughout)]
    weights = np.array([1 / 8, 1 / 7, 1 / 6, 1 / 5]) ** 2  # facing hardly changes: rays turn by little
    np.testing.assert_allclose(near, np.average([0, 1 / 3, 2 / 3, 1], weights=weights), atol=0.015)  # plain: 0.5


@pytest.mark.parametrize("device", DEVICES)
def test_weighted_feathering_is_its_formula(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, codes, count = random_clip(9, height=7, width=11, share=0.1)
    weights = random_weights(codes).astype(np.float64)
    weights[codes == codes[0, 0, 0]] = 1
    mean = literal_weighted_mean(frames, codes, weights)
    total, squares = (np.bincount(codes.ravel(), weights.ravel() ** power, count) for power in (1, 2))
    trust = (1 - squares / total**2)[codes]
    change = np.zeros((count, 3))
    for t, y, x in np.ndindex(*codes.shape):
        box = np.s_[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5]
        a = trust[t][box]
        d = (a * (mean - frames)[t][(slice(None), *box)]).mean(axis=(1, 2)) / (a.mean() + 0.05)
        change[codes[t, y, x]] += weights[t, y, x] * d / total[codes[t, y, x]]
    expected = mean + np.moveaxis(change[codes], -1, 1)
    for chunk in (2**20, 100):
        monkeypatch.setattr(harmonize, "CHUNK_PIXELS", chunk)
        got = Harmonizer(codes, count, device, weights).feathered_mean(torch.from_numpy(frames).to(device))
        np.testing.assert_allclose(got.cpu().numpy(), expected, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("way", ["global_mean", "feathered_mean", "keyed", "local"])
def test_a_gpu_gives_what_the_cpu_gives(way: str) -> None:
    frames, codes, count = random_clip(10, length=12, height=36, width=64, share=0.1)
    tensor, weights = torch.from_numpy(frames).float(), random_weights(codes)
    arguments = (1.5, 6) if way == "local" else ()
    cpu = getattr(Harmonizer(codes, count, "cpu", weights), way)(tensor, *arguments)
    gpu = getattr(Harmonizer(codes, count, "cuda", weights), way)(tensor.cuda(), *arguments)
    torch.testing.assert_close(gpu.cpu(), cpu, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (np.ones((1, 2, 3)), r"weights must have the shape of the codes, \(1, 2, 2\), not \(1, 2, 3\)"),
        (np.full((1, 2, 2), -1.0), "weights must be finite, and none below 0"),
        (np.full((1, 2, 2), np.nan), "weights must be finite, and none below 0"),
    ],
)
def test_weights_that_are_refused(weights: np.ndarray, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Harmonizer(np.zeros((1, 2, 2), np.int32), 1, weights=weights)


def test_the_kernel_is_equation_14() -> None:
    kernel = gaussian(1.0, 4)
    assert len(kernel) == 5
    assert sum(kernel) == pytest.approx(1)
    assert kernel == kernel[::-1]
    assert kernel[1] / kernel[2] == pytest.approx(np.exp(-0.5))
    assert gaussian(3.0, 0) == [1.0]


@pytest.mark.parametrize(("sigma", "width"), [(0.0, 4), (-1.0, 4), (float("nan"), 4), (1.0, 3), (1.0, -2)])
def test_kernels_that_are_refused(sigma: float, width: int) -> None:
    with pytest.raises(BadInput, match="sigma > 0 and an even width"):
        gaussian(sigma, width)


def test_codes_that_are_refused() -> None:
    with pytest.raises(BadInput, match="codes must lie in 0 to 3, but go from 0 to 4"):
        Harmonizer(np.arange(5).reshape(1, 1, 5), 4)
    with pytest.raises(BadInput, match="codes must have the shape"):
        Harmonizer(np.zeros((2, 2), np.int32), 1)
    with pytest.raises(ValueError, match="frames must be floats of shape"):
        Harmonizer(np.zeros((1, 2, 2), np.int32), 1).global_mean(torch.zeros(1, 3, 2, 3))

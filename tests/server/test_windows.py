"""Painting in windows: what a surface point looked like in one window it looks like in the next, and no seam shows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import synthetic
from coded_scenes import panning
from medm.correspondence import Codes, analyse
from medm.diffusion.models import Model
from medm.diffusion.noise import ClipNoise
from medm.diffusion.rendering import render_take
from medm.diffusion.sampling import Sampler, clip_noise
from medm.diffusion.windows import Carry, blend, windows
from medm.evaluate import read_take
from medm.settings import RenderSettings
from medm.shot import Shot


@pytest.mark.parametrize("length", [1, 8, 9, 23, 24, 100, 501])
@pytest.mark.parametrize("window", [None, 8, 12, 16, 40, 500])
def test_windows_cover_the_shot_overlap_and_are_no_longer_than_allowed(length, window):
    parts = windows(length, window)
    if window is None or length <= window:
        assert parts == [(0, length)]
        return
    assert parts[0][0] == 0 and parts[-1][1] == length
    assert all(first < last and last - first <= window for first, last in parts)
    common = [before[1] - after[0] for before, after in pairwise(parts)]
    assert min(common) >= min(8, window // 4)


def codes_of(frames: list[list[int]]) -> Codes:
    """One row of pixels a frame."""
    codes = np.array(frames, np.int32)[:, None, :]
    count = int(codes.max()) + 1
    return Codes(codes, count, np.zeros(count, np.int32), np.zeros((count, 2), np.float32))


def test_points_keep_their_colours_from_window_to_window():
    codes = codes_of([[0, 1], [0, 2], [2, 3], [3, 4], [1, 5]])
    shown = []
    carry = Carry(codes, [(0, 2), (1, 4), (3, 5)])
    for number, (first, last, own) in enumerate(carry):
        assert own.codes.max() == own.count - 1 and last - first == len(own.codes)
        whole = codes.codes[first:last].reshape(-1)
        values = torch.zeros(own.count, 1)
        values[torch.from_numpy(own.codes.reshape(-1)).long(), 0] = torch.from_numpy(whole + 10.0 * number).float()
        carry.settle("look", values)
        shown.append({int(code): float(values[local, 0]) for code, local in zip(whole, own.codes.reshape(-1), strict=True)})
        other = torch.full((own.count, 1), 7.0)
        carry.settle("another stage", other)
        assert (other == 7.0).all()
    assert shown == [
        {0: 0.0, 1: 1.0, 2: 2.0},
        {0: 0.0, 2: 2.0, 3: 13.0, 4: 14.0},
        {3: 13.0, 4: 14.0, 1: 1.0, 5: 25.0},  # 1 was not in the window between
    ]


def test_a_whole_shot_is_left_alone():
    codes = codes_of([[0, 1], [1, 2]])
    carry = Carry(codes, [(0, 2)])
    for _, _, own in carry:
        assert own is codes
        values = torch.rand(3, 3)
        before = values.clone()
        carry.settle("look", values)
        assert torch.equal(values, before)


@pytest.mark.parametrize("kind", ["code", "shared", "independent"])
def test_a_window_gets_the_noise_that_its_frames_have_in_the_shot(kind):
    codes = Codes(np.arange(6 * 64, dtype=np.int32).reshape(6, 8, 8) // 2, 192, np.zeros(192, np.int32), np.zeros((192, 2), np.float32))
    whole, some = (ClipNoise(kind, codes, 4, 4, 3, frames) for frames in (None, range(2, 5)))
    for _ in range(2):
        assert torch.equal(whole.draw()[2:5], some.draw())


def test_where_windows_overlap_their_pictures_are_blended():
    frames = np.zeros((4, 1, 1, 3), np.uint8)
    blend(frames, np.full((3, 1, 1, 3), 90, np.uint8), 0, 0)
    blend(frames, np.full((3, 1, 1, 3), 120, np.uint8), 1, 3)
    assert frames[:, 0, 0, 0].tolist() == [90, 100, 110, 120]


@pytest.fixture(scope="module")
def long_shot(tmp_path_factory) -> Shot:
    return Shot.open(synthetic.write_shot(tmp_path_factory.mktemp("shot") / "long", panning(2.0, 20, (96, 64))))


def jumps(frames: np.ndarray) -> np.ndarray:
    """Mean change between neighbouring frames of a wall that moves two pixels to the left."""
    moved = frames[1:, :, :-4].astype(np.float32) - frames[:-1, :, 2:-2]
    return np.abs(moved).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("kind", ["code", "independent"])
def test_a_window_is_painted_with_the_noise_that_its_frames_have_in_the_shot(long_shot, tmp_path, monkeypatch, kind):
    settings = RenderSettings(steps=2, window=8, noise=kind, seed=3, w=0.0)
    given: list[torch.Tensor] = []

    def note(self: Sampler, *_: object) -> torch.Tensor:
        given.append(self.clip.noise.draw())
        return given[-1]

    monkeypatch.setattr(Sampler, "sample", note)
    parts = render_take(long_shot, settings, tmp_path / "take")["windows"]
    whole = clip_noise(Model.load(settings), settings, analyse(long_shot, long_shot.gbuffer()).codes).draw()
    assert len(given) == len(parts) > 2
    for (first, last), noise in zip(parts, given, strict=True):
        assert torch.equal(noise, whole[first:last])


def test_no_seam_shows(long_shot, tmp_path, monkeypatch, one_thread):
    def take(name: str, window: int | None) -> np.ndarray:
        settings = RenderSettings(prompt="a porcelain sculpture", steps=4, window=window)
        document = render_take(long_shot, settings, tmp_path / name)
        assert document["window"] == window
        assert document["windows"] == [list(part) for part in windows(20, window)]
        return jumps(read_take(long_shot, tmp_path / name))

    whole, windowed = take("whole", None), take("windows", 8)
    assert windowed.max() < 1.5 * max(whole.max(), np.median(windowed))
    monkeypatch.setattr(Carry, "settle", lambda *_: None)
    assert take("apart", 8).max() > 1.5 * windowed.max(), "the test would see a seam"

"""Initial noise: unit variance and white within a frame, carried by the surfaces or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medm.correspondence import Codes
from medm.diffusion.noise import ClipNoise


def still_codes(length: int, height: int, width: int, shift: int = 0, repeat: int = 1) -> Codes:
    """Surfaces that move `shift` pixels to the left a frame; `repeat` neighbours share a code."""
    row = (np.arange(width)[None] + shift * np.arange(length)[:, None]) // repeat
    span = int(row.max()) + 1
    codes = (np.arange(height)[None, :, None] * span + row[:, None, :]).astype(np.int32)
    count = height * span
    return Codes(codes, count, np.zeros(count, np.int32), np.zeros((count, 2), np.float32))


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1])


@pytest.mark.parametrize("repeat", [1, 2, 3])
def test_code_noise_has_unit_variance_and_is_white_within_a_frame(repeat):
    noise = ClipNoise("code", still_codes(1, 256, 384, repeat=repeat), 4, 4, seed=1).draw()[0]
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)
    assert abs(float(noise.mean())) < 0.02
    assert abs(correlation(noise[:, 1:], noise[:, :-1])) < 0.03
    if repeat != 3:  # a code of three pixels lies across the border of two cells
        assert abs(correlation(noise[:, :, 1:], noise[:, :, :-1])) < 0.03
    assert abs(correlation(noise[0], noise[1])) < 0.05


def test_code_noise_moves_with_the_surface():
    noise = ClipNoise("code", still_codes(3, 64, 128, shift=4), 4, 4, seed=1).draw()
    assert torch.allclose(noise[1][:, :, :-1], noise[0][:, :, 1:], atol=1e-6)  # four pixels, one cell
    assert correlation(noise[1][:, :, :-1], noise[0][:, :, :-1]) < 0.1


def test_half_a_cell_keeps_half_of_the_noise():
    noise = ClipNoise("code", still_codes(2, 128, 256, shift=2), 4, 4, seed=1).draw()
    assert correlation(noise[0], noise[1]) == pytest.approx(0.5, abs=0.05)


def test_shared_and_independent_noise():
    codes = still_codes(3, 64, 64)
    shared, independent = (ClipNoise(kind, codes, 4, 8, seed=2).draw() for kind in ("shared", "independent"))
    assert shared.shape == independent.shape == (3, 4, 8, 8)
    assert torch.equal(shared[0], shared[2])
    assert abs(correlation(independent[0], independent[1])) < 0.2


@pytest.mark.parametrize("kind", ["code", "shared", "independent"])
def test_a_seed_means_the_same_noise(kind):
    codes = still_codes(2, 32, 32)
    first, again, other = (ClipNoise(kind, codes, 4, 4, seed).draw() for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

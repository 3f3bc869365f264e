"""Initial noise of a clip: fresh for every frame, one image for all, or carried by the surfaces.

Always drawn on the CPU, so that a seed means the same noise on every device.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medm.correspondence import Codes


def initial_noise(kind: Literal["code", "shared", "independent"], codes: Codes, channels: int, scale: int, seed: int) -> Tensor:
    """(T, channels, H / scale, W / scale) float32, unit variance, from `seed`.

    Args:
        kind: `independent` frames; `shared`, the same image in every frame (what the paper's authors do); `code`, see `code_noise`.
        codes: the shot's Flow Coding, (T, H, W).
        channels: of the latents.
        scale: pixels a side of a latent cell.
        seed: of the generator.
    """
    length, height, width = codes.codes.shape
    generator = torch.Generator().manual_seed(seed)
    if kind == "code":
        return code_noise(codes, channels, scale, generator)
    frames = length if kind == "independent" else 1
    noise = torch.randn(frames, channels, height // scale, width // scale, generator=generator)
    return noise.expand(length, -1, -1, -1).clone()


def code_noise(codes: Codes, channels: int, scale: int, generator: torch.Generator) -> Tensor:
    """Noise that sticks to the surfaces: every code draws one normal sample, and a latent cell sums those of its pixels.

    The sum over a cell's `scale` squared pixels is divided by sqrt(sum over its codes of n^2), n = pixels of the code in the cell, so
    that each cell has unit variance even where a code fills several of its pixels. Cells that share no code are independent.
    """
    length, height, width = codes.codes.shape
    rows, columns = height // scale, width // scale
    samples = torch.randn(codes.count, channels, generator=generator)
    result = torch.empty(length, channels, rows, columns)
    for t in range(length):
        cells = codes.codes[t].reshape(rows, scale, columns, scale).transpose(0, 2, 1, 3).reshape(rows * columns, scale * scale)
        total = samples[torch.from_numpy(cells.reshape(-1).astype(np.int64))].reshape(*cells.shape, channels).sum(1)
        total /= torch.from_numpy(np.sqrt(_equal_pairs(cells)))[:, None]
        result[t] = total.T.reshape(channels, rows, columns)
    return result


def _equal_pairs(cells: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """For each row, the sum over its distinct values of their squared number. (N, K) -> (N,) float32."""
    ordered = np.sort(cells, axis=1)
    places = np.arange(cells.shape[1])
    starts = np.ones(cells.shape, bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    # the place of an entry within its run, from 0: the sum of 2 place + 1 over a run of n is n^2
    within = places - np.maximum.accumulate(np.where(starts, places, 0), axis=1)
    return np.asarray((2 * within + 1).sum(axis=1), np.float32)

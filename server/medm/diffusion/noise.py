"""Noise for a clip: fresh for every frame, one image for all, or carried by the surfaces.

To start from, and for samplers that add some on the way.

Always drawn on the CPU, so that a seed means the same noise on every device.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medm.correspondence import Codes


class ClipNoise:
    """Draws noise for all frames of a clip, again and again; a seed always gives the same row of draws.

    Args:
        kind: `independent` frames; `shared`, the same image in every frame (what the paper's authors do); `code`, see `code_noise`.
        codes: the shot's Flow Coding, (T, H, W).
        channels: of the latents.
        scale: pixels a side of a latent cell.
        seed: of the generator.
        frames: that are wanted; None: all. They get the noise that they have among all.
    """

    def __init__(
        self,
        kind: Literal["code", "shared", "independent"],
        codes: Codes,
        channels: int,
        scale: int,
        seed: int,
        frames: range | None = None,
    ) -> None:
        self._kind, self._codes, self._channels, self._scale = kind, codes, channels, scale
        self._frames = range(len(codes.codes)) if frames is None else frames
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self) -> Tensor:
        """(T, channels, H / scale, W / scale) float32 on the CPU, mean 0, variance 1."""
        if self._kind == "code":
            return code_noise(self._codes, self._channels, self._scale, self._generator, self._frames)
        length, height, width = self._codes.codes.shape
        frames = length if self._kind == "independent" else 1
        noise = torch.randn(frames, self._channels, height // self._scale, width // self._scale, generator=self._generator)
        return noise.expand(length, -1, -1, -1)[self._frames.start : self._frames.stop].clone()


def code_noise(codes: Codes, channels: int, scale: int, generator: torch.Generator, frames: range | None = None) -> Tensor:
    """Noise that sticks to the surfaces: every code draws one normal sample, and a latent cell sums those of its pixels.

    The sum over a cell's `scale` squared pixels is divided by sqrt(sum over its codes of n^2), n = pixels of the code in the cell, so
    that each cell has unit variance even where a code fills several of its pixels. Cells that share no code are independent.
    """
    frames = range(len(codes.codes)) if frames is None else frames
    _, height, width = codes.codes.shape
    rows, columns = height // scale, width // scale
    samples = torch.randn(codes.count, channels, generator=generator)
    result = torch.empty(len(frames), channels, rows, columns)
    for place, t in enumerate(frames):
        cells = codes.codes[t].reshape(rows, scale, columns, scale).transpose(0, 2, 1, 3).reshape(rows * columns, scale * scale)
        places = torch.from_numpy(cells.reshape(-1).astype(np.int64))
        total = samples.index_select(0, places).reshape(*cells.shape, channels).sum(1)
        total /= torch.from_numpy(np.sqrt(_equal_pairs(cells)))[:, None]
        result[place] = total.T.reshape(channels, rows, columns)
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

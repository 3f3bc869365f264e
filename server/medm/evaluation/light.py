"""How much of a slow change of light a clip keeps. Local harmonisation is there to keep it; global harmonisation washes it out.

The shot is cut into stretches of about `STRETCH` frames. Within a stretch the luminance of every code that is seen in at least
`AT_LEAST` frames is fitted by a straight line over time: its slope is the slow change, free of flicker, which leaves no slope. Slopes
are averaged over patches of `PATCH` x `PATCH` pixels of the codes' birth places, weighted by how well each is known: texture that moves
through the pixels of a code by parts of a pixel leaves random slopes, which cancel, while light changes alike within a patch. Then

    kept = sum(w * a * b) / sum(w * b * b)

over the patches whose luminance changes in the beauty by `CHANGE` or more, where b is the beauty's slope, a the clip's, and
w = sum over pixels of (t - mean t)^2. It is the regression coefficient of the clip's slow change on the beauty's: 1 if all of it is
there, 0 if none is, above 1 if it is exaggerated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from medm.correspondence import Codes
from medm.evaluation import LUMINANCE, Frames, unit
from medm.shot import Float64

STRETCH = 24
"""Frames within which a change counts as slow: a second of film."""
AT_LEAST = 8
"""Frames that a code must be seen in within a stretch to have a slope."""
PATCH = 16
"""Pixels."""
CHANGE = 0.02
"""Of luminance, 0 to 1, over a code's time within a stretch: five steps of 8 bits; less is no change of light."""
_ENOUGH = 0.01
"""Share of the followed pixels that must see the light change."""


class SlowLight:
    """The slow change of light that the beauty shows, to compare clips with.

    Args:
        beauty: (T, H, W, 3).
        codes: the shot's codes.
    """

    def __init__(self, beauty: Frames, codes: Codes) -> None:
        self._codes = codes
        self._stretches = _stretches(len(beauty))
        self._lines = [_Lines(codes, stretch) for stretch in self._stretches]
        self._slopes = [lines.slopes(beauty[stretch]) for lines, stretch in zip(self._lines, self._stretches, strict=True)]

    def kept(self, frames: Frames) -> float:
        """The share of the change that a clip (T, H, W, 3) keeps; NaN where the beauty shows no slow change of light."""
        both, own, lit, followed = 0.0, 0.0, 0.0, 0.0
        for lines, stretch, beauty in zip(self._lines, self._stretches, self._slopes, strict=True):
            changes = np.abs(beauty) * lines.duration >= CHANGE
            slopes = lines.slopes(frames[stretch])
            both += float((lines.weight * slopes * beauty)[changes].sum())
            own += float((lines.weight * beauty * beauty)[changes].sum())
            lit += float(lines.pixels[changes].sum())
            followed += float(lines.pixels.sum())
        return both / own if followed and lit >= _ENOUGH * followed else math.nan


class _Lines:
    """Straight lines through the luminance of the codes of one stretch, and their means over patches.

    Attributes:
        weight: (P,) of each patch: the sum of (t - mean t)^2 over its pixels.
        pixels: (P,) pixels of each patch whose codes have a slope.
        duration: (P,) frames, from the first to the last that its codes are seen in, weighted mean.
    """

    def __init__(self, codes: Codes, stretch: slice) -> None:
        self._codes = codes.codes[stretch]
        self._total = codes.count
        present = np.zeros(codes.count, np.bool_)
        present[self._codes.ravel()] = True
        self._present = np.flatnonzero(present)
        count = len(self._present)
        frames, size = np.zeros(count, np.int32), np.zeros(count)
        first, last = np.full(count, np.inf), np.full(count, -np.inf)
        sum_t, sum_tt = np.zeros(count), np.zeros(count)
        for t, row in enumerate(self._rows()):
            here = np.bincount(row, minlength=count)
            seen = here > 0
            frames += seen
            size += here
            sum_t += here * t
            sum_tt += here * t * t
            np.copyto(first, t, where=seen & (first > t))
            np.copyto(last, t, where=seen)
        self._mean_t = sum_t / size
        spread = sum_tt - size * self._mean_t**2
        self._fitted = np.flatnonzero((frames >= AT_LEAST) & (spread > 0))
        self._patch = self._patches(codes)
        self._patch_count = int(self._patch.max(initial=-1)) + 1
        self.weight = self._by_patch(spread[self._fitted])
        self.pixels = self._by_patch(size[self._fitted])
        life = (last - first)[self._fitted]
        self.duration = self._by_patch(spread[self._fitted] * life) / self.weight

    def slopes(self, frames: Frames) -> Float64:
        """(P,) mean slope of the luminance in each patch, a frame."""
        # With weights (t - mean t)^2 the mean of the codes' slopes is the ratio of these sums: a code's own spread cancels.
        covariance = np.zeros(len(self._present))
        for t, (row, frame) in enumerate(zip(self._rows(), frames, strict=True)):
            luminance = (unit(frame) @ LUMINANCE).ravel().astype(np.float64)
            covariance += np.bincount(row, weights=luminance * (t - self._mean_t[row]), minlength=len(covariance))
        return self._by_patch(covariance[self._fitted]) / self.weight

    def _rows(self) -> Iterator[npt.NDArray[np.int32]]:
        """Frame by frame the codes (H * W,), counted from 0 among those of the stretch: of a long shot a stretch shows few."""
        places = np.zeros(self._total, np.int32)
        places[self._present] = np.arange(len(self._present), dtype=np.int32)
        for frame in self._codes:
            yield places[frame.ravel()]

    def _patches(self, codes: Codes) -> npt.NDArray[np.intp]:
        """Which patch each fitted code belongs to, counted from 0: codes of one patch were born in one frame, near to each other."""
        fitted = self._present[self._fitted]
        x, y = (codes.birth_xy[fitted] // PATCH).astype(np.int64).T
        key = (codes.birth_frame[fitted].astype(np.int64) << 32) + ((y + 1) << 16) + (x + 1)
        return np.unique(key, return_inverse=True)[1]

    def _by_patch(self, values: Float64) -> Float64:
        return np.bincount(self._patch, weights=values, minlength=self._patch_count).astype(np.float64)


def _stretches(length: int) -> list[slice]:
    """The shot in stretches of about STRETCH frames."""
    borders = np.linspace(0, length, max(1, round(length / STRETCH)) + 1).round().astype(int)
    return [slice(int(first), int(last)) for first, last in pairwise(borders)]

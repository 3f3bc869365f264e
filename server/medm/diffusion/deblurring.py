"""Gives painted frames back the sharpness that making them agree took.

A mean over frames is blurred: its points fell on other places within a pixel (variance 1/12 square pixels along each axis), and it is shown
at whole pixels (another 1/12). Where frames had not quite agreed before, it is blurred by more, and how much depends on the look: on gold,
whose highlights lie elsewhere in every frame, three times as much as on neon.

But the first key frame of a clip is as sharp as if it had been painted alone, since in every guided step it is its own key. So it says how
sharp the others should be: the gradient of every surface point there is compared with the gradients of the same points in all frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medm.evaluation import LUMINANCE
from medm.harmonize import Harmonizer

LEAST = 1 / 6
"""Square pixels: what taking up and showing at whole pixels blurs at least."""
MOST = 0.5
"""Square pixels: beyond it the second order is no longer enough, and edges would ring."""
_FRAMES = 12
"""Frames, spread over the clip, whose gradients are taken."""
_TRIED = (LEAST, 1 / 4, 1 / 3, 5 / 12, MOST)
"""Variances at which sharpness is measured; between them it is taken for straight."""


@dataclass(frozen=True)
class KeyDetail:
    """How sharp the surface points are that the first key frame is the key of.

    Attributes:
        gradient: (count,) float32, luminance a pixel, of the codes; NaN where the key frame is not their key, or has an outline there.
    """

    gradient: Tensor


def key_detail(frames: Tensor, harmonizer: Harmonizer, object_id: Tensor) -> KeyDetail:
    """What the first key frame shows, to be taken before the frames (T, 3, H, W), -1 to 1, are harmonised for the last time."""
    time, pixels, codes = harmonizer.first_key()
    gradient = torch.full((harmonizer.count,), torch.nan, device=frames.device)
    gradient[codes] = _gradient(frames[time], object_id[time]).reshape(-1)[pixels]
    return KeyDetail(gradient)


def lost(frames: Tensor, keys: KeyDetail, harmonizer: Harmonizer, object_id: Tensor) -> float:
    """The variance, `LEAST` to `MOST`, with which `deblurred` makes the points of the first key frame as sharp elsewhere as they are there.

    Args:
        frames: (T, 3, H, W), -1 to 1, of any floating type, harmonised.
        keys: of the frames before.
        harmonizer: of the clip's codes.
        object_id: (T, H, W).
    """
    wanted, found, pixels = 0.0, [0.0] * len(_TRIED), 0
    length = len(frames)
    for t in sorted({round(place * (length - 1) / (_FRAMES - 1)) for place in range(_FRAMES)}):
        target = keys.gradient[harmonizer.codes_of(t)]
        for place, variance in enumerate(_TRIED):
            gradient = _gradient(deblurred(frames[t : t + 1], object_id[t : t + 1], variance)[0], object_id[t])
            shared = ~(gradient.isnan() | target.isnan())
            found[place] += float(gradient[shared].sum(dtype=torch.float64))
        wanted += float(target[shared].sum(dtype=torch.float64))
        pixels += int(shared.sum())
    if not pixels or wanted <= found[0]:
        return LEAST
    for place in range(1, len(_TRIED)):
        if wanted <= found[place]:
            share = (wanted - found[place - 1]) / (found[place] - found[place - 1])
            return _TRIED[place - 1] + share * (_TRIED[place] - _TRIED[place - 1])
    return MOST


def deblurred(frames: Tensor, object_id: Tensor, variance: float) -> Tensor:
    """X - variance / 2 Laplace(X): undoes a blur of that variance (square pixels, along each axis) to second order.

    A neighbour that shows another object counts as the pixel itself, so that outlines get no halo.

    Args:
        frames: (T, C, H, W) of any floating type.
        object_id: (T, H, W).
        variance: at least 0; up to about `MOST` the result stays free of ringing.
    """
    result = torch.empty_like(frames)
    for t in range(len(frames)):
        picture, ids = frames[t].float(), object_id[t]
        laplacian = torch.zeros_like(picture)
        for axis in (0, 1):
            size = ids.shape[axis]
            low, high = ids.narrow(axis, 0, size - 1), ids.narrow(axis, 1, size - 1)
            step = picture.narrow(axis + 1, 1, size - 1) - picture.narrow(axis + 1, 0, size - 1)
            step = step * (low == high)
            laplacian.narrow(axis + 1, 0, size - 1).add_(step)
            laplacian.narrow(axis + 1, 1, size - 1).sub_(step)
        result[t] = (picture - 0.5 * variance * laplacian).to(frames.dtype)
    return result


def _gradient(picture: Tensor, object_id: Tensor) -> Tensor:
    """(H, W) float32: magnitude of the luminance's differences to the right and the lower neighbour, as in `medm.evaluation.detail`.

    NaN where one of the three pixels shows another object, and in the last row and column.
    """
    luminance = torch.einsum("chw,c->hw", picture.float().clamp(-1.0, 1.0), torch.from_numpy(LUMINANCE).to(picture.device))
    gradient = torch.full_like(luminance, torch.nan)
    here = luminance[:-1, :-1]
    inside = (object_id[:-1, :-1] == object_id[:-1, 1:]) & (object_id[:-1, :-1] == object_id[1:, :-1])
    gradient[:-1, :-1] = torch.where(inside, torch.hypot(luminance[:-1, 1:] - here, luminance[1:, :-1] - here), torch.nan)
    return gradient

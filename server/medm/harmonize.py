"""Harmonisation: making all pixels of a code agree, wholly (global, or by a key frame) or with their neighbours in time (local).

For the guidance inside the sampler and for the decoded result. Knows codes and torch, nothing of diffusion. The same on CPU and GPU within
rounding. Memory: 4 bytes a pixel for codes, 4 more for weights, 4 more once `local` is used (16 while it sorts, once), and some numbers a
code, of which there are never more than pixels. While it works the global way needs the result and the means, the local way two copies of
the frames and 10 bytes a pixel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medm.errors import BadInput

CHUNK_PIXELS = 2**20
"""Pixels worked on at once: bounds the float32 copies that sums need of half-precision frames."""

_PRIOR = 0.05
"""Confidence that has to stand around a pixel before its change carries much weight: lets it fade out inside of large fresh regions."""

RIDGE = 2.0
"""Of lines in `Harmonizer.local`, in square frames: the most with which no steady change of light is late by more than half a frame.

At the end of a row the mean of n frames is (n - 1) / 2 frames late, of which a line whose slope is held back towards none makes up for the
share V / (V + RIDGE), where V = n (n^2 - 1) / 12 if all weigh the same. In rows of 3, which are late the most, that leaves half a frame.
Where the pixels around see the light change alike, towards whose slope it is held, the share that is left is squared.
"""


Settle = Callable[[Tensor], None]
"""Is given the value of every code, (count, C), and may change it in place."""


class Harmonizer:
    """Mixes the pixels of every code of one shot. Made once a shot, used at every step of the sampler.

    Args:
        codes: (T, H, W) integers, 0 <= code < count.
        count: number of codes.
        device: where the work is done; frames must be there.
        weights: (T, H, W), at least 0 and finite: how much each pixel counts in the means of its code, beside the code's other pixels
            (`medm.correspondence.facts.confidence`). Only the ratios within a code matter; where all are 0 all count the same.
            None: all count the same everywhere.
        clear: (T, H, W) bool: pixels that are rather keys than others (`medm.correspondence.facts.clear_views`). None: all alike.

    Raises:
        BadInput: codes or weights out of range.
    """

    def __init__(
        self,
        codes: np.ndarray[Any, Any] | Tensor,
        count: int,
        device: str | torch.device = "cpu",
        weights: np.ndarray[Any, Any] | Tensor | None = None,
        clear: np.ndarray[Any, Any] | Tensor | None = None,
    ) -> None:
        tensor = torch.as_tensor(codes)
        if tensor.ndim != 3 or tensor.numel() == 0:
            raise BadInput(f"codes must have the shape (T, H, W), not {tuple(tensor.shape)}")
        if int(tensor.min()) < 0 or int(tensor.max()) >= count:
            raise BadInput(f"codes must lie in 0 to {count - 1}, but go from {int(tensor.min())} to {int(tensor.max())}")
        self.shape = tuple(tensor.shape)
        self.count = count
        self.device = torch.device(device)
        self._codes = tensor.reshape(-1).to(self.device, torch.int32)
        self._sizes = torch.bincount(self._codes, minlength=count)
        self._order: Tensor | None = None
        self._keys: tuple[Tensor, Tensor] | None = None
        self._clear = None if clear is None else torch.as_tensor(clear).to(self.device)
        self._weights: Tensor | None = None
        self._totals = self._sizes.clamp(min=1).double()
        self._confidence = 1 - 1 / self._totals
        if weights is not None:
            self._weigh(torch.as_tensor(weights))

    def _weigh(self, weights: Tensor) -> None:
        """Takes the weights, divided by the largest of their code: equal ones become 1, whose mean is the plain one to the last bit."""
        if tuple(weights.shape) != self.shape:
            raise BadInput(f"weights must have the shape of the codes, {self.shape}, not {tuple(weights.shape)}")
        if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
            raise BadInput("weights must be finite, and none below 0")
        relative = weights.reshape(-1).to(self.device, torch.float32, copy=True)
        largest = torch.zeros(self.count, device=self.device)
        for pixels in self._pixel_chunks():
            largest.scatter_reduce_(0, self._codes[pixels].long(), relative[pixels], "amax")
        totals, squares = torch.zeros(2, self.count, dtype=torch.float64, device=self.device)
        for pixels in self._pixel_chunks():
            codes = self._codes[pixels]
            most = largest[codes]
            relative[pixels] = torch.where(most > 0, relative[pixels] / most, 1)
            totals.index_add_(0, codes, relative[pixels].double())
            squares.index_add_(0, codes, relative[pixels].double().square())
        self._weights = relative
        self._totals = totals.clamp(min=1)  # a code's own weights add up to 1 at least; the others have no pixels
        self._confidence = 1 - squares / self._totals.square()

    def global_mean(self, frames: Tensor, settle: Settle | None = None) -> Tensor:
        """Every pixel becomes the mean of its code (equations 1 to 3, listing 1), with the weights if there are any:

            R_c = sum_p w(p) X(p) / sum_p w(p)      over the pixels p of code c

        Args:
            frames: (T, C, H, W) of any floating type. Sums are taken in float32 (float64 for float64).
            settle: may change the codes' values, (count, C), before they are shown.

        Returns:
            The same shape and type. Pixels that have their code to themselves are unchanged, exactly.
        """
        self._check(frames)
        means = self._means(frames)
        if settle is not None:
            settle(means)
        return self._spread(means, frames)

    def keyed(self, frames: Tensor) -> Tensor:
        """Every pixel becomes what the key frame of its code shows: one picture's detail, where a mean of several would blur it.

        Frames are keys in the order of `key_order`; a code takes the first of them that shows it, clearly if it was told what is clear, and
        where that shows it in several pixels, the first of those. So large regions come from one picture. Without `clear` they would not
        where a surface comes closer: of the pixels there some have old codes, with a key from far away, and those between them new ones.
        The weights are not used here.

        Args:
            frames: (T, C, H, W) of any floating type.

        Returns:
            The same shape and type.
        """
        self._check(frames)
        repository = self.keyed_repository(frames.shape[1], frames.dtype)
        for first, last in self._chunks():
            repository.add(frames[first:last], first)
        result = torch.empty_like(frames, memory_format=torch.contiguous_format)
        for first, last in self._chunks():
            result[first:last] = repository.read(first, last)
        return result

    def mean_repository(self, channels: int) -> Repository:
        """The means of `global_mean`, to be filled a few frames at a time."""
        return _Means(self, channels)

    def keyed_repository(self, channels: int, dtype: torch.dtype = torch.float32) -> Repository:
        """What `keyed` makes, to be filled a few frames at a time."""
        return _Keys(self, channels, dtype, *self._key_pixels())

    def first_key(self) -> tuple[int, Tensor, Tensor]:
        """The first frame that is a key; from which of its pixels, counted row by row, codes take their key, and these codes (int64)."""
        time, size = key_order(self.shape[0])[0], self.shape[1] * self.shape[2]
        pixels, codes = self._key_pixels()
        here = (pixels >= time * size) & (pixels < (time + 1) * size)
        return time, pixels[here] - time * size, codes[here]

    def codes_of(self, time: int) -> Tensor:
        """(H, W), the codes of one frame."""
        return self._frame_codes(time, time + 1).reshape(self.shape[1:])

    def _key_pixels(self) -> tuple[Tensor, Tensor]:
        if self._keys is None:
            self._keys = _key_pixels(self._codes.reshape(self.shape), self.count, self._clear)
            self._clear = None
        return self._keys

    def feathered_mean(self, frames: Tensor, settle: Settle | None = None) -> Tensor:
        """`global_mean`, with every code brought in line with what surrounds it.

        A mean keeps the whims of the pictures it was taken over. Neighbouring codes that were seen in other pictures kept other whims,
        and so a fresh code among old ones shows as a speckle, and a region that has just come into view as a patch. But flicker is
        smooth in space: what the mean changed around a pixel, in its own frame, says by how much that frame is off there. So each
        code gets, on top of its mean, the mean of that change over its pixels p:

            R_c + mean_p d(p),  d = box(a (R - X)) / (box(a) + 0.05)

        with R the means and X the frames, box the mean over 9x9 pixels of one frame, and a = 1 - 1/n the confidence in a code of n pixels.
        Where all codes around were seen in the same frames d averages out to nothing. All pixels of a code stay equal. With weights
        the mean of d is weighted as R is, and n is what the weights leave of it: (sum w)^2 / sum w^2.

        Args:
            frames: (T, C, H, W) of any floating type. Sums are taken in float32 (float64 for float64).
            settle: may change the codes' values, (count, C), before they are shown, and is asked before they are feathered too.

        Returns:
            The same shape and type.
        """
        self._check(frames)
        means = self._means(frames)
        if settle is not None:
            settle(means)
        confidence = self._confidence.to(means.dtype)
        change = torch.zeros_like(means)
        for first, last in self._chunks():
            codes = self._frame_codes(first, last)
            trust = self._frames(confidence[codes][:, None], last - first)
            trusted = trust * (self._frames(means.index_select(0, codes), last - first) - frames[first:last])
            change.index_add_(0, codes, self._weighted(_rows(_box(trusted) / (_box(trust) + _PRIOR)), first, last))
        means.add_(change.div_(self._totals.to(means.dtype)[:, None]))
        if settle is not None:
            settle(means)
        return self._spread(means, frames)

    def local(self, frames: Tensor, sigma: float, width: int, ends: Literal["line", "reflect"] = "line") -> Tensor:
        """Every pixel becomes a Gaussian mean of its code's neighbours in time.

        `reflect` is the paper's (equations 12 to 14). A code's pixels stand in one row: by time, and row-major within a frame that has
        several of them. The row is padded by reflection and convolved with K(x) ~ exp(-((x - l/2) / sigma)^2 / 2), x = 0 .. l, normalised
        to 1. So the width l of equation 14 makes **l + 1 taps**, l/2 to either side; the paper states no l. Reflection does not repeat the
        end (d c b [a b c d] c b a, as in PyTorch); where a row is shorter than the padding it goes on to and fro as often as is needed
        (`numpy.pad(mode="reflect")`), which PyTorch refuses to do. Distances are places in the row, whatever the time between them.

        Reflection makes every change of light come to rest at both ends of a row, and most rows are not much longer than the kernel. `line`
        is there to keep slow changes: a straight line is fitted to the neighbours, with the weights of the Gaussian over their distance in
        time, and read at the pixel itself. Where there are as many before as after, that is their Gaussian mean. Neighbours are at most l/2
        places and l/2 frames away: what was seen before a surface was long hidden has no say in how it looks now. A line through few
        pixels would follow their flicker, so its slope b is held back towards the slope c that the pixels around it have: light changes
        alike within a small region, and the grain that moves through a pixel does not. The line minimises

            S(b) + RIDGE (b - c)^2,     S(b) = sum_p K(t_p) (X(p) - a - b (t_p - t))^2,     t = sum K t_p / sum K,     K(own frame) = 1

        over the neighbours p in frames t_p, and c minimises the mean of S(c) over 9x9 pixels of the frame, plus RIDGE c^2. A take is
        harmonised at every guided step and in the end, and what lines are late by adds up: with c = 0 four times lose 4 % of a change over
        24 frames, with this c less than 1 %. A steady change of light is nowhere late by more than half a frame.

        The weights are not used here.

        Args:
            frames: (T, C, H, W) of any floating type. Sums are taken in float32 (float64 for float64).
            sigma: standard deviation, in frames (reflect: in places of the row); more than 0.
            width: l, even, at least 0.
            ends: what happens where a row ends.

        Returns:
            The same shape and type. Pixels that have their code to themselves are unchanged, exactly.

        Raises:
            BadInput: sigma or width out of range.
        """
        self._check(frames)
        kernel = gaussian(sigma, width)
        if self._order is None:
            self._order = torch.sort(self._codes, stable=True).indices.to(torch.int32)
        in_rows = _rows(frames).index_select(0, self._order)  # all pixels, code by code and by time
        result = torch.empty_like(in_rows)
        lines = None if ends == "reflect" else self._no_lines(frames)
        for pixels in self._pixel_chunks():
            where = self._order[pixels]
            if lines is None:
                result[where] = self._reflected(in_rows, pixels, kernel).to(frames.dtype)
            else:
                values, sums = self._on_lines(in_rows, pixels, kernel)
                result[where], lines[where] = values.to(frames.dtype), sums.to(lines.dtype)
        del in_rows  # before the pixels are laid out as frames again: at no time are there more than two copies
        if lines is not None:
            self._hold(result, lines)
        return self._frames(result, self.shape[0])

    def _no_lines(self, frames: Tensor) -> Tensor:
        """Room for what `_on_lines` tells of all pixels: in half precision, which for a change that is to be small is enough."""
        dtype = torch.float64 if frames.dtype == torch.float64 else torch.float16
        return torch.empty(len(self._codes), frames.shape[1] + 2, dtype=dtype, device=self.device)

    def _hold(self, rows: Tensor, lines: Tensor) -> None:
        """Changes pixels (pixels, C), whose lines were held back towards no slope, to those held towards the slope around them."""
        pixels = self.shape[1] * self.shape[2]
        for first, last in self._chunks():
            here = slice(first * pixels, last * pixels)
            sums = self._frames(lines[here].to(_sum_type(rows.dtype)), last - first)
            around = _box(sums[:, :-1])
            covariance, spread = around[:, :-1], around[:, -1:]
            late, own = sums[:, -1:], sums[:, -2:-1]
            change = late * (RIDGE / (own + RIDGE)) * (covariance / (spread + RIDGE))
            rows[here] = (rows[here] - _rows(change)).to(rows.dtype)

    def _reflected(self, in_rows: Tensor, pixels: slice, kernel: list[float]) -> Tensor:
        """Some pixels of the rows, convolved with the kernel, the rows continued by reflection."""
        assert self._order is not None
        code = self._codes[self._order[pixels]]
        place = torch.arange(pixels.start, pixels.stop, device=self.device)
        size = self._sizes[code]
        start = (self._sizes.cumsum(0) - self._sizes)[code]
        total = torch.zeros(len(place), in_rows.shape[1], dtype=_sum_type(in_rows.dtype), device=self.device)
        for tap, weight in enumerate(kernel):
            reflected = _reflect(place - start + (tap - len(kernel) // 2), size)
            total.add_(in_rows.index_select(0, start + reflected).to(total.dtype), alpha=weight)
        return torch.where((size == 1)[:, None], in_rows[pixels].to(total.dtype), total)

    def _on_lines(self, in_rows: Tensor, pixels: slice, kernel: list[float]) -> tuple[Tensor, Tensor]:
        """Some pixels of the rows, read from the lines through their neighbours, whose slopes are held back towards none.

        And (pixels, C + 2): the neighbours' covariance with time and their spread in time, which together are the slope, and by how many
        frames they are later than the pixel in the mean.
        """
        assert self._order is not None
        dtype, half = _sum_type(in_rows.dtype), len(kernel) // 2
        # by distance in frames; 1 for none, so that a pixel without neighbours is what it was, to the last bit
        weights = torch.tensor(
            [*(kernel[half + distance] / kernel[half] for distance in range(half + 1)), 0.0], dtype=dtype, device=self.device
        )
        near = slice(max(pixels.start - half, 0), min(pixels.stop + half, len(in_rows)))
        order = self._order[near]
        codes, times = self._codes[order], order // (self.shape[1] * self.shape[2])
        mass, first, second = torch.zeros(3, pixels.stop - pixels.start, dtype=dtype, device=self.device)
        total, moment = torch.zeros(2, len(mass), in_rows.shape[1], dtype=dtype, device=self.device)
        for away in range(-half, half + 1):
            # the pixels of this chunk that have a place so far away in it, and those there
            there = slice(max(pixels.start + away, near.start), min(pixels.stop + away, near.stop))
            if there.start >= there.stop:
                continue
            here = slice(there.start - away - pixels.start, there.stop - away - pixels.start)
            own = slice(there.start - away - near.start, there.stop - away - near.start)
            other = slice(there.start - near.start, there.stop - near.start)
            distance = times[other] - times[own]
            weight = weights[distance.abs().clamp(max=half + 1)] * (codes[other] == codes[own])
            moving = weight * distance
            mass[here] += weight
            first[here] += moving
            second[here] += moving * distance
            values = in_rows[there].to(dtype)
            total[here].addcmul_(values, weight[:, None])
            moment[here].addcmul_(values, moving[:, None])
        middle = first / mass
        mean = total / mass[:, None]
        spread = second - first * middle
        covariance = moment - first[:, None] * mean
        values = mean - (middle / (spread + RIDGE))[:, None] * covariance
        return values, torch.cat([covariance, spread[:, None], middle[:, None]], dim=1)

    def _means(self, frames: Tensor) -> Tensor:
        """(count, C), the mean of every code, in the type that sums are taken in."""
        repository = _Means(self, frames.shape[1], _sum_type(frames.dtype))
        for first, last in self._chunks():
            repository.add(frames[first:last], first)
        return repository.values()

    def _weighted(self, rows: Tensor, first: int, last: int) -> Tensor:
        """The rows (pixels, C) of frames `first` to `last`, times their weights."""
        if self._weights is None:
            return rows
        pixels = self.shape[1] * self.shape[2]
        return rows * self._weights[first * pixels : last * pixels, None]

    def _spread(self, values: Tensor, frames: Tensor) -> Tensor:
        """Values (count, C) written to the pixels of their codes, in the shape and type of `frames`."""
        result = torch.empty_like(frames, memory_format=torch.contiguous_format)
        for first, last in self._chunks():
            result[first:last] = self._frames(values.index_select(0, self._frame_codes(first, last)), last - first)
        return result

    def _check(self, frames: Tensor) -> None:
        length, height, width = self.shape
        if frames.ndim != 4 or (frames.shape[0], *frames.shape[2:]) != self.shape or not frames.is_floating_point():
            raise ValueError(
                f"frames must be floats of shape ({length}, C, {height}, {width}), not {frames.dtype} of {tuple(frames.shape)}"
            )

    def _chunks(self) -> list[tuple[int, int]]:
        length, height, width = self.shape
        step = max(1, CHUNK_PIXELS // (height * width))
        return [(first, min(first + step, length)) for first in range(0, length, step)]

    def _pixel_chunks(self) -> list[slice]:
        pixels = len(self._codes)
        return [slice(first, min(first + CHUNK_PIXELS, pixels)) for first in range(0, pixels, CHUNK_PIXELS)]

    def _frame_codes(self, first: int, last: int) -> Tensor:
        pixels = self.shape[1] * self.shape[2]
        return self._codes[first * pixels : last * pixels]

    def _frames(self, rows: Tensor, length: int) -> Tensor:
        return rows.reshape(length, self.shape[1], self.shape[2], -1).permute(0, 3, 1, 2).contiguous()


class Repository(ABC):
    """One value a code, as the paper calls it: filled with all frames of the shot, a few at a time and in order, and read afterwards."""

    def __init__(self, harmonizer: Harmonizer) -> None:
        self._harmonizer = harmonizer

    @abstractmethod
    def add(self, frames: Tensor, first: int) -> None:
        """Takes in frames (N, C, H, W) from index `first` on."""

    @abstractmethod
    def values(self) -> Tensor:
        """(count, C), once all frames are in."""

    def read(self, first: int, last: int) -> Tensor:
        """Frames `first` to `last`, (last - first, C, H, W), every pixel the value of its code."""
        harmonizer = self._harmonizer
        return harmonizer._frames(self.values().index_select(0, harmonizer._frame_codes(first, last)), last - first)


class _Means(Repository):
    def __init__(self, harmonizer: Harmonizer, channels: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(harmonizer)
        self._sums = torch.zeros(harmonizer.count, channels, dtype=dtype, device=harmonizer.device)
        self._divided = False

    def add(self, frames: Tensor, first: int) -> None:
        harmonizer, last = self._harmonizer, first + len(frames)
        rows = _rows(frames).to(self._sums.dtype)
        self._sums.index_add_(0, harmonizer._frame_codes(first, last), harmonizer._weighted(rows, first, last))

    def values(self) -> Tensor:
        if not self._divided:
            self._sums.div_(self._harmonizer._totals.to(self._sums.dtype)[:, None])
            self._divided = True
        return self._sums


class _Keys(Repository):
    def __init__(self, harmonizer: Harmonizer, channels: int, dtype: torch.dtype, pixels: Tensor, codes: Tensor) -> None:
        super().__init__(harmonizer)
        self._values = torch.zeros(harmonizer.count, channels, dtype=dtype, device=harmonizer.device)
        self._pixels, self._codes = pixels, codes  # of the key pixels in order, which code is theirs

    def add(self, frames: Tensor, first: int) -> None:
        size = frames.shape[2] * frames.shape[3]
        bounds = torch.tensor([first * size, (first + len(frames)) * size], dtype=self._pixels.dtype, device=self._pixels.device)
        start, end = torch.searchsorted(self._pixels, bounds).tolist()
        rows = _rows(frames).to(self._values.dtype).index_select(0, self._pixels[start:end] - first * size)
        self._values.index_copy_(0, self._codes[start:end], rows)

    def values(self) -> Tensor:
        return self._values


def key_order(length: int) -> list[int]:
    """The frames of a clip in the order in which they are keys: its middle, its ends, then the middles between."""
    order = [length // 2, 0, length - 1]
    parts = 4
    while parts < 2 * length:
        order += [place * (length - 1) // parts for place in range(1, parts)]
        parts *= 2
    return list(dict.fromkeys([*order, *range(length)]))


def _key_pixels(codes: Tensor, count: int, clear: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of codes (T, H, W): the pixel of the clip that every code takes its key from, rising, and the codes that belong to them. int64."""
    length, height, width = codes.shape
    size, nowhere = height * width, codes.numel()
    chosen = torch.full((count,), nowhere, dtype=torch.int64, device=codes.device)
    within = torch.arange(size, device=codes.device)
    for mask in (clear, None) if clear is not None else (None,):  # in a window of a shot a code may have no pixel that is clear
        for t in key_order(length):
            here = codes[t].reshape(-1).long()
            new = chosen[here] == nowhere
            if mask is not None:
                new &= mask[t].reshape(-1)
            chosen.scatter_reduce_(0, here[new], within[new] + t * size, "amin")
    return torch.sort(chosen)


def gaussian(sigma: float, width: int) -> list[float]:
    """The width + 1 weights of equation 14, which sum to 1.

    Raises:
        BadInput: sigma is not positive, or width is odd or negative (the middle would lie between two taps).
    """
    if not sigma > 0 or width < 0 or width % 2:
        raise BadInput(f"the Gaussian needs sigma > 0 and an even width of at least 0, not sigma {sigma} and width {width}")
    weights = np.exp(-0.5 * np.square((np.arange(width + 1) - width / 2) / sigma))
    return [float(weight) for weight in weights / weights.sum()]


def _rows(frames: Tensor) -> Tensor:
    """(T, C, H, W) as (T * H * W, C), one pixel a row."""
    return frames.permute(0, 2, 3, 1).reshape(-1, frames.shape[1])


def _box(frames: Tensor) -> Tensor:
    """The mean over 9x9 pixels, or what of them is in the frame."""
    rows = torch.nn.functional.avg_pool2d(frames, (1, 9), stride=1, padding=(0, 4), count_include_pad=False)
    return torch.nn.functional.avg_pool2d(rows, (9, 1), stride=1, padding=(4, 0), count_include_pad=False)


def _reflect(place: Tensor, size: Tensor) -> Tensor:
    """Fold any place on the line into 0 .. size - 1 by reflection at both ends."""
    period = (2 * (size - 1)).clamp(min=1)
    folded = place % period
    return torch.minimum(folded, period - folded).clamp(max=size - 1)


def _sum_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32

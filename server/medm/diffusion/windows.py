"""Painting a shot in windows, for shots of which not all frames fit into memory together: what one window has painted, the next ones keep.

Windows are painted one after the other and overlap by a few frames. They share the shot's codes: a surface point that was seen in a window
before takes the very colour that it had there, at every guided step and in the end, so that no seam shows; where windows overlap, their
frames are blended into each other as well. (Local harmonisation hands on the key frames' detail so; its light, which has no one value a
point, relies on the overlap alone.)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medm.correspondence import Codes

OVERLAP = 8
"""Frames that neighbouring windows have in common; fewer in short windows."""

Ids = npt.NDArray[np.int64]


def windows(length: int, window: int | None) -> list[tuple[int, int]]:
    """The first frame of every window, and the one after its last; of about equal length, and at most `window` frames."""
    if window is None or window >= length:
        return [(0, length)]
    overlap = min(OVERLAP, window // 4)
    count = -(-(length - overlap) // (window - overlap))
    starts = [round(place * (length - overlap) / count) for place in range(count + 1)]
    return [(start, following + overlap) for start, following in pairwise(starts)]


class Carry:
    """What the windows of a shot hand on: the colours of surface points that later windows show again.

    Args:
        codes: of the whole shot.
        parts: its windows, in order.

    Attributes:
        deblur: how much the frames of the first window were deblurred, square pixels; None before it is done, and where nothing was.
    """

    def __init__(self, codes: Codes, parts: list[tuple[int, int]]) -> None:
        self._codes, self._parts = codes, parts
        self.deblur: float | None = None
        self._window = -1
        self._kept: dict[str, tuple[Ids, Tensor]] = {}
        self._next: dict[str, tuple[Ids, Tensor]] = {}
        self._here: Ids = np.empty(0, np.int64)
        self._last_frame = np.zeros(codes.count, np.int32)
        if len(parts) > 1:
            for t, frame in enumerate(codes.codes):
                self._last_frame[frame] = t

    @property
    def at_first(self) -> bool:
        """Whether the window that is painted is the first."""
        return self._window <= 0

    def __iter__(self) -> Iterator[tuple[int, int, Codes]]:
        """Window by window: its frames, and their codes, numbered anew from 0."""
        for index, (first, last) in enumerate(self._parts):
            self._window, self._kept, self._next = index, self._next, {}
            if len(self._parts) == 1:
                yield first, last, self._codes
                return
            here = self._codes.codes[first:last]
            present = np.zeros(self._codes.count, np.bool_)
            for frame in here:
                present[frame] = True
            self._here = np.flatnonzero(present)
            places = np.cumsum(present, dtype=np.int32) - np.int32(1)
            own = np.stack([places[frame] for frame in here])
            births = self._codes.birth_frame[self._here], self._codes.birth_xy[self._here]
            yield first, last, Codes(own, len(self._here), *births)

    def settle(self, stage: str, values: Tensor) -> None:
        """Gives the window's codes the values that they had at this stage of an earlier window, and notes what later ones will need.

        Args:
            stage: of the work; the same name in every window.
            values: (count, C), of the window's codes; changed in place.
        """
        if len(self._parts) == 1:
            return
        before, old = self._kept.get(stage, (np.empty(0, np.int64), values[:0].half().cpu()))
        if len(before):
            place = np.searchsorted(before, self._here).clip(max=len(before) - 1)
            known = before[place] == self._here
            values[torch.from_numpy(known).to(values.device)] = old[torch.from_numpy(place[known])].to(values.device, values.dtype)
        if self._window + 1 == len(self._parts):
            return
        following = self._parts[self._window + 1][0]
        missing = ~np.isin(before, self._here)
        ids = np.concatenate([self._here, before[missing]])
        all_values = torch.cat([values.half().cpu(), old[torch.from_numpy(missing)]])
        later = self._last_frame[ids] >= following
        order = np.argsort(ids[later])
        self._next[stage] = ids[later][order], all_values[torch.from_numpy(later)][torch.from_numpy(order)]


def blend(frames: npt.NDArray[np.uint8], window: npt.NDArray[np.uint8], first: int, done: int) -> None:
    """Puts a window's pictures among those of the shot, changing from one to the other over the frames that are there already.

    Args:
        frames: (T, H, W, 3), of the shot; changed.
        window: (N, H, W, 3), the pictures from index `first` on.
        first: index of the window's first frame.
        done: frames of the shot that are there.
    """
    for place, picture in enumerate(window):
        t = first + place
        if t >= done:
            frames[t] = picture
            continue
        share = (place + 1) / (done - first + 1)
        frames[t] = np.rint(frames[t] + share * (picture.astype(np.float32) - frames[t])).astype(np.uint8)

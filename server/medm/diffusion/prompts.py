"""Prompts that change over a shot: `0: dawn, 40: dusk` by frame numbers, blended linearly between them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medm.errors import BadInput

_KEY = re.compile(r"(?:^|,)\s*(-?\d{1,9})\s*:(?!\d)")
"""Where a range begins: a number and a colon at the start or after a comma. A digit behind the colon makes it a time of day."""
_NO_FRAME = re.compile(r"^\s*(-?\d*\.\d+)\s*:(?!\d)")
"""What begins like a range, and not with a whole number."""


@dataclass(frozen=True)
class PromptSchedule:
    """What to paint in which frame.

    `keys`: (frame number, prompt), by frame, each frame once; a prompt holds alone at its frame, before the first and after the last.
    """

    keys: tuple[tuple[int, str], ...]

    @classmethod
    def parse(cls, text: str) -> PromptSchedule:
        """The schedule that a `prompt` setting writes down; text that begins with no `NUMBER:` is one prompt for all frames.

        A comma ends a prompt only where `NUMBER:` follows it, so `0: red, matt clay, 40: gold` has two prompts.

        Raises:
            BadInput: a frame has two prompts, or none; the text begins with a number that is no frame's.
        """
        if wrong := _NO_FRAME.match(text):
            raise BadInput(f"prompt: {wrong[1]} is no frame; frames are whole numbers, as in `0: dawn, 40: dusk`")
        found = list(_KEY.finditer(text))
        if not found or text[: found[0].start()].strip() or found[0].group().startswith(","):
            return cls(((0, text.strip()),))
        ends = [match.start() for match in found[1:]] + [len(text)]
        keys = sorted((int(match[1]), text[match.end() : end].strip()) for match, end in zip(found, ends, strict=True))
        for (frame, prompt), following in zip(keys, [*keys[1:], (None, "")], strict=True):
            if not prompt:
                raise BadInput(f"prompt: frame {frame} has none; write what to paint after {frame}:")
            if frame == following[0]:
                raise BadInput(f"prompt: frame {frame} has two; write every frame number once")
        return cls(tuple(keys))

    @property
    def prompts(self) -> tuple[str, ...]:
        """The distinct prompts, in the order of their first frames."""
        return tuple(dict.fromkeys(prompt for _, prompt in self.keys))

    def weights(self, frame_numbers: Sequence[int]) -> npt.NDArray[np.float32]:
        """(T, K): how much each of the K `prompts` counts in each frame; every row sums to 1, at most two are not 0."""
        places = {prompt: index for index, prompt in enumerate(self.prompts)}
        weights = np.zeros((len(frame_numbers), len(places)), np.float32)
        frames = [frame for frame, _ in self.keys]
        for row, frame in zip(weights, frame_numbers, strict=True):
            after = bisect_right(frames, frame)
            before, after = max(after - 1, 0), min(after, len(frames) - 1)
            span = frames[after] - frames[before]
            share = (frame - frames[before]) / span if span > 0 else 0.0
            row[places[self.keys[before][1]]] += 1.0 - share
            row[places[self.keys[after][1]]] += share
        return weights

"""How long a job will still take, from how long its steps have taken."""

from __future__ import annotations

import re

_RECENT = 8
"""Steps by which the pace is told: other programs come and go."""
_STEP = re.compile(r"step (\d+) of (\d+)$")


class Remaining:
    """Listens to the progress of one job.

    Nothing is known before the sampler's second step is done: what comes before (loading the model, reading passes) tells nothing about
    the steps, and the first one warms everything up. From then on the rest is taken to go on like the last few steps, at the same share of
    the progress a second; between two reports the time runs down.
    """

    def __init__(self) -> None:
        self._started: list[tuple[float, float]] = []
        """(time, share done) at which each new step was begun."""
        self._step = ""
        self._ends: float | None = None

    def note(self, fraction: float, phase: str, now: float) -> None:
        """The job said so at this time (seconds)."""
        found = _STEP.search(phase)
        if found is not None and found[0] != self._step:
            self._step = found[0]
            self._started.append((now, fraction))
        if len(self._started) < 3:
            return
        start, begun = self._started[max(1, len(self._started) - 1 - _RECENT)]
        if fraction > begun:
            self._ends = now + (1.0 - fraction) * (now - start) / (fraction - begun)

    def seconds(self, now: float) -> float | None:
        """Seconds to go; None until that is known."""
        return None if self._ends is None else round(max(self._ends - now, 0.0), 1)

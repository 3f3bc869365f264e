"""How long work says where it is: a callback that is given a share done (0 to 1) and a phase in words, and that may stop it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, str], None]
"""Called with (share done, phase). It may raise `Cancelled`; callers let that pass."""


def silent(fraction: float, phase: str) -> None:
    """The progress of work that nobody watches."""


def part(progress: Progress, start: float, end: float) -> Progress:
    """A progress whose 0 to 1 is `start` to `end` of another's."""
    return lambda fraction, phase: progress(start + (end - start) * fraction, phase)


def phased(progress: Progress, name: str) -> Progress:
    """A progress that says what is being done, whatever the phase it is given."""
    return lambda fraction, _: progress(fraction, name)

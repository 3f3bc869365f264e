"""What is known of the server, for the panels: asked in a thread, read without waiting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["off", "starting", "ready", "unreachable", "wrong_version", "not_installed", "installing"]


@dataclass(frozen=True)
class Status:
    """The server as it was when it was last asked.

    state: `off` is a local server that starts when it is needed. message: one line for the user. device: as in "NVIDIA RTX 4090".
    free_gb: of its memory. version: the server's. models: as `Client.models` gives them. busy: it paints. progress: of `installing`, 0 to 1.
    """

    state: State = "off"
    message: str = ""
    device: str = ""
    free_gb: float | None = None
    version: str = ""
    models: list[dict[str, Any]] = field(default_factory=list)
    busy: bool = False
    progress: float | None = None


_current = Status()


def current() -> Status:
    """What is known now. Never waits; meant to be called while drawing."""
    return _current


def refresh() -> None:
    """Ask the server, in a thread; the windows are redrawn when something has changed."""


def register() -> None:
    """Called when the extension is enabled."""


def unregister() -> None:
    """Called when the extension is disabled."""

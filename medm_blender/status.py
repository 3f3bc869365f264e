"""What is known of the server, for the panels: asked in a thread while somebody looks, and read without waiting.

Knows of Blender only how to have its windows drawn again; which server is meant, `preferences` says (`watch`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import bpy

from . import local_server
from .client import VERSION, Client, ServerError
from .local_server import Target

State = Literal["off", "starting", "ready", "unreachable", "wrong_version", "not_installed", "installing"]

INTERVAL = 4.0
"""Seconds after which what is known is asked again, while a panel shows it."""
MODELS_INTERVAL = 20.0
_TICK = 0.25
_SHOWN_IN = {"PREFERENCES", "PROPERTIES", "SEQUENCE_EDITOR", "IMAGE_EDITOR"}


@dataclass(frozen=True)
class Status:
    """The server as it was when it was last asked.

    Attributes:
        state: `off` is a local server that starts when it is needed; `starting` and `installing` are this Blender's doing.
        message: one line for the user, without a full stop.
        device: as in `NVIDIA RTX 4090`; empty while it is not known.
        memory_gb, free_gb: of the device; None while it is not known.
        version: the server's, or of the installed one if none runs.
        models: as `Client.models` gives them.
        busy: it paints.
        progress: of `installing`, from 0 to 1.
    """

    state: State = "off"
    message: str = ""
    device: str = ""
    memory_gb: float | None = None
    free_gb: float | None = None
    version: str = ""
    models: list[dict[str, Any]] = field(default_factory=list)
    busy: bool = False
    progress: float | None = None


@dataclass(frozen=True)
class Question:
    """Which server is asked: `target`, or why there is none (`refusal`); and the version of the local one that is installed, if one is."""

    target: Target | None
    refusal: str = ""
    installed: str | None = None


def current() -> Status:
    """What is known now. Never waits. Called while drawing, it has the server asked again if the answer is old."""
    if _override is not None:
        return _override
    if not bpy.app.background and (time.monotonic() - _asked > INTERVAL or _ask_for() != _question):
        refresh()
    return _status


def refresh(wait: bool = False) -> Status:
    """Ask the server, in a thread; the windows are drawn again when something has changed. `wait`: until it has answered."""
    global _asked, _question, _thread
    question = _ask_for()
    if _thread is not None and _thread.is_alive() and question == _question and not wait:
        return _status
    _asked, _question = time.monotonic(), question
    if question is None:
        return _status
    _thread = threading.Thread(target=_ask_and_keep, args=(question,), name="medm-status", daemon=True)
    _thread.start()
    if wait:
        _thread.join()
    return _status


def watch(ask_for: Callable[[], Question]) -> None:
    """Which server is meant: `ask_for` is called in the main thread whenever the server is about to be asked."""
    global _ask_for
    _ask_for = ask_for


def override(status: Status | None) -> None:
    """Show this instead of what the server says, until None: for what this Blender is doing to the server. From any thread."""
    global _override
    _override = status


# -- asking ------------------------------------------------------------------------------------------------------------


def ask(question: Question, known: list[dict[str, Any]] | None = None) -> Status:
    """Ask a server how it is. known: its models, if they need not be asked for. Blocks for seconds at most."""
    target = question.target
    if target is None:
        return Status("unreachable", question.refusal)
    try:
        client = Client(target.url, target.token) if target.kind == "remote" else local_server.find(target.store)
        if client is None:
            return _not_running(question)
        return _running(client, known)
    except ServerError as error:
        return Status("unreachable", str(error))


def _not_running(question: Question) -> Status:
    assert question.target is not None
    if question.target.python is None:
        return Status("not_installed", "The server is not installed")
    if question.installed not in (None, VERSION):
        return Status(
            "wrong_version", f"Server {question.installed} is installed; this is MeDM {VERSION}", version=question.installed or ""
        )
    return Status("off", "The server starts when it is needed", version=question.installed or "")


def _running(client: Client, known: list[dict[str, Any]] | None) -> Status:
    health = client.health()
    version, device = str(health.get("version", "")), health.get("device") or {}
    if version != VERSION:
        return Status("wrong_version", f"The server that runs is of version {version}; this is MeDM {VERSION}", version=version)
    status = Status(
        "ready",
        device=str(device.get("name") or device.get("kind") or ""),
        memory_gb=device.get("memory_gb"),
        free_gb=device.get("free_gb"),
        version=version,
        models=client.models() if known is None else known,
        busy=health.get("worker") in ("busy", "loading"),
    )
    return dataclasses.replace(status, message=_in_words(status))


def _in_words(status: Status) -> str:
    """As in `NVIDIA RTX 4090, 21.3 of 24 GB free, 3 of 8 models`."""
    parts = [status.device] if status.device else []
    if status.free_gb is not None:
        of = f" of {status.memory_gb:.3g}" if status.memory_gb else ""
        parts.append(f"{status.free_gb:.3g}{of} GB free")
    if status.models:
        parts.append(f"{sum(bool(model.get('available')) for model in status.models)} of {len(status.models)} models")
    return ", ".join(parts) or "Ready"


_status = Status()
_override: Status | None = None
_drawn: Status | None = None
_question: Question | None = None
_asked = -INTERVAL
_thread: threading.Thread | None = None
_models: tuple[float, Question | None, list[dict[str, Any]]] = (-MODELS_INTERVAL, None, [])


def _ask_for() -> Question | None:
    return None


def _ask_and_keep(question: Question) -> None:
    global _status, _models
    asked, of, models = _models
    fresh = of == question and models and time.monotonic() - asked < MODELS_INTERVAL
    answer = ask(question, models if fresh else None)
    if not fresh:
        _models = (time.monotonic(), question, answer.models)
    if question == _question:  # else another was asked for meanwhile
        _status = answer


# -- drawing again -----------------------------------------------------------------------------------------------------


def _redraw_if_changed() -> float:
    global _drawn
    if (_override or _status) != _drawn:
        _drawn = _override or _status
        redraw()
    return _TICK


def redraw() -> None:
    """Have the editors that show the server's state drawn again."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in _SHOWN_IN:
                area.tag_redraw()


def register() -> None:
    """Called when the extension is enabled."""
    if not bpy.app.background:  # without a window timers never tick
        bpy.app.timers.register(_redraw_if_changed, first_interval=_TICK, persistent=True)


def unregister() -> None:
    """Called when the extension is disabled."""
    global _status, _override, _drawn, _question, _asked, _models
    with contextlib.suppress(ValueError):  # it was never registered
        bpy.app.timers.unregister(_redraw_if_changed)
    _status, _override, _drawn, _question, _asked, _models = Status(), None, None, None, -INTERVAL, (-MODELS_INTERVAL, None, [])

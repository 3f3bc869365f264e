"""Takes that a server was painting when their file was closed: asked after when it is opened, fetched when the user says so.

For `take_operators.py` and `sequencer_panel.py`. All waiting is done in threads. Only the server of the preferences is ever asked, whatever
a record says: records come with projects, and a token must not go where a stranger's project sends it. By itself nothing runs where there
is no window.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import bpy

from . import local_server, preferences, sequencer, takes
from .client import Client, Progress, ServerError

State = Literal["finished", "painting", "lost", "unknown"]

_AGAIN = 15.0
"""Seconds until takes that are still painted are asked after again."""
_TICK = 0.25
_FRESH = 1.0


@dataclass(frozen=True)
class News:
    """What is known of a take that was being painted: `unknown` until a server was found that could tell; and a line for the user."""

    state: State
    message: str


class _Fetch:
    """A take on its way from the server."""

    def __init__(self, scene: str, record: takes.Record, target: local_server.Target) -> None:
        self.scene, self.record, self.target = scene, record, target
        self.share, self.stopped = 0.0, False
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="medm-fetch", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            bring(self.record, self.target, self._note)
        except Exception as error:  # shown to the user by the main thread
            self.error = error

    def _note(self, share: float, _: str) -> None:
        if self.stopped:
            raise ServerError("stopped", "cancelled")
        self.share = share


_listed: dict[str, tuple[float, list[takes.Record]]] = {}
_news: dict[Path, News] = {}
_answers: queue.SimpleQueue[tuple[Path, News]] = queue.SimpleQueue()
_fetches: list[_Fetch] = []
_asking: threading.Thread | None = None


def news(record: takes.Record) -> News:
    """What is known now of a take in the state `painting`. Never waits; meant to be called while drawing."""
    fetch = next((fetch for fetch in _fetches if fetch.record.folder == record.folder), None)
    if fetch is not None:
        return News("painting", f"Take {record.number} is being fetched, {fetch.share:.0%}")
    if takes.is_complete(record.folder):
        return News("finished", f"Take {record.number} is finished and can be placed")
    return _news.get(record.folder, News("unknown", f"Take {record.number} was being painted when it was last heard of"))


def waiting(scene: Any) -> list[takes.Record]:
    """The scene's takes that somebody else than this window's run has to bring home."""
    own = _own_take()
    return [record for record in takes.pending(scene) if record.folder != own]


def listed(scene: Any) -> list[takes.Record]:
    """All takes of the scene, for panels, which are drawn at every move of the mouse: folders are looked into once a second at most."""
    now = time.monotonic()
    known = _listed.get(scene.name_full)
    if known is None or now - known[0] > _FRESH:
        known = _listed[scene.name_full] = now, takes.of(scene)
    return known[1]


def bring(record: takes.Record, target: local_server.Target, progress: Progress) -> None:
    """Bring the frames of a take home; blocking, for a thread. Starts the local server if need be, for it keeps the takes.

    Raises TakeError if it is not finished or will never be, and ServerError.
    """
    if takes.is_complete(record.folder):
        return
    found = _told(local_server.connect(target), record)
    if found.state != "finished":
        raise takes.TakeError(found.message)
    local_server.connect(target).download(record.job, record.folder, progress)


def fetch(scene: Any, record: takes.Record) -> None:
    """Bring a take home in a thread and place it when it is there. Raises ServerError, at once, if no server may be asked."""
    target = preferences.target()
    if all(other.record.folder != record.folder for other in _fetches):
        _fetches.append(_Fetch(scene.name, record, target))
    _tick_soon()


def look() -> None:
    """Ask after the takes of all scenes of the open file, in a thread; what is learnt shows in the panels."""
    global _asking
    if bpy.app.background or (_asking is not None and _asking.is_alive()):
        return
    records = [record for scene in bpy.data.scenes if sequencer.shot_of(scene) is None for record in waiting(scene)]
    records = [record for record in records if not takes.is_complete(record.folder)]
    if records:
        with contextlib.suppress(ServerError):  # Blender is offline, or the preferences name no server: they stay unknown
            _asking = threading.Thread(target=_ask, args=(preferences.target(), records), name="medm-ask", daemon=True)
            _asking.start()
    _tick_soon()
    if records and not bpy.app.timers.is_registered(_look_again):
        bpy.app.timers.register(_look_again, first_interval=_AGAIN)


def forget(record: takes.Record) -> None:
    """Offer a take no more. It stays on the server."""
    takes.fail(record.folder, "Forgotten", cancelled=True)
    _news.pop(record.folder, None)


# -- in the thread -----------------------------------------------------------------------------------------------------


def _ask(target: local_server.Target, records: list[takes.Record]) -> None:
    try:
        client = local_server.find(target.store) if target.kind == "local" else Client(target.url, target.token)
        if client is None:
            return  # a server that is off is started when the take is fetched, and not by looking
        for record in records:
            _answers.put((record.folder, _told(client, record)))
    except ServerError:
        return  # what cannot be asked stays unknown


def _told(client: Client, record: takes.Record) -> News:
    name = f"Take {record.number}"
    try:
        job = client.job(record.job)
    except ServerError as error:
        if error.code in ("unreachable", "wrong_token", "wrong_host"):
            raise
        return News("lost", f"{name} is not known to the server at {client.url}; it was painted at {record.server or 'another'}")
    match job["state"]:
        case "done":
            return News("finished", f"{name} finished while Blender was closed")
        case "failed":
            return News("lost", f"{name} failed: {(job.get('error') or {}).get('message', 'no reason is given')}")
        case "cancelled":
            return News("lost", f"{name} was cancelled")
        case _:
            return News("painting", f"{name} is still being painted, {float(job.get('progress') or 0.0):.0%}")


# -- in the window -----------------------------------------------------------------------------------------------------


def _own_take() -> Path | None:
    from . import running

    run = running.current()
    return run.take if run is not None and run.is_running else None


def _tick_soon() -> None:
    if not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=0.0)


def _tick() -> float | None:
    """Bring what the threads found into Blender; the main thread's part."""
    while not _answers.empty():
        folder, told = _answers.get()
        _news[folder] = told
    for fetch in [fetch for fetch in _fetches if not fetch.thread.is_alive()]:
        _fetches.remove(fetch)
        _arrived(fetch)
    redraw()
    return _TICK if _fetches or (_asking is not None and _asking.is_alive()) or not _answers.empty() else None


def _arrived(fetch: _Fetch) -> None:
    if fetch.error is not None:
        _news[fetch.record.folder] = News("unknown", str(fetch.error))
        return
    scene = bpy.data.scenes.get(fetch.scene)
    if scene is None or all(record.folder != fetch.record.folder for record in takes.of(scene)):
        return  # another file is open: the take waits in its folder
    try:
        takes.finish(scene, fetch.record.folder)
    except (takes.TakeError, sequencer.StripError) as error:
        _news[fetch.record.folder] = News("lost", str(error))
        return
    windows = bpy.context.window_manager.windows
    if windows:
        with bpy.context.temp_override(window=windows[0]):
            bpy.ops.ed.undo_push(message=f"Place Take {fetch.record.number}")


def _look_again() -> float | None:
    look()
    return _AGAIN if any(waiting(scene) for scene in bpy.data.scenes if sequencer.shot_of(scene) is None) else None


def redraw() -> None:
    """Have the panels that show takes drawn anew, from what is on the disk now."""
    _listed.clear()
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in ("SEQUENCE_EDITOR", "PROPERTIES"):
                area.tag_redraw()


@bpy.app.handlers.persistent  # type: ignore[untyped-decorator]
def _after_load(*_: object) -> None:
    _news.clear()
    _listed.clear()
    for fetch in _fetches:
        fetch.stopped = True
    _fetches.clear()
    bpy.app.timers.register(_look_once, first_interval=1.0)


def _look_once() -> None:
    look()


def register() -> None:
    """Called when the extension is enabled: looks now, and whenever a file was opened. Where there is no window, never."""
    if not bpy.app.background:
        bpy.app.handlers.load_post.append(_after_load)
        bpy.app.timers.register(_look_once, first_interval=1.0)


def unregister() -> None:
    """Called when the extension is disabled."""
    if _after_load in bpy.app.handlers.load_post:
        bpy.app.handlers.load_post.remove(_after_load)
    timers: tuple[Callable[[], float | None], ...] = (_tick, _look_again, _look_once)
    for timer in timers:
        if bpy.app.timers.is_registered(timer):
            bpy.app.timers.unregister(timer)
    for fetch in _fetches:
        fetch.stopped = True

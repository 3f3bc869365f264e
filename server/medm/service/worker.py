"""The process that renders, and the thread of the API process that looks after it.

One job at a time, in a process of its own: a crash or an exhausted memory ends a job and nothing else, and the API process never
loads torch. The two talk through a pipe: down go jobs and the wish to cancel, up come progress and how it ended. A worker that
lost its parent ends itself, so that no process is left holding the GPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from medm.errors import Cancelled, MedmError, Unavailable
from medm.progress import Progress
from medm.service.remaining import Remaining
from medm.service.store import PREVIEW, Job, Store

if TYPE_CHECKING:
    from PIL.Image import Image

Render = Callable[[Path, dict[str, Any], Path, Path, Progress], None]
"""Makes a take of a shot: (shot folder, settings as JSON, the server's folder of models, folder of the take, progress).

A function of a module: it is sent by name.
"""

CANCEL_GRACE = 20.0
"""Seconds that a job has to stop after it was asked to; then its process is ended."""
_LOADING = ("", "start the renderer", "load model")
_TICK = 0.2
_RETRY = 2.0
_log = logging.getLogger(__name__)
Result = TypeVar("Result")
WorkerState = Literal["idle", "loading", "busy"]


def render(shot: Path, settings: dict[str, Any], models: Path, take: Path, progress: Progress) -> None:
    """The real work. Imported here, in the worker, because it brings torch."""
    import gc

    import torch

    from medm.diffusion.rendering import render_take
    from medm.service.documents import read_settings
    from medm.shot import Shot

    try:
        render_take(Shot.open(shot), read_settings(settings), take, progress, models, partial(_keep_preview, take.with_name(PREVIEW)))
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # other programs, and plans, should see as free what this process only keeps


def _keep_preview(place: Path, picture: Image) -> None:
    aside = place.with_name(f"{place.name}.part")
    with contextlib.suppress(OSError):  # a disk that is full is met where it matters
        picture.save(aside, "JPEG", quality=85)
        aside.replace(place)


class Worker:
    """Takes the store's queued jobs, one by one, from `start` to `stop`."""

    def __init__(self, store: Store, render: Render = render) -> None:
        self._store = store
        self._render = render
        self._stopping = False
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="medm-worker")
        self._process: BaseProcess | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._current: tuple[str, Remaining] | None = None
        self.state: WorkerState = "idle"

    def start(self) -> None:
        """Begins with what is queued."""
        self._thread.start()

    def remaining(self, job: str) -> float | None:
        """Seconds that a job will still take; None unless it runs and its steps have told."""
        current = self._current
        return current[1].seconds(time.monotonic()) if current is not None and current[0] == job else None

    def wake(self) -> None:
        """Says that a job was queued."""
        self._news.set()

    def stop(self) -> None:
        """Ends the process; a job that runs is taken up anew when a server next opens the store."""
        self._stopping = True
        self._news.set()
        self._thread.join()

    def _loop(self) -> None:
        try:
            while not self._stopping:
                job = self._insist(self._store.start_next)
                if job is None:
                    self._news.wait()
                    self._news.clear()
                    continue
                try:
                    self._current, self.state = (job.id, Remaining()), "loading"
                    self._run(job)
                except (OSError, sqlite3.Error, Unavailable) as error:
                    self._end_process()
                    reason = f"the server could not keep what the job made: {error}"
                    self._insist(partial(self._store.fail, job.id, Unavailable.code, reason))
                finally:
                    self._current, self.state = None, "idle"
        finally:
            self._end_process()

    def _insist(self, note: Callable[[], Result]) -> Result | None:
        """Does what the worker cannot go on without, again and again while the store cannot be written; None if stopped meanwhile."""
        while not self._stopping:
            try:
                return note()
            except (OSError, sqlite3.Error, Unavailable) as error:
                _log.error("the worker waits for the store: %s", error)
                time.sleep(_RETRY)
        return None

    def _run(self, job: Job) -> None:
        process, pipe = self._ready_process()
        shot, take = self._store.work_folders(job.id)
        orders: list[object] = [(shot, job.settings, self._store.models, take)]
        asked: float | None = None
        while not self._stopping:
            try:
                while orders:
                    pipe.send(orders.pop(0))
                message = pipe.recv() if wait([pipe, process.sentinel], _TICK) else None
            except (EOFError, OSError):
                process.join(_TICK)
                reason = _reason(process.exitcode)
                self._end_process()
                self._store.fail(job.id, "worker_died", reason)
                return
            if message is not None and self._take_in(job, message):
                return
            current = self._store.job(job.id)
            if current is not None and current.cancel and asked is None:
                asked = time.monotonic()
                orders.append("cancel")
            elif asked is not None and time.monotonic() - asked > CANCEL_GRACE:
                self._end_process()
                self._store.fail(job.id, Cancelled.code, "")
                return

    def _take_in(self, job: Job, message: tuple[Any, ...]) -> bool:
        """Notes what the process says; True where it says that the job ended."""
        match message:
            case ("progress", fraction, phase):
                if self._current is not None:
                    self._current[1].note(fraction, phase, time.monotonic())
                self.state = "loading" if phase in _LOADING else "busy"
                self._store.set_progress(job.id, fraction, phase)
                return False
            case ("done", files):
                self._store.keep_take(job.id, files)
            case ("refused", code, text):
                self._store.fail(job.id, code, text)
            case ("defect", text):
                # Who knows what it left on the GPU: the next job gets a fresh process.
                self._end_process()
                self._store.fail(job.id, "internal", text)
        return True

    def _ready_process(self) -> tuple[BaseProcess, Connection[Any, Any]]:
        if self._process is None or self._pipe is None or not self._process.is_alive():
            self._end_process()
            context = multiprocessing.get_context("spawn")  # a forked process could not use CUDA, and Windows has no other way
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs, self._render), name="medm-worker", daemon=True)
            self._process.start()
            theirs.close()
        return self._process, self._pipe

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.kill()  # it holds nothing worth saving, and a library may be deaf to gentler ways
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _reason(exit_code: int | None) -> str:
    if exit_code is not None and exit_code == -getattr(signal, "SIGKILL", 9):
        return "the renderer was killed, most likely because memory ran out; try fewer frames, a smaller size, or close other programs"
    how = f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"
    return f"the renderer crashed ({how}); the server's log says more"


# The worker process


def _work(pipe: Connection[Any, Any], render: Render) -> None:
    """The worker's life: one job after the other, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group; the parent decides
    threading.Thread(target=die_with_parent, daemon=True).start()
    while True:
        try:
            shot, settings, models, take = _next_job(pipe)
        except EOFError:
            return
        if not _do(pipe, partial(render, shot, settings, models, take), take):
            return


def _next_job(pipe: Connection[Any, Any]) -> tuple[Path, dict[str, Any], Path, Path]:
    while (message := pipe.recv()) == "cancel":  # was meant for a job that had just ended
        pass
    job: tuple[Path, dict[str, Any], Path, Path] = message
    return job


def _do(pipe: Connection[Any, Any], render: Callable[[Progress], None], take: Path) -> bool:
    """Does one job and says how it ended; False where this process should not be used again."""

    def progress(fraction: float, phase: str) -> None:
        if pipe.poll() and pipe.recv() == "cancel":
            raise Cancelled("the job was cancelled")
        pipe.send(("progress", float(fraction), phase))

    try:
        progress(0.0, "start the renderer")
        render(progress)
        pipe.send(("done", _files(take)))
    except MedmError as error:
        pipe.send(("refused", error.code, str(error)))
    except (Exception, SystemExit) as error:  # whatever it is, it must end this job with a reason, and no other
        traceback.print_exc()
        pipe.send(("defect", _describe(error)))
        return False
    return True


def _describe(error: BaseException) -> str:
    name = type(error).__name__
    # torch has a class of its own for the GPU's memory, and none for the main memory
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return "memory ran out; try fewer frames or a smaller size, or close other programs"
    lines = str(error).strip().splitlines()
    return f"the renderer stopped by an error of its own ({name}: {lines[0] if lines else 'no details'}); the server's log says more"


def _files(take: Path) -> list[tuple[str, int, str]]:
    """(path with `/`, size in bytes, hex SHA-256) of every file of a take."""
    found = []
    for path in sorted(take.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found.append((path.relative_to(take).as_posix(), path.stat().st_size, digest))
    return found


def die_with_parent() -> None:
    """Ends this process once its parent is gone, however that went: for a thread."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)

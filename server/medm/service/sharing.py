"""How the programs of one machine share a server: it says where it is, and knows whether anybody still needs it.

    <store>/server.lock       held by the server for as long as it lives; the operating system lets go of it, however the server dies
    <store>/server.json       {"url", "token", "pid", "version", "stops_when_unused"}, for its owner alone; there while the lock is held
    <store>/leases/*          one file for each program that needs the server, locked for as long as that lives

`medm_blender/local_server.py` is the other side of it. A lock is `flock` (on Windows: the file's first byte): being asked for it tells
whether somebody lives, where a number of a process would only tell that somebody has that number.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from medm.errors import Unavailable

PATIENCE = 5.0
"""Seconds without a lease, a job or a request after which an unneeded server ends."""
_TICK = 0.5
_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class FileLock:
    """A lock on a file, made if it is not there, from construction until `close`; OSError if somebody else holds it."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(self._descriptor)
        except OSError:
            os.close(self._descriptor)
            raise

    def close(self) -> None:
        """Lets go."""
        os.close(self._descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _insist(action: Callable[[], Result]) -> Result:
    """What comes of something that fails while others look: they lock our file for a moment, or (on Windows) hold it open."""
    for _ in range(40):
        with contextlib.suppress(OSError):
            return action()
        time.sleep(0.05)
    return action()


class Sharing:
    """What a server does to be found, and to end when it is needed no more.

    stops_when_unused: whether it ends by itself. busy: whether a job is queued or running. stop: ends the server.
    `ending` is True while it may be about to end: whoever asks then must not rely on it.
    """

    def __init__(self, store: Path, stops_when_unused: bool, busy: Callable[[], bool], stop: Callable[[], None]) -> None:
        self._store, self._stops, self._busy, self._stop = store, stops_when_unused, busy, stop
        self._leases = store / "leases"
        self._file = store / "server.json"
        self._last_use = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._told = False
        self.ending = False
        try:
            self._leases.mkdir(mode=0o700, exist_ok=True)
            self._lock = _insist(partial(FileLock, store / "server.lock"))
            _insist(partial(self._file.unlink, missing_ok=True))  # of a server that was killed: nobody should take it for ours
        except OSError as error:
            raise Unavailable(f"the server's folder {store} cannot be used: {error}") from error

    def used(self) -> None:
        """Notes that somebody works with the server."""
        self._last_use = time.monotonic()

    def announce(self, document: dict[str, Any]) -> None:
        """Says where the server is, once it answers, and begins to watch whether it is needed."""
        aside = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            aside.unlink(missing_ok=True)
            with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                json.dump({**document, "stops_when_unused": self._stops}, file)
            _insist(partial(aside.replace, self._file))
        except OSError as error:  # it serves all the same those who know its address
            _log.error("%s cannot be written, so that no program of this machine will find the server: %s", self._file, error)
        if self._stops:
            self.used()
            self._thread = threading.Thread(target=self._watch, name="medm-sharing", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Is not to be found any more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
        self._lock.close()

    def _watch(self) -> None:
        while not self._over.wait(_TICK):
            if self._needed() or time.monotonic() - self._last_use < PATIENCE:
                continue
            # Who comes takes a lease first and asks then whether we are ending: either they hear that, or we see their lease here.
            self.ending = True
            if self._needed():
                self.ending = False
                continue
            self._stop()
            return

    def _needed(self) -> bool:
        try:
            needed = self._held_leases() > 0 or self._busy()
        except Exception as error:  # a disk that cannot be read says nothing about who needs us
            if not self._told:
                _log.error("whether the server is needed cannot be told: %s", error)
            self._told = True
            return True
        if needed:
            self.used()
        return needed

    def _held_leases(self) -> int:
        """How many programs hold a lease; the leases of those that died are removed."""
        held = 0
        for lease in self._leases.iterdir() if self._leases.is_dir() else ():
            if lease.is_symlink() or not lease.is_file():
                continue
            try:
                lock = FileLock(lease)
            except OSError:
                held += 1
                continue
            try:
                with contextlib.suppress(OSError):
                    if sys.platform == "win32":  # which removes no file that is open
                        lock.close()
                    lease.unlink()
            finally:
                if sys.platform != "win32":
                    lock.close()
        return held

"""What is being done to the local server: planned, installed, started, stopped, removed. One thing at a time, in a thread.

Knows nothing of Blender: what it does is shown by whoever is called with a `Progress`.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Generator
from typing import Any

from .client import ServerError
from .install import InstallError, Plan, Progress

Steps = Generator[Progress, None, Any]


class Worker:
    """Does one long thing at a time.

    show: called from the thread with every step, and with None at the end.

    Attributes:
        plan: what the last planning found out, until it is used or dropped.
        error: what the last thing failed of, in one line for the user; empty if it did not.
    """

    def __init__(self, show: Callable[[Progress | None], None]) -> None:
        self._show = show
        self._thread: threading.Thread | None = None
        self._cancelled = threading.Event()
        self.plan: Plan | None = None
        self.error = ""

    @property
    def running(self) -> bool:
        """Whether something is being done."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, steps: Steps, words: str) -> None:
        """Do this in the thread. The steps' value, if it is a Plan, is kept as `plan`. RuntimeError if something is being done already."""
        if self.running:
            raise RuntimeError("The server is being worked on already")
        self.error, self._cancelled = "", threading.Event()
        self._show((0.0, words))
        self._thread = threading.Thread(target=self._work, args=(steps, self._cancelled), name="medm-server-work", daemon=True)
        self._thread.start()

    def run(self, steps: Steps) -> None:
        """Do this here and now, for scripts. InstallError or ServerError."""
        if self.running:
            raise InstallError("The server is being worked on already")
        self.error = ""
        self._keep(_drain(steps))

    def cancel(self, wait: float = 0.0) -> None:
        """Give up what is being done: whatever it started is killed within a tenth of a second. wait: seconds, at most, until it is."""
        self._cancelled.set()
        if wait and self._thread is not None:
            self._thread.join(wait)

    def join(self) -> None:
        """Wait until nothing is being done."""
        if self._thread is not None:
            self._thread.join()

    def _work(self, steps: Steps, cancelled: threading.Event) -> None:
        try:
            while not cancelled.is_set():
                self._show(next(steps))
        except StopIteration as stop:
            self._keep(stop.value)
        except (InstallError, ServerError) as error:
            self.error = str(error)
        except OSError as error:
            self.error = f"{error.filename or 'A file'} cannot be used: {error.strerror}"
        finally:
            steps.close()
            self._show(None)

    def _keep(self, value: Any) -> None:
        self.plan = value if isinstance(value, Plan) else None


def _drain(steps: Steps) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def at_exit(worker: Worker) -> None:
    """Have nothing go on when the process ends."""
    atexit.register(worker.cancel, 5.0)

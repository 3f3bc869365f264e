"""Starts and stops a MeDM server of one's own on this machine. Standard library only; knows nothing of Blender."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from .client import ServerError

START_TIMEOUT = 60.0
"""Seconds that a server may take to accept connections: a cold disk has to give a web framework's worth of Python files."""
STOP_TIMEOUT = 10.0
_MAX_LOG = 5_000_000


def default_store() -> Path:
    """The folder where `medm serve` keeps its shots, jobs, takes and its token if it is told nothing: the user's own data folder."""
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME", "").strip() or Path.home() / ".local" / "share")
    return data / "medm" / "server"


class LocalServer:
    """A server process that lives as long as this object's `with` block, or from `start` to `stop`, and never longer than this process.

    python: the interpreter of the environment that `medm-server` is installed in. store: the folder of its shots, jobs and takes;
    the log is `server.log` in it. After the start, `url` and `token` are what `client.Client` takes.
    """

    def __init__(self, python: Path, store: Path) -> None:
        self._python, self._store = python, store
        self._process: subprocess.Popen[bytes] | None = None
        self.log = store / "server.log"
        self.url = ""
        self.token = ""

    def __enter__(self) -> LocalServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns once the server accepts connections; ServerError with the last line of its log if it does not."""
        if self.running:
            return
        # Isolated (-I): Blender's own Python variables and working folder mean nothing to the server's environment.
        command = [os.fspath(self._python), "-I", "-m", "medm.cli", "serve", "--port", "0", "--stop-when-stdin-closes"]
        command += ["--store", os.fspath(self._store)]
        try:
            self._store.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.log.exists() and self.log.stat().st_size > _MAX_LOG:
                self.log.unlink()
            with self.log.open("ab") as log:
                start = log.tell()
                # Out of a terminal's reach: by Ctrl-C it would be gone before its job could be cancelled, which then came back to life.
                apart: dict[str, Any] = {"start_new_session": True}
                if sys.platform == "win32":
                    apart = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, **apart)
        except OSError as error:
            raise ServerError(f"The MeDM server cannot be started with {self._python}: {error.strerror}", "unreachable") from error
        try:
            self.url = self._wait_until_ready(self._process, start)
            self.token = (self._store / "token").read_text("ascii").strip()
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self, process: subprocess.Popen[bytes], start: int) -> str:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            died = process.poll() is not None  # asked before reading, so that its last words are read
            lines = self._read_log(start)
            for line in lines:
                if line.startswith("medm_ready ") and line.endswith("\n"):
                    return line.split()[1]
            if died:
                last = lines[-1].strip().removeprefix("medm: ") if lines else f"exit code {process.returncode}"
                raise ServerError(f"The MeDM server did not start: {last}", "unreachable")
            if time.monotonic() > deadline:
                raise ServerError(f"The MeDM server did not start within {START_TIMEOUT:.0f} s; its log is {self.log}", "unreachable")
            time.sleep(0.05)

    def _read_log(self, start: int) -> list[str]:
        with self.log.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace").splitlines(keepends=True)

    def stop(self) -> None:
        """Ends the server; a job that runs is taken up anew at its next start. Does nothing if it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        ends: tuple[Callable[[], None], ...] = (lambda: None, process.terminate, process.kill)
        for end in ends:
            end()
            try:
                process.wait(STOP_TIMEOUT)
                return
            except subprocess.TimeoutExpired:
                continue

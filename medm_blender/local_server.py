"""The MeDM server of this machine: found, started if it is not there, shared by every Blender, and stopped when none needs it.

Standard library only; knows nothing of Blender. A server that works in a store says in `server.json` where it is and holds a lock for as
long as it lives; every Blender that needs it holds a lock too, a lease, and the operating system lets go of both, whoever crashes. What
the server does with them stands in `server/medm/service/sharing.py`.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit

from .client import FINISHED, VERSION, Client, ServerError

START_TIMEOUT = 60.0
"""Seconds that a server may take to accept connections: a cold disk has to give a web framework's worth of Python files."""
STOP_TIMEOUT = 10.0
_POLL = 0.1
_MAX_LOG = 5_000_000
_MAX_DOCUMENT = 10_000
_SCARCE = 1_000_000  # bytes
_OTHER_SERVER = "another MeDM server works in"


def default_store() -> Path:
    """The folder where `medm serve` keeps its shots, jobs, takes and its token if it is told nothing: the user's own data folder."""
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME", "").strip() or Path.home() / ".local" / "share")
    return data / "medm" / "server"


@dataclass(frozen=True)
class Target:
    """Which server is meant.

    Attributes:
        kind: `local`, this machine's, or `remote`.
        url, token: of a remote one.
        python: interpreter of the environment that `medm-server` is installed in, to start the local one with; None: it is not installed.
        store: the local one's folder.
        stop_when_unused: whether a local one that we start ends with the last Blender, as soon as no job is left to do.
    """

    kind: Literal["local", "remote"] = "local"
    url: str = ""
    token: str = ""
    python: Path | None = None
    store: Path = field(default_factory=default_store)
    stop_when_unused: bool = True


def connect(target: Target) -> Client:
    """A server that answers; this machine's is started if it is not there, and held until `release`.

    Blocks for as long as a server takes to start: for a thread. ServerError, in one line, if there is none to be had; its code is
    `not_installed` where there is nothing to start, `wrong_version` where the local server is of another version and others need it.
    """
    if target.kind == "remote":
        client = Client(target.url, target.token)
        client.health()
        return client
    _hold(target.store)
    with _starting(target.store):
        there, version = _found(target.store)
        if there is not None and version == VERSION:
            return there
        if there is not None:
            _replace(there, version, target.store)
        return _start(target)


def find(store: Path) -> Client | None:
    """The server that works in a store and answers; None if there is none. Takes no lease: for who only wants to know."""
    return _found(store)[0]


def release() -> None:
    """Lets go of the servers that `connect` held for this process; one that nobody needs then ends by itself, after its last job."""
    with _state:
        for lease in _leases.values():
            lease.close()
        _leases.clear()


def stop(store: Path) -> None:
    """Ends the server that works in a store, whoever started it; a job that runs is taken up anew at its next start.

    Does nothing if there is none. ServerError if it does not end.
    """
    client = find(store)
    process = _started.get(store)
    if client is not None:
        try:
            client.stop()
        except ServerError as error:
            if error.code == "not_local":
                raise ServerError("This MeDM server serves other machines too; end it where it was started", error.code) from error
    elif process is not None and process.poll() is None:
        process.terminate()  # ours, and deaf
    if client is None and not _is_served(store):
        return
    deadline = time.monotonic() + STOP_TIMEOUT
    while _is_served(store):
        if time.monotonic() > deadline:
            if process is None or process.poll() is not None:
                raise ServerError(f"The MeDM server in {store} does not end; end its process by hand", "unreachable")
            process.kill()
            deadline += STOP_TIMEOUT
        time.sleep(_POLL)
    if process is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):  # it has let go of everything, and has only to be seen off
            process.wait(STOP_TIMEOUT)


def log_file(store: Path) -> Path:
    """Where the servers that we start in a store write what they have to say."""
    return store / "server.log"


def log_tail(store: Path, lines: int = 100) -> str:
    """The last lines of the log of a store's servers; empty if there is none."""
    try:
        with log_file(store).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 500 * lines))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


# Finding


def _found(store: Path) -> tuple[Client | None, str]:
    """The server that works in a store and answers, and its version."""
    document = _announced(store)
    if document is None:
        return None, ""
    try:
        client = Client(document["url"], document["token"])
        health = client.health()
    except ServerError:
        return None, ""
    return client, str(health.get("version", ""))


def _announced(store: Path) -> dict[str, Any] | None:
    """What the server of a store says of itself in server.json; None if none lives, or if that is not what a server would say.

    The token is sent only to an address of this machine, and only while somebody holds the server's lock: what a server that was killed
    had left must not send it to whoever has its port now.
    """
    if not _is_served(store):
        return None
    try:
        with (store / "server.json").open("rb") as file:
            document = json.loads(file.read(_MAX_DOCUMENT))
        address = urlsplit(document["url"]).hostname or ""
        if not isinstance(document["token"], str) or not _is_of_this_machine(address):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    announced: dict[str, Any] = document
    return announced


def _is_of_this_machine(address: str) -> bool:
    """Whether an IP address is one that this machine could listen on."""
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _is_served(store: Path) -> bool:
    """Whether a server works in a store."""
    return _is_locked(store / "server.lock")


def _replace(client: Client, version: str, store: Path) -> None:
    """Ends a server of another version, so that ours can start; ServerError where somebody needs it."""
    document = _announced(store) or {}
    why = f"A MeDM server of version {version} runs on this machine, and this add-on is of {VERSION}"
    if any(job["state"] not in FINISHED for job in client.jobs()):
        raise ServerError(f"{why}; it has a job to finish: try again after that", "wrong_version")
    if not document.get("stops_when_unused"):
        raise ServerError(f"{why}; end it (process {document.get('pid')}) and try again", "wrong_version")
    if _others_hold(store):
        raise ServerError(f"{why}; another Blender uses it: close that one and try again", "wrong_version")
    stop(store)


# Starting

_started: dict[Path, subprocess.Popen[bytes]] = {}
"""The servers that this process has started, by store; one that has ended stays until the next, so that it leaves no zombie."""


def _start(target: Target) -> Client:
    """Starts the server of a store and returns once it answers; the start is ours alone."""
    if target.python is None:
        raise ServerError("The MeDM server is not installed; install it in the add-on's preferences", "not_installed")
    arguments = ["--stop-when-unused"] if target.stop_when_unused else []
    if _is_served(target.store):  # it is starting, or ending, or it hangs
        process, log = None, 0
    else:
        process, log = _launch(target.python, target.store, arguments)
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        ended = process is not None and process.poll() is not None  # asked first, so that its last words are read
        client = find(target.store)
        if client is not None:
            return client
        if process is None and not _is_served(target.store):  # the one before has ended
            process, log = _launch(target.python, target.store, arguments)
        elif process is not None and ended:
            words = _last_words(process, target.store, log)
            if "No module named 'medm" in words:
                raise ServerError(f"There is no MeDM server in {target.python.parent.parent}; install it again", "not_installed")
            if _OTHER_SERVER not in words:
                raise ServerError(f"The MeDM server did not start: {words}", "unreachable")
        time.sleep(_POLL)
    raise ServerError(f"The MeDM server did not answer within {START_TIMEOUT:.0f} s; its log is {log_file(target.store)}", "unreachable")


def _launch(python: Path, store: Path, arguments: list[str], stdin: int = subprocess.DEVNULL) -> tuple[subprocess.Popen[bytes], int]:
    """A server process on a store, and where in the log its words begin."""
    # Isolated (-I): Blender's own Python variables and working folder mean nothing to the server's environment.
    command = [os.fspath(python), "-I", "-m", "medm.cli", "serve", "--port", "0", "--store", os.fspath(store), *arguments]
    # Out of a terminal's reach: by Ctrl-C it would be gone before its job could be cancelled, which then came back to life.
    apart: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        apart = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    place = log_file(store)
    try:
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        if place.exists() and place.stat().st_size > _MAX_LOG:
            place.unlink()
        log = place.open("ab")
    except OSError as error:
        raise ServerError(f"{place} cannot be written: {error.strerror}", "local_file") from error
    with log:
        start = log.tell()
        try:
            process = subprocess.Popen(command, stdin=stdin, stdout=log, stderr=log, **apart)
        except OSError as error:
            raise ServerError(f"The MeDM server cannot be started with {python}: {error.strerror}", "unreachable") from error
    if stdin == subprocess.DEVNULL:
        before, _started[store] = _started.get(store), process
        if before is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it has let go of the store, and has only to be seen off
                before.wait(STOP_TIMEOUT)
    return process, start


def _read_log(store: Path, start: int) -> list[str]:
    with log_file(store).open("rb") as log:
        log.seek(start)
        return log.read().decode(errors="replace").splitlines(keepends=True)


def _last_words(process: subprocess.Popen[bytes], store: Path, start: int) -> str:
    """Why a server ended, as the last line of its log says, or what kept it from saying anything."""
    lines = _read_log(store, start)
    if lines:
        return lines[-1].strip().removeprefix("medm: ")
    if shutil.disk_usage(store).free < _SCARCE:
        return f"the disk is full; make room where {store} is"
    return f"exit code {process.returncode}"


# Locks

_state = threading.RLock()
_leases: dict[Path, _Lease] = {}


class _Lease:
    """Says for as long as this process lives, or until `close`, that it needs the server of a store."""

    def __init__(self, store: Path) -> None:
        folder = store / "leases"
        while True:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._place = folder / f"{os.getpid()}-{secrets.token_hex(4)}"
                self._descriptor = os.open(self._place, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            except OSError as error:
                raise ServerError(f"{folder} cannot be used: {error.strerror}", "local_file") from error
            try:
                _lock(self._descriptor)
                if self._place.stat().st_ino == os.fstat(self._descriptor).st_ino:
                    return
            except OSError:  # the server took it for one that was left behind, before it was locked
                pass
            os.close(self._descriptor)

    @property
    def name(self) -> str:
        """Of its file."""
        return self._place.name

    def close(self) -> None:
        """Does not need it any more."""
        os.close(self._descriptor)
        with contextlib.suppress(OSError):  # whoever sees it before it is gone takes it for one that was left behind
            self._place.unlink()


def _hold(store: Path) -> None:
    """Holds a lease on the server of a store, if we do not yet."""
    with _state:
        if store not in _leases:
            _leases[store] = _Lease(store)


def _others_hold(store: Path) -> bool:
    own = _leases.get(store)
    return any(_is_locked(lease) for lease in (store / "leases").iterdir() if own is None or lease.name != own.name)


@contextlib.contextmanager
def _starting(store: Path) -> Iterator[None]:
    """Lets one at a time, of all processes, look for the server of a store and start it."""
    deadline = time.monotonic() + 2 * START_TIMEOUT
    try:
        descriptor = os.open(store / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ServerError(f"{store} cannot be used: {error.strerror}", "local_file") from error
    try:
        while True:
            try:
                _lock(descriptor)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise ServerError("Another Blender has been starting the MeDM server for minutes; close it", "unreachable") from None
                time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)


def _is_locked(file: Path) -> bool:
    """Whether somebody holds the lock of a file; False if it is not there."""
    try:
        descriptor = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        _lock(descriptor, shared=True)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, shared: bool = False) -> None:
        """Locks an open file until it is closed; OSError if somebody else has. Locks here are never shared."""
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int, shared: bool = False) -> None:
        """Locks an open file until it is closed; OSError if somebody else has. Those who only look share it."""
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def hold(file: Path) -> int | None:
    """Holds the lock of a file, made if need be, until the descriptor that this returns is closed or this process ends.

    None where a file system has no locks. Raises BlockingIOError if somebody else holds it, and OSError if the file cannot be made.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise BlockingIOError(error.errno, error.strerror) from error
        return None
    return descriptor


# A server of one's own


class LocalServer:
    """A server process that lives as long as this object's `with` block, or from `start` to `stop`, and never longer than this process.

    For the demo and for tests, which share with nobody. python: the interpreter of the environment that `medm-server` is installed in.
    store: the folder of its shots, jobs and takes; the log is `server.log` in it. After the start, `url` and `token` are what
    `client.Client` takes.
    """

    def __init__(self, python: Path, store: Path) -> None:
        self._python, self._store = python, store
        self._process: subprocess.Popen[bytes] | None = None
        self.log = log_file(store)
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
        self._process, start = _launch(self._python, self._store, ["--stop-when-stdin-closes"], subprocess.PIPE)
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
            lines = _read_log(self._store, start)
            for line in lines:
                if line.startswith("medm_ready ") and line.endswith("\n"):
                    return line.split()[1]
            if died:
                raise ServerError(f"The MeDM server did not start: {_last_words(process, self._store, start)}", "unreachable")
            if time.monotonic() > deadline:
                raise ServerError(f"The MeDM server did not start within {START_TIMEOUT:.0f} s; its log is {self.log}", "unreachable")
            time.sleep(0.05)

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

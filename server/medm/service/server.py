"""One server process from its first line to its last: the socket, the token, the signals. For `medm serve`."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

import medm
from medm.errors import BadInput, Unavailable
from medm.service.app import create_app
from medm.service.sharing import Sharing
from medm.service.store import Store
from medm.service.worker import Render, Worker, render

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def serve(
    *,
    host: str,
    port: int,
    store_folder: Path,
    token_file: Path | None = None,
    stop_when_stdin_closes: bool = False,
    stop_when_unused: bool = False,
    render: Render = render,
) -> None:
    """Serves until SIGTERM or SIGINT; prints `medm_ready URL` once it accepts connections.

    port 0 takes any free one. Without token_file the token is `token` in the store; it is made if it is not there, readable by its
    owner alone. stop_when_stdin_closes: also stop when standard input ends, so that the server never outlives who started it.
    stop_when_unused: also stop when no program of this machine needs it and no job is left to do (see `medm.service.sharing`).
    Raises Unavailable where the port or the store is taken, BadInput for a host or a token file that is none.
    """
    listener = _listen(host, port)
    with listener:
        store = Store(store_folder)
        try:
            token = _token(token_file or store_folder / "token")
            address = listener.getsockname()[0]
            hosts = _LOOPBACK_NAMES | {address} if ipaddress.ip_address(address).is_loopback else None
            url_host = f"[{address}]" if ":" in address else address
            worker = Worker(store, render)
            server = _Server(f"http://{url_host}:{listener.getsockname()[1]}")
            sharing = Sharing(store_folder, stop_when_unused, store.has_work, server.stop)
            server.config.app = create_app(store, worker, token, hosts, server, sharing)
            here = f"http://{_reached_from_here(address)}:{listener.getsockname()[1]}"
            document = {"url": here, "token": token, "pid": os.getpid(), "version": medm.__version__}
            server.when_ready = lambda: sharing.announce(document)
            if stop_when_stdin_closes:
                threading.Thread(target=_follow_stdin, args=(server,), daemon=True).start()
            try:
                asyncio.run(server.serve(sockets=[listener]))
            finally:
                sharing.close()
        finally:
            store.close()


class _Server(uvicorn.Server):
    """Uvicorn, which says when it is ready and takes a signal to stop as a normal end."""

    def __init__(self, url: str) -> None:
        super().__init__(uvicorn.Config("", log_level="warning", access_log=False, ws="none", lifespan="on", timeout_graceful_shutdown=3))
        self._url = url
        self.when_ready: Callable[[], None] = lambda: None

    def stop(self) -> None:
        """Ends the server soon; from any thread."""
        self.should_exit = True

    @property
    def stopping(self) -> bool:
        """Whether it is about to end."""
        return self.should_exit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.when_ready()
        print(f"medm_ready {self._url}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise BadInput(f"--host {host}: no such address on this machine") from error
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform == "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # on POSIX: take over a port that is only cooling down
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise Unavailable(f"port {port} of {host} cannot be used ({error.strerror}); choose another with --port, 0 for any") from error
    return listener


def _reached_from_here(address: str) -> str:
    """What a program of this machine calls an address that is listened on."""
    if ipaddress.ip_address(address).is_unspecified:
        address = "::1" if ":" in address else "127.0.0.1"
    return f"[{address}]" if ":" in address else address


def _token(file: Path) -> str:
    """The token in `file`, which is made first if it is not there."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise BadInput(f"the token file {file} cannot be made: {error.strerror}") from error
    else:
        with os.fdopen(descriptor, "w") as new:
            new.write(secrets.token_urlsafe(32) + "\n")
    try:
        token = file.read_text("ascii").strip()
    except (OSError, UnicodeError) as error:
        raise BadInput(f"the token file {file} cannot be read") from error
    if len(token) < 16:
        raise BadInput(f"the token in {file} is shorter than 16 characters; remove the file to have a new one made")
    return token


def _follow_stdin(server: _Server) -> None:
    while os.read(0, 4096):
        pass
    server.should_exit = True

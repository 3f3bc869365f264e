"""Talks to a MeDM server over HTTP, version 1. Standard library only; knows nothing of Blender.

Every failure is a `ServerError` with one line to show the user. It talks to the server directly, past any proxy. A client holds no
connection open between calls and may be used from several threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote, urlsplit

Progress = Callable[[float, str], None]
"""Called with (share done from 0 to 1, phase in words). What it raises ends the transfer, which can be taken up again later."""

VERSION = "0.1.0"
"""Of this add-on, and of the server that belongs to it."""
FINISHED = ("done", "failed", "cancelled")
PATIENCE = 6.0
"""Seconds without an answer after which a server that had answered before counts as dead."""
_DIGEST = "X-Content-SHA256"
_BLOCK = 1 << 20
_CONNECT_TIMEOUT = 5.0
_ANSWER_TIMEOUT = 60.0
_HEALTH_TIMEOUT = 5.0
_PLAN_TIMEOUT = 150.0  # the server loads torch for its first answer
_QUIET_TIMEOUT = 10.0  # the server's event stream says at least every 2 s that it is there
_RETRY = 0.5


class ServerError(Exception):
    """The server is not there, refused, or failed; `str()` is one line for the user.

    code: `unreachable`, `wrong_token`, `cancelled`, `bad_shot`, `local_file`, `damaged`, or what the server gave.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """A server at `url`, for instance http://127.0.0.1:8765, that is opened by `token`."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ServerError(f"{url!r} is not the address of a server; it should look like http://127.0.0.1:8765", "bad_address")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._host, self._port, self._secure = parts.hostname, port, parts.scheme == "https"
        self._early: dict[Path, tuple[tuple[int, int], str]] = {}
        self.token = token.strip()
        if not self.token.isascii() or not self.token.isprintable():
            raise ServerError("The server's token has characters that no token has; copy it again", "wrong_token")

    def health(self, timeout: float = _HEALTH_TIMEOUT) -> dict[str, Any]:
        """The server is there and takes the token; it answers at once, or ServerError comes after `timeout` seconds.

        {"status": "ok", "version", "worker": "idle" | "loading" | "busy", "disk_free_gb", "device": None until that is known, then {"kind":
        "cuda" | "mps" | "cpu", "name", "memory_gb", "free_gb"}}
        """
        return self._json("GET", "/v1/health", timeout=timeout)

    def stop(self) -> None:
        """Asks a server that only its own machine reaches to end; a job that runs is taken up anew at its next start."""
        self._json("POST", "/v1/stop")

    def models(self) -> list[dict[str, Any]]:
        """The models it offers: [{"id", "description", "licence", "memory_gb", "available"}]."""
        models: list[dict[str, Any]] = self._json("GET", "/v1/models")["models"]
        return models

    def check_settings(self, settings: dict[str, Any]) -> None:
        """ServerError if the server would not paint with these settings, whatever the shot; see `submit`."""
        self._json("POST", "/v1/settings", settings)

    def upload_early(self, file: Path) -> None:
        """Sends a file of a shot that is still being rendered; `upload_shot`, of this client, then need not send it again.

        The file must be whole, and stay as it is. Blocks for as long as it takes: for a thread of its own. Raises ServerError.
        """
        with _opened(file) as opened:
            with _local(file):
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
                stamp = _stamp(opened)
            opened.seek(0)
            self._put(f"/v1/uploads/{digest}", opened, stamp[0], digest, lambda count: None, file)
        self._early[file.absolute()] = (stamp, digest)

    def upload_shot(self, folder: Path, progress: Progress) -> str:
        """Brings the shot folder to the server and returns the shot's id. Files that are there already are not sent again."""
        manifest, files = _read_manifest(folder)
        progress(0.0, "upload")
        shot = str(self._json("POST", "/v1/shots", manifest)["id"])
        digests = {}
        for path, _ in files:
            digests[path] = self._digest(folder / path)
            progress(0.0, "upload")
        missing = set(self._json("POST", f"/v1/shots/{quote(shot)}/adopt", {"files": digests})["missing"])
        total = sum(size for path, size in files if path in missing) or 1
        sent = 0

        def report(count: int) -> None:
            progress(min((sent + count) / total, 1.0), "upload")

        for path, size in files:
            if path in missing:
                report(0)
                with _opened(folder / path) as file:
                    self._put(f"/v1/shots/{quote(shot)}/files/{quote(path)}", file, size, digests[path], report, folder / path)
                sent += size
        progress(1.0, "upload")
        return shot

    def _digest(self, path: Path) -> str:
        """Of a file, which is read unless it was sent early and has not changed since."""
        with _opened(path) as file, _local(path):
            stamp, digest = self._early.get(path.absolute(), (None, ""))
            return digest if stamp == _stamp(file) else hashlib.file_digest(file, "sha256").hexdigest()

    def submit(self, shot_id: str, settings: dict[str, Any]) -> str:
        """Queues a take of an uploaded shot and returns the job's id. settings: as `medm render` knows them; unknown ones are refused."""
        return str(self._json("POST", "/v1/jobs", {"shot": shot_id, "settings": settings})["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """{"id", "shot", "settings", "state", "progress", "phase", "remaining", "error", ...}; state is queued, running or one of FINISHED.

        remaining: seconds, None while that is not known.
        """
        return self._json("GET", f"/v1/jobs/{quote(job_id)}")

    def preview(self, job_id: str) -> bytes | None:
        """A small JPEG picture of the middle frame as a running job has it by now; None while there is none."""
        with self._answer("GET", f"/v1/jobs/{quote(job_id)}/preview") as response, self._as_server_error():
            return response.read() or None

    def plan(self, width: int, height: int, frames: int, settings: dict[str, Any]) -> dict[str, Any]:
        """Whether a take of that size (pixels) and length fits the server's machine now; may take seconds.

        {"fits": bool, "needs_gb", "free_gb", "message": one line}
        """
        question = {"width": width, "height": height, "frames": frames, "settings": settings}
        return self._json("POST", "/v1/plan", question, timeout=_PLAN_TIMEOUT)

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs of the server, oldest first."""
        jobs: list[dict[str, Any]] = self._json("GET", "/v1/jobs")["jobs"]
        return jobs

    def cancel(self, job_id: str) -> None:
        """Asks a job to stop; `wait` then ends with a ServerError of code `cancelled`. A finished job stays as it is."""
        self._json("POST", f"/v1/jobs/{quote(job_id)}/cancel")

    def wait(self, job_id: str, interval: float = 0.1) -> Generator[tuple[float, str], None, None]:
        """Yields (share done, phase) until the job is done, at least every `interval` seconds, so that a window can step it.

        Follows the server's events, and asks again and again where they do not come through. ServerError if the job failed or was
        cancelled, or if the server is gone for PATIENCE seconds.
        """
        news: queue.SimpleQueue[dict[str, Any] | ServerError] = queue.SimpleQueue()
        enough = threading.Event()
        threading.Thread(target=self._follow, args=(job_id, news, enough), name="medm-wait", daemon=True).start()
        state = (0.0, "queued")
        try:
            while True:
                try:
                    item = news.get(timeout=interval)
                except queue.Empty:
                    yield state
                    continue
                if isinstance(item, ServerError):
                    raise item
                state = (float(item["progress"]), str(item["phase"] or item["state"]))
                yield state
                if item["state"] == "done":
                    return
                if item["state"] == "cancelled":
                    raise ServerError("The job was cancelled", "cancelled")
                if item["state"] == "failed":
                    raise ServerError(str(item["error"]["message"]), str(item["error"]["code"]))
        finally:
            enough.set()

    def download(self, job_id: str, folder: Path, progress: Progress) -> list[Path]:
        """Brings the take of a finished job into `folder` and returns its files. Whole files that are there are not fetched again."""
        start = f"/v1/jobs/{quote(job_id)}/files/"
        files = self._json("GET", start)["files"]
        total = sum(int(file["size"]) for file in files) or 1
        fetched = 0
        places = []

        def report(count: int) -> None:
            progress(min((fetched + count) / total, 1.0), "download")

        for file in files:
            report(0)
            place = folder / _inside(str(file["path"]))
            if not _is_whole(place, file):
                self._get(start + quote(file["path"]), place, file, report)
            fetched += int(file["size"])
            places.append(place)
        report(0)
        return places

    # One request

    @contextlib.contextmanager
    def _answer(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = _ANSWER_TIMEOUT
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request, its body unread. ServerError if there is none, or an error."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=_CONNECT_TIMEOUT)
        try:
            with self._as_server_error():
                connection.connect()
                connection.sock.settimeout(timeout)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a refusal may come before all was sent: read it
                    connection.request(method, path, body, {"Authorization": f"Bearer {self.token}", **(headers or {})})
                response = connection.getresponse()
                if response.status >= 400 and method != "HEAD":
                    raise _refusal(response)
            yield response
        finally:
            connection.close()

    @contextlib.contextmanager
    def _as_server_error(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, ConnectionRefusedError):
                why = "it is not running"
            else:
                why = "it takes too long" if isinstance(error, TimeoutError) else str(error).splitlines()[0] if str(error) else "it hung up"
            message = f"No MeDM server answers at {self.url} ({why}); start it with: medm serve"
            raise ServerError(message, "unreachable") from error

    def _json(self, method: str, path: str, document: Any = None, timeout: float = _ANSWER_TIMEOUT) -> dict[str, Any]:
        body = None if document is None else json.dumps(document).encode()
        with self._answer(method, path, body, {"Content-Type": "application/json"}, timeout) as response, self._as_server_error():
            text = response.read()
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ServerError(f"What answers at {self.url} is not a MeDM server", "unreachable")
        return answer

    def _put(self, path: str, file: IO[bytes], size: int, digest: str, report: Callable[[int], None], name: Path) -> None:
        headers = {_DIGEST: digest, "Content-Length": str(size), "Content-Type": "application/octet-stream"}
        with self._answer("PUT", path, _blocks(file, name, size, report), headers) as response, self._as_server_error():
            response.read()

    def _get(self, path: str, place: Path, expected: dict[str, Any], report: Callable[[int], None]) -> None:
        aside = place.with_name(f".{place.name}.{os.getpid()}.part")
        digest, count = hashlib.sha256(), 0
        try:
            with _local(place):
                place.parent.mkdir(parents=True, exist_ok=True)
                with self._answer("GET", path) as response, aside.open("wb") as file:
                    while block := self._block(response):
                        file.write(block)
                        digest.update(block)
                        count += len(block)
                        report(count)
            if count != int(expected["size"]) or digest.hexdigest() != expected["sha256"]:
                raise ServerError(f"{expected['path']} arrived damaged; download the take again", "damaged")
            with _local(place):
                aside.replace(place)
        finally:
            aside.unlink(missing_ok=True)

    def _block(self, response: http.client.HTTPResponse) -> bytes:
        with self._as_server_error():
            return response.read(_BLOCK)

    # Following a job

    def _follow(self, job_id: str, news: queue.SimpleQueue[dict[str, Any] | ServerError], enough: threading.Event) -> None:
        """Puts the job's states into `news` until its last, or the error that ends the wait."""
        last_seen = time.monotonic()
        while not enough.is_set():
            # Asking plainly before each stream also serves where something between here and there lets no stream through.
            try:
                job = self.job(job_id)
            except ServerError as error:
                if error.code != "unreachable" or time.monotonic() - last_seen > PATIENCE:
                    return news.put(error)
            else:
                news.put(job)
                if job["state"] in FINISHED:
                    return None
                with contextlib.suppress(ServerError):
                    for state in self._events(job_id):
                        if enough.is_set():
                            return None
                        if state is not None:
                            news.put(state)
                            if state["state"] in FINISHED:
                                return None
                last_seen = time.monotonic()
            enough.wait(_RETRY)

    def _events(self, job_id: str) -> Iterator[dict[str, Any] | None]:
        """The job's states as the server sends them, and None for each sign of life between them."""
        with self._answer("GET", f"/v1/jobs/{quote(job_id)}/events", timeout=_QUIET_TIMEOUT) as response, self._as_server_error():
            while line := response.readline():
                yield json.loads(line[5:]) if line.startswith(b"data:") else None


def _refusal(response: http.client.HTTPResponse) -> ServerError:
    try:
        error = json.loads(response.read())["error"]
        message, code = str(error["message"]), str(error["code"])
    except (ValueError, KeyError, TypeError):
        return ServerError(f"The server answered with {response.status} {response.reason}; is it a MeDM server?", "unreachable")
    if code == "wrong_token":
        message = "The server does not take this token; copy the one that its store holds in the file `token`"
    return ServerError(message, code)


def _read_manifest(folder: Path) -> tuple[dict[str, Any], list[tuple[str, int]]]:
    """The shot.json of a folder, and (path, size in bytes) of each file that it lists."""
    with _local(folder / "shot.json"):
        text = (folder / "shot.json").read_bytes()
    try:
        manifest = json.loads(text)
        listed = ((frame["data"], frame.get("rest"), frame.get("beauty")) for frame in manifest["frames"])
        paths = [str(path) for frame in listed for path in frame if path is not None] + [
            str(path) for path in manifest.get("references", [])
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ServerError(f"{folder} holds no shot of MeDM; export the shot again", "bad_shot") from None
    files = []
    for path in paths:
        with _local(folder / path):
            files.append((path, (folder / _inside(path)).stat().st_size))
    return manifest, files


def _opened(path: Path) -> BufferedReader:
    with _local(path):
        return path.open("rb")


@contextlib.contextmanager
def _local(path: Path) -> Iterator[None]:
    """Turns what the local disk refuses into a ServerError that names the file."""
    try:
        yield
    except OSError as error:
        raise ServerError(f"{path} cannot be used: {error.strerror or error}", "local_file") from error


def _inside(path: str) -> Path:
    """A path from a document as one below a folder of ours; ServerError if it would lead out of it."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or any(character in path for character in "\\:\0"):
        raise ServerError(f"A file name is not allowed: {path!r}", "bad_path")
    return Path(*pure.parts)


def _stamp(file: IO[bytes]) -> tuple[int, int]:
    """(bytes, time of the last change) of an open file: while it stays, so does the content."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _blocks(file: IO[bytes], path: Path, size: int, report: Callable[[int], None]) -> Iterator[bytes]:
    """The file in blocks, each reported; ServerError if it is not `size` bytes long any more."""
    count = 0
    while count < size:
        with _local(path):
            block = file.read(min(_BLOCK, size - count))
        if not block:
            raise ServerError(f"{path} changed while it was sent; export the shot again", "bad_shot")
        yield block
        count += len(block)
        report(count)


def _is_whole(place: Path, expected: dict[str, Any]) -> bool:
    if not place.is_file() or place.stat().st_size != int(expected["size"]):
        return False
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == str(expected["sha256"])

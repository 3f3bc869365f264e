"""A hub of model files on this machine: as much of the real one's HTTP API as huggingface_hub needs to fetch a repository's files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class TinyHub:
    """`repos`: {OWNER/NAME: {path: file}}. `requests`: all that came. `break_after`: bytes after which a larger file breaks off, and the
    hub is `down` from then on."""

    def __init__(self, repos: dict[str, dict[str, Path]]) -> None:
        self.repos, self.requests = repos, []
        self.break_after: int | None = None
        self.down = self.damage = False
        self.url = ""

    def siblings(self, repo: str) -> list[dict[str, object]]:
        listed: list[dict[str, object]] = []
        for path, file in self.repos[repo].items():
            data = file.read_bytes()
            listed.append({"rfilename": path, "size": len(data)})
            if path.endswith(".safetensors"):
                listed[-1]["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return listed


@contextmanager
def serve(hub: TinyHub) -> Iterator[TinyHub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path.removeprefix("/")
            hub.requests.append((self.command, path, self.headers.get("Range")))
            if path.startswith("api/models/"):
                repo = "/".join(path.split("/")[2:4])
                if repo not in hub.repos:
                    return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                document = {"id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "siblings": hub.siblings(repo)}
                return self.answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})
            repo, _, rest = path.partition("/resolve/")
            if hub.down:
                return self.answer(503, b"", {})
            file = hub.repos.get(repo, {}).get(rest.partition("/")[2])
            if file is None:
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            data = file.read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if hub.damage and file.suffix == ".safetensors":
                data = data[:-1] + bytes([data[-1] ^ 1])
            self.answer(206 if start else 200, data[start:], headers)

        def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if hub.break_after is not None and len(data) > hub.break_after:
                self.wfile.write(data[: hub.break_after])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)
                hub.down = True
                return
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A package index of our own on this machine, with tiny packages: what pip is really asked, slowly if a test wants, and counted."""

from __future__ import annotations

import base64
import hashlib
import http.server
import threading
import time
import zipfile
from pathlib import Path
from urllib.parse import unquote


def wheel(folder, name, version, *, needs=(), files=None, size=0):
    """Writes a wheel; `size`: bytes of incompressible ballast in it."""
    place = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    contents = {path: text.encode() for path, text in (files or {f"{name}/__init__.py": ""}).items()}
    if size:
        contents[f"{name}/ballast"] = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(size // 32))
    needed = "".join(f"Requires-Dist: {need}\n" for need in needs)
    contents[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}".encode()
    contents[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in contents.items()) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(place, "w") as archive:
        for path, data in {**contents, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(path, data)
    return place


def _digest(data):
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def server_wheel(folder, version="0.1.0"):
    """One that has just what the installation tries in the end."""
    files = {
        "medm/__init__.py": f"__version__ = {version!r}",
        "medm/cli.py": "",
        "medm/service/__init__.py": "",
    }
    return wheel(folder, "medm_server", version, needs=("torch==2.0", "diffusers"), files=files)


class Index:
    """Serves the wheels of a folder with their metadata, as PyPI does.

    delay: seconds that every 64 kB of a wheel takes. lost_at: the name of a package in the middle of whose wheel it goes, for good.
    asked: (method, path) of all requests.
    """

    def __init__(self, folder):
        self.folder, self.delay, self.asked = folder, 0.0, []
        self.lost_at, self._lost = None, False
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer()

            def answer(self, body=True):
                self.close_connection = index._lost
                if index._lost:
                    return
                index.asked.append((self.command, self.path))
                kind, data = index.content(self.path)
                self.send_response(200 if data is not None else 404)
                self.send_header("Content-Type", kind)
                if self.path.endswith((".whl", ".metadata")):
                    self.send_header("Cache-Control", "max-age=365000000, immutable, public")
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                for start in range(0, len(data or b"") if body else 0, 65536):
                    if self.path.endswith(".whl"):
                        time.sleep(index.delay)
                        if index.lost_at is not None and index.lost_at in self.path and start >= len(data) // 2:
                            index._lost = self.close_connection = True
                            return
                    try:
                        self.wfile.write(data[start : start + 65536])
                    except OSError:
                        return

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/simple"

    def content(self, path):
        name = unquote(Path(path.rstrip("/")).name)
        if path.endswith(".metadata"):
            with zipfile.ZipFile(self.folder / name.removesuffix(".metadata")) as archive:
                inside = next(entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
                return "text/plain", archive.read(inside)
        if path.endswith(".whl"):
            return "application/octet-stream", (self.folder / name).read_bytes()
        wheels = [file.name for file in self.folder.glob(f"{name.replace('-', '_')}-*.whl")]
        links = "".join(f'<a href="/files/{file}" data-core-metadata="true">{file}</a>\n' for file in wheels)
        return "text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode() if wheels else None

    def downloads(self):
        """The wheels that were fetched whole."""
        return [path.rpartition("/")[2] for method, path in self.asked if method == "GET" and path.endswith(".whl")]

    def close(self):
        self._server.shutdown()
        self._server.server_close()

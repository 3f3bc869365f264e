"""What the tests of the service share: a server process, requests as they go over the wire, a small shot folder."""

import http.client
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # medm_blender is no installed package: Blender loads it as an extension

SCRIPT = Path(__file__).with_name("quick_server.py")


class ServerProcess:
    """`quick_server.py` on a store, from construction to `stop` or `kill`; or with the option `--stop-when-unused`."""

    def __init__(self, store, *options):
        self.store = store
        self.process = subprocess.Popen([sys.executable, SCRIPT, store, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ready = self.process.stdout.readline()
        assert ready.startswith("medm_ready http://127.0.0.1:"), ready
        self.url = ready.split()[1]
        self.port = int(self.url.rpartition(":")[2])
        self.token = (store / "token").read_text().strip()

    def stop(self):
        self.process.stdin.close()
        self._end()
        assert self.process.returncode == 0

    def kill(self):
        self.process.kill()
        self._end()

    def _end(self):
        self.process.wait(15)
        self.process.stdout.close()
        if not self.process.stdin.closed:
            self.process.stdin.close()

    def request(self, method, path, body=None, *, token=None, **headers):
        """(status, headers, JSON document or bytes); the path goes over the wire as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"Authorization": f"Bearer {token or self.token}", **{key.replace("_", "-"): value for key, value in headers.items()}}
        if isinstance(body, dict | list):
            body = json.dumps(body)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        is_json = response.headers.get("content-type") == "application/json" and data
        return response.status, response.headers, json.loads(data) if is_json else data

    def wait(self, job, *states, seconds=15):
        """The job's document once it is in one of the states."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            _, _, document = self.request("GET", f"/v1/jobs/{job}")
            if document["state"] in states:
                return document
            time.sleep(0.02)
        raise AssertionError(f"not {states}: {document}")


def manifest(name="clip", frames=2, beauty=False):
    """A shot.json of which the service reads the frames' files alone."""
    numbers = range(1, frames + 1)
    return {
        "format": "medm-shot",
        "version": 1,
        "name": name,
        "frames": [{"frame": n, "data": f"data/{n:04d}.exr", "beauty": f"beauty/{n:04d}.png" if beauty else None} for n in numbers],
    }


def write_shot(folder, name="clip", beauty=False):
    """A shot folder of two frames; to the service its files are bytes."""
    document = manifest(name, beauty=beauty)
    (folder / "data").mkdir(parents=True)
    (folder / "beauty").mkdir()
    for frame in document["frames"]:
        (folder / frame["data"]).write_bytes(f"{name} {frame['frame']} ".encode() * 1000)
        if beauty:
            (folder / frame["beauty"]).write_bytes(f"{name} beauty {frame['frame']}".encode())
    (folder / "shot.json").write_text(json.dumps(document))
    return folder

"""A real server process whose worker makes tiny takes at once: the prompt says how a job should go. Run as a script by the tests."""

import os
import signal
import sys
import time
from pathlib import Path

from medm.errors import BadInput
from medm.service.server import serve


def quick_render(shot, settings, take, progress):
    match settings["prompt"]:
        case "slow":
            for step in range(1200):
                progress(step / 1200, "sampling")
                time.sleep(0.05)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "defect":
            raise RuntimeError("shapes do not match\nsecond line")
        case "refused":
            raise BadInput("the shot shows nothing")
    (take / "frames").mkdir(parents=True)
    progress(0.5, "half")
    data = b"".join((shot / path).read_bytes() for path in ("data/0001.exr", "data/0002.exr"))
    (take / "frames" / "0001.png").write_bytes(data)
    (take / "take.json").write_text(f'{{"process": {os.getpid()}}}')
    progress(1.0, "written")


def deaf_render(shot, settings, take, progress):
    progress(0.0, "deaf")
    time.sleep(600)


if __name__ == "__main__":
    serve(host="127.0.0.1", port=0, store_folder=Path(sys.argv[1]), stop_when_stdin_closes=True, render=quick_render)

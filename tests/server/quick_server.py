"""A real server process whose worker makes tiny takes at once: the prompt says how a job should go. Run as a script by the tests.

Its store holds a model called `quick`, which looks like one as far as the API looks: whether MeDM's own is installed does not matter.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from medm.errors import BadInput
from medm.presets import PARTS, PIPELINE
from medm.service.server import serve
from medm.service.store import PREVIEW


def quick_render(shot, settings, models, take, progress):
    match settings["prompt"]:
        case "steps":
            for step in range(10):
                progress(step / 10, f"paint, step {step + 1} of 10")
                time.sleep(0.2)
        case "slow":
            take.with_name(PREVIEW).write_bytes(b"a picture")
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
    data = b"".join(path.read_bytes() for path in sorted((shot / "data").glob("*.exr"))[:2])
    (take / "frames" / "0001.png").write_bytes(data)
    (take / "take.json").write_text(f'{{"process": {os.getpid()}}}')
    progress(1.0, "written")


def deaf_render(shot, settings, models, take, progress):
    progress(0.0, "deaf")
    time.sleep(600)


def write_quick_model(folder):
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "model.safetensors").touch()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": PIPELINE}))


if __name__ == "__main__":
    store = Path(sys.argv[1])
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_quick_model(store / "models" / "quick")
    serve(
        host="127.0.0.1",
        port=0,
        store_folder=store,
        stop_when_stdin_closes=True,
        stop_when_unused="--stop-when-unused" in sys.argv,
        render=quick_render,
    )

"""What analysing a shot takes, in bytes a pixel of the clip: the most that a process held, beyond what it held before.

    PYTHONPATH=tests/server .venv/bin/python server/bench/memory.py [--size 512x288] [--frames 24] [--window 16] [SHOT]

Without SHOT the shot is made up: a wall, two things that move, and sky, under a camera that pans. Each way to analyse it runs in a process
of its own. Says, too, whether all came to the same codes.

With --render: what rendering it takes beyond the loaded model, in GB, against what was planned: with as much memory as there is, with the
most with which flows are not kept, and with the most with which not all frames are painted together. The take is of 2 steps.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from medm.correspondence import analyse
from medm.shot import Shot

WAYS = {
    "passes kept by the caller": "kept",
    "flows filled in the caller's passes": "in place",
    "in windows": "window",
    "in windows, without the flows": "window, no flows",
}


def made_up(folder: Path, width: int, height: int, length: int) -> None:
    """A shot of `length` frames; needs tests/server on the path."""
    from synthetic import Rectangle, Scene, at, camera, write_shot

    wall = Rectangle(1, lambda _: at(y=0.5, z=-8.0), half=(40.0, 2.0))
    movers = [
        Rectangle(n, lambda t, n=n: at(n - 3.5 + 0.03 * t, 0.2 * n - 0.5, -4.0 - n, turn=(0, 0.02 * t, 0.01 * t)), half=(0.8, 0.6))
        for n in (2, 3)
    ]
    scene = Scene([wall, *movers], camera=lambda t: camera(at(x=0.04 * t, turn=(0, 0.004 * t, 0)), width, height), length=length)
    write_shot(folder / "shot", scene, beauty=False, objects=True)


def peak() -> int:
    """Bytes that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(folder: Path, way: str, window: int) -> None:
    """Prints bytes a pixel, seconds and a digest of the codes."""
    shot = Shot.open(folder)
    analyse(shot.part(0, 2), None)  # what is loaded once
    before, start = peak(), time.perf_counter()
    if way.startswith("window"):
        found = analyse(shot, None, window=window, flows=way == "window")
    else:
        found = analyse(shot, shot.gbuffer(), in_place=way == "in place")
    took = time.perf_counter() - start
    digest = hashlib.sha256(np.ascontiguousarray(found.codes.codes)).hexdigest()[:12]
    print((peak() - before) / found.codes.codes.size, took, digest)


RENDERS = {
    "all at once": lambda plan: True,
    "passes some at a time, flows read anew": lambda plan: not plan.flows,
    "painted in windows": lambda plan: plan.window is not None,
}


def measure_render(folder: Path, way: str) -> None:
    """Prints how it was done, and the planned and the true GB."""
    from medm.diffusion import rendering
    from medm.diffusion.plan import ModelFacts, Plan, plan
    from medm.settings import RenderSettings

    done: list[tuple[Plan, int]] = []

    def plan_of(shot: Shot, settings: RenderSettings, model: rendering.Model) -> Plan:
        width, height = shot.size
        free = 2**36
        while True:
            found = plan(
                len(shot), height, width, ModelFacts.loaded(model), model.device, settings, free_device=int(free), free_host=int(free)
            )
            if RENDERS[way](found):
                done.append((found, held()))
                return found
            free *= 0.98

    rendering.plan_of = plan_of
    rendering.render_take(Shot.open(folder), RenderSettings(steps=2), folder.parent / f"take {way}")
    found, before = done[0]
    how = f"{found.read or len(Shot.open(folder))} | {'yes' if found.flows else 'no'} | {found.window or found.length}"
    print(f"{how} | {found.networks} and {found.autoencoder} | {found.peak('host') / 1e9:.2f} | {(peak() - before) / 1e9:.2f}")


def held() -> int:
    """Bytes that this process holds now; of Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shot", type=Path, nargs="?")
    parser.add_argument("--size", default="512x288")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--render", action="store_true", help="what rendering takes instead, on a CPU")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.way == "make":
        width, height = (int(side) for side in options.size.split("x"))
        made_up(options.shot, width, height, options.frames)
        return
    if options.way in RENDERS:
        measure_render(options.shot, options.way)
        return
    if options.way:
        measure(options.shot, options.way, options.window)
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.shot is None:  # elsewhere: what this process has held counts for those that it starts
            subprocess.run([sys.executable, __file__, folder, *sys.argv[1:], "--way", "make"], check=True)
        path = options.shot or Path(folder) / "shot"
        shot = Shot.open(path)
        if options.render:
            print(f"{len(shot)} frames of {shot.size[0]}x{shot.size[1]}\n")
            print("| | passes held | flows kept | painted together | at once | planned, GB | measured, GB | seconds |")
            print("|---|---|---|---|---|---|---|---|")
            for way in RENDERS:
                start = time.perf_counter()
                command = [sys.executable, __file__, str(path), "--way", way]
                run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
                print(f"| {way} | {run.stdout.strip()} | {time.perf_counter() - start:.0f} |", flush=True)
            return
        print(f"{len(shot)} frames of {shot.size[0]}x{shot.size[1]}, windows of {options.window}\n")
        print("| | bytes a pixel | seconds |\n|---|---|---|")
        digests = set()
        for name, way in WAYS.items():
            command = [sys.executable, __file__, str(path), "--way", way, "--window", str(options.window)]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            size, seconds, digest = run.stdout.split()
            digests.add(digest)
            print(f"| {name} | {float(size):.1f} | {float(seconds):.1f} |", flush=True)
        print("\nthe codes are the same" if len(digests) == 1 else "\nTHE CODES DIFFER")


if __name__ == "__main__":
    main()

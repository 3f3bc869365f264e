"""What an export costs: the data passes beside a beauty of 64 samples, uploading while it renders, and memory over a long shot.

    .venv-bpy/bin/python server/bench/export.py -o DIR cost [--scene demo|heavy] [--frames N]
    .venv-bpy/bin/python server/bench/export.py -o DIR memory [--frames 240]
    .venv-bpy/bin/python server/bench/export.py -o DIR upload --megabits 20

`cost` prints processor seconds a frame, which other work on the machine does not change much, seconds by the clock, and what the files
take, by kind of pass; `memory` the process's resident memory every 24 pictures; `upload` how long a take's submission takes to a server
process behind a line of so many megabits a second, beside rendering first and uploading then.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bpy

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from medm_blender import demo_scene, passes, tasks
from medm_blender.client import Client, ServerError
from medm_blender.local_server import LocalServer


class Line:
    """A line of so many megabits a second to a server of this machine, at `url`."""

    def __init__(self, server: str, megabits: float) -> None:
        self._seconds_a_byte = 8 / (megabits * 1e6)
        self._server = urlsplit(server)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            here, _ = self._listening.accept()
            there = socket.create_connection((self._server.hostname, self._server.port))
            threading.Thread(target=self._carry, args=(here, there, self._seconds_a_byte), daemon=True).start()
            threading.Thread(target=self._carry, args=(there, here, 0.0), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket, seconds_a_byte: float) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 14):
                time.sleep(len(content) * seconds_a_byte)
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)


class LateClient(Client):
    """Sends nothing before all is rendered."""

    def upload_early(self, file: Path) -> None:
        """Refuses, as a server does that takes no files early."""
        raise ServerError("not now", "not_found")


def heavy(frames: int, size: tuple[int, int]) -> Any:
    """The demo's scene with a ground of two million triangles that bends, and ten thousand instances on it."""
    scene = demo_scene.build(frames, size)
    bpy.context.window.scene = scene
    bpy.ops.mesh.primitive_grid_add(x_subdivisions=1000, y_subdivisions=1000, size=40, location=(0, 0, -0.5))
    ground = bpy.context.object
    wave = ground.modifiers.new("Wave", "WAVE")
    wave.height, wave.width = 0.1, 2.0
    bpy.ops.mesh.primitive_uv_sphere_add(segments=48, ring_count=24, radius=0.05)
    pebble = bpy.context.object
    for number in range(10_000):
        copy = bpy.data.objects.new("Pebble", pebble.data)
        angle = number * 2.399963
        copy.location = (0.15 * math.sqrt(number) * math.cos(angle), 0.15 * math.sqrt(number) * math.sin(angle), -0.3)
        scene.collection.objects.link(copy)
    return scene


def cost(scene: Any, out: Path, size: tuple[int, int], scales: tuple[int, ...]) -> None:
    """Processor seconds, seconds by the clock, and megabytes a frame."""
    scene.render.engine, scene.cycles.samples, scene.cycles.use_adaptive_sampling = "CYCLES", 64, False
    seconds: dict[str, tuple[float, float]] = {}
    for scale in scales:
        taken: dict[str, list[tuple[float, float]]] = {}
        last = time.process_time(), time.monotonic()

        def note(_: float, phase: str, taken: dict[str, list[tuple[float, float]]] = taken) -> None:
            nonlocal last
            now = time.process_time(), time.monotonic()
            taken.setdefault(phase, []).append((now[0] - last[0], now[1] - last[1]))
            last = now

        folder = passes.export_shot(scene, out / f"scale {scale}", size=size, beauty=scale == 1, data_supersampling=scale, progress=note)
        for phase, took in taken.items():
            processor, clock = (sum(column) / len(took) for column in zip(*took, strict=True))
            megabytes = sum(file.stat().st_size for file in (folder / phase).glob("*")) / len(took) / 1e6
            seconds[f"{phase} {scale}"] = processor, clock
            print(f"scale {scale}, {phase}: {processor:.2f} s of processor, {clock:.2f} s, {megabytes:.1f} MB a frame", flush=True)
    for number, kind in enumerate(("processor time", "time by the clock")):
        extra = sum(seconds[f"{phase} 1"][number] for phase in ("look", "data", "rest") if f"{phase} 1" in seconds)
        print(f"{kind}: looks, data and rest passes take {extra / seconds['beauty 1'][number]:.1%} of the beauty's")


def memory(scene: Any, out: Path, size: tuple[int, int]) -> None:
    """Resident megabytes as the frames go by."""
    count = 0
    started = time.monotonic()

    def note(_: float, phase: str) -> None:
        nonlocal count
        count += phase != "look"
        for file in (out / "memory").glob("*/*.exr"):
            file.unlink()  # gigabytes that nobody looks at
        if count in (1, 8) or (count and count % 24 == 0):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"{phase} {count}: {pages * 4096 / 1e6:.0f} MB, {time.monotonic() - started:.0f} s", flush=True)

    passes.export_shot(scene, out / "memory", size=size, beauty=False, progress=note)


def upload(scene: Any, out: Path, size: tuple[int, int], megabits: float) -> None:
    """Submission with and without sending early, each to a new server process; the job is called off."""
    python = Path(__file__).resolve().parents[2] / ".venv/bin/python"
    for words, kind in (("after rendering", LateClient), ("while it renders", Client)):
        with LocalServer(python, out / words / "store") as server:
            client = kind(Line(server.url, megabits).url, server.token)
            started = time.monotonic()
            rendered = 0.0

            def note(_: float, phase: str) -> None:
                nonlocal rendered
                if phase.startswith(("data", "rest")):
                    rendered = time.monotonic()

            job = tasks.run(tasks.submit_take(scene, client, {}, out / words, size=size), note)
            ended = time.monotonic()
            client.cancel(job)
        sent = sum(file.stat().st_size for file in (out / words / "shot").rglob("*.exr")) / 1e6
        print(f"{words}: rendered after {rendered - started:.1f} s, submitted after {ended - started:.1f} s; {sent:.1f} MB", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="What an export costs.")
    parser.add_argument("what", choices=("cost", "memory", "upload"))
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--scene", choices=("demo", "heavy"), default="demo")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--size", default="384x216")
    parser.add_argument("--scales", default="1")
    parser.add_argument("--megabits", type=float, default=20.0)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    frames = options.frames or (240 if options.what == "memory" else 24)
    scene = (heavy if options.scene == "heavy" else demo_scene.build)(frames, (width, height))
    if options.what == "cost":
        cost(scene, options.out, (width, height), tuple(map(int, options.scales.split(","))))
    elif options.what == "memory":
        memory(scene, options.out, (width, height))
    else:
        upload(scene, options.out, (width, height), options.megabits)


if __name__ == "__main__":
    main()

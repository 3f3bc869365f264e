"""The demo, as a studio's batch would do it: a shot built by script, exported, painted by a server of its own, and cut into an edit.

`python -m medm_blender.demo --out DIR --server-python PYTHON`, with the bpy module; `bootstrap.py demo` calls it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import bpy

from . import cli, compat, demo_scene, passes, sequencer, tasks
from .client import Client
from .local_server import LocalServer

TAKES: dict[str, dict[str, Any]] = {
    "per-frame": {"mode": "full", "w": 0.0, "noise": "independent"},
    "full": {"mode": "full"},
    "assistive": {"mode": "assistive", "strength": 0.5},
}
"""The demo's takes and what makes each: plain per-frame ControlNet to compare with, and both modes."""


def run(out: Path, server_python: Path, frames: int, size: tuple[int, int], prompt: str, steps: int, seed: int) -> None:
    """Builds the scene, exports it, paints all TAKES and saves `out`/demo.blend with them in its edit scene."""
    say("scene", "building the shot")
    scene = demo_scene.build(frames=frames, size=size)
    keep_only(scene)
    sequencer.save(out / "scene.blend")

    say("export", "rendering data passes and beauty")
    shot = passes.export_shot(scene, out / "shot", name="demo", size=size, progress=cli.show_progress)

    with LocalServer(server_python, out / "server") as server:
        say("server", f"listening on {server.url}")
        client = Client(server.url, server.token)
        for name, choice in TAKES.items():
            started = time.monotonic()
            settings = {"prompt": prompt, "steps": steps, "seed": seed, **choice}
            say("take", f"{name}: {', '.join(f'{key} {value}' for key, value in settings.items())}")
            tasks.run(tasks.paint_take(client, shot, settings, out / "takes" / name), cli.show_progress)
            say("take", f"{name}: done in {time.monotonic() - started:.0f} s")

    say("edit", "placing the original and the takes in the sequencer")
    fps = scene.render.fps / scene.render.fps_base
    edit = sequencer.edit_scene("demo edit", fps, *size, frames, scene.frame_start)
    sequencer.place(edit, "original", shot / "beauty", scene.frame_start)
    for name in ("assistive", "full"):
        sequencer.place(edit, name, out / "takes" / name / "frames", scene.frame_start)
    sequencer.show(edit)
    sequencer.save(out / "demo.blend")


def keep_only(scene: Any) -> None:
    """Remove the start-up file's own scene, with its cube, so that the saved files hold the demo and nothing else."""
    for other in [other for other in bpy.data.scenes if other != scene]:
        for thing in list(other.collection.all_objects):
            bpy.data.objects.remove(thing)
        bpy.data.scenes.remove(other)
    bpy.data.orphans_purge(do_recursive=True)


def say(stage: str, text: str) -> None:
    """One line a stage, for whoever watches."""
    print(f"[{stage}] {text}", flush=True)


def main(arguments: list[str]) -> int:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m medm_blender.demo", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--server-python", type=Path, required=True, metavar="PYTHON", help="of the environment with medm-server")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=cli.size, default=(512, 288), metavar="WxH")
    parser.add_argument("--prompt", default="a porcelain sculpture")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.frames < 2:
        parser.error("--frames: the shot needs at least 2, or nothing would move")
    return cli.attempt(
        lambda: run(
            options.out.absolute(), options.server_python, options.frames, options.size, options.prompt, options.steps, options.seed
        )
    )


if __name__ == "__main__":
    compat.leave(main(sys.argv[1:]))

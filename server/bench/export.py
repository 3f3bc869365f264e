"""Times the export of the demo's shot, without its beauty, with data passes as fine as the pixels and three times as fine.

    .venv-bpy/bin/python server/bench/export.py -o DIR

Prints seconds a frame and what the files take, by kind of pass.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import bpy  # noqa: F401 - before anything that uses Blender's libraries

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from medm_blender import demo_scene, passes


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time the export of the demo's shot.")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    out: Path = parser.parse_args().out
    scene = demo_scene.build(24, (384, 216))
    for scale in (1, 3):
        seconds: dict[str, list[float]] = {}
        last = time.monotonic()

        def note(_: float, phase: str, seconds: dict[str, list[float]] = seconds) -> None:
            nonlocal last
            now = time.monotonic()
            seconds.setdefault(phase, []).append(now - last)
            last = now

        folder = passes.export_shot(scene, out / f"scale {scale}", beauty=False, data_supersampling=scale, progress=note)
        for phase, took in seconds.items():
            size = sum(file.stat().st_size for file in (folder / phase).iterdir()) / len(took) / 1e6
            print(f"scale {scale}, {phase}: {sum(took) / len(took):.2f} s and {size:.1f} MB a frame", flush=True)


if __name__ == "__main__":
    main()

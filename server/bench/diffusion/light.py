"""Exports the demo's shot with light that fades: what the benchmark of local harmonisation paints.

Run with Blender's Python:
    .venv-bpy/bin/python server/bench/diffusion/light.py -o SHOT [--frames 24] [--size 256x144] [--to 0.6]

Sun and sky fade alike and evenly, in scene-linear energy, from all of it in the first frame to the share `--to` of it in the last.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import bpy

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from medm_blender import demo_scene, passes


def fade(scene: Any, to: float) -> None:
    """Keys every lamp and the sky of `scene` so that their energy falls to the share `to`."""
    first, last = scene.frame_start, scene.frame_end
    lamps = [thing.data for thing in scene.objects if thing.type == "LIGHT"]
    skies = [node.inputs["Strength"] for node in scene.world.node_tree.nodes if node.bl_idname == "ShaderNodeBackground"]
    for owner, name in [(lamp, "energy") for lamp in lamps] + [(sky, "default_value") for sky in skies]:
        full = getattr(owner, name)
        for frame in range(first, last + 1):
            setattr(owner, name, full * (1.0 + (to - 1.0) * (frame - first) / max(last - first, 1)))
            owner.keyframe_insert(name, frame=frame)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Export the demo's shot with light that fades.")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="SHOT")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", default="256x144", metavar="WxH")
    parser.add_argument("--to", type=float, default=0.6, help="share of the energy that is left in the last frame (default: %(default)s)")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = demo_scene.build(options.frames, (width, height))
    fade(scene, options.to)
    print(passes.export_shot(scene, options.out, progress=lambda share, phase: print(f"medm_progress {share:.3f} {phase}", flush=True)))


if __name__ == "__main__":
    main()

"""How much of a slow change of light takes keep, by harmonisation.

    .venv/bin/python server/bench/diffusion/light_kept.py SHOT [--strength 0.5,0.35] [--prompt TEXT] [--steps 12] [--only ROW,...] [-o DIR]

SHOT is one whose light changes slowly, as light.py exports it. Every row of the table is a take, painted over the shot's own render.

    light kept     as `medm evaluate` measures it: the share of the render's slow change that the take has; and as a share of what the
                   take at w = 0 has, since the model keeps no more than that itself
    warping, sharpness   as `medm evaluate` measures them; sharpness as a share of w = 0's

With -o the takes are kept, to be looked at: DIR/STRENGTH/ROW.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from medm.correspondence import analyse
from medm.diffusion.rendering import render_take
from medm.evaluate import Judge, read_take
from medm.settings import RenderSettings
from medm.shot import Shot

ROWS: dict[str, dict[str, Any]] = {
    "w = 0": {"w": 0.0},
    "key": {},
    "global": {"harmonisation": "global"},
    "weighted": {"harmonisation": "weighted"},
    "local": {"harmonisation": "local"},
}


def bench(shot: Shot, strength: float, prompt: str, steps: int, only: list[str], out: Path) -> None:
    """Prints the table for one strength."""
    gbuffer = shot.gbuffer()
    judge = Judge(analyse(shot, gbuffer), gbuffer.object_id, shot.beauty())
    print(f"\n{shot.folder.name}: {len(shot)} frames of {shot.size[0]} x {shot.size[1]}, {steps} steps, strength {strength}, {prompt!r}\n")
    print("| | light kept | of w = 0 | warping error | sharpness of w = 0 |")
    print("|---|---|---|---|---|")
    base: tuple[float, float] | None = None
    for name, options in ROWS.items():
        if only and name not in only:
            continue
        settings = RenderSettings(prompt=prompt, steps=steps, mode="assistive", strength=strength, **options)
        take = out / str(strength) / name
        render_take(shot, settings, take)
        numbers = judge.measure(read_take(shot, take))
        kept, sharpness = numbers["light_kept"] or 0.0, numbers["sharpness"] or 0.0
        if name == "w = 0":
            base = kept, sharpness
        shares = ("", "") if base is None else (f"{kept / base[0]:.3f}", f"{sharpness / base[1]:.3f}")
        print(f"| {name} | {kept:.3f} | {shares[0]} | {numbers['warping_error']:.5f} | {shares[1]} |", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="How much of a slow change of light takes keep.")
    parser.add_argument("shot", type=Path, metavar="SHOT")
    parser.add_argument("--strength", type=lambda text: [float(part) for part in text.split(",")], default=[0.5, 0.35], metavar="S,...")
    parser.add_argument("--prompt", default="a porcelain sculpture")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="ROW,...")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for strength in options.strength:
            bench(Shot.open(options.shot), strength, options.prompt, options.steps, options.only, options.out or Path(scratch))


if __name__ == "__main__":
    main()

"""Draws the pictures of docs/control.md: every kind of control image of one frame, and what a selection would have painted.

.venv/bin/python server/bench/control.py SHOT -o docs/images --frame 16 --paint 'Figure*, Arch*'
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from medm.diffusion.control import control_images, facts_of, view_of
from medm.diffusion.masks import painted
from medm.inspection.sheets import chosen_frames, sheet
from medm.inspection.views import mask_picture
from medm.shot import Shot


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shot", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--frame", type=int, required=True)
    parser.add_argument("--paint", required=True)
    options = parser.parse_args()
    shot = Shot.open(options.shot)
    gbuffer = shot.gbuffer()
    facts = facts_of(gbuffer, {number: thing.name for number, thing in shot.objects.items()})
    view = view_of(gbuffer, shot.cameras, [shot.frame_numbers.index(options.frame)])
    kinds = ["normal", "normal-bae", "depth", "segmentation", "lineart", "lineart@3", "softedge", "canny"]
    pictures = [np.rint(control_images(view, [kind], 3, facts)[0].transpose(1, 2, 0) * 255).astype(np.uint8) for kind in kinds]
    sheet({"": pictures}, kinds).save(options.out / "control.png")

    few = chosen_frames(len(shot), 4)
    coverage, beauty = painted(shot, gbuffer.object_id, options.paint), shot.beauty()
    masks = [mask_picture(beauty[t], coverage[t]) for t in few]
    sheet({"": masks}, [f"frame {shot.frame_numbers[t]}" for t in few]).save(options.out / "mask.png")


if __name__ == "__main__":
    main()

"""Draws what codings do to a texture: each code keeps the colour of the surface where it was born, and the last frame is painted with that.

    .venv/bin/python server/bench/correspondence/picture.py SHOT -o FILE.png

For a shot of static things. The texture is a checkerboard in world space, so the first picture, painted from each pixel's own position, is
what the others should be. Below: by how much each pixel is off, its own point against its code's birth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from medm.correspondence import Codes, analyse
from medm.pictures import contact_sheet
from medm.shot import Float32, GBuffer, Shot

CHECK = 0.25
"""Side of a square, scene units."""
WORST = 6.0
"""Pixels of error that are shown as white."""


def texture(position: Float32) -> Float32:
    """(..., 3) world positions to colours, 0 to 1: a checkerboard tinted by place."""
    odd = np.floor(position / CHECK + 1e-3).astype(np.int64).sum(axis=-1) % 2
    tint = 0.5 + 0.4 * np.sin(position * np.array([0.9, 0.7, 1.1], np.float32))
    return np.asarray(np.where(odd[..., None] == 1, tint, 0.25 * tint + 0.05), np.float32)


def painted(codes: Codes, gbuffer: GBuffer) -> Float32:
    """(H, W, 3) the last frame in the colours of births."""
    x, y = codes.birth_xy.astype(np.intp).T
    born = texture(gbuffer.position[codes.birth_frame, y, x])
    born[gbuffer.background[codes.birth_frame, y, x]] = 0.6
    return np.asarray(born[codes.codes[-1]], np.float32)


def error(codes: Codes, shot: Shot, gbuffer: GBuffer) -> Float32:
    """(H, W, 3) grey: 0 exact, white WORST pixels off."""
    last = codes.codes[-1]
    off = np.zeros(last.shape, np.float32)
    for t in np.unique(codes.birth_frame[last]):
        mine = (codes.birth_frame[last] == t) & ~gbuffer.background[-1]
        there, _ = shot.cameras[t].project(gbuffer.position[-1][mine])
        off[mine] = np.linalg.norm(there - codes.birth_xy[last[mine]], axis=-1)
    return np.repeat(np.clip(off / WORST, 0, 1)[..., None], 3, axis=-1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Paint a shot's last frame with the colours that its codes were born with.")
    parser.add_argument("shot", type=Path, metavar="SHOT")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    shot = Shot.open(arguments.shot)
    gbuffer = shot.gbuffer()
    truth = np.where(gbuffer.background[-1, ..., None], np.float32(0.6), texture(gbuffer.position[-1]))
    rounded = analyse(shot, gbuffer, "rounded").codes
    subpixel = analyse(shot, gbuffer, "subpixel").codes
    rows = {
        "the surface itself": [truth, np.zeros_like(truth)],
        f"rounded codes (algorithm 1), and how far each pixel is off: white is {WORST:.0f} px": [
            painted(rounded, gbuffer),
            error(rounded, shot, gbuffer),
        ],
        "sub-pixel codes, and how far each pixel is off": [painted(subpixel, gbuffer), error(subpixel, shot, gbuffer)],
    }
    sheet = {name: (np.stack(frames) * 255).round().astype(np.uint8) for name, frames in rows.items()}
    contact_sheet(sheet, columns=2).save(arguments.out)


if __name__ == "__main__":
    main()

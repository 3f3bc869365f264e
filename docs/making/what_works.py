"""Makes the pictures and the figures of docs/what-works.md again: `.venv/bin/python docs/making/what_works.py BPY_PYTHON OUT [NAME ...]`.

BPY_PYTHON runs what_works_scenes.py; OUT keeps the shots, which are not exported again if they are there. Each picture has the first frame
above the last; from left to right the beauty, the normals, a take from noise and a take over the beauty.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from medm import correspondence
from medm.shot import Shot

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "images" / "what-works"
NAMES = ("hair", "volume", "transparency", "particles", "instancing", "text", "grease_pencil")
TAKES = {"full": ["--mode", "full"], "assistive": ["--mode", "assistive", "--strength", "0.5"]}
WIDTH = 240


def figures(folder: Path) -> dict[str, float]:
    """What the passes know of the thing, over the pixels that it makes: those where the picture with it differs from the one without.

    share: of the picture that it makes. known: share of its pixels where the passes show another surface than without it. followed and
    still: root mean square difference of the beauty between a frame and the one before, in levels of 255, moved by the exact flow and
    not moved at all, over the pixels that are not occluded.
    """
    shot, empty = Shot.open(folder / "shot"), Shot.open(folder / "empty")
    beauty = shot.beauty().astype(np.float32)
    thing = np.abs(beauty - empty.beauty()).max(axis=-1) > 24
    buffer, without = shot.gbuffer(), empty.gbuffer()
    known = np.linalg.norm(buffer.position - without.position, axis=-1) > 1e-3
    found = correspondence.analyse(shot, buffer)
    followed, still = [], []
    for t in range(1, len(beauty)):
        flow = found.flow_to_prev[t]
        judged = thing[t] & ~found.occluded[t]
        followed.append(((beauty[t] - _moved(beauty[t - 1], flow)) ** 2).mean(axis=-1)[judged])
        still.append(((beauty[t] - beauty[t - 1]) ** 2).mean(axis=-1)[judged])
    root = lambda parts: float(np.sqrt(np.concatenate(parts).mean()))  # noqa: E731
    return {"share": float(thing.mean()), "known": float(known[thing].mean()), "followed": root(followed), "still": root(still)}


def _moved(frame: npt.NDArray[np.float32], flow: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    height, width, _ = frame.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = np.clip(x + flow[..., 0], 0, width - 1.001), np.clip(y + flow[..., 1], 0, height - 1.001)
    left, top = x.astype(int), y.astype(int)
    a, b = (x - left)[..., None], (y - top)[..., None]
    upper = frame[top, left] * (1 - a) + frame[top, left + 1] * a
    lower = frame[top + 1, left] * (1 - a) + frame[top + 1, left + 1] * a
    return upper * (1 - b) + lower * b


def picture(folder: Path) -> Image.Image:
    """The page's picture of a thing."""
    shot = Shot.open(folder / "shot")
    buffer = shot.gbuffer()
    columns = [shot.beauty(), _normals(buffer.normal)]
    for take in TAKES:
        files = sorted((folder / take / "frames").glob("*.png"))
        columns.append(np.stack([np.asarray(Image.open(file)) for file in files]))
    height = round(WIDTH * buffer.normal.shape[1] / buffer.normal.shape[2])
    page = Image.new("RGB", (WIDTH * 4 + 12, height * 2 + 4), "white")
    for column, frames in enumerate(columns):
        for row, index in enumerate((0, -1)):
            page.paste(
                Image.fromarray(frames[index]).resize((WIDTH, height), Image.Resampling.LANCZOS), (column * (WIDTH + 4), row * (height + 4))
            )
    return page


def _normals(normal: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    coloured = np.round((normal * 0.5 + 0.5) * 255).astype(np.uint8)
    coloured[np.linalg.norm(normal, axis=-1) == 0] = 0
    return coloured


def main(arguments: list[str]) -> int:
    """Command line; see the module's first lines."""
    blender, out = arguments[0], Path(arguments[1])
    names = arguments[2:] or list(NAMES)
    missing = [name for name in names if not (out / name / "empty/shot.json").exists()]
    if missing:
        subprocess.run([blender, str(HERE / "what_works_scenes.py"), str(out), *missing], check=True)
    IMAGES.mkdir(exist_ok=True)
    for name in names:
        for take, options in TAKES.items():
            if not (out / name / take / "take.json").exists():
                command = [sys.executable, "-m", "medm.cli", "render", str(out / name / "shot"), "-o", str(out / name / take), *options]
                subprocess.run([*command, "--prompt", "a terracotta sculpture", "--steps", "8"], check=True, capture_output=True)
        picture(out / name).quantize(160, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)
        print(name, json.dumps({key: round(value, 3) for key, value in figures(out / name).items()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Does a weighted mean keep more of a picture than a plain one? Measured where the truth is known.

    PYTHONPATH=tests/server .venv/bin/python server/bench/weights.py

A textured floor, a wall and a turning sign, all at a slant, under a camera that comes closer; ray-cast, painted with 36 samples a pixel.
Noise of each pixel's own stands for the whims of a model. Compared are the pixels that see their point best: what they show without
noise is the truth of their code.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from medm.correspondence import analyse
from medm.correspondence.facts import confidence, gather_facts
from medm.evaluate import sharpness
from medm.harmonize import Harmonizer
from medm.shot import Shot
from synthetic import Rectangle, Scene, at, camera, write_shot

WIDTH, HEIGHT, LENGTH, SAMPLES = 192, 112, 24, 6
NEARLY_BEST, OFTEN = 1.1, 8


def scene() -> Scene:
    """The three surfaces and the camera."""
    floor = Rectangle(1, lambda _: at(y=-1.0, z=-6.0, turn=(-np.pi / 2, 0, 0)), half=(30.0, 30.0))
    wall = Rectangle(2, lambda _: at(0.3, 0.4, -8.0, turn=(0, 0.5, 0)), half=(2.5, 1.4))
    sign = Rectangle(3, lambda t: at(-1.6, 0.0, -7.0, turn=(0, -1.35 + 0.1 * t, 0)), half=(1.2, 0.9))
    return Scene([floor, wall, sign], camera=lambda t: camera(at(z=-0.2 * t), WIDTH, HEIGHT), length=LENGTH)


def painted(world: Scene) -> np.ndarray:
    """(T, H, W, 3) float32: waves of all lengths that stick to the surfaces, averaged over each pixel."""
    rng = np.random.default_rng(1)
    waves = [(rng.normal(size=2) * pitch, rng.uniform(0, 6.3), pitch**-0.5) for pitch in np.geomspace(2, 60, 60)]
    loudness = np.sqrt(sum(height**2 / 2 for _, _, height in waves))
    frames = []
    for t in range(LENGTH):
        _, index, place, _ = world.hits(t, scale=SAMPLES)
        value = sum(height * np.sin(place @ vector + phase + 2 * index) for vector, phase, height in waves) / loudness
        fine = np.where(index >= 0, 0.5 + 0.16 * value, 0.5).reshape(HEIGHT, SAMPLES, WIDTH, SAMPLES)
        frames.append(np.repeat(fine.mean(axis=(1, 3))[..., None], 3, axis=-1))
    return np.array(frames, np.float32)


def main() -> None:
    """Print the table."""
    world = scene()
    with tempfile.TemporaryDirectory() as folder:
        shot = Shot.open(write_shot(Path(folder) / "shot", world, beauty=False, objects=True))
        gbuffer = shot.gbuffer()
        codes = analyse(shot, gbuffer).codes
    facts = gather_facts(codes, gbuffer, shot.cameras)
    best = facts.footprint <= NEARLY_BEST * facts.finest_footprint[codes.codes]
    compared = best & (facts.frames >= OFTEN)[codes.codes] & ~gbuffer.background
    ways = {
        "plain": Harmonizer(codes.codes, codes.count),
        "weighted": Harmonizer(codes.codes, codes.count, weights=confidence(facts, codes)),
    }
    truth = painted(world)
    print("noise  way             error  sharpness")
    for noise in (0.0, 0.05, 0.1):
        frames = truth + np.float32(noise) * np.random.default_rng(3).normal(size=truth.shape).astype(np.float32)
        rows = {"frame by frame": frames}
        for name, harmonizer in ways.items():
            mean = harmonizer.global_mean(torch.from_numpy(frames).permute(0, 3, 1, 2))
            rows[name] = np.ascontiguousarray(mean.permute(0, 2, 3, 1).numpy())
        for name, result in rows.items():
            error = np.square(result - truth)[compared].mean()
            print(f"{noise:5.2f}  {name:14} {error:.6f}  {sharpness(result, gbuffer.object_id):.5f}")


if __name__ == "__main__":
    main()

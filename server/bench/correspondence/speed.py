"""Prints how long coding and local harmonisation take on one thread, as Markdown tables.

    .venv/bin/python server/bench/correspondence/speed.py [--device cuda]

The clip is made up: a textured plane under a camera that pans to and fro and rolls, with noise of 0.02 px on the flow, and 5 % of the
pixels occluded in blocks of 8x8. One run of everything, after a short one that loads what is loaded once.

What it is compared with, the literal ways:
    coding, pixel by pixel      algorithm 1 read line by line in Python, on some rows of one frame, scaled to all pixels
    coding, frame by frame      the same with NumPy's arrays for its sets: destinations, gather, novel pixels, with indices of 64 bits
    local, code by code         for every code: gather its trajectory, pad it, convolve it, put it back, in NumPy; the trajectories are
                                sorted beforehand (not counted); on every 50th code, scaled to all pixels
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from measure import table

from medm.correspondence.coding import rounded
from medm.correspondence.subpixel import subpixel
from medm.correspondence.surface import SurfaceFrame
from medm.harmonize import Harmonizer, gaussian
from medm.shot import Bool, Float32, Float64, Int32

PAN, PAN_FRAMES, ROLL = 0.15, 48, 0.05  # of the width, there and back, radians
SIGMA, WIDTH = 2.0, 8


@dataclass(frozen=True)
class Clip:
    """T frames of H x W pixels of a plane. `place(t)` is the world position of every pixel, and stands in for a `Surface`."""

    length: int
    height: int
    width: int
    flow_to_prev: Float32
    flow_to_next: Float32
    occluded: Bool
    device: str

    @classmethod
    def make(cls, length: int, height: int, width: int, device: str = "cpu") -> Clip:
        """Flow from the plane's motion, exact but for the noise."""
        rng = np.random.default_rng(0)
        shape = (length, height, width)
        to_prev, to_next = np.zeros((*shape, 2), np.float32), np.zeros((*shape, 2), np.float32)
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)
        for t in range(length):
            world = _to_world(grid, t, height, width)
            for flow, other in ((to_prev, t - 1), (to_next, t + 1)):
                flow[t] = _to_pixels(world, other, height, width) - grid + rng.normal(0, 0.02, grid.shape)
        blocks = rng.random((length, -(-height // 8), -(-width // 8))) < 0.05
        occluded = np.kron(blocks, np.ones((1, 8, 8), np.bool_))[:, :height, :width]
        return cls(length, height, width, to_prev, to_next, np.ascontiguousarray(occluded), device)

    def frame(self, t: int) -> SurfaceFrame:
        """As `Surface.frame`."""
        grid = np.stack(np.meshgrid(np.arange(self.width), np.arange(self.height)), axis=-1).astype(np.float64)
        coordinates = np.zeros((self.height * self.width, 3), np.float32)
        coordinates[:, :2] = _to_world(grid, t, self.height, self.width).reshape(-1, 2)
        normal = np.tile(np.array([0, 0, 1], np.float32), (len(coordinates), 1))
        ids = torch.ones(len(coordinates), dtype=torch.int32, device=self.device)
        on_device = (torch.from_numpy(values).to(self.device) for values in (coordinates, normal))
        return SurfaceFrame(*on_device, ids, self.height, self.width)

    def rounded(self) -> Int32:
        """Rounded codes."""
        return rounded(self.flow_to_prev, self.occluded, device=self.device).codes

    def subpixel(self, reidentify: bool) -> Int32:
        """Subpixel codes."""
        cuts = np.arange(self.length) == 0
        ids = np.ones(self.occluded.shape, np.int32)
        surface = self if reidentify else None
        return subpixel(self.flow_to_prev, self.flow_to_next, self.occluded, ids, cuts, surface, self.device).codes


def _camera(t: float, height: int, width: int) -> tuple[Float64, Float64]:
    phase = 2 * np.pi * t / PAN_FRAMES
    angle = ROLL * np.sin(phase)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn, np.array([PAN * width * (1 - np.cos(phase)), 0.1 * height * np.sin(phase)])


def _to_world(pixels: Float64, t: float, height: int, width: int) -> Float64:
    turn, place = _camera(t, height, width)
    return (pixels - [width / 2, height / 2]) @ turn.T + place


def _to_pixels(world: Float64, t: float, height: int, width: int) -> Float64:
    turn, place = _camera(t, height, width)
    return (world - place) @ turn + [width / 2, height / 2]


def coding_by_pixel(clip: Clip, rows: int) -> tuple[int, Int32]:
    """Algorithm 1 on the first rows of frame 1: pixels done, and their codes."""
    before = np.arange(clip.height * clip.width).reshape(clip.height, clip.width)
    codes, fresh = np.empty((rows, clip.width), np.int32), clip.height * clip.width
    for y in range(rows):
        for x in range(clip.width):
            dx, dy = clip.flow_to_prev[1, y, x]
            there_x, there_y = round(x + dx), round(y + dy)
            if clip.occluded[1, y, x] or not (0 <= there_x < clip.width and 0 <= there_y < clip.height):
                codes[y, x], fresh = fresh, fresh + 1
            else:
                codes[y, x] = before[there_y, there_x]
    return rows * clip.width, codes


def coding_by_frame(clip: Clip) -> Int32:
    """Algorithm 1 with one NumPy array for each of its sets."""
    y, x = np.mgrid[: clip.height, : clip.width].astype(np.float32)
    codes = [np.arange(clip.height * clip.width).reshape(clip.height, clip.width)]
    fresh = clip.height * clip.width
    for t in range(1, clip.length):
        there_x, there_y = np.round(x + clip.flow_to_prev[t, ..., 0]), np.round(y + clip.flow_to_prev[t, ..., 1])
        left = (there_x < 0) | (there_x >= clip.width) | (there_y < 0) | (there_y >= clip.height)
        novel = clip.occluded[t] | left
        here = np.empty((clip.height, clip.width), np.int64)
        here[~novel] = codes[-1][there_y[~novel].astype(np.int64), there_x[~novel].astype(np.int64)]
        here[novel] = np.arange(fresh, fresh + novel.sum())
        fresh += novel.sum()
        codes.append(here)
    return np.stack(codes)


def local_by_code(codes: Int32, frames: Float32, every: int) -> Callable[[], int]:
    """A function that does every so-many-th code and returns the number of pixels done. frames: (pixels, C)."""
    flat = codes.ravel()
    order = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[order], np.arange(flat.max() + 2))
    kernel = np.array(gaussian(SIGMA, WIDTH), np.float32)
    result = np.empty_like(frames)

    def run() -> int:
        done = 0
        for code in range(0, len(bounds) - 1, every):
            pixels = order[bounds[code] : bounds[code + 1]]
            padded = np.pad(frames[pixels], ((WIDTH // 2, WIDTH // 2), (0, 0)), mode="reflect")
            for channel in range(frames.shape[1]):
                result[pixels, channel] = np.convolve(padded[:, channel], kernel, mode="valid")
            done += len(pixels)
        return done

    return run


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """Of one call, with all that it leaves to the device."""
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def one_clip(length: int, height: int, width: int, device: str) -> str:
    """The table of the issue's clip."""
    clip = Clip.make(length, height, width, device)
    pixels = clip.occluded.size
    rows = 40
    by_pixel = seconds(lambda: coding_by_pixel(clip, rows)) * pixels / (rows * width)
    by_frame = seconds(lambda: coding_by_frame(clip))
    ours = seconds(lambda: clip.rounded(), device)
    assert (clip.rounded() == coding_by_frame(clip)).all()
    plain, again = (seconds(lambda reidentify=reidentify: clip.subpixel(reidentify), device) for reidentify in (False, True))

    codes = clip.rounded()
    frames = np.random.default_rng(1).random((length, 3, height, width), np.float32)
    every = 50
    some = local_by_code(codes, frames.transpose(0, 2, 3, 1).reshape(-1, 3), every)
    start = time.perf_counter()
    done = some()
    by_code = (time.perf_counter() - start) * pixels / done
    harmonizer, tensor = Harmonizer(codes, int(codes.max()) + 1, device), torch.from_numpy(frames).to(device)
    first = seconds(lambda: harmonizer.local(tensor, SIGMA, WIDTH, "reflect"), device)
    later = seconds(lambda: harmonizer.local(tensor, SIGMA, WIDTH, "reflect"), device)
    return table(
        ["", "seconds", "against"],
        [
            ["coding, literal, pixel by pixel (scaled)", f"{by_pixel:.1f}", f"{by_pixel / ours:.0f}x rounded"],
            ["coding, literal, frame by frame in NumPy", f"{by_frame:.2f}", f"{by_frame / ours:.1f}x rounded"],
            ["coding, rounded", f"{ours:.2f}", ""],
            ["coding, subpixel, no reidentify", f"{plain:.2f}", f"{plain / ours:.1f}x rounded"],
            ["coding, subpixel", f"{again:.2f}", f"{again / ours:.1f}x rounded"],
            ["local, literal, code by code (scaled)", f"{by_code:.1f}", f"{by_code / later:.1f}x local"],
            ["local, the first time (sorts)", f"{first:.2f}", ""],
            ["local, from then on", f"{later:.2f}", ""],
        ],
    )


def curve(height: int, width: int, lengths: tuple[int, ...], device: str) -> str:
    """Nanoseconds for every pixel of every frame, by the number of frames."""
    rows = []
    for length in lengths:
        clip = Clip.make(length, height, width, device)
        times = [
            seconds(work, device) for work in (clip.rounded, lambda clip=clip: clip.subpixel(False), lambda clip=clip: clip.subpixel(True))
        ]
        rows.append([str(length), *(f"{1e9 * spent / clip.occluded.size:.0f}" for spent in times)])
    return table(["frames", "rounded, ns", "subpixel, no reidentify, ns", "subpixel, ns"], rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time coding and local harmonisation on one thread.")
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    warm = Clip.make(4, 64, 64, device)
    warm.rounded(), warm.subpixel(True)
    print("50 x 436 x 1024:\n")
    print(one_clip(50, 436, 1024, device), flush=True)
    print("\n256 x 144, for every pixel of every frame:\n")
    print(curve(144, 256, (16, 32, 64, 120, 240, 480), device))


if __name__ == "__main__":
    main()

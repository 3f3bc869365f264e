"""Flow to the frame before, from flow to the next: for datasets that ship only one direction."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch

from medm.correspondence.background import NOWHERE, pixel_grid
from medm.correspondence.sampling import sample_flow
from medm.shot import Bool, Float32, Float64

Indices = npt.NDArray[np.intp]

_ROUNDS = 10
SAME_DEPTH = 0.9
"""Of a surface point in two neighbouring frames, the smaller depth is above this share of the larger."""
_MISS = 0.25
"""Pixels by which the flow there must lead back to where it came from."""


def inverse_flow(flow: Float32, usable: Bool, depth: tuple[Float32, Float32] | None = None) -> Float32:
    """The backward flow of the next frame, on its own pixels.

    Solves x + flow(x) = y for the place x of every pixel y of the next frame, by fixed-point iteration from the usable pixel that lands
    nearest to y. Between pixels the flow is bilinear where it is smooth, else that of the nearest: where the given flow is exact, the
    result is as exact as bilinear interpolation of it. Pixels to which no place leads within a quarter of a pixel, and at which no pixel
    lands within half a pixel either, have come into view. With depth, what lies at another depth than what is said to have moved there
    has come into view too, and at a silhouette, where nothing hides how the surface goes on, a whole pixel is allowed.

    Args:
        flow: (H, W, 2) to the next frame, pixels.
        usable: (H, W) pixels whose surface point is in view in the next frame, and whose flow is right.
        depth: (H, W) planar depth of this frame and of the next one, if it is known.

    Returns:
        (H, W, 2) float32, pixels: x - y; NOWHERE for pixels that have come into view.
    """
    height, width = usable.shape
    usable = usable & np.isfinite(flow).all(axis=-1)
    result = np.full((height, width, 2), NOWHERE, np.float32)
    target, source = _seeds(flow, usable)
    if not len(target):
        return result
    y, x = np.divmod(target, width)
    pixels = np.stack([x, y], axis=-1).astype(np.float32)
    low, high = np.float32(-0.5), np.array([width - 0.5, height - 0.5], np.float32)
    rows, ids = torch.from_numpy(np.where(usable[..., None], flow, 0).reshape(-1, 2)), torch.from_numpy((~usable).astype(np.int64).ravel())
    seed_flow = flow[source[:, 1], source[:, 0]]
    place = pixels - seed_flow
    zero = torch.zeros(len(target), dtype=torch.int64)
    moved = np.zeros_like(pixels)
    for _ in range(_ROUNDS):
        place = np.clip(place, low, high - np.float32(1e-3))
        columns = torch.from_numpy(place[:, 0].copy()), torch.from_numpy(place[:, 1].copy())
        moved = torch.stack(sample_flow(*columns, zero, rows, ids, height, width), dim=-1).numpy()
        wanted = pixels - moved
        miss = np.linalg.norm(wanted - place, axis=-1)
        if (miss < 1e-4).all():
            break
        place = wanted
    inside = (place >= low).all(axis=-1) & (place < high).all(axis=-1) & (miss <= _MISS)
    near = np.rint(np.clip(place, 0, high - np.float32(0.5))).astype(np.intp)
    found = inside & usable[near[:, 1], near[:, 0]]
    result[y[found], x[found]] = -moved[found]
    # Where a surface ends the place lies beyond its outermost pixels: its edge is up to a pixel beyond, in the mean half a pixel.
    apart = np.abs(pixels - source - seed_flow).max(axis=-1)
    if depth is None:
        rim = ~found & (apart <= 0.5)
    else:
        here, before, now = depth[0], depth[0][source[:, 1], source[:, 0]], depth[1][y, x]
        with np.errstate(invalid="ignore"):
            same = np.minimum(before, now) >= SAME_DEPTH * np.maximum(before, now)
            behind = cv2.erode(here, np.ones((3, 3), np.uint8))[source[:, 1], source[:, 0]] < SAME_DEPTH * before
        # That the pixel shows the surface of that depth settles it, unless that surface goes on behind something.
        rim = ~found & same & (apart <= np.where(behind, 0.5, 1.0))
        result[y[~same], x[~same]] = NOWHERE
    result[y[rim], x[rim]] = -seed_flow[rim]
    return result


def _seeds(flow: Float32, usable: Bool) -> tuple[Indices, Indices]:
    """Pixels (N,) of the next frame at which something lands less than a pixel away, and the pixels x, y (N, 2) that land nearest."""
    height, width = usable.shape
    source = pixel_grid(width, height)[usable]
    lands: Float64 = (source + flow[usable]).astype(np.float64)
    corner = np.floor(lands)
    targets, distances, sources = [], [], []
    for step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        pixel = corner + step
        inside = (pixel >= 0).all(axis=-1) & (pixel < [width, height]).all(axis=-1)
        targets.append((pixel[inside] @ [1, width]).astype(np.intp))
        distances.append(np.square(pixel[inside] - lands[inside]).sum(axis=-1))
        sources.append(source[inside].astype(np.intp))
    target, distance, place = np.concatenate(targets), np.concatenate(distances), np.concatenate(sources)
    shortest = np.full(height * width, np.inf)
    np.minimum.at(shortest, target, distance)
    nearest = distance == shortest[target]
    chosen = np.full((height * width, 2), -1, np.intp)
    chosen[target[nearest]] = place[nearest]
    reached = np.flatnonzero(chosen[:, 0] >= 0)
    return reached, chosen[reached]

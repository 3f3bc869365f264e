"""Flow Coding: every pixel gets the index of the surface point that it shows.

For correspondence.analyse, and for whoever has flow from elsewhere. Two ways:

`rounded` is the paper's algorithm 1 to the letter: whole pixels, one gather a frame. It drifts, half a pixel a frame.
`subpixel` carries every code's continuous place along and assigns pixels to the nearest: it does not drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from medm.correspondence.background import pixel_grid
from medm.correspondence.occlusion import MAX_ROUND_TRIP, nearest_pixel
from medm.progress import Progress, silent
from medm.shot import Bool, Float32, Int32

REACH = 0.71
"""Pixels within which a pixel takes a living code: half the diagonal of a pixel, so that a lattice of codes leaves no gaps."""
SMOOTH = 0.5
"""Pixels within which the flow of the four pixels around a place must agree to be interpolated."""


@dataclass(frozen=True)
class Codes:
    """Which surface point every pixel shows.

    Attributes:
        codes: (T, H, W) int32, 0 <= code < count; every number in that range occurs.
        count: number of codes.
        birth_frame: (count,) int32, index t of the frame in which the code was given out.
        birth_xy: (count, 2) float32, where in that frame, pixels.
    """

    codes: Int32
    count: int
    birth_frame: Int32
    birth_xy: Float32


def rounded(flow: Float32, occluded: Bool, direction: Literal["backward", "forward"] = "backward") -> Codes:
    """Algorithm 1, vectorised; bit-identical to reading it pixel by pixel.

    What it leaves open is settled so: a destination out of the frame, or not finite, is novel as an occluded pixel is; fresh codes go to
    novel pixels in row-major order (line 14 must mean E[N], not E[V]); halves are rounded to even, as `torch.round` does, after
    adding in float32.

    Args:
        flow: (T, H, W, 2) float32, pixels. Backward: flow[t] points from frame t to t-1 and the first frame is the anchor
            (codes 0 to HW-1 in row-major order). Forward: flow[t] points from t to t+1, and the last frame is the anchor.
            The anchor's own flow is not read.
        occluded: (T, H, W), pixels that have no counterpart in the frame that the flow points to. The anchor's is not read.
        direction: see `flow`.
    """
    length, height, width = occluded.shape
    order = range(length) if direction == "backward" else range(length - 1, -1, -1)
    grid = pixel_grid(width, height)
    codes = np.empty((length, height, width), np.int32)
    births = _Births()
    before = -1
    for t in order:
        if before < 0:
            novel = np.ones((height, width), np.bool_)
        else:
            target, inside = nearest_pixel(grid + flow[t], width, height)
            codes[t] = codes[before][target[..., 1], target[..., 0]]
            novel = occluded[t] | ~inside
        codes[t][novel] = births.give(t, novel)
        before = t
    return births.finish(codes)


def subpixel(
    flow_to_prev: Float32, flow_to_next: Float32, occluded: Bool, object_id: Int32, cuts: Bool, progress: Progress = silent
) -> Codes:
    """Codes that travel on continuous trajectories.

    From one frame to the next every living code moves by `flow_to_next`, bilinear where the four pixels around it agree
    within 0.5 px and show its object, else nearest. A pixel may take a code that lands within 0.71 px of it if it shows the code's
    object, is not occluded, and its `flow_to_prev` leads back to within 1 px of where the code came from. It takes the nearest such
    code, of equally near ones the oldest. A code that no pixel may take dies; one that pixels may take but that another code is
    nearer to lives on. Pixels that find no code give birth to one, at their centre. At a cut all codes die.

    Args:
        flow_to_prev: (T, H, W, 2) float32, pixels, background filled.
        flow_to_next: (T, H, W, 2) float32, pixels, background filled.
        occluded: (T, H, W), pixels without a counterpart in the frame before.
        object_id: (T, H, W), no code is ever shared between two ids.
        cuts: (T,) bool, frames that take nothing over; the first always does not.
        progress: told once a frame.
    """
    length, height, width = occluded.shape
    codes = np.full((length, height, width), -1, np.int32)
    births = _Births()
    living = _Living.none()
    for t in range(length):
        progress(t / length, "code")
        if t == 0 or cuts[t]:
            living = _Living.none()
        else:
            living = _step(living, flow_to_prev[t], flow_to_next[t - 1], occluded[t], object_id[t - 1], object_id[t], codes[t])
        novel = codes[t] < 0
        fresh = births.give(t, novel)
        codes[t][novel] = fresh
        living = living.with_born(fresh, births.places[-1], object_id[t][novel])
    progress(1.0, "code")
    return births.finish(codes)


class _Births:
    """Gives out codes, and remembers where."""

    def __init__(self) -> None:
        self.count = 0
        self.frames: list[Int32] = []
        self.places: list[Float32] = []

    def give(self, t: int, novel: Bool) -> Int32:
        """Fresh codes for the novel pixels of a frame, in row-major order."""
        y, x = np.nonzero(novel)
        self.frames.append(np.full(len(x), t, np.int32))
        self.places.append(np.stack([x, y], axis=-1).astype(np.float32))
        fresh = np.arange(self.count, self.count + len(x), dtype=np.int32)
        self.count += len(x)
        return fresh

    def finish(self, codes: Int32) -> Codes:
        return Codes(codes, self.count, np.concatenate(self.frames), np.concatenate(self.places))


@dataclass(frozen=True)
class _Living:
    """The codes that are in view: number, continuous place, object. Sorted by number, oldest first."""

    code: Int32
    x: Float32
    y: Float32
    object_id: Int32

    @classmethod
    def none(cls) -> _Living:
        return cls(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.int32))

    def with_born(self, code: Int32, xy: Float32, object_id: Int32) -> _Living:
        return _Living(
            np.concatenate([self.code, code]),
            np.concatenate([self.x, xy[:, 0]]),
            np.concatenate([self.y, xy[:, 1]]),
            np.concatenate([self.object_id, object_id]),
        )

    def only(self, keep: npt.NDArray[np.intp]) -> _Living:
        return _Living(self.code[keep], self.x[keep], self.y[keep], self.object_id[keep])


def _step(
    living: _Living, flow_to_prev: Float32, flow_to_next: Float32, occluded: Bool, ids_before: Int32, ids: Int32, codes: Int32
) -> _Living:
    """Move the living codes on by one frame and let the pixels of `codes` (H, W) take them, in place; returns the survivors."""
    height, width = ids.shape
    flow_x, flow_y = _sample_flow(living, flow_to_next, ids_before)
    with np.errstate(invalid="ignore", over="ignore"):
        x, y = living.x + flow_x, living.y + flow_y
        keep = np.flatnonzero((x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5))
    living = _Living(living.code[keep], x[keep], y[keep], living.object_id[keep])
    x, y, flow_x, flow_y = living.x, living.y, flow_x[keep], flow_y[keep]

    left, top = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    back_x, back_y = np.ascontiguousarray(flow_to_prev[..., 0]).ravel(), np.ascontiguousarray(flow_to_prev[..., 1]).ravel()
    object_ids, novel, taken_by = ids.ravel(), occluded.ravel(), np.full(ids.size, _NOBODY, np.int64)
    alive = np.zeros(len(x), np.bool_)
    for dy in (0, 1):
        for dx in (0, 1):
            px, py = left + dx, top + dy
            distance = np.square(x - px) + np.square(y - py)
            near = np.flatnonzero((distance <= REACH**2) & (px >= 0) & (px < width) & (py >= 0) & (py < height))
            pixel = py[near] * width + px[near]
            with np.errstate(invalid="ignore", over="ignore"):
                miss = np.square(back_x[pixel] + flow_x[near]) + np.square(back_y[pixel] + flow_y[near])
            may = (miss <= MAX_ROUND_TRIP**2) & (object_ids[pixel] == living.object_id[near]) & ~novel[pixel]
            near, pixel = near[may], pixel[may]
            alive[near] = True
            # Smallest distance first, then the oldest code: one number that orders both, so that the minimum is unambiguous.
            bid = ((distance[near] * _STEPS).astype(np.int64) << 32) | near
            np.minimum.at(taken_by, pixel, bid)
    found = np.flatnonzero(taken_by != _NOBODY)
    codes.ravel()[found] = living.code[taken_by[found] & 0xFFFFFFFF]
    return living.only(np.flatnonzero(alive))


_NOBODY = np.iinfo(np.int64).max
_STEPS = 2**24


def _sample_flow(living: _Living, flow: Float32, ids: Int32) -> tuple[Float32, Float32]:
    """The flow (H, W, 2) at the places of the codes: bilinear where it is smooth, else of the nearest pixel of the code's object."""
    height, width = ids.shape
    x, y = living.x, living.y
    left = np.clip(np.floor(x).astype(np.int32), 0, width - 2)
    top = np.clip(np.floor(y).astype(np.int32), 0, height - 2)
    # Within half a pixel of the frame's border the shares leave 0 to 1: the flow is continued in a straight line.
    right_share, down_share = x - left, y - top
    corner = top * width + left
    planes = [np.ascontiguousarray(flow[..., axis]).ravel() for axis in (0, 1)]
    flat_ids = ids.ravel()
    offsets = (0, 1, width, width + 1)
    weights = (
        (1 - right_share) * (1 - down_share),
        right_share * (1 - down_share),
        (1 - right_share) * down_share,
        right_share * down_share,
    )

    own = [flat_ids[corner + offset] == living.object_id for offset in offsets]
    smooth = own[0] & own[1] & own[2] & own[3]
    # Of the corners that show the code's object the one with the largest weight is the nearest.
    best, nearest = np.full(len(x), -1, np.float32), corner.copy()
    for offset, weight, mine in zip(offsets, weights, own, strict=True):
        better = mine & (weight > best)
        best[better] = weight[better]
        nearest[better] = (corner + offset)[better]
    bilinear = []
    with np.errstate(invalid="ignore", over="ignore"):
        for plane in planes:
            values = [plane[corner + offset] for offset in offsets]
            low = np.minimum(np.minimum(values[0], values[1]), np.minimum(values[2], values[3]))
            high = np.maximum(np.maximum(values[0], values[1]), np.maximum(values[2], values[3]))
            smooth &= high - low <= SMOOTH
            bilinear.append(values[0] * weights[0] + values[1] * weights[1] + values[2] * weights[2] + values[3] * weights[3])
    flow_x, flow_y = (np.where(smooth, mix, plane[nearest]) for mix, plane in zip(bilinear, planes, strict=True))
    return flow_x, flow_y

"""Whether vectors tell the truth about objects, as far as the shot itself can say: by matrices, by Position, by the rest pass.

For checks.py. Frame by frame, each pixel's `flow_to_prev` is held against what else is known about its object:

- **static and rigid objects**: where their matrices put the pixel's Position in the frame before. More than half a pixel off (for fast
  things a hundredth of the way more) is *wrong*, and *zero* if the vector is exactly zero.
- **what deforms, with a rest pass**: the rest coordinates at both ends of the vector. More than one pixel's worth of rest coordinates
  apart, and the surface has moved on in a way that the vector does not know of: *frozen*.
- **that, and whatever else has no matrices**: if the vector says that the point stands still in the world, Position at both ends must be
  the same. More than a quarter of the pixel's footprint apart is *frozen*. (Of a vector that says that the point moves Position can tell
  nothing.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medm.correspondence.background import pixel_grid
from medm.correspondence.objects import pixels_by_object
from medm.inspection.evidence import Evidence
from medm.progress import Progress, silent
from medm.shot import Bool, Float32, Float64, Rest

_OFF = 0.5
_OFF_SHARE = 0.01
_STILL = 0.05
"""Pixels within which a vector says what the camera's motion alone would."""
_FROZEN = 0.25
_FROZEN_REST = 1.0

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Contradictions:
    """Pixels that contradict their vectors, by frame and object: all (T, K), K as in `Evidence.ids`.

    Attributes:
        pixels: of the object in the frame, where it was in view in the frame before too; 0 elsewhere.
        zero: vectors that are zero, though the matrices say that it moves.
        wrong: vectors that are not zero, and not what the matrices say.
        frozen: vectors that do not know of the surface's motion.
    """

    pixels: Counts
    zero: Counts
    wrong: Counts
    frozen: Counts


def contradictions(evidence: Evidence, progress: Progress = silent) -> Contradictions:
    """Hold all vectors of a shot against what else is known."""
    shape = (len(evidence), len(evidence.ids))
    result = Contradictions(*(np.zeros(shape, np.int64) for _ in range(4)))
    if not len(evidence.ids):
        return result
    kinds = np.array([known.kind if (known := evidence.shot.objects.get(id_)) else "unknown" for id_ in evidence.ids.tolist()], dtype="<U9")
    rest = None
    for t in range(len(evidence)):
        progress(t / len(evidence), "check motion")
        before, rest = rest, evidence.shot.rest(t, evidence.gbuffer)
        if evidence.joined[t]:
            _frame(evidence, t, kinds, before, rest, result)
    progress(1.0, "check motion")
    return result


def _frame(
    evidence: Evidence, t: int, kinds: npt.NDArray[Any], rest_before: Rest | None, rest: Rest | None, result: Contradictions
) -> None:
    gbuffer = evidence.gbuffer
    objects = evidence.objects(t)
    # what was not in view in the frame before has vector zero there, or none that could be checked
    there = (evidence.pixels[t - 1] > 0)[objects] & ~gbuffer.background[t]
    flow = gbuffer.flow_to_prev[t]
    still = _expected(evidence, t, np.eye(4))
    expected, solid = _by_matrices(evidence, t, objects, kinds, still)
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.linalg.norm(flow - expected, axis=-1)
        way = np.linalg.norm(expected, axis=-1)
        off_way = there & solid & (off > _OFF + _OFF_SHARE * way)
        says_still = np.linalg.norm(flow - still, axis=-1) <= _STILL
    zero = ~flow.any(axis=-1)
    frozen = _frozen_by_position(evidence, t) & says_still & ~solid
    if rest_before is not None and rest is not None:
        frozen |= (kinds == "deforming")[objects] & _frozen_by_rest(evidence, t, rest_before, rest)

    def count(where: Bool) -> Counts:
        return np.bincount(objects[there & where], minlength=len(evidence.ids))

    result.pixels[t] = count(there)
    result.zero[t] = count(off_way & zero)
    result.wrong[t] = count(off_way & ~zero)
    result.frozen[t] = count(frozen)


def _by_matrices(evidence: Evidence, t: int, objects: Counts, kinds: npt.NDArray[Any], still: Float64) -> tuple[Float64, Bool]:
    """(H, W, 2) flow to the frame before by the objects' matrices; (H, W) where they are known."""
    expected, solid = still.copy(), (kinds == "static")[objects]
    for k, pixels in pixels_by_object(objects, (kinds == "rigid")[objects]):
        here = np.unravel_index(pixels, objects.shape)
        matrices = evidence.shot.objects[int(evidence.ids[k])].matrices
        if matrices is None or not np.isfinite(matrices[t - 1 : t + 1]).all():
            continue
        expected[here] = _expected(evidence, t, matrices[t - 1] @ np.linalg.inv(matrices[t]), here)
        solid[here] = True
    return expected, solid


def _expected(evidence: Evidence, t: int, move: Float64, pixels: Any = ...) -> Float64:
    """Flow (..., 2) to the frame before of chosen pixels of frame t, if `move` (4, 4) takes their places from t back to t-1."""
    position = evidence.gbuffer.position[t][pixels]
    target, _ = evidence.shot.cameras[t - 1].project(position @ move[:3, :3].T + move[:3, 3])
    return np.asarray(target - pixel_grid(*evidence.shot.size)[pixels])


def _frozen_by_position(evidence: Evidence, t: int) -> Bool:
    """(H, W): Position at both ends of the vector is more than a quarter of a footprint apart."""
    before, known = _sampled(evidence, t, evidence.gbuffer.position[t - 1])
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.linalg.norm(before - evidence.gbuffer.position[t], axis=-1)
        return np.asarray(known & (apart > _FROZEN * evidence.facts.footprint[t]))


def _frozen_by_rest(evidence: Evidence, t: int, before: Rest, here: Rest) -> Bool:
    """(H, W): rest coordinates at both ends of the vector are more than a pixel's worth apart."""
    there, known = _sampled(evidence, t, before.coordinates)
    rest = here.coordinates
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.linalg.norm(there - rest, axis=-1)
        step = np.zeros_like(apart)
        step[:, 1:-1] = np.linalg.norm(rest[:, 2:] - rest[:, :-2], axis=-1) / 2
        step[1:-1] = np.fmax(step[1:-1], np.linalg.norm(rest[2:] - rest[:-2], axis=-1) / 2)
        return np.asarray(known & (step > 0) & (apart > _FROZEN_REST * step))


def _sampled(evidence: Evidence, t: int, plane: Float32) -> tuple[Float32, Bool]:
    """A pass (H, W, 3) of frame t-1 at the ends of frame t's vectors, bilinear; and where all four taps show the pixel's own object."""
    ids = evidence.gbuffer.object_id
    height, width = ids.shape[1:]
    with np.errstate(invalid="ignore", over="ignore"):
        place = pixel_grid(width, height) + evidence.gbuffer.flow_to_prev[t]
        known = ((place >= 0) & (place <= np.array([width - 1, height - 1]))).all(axis=-1)
    place = np.where(known[..., None], place, 0)
    left = np.minimum(place[..., 0].astype(np.intp), width - 2)
    top = np.minimum(place[..., 1].astype(np.intp), height - 2)
    right_share, down_share = place[..., 0] - left, place[..., 1] - top
    result = np.zeros_like(plane)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = np.where(dx, right_share, 1 - right_share) * np.where(dy, down_share, 1 - down_share)
        result += share[..., None].astype(np.float32) * plane[top + dy, left + dx]
        known &= ids[t - 1, top + dy, left + dx] == ids[t]
    return result, known

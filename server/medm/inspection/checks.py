"""What can be wrong with a shot, found by holding its passes against each other. For `medm inspect`.

Every check returns warnings; a warning is one line that an artist can act on, and names frames and objects. They are about what makes
codes wrong, so that a take smears or flickers there: vectors that are missing or contradict Position, matrices or the rest pass, objects
too small to be told apart, frames with nothing in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medm.correspondence.background import pixel_grid
from medm.correspondence.occlusion import nearest_pixel
from medm.inspection.evidence import Evidence
from medm.inspection.motion import Contradictions, contradictions
from medm.progress import Progress, part, silent

LEAST_PIXELS = 16
"""Pixels of an object, in one frame, that have to contradict its vectors before it is mentioned."""
LEAST_SHARE = 0.2
"""Share of an object's pixels, in one frame, that have to: a few always do, behind thin things and at creases."""
TINY = 4
"""An object of fewer pixels is seen or missed by chance."""
ASTRAY = 0.5
"""Share of an object's pixels, in one frame, whose vectors may miss each other, there and back."""
ALL_NEW = 0.9
"""Share of a frame without counterpart from which on it looks like a cut."""
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One warning.

    Attributes:
        kind: for programs; `motion_blur`, `zero_vectors`, `wrong_vectors`, `frozen_deformation`, `disagreement`, `broken_vectors`,
            `unmarked_cut`, `no_surface`, `tiny_objects`.
        message: one line: what, where, and what to do about it.
        frames: numbers on the timeline.
        objects: names.
    """

    kind: str
    message: str
    frames: list[int]
    objects: list[str]


def check(evidence: Evidence, progress: Progress = silent) -> list[Finding]:
    """All warnings about a shot, the gravest first."""
    blurred = _missing_vectors(evidence)
    against = contradictions(evidence, part(progress, 0.0, 0.8))
    progress(0.8, "check")
    found = [
        *blurred,
        *_wrong_vectors(evidence, against, blurred),
        *_frozen(evidence, against, blurred),
        *_disagreement(evidence),
        *_broken(evidence),
        *_unmarked_cuts(evidence),
        *_no_surface(evidence),
        *_tiny_objects(evidence),
    ]
    progress(1.0, "check")
    return found


def _missing_vectors(evidence: Evidence) -> list[Finding]:
    """Frames in which every vector is exactly zero, though depth or ids are not those of the frame before."""
    gbuffer, suspects, moving = evidence.gbuffer, [], 0
    for t in range(1, len(evidence)):
        surface = ~gbuffer.background[t]
        same = np.array_equal(gbuffer.object_id[t], gbuffer.object_id[t - 1]) and np.array_equal(gbuffer.depth[t], gbuffer.depth[t - 1])
        if not evidence.joined[t] or not surface.any() or same:
            continue
        moving += 1
        if not gbuffer.flow_to_prev[t][surface].any():
            suspects.append(t)
    if not suspects:
        return []
    if len(suspects) == moving:
        message = "All motion vectors are zero, though things move: turn off Motion Blur in the render settings and export again"
    else:
        where = _frames(evidence, suspects)
        message = f"All motion vectors of {where} are zero, though things move: export these frames again, without Motion Blur"
    return [Finding("motion_blur", message, _numbers(evidence, suspects), [])]


def _wrong_vectors(evidence: Evidence, against: Contradictions, blurred: Sequence[Finding]) -> list[Finding]:
    """Objects whose matrices, or whose standing still, say something else than their vectors."""
    found = []
    zero = _grave(against.zero, against.pixels)
    if zero and not blurred:
        found.append(
            _about(
                evidence,
                zero,
                "zero_vectors",
                "{objects}: vectors are zero in {frames}, though it moves; its look will smear. Export again, without motion blur and with "
                "the frames before and after in the animation",
            )
        )
    wrong = _grave(against.wrong, against.pixels)
    if wrong:
        found.append(
            _about(
                evidence,
                wrong,
                "wrong_vectors",
                "{objects}: vectors and matrices disagree in {frames}. The scene was changed while it was exported, or a driver or "
                "simulation gives another result each time: bake it and export again",
            )
        )
    return found


def _frozen(evidence: Evidence, against: Contradictions, blurred: Sequence[Finding]) -> list[Finding]:
    """Objects whose surface moves though their vectors say that it does not."""
    frozen = _grave(against.frozen, against.pixels)
    if not frozen or blurred:
        return []
    message = (
        "{objects}: the surface moves in {frames}, but its vectors do not know. Cycles misses the motion of animated Displace and Cast "
        "modifiers: add a Basis shape key or an empty Geometry Nodes modifier to the object"
    )
    return [_about(evidence, frozen, "frozen_deformation", message)]


def _disagreement(evidence: Evidence) -> list[Finding]:
    """Objects whose vectors to the frame before and from there back do not meet, over most of what is seen of them.

    Parts that were hidden by the object itself do not meet either; only in fast spins are those the larger part.
    """
    gbuffer, found = evidence.gbuffer, evidence.found
    width, height = evidence.shot.size
    grid = pixel_grid(width, height)
    where = []
    for t in np.flatnonzero(evidence.joined).tolist():
        target, inside = nearest_pixel(grid + found.flow_to_prev[t], width, height)
        x, y = target[..., 0], target[..., 1]
        compared = inside & ~gbuffer.background[t] & (gbuffer.object_id[t - 1, y, x] == gbuffer.object_id[t])
        with np.errstate(invalid="ignore", over="ignore"):
            miss = np.linalg.norm(found.flow_to_prev[t] + found.flow_to_next[t - 1, y, x], axis=-1)
            # between two pixels' flows lies what the nearest one misses: where a picture is stretched that is no contradiction
            astray = compared & ~(miss <= 1.0 + _stretch(found.flow_to_prev[t]))
        counts, of = (np.bincount(evidence.objects(t)[pixels], minlength=len(evidence.ids)) for pixels in (astray, compared))
        where += [(t, int(k)) for k in np.flatnonzero((counts >= LEAST_PIXELS) & (counts > ASTRAY * of))]
    if not where:
        return []
    message = (
        "{objects}: vectors there and back miss each other in {frames}. Either it spins very fast, or the passes of these frames are not "
        "of one and the same scene: export again"
    )
    return [_about(evidence, where, "disagreement", message)]


def _broken(evidence: Evidence) -> list[Finding]:
    """Objects with vectors that are not numbers."""
    where = []
    for t in np.flatnonzero(evidence.joined).tolist():
        broken = ~np.isfinite(evidence.gbuffer.flow_to_prev[t]).all(axis=-1) & ~evidence.gbuffer.background[t]
        counts = np.bincount(evidence.objects(t)[broken], minlength=len(evidence.ids))
        where += [(t, int(k)) for k in np.flatnonzero(counts)]
    if not where:
        return []
    message = "{objects}: vectors are not numbers in {frames}; look for a broken mesh or a scale of 0, or its look will jump there"
    return [_about(evidence, where, "broken_vectors", message)]


def _stretch(flow: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(H, W) by how much the flow differs from the right and the lower neighbour's, the larger of the two: pixels."""
    right = np.abs(np.diff(flow, axis=1, append=flow[:, -1:])).max(axis=-1)
    down = np.abs(np.diff(flow, axis=0, append=flow[-1:])).max(axis=-1)
    return np.asarray(np.maximum(right, down), np.float32)


def _unmarked_cuts(evidence: Evidence) -> list[Finding]:
    """Frames that have almost nothing in common with the frame before, and no marker that says so."""
    share = evidence.found.occluded.mean(axis=(1, 2))
    frames = np.flatnonzero((share > ALL_NEW) & ~evidence.shot.cuts).tolist()
    if not frames:
        return []
    message = (
        f"Almost nothing in {_frames(evidence, frames)} was in view in the frame before: if that is a cut, bind each camera to a timeline "
        "marker; if the camera just moves fast, expect a new look there"
    )
    return [Finding("unmarked_cut", message, _numbers(evidence, frames), [])]


def _no_surface(evidence: Evidence) -> list[Finding]:
    frames = np.flatnonzero(evidence.gbuffer.background.all(axis=(1, 2))).tolist()
    if not frames:
        return []
    message = (
        f"Nothing but background in {_frames(evidence, frames)}: check the camera and what is hidden from render, or leave these frames out"
    )
    return [Finding("no_surface", message, _numbers(evidence, frames), [])]


def _tiny_objects(evidence: Evidence) -> list[Finding]:
    """Objects that, in most frames that show them, cover fewer than TINY pixels."""
    seen = (evidence.pixels > 0).sum(axis=0)
    small = (evidence.pixels > 0) & (evidence.pixels < TINY)
    objects = np.flatnonzero((small.sum(axis=0) * 2 > seen) & (seen >= 3))
    if not len(objects):
        return []
    frames = np.flatnonzero(small[:, objects].any(axis=1)).tolist()
    names = [evidence.names[k] for k in objects]
    message = (
        f"{_listed(names)}: fewer than {TINY} pixels in {_frames(evidence, frames)}, too small to follow, so it flickers; paint larger, "
        "join it with what it stands on, or hide it from render"
    )
    return [Finding("tiny_objects", message, _numbers(evidence, frames), names)]


def _grave(counts: npt.NDArray[np.int64], pixels: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Frames and objects in which enough pixels contradict."""
    return [(int(t), int(k)) for t, k in np.argwhere((counts >= LEAST_PIXELS) & (counts >= LEAST_SHARE * pixels))]


def _about(evidence: Evidence, where: Sequence[tuple[int, int]], kind: str, message: str) -> Finding:
    frames = sorted({t for t, _ in where})
    names = [evidence.names[k] for k in sorted({k for _, k in where})]
    return Finding(kind, message.format(objects=_listed(names), frames=_frames(evidence, frames)), _numbers(evidence, frames), names)


def _listed(names: Sequence[str]) -> str:
    """Names in quotes, the first few of them."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more


def _numbers(evidence: Evidence, frames: Iterable[int]) -> list[int]:
    return [evidence.shot.frame_numbers[t] for t in frames]


def _frames(evidence: Evidence, frames: Sequence[int]) -> str:
    """`frame 7`, `frames 3-9 and 12`."""
    numbers = _numbers(evidence, frames)
    return f"{'frame' if len(numbers) == 1 else 'frames'} {ranges(numbers)}"


def ranges(numbers: Sequence[int]) -> str:
    """`3-5, 9` of 3, 4, 5, 9: rising numbers, shortened after the first few runs."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    more = [f"and {sum(last - first + 1 for first, last in runs[_SHOWN:])} more"] if len(runs) > _SHOWN else []
    return ", ".join([str(first) if first == last else f"{first}-{last}" for first, last in runs[:_SHOWN]] + more)

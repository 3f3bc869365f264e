"""Ground truth of a generated shot, and how far occlusion and codes are from it.

For measure.py and tests/end_to_end. `truth.npz` is written by scenes.py, which says what is in it; conventions are those of medm.shot.
Only surfaces are measured: what the sky shows at a place is a direction and no point. `hidden_before` has an answer for the sky too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from medm.correspondence import Codes
from medm.shot import Bool, Camera, Float32, Float64, Int32, Shot

SAME_POINT = 1.0
"""Pixels: a point was seen in an earlier frame if the surface that the pixel there shows lies within this distance of it."""


@dataclass(frozen=True)
class Truth:
    """Which surface point every pixel shows, and where it is at any time. T frames of H x W pixels, V vertices, F triangles.

    Attributes:
        cameras: T cameras.
        cuts: (T,) bool.
        triangle: (T, H, W) int32, -1 for the sky.
        barycentric: (T, H, W, 2) float32.
        vertices: (T, V, 3) float32, world space.
        triangles: (F, 3) int32.
        object_of_triangle: (F,) int32.
        hidden_before: (T, H, W) bool.
    """

    cameras: list[Camera]
    cuts: Bool
    triangle: Int32
    barycentric: Float32
    vertices: Float32
    triangles: Int32
    object_of_triangle: Int32
    hidden_before: Bool

    @classmethod
    def load(cls, folder: str | Path) -> Truth:
        """The truth of the shot in `folder`."""
        shot = Shot.open(folder)
        with np.load(Path(folder) / "truth.npz") as file:
            names = [field.name for field in fields(cls) if field.name in file]
            return cls(shot.cameras, shot.cuts, **{name: file[name] for name in names})

    @cached_property
    def surface(self) -> Bool:
        """(T, H, W) bool: not the sky."""
        return np.asarray(self.triangle >= 0)

    @cached_property
    def object_index(self) -> Int32:
        """(T, H, W) int32: the number of the object that a pixel shows, -1 for the sky."""
        return np.where(self.surface, self.object_of_triangle[self.triangle], np.int32(-1))

    def points(self, t: int, y: Int32, x: Int32, other: int) -> Float64:
        """(N, 3) where in the world the surface points of pixels (t, y, x) are in frame `other`."""
        corners = self.vertices[other][self.triangles[self.triangle[t, y, x]]].astype(np.float64)
        u, v = self.barycentric[t, y, x, 0, None], self.barycentric[t, y, x, 1, None]
        return np.asarray((1 - u - v) * corners[:, 0] + u * corners[:, 1] + v * corners[:, 2])

    def places(self, t: int, y: Int32, x: Int32, other: int) -> Float64:
        """(N, 2) where in the picture of frame `other` the surface points of pixels (t, y, x) are; NaN behind the camera."""
        return self.cameras[other].project(self.points(t, y, x, other))[0]

    def shown_in(self, t: int, y: Int32, x: Int32, other: int) -> Bool:
        """(N,) whether the pixel of frame `other` that is nearest to the point shows it, within SAME_POINT."""
        xy = self.places(t, y, x, other)
        height, width = self.triangle.shape[1:]
        with np.errstate(invalid="ignore"):
            inside = ((xy > -0.5) & (xy < [width - 0.5, height - 0.5])).all(axis=-1)
        there = np.rint(np.where(inside[:, None], xy, 0)).astype(np.int32)
        shown = inside & (self.object_index[other, there[:, 1], there[:, 0]] == self.object_index[t, y, x])
        # The surface there, brought into this frame, must be the pixel's own: two sides of a thing may lie behind each other.
        back = self.places(other, there[shown, 1], there[shown, 0], t)
        with np.errstate(invalid="ignore"):
            own = np.linalg.norm(back - np.stack([x, y], axis=-1)[shown], axis=-1)
        # How large a pixel of the other frame is in this one, so that a closer look does not count as another point.
        spread = self._spread(other, there[shown], t)
        shown[shown] = own <= SAME_POINT * np.maximum(1.0, spread)
        return shown

    def _spread(self, t: int, xy: Int32, other: int) -> Float64:
        """(N,) pixels of frame `other` that one pixel step of frame t spans on the triangle at `xy`."""
        result = np.zeros(len(xy))
        here = self.cameras[t]
        corners = self.triangles[self.triangle[t, xy[:, 1], xy[:, 0]]]
        now, then = self.vertices[t][corners].astype(np.float64), self.vertices[other][corners].astype(np.float64)
        centre = self.places(t, xy[:, 1], xy[:, 0], other)
        for step in ((1.0, 0.0), (0.0, 1.0)):
            origin, direction = here.rays(xy + np.array(step))
            one, two = now[:, 1] - now[:, 0], now[:, 2] - now[:, 0]
            across = np.cross(direction, two)
            with np.errstate(divide="ignore", invalid="ignore"):
                volume = (one * across).sum(-1)
                u = ((origin - now[:, 0]) * across).sum(-1) / volume
                v = (direction * np.cross(origin - now[:, 0], one)).sum(-1) / volume
                point = then[:, 0] + u[:, None] * (then[:, 1] - then[:, 0]) + v[:, None] * (then[:, 2] - then[:, 0])
                moved = np.linalg.norm(self.cameras[other].project(point)[0] - centre, axis=-1)
            result = np.fmax(result, moved)
        return result


@dataclass(frozen=True)
class Agreement:
    """Of one binary answer: how often it was yes rightly, how often yes, and how often yes would have been right."""

    right: int
    found: int
    true: int

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.right + other.right, self.found + other.found, self.true + other.true)

    @property
    def precision(self) -> float:
        """Share of what was found that is true."""
        return self.right / max(self.found, 1)

    @property
    def recall(self) -> float:
        """Share of what is true that was found."""
        return self.right / max(self.true, 1)

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        return 2 * self.right / max(self.found + self.true, 1)


def occlusion(truth: Truth, occluded: Bool, sky: bool = False) -> Agreement:
    """How well (T, H, W) `occluded` finds `hidden_before`, over all frames that take something over from the one before.

    sky: judge sky pixels too. Their answer (did something stand before this direction, or was it out of the frame) is as well defined
    as a surface's, but there is a lot of it and it is easy.
    """
    judged = np.broadcast_to(~truth.cuts[:, None, None], occluded.shape) & (truth.surface | sky)
    found, hidden = occluded[judged], truth.hidden_before[judged]
    return Agreement(int((found & hidden).sum()), int(found.sum()), int(hidden.sum()))


@dataclass(frozen=True)
class CodeErrors:
    """Of every surface pixel that is not its code's birth: N pixels.

    Attributes:
        error: (N,) float64, pixels between where the pixel's own surface point is in its code's birth frame and the place of birth;
            infinite if it is behind that frame's camera.
        age: (N,) int32, frames since birth (its absolute value: codes may be anchored at the end).
        foreign: (N,) bool, the code was born on another object, or on the sky.
    """

    error: Float64
    age: Int32
    foreign: Bool


def code_errors(truth: Truth, codes: Codes, only: Bool | None = None) -> CodeErrors:
    """How far codes drift from the surface points that they are for.

    only: (T, H, W), pixels to look at.
    """
    errors, ages, foreign = [np.empty(0)], [np.empty(0, np.int32)], [np.empty(0, np.bool_)]
    for t, birth, y, x, code in _by_birth_frame(truth, codes, only):
        born_at = codes.birth_xy[code]
        error = np.linalg.norm(truth.places(t, y, x, birth) - born_at, axis=-1)
        pixel = np.rint(born_at).astype(np.int32)
        errors.append(np.where(np.isfinite(error), error, np.inf))
        ages.append(np.full(len(y), abs(t - birth), np.int32))
        foreign.append(truth.object_index[birth, pixel[:, 1], pixel[:, 0]] != truth.object_index[t, y, x])
    return CodeErrors(np.concatenate(errors), np.concatenate(ages), np.concatenate(foreign))


def _by_birth_frame(truth: Truth, codes: Codes, only: Bool | None) -> Iterator[tuple[int, int, Int32, Int32, Int32]]:
    """t, birth frame, y, x, code of all surface pixels whose code was born in another frame than theirs."""
    for t in range(len(truth.cuts)):
        wanted = truth.surface[t] if only is None else truth.surface[t] & only[t]
        y, x = (axis.astype(np.int32) for axis in np.nonzero(wanted))
        code = codes.codes[t, y, x]
        born = codes.birth_frame[code]
        for birth in np.unique(born[born != t]):
            mine = born == birth
            yield t, int(birth), y[mine], x[mine], code[mine]


def seen_again(truth: Truth) -> Bool:
    """(T, H, W) bool: surface pixels whose point an earlier frame shows, but not the frame before (or a cut lies between)."""
    result = np.zeros(truth.triangle.shape, np.bool_)
    for t in range(1, len(truth.cuts)):
        y, x = (axis.astype(np.int32) for axis in np.nonzero(truth.surface[t] & truth.hidden_before[t]))
        before = np.zeros(len(y), np.bool_)
        for other in range(t - 2 if not truth.cuts[t] else t - 1, -1, -1):
            open_ = np.flatnonzero(~before)
            before[open_] = truth.shown_in(t, y[open_], x[open_], other)
        result[t, y, x] = before
    return result


@dataclass(frozen=True)
class CodeScores:
    """The issue's numbers. Shares are 0 to 1; errors are pixels.

    Attributes:
        median, p95: of the errors of all surface pixels that are not their code's birth.
        above_1px, above_1px_old: share of those errors above one pixel, of all ages and of ages of at least 24 frames (NaN: none so old).
        codes_per_pixel: number of codes over number of pixels, sky included.
        shared: share of the surface pixels that share their code with another pixel of their frame.
        foreign: share of the surface pixels not at birth whose code was born on another object.
        again: share of the pixels seen again that carry a code born before; NaN if there are none.
        again_above_1px: of those with such a code, the share of errors above one pixel.
    """

    median: float
    p95: float
    above_1px: float
    above_1px_old: float
    codes_per_pixel: float
    shared: float
    foreign: float
    again: float
    again_above_1px: float


def score(truth: Truth, codes: Codes, again: Bool | None = None) -> CodeScores:
    """All of it. again: `seen_again(truth)`, if it is known already; it takes longest."""
    again = seen_again(truth) if again is None else again
    found = code_errors(truth, codes)
    returned = code_errors(truth, codes, again)
    old = found.error[found.age >= 24]
    return CodeScores(
        median=float(np.median(found.error)),
        p95=float(np.percentile(found.error, 95)),
        above_1px=float((found.error > 1).mean()),
        above_1px_old=float((old > 1).mean()) if len(old) else np.nan,
        codes_per_pixel=codes.count / codes.codes.size,
        shared=_shared(truth, codes),
        foreign=float(found.foreign.mean()),
        again=len(returned.error) / float(again.sum()) if again.any() else np.nan,
        again_above_1px=float((returned.error > 1).mean()) if len(returned.error) else np.nan,
    )


def _shared(truth: Truth, codes: Codes) -> float:
    shared = 0
    for t, surface in enumerate(truth.surface):
        _, inverse, count = np.unique(codes.codes[t], return_inverse=True, return_counts=True)
        shared += int((count[inverse.reshape(surface.shape)] > 1)[surface].sum())
    return shared / float(truth.surface.sum())

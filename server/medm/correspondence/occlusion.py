"""Which pixels of a frame show something that the frame before does not: they have no counterpart to take a code from.

For correspondence.analyse. The point that pixel x of frame t shows is at q = x + flow_to_prev in frame t-1. It is occluded there if

1. q is out of the frame, or not finite;
2. something covers it, as decided below;
3. it was turned away: the map from x to q has a negative determinant there, so frame t-1 saw the surface's other side;
4. its object was not there: nothing covers q, and the object is nowhere around it. Of an object that was hidden from the render Blender
   says that it did not move, and what is seen at q then lies behind it.

Covering. A sample of frame t-1 covers the point if it disagrees (another object, or the flows there and back miss each other by more
than 1 px) **and** stands in front: depth below 1.005 times the point's own. Where the four samples around q all cover it, it is covered;
where none does, it is not. Where some do, the edge of what covers lies between them, nowhere in the passes of frame t-1. Then the four
vote, with bilinear weights; and as an edge moves on together with the thing whose edge it is, other frames have sampled it too, at
other places: the occluder's own flow carries q to frames t-5 to t+3, four on either side of t-1, and what is seen there, occluder or
not, votes as well. Frame t itself is the most telling of them, as the point is in view there. Frames on both sides alike, because the
edge of a round thing is never the same line on it: as it turns, the errors before and after t-1 cancel. The vote of the j-th frame on a
side counts exp(-(j - 1) |r| / 4 px), r being how far the point and its occluder move relative to each other within a frame: the slower
that is, the thinner is the strip of points that come into view, and the finer the edge must be known.

With data passes finer than the shot (`fine`) all these samples are finer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

from medm.correspondence.background import pixel_grid
from medm.shot import Bool, Camera, Fine, Float32, GBuffer, Int32

MAX_ROUND_TRIP = 1.0
"""Pixels by which the flow there and the flow back may miss each other."""
IN_FRONT = 1.005
"""A sample stands in front of a point if its depth is below this many times the point's."""
WITNESSES = 4
"""Frames on either side of t-1 that are asked where the edge of an occluder is."""
FRAMES_BEFORE, FRAMES_AFTER = 1 + WITNESSES, WITNESSES - 1
"""How far from a frame those are that its occlusion is told by."""
FADING = 4.0
"""Pixels of relative motion after which the vote of another frame counts 1/e."""
SAME_SURFACE = 0.9
"""Neighbouring pixels of an object are one surface if the nearer one's depth is above this share of the other's."""


def occluded_pixels(
    gbuffer: GBuffer,
    flow_to_prev: Float32,
    flow_to_next: Float32,
    cameras: list[Camera],
    cuts: Bool,
    fine: Callable[[int], Fine | None] | None = None,
) -> Bool:
    """(T, H, W) bool: pixels without a counterpart in the frame before. Arguments as `occlusions`'."""
    return occlusions(gbuffer, flow_to_prev, flow_to_next, cameras, cuts, fine)[0]


def occlusions(
    gbuffer: GBuffer,
    flow_to_prev: Float32,
    flow_to_next: Float32,
    cameras: list[Camera],
    cuts: Bool,
    fine: Callable[[int], Fine | None] | None = None,
    frames: range | None = None,
) -> tuple[Bool, Bool]:
    """Pixels without a counterpart in the frame before, (T, H, W) bool: as all frames tell; and as the frames up to each tell, so that it
    does not change with the frames that follow.

    Args:
        gbuffer: the passes; its own flows are not used.
        flow_to_prev: (T, H, W, 2) pixels, background filled.
        flow_to_next: (T, H, W, 2) pixels, background filled.
        cameras: T cameras.
        cuts: (T,) frames that take nothing over; all their pixels are occluded. The first frame is one of them always.
        fine: frame t's passes finer than the shot's, such as `Shot.fine`; asked once for every frame, in order.
        frames: those to be looked at, one after the other; the others are said to be occluded. A frame's answer is the whole clip's if
            FRAMES_BEFORE frames before it and FRAMES_AFTER after it are given, as far as the clip has them. None: all.
    """
    length, height, width = gbuffer.background.shape
    occluded, by_then = (np.ones((length, height, width), np.bool_) for _ in range(2))
    shown = _Frames(gbuffer, flow_to_next, fine)
    for t in range(length) if frames is None else frames:
        if t == 0 or cuts[t]:
            continue
        shown.keep(max(t - FRAMES_BEFORE, 0), min(t + FRAMES_AFTER, length - 1))
        here, before = shown.coarse(t), shown[t - 1]
        places = pixel_grid(width, height) + flow_to_prev[t]
        inside = _inside(places, width, height)
        y, x = np.nonzero(inside)
        points = _Points(x, y, places[inside], here.ids[inside], here.depth[inside], _depth_before(gbuffer, t, cameras[t - 1])[inside])

        question = _cover(points, before, flow_to_prev[t][inside])
        # What the camera of the frame before had behind it counts as covered, whatever is seen there.
        hidden = question.all_cover | (points.depth_before <= 0)
        asked = np.flatnonzero((question.weight > 0) & ~hidden)
        until_now, later = _witnesses(points.only(asked), question.only(asked), shown, t, flow_to_prev, flow_to_next, cuts)
        behind = np.flatnonzero(question.all_behind)
        absent = ~_near(shown.coarse(t - 1).ids, points.only(behind))
        turned = _turned_away(here, flow_to_prev[t], inside)
        for result, votes in ((by_then, until_now), (occluded, until_now + later)):
            hidden[asked] = question.votes[asked] + votes > 0
            hidden[behind] = absent
            result[t, y, x] = hidden
            result[t] |= turned
    return occluded, by_then


def nearest_pixel(xy: Float32, width: int, height: int) -> tuple[Int32, Bool]:
    """The pixels nearest to `xy` (..., 2), halves to even; and whether they are in the frame: else, or not finite, the pixel is (0, 0)."""
    with np.errstate(invalid="ignore"):
        rounded = np.rint(xy)
        limit = np.array([width - 1, height - 1], np.float32)
        inside: Bool = np.asarray(((rounded >= 0) & (rounded <= limit)).all(axis=-1))
    return np.where(inside[..., None], rounded, 0).astype(np.int32), inside


def _inside(xy: Float32, width: int, height: int) -> Bool:
    """Whether places (..., 2) are in the frame, which ends half a pixel beyond the outer pixels' centres. Not finite: no."""
    with np.errstate(invalid="ignore"):
        return np.asarray(((xy >= -0.5) & (xy < np.array([width - 0.5, height - 0.5], np.float32))).all(axis=-1))


@dataclass(frozen=True)
class _Grid:
    """What a frame shows, `scale` samples to a pixel's side. Background: id 0, infinitely far (versions of Blender differ there).

    Attributes:
        ids: (sH, sW) int32.
        depth: (sH, sW) float32.
        flow_to_next: (sH, sW, 2) float32, in pixels of the shot; of use on surfaces only.
    """

    scale: int
    ids: Int32
    depth: Float32
    flow_to_next: Float32

    @cached_property
    def objects(self) -> Int32:
        """The ids at pixel centres, each once."""
        return np.unique(self.ids[self.scale // 2 :: self.scale, self.scale // 2 :: self.scale])

    def around(self, xy: Float32) -> Iterator[tuple[npt.NDArray[np.intp], Float32]]:
        """The four samples around places (N, 2) in the frame: flat index and bilinear weight, (N,) each."""
        height, width = self.ids.shape
        x, y = ((xy[:, axis] + np.float32(0.5)) * self.scale - np.float32(0.5) for axis in (0, 1))
        left, top = np.clip(np.floor(x), 0, width - 2), np.clip(np.floor(y), 0, height - 2)
        right_share, down_share = np.clip(x - left, 0, 1), np.clip(y - top, 0, 1)
        corner = top.astype(np.intp) * width + left.astype(np.intp)
        yield corner, (1 - right_share) * (1 - down_share)
        yield corner + 1, right_share * (1 - down_share)
        yield corner + width, (1 - right_share) * down_share
        yield corner + width + 1, right_share * down_share


class _Frames:
    """The frames as finely as they are known; only those that are needed at a time are kept."""

    def __init__(self, gbuffer: GBuffer, flow_to_next: Float32, fine: Callable[[int], Fine | None] | None) -> None:
        self._gbuffer, self._flow_to_next, self._fine = gbuffer, flow_to_next, fine
        self._kept: dict[int, _Grid] = {}

    def keep(self, first: int, last: int) -> None:
        for t in [t for t in self._kept if t < first]:
            del self._kept[t]
        for t in range(max([first, *(t + 1 for t in self._kept)]), last + 1):
            fine = self._fine(t) if self._fine is not None else None
            self._kept[t] = (
                self.coarse(t)
                if fine is None
                else _Grid(
                    fine.scale,
                    np.where(fine.background, np.int32(0), fine.object_id),
                    np.where(fine.background, np.float32(np.inf), fine.depth),
                    fine.flow_to_next,
                )
            )

    def __getitem__(self, t: int) -> _Grid:
        return self._kept[t]

    def coarse(self, t: int) -> _Grid:
        """At pixel centres."""
        background = self._gbuffer.background[t]
        ids = np.where(background, np.int32(0), self._gbuffer.object_id[t])
        depth = np.where(background, np.float32(np.inf), self._gbuffer.depth[t])
        return _Grid(1, ids, depth, self._flow_to_next[t])


@dataclass(frozen=True)
class _Points:
    """Points that a frame shows and whose place in the frame before is in its bounds; (N,) each.

    Attributes:
        x, y: their pixels.
        places: (N, 2), in the frame before.
        ids: their objects; 0 is the sky.
        depth: in their own frame, as `depth_before` in the one before.
    """

    x: npt.NDArray[np.intp]
    y: npt.NDArray[np.intp]
    places: Float32
    ids: Int32
    depth: Float32
    depth_before: Float32

    def only(self, keep: npt.NDArray[np.intp]) -> _Points:
        return _Points(*(getattr(self, field.name)[keep] for field in fields(self)))


@dataclass(frozen=True)
class _Question:
    """Whether points are covered, as far as the frame before knows; (N,) each.

    Attributes:
        votes: weight of the samples that cover, less that of those that do not: -1 to 1.
        weight: of the heaviest sample that covers; 0 if none does.
        occluder: the object of that sample.
        relative: (N, 2) pixels, how far the point moves from the frame before to its own, seen from that sample, backwards.
        all_cover: every sample covers.
        all_behind: every sample shows another object, and none stands in front.
    """

    votes: Float32
    weight: Float32
    occluder: Int32
    relative: Float32
    all_cover: Bool
    all_behind: Bool

    def only(self, keep: npt.NDArray[np.intp]) -> _Question:
        return _Question(*(getattr(self, field.name)[keep] for field in fields(self)))


def _depth_before(gbuffer: GBuffer, t: int, camera: Camera) -> Float32:
    """(H, W) depth of what frame t shows, seen by the camera of the frame before: of things that move, where they are in frame t."""
    _, depth = camera.project(gbuffer.position[t])
    return np.where(gbuffer.background[t], np.inf, depth).astype(np.float32)


def _cover(points: _Points, before: _Grid, flow_to_prev: Float32) -> _Question:
    ids, depth, flow = before.ids.ravel(), before.depth.ravel(), before.flow_to_next.reshape(-1, 2)
    votes, weight = np.zeros(len(points.x), np.float32), np.zeros(len(points.x), np.float32)
    occluder, relative = np.zeros(len(points.x), np.int32), np.zeros((len(points.x), 2), np.float32)
    all_cover, all_behind = np.ones(len(points.x), np.bool_), np.ones(len(points.x), np.bool_)
    for sample, share in before.around(points.places):
        other = ids[sample] != points.ids
        with np.errstate(invalid="ignore", over="ignore"):
            miss = flow_to_prev + flow[sample]
            agrees = ~other & (np.square(miss).sum(axis=-1) <= MAX_ROUND_TRIP**2)  # a miss that is not a number does not agree
        front = ~agrees & (depth[sample] < np.float32(IN_FRONT) * points.depth_before)
        votes += np.where(front, share, -share)
        all_cover &= front
        all_behind &= other & ~front
        heavier = front & (share >= weight)
        weight[heavier] = np.maximum(share[heavier], np.finfo(np.float32).tiny)
        occluder[heavier] = ids[sample][heavier]
        relative[heavier] = miss[heavier]
    return _Question(votes, weight, occluder, relative, all_cover, all_behind)


def _witnesses(
    points: _Points, question: _Question, frames: _Frames, t: int, flow_to_prev: Float32, flow_to_next: Float32, cuts: Bool
) -> tuple[Float32, Float32]:
    """The votes of the frames around t-1, along the occluder's motion, (N,) each: of those up to t, and of those after it. Positive
    where the occluder covers the points."""
    until_now, later = (np.zeros(len(points.x), np.float32) for _ in range(2))
    with np.errstate(over="ignore", invalid="ignore"):
        fade = np.nan_to_num(np.exp(-np.sqrt(np.square(question.relative).sum(axis=-1)) / np.float32(FADING)), nan=0)
    for direction, flows in ((1, flow_to_next), (-1, flow_to_prev)):
        now, places, depth = t - 1, points.places, points.depth_before
        if direction > 0:  # to frame t the sample's own flow leads, without looking for the occluder
            now, places, depth = t, np.stack([points.x, points.y], axis=-1).astype(np.float32) + question.relative, points.depth
        followed = np.ones(len(later), np.bool_)
        if direction > 0:
            until_now += _testimony(frames[t], places, question.occluder, points.ids, depth)
        for far in range(direction > 0, WITNESSES):
            then = now + direction
            if not 0 <= then < len(cuts) or cuts[max(now, then)]:
                break
            pixel, found = _occluder_near(frames.coarse(now), places, question.occluder, points.ids, depth)
            followed &= found
            with np.errstate(over="ignore", invalid="ignore"):
                places = places + flows[now].reshape(-1, 2)[pixel]
            votes = later if direction > 0 else until_now
            votes += np.where(followed, fade**far * _testimony(frames[then], places, question.occluder, points.ids, depth), 0)
            now = then
    return until_now, later


def _testimony(grid: _Grid, places: Float32, occluder: Int32, ids: Int32, depth: Float32) -> Float32:
    """(N,) from 1, all samples around the places (N, 2) show the occluder, to -1, none does.

    A sample of something else that stands in front says nothing; nor does anything out of the frame, or a frame without the occluder.
    """
    height, width = grid.ids.shape
    inside = _inside(places, width // grid.scale, height // grid.scale) & np.isin(occluder, grid.objects)
    votes = np.zeros(len(places), np.float32)
    for sample, share in grid.around(np.where(inside[:, None], places, 0)):
        covers, unknown = _shows_occluder(grid, sample, occluder, ids, depth)
        votes += np.where(unknown, 0, np.where(covers, share, -share))
    return np.where(inside, votes, 0)


def _shows_occluder(
    grid: _Grid, sample: npt.NDArray[np.intp], occluder: Int32, ids: Int32, depth: Float32
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether samples show the occluder; and whether they show a third thing in front that hides the answer."""
    shown = grid.ids.ravel()[sample]
    front = grid.depth.ravel()[sample] * np.float32(IN_FRONT) < depth
    covers = (shown == occluder) & ((occluder != ids) | front)  # an object's two parts are told apart by depth
    return covers, ~covers & front & (shown != ids)


def _occluder_near(
    grid: _Grid, places: Float32, occluder: Int32, ids: Int32, depth: Float32
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """The pixel (N,) that is nearest to each place among the 3x3 around it and shows the occluder; and whether there is one."""
    height, width = grid.ids.shape
    centre, inside = nearest_pixel(places, width, height)
    best, nearest = np.zeros(len(places), np.intp), np.full(len(places), np.inf, np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            x, y = np.clip(centre[:, 0] + dx, 0, width - 1), np.clip(centre[:, 1] + dy, 0, height - 1)
            pixel = y.astype(np.intp) * width + x
            with np.errstate(invalid="ignore", over="ignore"):
                distance = np.square(places - np.stack([x, y], axis=-1).astype(np.float32)).sum(axis=-1)
                better = _shows_occluder(grid, pixel, occluder, ids, depth)[0] & (distance < nearest)
            best[better], nearest[better] = pixel[better], distance[better]
    return best, inside & np.isfinite(nearest)


def _near(ids: Int32, points: _Points) -> Bool:
    """(N,) whether the points' objects are among the 3x3 pixels around their places in the frame before."""
    height, width = ids.shape
    centre, _ = nearest_pixel(points.places, width, height)
    found = np.zeros(len(points.x), np.bool_)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            found |= ids[np.clip(centre[:, 1] + dy, 0, height - 1), np.clip(centre[:, 0] + dx, 0, width - 1)] == points.ids
    return found


def _turned_away(here: _Grid, flow_to_prev: Float32, inside: Bool) -> Bool:
    """(H, W) whether the frame before saw the other side of what a pixel shows; `inside`: whose place there is in the frame.

    The derivatives of the place in the frame before are differences to the nearer neighbour of the same object: a surface that
    turns into view continues towards the viewer.
    """
    rows = []
    for axis in (1, 0):  # along x, along y
        change, nearest = np.full_like(flow_to_prev, np.nan), np.full_like(here.depth, np.inf)
        for step in (-1, 1):
            ids, depth, flow, known = (np.roll(values, -step, axis) for values in (here.ids, here.depth, flow_to_prev, inside))
            same = (ids == here.ids) & (here.ids != 0) & (depth > np.float32(SAME_SURFACE) * here.depth)
            usable = same & known & inside & (depth < nearest)
            border: tuple[slice | int, ...] = (slice(None), -1 if step > 0 else 0) if axis == 1 else (-1 if step > 0 else 0,)
            usable[border] = False
            change[usable] = (flow[usable] - flow_to_prev[usable]) * step
            nearest[usable] = depth[usable]
        change[..., 1 - axis] += 1
        rows.append(change)
    (xx, xy), (yx, yy) = (np.moveaxis(row, -1, 0) for row in rows)
    return np.asarray(xx * yy - xy * yx < 0)

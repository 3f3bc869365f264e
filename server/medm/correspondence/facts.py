"""What is known about every code and every pixel besides where they are: how long a code is seen, and how well a pixel sees it.

For harmonisation, which trusts the pixels that see a surface best (`confidence`), and for `medm inspect`.

How well a pixel sees is two numbers. **Facing** is |n . r|, with n the normal and r the direction of the pixel's ray: 1 head-on, 0 along
the surface. **Footprint** is the side of the square that has the area of surface which the pixel covers. A pixel cuts a = 4 / (W H |det P|)
out of the plane at depth 1 parallel to the film (P the upper left 2x2 of the projection), z^2 a at depth z, and r . f of that, with f where
the camera looks, out of a plane across its ray; a surface that is met at an angle is cut in as much more as facing is less than 1:

    footprint = sqrt(z^2 a (r . f) / facing)        perspective
    footprint = sqrt(    a          / facing)       orthographic: all rays are parallel to f, and depth does not matter
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medm.correspondence.background import pixel_grid
from medm.correspondence.codes import Codes
from medm.progress import Progress, silent
from medm.shot import Bool, Camera, Float32, GBuffer, Int32

LEAST_FACING = 1e-3
"""Below it the footprint grows no more: smooth shading and bump turn normals away from surfaces that are in view, down to 0."""


@dataclass(frozen=True)
class Facts:
    """How often and how well every code is seen. T frames of H x W pixels, `count` codes; the birth of a code is in Codes.

    Attributes:
        last_frame: (count,) int32, index t of the last frame in which the code is seen.
        length: (count,) int32, pixels that have the code, at least 1.
        frames: (count,) int32, frames in which it is seen, at least 1; fewer than `length` where it takes several pixels of one.
        mean_footprint: (count,) float32, over the code's pixels; units as `footprint`.
        finest_footprint: (count,) float32, the smallest footprint among the code's pixels: how closely the surface is ever seen.
        mean_facing: (count,) float32, over the code's pixels, 0 to 1.
        footprint: (T, H, W) float32, scene units, more than 0. On the background, which is at no distance, it is the footprint at
            distance 1: in a perspective picture the pixel's side as an angle in radians. Sub-pixel codes never have pixels of both.
        facing: (T, H, W) float32, 0 to 1; 1 on the background.
    """

    last_frame: Int32
    length: Int32
    frames: Int32
    mean_footprint: Float32
    finest_footprint: Float32
    mean_facing: Float32
    footprint: Float32
    facing: Float32


def gather_facts(codes: Codes, gbuffer: GBuffer, cameras: list[Camera], progress: Progress = silent) -> Facts:
    """The facts of a shot's codes, frame by frame: what is needed beyond the result is a few arrays of one frame.

    Args:
        codes: the codes, of any coding.
        gbuffer: normals, depth and background are used.
        cameras: T cameras.
        progress: told once a frame.
    """
    count, shape = codes.count, codes.codes.shape
    footprint, facing = np.empty(shape, np.float32), np.empty(shape, np.float32)
    last_frame, length, frames = (np.zeros(count, np.int32) for _ in range(3))
    footprints, facings = np.zeros(count), np.zeros(count)
    finest = np.full(count, np.inf, np.float32)
    for t, camera in enumerate(cameras):
        progress(t / len(cameras), "facts")
        footprint[t], facing[t] = how_seen(camera, gbuffer.normal[t], gbuffer.depth[t], gbuffer.background[t])
        code = codes.codes[t].ravel().astype(np.intp)  # this, and sums of one type, is what `at` is fast with
        last_frame[code] = t
        frames[code] += 1  # an indexed += adds once to a code that stands there several times: what is counted are frames
        np.add.at(length, code, np.int32(1))
        np.add.at(footprints, code, footprint[t].ravel().astype(np.float64))
        np.add.at(facings, code, facing[t].ravel().astype(np.float64))
        np.minimum.at(finest, code, footprint[t].ravel())
    progress(1.0, "facts")
    return Facts(
        last_frame,
        length,
        frames,
        (footprints / length).astype(np.float32),
        finest,
        (facings / length).astype(np.float32),
        footprint,
        facing,
    )


def how_seen(camera: Camera, normal: Float32, depth: Float32, background: Bool) -> tuple[Float32, Float32]:
    """Footprint and facing, both (H, W) float32, of one frame; as in `Facts`.

    Args:
        camera: the frame's camera.
        normal: (H, W, 3) unit length, world space.
        depth: (H, W) planar, scene units.
        background: (H, W).
    """
    _, rays = camera.rays(pixel_grid(camera.width, camera.height))
    facing = np.clip(np.abs(np.einsum("hwc,hwc->hw", rays, normal)), 0.0, 1.0)
    facing[background] = 1.0
    forward = -camera.world_to_camera[2, :3]
    area = 4 / (camera.width * camera.height * abs(np.linalg.det(camera.projection[:2, :2])))
    if not camera.orthographic:
        cosine = rays @ forward
        area = area * cosine * np.where(background, cosine, depth) ** 2  # at distance 1 the depth is the cosine
    footprint = np.sqrt(area / np.maximum(facing, LEAST_FACING))
    return footprint.astype(np.float32), facing.astype(np.float32)


def ages(codes: Codes) -> Int32:
    """(T, H, W) int32: frames since the birth of each pixel's code, 0 where it is born; negative in codings that run backwards in time."""
    t = np.arange(len(codes.codes), dtype=np.int32)[:, None, None]
    return np.asarray(t - codes.birth_frame[codes.codes], np.int32)


def confidence(facts: Facts, codes: Codes) -> Float32:
    """How far each pixel is to be trusted about its code: (T, H, W) float32, 0 to 1, for `Harmonizer`'s weights.

        weight = facing (finest footprint of the code / own footprint)^2

    A pixel says what the surface looks like somewhere within its footprint, not at the code's exact point. The variance that comes of that
    goes with the square of the footprint's longer side, which is footprint / sqrt(facing). The weight is the inverse of that variance, as
    in any mean of measurements that differ in precision, times what is the same in all pixels of a code, which changes nothing there: it
    makes 1 the most. So a pixel at twice the distance counts a quarter, and so does one that meets the surface at 60 degrees from head-on.
    """
    weight = np.empty_like(facts.facing)
    for t, code in enumerate(codes.codes):
        weight[t] = facts.facing[t] * np.square(facts.finest_footprint[code] / facts.footprint[t])
    return weight


CLEAR = 0.5
"""Share of the best weight of its code from which on a pixel sees the surface clearly: up to 1.4 times as far away, or at 60 degrees."""


def view_weights(gbuffer: GBuffer, cameras: list[Camera]) -> Float32:
    """How precisely each pixel sees its surface: facing / footprint^2, (T, H, W) float32, more than 0.

    Within a code this is `confidence` but for a factor, and needs no codes: of any frames of a shot, with the cameras of these frames.
    """
    weights = np.empty(gbuffer.depth.shape, np.float32)
    for t, camera in enumerate(cameras):
        footprint, facing = how_seen(camera, gbuffer.normal[t], gbuffer.depth[t], gbuffer.background[t])
        weights[t] = np.maximum(facing, LEAST_FACING) / np.square(footprint)
    return weights


def clear_views(codes: Codes, weights: Float32) -> Bool:
    """Which pixels see their surface point about as well as it is ever seen: (T, H, W) bool, for `Harmonizer`'s keys.

    Those whose weight is at least half of the best among the pixels of their code. Every code has one.

    Args:
        codes: the codes, of any coding.
        weights: (T, H, W), of `view_weights`.
    """
    best = np.zeros(codes.count, np.float32)
    for code, weight in zip(codes.codes, weights, strict=True):
        np.maximum.at(best, code.ravel().astype(np.intp), weight.ravel())
    clear = np.empty(weights.shape, np.bool_)
    for t, code in enumerate(codes.codes):
        clear[t] = weights[t] >= np.float32(CLEAR) * best[code]
    return clear

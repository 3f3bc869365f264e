"""Cameras, positions and normals from what datasets ship: intrinsics, poses and depth."""

from __future__ import annotations

import numpy as np

from medm.shot import Camera, Float32, Float64

CLIP_START, CLIP_END = 0.01, 10_000.0
_TO_OURS = np.diag([1.0, -1.0, -1.0, 1.0])  # y down, z forward -> y up, looking along -z


def camera(intrinsics: Float64, world_to_camera: Float64, width: int, height: int) -> Camera:
    """A camera of ours.

    Args:
        intrinsics: (3, 3) [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], pixels whose centres are whole numbers.
        world_to_camera: (4, 4), to a camera space with y down and z forward.
        width: of the picture, pixels.
        height: of the picture, pixels.
    """
    near, far = CLIP_START, CLIP_END
    projection = np.zeros((4, 4))
    projection[0, 0] = 2 * intrinsics[0, 0] / width
    projection[0, 2] = 1 - (intrinsics[0, 2] + 0.5) * 2 / width
    projection[1, 1] = 2 * intrinsics[1, 1] / height
    projection[1, 2] = (intrinsics[1, 2] + 0.5) * 2 / height - 1
    projection[2, 2:] = -(far + near) / (far - near), -2 * far * near / (far - near)
    projection[3, 2] = -1
    return Camera(_TO_OURS @ world_to_camera, projection, width, height)


def positions(view: Camera, depth: Float32) -> Float32:
    """World positions (H, W, 3) of pixels of planar depth (H, W); 0 where the depth is not finite."""
    y, x = np.mgrid[: view.height, : view.width]
    origins, directions = view.rays(np.stack([x, y], axis=-1))
    planar = directions @ -view.world_to_camera[2, :3]
    finite = np.where(np.isfinite(depth), depth, 0)
    return np.where(np.isfinite(depth)[..., None], origins + directions * (finite / planar)[..., None], 0).astype(np.float32)


def normals(view: Camera, position: Float32, depth: Float32) -> Float32:
    """World normals (H, W, 3), towards the camera, of a surface known by its positions: the cross product of the steps to its neighbours.

    Along each axis the step goes from one neighbour to the other where their depths go on evenly, else to the neighbour of nearer depth,
    so that no step leads over an edge. (0, 0, 0) where the depth (H, W) is not finite. Pixels without a neighbour face the camera.
    """
    points = position.astype(np.float64)
    across, down = (_steps(points, depth.astype(np.float64), axis) for axis in (1, 0))
    normal = np.cross(down, across)
    y, x = np.mgrid[: view.height, : view.width]
    backwards = -view.rays(np.stack([x, y], axis=-1))[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        normal *= np.where((normal * backwards).sum(axis=-1, keepdims=True) < 0, -1, 1)
    normal = np.where(np.isfinite(normal).all(axis=-1, keepdims=True), normal, backwards)
    return np.where(np.isfinite(depth)[..., None], normal, 0).astype(np.float32)


def _steps(points: Float64, depth: Float64, axis: int) -> Float64:
    """(H, W, 3) a step along the surface to the next pixel along an axis."""
    before, after = (np.roll(depth, shift, axis) for shift in (1, -1))
    edge: tuple[slice | int, ...] = (slice(None), 0) if axis == 1 else (0,)
    other: tuple[slice | int, ...] = (slice(None), -1) if axis == 1 else (-1,)
    before[edge], after[other] = np.inf, np.inf
    with np.errstate(invalid="ignore"):
        back, on = np.abs(depth - before), np.abs(depth - after)
    back, on = np.nan_to_num(back, nan=np.inf, posinf=np.inf), np.nan_to_num(on, nan=np.inf, posinf=np.inf)
    to_back, to_on = points - np.roll(points, 1, axis), np.roll(points, -1, axis) - points
    with np.errstate(invalid="ignore"):
        # Of two steps one of which is much longer, the longer leads over an edge.
        even = np.maximum(back, on) <= 2 * np.minimum(back, on) + 1e-4 * depth
    step = np.where((back <= on)[..., None], to_back, to_on)
    step = np.where((even & np.isfinite(back) & np.isfinite(on))[..., None], (to_back + to_on) / 2, step)
    return np.where((np.isfinite(back) | np.isfinite(on))[..., None], step, np.nan)

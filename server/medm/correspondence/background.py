"""Flow where no surface is: how the sky moves, from the two cameras alone.

For correspondence.analyse: Blender's own vectors on the background are zero or wrong, depending on its version.

What a perspective pixel sees there is a direction, that is a point at infinity (homogeneous, w = 0): it is projected exactly, without
picking a large distance, and does not depend on where the cameras are.

An orthographic camera sees one and the same direction in all its pixels. While that direction stays (the camera moves,
rolls or zooms), a point of the ray moves alike at every depth, and its flow is exact. When it turns, a point at infinity would leave
the frame at infinite speed; but as all pixels look the same way, no motion can be seen either, and we let the backdrop stand still
on the film (flow 0), which is as right as any other flow and does not flicker.
"""

from __future__ import annotations

import numpy as np

from medm.shot import Bool, Camera, Float32, Float64

NOWHERE = 1e6
"""Flow, in pixels, of a point that the other camera cannot have in its frame: finite, and out of every frame."""

_SAME_DIRECTION = 1e-5  # radians; in a frame of 8192 pixels well below one pixel at any depth that matters


def pixel_grid(width: int, height: int) -> Float32:
    """(H, W, 2) float32: x and y of every pixel's centre."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([x, y], axis=-1)


def background_flow(camera: Camera, other: Camera, xy: Float64) -> Float64:
    """How far points at infinity, seen by `camera` at pixels `xy` (..., 2), are displaced as seen by `other`: (..., 2) pixels.

    Points that `other` has behind it get NOWHERE in both components.
    """
    origins, directions = camera.rays(xy)
    if camera.orthographic and other.orthographic:
        turned = np.linalg.norm(np.cross(camera.world_to_camera[2, :3], other.world_to_camera[2, :3]))
        opposite = camera.world_to_camera[2, :3] @ other.world_to_camera[2, :3] < 0
        if turned > _SAME_DIRECTION or opposite:
            return np.zeros_like(xy)
        target, _ = other.project(origins)
    elif camera.orthographic or other.orthographic:
        return np.full_like(xy, NOWHERE)  # the kind of camera changed: no pixel of one shows what a pixel of the other does
    else:
        in_camera = directions @ other.world_to_camera[:3, :3].T
        target = other.to_pixels(in_camera @ other.projection[:, :3].T)
    return np.where(np.isfinite(target), target - xy, NOWHERE)


def fill_background(
    flow_to_prev: Float32, flow_to_next: Float32, background: Bool, cameras: list[Camera], *, in_place: bool = False
) -> tuple[Float32, Float32]:
    """Both flows with their background computed from the cameras.

    Args:
        flow_to_prev: (T, H, W, 2) pixels, as is flow_to_next.
        flow_to_next: see flow_to_prev.
        background: (T, H, W), the pixels to fill.
        cameras: T cameras.
        in_place: fill the given arrays, which saves 16 bytes a pixel; else they stay as they are.

    Returns:
        flow_to_prev and flow_to_next, filled; the first frame's flow_to_prev and the last frame's flow_to_next are 0 everywhere,
        as there is no frame for them to point to.
    """
    to_prev, to_next = (flow_to_prev, flow_to_next) if in_place else (flow_to_prev.copy(), flow_to_next.copy())
    to_prev[0], to_next[-1] = 0, 0
    for t, camera in enumerate(cameras):
        y, x = np.nonzero(background[t])
        xy = np.stack([x, y], axis=-1).astype(np.float64)
        if t > 0:
            to_prev[t, y, x] = background_flow(camera, cameras[t - 1], xy)
        if t + 1 < len(cameras):
            to_next[t, y, x] = background_flow(camera, cameras[t + 1], xy)
    return to_prev, to_next

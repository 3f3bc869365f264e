"""Exact flow between any two frames of a shot, for equation 11's distant flows.

For correspondence.analyse. Known for what is static (by its position), for rigid objects (by their matrices) and for the background; of
what deforms, or is not in the shot's list of objects, nothing is known but from one frame to the next.
"""

from __future__ import annotations

import numpy as np

from medm.correspondence.background import background_flow, pixel_grid
from medm.correspondence.objects import pixels_by_object
from medm.correspondence.occlusion import nearest_pixel
from medm.shot import Bool, Float32, GBuffer, Shot

IN_FRONT = 1.02
"""What is seen in a place hides a point that is more than this many times as far away."""


def distant_flow(shot: Shot, gbuffer: GBuffer, t: int, s: int) -> tuple[Float32, Bool]:
    """Where the points that frame t shows are in frame s.

    Returns:
        flow: (H, W, 2) float32, pixels; NaN where it is not known.
        occluded: (H, W) bool, pixels whose point is not seen in frame s: hidden, turned away, out of the frame, or not known.
    """
    here, there = shot.cameras[t], shot.cameras[s]
    ids, sky = gbuffer.object_id[t], gbuffer.background[t]
    grid = pixel_grid(*shot.size)
    world, normal = gbuffer.position[t].astype(np.float64), gbuffer.normal[t].astype(np.float64)
    objects, places, normals = shot.objects, world.reshape(-1, 3), normal.reshape(-1, 3)
    for number, mine in pixels_by_object(ids, ~sky) if objects else ():
        motion = objects.get(number)
        if motion is None or motion.kind != "static":
            known = motion is not None and motion.matrices is not None
            move = motion.matrices[s] @ np.linalg.inv(motion.matrices[t]) if known else np.full((4, 4), np.nan)  # type: ignore[union-attr,index]
            places[mine] = places[mine] @ move[:3, :3].T + move[:3, 3]
            normals[mine] = normals[mine] @ np.linalg.inv(move[:3, :3])
    target, seen = there.project(world)
    flow = (target - grid).astype(np.float32)
    flow[sky] = background_flow(here, there, grid[sky].astype(np.float64))
    place, inside = nearest_pixel(grid + flow, *shot.size)
    x, y = place[..., 0], place[..., 1]
    with np.errstate(invalid="ignore"):
        same_side = (gbuffer.normal[s, y, x] * normal).sum(axis=-1) > 0  # else a thin thing has turned round
        hidden = (gbuffer.object_id[s, y, x] != ids) | (~sky & ~(same_side & (gbuffer.depth[s, y, x] * IN_FRONT >= seen)))
    return flow, ~inside | hidden

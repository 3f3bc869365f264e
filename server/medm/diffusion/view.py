"""What control images are made from. numpy alone, as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from medm.shot import Camera, GBuffer

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """What the camera sees in T frames.

    `normals`: (T, H, W, 3) camera space, unit length, x right, y up, z towards the camera; zero on the background.
    `depth`: (T, H, W) planar depth, > 0; ignored on the background.
    `object_id`: (T, H, W) integers that tell objects apart; ignored on the background.
    """

    normals: FloatArray
    depth: FloatArray
    object_id: npt.NDArray[np.int32]

    @cached_property
    def background(self) -> npt.NDArray[np.bool_]:
        """(T, H, W): where no surface is seen, |N| = 0."""
        return np.asarray(~np.any(self.normals != 0.0, axis=-1))


def view_of(gbuffer: GBuffer, cameras: Sequence[Camera], frames: Sequence[int] | range | None = None) -> View:
    """The view of some frames of a shot, by index; of all if none are named. `cameras`: the whole shot's."""
    frames = range(len(cameras)) if frames is None else frames
    return View(
        normals=np.stack([cameras[t].camera_normals(gbuffer.normal[t]) for t in frames]),
        depth=gbuffer.depth[list(frames)],
        object_id=gbuffer.object_id[list(frames)],
    )

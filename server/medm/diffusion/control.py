"""Control images for ControlNet, made from the G-buffer. numpy alone, so that the training renders use the very same code.

All images are float32 in [0, 1], channels first, and depend only on what the camera sees: `normal` has three channels,
`depth` and `lineart` one. A ControlNet with three input channels gets a grey image three times; one with more gets several
kinds side by side, in the order that its preset names (the bundled model: normal, depth, lineart = 5 channels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medm.errors import BadInput

FloatArray = npt.NDArray[np.float32]

KINDS: dict[str, int] = {"normal": 3, "depth": 1, "lineart": 1}
"""Channels that each kind of control image has."""


@dataclass(frozen=True)
class View:
    """What control images are made from, for T frames.

    `normals`: (T, H, W, 3) camera space, unit length, x right, y up, z towards the camera; zero on the background.
    `depth`: (T, H, W) planar depth, > 0; ignored on the background.
    `object_id`: (T, H, W) integers that tell objects apart.
    """

    normals: FloatArray
    depth: FloatArray
    object_id: npt.NDArray[np.int32]

    @property
    def background(self) -> npt.NDArray[np.bool_]:
        """(T, H, W): where no surface is seen, |N| = 0."""
        return np.asarray(~np.any(self.normals != 0.0, axis=-1))


def normal_image(view: View) -> FloatArray:
    """Normals as colour, the convention of normal-bae: ((-nx, ny, nz) + 1) / 2; black where there is no surface. (T, 3, H, W)."""
    colour = (view.normals * np.array([-1.0, 1.0, 1.0], np.float32) + 1.0) * 0.5
    colour[view.background] = 0.0
    return np.ascontiguousarray(np.moveaxis(np.clip(colour, 0.0, 1.0), -1, 1), dtype=np.float32)


def _inverse_depth(view: View) -> FloatArray:
    """1 / z, 0 on the background: affine over the image of a plane, which depth is not."""
    inverse = np.zeros(view.depth.shape, np.float32)
    np.divide(1.0, view.depth, out=inverse, where=~view.background & (view.depth > 0.0))
    return inverse


def depth_image(view: View) -> FloatArray:
    """Inverse depth over its largest value in the whole shot, so that it does not pulse from frame to frame. (T, 1, H, W)."""
    inverse = _inverse_depth(view)
    largest = float(inverse.max(initial=0.0))
    return (inverse / largest if largest > 0.0 else inverse)[:, None]


def _smoothstep(low: float, high: float, value: FloatArray) -> FloatArray:
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), np.float32)


def lineart_image(view: View) -> FloatArray:
    """White lines on black where the object, the normal or the depth breaks off. (T, 1, H, W).

    A pixel is on a line if it differs from its right or lower neighbour in object or background, in normal (from 30 to 60
    degrees), or if the inverse depth bends by 2 to 6 percent over its three-pixel neighbourhood: inverse depth is affine on
    a plane, so that a plane seen at a grazing angle draws no line.
    """
    background = view.background
    label = np.where(background, np.int32(-1), view.object_id)
    line = np.zeros(label.shape, np.float32)
    for axis in (1, 2):
        here = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        there = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        surface = ~background[here] & ~background[there]
        cosine = np.einsum("thwc,thwc->thw", view.normals[here], view.normals[there])
        edge = np.where(surface, _smoothstep(0.13, 0.5, 1.0 - cosine), 0.0)
        edge = np.maximum(edge, label[here] != label[there]).astype(np.float32)
        line[here] = np.maximum(line[here], edge)

        inverse = _inverse_depth(view)
        inner = tuple(slice(1, -1) if a == axis else slice(None) for a in range(3))
        before = tuple(slice(None, -2) if a == axis else slice(None) for a in range(3))
        after = tuple(slice(2, None) if a == axis else slice(None) for a in range(3))
        bend = np.abs(inverse[before] + inverse[after] - 2.0 * inverse[inner])
        nearest = np.maximum(np.maximum(inverse[before], inverse[after]), inverse[inner])
        # only the nearer side of a step draws, else every outline would be two pixels wide
        near_side = inverse[inner] * 2.0 >= inverse[before] + inverse[after]
        relative = np.divide(bend, nearest, out=np.zeros_like(bend), where=nearest > 0.0)
        line[inner] = np.maximum(line[inner], np.where(near_side, _smoothstep(0.02, 0.06, relative), 0.0))
    return line[:, None]


_MAKERS: dict[str, Callable[[View], FloatArray]] = {"normal": normal_image, "depth": depth_image, "lineart": lineart_image}


def control_images(view: View, kinds: Sequence[str], channels: int) -> FloatArray:
    """The input of a ControlNet with `channels` input channels: the images of `kinds` side by side. (T, channels, H, W).

    Raises BadInput if a kind is unknown or the kinds do not add up to `channels`.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise BadInput(f"no control image is called {', '.join(unknown) or 'nothing'}; there are {', '.join(KINDS)}")
    images = [_MAKERS[kind](view) for kind in kinds]
    if len(images) == 1 and images[0].shape[1] == 1 and channels == 3:
        return np.repeat(images[0], 3, axis=1)
    stack = images[0] if len(images) == 1 else np.concatenate(images, axis=1)
    if stack.shape[1] != channels:
        raise BadInput(f"the ControlNet takes {channels} channels, but {' + '.join(kinds)} make {stack.shape[1]}")
    return stack

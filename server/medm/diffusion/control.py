"""Control images for ControlNet, made from the G-buffer. numpy alone, so that the training renders use the very same code.

All images are float32 in [0, 1], channels first, and depend only on what the camera sees. A ControlNet with three input channels
gets a grey image three times; one with more gets several kinds side by side, in the order that its preset names (the bundled
model: normal, depth, lineart = 5 channels). docs/control.md shows every kind and says what it is for.

A long shot is done a few frames at a time: what concerns all of its frames is gathered once, as ShotFacts, and given to every part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from medm.diffusion import ade20k
from medm.diffusion.edges import WIDEST, canny_image, inverse_depth, lineart_image, softedge_image
from medm.diffusion.view import FloatArray, View, view_of
from medm.errors import BadInput

__all__ = [
    "KINDS",
    "ShotFacts",
    "View",
    "canny_image",
    "channels_of",
    "control_images",
    "depth_image",
    "facts_of",
    "lineart_image",
    "normal_bae_image",
    "normal_image",
    "segmentation_image",
    "softedge_image",
    "view_of",
]

KINDS: dict[str, int] = {"normal": 3, "depth": 1, "lineart": 1, "normal-bae": 3, "softedge": 1, "canny": 1, "segmentation": 3}
"""Channels that each kind of control image has. `lineart@2` is lineart with lines two pixels wide."""


class _Surfaces(Protocol):
    """A View, or a GBuffer of medm.shot."""

    @property
    def depth(self) -> FloatArray: ...
    @property
    def object_id(self) -> npt.NDArray[np.int32]: ...
    @property
    def background(self) -> npt.NDArray[np.bool_]: ...


@dataclass(frozen=True)
class ShotFacts:
    """What the control images of a part of a shot have to know of the whole.

    Attributes:
        largest_inverse_depth: of the surface that comes nearest; 0 if there is none.
        ids: of all objects in view, rising.
        names: of objects, by id, as far as they are known.
    """

    largest_inverse_depth: float
    ids: tuple[int, ...]
    names: Mapping[int, str] = field(default_factory=dict)

    def with_part(self, other: ShotFacts) -> ShotFacts:
        """Facts of this part of a shot and of another one together."""
        nearest = max(self.largest_inverse_depth, other.largest_inverse_depth)
        return ShotFacts(nearest, tuple(sorted({*self.ids, *other.ids})), {**self.names, **other.names})

    def colours(self) -> npt.NDArray[np.uint8]:
        """(len(ids), 3) a colour of ADE20K for every object.

        That of the class that its name speaks of. Objects whose names say nothing get the other classes' colours, chosen by id, and
        different ones while there are any left.
        """
        classes = {number: ade20k.class_of(self.names.get(number, "")) for number in self.ids}
        taken = {"sky", *(name for name in classes.values() if name is not None)}
        free = list(dict.fromkeys(colour for name, colour in ade20k.COLOURS.items() if name not in taken)) or [ade20k.COLOURS["wall"]]
        used: set[int] = set()
        chosen = []
        for number in self.ids:
            named = classes[number]
            if named is not None:
                chosen.append(ade20k.COLOURS[named])
                continue
            place = (number & 0xFFFFFFFF) % len(free)
            while place in used and len(used) < len(free):
                place = (place + 1) % len(free)
            used.add(place)
            chosen.append(free[place])
        return np.array(chosen, np.uint8).reshape(-1, 3)


def facts_of(surfaces: _Surfaces, names: Mapping[int, str] | None = None) -> ShotFacts:
    """The facts of a view or a G-buffer. `names`: of objects, by id; segmentation gives what is called `Tree.001` a tree's colour."""
    largest, ids = np.float32(0.0), set()
    for depth, numbers, sky in zip(surfaces.depth, surfaces.object_id, surfaces.background, strict=True):
        seen = ~sky & (depth > 0.0)
        if seen.any():
            largest = max(largest, np.float32(1.0) / depth[seen].min())
        ids.update(np.unique(numbers[~sky]).tolist())
    return ShotFacts(float(largest), tuple(sorted(ids)), dict(names or {}))


def normal_image(view: View) -> FloatArray:
    """Normals as colour, the convention of normal-bae: ((-nx, ny, nz) + 1) / 2; black where there is no surface. (T, 3, H, W)."""
    colour = (view.normals * np.array([-1.0, 1.0, 1.0], np.float32) + 1.0) * 0.5
    colour[view.background] = 0.0
    return np.ascontiguousarray(np.moveaxis(np.clip(colour, 0.0, 1.0), -1, 1), dtype=np.float32)


def normal_bae_image(view: View) -> FloatArray:
    """As `normal_image`, but the background faces the camera, (0.5, 0.5, 1): networks taught by estimates have seen unit vectors only."""
    image = normal_image(view)
    np.copyto(image, np.array([0.5, 0.5, 1.0], np.float32)[:, None, None], where=view.background[:, None])
    return image


def depth_image(view: View, facts: ShotFacts | None = None) -> FloatArray:
    """Inverse depth over its largest value in the whole shot, so that it does not pulse from frame to frame. (T, 1, H, W).

    As MiDaS has it: white is near, black is infinitely far.
    """
    inverse = inverse_depth(view)
    largest = (facts or facts_of(view)).largest_inverse_depth
    return (inverse / largest if largest > 0.0 else inverse)[:, None]


def segmentation_image(view: View, facts: ShotFacts | None = None) -> FloatArray:
    """Every object in one flat colour of ADE20K, the same in the whole shot; the background as sky. (T, 3, H, W)."""
    facts = facts or facts_of(view)
    colours = np.concatenate([facts.colours(), np.array([ade20k.COLOURS["sky"]], np.uint8)]).astype(np.float32) / 255.0
    place = np.searchsorted(np.array(facts.ids, np.int32), view.object_id)
    place[view.background] = len(facts.ids)
    return np.ascontiguousarray(np.moveaxis(colours[place], -1, 1))


_MAKERS: dict[str, Callable[[View, ShotFacts | None], FloatArray]] = {
    "normal": lambda view, _: normal_image(view),
    "depth": depth_image,
    "normal-bae": lambda view, _: normal_bae_image(view),
    "softedge": lambda view, _: softedge_image(view),
    "canny": lambda view, _: canny_image(view),
    "segmentation": segmentation_image,
}


def channels_of(kinds: Sequence[str]) -> int:
    """How many channels the images of `kinds` have side by side.

    Raises:
        BadInput: a kind is unknown, there is none, or a line's width is not possible.
    """
    return sum(KINDS[_parsed(kind)[0]] for kind in kinds) or _unknown("nothing")


def control_images(view: View, kinds: Sequence[str], channels: int, facts: ShotFacts | None = None) -> FloatArray:
    """The input of a ControlNet with `channels` input channels: the images of `kinds` side by side. (T, channels, H, W).

    `facts`: of the whole shot where `view` is a part of it; None: the view is all there is. The images of a part are that part of the
    whole shot's images.

    Raises:
        BadInput: a kind is unknown, or the kinds do not add up to `channels`.
    """
    made = channels_of(kinds)
    if made != channels and (made, channels) != (1, 3):
        raise BadInput(
            f"the ControlNet takes {channels} channels, but {' + '.join(kinds)} make {made}; name what it was trained for, as KIND+KIND, "
            "or leave control away"
        )
    images = [_image(view, *_parsed(kind), facts) for kind in kinds]
    if made == 1 and channels == 3:
        return np.repeat(images[0], 3, axis=1)
    return images[0] if len(images) == 1 else np.concatenate(images, axis=1)


def _image(view: View, kind: str, width: float, facts: ShotFacts | None) -> FloatArray:
    return lineart_image(view, width) if kind == "lineart" else _MAKERS[kind](view, facts)


def _parsed(kind: str) -> tuple[str, float]:
    """A kind and the width of its lines in pixels: ("lineart", 2.0) of `lineart@2`."""
    name, given, width = kind.partition("@")
    if name not in KINDS or (given and name != "lineart"):
        _unknown(kind)
    if not given:
        return name, 1.0
    if not re.fullmatch(r"\d+(\.\d+)?", width) or not 1.0 <= float(width) <= WIDEST:
        raise BadInput(f"{kind}: the width of lines is a number of pixels from 1 to {WIDEST:g}")
    return name, float(width)


def _unknown(kind: str) -> int:
    raise BadInput(f"no control image is called {kind}; there are {', '.join(KINDS)}")

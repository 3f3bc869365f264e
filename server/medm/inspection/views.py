"""Motion, occlusion, codes and lengths of one frame as colours. For `medm inspect`; everything returned is (H, W, 3) uint8."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from medm.correspondence import Codes
from medm.pictures import BACKGROUND, TEXT
from medm.shot import Bool, Float32, Int32

Picture = npt.NDArray[np.uint8]

UNKNOWN = (90, 90, 94)
"""Where there is nothing to be shown: no frame before, no surface."""
FRESH = (255, 138, 20)
"""Of pixels that come into view, and of those that would be painted."""
_HEAT = np.array([(0.27, 0.00, 0.33), (0.23, 0.32, 0.55), (0.13, 0.57, 0.55), (0.37, 0.79, 0.38), (0.99, 0.91, 0.14)], np.float32)
_PATCHES = 32
"""Patches of one hue, in the picture of codes, to a picture's width."""
_EPOCH = 12
"""Frames whose newborn codes share their patches' hues."""


def flow_picture(flow: Float32, fastest: float) -> Picture:
    """Flow as a colour wheel: the hue is the direction, white is no motion, full colour is `fastest` pixels or more.

    Args:
        flow: (H, W, 2) pixels. Where it is not finite the picture is grey.
        fastest: pixels, more than 0.
    """
    known = np.asarray(np.isfinite(flow).all(axis=-1))
    flow = np.where(known[..., None], flow, 0)
    hue = (np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi)) % 1.0
    colour = _hue(hue)
    with np.errstate(over="ignore"):
        saturation = np.clip(np.linalg.norm(flow, axis=-1) / fastest, 0, 1)[..., None]
    picture = _bytes(1 - saturation * (1 - colour))
    picture[~known] = UNKNOWN
    return picture


def wheel(fastest: float, size: int) -> Image.Image:
    """The legend of `flow_picture`, about `size` pixels high: the wheel, and what its rim and its directions mean."""
    text = max(11, size // 9)
    radius = (size - 2 * text - 8) / 2
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    disc = flow_picture(np.stack([x, y], axis=-1).astype(np.float32) / radius, 1.0)
    disc[np.hypot(x, y) > radius] = BACKGROUND
    page = Image.new("RGB", (size + 22 * text, size), BACKGROUND)
    page.paste(Image.fromarray(disc), (0, 0))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(text)
    middle = (size - 1) / 2
    for place, anchor, word in (((middle, 0), "mt", "up"), ((middle, size - 1), "mb", "down")):
        draw.text(place, word, fill=TEXT, font=font, anchor=anchor)
    lines = [
        f"rim: {fastest:.3g} px a frame, or faster",
        "white: stands still on the picture",
        "colour: the way back to where the point",
        "was in the frame before",
        "grey: no frame before",
    ]
    for index, line in enumerate(lines):
        draw.text((size + text, middle + (index - len(lines) / 2 + 0.5) * 1.35 * text), line, fill=TEXT, font=font, anchor="lm")
    return page


def occlusion_picture(base: Picture, occluded: Bool) -> Picture:
    """What comes into view, in orange over a picture that is darkened and grey."""
    grey = (base @ np.array([0.2126, 0.7152, 0.0722], np.float32) * 0.75)[..., None]
    return np.where(occluded[..., None], 0.2 * grey + 0.8 * np.array(FRESH, np.float32), grey).round().astype(np.uint8)


def mask_picture(base: Picture, coverage: Float32) -> Picture:
    """What would be painted, in orange over the picture; `coverage`: (H, W), 0 to 1."""
    grey = base @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    share = coverage[..., None]
    return ((1 - share) * base + share * (0.3 * grey[..., None] + 0.7 * np.array(FRESH, np.float32))).round().astype(np.uint8)


def shaded_picture(facing: Float32, background: Bool, object_id: Int32) -> Picture:
    """A clay picture lit from the camera, for shots without a beauty: facing as grey, in another shade for every object."""
    shade = 0.6 + 0.4 * _random(object_id.astype(np.int64), 4)
    grey = np.where(background, np.float32(0.12), shade * (0.25 + 0.7 * facing))
    return _bytes(np.repeat(grey[..., None], 3, axis=-1))


def code_picture(codes: Codes, t: int, facing: Float32) -> Picture:
    """Codes as stable random colours: a code has the same colour in all frames, shaded a little so that shapes can be seen.

    Codes born side by side at about the same time share a hue, by patches, and differ in brightness: so a picture shows what moves
    together, and every code is still told from its neighbours.

    Args:
        codes: the shot's codes.
        t: index of the frame.
        facing: (H, W) the frame's facing ratio, as in Facts.
    """
    code = codes.codes[t]
    patch = max(2, code.shape[1] // _PATCHES)
    born = np.floor(codes.birth_xy[code] / patch).astype(np.int64)
    place = (born[..., 0] * 73856093) ^ (born[..., 1] * 19349663) ^ (codes.birth_frame[code].astype(np.int64) // _EPOCH * 83492791)
    hue, saturation = _random(place, 1), 0.25 + 0.55 * _random(place, 2)
    value = (0.75 + 0.25 * _random(code.astype(np.int64), 3)) * (0.35 + 0.65 * facing)
    return _bytes(value[..., None] * (1 - saturation[..., None] * (1 - _hue(hue))))


def heat_picture(values: Int32 | Float32, most: float) -> Picture:
    """Numbers from 0 to `most` as violet, blue, green, yellow."""
    place = np.clip(values / max(most, 1e-9), 0, 1) * (len(_HEAT) - 1)
    below = np.minimum(place.astype(np.intp), len(_HEAT) - 2)
    share = (place - below)[..., None]
    return _bytes(_HEAT[below] * (1 - share) + _HEAT[below + 1] * share)


def heat_legend(most: int, least: int, unit: str, size: int) -> Image.Image:
    """The legend of `heat_picture`: a bar with its ends and what they count."""
    text = max(11, size // 9)
    width = 16 * text
    bar = heat_picture(np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (2 * text, width)), 1.0)
    page = Image.new("RGB", (width + 2 * text, 5 * text), BACKGROUND)
    page.paste(Image.fromarray(bar), (0, text // 2))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(text)
    for place, anchor, word in ((0, "lt", str(least)), (width / 2, "mt", unit), (width - 1, "rt", str(most))):
        draw.text((place, 3 * text), word, fill=TEXT, font=font, anchor=anchor)
    return page


def swatches(named: list[tuple[tuple[int, int, int], str]], size: int) -> Image.Image:
    """A legend of single colours, each with what it means."""
    text = max(11, size // 9)
    font = ImageFont.load_default(text)
    width = max(math.ceil(font.getlength(words)) for _, words in named) + 3 * text
    page = Image.new("RGB", (width, 2 * text * len(named)), BACKGROUND)
    draw = ImageDraw.Draw(page)
    for index, (colour, words) in enumerate(named):
        top = 2 * text * index
        draw.rectangle([0, top + text // 4, 1.5 * text, top + 1.75 * text], fill=colour)
        draw.text((2.2 * text, top + text), words, fill=TEXT, font=font, anchor="lm")
    return page


def _hue(hue: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """(..., 3) the pure colour of a hue from 0 to 1: red, yellow, green, cyan, blue, magenta."""
    wheel_place = np.abs((hue[..., None] * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3)
    return np.asarray(np.clip(wheel_place - 1, 0, 1))


def _random(key: npt.NDArray[np.int64], salt: int) -> Float32:
    """A number from 0 to 1 for every key, the same each time: splitmix64."""
    x = key.astype(np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def _bytes(colour: npt.NDArray[np.floating]) -> Picture:
    return np.asarray((np.clip(colour, 0, 1) * 255).round(), np.uint8)

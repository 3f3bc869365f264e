"""Contact sheets of `medm inspect`: frames of a clip with their numbers, under a title, beside a legend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from medm.inspection.views import Picture
from medm.pictures import BACKGROUND, write_line

_CELL = 400
"""Width that pictures are brought to, pixels: larger ones are made smaller, small ones get pixels of whole numbers."""
_TEXT = 18
_GAP = 10
LEGEND = 130
"""Height of a legend, pixels."""


def chosen_frames(length: int, most: int = 12) -> list[int]:
    """Which frames a sheet shows: evenly spread, first and last among them."""
    return sorted(set(np.linspace(0, length - 1, min(most, length)).round().astype(int).tolist()))


def sheet(
    rows: Mapping[str, Sequence[Picture]], captions: Sequence[str], legend: Image.Image | None = None, mixed: bool = True
) -> Image.Image:
    """A page of frames.

    Args:
        rows: under each title its frames: one title's frames flow over several lines, several titles get one line each.
        captions: what stands under each frame.
        legend: stands above.
        mixed: whether pixels may be averaged when a picture is made smaller; False for colours that are names.
    """
    cells = {title: [_fitted(picture, mixed) for picture in pictures] for title, pictures in rows.items()}
    width, height = next(iter(cells.values()))[0].size
    columns = min(len(captions), 4 if len(rows) == 1 else 6)
    lines = [
        (title if first == 0 else "", pictures[first : first + columns], captions[first : first + columns])
        for title, pictures in cells.items()
        for first in range(0, len(pictures), columns)
    ]
    top = _GAP + (legend.height + _GAP if legend else 0)
    line_height = height + 2 * _TEXT + _GAP
    titles = sum(bool(title) for title, _, _ in lines)
    page_width = max(columns * (width + _GAP) + _GAP, legend.width + 2 * _GAP if legend else 0)
    page = Image.new("RGB", (page_width, top + len(lines) * line_height + titles * 2 * _TEXT), BACKGROUND)
    if legend:
        page.paste(legend, (_GAP, _GAP))
    for title, pictures, under in lines:
        if title:
            write_line(page, title, (_GAP, top), _TEXT, page_width - 2 * _GAP)
            top += 2 * _TEXT
        for column, (picture, caption) in enumerate(zip(pictures, under, strict=True)):
            left = _GAP + column * (width + _GAP)
            page.paste(picture, (left, top))
            write_line(page, caption, (left, top + height), _TEXT - 3, width)
        top += line_height
    return page


def fitted(picture: Picture, mixed: bool = True) -> Picture:
    """A picture brought to the width of a sheet's cells."""
    return np.asarray(_fitted(picture, mixed))


def _fitted(picture: Picture, mixed: bool) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.width > _CELL:
        size = (_CELL, max(1, math.floor(image.height * _CELL / image.width)))
        return image.resize(size, Image.Resampling.BOX if mixed else Image.Resampling.NEAREST)
    times = max(1, _CELL // image.width)
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)

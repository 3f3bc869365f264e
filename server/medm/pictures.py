"""Pictures to judge a take by: a preview video, the paper's horizontal scan, a contact sheet.

For take folders, the demo and `medm inspect`. All frames are (T, H, W, 3) uint8, display-referred.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageDraw, ImageFont

Frames = npt.NDArray[np.uint8]

BACKGROUND = (38, 38, 40)
"""Of pages that pictures stand on."""
TEXT = (222, 222, 222)
_SCAN_WIDTH = 20
_SCAN_TOTAL = 1600


def write_video(path: str | Path, frames: Iterable[Frames], fps: float) -> None:
    """Write an mp4 that players and browsers show: H.264 where FFmpeg has it, else MPEG-4; BT.709, 4:2:0.

    Odd sides are made even by repeating the last row or column.

    Args:
        path: the file.
        frames: pictures (H, W, 3) uint8 of one size, at least one: an array (T, H, W, 3), or a generator that makes one after the other.
        fps: frames a second.
    """
    pictures = (np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge") for frame in frames)
    first = next(pictures)
    h264 = "libx264" in av.codecs_available
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(
            "libx264" if h264 else "mpeg4",
            rate=Fraction(fps).limit_denominator(1001),
            options={"crf": "16", "preset": "medium"} if h264 else {"qscale": "2"},
        )
        stream.width, stream.height, stream.pix_fmt = first.shape[1], first.shape[0], "yuv420p"
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.color_primaries = 1  # BT.709
        stream.codec_context.color_trc = 13  # sRGB
        for picture in chain([first], pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            yuv = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            container.mux(stream.encode(yuv))
        container.mux(stream.encode())


def side_by_side(clips: Mapping[str, Frames]) -> Frames:
    """Several clips of one size in one, each under its label: up to three in a row, more in rows of about as many as there are rows."""
    gap = 8
    length = min(len(frames) for frames in clips.values())
    height, width = next(iter(clips.values())).shape[1:3]
    text = text_size(width)
    columns = len(clips) if len(clips) <= 3 else math.ceil(math.sqrt(len(clips)))
    rows = math.ceil(len(clips) / columns)
    cell_width, cell_height = width + gap, height + 2 * text + gap
    places = [(gap + index % columns * cell_width, gap + index // columns * cell_height) for index in range(len(clips))]
    page = Image.new("RGB", (columns * cell_width + gap, rows * cell_height + gap), BACKGROUND)
    for label, place in zip(clips, places, strict=True):
        write_line(page, label, place, text, width)
    result = np.repeat(np.asarray(page)[None], length, axis=0)
    for frames, (left, top) in zip(clips.values(), places, strict=True):
        result[:, top + 2 * text : top + 2 * text + height, left : left + width] = frames[:length]
    return result


def liveliest_column(frames: Frames, width: int = _SCAN_WIDTH) -> int:
    """The left edge of the vertical strip, `width` pixels wide, in which a scan has most to show: contrast down the strip and over time."""
    grey = frames.astype(np.float32).mean(axis=-1)
    lively = grey.std(axis=1).mean(axis=0) + grey.std(axis=0).mean(axis=0)
    sums = np.convolve(lively, np.ones(min(width, len(lively)), np.float32), mode="valid")
    return int(sums.argmax())


def horizontal_scan(frames: Frames, column: int | None = None) -> Image.Image:
    """The paper's figure 1: one vertical strip of every frame, side by side. A steady clip leaves no stripes.

    Args:
        frames: (T, H, W, 3) uint8.
        column: left edge of the strip; None picks the liveliest.

    Strips are 20 pixels wide, fewer in clips so long that the picture would be wider than 1600 pixels, at least 1.
    """
    width = _strip_width(frames)
    left = liveliest_column(frames, width) if column is None else min(max(column, 0), frames.shape[2] - width)
    strips = frames[:, :, left : left + width]
    return Image.fromarray(np.ascontiguousarray(np.concatenate(list(strips), axis=1)))


def scan_comparison(clips: Mapping[str, Frames], column: int | None = None) -> Image.Image:
    """Horizontal scans of several clips at the same place, each under its label; two in a row if they are narrow."""
    if column is None:
        width = min(_strip_width(frames) for frames in clips.values())
        column = liveliest_column(np.concatenate([_thinned(frames, 24) for frames in clips.values()]), width)
    scans = {label: horizontal_scan(frames, column) for label, frames in clips.items()}
    return _stack(scans, columns=2 if max(scan.width for scan in scans.values()) < _SCAN_TOTAL // 2 else 1)


def contact_sheet(clips: Mapping[str, Frames], columns: int = 6) -> Image.Image:
    """Frames of every clip, evenly spread over its length: one row a clip, under its label."""
    rows = {}
    for label, frames in clips.items():
        chosen = _thinned(frames, columns)
        gap = max(4, frames.shape[2] // 64)
        row = Image.new("RGB", (len(chosen) * (frames.shape[2] + gap) - gap, frames.shape[1]), BACKGROUND)
        for place, frame in enumerate(chosen):
            row.paste(Image.fromarray(frame), (place * (frames.shape[2] + gap), 0))
        rows[label] = row
    return _stack(rows)


def _strip_width(frames: Frames) -> int:
    return max(1, min(_SCAN_WIDTH, _SCAN_TOTAL // len(frames), int(frames.shape[2])))


def _thinned(frames: Frames, most: int) -> Frames:
    chosen = np.unique(np.linspace(0, len(frames) - 1, most).round().astype(np.intp))
    return np.take(frames, chosen, axis=0)


def _stack(pictures: Mapping[str, Image.Image], columns: int = 1) -> Image.Image:
    """Labelled pictures of one size, row by row."""
    width = max(picture.width for picture in pictures.values())
    height = max(picture.height for picture in pictures.values())
    text = text_size(width)
    margin = text
    cell_width, cell_height = width + margin, 2 * text + height + margin
    page = Image.new("RGB", (columns * cell_width + margin, math.ceil(len(pictures) / columns) * cell_height + margin), BACKGROUND)
    for index, (label, picture) in enumerate(pictures.items()):
        left, top = margin + index % columns * cell_width, margin + index // columns * cell_height
        write_line(page, label, (left, top), text, width)
        page.paste(picture, (left, top + 2 * text))
    return page


def text_size(width: int) -> int:
    """Height, in pixels, of writing that belongs to a picture `width` pixels wide."""
    return min(28, max(12, width // 48))


def write_line(page: Image.Image, label: str, place: tuple[int, int], size: int, width: int) -> None:
    """Write one line, shortened to `width` pixels."""
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size)
    line = " ".join(label.split())
    while len(line) > 1 and draw.textlength(line, font=font) > width:
        line = line[:-2].rstrip() + "…"
    draw.text((place[0], place[1] + size // 4), line, fill=TEXT, font=font)

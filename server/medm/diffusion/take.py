"""The folder of a take: frames/, preview.mp4, scan.png and, last, take.json, whose presence says that it is complete."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medm.errors import Unavailable
from medm.pictures import horizontal_scan, write_video
from medm.progress import Progress
from medm.shot import Shot, frame_file

_NUMBER = re.compile("-?[0-9]+")


def write_take(shot: Shot, frames: npt.NDArray[np.uint8], out: Path, document: dict[str, Any], progress: Progress) -> None:
    """Writes the painted frames, (T, H, W, 3) uint8, with all that belongs to them; `document` becomes take.json.

    Frames of an earlier take in the same folder that this one has not are removed; other files stay.

    Raises:
        Unavailable: the disk is full, or the folder cannot be written.
    """
    with naming_what_cannot_be_written(out):
        _write(shot, frames, out, document, progress)


def _write(shot: Shot, frames: npt.NDArray[np.uint8], out: Path, document: dict[str, Any], progress: Progress) -> None:
    (out / "take.json").unlink(missing_ok=True)  # of an earlier take, from whose frames this one's are told by nothing else
    for index, (number, frame) in enumerate(zip(shot.frame_numbers, frames, strict=True)):
        progress(index / len(frames), "write take")
        with _aside(out / "frames" / frame_file(number)) as file:
            Image.fromarray(frame).save(file, format="PNG")
    _remove_frames(out / "frames", but=set(shot.frame_numbers))
    with _aside(out / "preview.mp4") as file:
        write_video(file, frames, shot.manifest.fps)
    with _aside(out / "scan.png") as file:
        horizontal_scan(frames).save(file, format="PNG")
    with _aside(out / "take.json") as file:  # last: its presence says that the take is complete
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _remove_frames(folder: Path, but: set[int]) -> None:
    """Removes frames of an earlier take, which had others; whatever has not a frame's name stays."""
    for file in folder.iterdir():
        if _NUMBER.fullmatch(file.stem) and file.name == frame_file(int(file.stem)) and int(file.stem) not in but:
            file.unlink()


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """Where to write what becomes `target` once it is whole; nothing is left of what was broken off."""
    file = target.with_name(f"{target.name}.part")
    try:
        yield file
        file.replace(target)
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def naming_what_cannot_be_written(out: Path) -> Iterator[None]:
    """Within it a file that cannot be written is refused in one line that names the take."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the take cannot be written to {out}: {error.strerror or error}") from error

"""The takes of a scene: what is known of each from its folder's `record.json`, from the submission of its job to its strip in the edit.

A record is written when the job is submitted, so that a take which finishes while Blender is closed is found again. Whatever a record
holds is read with suspicion: projects are passed around, disks fill up, and people edit files. It names no path but its own folder's.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import bpy

from . import folders, sequencer

State = Literal["painting", "ready", "failed", "cancelled"]
STATES: tuple[State, ...] = ("painting", "ready", "failed", "cancelled")
FORMAT, FORMAT_VERSION = "medm-take-record", 1
RECORD = "record.json"
_LARGEST = 2**20
"""Bytes of a record, or of a take.json, that is read at all."""
_LONGEST = 10_000
"""Characters of a text in it that are kept."""
_FRAME = re.compile(r"-?\d{1,9}")


class TakeError(Exception):
    """A take cannot be had. The message is one line that an artist can act on."""


@dataclass(frozen=True)
class Record:
    """A take, as far as its folder tells.

    frame_start, frame_end: inclusive; 0 and -1 if not known. fps: frames per second. width, height: in pixels, 0 if not known.
    settings: as the server takes them. server: its address when the job was submitted. job: its id there. error: why it failed.
    created: when it was submitted, in ISO 8601 with the time zone; empty if not known.
    """

    folder: Path
    number: int
    scene: str = ""
    blend: str = ""
    frame_start: int = 0
    frame_end: int = -1
    fps: float = 24.0
    width: int = 0
    height: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    server: str = ""
    job: str = ""
    state: State = "failed"
    error: str = ""
    created: str = ""

    @property
    def prompt(self) -> str:
        """What was painted."""
        return str(self.settings.get("prompt", ""))

    @property
    def mode(self) -> str:
        """`full` or `assistive`."""
        return "assistive" if self.settings.get("mode") == "assistive" else "full"


# -- writing -----------------------------------------------------------------------------------------------------------


def begin(
    scene: Any,
    take: Path,
    job: str,
    server: str,
    settings: dict[str, Any],
    *,
    frame_range: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
) -> Record:
    """Note that `server` paints `take` (a folder of `folders.new_take`) as `job`; frame range and size are the scene's if not told.

    Raises TakeError if the record cannot be written.
    """
    render = scene.render
    first, last = frame_range or (scene.frame_start, scene.frame_end)
    width, height = size or (
        render.resolution_x * render.resolution_percentage // 100,
        render.resolution_y * render.resolution_percentage // 100,
    )
    record = Record(
        take,
        folders.take_number(take) or 0,
        str(scene.name_full),
        str(bpy.data.filepath),
        first,
        last,
        render.fps / render.fps_base,
        width,
        height,
        dict(settings),
        server,
        job,
        "painting",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    write(record)
    return record


def finish(scene: Any, take: Path) -> Any:
    """Place the take, whose frames are there, in the scene's edit: shown, every other muted. Returns its strip.

    scene: the shot that was rendered. Raises TakeError and sequencer.StripError.
    """
    record = read(take)
    if record is None:
        raise TakeError(f"there is no take in {take}")
    frames = sorted((take / "frames").glob("*.png"), key=_frame_number) if (take / "frames").is_dir() else []
    frames = [frame for frame in frames if _FRAME.fullmatch(frame.stem)]
    if not frames:
        raise TakeError(f"take {record.number} has no frames in {take}")
    first = _frame_number(frames[0])
    width, height = sequencer.picture_size(frames[0])
    record = replace(record, state="ready", error="", frame_start=first, frame_end=_frame_number(frames[-1]), width=width, height=height)
    with contextlib.suppress(TakeError):  # on a disk that is full or protected the take can be seen all the same
        write(record)
    edit = sequencer.edit_for(scene, record.fps, width, height, len(frames), first)
    sequencer.place_beauty(edit, folders.shot(scene) / "beauty")
    return sequencer.place_take(edit, record.number, frames, first, notes(record))


def fail(take: Path, error: str, *, cancelled: bool = False) -> None:
    """Note that the take will not come, and why in one line; one that was cancelled is no failure."""
    record = read(take) or Record(take, folders.take_number(take) or 0)
    line = " ".join(str(error).split())
    with contextlib.suppress(TakeError):  # nothing is lost but the reason
        write(replace(record, state="cancelled" if cancelled else "failed", error=line))


def write(record: Record) -> None:
    """Write the record into its folder, so that whoever reads meanwhile finds the old one or the new. Raises TakeError."""
    document = {"format": FORMAT, "version": FORMAT_VERSION, **asdict(record)}
    del document["folder"]
    aside = record.folder / f".{RECORD}.{os.getpid()}.part"
    try:
        with aside.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, ensure_ascii=False, default=str)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(record.folder / RECORD)
    except OSError as error:
        raise TakeError(f"{record.folder} cannot be written: {(error.strerror or str(error)).lower()}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    _known.pop(record.folder, None)


# -- reading -----------------------------------------------------------------------------------------------------------

_known: dict[Path, tuple[tuple[tuple[int, int] | None, ...], Record | None]] = {}
"""What was read of a folder, and the times and sizes of the files it was read from: panels ask at every redraw."""


def of(scene: Any) -> list[Record]:
    """The scene's takes by their numbers: those in its folder, and those of its edit that are elsewhere since the file was saved."""
    found = {folder: record for _, folder in folders.takes(scene) if (record := read(folder))}
    edit = sequencer.edit_of(scene)
    for strip in sequencer.take_strips(edit) if edit else ():
        folder = sequencer.take_folder(strip)
        if folder not in found and (record := read(folder)):
            found[folder] = replace(record, number=int(strip[sequencer.TAKE]))
    return sorted(found.values(), key=lambda record: record.number)


def pending(scene: Any) -> list[Record]:
    """The scene's takes that a server was painting when they were last heard of."""
    return [record for record in of(scene) if record.state == "painting" and record.job]


def highest(scene: Any) -> int:
    """The greatest number that a take of the scene has; 0 if there is none."""
    return max((record.number for record in of(scene)), default=0)


def find(scene: Any, number: int) -> Record:
    """The scene's take of that number. Raises TakeError."""
    record = next((record for record in of(scene) if record.number == number), None)
    if record is None:
        raise TakeError(f'there is no take {number} of "{scene.name}"')
    return record


def read(folder: Path) -> Record | None:
    """The take in `folder`; None if nothing is there yet. Never raises: what cannot be read is as if it were not said."""
    state = tuple(_stamp(folder / name) for name in (RECORD, "take.json", "frames"))
    known = _known.get(folder)
    if known is None or known[0] != state:
        known = _known[folder] = state, _read(folder)
    return known[1]


def is_complete(folder: Path) -> bool:
    """Whether all frames of the take are there: the server writes take.json last, and `Client.download` brings it last too."""
    return (folder / "take.json").is_file() and (folder / "frames").is_dir()


def notes(record: Record) -> dict[str, Any]:
    """What the take's strip is to say: prompt, seed, model, mode and all settings, as the server used them where take.json tells."""
    settings = {**record.settings, **_painted_with(record.folder)}
    return {
        "prompt": str(settings.get("prompt", "")),
        "seed": _integer(settings.get("seed"), 0),
        "model": str(settings.get("model", "")),
        "mode": "assistive" if settings.get("mode") == "assistive" else "full",
        "settings": settings,
        "created": record.created,
    }


def _painted_with(folder: Path) -> dict[str, Any]:
    """The settings in take.json: the record's with every default filled in. A picture's path is the server's there, and left out."""
    settings = _document(folder / "take.json").get("settings")
    if not isinstance(settings, dict):
        return {}
    return {str(name): value for name, value in settings.items() if name != "reference" and value is not None}


def _read(folder: Path) -> Record | None:
    number = folders.take_number(folder) or 0
    document = _document(folder / RECORD)
    if document.get("format") != FORMAT or not isinstance(document.get("version"), int):
        if is_complete(folder):
            return Record(folder, number, settings=_painted_with(folder), state="ready")
        if (folder / RECORD).exists():
            return Record(folder, number, error="its record cannot be read")
        return None
    settings = document.get("settings")
    state = document.get("state")
    fps = document.get("fps")
    return Record(
        folder,
        number or _integer(document.get("number"), 0),
        _text(document.get("scene")),
        _text(document.get("blend")),
        _integer(document.get("frame_start"), 0, -(2**20), 2**20),
        _integer(document.get("frame_end"), -1, -(2**20), 2**20),
        float(fps) if isinstance(fps, int | float) and math.isfinite(fps) and 0.01 < fps < 1e5 else 24.0,
        _integer(document.get("width"), 0, 0, 2**16),
        _integer(document.get("height"), 0, 0, 2**16),
        {str(name): value for name, value in settings.items()} if isinstance(settings, dict) else {},
        _text(document.get("server")),
        _text(document.get("job")),
        next((known for known in STATES if known == state), "failed"),
        _text(document.get("error")),
        _text(document.get("created")),
    )


def _document(file: Path) -> dict[str, Any]:
    """A JSON object, empty if the file holds none."""
    try:
        if file.stat().st_size > _LARGEST:
            return {}
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    """A text in one line, shown as it is: nothing in it ends a line or hides."""
    return (
        " ".join("".join(letter if letter.isprintable() else " " for letter in value[:_LONGEST]).split()) if isinstance(value, str) else ""
    )


def _integer(value: Any, default: int, least: int = 0, most: int = 2**63 - 1) -> int:
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,19}", value):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most else default


def _frame_number(file: Path) -> int:
    return int(file.stem) if _FRAME.fullmatch(file.stem) else 0


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size

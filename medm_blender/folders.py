"""Where a scene's shot, takes and previews are on disk: `//medm/<scene>/shot`, `/take_001`, `/take_002`, `/preview`.

For everything that writes or finds them. Two scenes never share a folder: the first to write there signs it (`scene.json`), and whoever
comes later with a name that leads to the same place (another .blend beside it, other capitals, a linked scene) gets one of its own.
Looking makes nothing; `prepare` and `new_take` make folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy

from .local_server import default_store, hold

DEFAULT = "//medm/"
"""The folder of takes where the scene's own setting is empty: beside the .blend."""

_SIGNATURE = "scene.json"
_IN_USE = ".rendering.lock"
_REFUSED = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
_LONGEST = 100
"""Bytes of a safe name, below the 255 that file systems allow, because whole paths are limited too."""
_TAKE = re.compile(r"take_(\d{3,9})")


class FolderError(Exception):
    """A folder cannot be used. The message is one line that an artist can act on."""


def root(scene: Any) -> Path:
    """The folder of all that is made from `scene`, as an absolute path; it need not be there yet."""
    base, name = _base(scene), safe_name(scene)
    for candidate in (name, f"{name}-{_hash(_owner(scene))}"):
        if _belongs(base / candidate, scene):
            return base / candidate
    return base / f"{name}-{_hash(_owner(scene) + str(bpy.data.filepath))}"


def shot(scene: Any) -> Path:
    """The folder of the scene's latest export."""
    return root(scene) / "shot"


def preview(scene: Any) -> Path:
    """The folder of what single frames are tried in."""
    return root(scene) / "preview"


def prepare(scene: Any) -> Path:
    """`root(scene)`, made, signed as this scene's and found to be writable. Raises FolderError."""
    for _ in range(10):
        folder = root(scene)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _sign(folder, scene)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(0, "permission denied")
        except OSError as error:
            raise _refusal(folder, error) from error
        if root(scene) == folder:  # nobody was quicker
            return folder
    raise FolderError(f"{folder} is used by another Blender: choose another folder for the takes")


def new_take(scene: Any, above: int = 0) -> Path:
    """A new, empty folder for the scene's next take, and no other process ever gets the same. Raises FolderError.

    above: numbers up to this one are not used, for takes that are known from elsewhere.
    """
    folder = prepare(scene)
    number = max([above, *(number for number, _ in takes(scene))]) + 1
    while True:
        take = folder / f"take_{number:03d}"
        try:
            take.mkdir()
        except FileExistsError:
            number += 1
        except OSError as error:
            raise _refusal(folder, error) from error
        else:
            return take


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else renders into `folder` meanwhile, in whatever Blender. Raises FolderError if somebody does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = hold(folder / _IN_USE)
    except BlockingIOError:
        raise FolderError(f"another Blender is rendering passes into {folder}: wait until it is done") from None
    except OSError as error:
        raise _refusal(folder, error) from error
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def takes(scene: Any) -> list[tuple[int, Path]]:
    """(number, folder) of the scene's takes by their numbers, whatever is in them; none if the folder cannot be read."""
    try:
        folders = list(root(scene).iterdir())
    except OSError:
        return []
    return sorted((number, folder) for folder in folders if (number := take_number(folder)) is not None and folder.is_dir())


def take_number(folder: Path) -> int | None:
    """The number in the name of a take's folder; None if it is not called as one."""
    found = _TAKE.fullmatch(folder.name)
    return int(found[1]) if found else None


def safe_name(scene: Any) -> str:
    """A folder name for `scene` that every file system takes, in whatever script the scene's name is.

    Where something had to be replaced, or the scene is a linked one, the end is a hash of its full name: so names that differ stay apart.
    """
    name = str(scene.name)
    safe = _REFUSED.sub("_", unicodedata.normalize("NFC", name))
    safe = "".join(letter if letter.isprintable() else "_" for letter in safe).strip(" ").rstrip(". ").lstrip(".")
    while len(safe.encode("utf-8", "replace")) > _LONGEST:
        safe = safe[:-1]
    if safe.split(".")[0].strip().lower() in _RESERVED:
        safe = f"_{safe}"
    if safe == name and scene.library is None:
        return safe
    return f"{safe or 'scene'}-{_hash(str(scene.name_full))}"


# -- whose a folder is -------------------------------------------------------------------------------------------------


def _base(scene: Any) -> Path:
    """The folder that the scene's own is in. A file that was never saved has nothing beside it: its takes go to the user's data folder."""
    chosen = str(getattr(getattr(scene, "medm", None), "folder", "") or DEFAULT)
    if chosen.startswith("//") and not bpy.data.filepath:
        return default_store().parent / "takes"
    return Path(os.path.normpath(Path(bpy.path.abspath(chosen)).expanduser().absolute()))


def _owner(scene: Any) -> str:
    """The scene within its file."""
    return str(scene.name_full if scene.library else scene.name)


def _blend(folder: Path) -> str:
    """The open .blend as seen from `folder`, so that the two can be moved together; empty if it was never saved."""
    if not bpy.data.filepath:
        return ""
    blend = Path(bpy.data.filepath).absolute()
    with contextlib.suppress(ValueError):  # another drive of a Windows machine
        return Path(os.path.relpath(blend, folder)).as_posix()
    return blend.as_posix()


def _belongs(folder: Path, scene: Any) -> bool:
    """Whether `folder` is this scene's, or nobody's: never signed, or signed by a .blend or a scene that is gone."""
    signature = _signature(folder)
    if signature is None:
        return True
    blend, owner = signature
    if blend != _blend(folder):
        return bool(blend) and not Path(os.path.normpath(folder / blend)).exists()
    return owner == _owner(scene) or all(other == scene or _owner(other) != owner for other in bpy.data.scenes)


def _signature(folder: Path) -> tuple[str, str] | None:
    """(blend, scene) that signed `folder`; None if nobody did."""
    for _ in range(5):
        try:
            found = json.loads((folder / _SIGNATURE).read_bytes())
            return str(found["blend"]), str(found["scene"])
        except OSError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            time.sleep(0.01)  # another process is writing it at this moment
    return None


def _sign(folder: Path, scene: Any) -> None:
    mine = (_blend(folder), _owner(scene))
    before = _signature(folder)
    if before == mine:
        return
    content = json.dumps({"format": "medm-scene-folder", "blend": mine[0], "scene": mine[1]}, ensure_ascii=False).encode()
    if before is None and not (folder / _SIGNATURE).exists():
        try:
            with (folder / _SIGNATURE).open("xb") as file:
                file.write(content)
        except FileExistsError:  # who was quicker has it; `prepare` looks again
            return
    else:
        (folder / _SIGNATURE).write_bytes(content)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]


def _refusal(folder: Path, error: OSError) -> FolderError:
    return FolderError(f"{folder} cannot be written ({(error.strerror or str(error)).lower()}): choose another folder for the takes")

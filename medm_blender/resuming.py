"""Names what the open file renders, so that an export that broke off is continued by the same one, and by no other.

For `cli.py`. Only a file that was opened and not changed since can be named: what is in memory alone has no name.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import bpy

from . import compat


def source() -> str | None:
    """A digest of all that makes the pictures and can be told, but for what the export itself is asked for; None of an unsaved file.

    The .blend and the scripts on the command line count by their bytes. Of the other files that it names (libraries, textures, caches), and
    of all beside them that end alike, as the pictures of a sequence do, size and time of change count: to read them may take minutes.
    """
    if not bpy.data.filepath or compat.is_changed():
        return None
    blend = Path(bpy.data.filepath)
    state = hashlib.sha256(repr([sys.argv, os.environ.get("OCIO")]).encode("utf-8", "surrogateescape"))
    try:
        for file in [blend, *(Path(word) for word in sys.argv if word.endswith(".py") and Path(word).is_file())]:
            with file.open("rb") as opened:
                state.update(hashlib.file_digest(opened, "sha256").digest())
        for file in _beside(blend):
            known = file.stat()
            state.update(repr((str(file), known.st_size, known.st_mtime_ns)).encode("utf-8", "surrogateescape"))
    except OSError:
        return None
    return state.hexdigest()


def _beside(blend: Path) -> list[Path]:
    places = {Path(path) for path in bpy.utils.blend_paths(absolute=True)}
    places.add(blend.parent / f"blendcache_{blend.stem}" / ".bphys")
    found: set[Path] = set()
    for place in places:
        if place.is_dir():
            found.update(file for file in place.rglob("*") if file.is_file())
        elif place.parent.is_dir():
            found.update(file for file in place.parent.iterdir() if file.suffix == place.suffix and file.is_file())
    return sorted(found)

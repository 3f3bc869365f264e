"""Tells a picture that was written whole from one that a full disk cut short: Blender reports both as saved.

For `passes.py`. Reads headers and tables only, so it costs nothing beside a render.
"""

from __future__ import annotations

import struct
from pathlib import Path

_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_EXR_MAGIC = b"\x76\x2f\x31\x01"


def is_whole(file: Path) -> bool:
    """Whether `file`, a PNG or a single-part EXR in scan lines, is complete. Raises OSError if it cannot be read."""
    return _png_is_whole(file) if file.suffix == ".png" else _exr_is_whole(file)


def _png_is_whole(file: Path) -> bool:
    return file.read_bytes()[-len(_PNG_END) :] == _PNG_END


def _exr_is_whole(file: Path) -> bool:
    """Whether every entry of the table of chunks points to a chunk that lies inside the file.

    The table is written last: https://openexr.com/en/latest/OpenEXRFileLayout.html
    """
    content = file.read_bytes()
    if content[:4] != _EXR_MAGIC:
        return False
    try:
        place = 8
        while content[place] != 0:  # an attribute: name, type, size, value; an empty name ends the header
            place = content.index(b"\0", content.index(b"\0", place) + 1) + 1
            place += 4 + struct.unpack_from("<i", content, place)[0]
        table = place + 1
        (first_chunk,) = struct.unpack_from("<Q", content, table)
        if first_chunk <= table:
            return False
        chunks = struct.unpack_from(f"<{(first_chunk - table) // 8}Q", content, table)
        return all(chunk and chunk + 8 + struct.unpack_from("<i", content, chunk + 4)[0] <= len(content) for chunk in chunks)
    except (IndexError, ValueError, struct.error):
        return False

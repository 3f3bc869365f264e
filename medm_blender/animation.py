"""Remembers the values of all animated properties and brings them back.

For `passes.py`: a render makes Blender evaluate the open file at other frames, and that can leave a keyed property at another frame's
value, or take back a change that the user has not keyed yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bpy

from . import compat

Values = list[tuple[Any, str, Any]]
"""(datablock, data path, value) of each animated property."""


def remember() -> Values:
    """The frames and cameras that the open file's scenes stand at, and the values of all animated and driven properties."""
    paths = [(scene, path) for scene in bpy.data.scenes for path in ("frame_current", "camera")]
    paths += [(block, path) for block in _blocks() for path in compat.animated_paths(block)]
    values = ((block, path, _read(block, path)) for block, path in paths)
    return [(block, path, value) for block, path, value in values if value is not None]


def restore(values: Values) -> None:
    """Set what has changed since to the values remembered."""
    standing = [entry for entry in values if entry[1] in {"frame_current", "camera"}]
    for entries in (standing, values):  # in this order: another frame brings its own values
        changed = [(block, path, value) for block, path, value in entries if _read(block, path) != value]
        for block, path, value in changed:
            _write(block, path, value)
        if changed:
            bpy.context.view_layer.update()


def _blocks() -> Iterator[Any]:
    """All local datablocks that can be animated, the node trees inside others included."""
    for prop in bpy.data.bl_rna.properties:
        if prop.type != "COLLECTION":
            continue
        for block in getattr(bpy.data, prop.identifier):
            if block.library is None and hasattr(block, "animation_data"):
                yield block
                tree = getattr(block, "node_tree", None)
                if tree is not None:
                    yield tree


def _read(block: Any, path: str) -> Any:
    """The value at a data path, arrays as tuples; None where the path leads nowhere."""
    try:
        value = block.path_resolve(path)
    except ValueError:
        return None
    return tuple(value) if hasattr(value, "__len__") and not isinstance(value, str) else value


def _write(block: Any, path: str, value: Any) -> None:
    try:
        if path.endswith("]"):  # an item: `["custom"]` or `[0]`
            owner, _, name = path[:-1].rpartition("[")
            (block.path_resolve(owner) if owner else block)[int(name) if name.isdecimal() else name[1:-1]] = value
        else:
            owner, _, name = path.rpartition(".")
            setattr(block.path_resolve(owner) if owner else block, name, value)
    except (AttributeError, TypeError):
        pass  # read-only: Blender works it out itself

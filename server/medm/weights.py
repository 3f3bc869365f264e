"""Files of weights without reading the weights: what a .safetensors file says of itself, and a digest of a model's files."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_WHOLE = 2**20
"""Files up to this many bytes are digested whole."""

_SAMPLES, _SAMPLE = 64, 2**16
"""Of a longer one, as many places, evenly spread and the first and last among them, of as many bytes."""


def tensors_of(file: Path) -> dict[str, dict[str, Any]]:
    """The tensors that a .safetensors file names, each with `dtype`, `shape` and `data_offsets`; none where its header is broken."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > 100_000_000:
                return {}
            header = json.loads(stream.read(length))
    except (OSError, ValueError, struct.error):
        return {}
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"} if isinstance(header, dict) else {}


def is_whole(file: Path) -> bool:
    """Whether a .safetensors file is as long as its header says: a broken-off download is not."""
    tensors = tensors_of(file)
    if not tensors:
        return False
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
    end = max(int(tensor["data_offsets"][1]) for tensor in tensors.values())
    return file.stat().st_size == 8 + int(length) + end


def is_union(folder: Path) -> bool:
    """Whether a ControlNet's folder holds a union, one network for several kinds of control images: it has an embedding of the kinds."""
    return any("task_embedding" in tensors_of(file) for file in folder.glob("*.safetensors"))


def digest(files: Iterable[Path], root: Path) -> str:
    """SHA-256 over the files' paths below `root`, sizes and contents; of a file beyond 1 MiB, over 64 KiB at each of 64 places.

    It tells models apart at a glance, whatever folder they lie in; it is no proof against somebody who means to deceive.
    """
    total = hashlib.sha256()
    for file in sorted(files):
        size = file.stat().st_size
        name = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
        total.update(f"{name}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= _WHOLE:
                total.update(stream.read())
                continue
            for place in range(_SAMPLES):
                stream.seek((size - _SAMPLE) * place // (_SAMPLES - 1))
                total.update(stream.read(_SAMPLE))
    return total.hexdigest()

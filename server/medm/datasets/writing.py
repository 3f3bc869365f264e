"""A dataset's clip -> a shot folder like Blender's, so that all that works on shots works on it unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR  # type: ignore[import-not-found]
from PIL import Image

import medm
from medm.datasets.clip import Clip, ClipFrame
from medm.datasets.geometry import CLIP_END, CLIP_START, camera, normals, positions
from medm.errors import BadInput, Unavailable
from medm.progress import Progress, silent
from medm.shot import Camera, Float32, Shot, frame_file

VIEW_LAYER = "ViewLayer"
NO_DEPTH = 1e10
"""Blender's depth of the background."""
_MULTIPLE = 8


def write_shot(clip: Clip, out: Path, progress: Progress = silent) -> Shot:
    """Write a clip as a shot folder, frame by frame.

    Pictures are cropped, never scaled, to sides that are multiples of 8: as much on the left as on the right and on the top as at the
    bottom, the odd pixel at the right and the bottom. Cameras move their centre along.

    Args:
        clip: the clip.
        out: the folder; empty, or not there yet.
        progress: told once a frame.

    Raises:
        BadInput: the clip is too small, a file of it is damaged, or `out` is not empty.
        Unavailable: `out` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise BadInput(f"{out} is not empty; choose another folder for the shot")
        for folder in ("data", "beauty"):
            (out / folder).mkdir()
        entries = []
        size: tuple[int, int] | None = None
        for t, number in enumerate(clip.numbers):
            progress(t / len(clip.numbers), "import")
            frame, left, top = _cropped(clip.frame(t))
            if size not in (None, frame.depth.shape):
                raise BadInput(f"frame {number} of {clip.name} has another size than the frames before it")
            size = frame.depth.shape
            entries.append(_write_frame(out, number, frame, left, top))
        # shot.json comes last: without it the folder is no shot, whatever stopped us.
        (out / "shot.json").write_text(json.dumps(_manifest(clip, entries, size or (0, 0)), indent=1))
    except OSError as error:
        raise Unavailable(f"the shot cannot be written to {out}: {error.strerror or error}") from error
    progress(1.0, "import")
    return Shot.open(out)


def _cropped(frame: ClipFrame) -> tuple[ClipFrame, int, int]:
    height, width = frame.depth.shape
    left, top = (side % _MULTIPLE // 2 for side in (width, height))
    rows, columns = (slice(first, first + side - side % _MULTIPLE) for first, side in ((top, height), (left, width)))
    if width < _MULTIPLE or height < _MULTIPLE:
        raise BadInput(f"frames of {width}x{height} pixels are too small: a shot has at least 8x8")
    planes = {name: values[rows, columns] for name, values in vars(frame).items() if name not in ("intrinsics", "world_to_camera")}
    return ClipFrame(**planes, intrinsics=frame.intrinsics, world_to_camera=frame.world_to_camera), left, top


def _write_frame(out: Path, number: int, frame: ClipFrame, left: int, top: int) -> dict[str, Any]:
    height, width = frame.depth.shape
    intrinsics = frame.intrinsics.copy()
    intrinsics[:2, 2] -= left, top
    view = camera(intrinsics, frame.world_to_camera, width, height)
    data, beauty = f"data/{frame_file(number, '.exr')}", f"beauty/{frame_file(number)}"
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, _channels(frame, view)).write(str(out / data))
    Image.fromarray(np.ascontiguousarray(frame.beauty)).save(out / beauty)
    return {
        "frame": number,
        "data": data,
        "beauty": beauty,
        "camera": {
            "type": "PERSP",
            "world_to_camera": view.world_to_camera.tolist(),
            "projection": view.projection.tolist(),
            "clip_start": CLIP_START,
            "clip_end": CLIP_END,
        },
    }


def _channels(frame: ClipFrame, view: Camera) -> dict[str, Float32]:
    """One frame's passes, by Blender's names and conventions; see `medm.shot`."""
    position = positions(view, frame.depth)
    normal = normals(view, position, frame.depth)
    planes = {
        "Depth.Z": np.where(np.isfinite(frame.depth), frame.depth, np.float32(NO_DEPTH)),
        "Vector.X": frame.flow_to_prev[..., 0],
        "Vector.Y": -frame.flow_to_prev[..., 1],
        "Vector.Z": -frame.flow_to_next[..., 0],
        "Vector.W": frame.flow_to_next[..., 1],
        "CryptoObject00.r": np.ascontiguousarray(frame.object_id).view(np.float32),
        **{f"Normal.{letter}": normal[..., axis] for axis, letter in enumerate("XYZ")},
        **{f"Position.{letter}": position[..., axis] for axis, letter in enumerate("XYZ")},
    }
    return {f"{VIEW_LAYER}.{name}": np.ascontiguousarray(plane, np.float32) for name, plane in planes.items()}


def _manifest(clip: Clip, entries: list[dict[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    return {
        "format": "medm-shot",
        "version": 1,
        "name": clip.name,
        "fps": clip.fps,
        "frame_start": clip.numbers[0],
        "frame_end": clip.numbers[-1],
        "width": width,
        "height": height,
        "view_layer": VIEW_LAYER,
        "versions": {"source": clip.source, "medm": medm.__version__},
        "objects": clip.objects(),
        "frames": entries,
    }

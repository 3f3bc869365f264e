"""Places frames as image strips in an edit scene, in sync, so that they show their own pixels: the original below, the newest take on top.

For `tasks.py`. A take is display-referred already, so the edit scene's view transform is Standard: with AgX, which a fresh scene has,
a strip would differ from its own PNG by up to 59/255.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bpy

from . import compat

LAST_CHANNEL = 128


class StripError(Exception):
    """The frames cannot be placed. The message is one line that an artist can act on."""


def edit_scene(name: str, fps: float, width: int, height: int, frames: int, frame_start: int = 1) -> Any:
    """The scene called `name`, made if there is none, set up to show takes of `frames` frames from `frame_start` on, and returned.

    fps: frames per second, fractions included (23.976). width, height: of the takes, in pixels. A scene that is there already
    keeps its strips, and a frame range that is longer.
    """
    if fps <= 0 or min(width, height, frames) < 1:
        raise StripError(f"an edit of {frames} frames, {width} x {height} at {fps} a second, is none")
    scene = bpy.data.scenes.get(name)
    end = frame_start + frames - 1
    if scene is None:
        scene = bpy.data.scenes.new(name)
        scene.frame_start, scene.frame_end = frame_start, end
    else:
        scene.frame_start, scene.frame_end = min(scene.frame_start, frame_start), max(scene.frame_end, end)
    scene.frame_current = frame_start
    render = scene.render
    render.fps = math.ceil(round(fps, 3))
    render.fps_base = render.fps / fps
    render.resolution_x, render.resolution_y, render.resolution_percentage = width, height, 100
    render.pixel_aspect_x = render.pixel_aspect_y = 1.0
    render.use_sequencer = True
    render.use_compositing = False
    render.dither_intensity = 0.0
    view = scene.view_settings
    view.view_transform, view.look, view.exposure, view.gamma = "Standard", "None", 0.0, 1.0
    view.use_curve_mapping = False
    scene.sync_mode = "FRAME_DROP"
    compat.strips(scene)
    compat.show_in_sequencers(scene)
    return scene


def add_take(scene: Any, name: str, frames: str | os.PathLike[str] | Sequence[Path], channel: int, frame_start: int) -> Any:
    """Put frames into `channel` as one image strip that starts at `frame_start`, and return the strip.

    frames: a folder, of which all PNGs are taken in the order of their numbers, or files of one folder in the order to be shown.
    Raises StripError if there are none, one is missing, or they are in several folders.
    """
    files = _files(frames)
    strip = compat.strips(scene).new_image(name=name, filepath=str(files[0]), channel=channel, frame_start=frame_start, fit_method="FIT")
    for file in files[1:]:
        strip.elements.append(file.name)
    strip.colorspace_settings.name = "sRGB"
    return strip


def place(scene: Any, name: str, frames: str | os.PathLike[str] | Sequence[Path], frame_start: int = 1) -> Any:
    """Put frames on top of all that is in the edit scene, as `add_take` does, and return the strip.

    Frames that a strip shows already, from the same frame on, are not placed a second time: so the original, placed before each
    of its takes, stays at the bottom.
    """
    files = _files(frames)
    top = 0
    for strip in compat.strips(scene):
        top = max(top, strip.channel)
        if strip.type == "IMAGE" and compat.strip_range(strip)[0] == frame_start and strip_files(strip) == files:
            return strip
    if top >= LAST_CHANNEL:
        raise StripError(f'all {LAST_CHANNEL} channels of "{scene.name}" are taken: delete takes that you no longer need')
    return add_take(scene, name, files, top + 1, frame_start)


def strip_files(strip: Any) -> list[Path]:
    """The files that an image strip shows, as absolute paths."""
    folder = Path(bpy.path.abspath(strip.directory)).absolute()
    return [Path(os.path.normpath(folder / element.filename)) for element in strip.elements]


def show(scene: Any) -> None:
    """Make `scene` the one that the user sees: in every window, and in the sequencers of every workspace."""
    for window in bpy.context.window_manager.windows:
        window.scene = scene
    compat.show_in_sequencers(scene)


def save(file: str | os.PathLike[str]) -> Path:
    """Save the open file as the .blend `file`, all image strips with paths relative to it: the folder they share can be moved."""
    path = Path(file).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for scene in bpy.data.scenes:
            for strip in compat.strips(scene) if scene.sequence_editor else ():
                if strip.type == "IMAGE":
                    folder = Path(bpy.path.abspath(strip.directory)).absolute()
                    strip.directory = _relative(folder, path.parent)
        bpy.ops.wm.save_as_mainfile(filepath=str(path), check_existing=False, relative_remap=False)
    except (OSError, RuntimeError) as error:
        raise StripError(f"{path} cannot be saved: {str(error).strip().splitlines()[0]}") from error
    return path


def _relative(folder: Path, base: Path) -> str:
    try:
        return "//" + os.path.relpath(folder, base).replace(os.sep, "/") + "/"
    except ValueError:  # another drive of a Windows machine
        return str(folder) + os.sep


def _files(frames: str | os.PathLike[str] | Sequence[Path]) -> list[Path]:
    if isinstance(frames, str | os.PathLike):
        folder = Path(bpy.path.abspath(os.fspath(frames))).absolute()
        files = sorted((file for file in folder.glob("*.png") if file.stem.isdecimal()), key=lambda file: int(file.stem))
        if not files:
            raise StripError(f"there are no frames in {folder}")
        numbers = [int(file.stem) for file in files]
        gap = next((number for number in range(numbers[0], numbers[-1]) if number not in numbers), None)
        if gap is not None:
            raise StripError(f"frame {gap} is missing in {folder}")
    else:
        files = [Path(file).absolute() for file in frames]
        if not files:
            raise StripError("a take without frames cannot be placed")
    files = [Path(os.path.normpath(file)) for file in files]
    missing = next((file for file in files if not file.is_file()), None)
    if missing:
        raise StripError(f"the frame {missing} is missing")
    if len({file.parent for file in files}) > 1:
        raise StripError("the frames of one strip must be in one folder")
    return files

"""Places frames as image strips in an edit scene, in sync, so that they show their own pixels: the original below, the newest take on top.

For `takes.py`, `take_operators.py` and the demo. A take is display-referred already, so the edit scene's view transform is Standard: with
AgX, which a fresh scene has, a strip would differ from its own PNG by up to 59/255.

A shot's edit scene is known by a custom property that points to the shot, and a take's strip by one that holds its number: so both can be
renamed, moved and saved. Only ever strips with that number are changed here; what else an artist puts into the edit stays as it is.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bpy

from . import compat

LAST_CHANNEL = 128
SHOT = "medm_shot"
"""Custom property of an edit scene: the scene whose takes it holds."""
TAKE = "medm_take"
"""Custom property of a take's strip: its number. The beauty's is 0."""
COMPARED = "medm_compared"
"""Custom property of an edit scene: the take on the left and the one on the right, while two are compared."""
BEFORE = "medm_shown_before"
"""Custom property of an edit scene: the take that was shown before this one."""
BEAUTY = 0
_BEAUTY_CHANNEL = 1
_COLOURS = {"full": "COLOR_05", "assistive": "COLOR_04", "beauty": "COLOR_09"}


class StripError(Exception):
    """The frames cannot be placed. The message is one line that an artist can act on."""


def edit_scene(name: str, fps: float, width: int, height: int, frames: int, frame_start: int = 1) -> Any:
    """The scene called `name`, made if there is none, set up to show takes of `frames` frames from `frame_start` on, and returned.

    fps: frames per second, fractions included (23.976). width, height: of the takes, in pixels. A scene that is there already
    keeps its strips, and a frame range that is longer. All sequencers show it.
    """
    scene = _set_up(bpy.data.scenes.get(name), name, fps, width, height, frames, frame_start)
    scene.frame_current = frame_start
    compat.show_in_sequencers(scene)
    return scene


def _set_up(scene: Any | None, name: str, fps: float, width: int, height: int, frames: int, frame_start: int) -> Any:
    if fps <= 0 or min(width, height, frames) < 1:
        raise StripError(f"an edit of {frames} frames, {width} x {height} at {fps} a second, is none")
    end = frame_start + frames - 1
    if scene is None:
        scene = bpy.data.scenes.new(name)
        _new_range(scene, frame_start, end)
    else:
        scene.frame_start, scene.frame_end = min(scene.frame_start, max(frame_start, 0)), max(scene.frame_end, end)
        if scene.use_preview_range:
            first, last = min(scene.frame_preview_start, frame_start), max(scene.frame_preview_end, end)
            scene.frame_preview_start, scene.frame_preview_end = first, last
        elif frame_start < 0:
            _play_from(scene, frame_start)
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
    compat.strips(scene)
    return scene


def _new_range(scene: Any, first: int, last: int) -> None:
    scene.frame_start, scene.frame_end = max(first, 0), max(last, 0)
    if first < 0:
        _play_from(scene, first)
    scene.frame_current = first
    scene.sync_mode = "FRAME_DROP"


def _play_from(scene: Any, first: int) -> None:
    """A scene's own range begins at 0 at the earliest; the preview range, which is what is played, may begin before."""
    scene.use_preview_range = True
    scene.frame_preview_start, scene.frame_preview_end = first, max(scene.frame_end, first)


# -- a shot's edit -----------------------------------------------------------------------------------------------------


def edit_of(shot: Any) -> Any | None:
    """The edit scene of `shot`, whatever it is called; None if there is none yet."""
    return next((scene for scene in bpy.data.scenes if scene.library is None and scene.get(SHOT) == shot), None)


def shot_of(scene: Any) -> Any | None:
    """The scene whose takes are in the edit scene `scene`; None if it is no edit scene, or the shot is gone."""
    shot = scene.get(SHOT)
    return shot if isinstance(shot, bpy.types.Scene) else None


def edit_for(shot: Any, fps: float, width: int, height: int, frames: int, frame_start: int) -> Any:
    """The edit scene of `shot`, made if there is none, set up for a take as in `edit_scene`. No window and no user's edit is changed."""
    scene = edit_of(shot)
    made = scene is None
    if scene is None:
        scene = bpy.data.scenes.new(f"{shot.name} Edit")
        scene[SHOT] = shot
        _new_range(scene, frame_start, frame_start + frames - 1)
    size = scene.render.resolution_x, scene.render.resolution_y
    _set_up(scene, scene.name, fps, width, height, frames, frame_start)
    if made:
        name_channel(scene, _BEAUTY_CHANNEL, "Beauty")
        compat.show_in_empty_sequencers(scene)
    elif size != (width, height):
        for strip in take_strips(scene):
            _fit(scene, strip)
    return scene


def take_strips(edit: Any) -> list[Any]:
    """The strips of takes in an edit scene, the beauty's among them, the lowest first."""
    return sorted((strip for strip in compat.strips(edit) if _number(strip) is not None), key=lambda strip: strip.channel)


def strip_of(edit: Any, number: int) -> Any | None:
    """The strip of a take; None if it is not in the edit."""
    return next((strip for strip in take_strips(edit) if _number(strip) == number), None)


def take_folder(strip: Any) -> Path:
    """The folder of the take that a strip shows."""
    return Path(os.path.normpath(Path(bpy.path.abspath(strip.directory)).absolute())).parent


def place_take(edit: Any, number: int, frames: Sequence[Path], frame_start: int, notes: dict[str, Any]) -> Any:
    """Put a take into a channel of its own above all others, show it, mute every other take, and return its strip.

    A take that is in the edit already gets its new frames in the strip it has. notes: custom properties of the strip, which Blender shows
    and saves with it; those that are no text or number are written as JSON.
    """
    strip, old = None, strip_of(edit, number)
    if old is not None and strip_files(old) == _files(frames) and compat.strip_range(old)[0] == frame_start:
        strip = old
    if strip is None:
        channel = old.channel if old is not None else _free_channel(edit)
        if old is not None:
            compat.strips(edit).remove(old)
        strip = add_take(edit, f"Take {number}", frames, channel, frame_start)
        if bpy.data.filepath:
            with contextlib.suppress(ValueError):  # another drive of a Windows machine
                strip.directory = bpy.path.relpath(strip.directory)
    strip[TAKE] = number
    for name, value in notes.items():
        strip[name] = _custom(value)
    strip["folder"] = str(take_folder(strip))
    strip.color_tag = _COLOURS.get(str(notes.get("mode")), "NONE")
    name_channel(edit, strip.channel, f"Take {number}")
    show_only(edit, number)
    return strip


def place_beauty(edit: Any, folder: Path) -> Any | None:
    """Put the frames of the user's own render at the bottom, muted, or bring them up to date; None if there are none."""
    old = strip_of(edit, BEAUTY)
    try:
        files = _files(folder)
    except StripError:
        if old is not None and not all(file.is_file() for file in strip_files(old)):
            compat.strips(edit).remove(old)  # it was exported anew, without one
        return None
    first = int(files[0].stem)
    if old is not None:
        if strip_files(old) == files and compat.strip_range(old)[0] == first:
            return old
        compat.strips(edit).remove(old)
    elif any(strip.channel == _BEAUTY_CHANNEL for strip in compat.strips(edit)):
        return None  # the artist's own
    strip = add_take(edit, "Beauty", files, _BEAUTY_CHANNEL, first)
    if bpy.data.filepath:
        with contextlib.suppress(ValueError):
            strip.directory = bpy.path.relpath(strip.directory)
    strip[TAKE], strip.mute, strip.color_tag = BEAUTY, True, _COLOURS["beauty"]
    return strip


def remove_take(edit: Any, number: int) -> None:
    """Take a strip out of the edit; if it was shown, the highest of the others is shown instead."""
    strip = strip_of(edit, number)
    if strip is None:
        return
    was_shown, channel = not strip.mute, strip.channel
    compat.strips(edit).remove(strip)
    if not any(other.channel == channel for other in compat.strips(edit)):
        name_channel(edit, channel, f"Channel {channel}")
    left = take_strips(edit)
    if was_shown and left:
        show_only(edit, int(left[-1][TAKE]))


def shown(edit: Any) -> int | None:
    """The number of the take that is seen: of those not muted the highest; None if there is none."""
    return next((_number(strip) for strip in reversed(take_strips(edit)) if not strip.mute), None)


def show_only(edit: Any, number: int) -> None:
    """Show one take, whole, and mute every other. Raises StripError if it is not in the edit."""
    if strip_of(edit, number) is None:
        raise StripError(f"take {number} is not in the edit")
    before = shown(edit)
    if before is not None and before != number:
        edit[BEFORE] = before
    if COMPARED in edit:
        del edit[COMPARED]
    for strip in take_strips(edit):
        _crop(strip, 0.0, 1.0)
        strip.mute = _number(strip) != number
        strip.select = False  # outlines would hide where two takes meet
    edit.sequence_editor.active_strip = strip_of(edit, number)  # whose properties the sidebar shows


def toggle(edit: Any) -> int:
    """Show the take that was shown before this one, and return its number; of two that are compared, first the left one alone.

    Raises StripError if there is none.
    """
    here = shown(edit)
    pair = compared(edit)
    if pair is not None:
        show_only(edit, pair[0])
        edit[BEFORE] = pair[1]
        return pair[0]
    numbers = [int(strip[TAKE]) for strip in take_strips(edit)]
    others = [number for number in numbers if number != here]
    if not others:
        raise StripError("there is only one take in the edit")
    before = edit.get(BEFORE)
    number = before if before in others else others[-1]
    show_only(edit, number)
    return int(number)


def compare(edit: Any, left: int, right: int, split: float = 0.5) -> None:
    """Show two takes side by side: of one what is left of `split`, a share of the width, and of the other what is right of it.

    Only the crop of the upper one's strip is used, so that both stay where they are. Raises StripError.
    """
    if left == right:
        raise StripError("a take cannot be compared with itself: choose another")
    strips = []
    for number in (left, right):
        strip = strip_of(edit, number)
        if strip is None:
            raise StripError(f"take {number} is not in the edit")
        strips.append(strip)
    show_only(edit, right)
    strips[0].mute = False
    if strips[0].channel > strips[1].channel:
        _crop(strips[0], 0.0, split)
    else:
        _crop(strips[1], split, 1.0)
    edit[COMPARED] = [left, right]


def compared(edit: Any) -> tuple[int, int] | None:
    """The takes on the left and on the right, if two are compared; None once either of them was muted or removed."""
    pair = edit.get(COMPARED)
    if pair is None or len(pair) != 2:
        return None
    strips = [strip_of(edit, int(number)) for number in pair]
    return None if any(strip is None or strip.mute for strip in strips) else (int(pair[0]), int(pair[1]))


def picture_size(file: Path) -> tuple[int, int]:
    """Width and height in pixels of a PNG. Raises StripError if it is none."""
    try:
        with file.open("rb") as png:
            head = png.read(24)
        if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 24:
            width, height = struct.unpack(">II", head[16:24])
            return int(width), int(height)
    except OSError as error:
        raise StripError(f"{file} cannot be read: {(error.strerror or str(error)).lower()}") from error
    raise StripError(f"{file} is no PNG picture: render the take again")


def name_channel(edit: Any, channel: int, name: str) -> None:
    """What the channel's header says."""
    edit.sequence_editor.channels[channel].name = name


def _free_channel(edit: Any) -> int:
    taken = {strip.channel for strip in compat.strips(edit)}
    top = max(taken | {_BEAUTY_CHANNEL})
    free = [channel for channel in range(_BEAUTY_CHANNEL + 1, LAST_CHANNEL + 1) if channel not in taken]
    if not free:
        raise StripError(f'all {LAST_CHANNEL} channels of "{edit.name}" are taken: delete takes that you no longer need')
    return top + 1 if top < LAST_CHANNEL else free[0]


def _crop(strip: Any, left: float, right: float) -> None:
    """Show only what is between two shares of the picture's width."""
    width, _ = _strip_size(strip)
    strip.crop.min_x, strip.crop.max_x = round(width * left), width - round(width * right)


def _fit(edit: Any, strip: Any) -> None:
    """Scale a strip to the edit's size, as when it was placed."""
    width, height = _strip_size(strip)
    if width and height:
        scale = min(edit.render.resolution_x / width, edit.render.resolution_y / height)
        strip.transform.scale_x = strip.transform.scale_y = scale


def _strip_size(strip: Any) -> tuple[int, int]:
    """Blender notes it of a strip's first picture only when it has been drawn; 0 x 0 if there is none."""
    try:
        return picture_size(strip_files(strip)[0])
    except (StripError, IndexError):
        return 0, 0


def _number(strip: Any) -> int | None:
    number = strip.get(TAKE)
    return number if strip.type == "IMAGE" and isinstance(number, int) and number >= 0 else None


def _custom(value: Any) -> Any:
    """A value as a custom property can hold it: whole numbers there have 32 bits."""
    if isinstance(value, str | bool | float) or (isinstance(value, int) and -(2**31) <= value < 2**31):
        return value
    return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False)


# -- strips ------------------------------------------------------------------------------------------------------------


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
        numbered = (file for file in folder.glob("*.png") if file.stem.removeprefix("-").isdecimal())
        files = sorted(numbered, key=lambda file: int(file.stem))
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

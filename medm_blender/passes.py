"""Renders an animation into a shot folder: the exact data passes and the beauty that the server paints from.

For `tasks.py` and `cli.py`. Every picture is rendered from a scene copy (`scene_copies.py`), so the user's file is as it was once the
export ends, however it does. The folder becomes a shot only when `shot.json` is put in place, at the very end.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy

from . import compat, evaluated, membership, object_motion, scene_copies
from .written import is_whole

FORMAT = "medm-shot"
FORMAT_VERSION = 1
ADDON_VERSION = "0.1.0"
DEFAULT_LONGER_SIDE = 768
SIZE_STEP = 8
_PARTS = {"data": ".exr", "rest": ".exr", "beauty": ".png"}
_LOOK_SHARE = 0.02
"""Of the time that an export takes: looking at all frames before the first is rendered."""
_UNFINISHED = ".unfinished.json"
"""Stands in the folder for as long as an export writes there."""
SIZE_LIMITS = (16, 8192)
LARGEST_REFERENCE = 64 * 2**20
"""Bytes of a reference picture's file."""
SUPERSAMPLINGS = (1, 3)
"""How many times finer than the shot the data passes may be: odd numbers, so that every pixel of the shot has its centre in one of them."""

Steps = Generator[tuple[float, str], None, Path]
"""Yields (share done 0 to 1, phase `look`, `data`, `rest` or `beauty`) after every frame looked at or rendered; returns the shot folder."""


class ShotError(Exception):
    """The scene or the folder does not allow an export. The message is one line that an artist can act on."""


@dataclass(frozen=True)
class _Request:
    """What one export renders: checked, so that nothing but rendering itself can fail later."""

    scene: Any
    view_layer: str
    folder: Path
    name: str
    frames: range
    width: int
    height: int
    data_scale: int
    references: dict[str, bytes]

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def model_size(width: int, height: int, target: int = DEFAULT_LONGER_SIDE) -> tuple[int, int]:
    """The size in pixels to render at: multiples of 8, nearest to the aspect of `width` x `height`, longer side at most `target`.

    A picture that is small already is not enlarged, only rounded. Raises ShotError for sizes that are not positive.
    """
    if width < 1 or height < 1 or target < SIZE_LIMITS[0]:
        raise ShotError(f"a picture of {width} x {height} pixels, at most {target} long, cannot be rendered")
    longer = max(SIZE_STEP, min(max(width, height), target) // SIZE_STEP * SIZE_STEP)
    shorter = max(SIZE_STEP, round(longer * min(width, height) / max(width, height) / SIZE_STEP) * SIZE_STEP)
    return (longer, shorter) if width >= height else (shorter, longer)


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path as the user wrote it as an absolute one: `//` is the folder of the open .blend, anything else starts where Blender runs."""
    return Path(bpy.path.abspath(os.fspath(path))).absolute()


def export_shot(
    scene: Any,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    frame_range: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    beauty: bool = True,
    data_supersampling: int = 1,
    references: Sequence[str | os.PathLike[str]] = (),
    source: str | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Path:
    """Render `scene` into the shot folder `folder` and return its path; the blocking form of `export_steps`.

    `progress(fraction, phase)` is called after every rendered frame; what it raises ends the export as closing the steps does.
    """
    steps = export_steps(
        scene,
        folder,
        name=name,
        frame_range=frame_range,
        size=size,
        beauty=beauty,
        data_supersampling=data_supersampling,
        references=references,
        source=source,
    )
    with contextlib.closing(steps):
        while True:
            try:
                fraction, phase = next(steps)
            except StopIteration as done:
                return Path(done.value)
            if progress is not None:
                progress(fraction, phase)


def export_steps(
    scene: Any,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    frame_range: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    beauty: bool | Path = True,
    data_supersampling: int = 1,
    references: Sequence[str | os.PathLike[str]] = (),
    written: Callable[[Path], None] = lambda file: None,
    source: str | None = None,
) -> Steps:
    """Render `scene` into the shot folder `folder`, one frame a step.

    name: of the shot; None takes the scene's. frame_range: first and last frame, inclusive; None takes the scene's.
    size: (width, height) in pixels, multiples of 8; None takes `model_size` of the scene's render size. beauty: also render the
    scene as the user does, with the view transform applied, at the same size; only motion blur is off, because a blurred picture
    cannot agree with the data of a single instant. data_supersampling: 1 or 3, how many times as wide and high the data passes are.
    references: pictures that go along, for takes that are to look like them; in the shot they are called as `reference_in_shot` says.
    A folder as beauty: its pictures `0001.png`, one a frame and of that size, are the beauty, and none is rendered.
    written: called with every file of the shot but shot.json as soon as it is whole.

    All frames are looked at before the first is rendered. If anything deforms, every frame gets a rest pass too. While the steps are under
    way the file holds scene copies of ours: nobody should edit or save it before they are at their end or closed.

    source: names exactly what is in the open file (`resuming.source`). What an export with the same source and options had finished when it
    failed, or was killed, is then not rendered again, and an error leaves what is finished for the next.

    Closing the generator removes the frames that it wrote; an error too, if there is no source. Raises ShotError.
    """
    request = _check(scene, folder, name, frame_range, size, data_supersampling, references)
    pictures = _read_pictures(beauty, request) if isinstance(beauty, Path) else {}
    key = _key(request, beauty, source)
    files: set[Path] = set()
    try:
        finished = _prepare_folder(request.folder, bool(beauty), key)
        files |= finished
        _note_unfinished(request, key)
        for reference, content in request.references.items():
            file = request.folder / reference
            files.add(file)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
            written(file)
        motions, memberships = object_motion.ObjectMotions(), membership.Memberships()
        entries: list[dict[str, Any]] = []
        for entry in _looks(request, motions, memberships):
            entries.append(entry)
            yield _LOOK_SHARE * len(entries) / len(request.frames), "look"
        kinds = ["data", *["rest"] * motions.any_deforms, *["beauty"] * bool(beauty)]
        done = 0
        for kind in kinds:
            (request.folder / kind).mkdir(exist_ok=True)
            with _copy_for(kind, request) as copy:
                for frame, entry in zip(request.frames, entries, strict=True):
                    file = request.folder / kind / f"{frame:04d}{_PARTS[kind]}"
                    files.add(file)
                    if file in finished:
                        pass
                    elif kind == "beauty" and pictures:
                        shutil.copyfile(pictures[frame], file)
                    else:
                        _render(copy, frame, file)
                    written(file)
                    entry[kind] = f"{kind}/{file.name}"
                    done += 1
                    yield _LOOK_SHARE + (1 - _LOOK_SHARE) * done / (len(kinds) * len(request.frames)), kind
        objects = [{**thing, "collections": memberships.collections(thing["name"])} for thing in motions.entries()]
        _write_manifest(request, entries, objects)
        (request.folder / _UNFINISHED).unlink(missing_ok=True)
    except (OSError, ShotError) as error:
        said = error if isinstance(error, ShotError) else f"{request.folder} cannot be written: {(error.strerror or str(error)).lower()}"
        kept = sum(file.is_file() for file in files) - len(request.references) if key else 0
        if kept <= 0:
            _discard(request.folder, files)
            raise ShotError(str(said)) from error
        raise ShotError(f"{said}; {kept} pictures are kept, and the same command goes on with them") from error
    except BaseException:
        _discard(request.folder, files)
        raise
    return request.folder


# -- checking ----------------------------------------------------------------------------------------------------------


def _check(
    scene: Any,
    folder: str | os.PathLike[str],
    name: str | None,
    frame_range: tuple[int, int] | None,
    size: tuple[int, int] | None,
    data_scale: int,
    references: Sequence[str | os.PathLike[str]],
) -> _Request:
    render = scene.render
    first, last = frame_range or (scene.frame_start, scene.frame_end)
    if last < first:
        raise ShotError(f"the frame range {first} to {last} is empty")
    if scene.frame_step != 1:
        raise ShotError(f"the scene's frame step is {scene.frame_step}, and MeDM needs every frame: set Frame Step to 1")
    width, height = size or model_size(
        round(render.resolution_x * render.resolution_percentage / 100), round(render.resolution_y * render.resolution_percentage / 100)
    )
    if width % SIZE_STEP or height % SIZE_STEP or not all(SIZE_LIMITS[0] <= side <= SIZE_LIMITS[1] for side in (width, height)):
        raise ShotError(f"the size {width} x {height} will not do: both sides must be multiples of {SIZE_STEP}, from 16 to 8192")
    if data_scale not in SUPERSAMPLINGS:
        raise ShotError(f"data passes cannot be {data_scale} times as fine: choose 1 or 3")
    if max(width, height) * data_scale > SIZE_LIMITS[1]:
        raise ShotError(f"data passes of {data_scale} times {width} x {height} pixels are too large: at most {SIZE_LIMITS[1]} are possible")
    view_layer = next((layer.name for layer in scene.view_layers if layer.use), None)
    if view_layer is None:
        raise ShotError(f'no view layer of the scene "{scene.name}" is used for rendering')
    _check_cameras(scene, first, last)
    if not hasattr(scene, "cycles"):
        raise ShotError("the data passes need Cycles: enable the add-on Cycles Render Engine")
    frames = range(first, last + 1)
    pictures = {reference_in_shot(path): _read_reference(absolute(path)) for path in references}
    if len(pictures) < len(references):
        raise ShotError("two reference pictures have the same name: rename one")
    return _Request(scene, view_layer, absolute(folder), name or scene.name, frames, width, height, data_scale, pictures)


def reference_in_shot(path: str | os.PathLike[str]) -> str:
    """What a reference picture is called in the shot that it goes along with: `reference/` and its name, in letters that servers take."""
    return "reference/" + re.sub(r"[^A-Za-z0-9._-]", "_", Path(path).name)[-100:].lstrip(".")


def _read_reference(file: Path) -> bytes:
    """The picture as it is in its file: the export may be about to replace the folder that it is in."""
    try:
        if file.stat().st_size > LARGEST_REFERENCE:
            raise ShotError(f"the reference picture {file} is too large: at most {LARGEST_REFERENCE >> 20} MiB are taken")
        content = file.read_bytes()
    except OSError as error:
        raise ShotError(f"the reference picture {file} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if not content.startswith((b"\x89PNG", b"\xff\xd8\xff")) and (content[:4], content[8:12]) != (b"RIFF", b"WEBP"):
        raise ShotError(f"the reference picture {file} is no PNG, JPEG or WebP picture")
    return content


def _read_pictures(folder: Path, request: _Request) -> dict[int, Path]:
    """The pictures of a beauty that is rendered already, by their frames."""
    pictures = {frame: folder / f"{frame:04d}.png" for frame in request.frames}
    for frame, file in pictures.items():
        try:
            head = file.read_bytes()[:24]
            whole = is_whole(file)
        except OSError as error:
            raise ShotError(f"the beauty of frame {frame} cannot be read from {file}: {(error.strerror or str(error)).lower()}") from error
        if not whole or head[:8] != b"\x89PNG\r\n\x1a\n":
            raise ShotError(f"the beauty of frame {frame} in {file} is no whole PNG picture: render it again")
        if struct.unpack(">II", head[16:24]) != request.size:
            raise ShotError(f"the beauty of frame {frame} in {file} is not {request.width} x {request.height} pixels: render it again")
    return pictures


def _check_cameras(scene: Any, first: int, last: int) -> None:
    bound = sorted(
        (marker for marker in scene.timeline_markers if marker.camera and not marker.camera.hide_render), key=lambda marker: marker.frame
    )
    before = [marker.camera for marker in bound if marker.frame <= first]
    # Blender's rule: the last marker at or before the frame, else the first there is, else the scene's own camera.
    opening = before[-1] if before else bound[0].camera if bound else scene.camera
    if opening is None:
        raise ShotError(f'the scene "{scene.name}" has no camera')
    for camera in {opening, *(marker.camera for marker in bound if first < marker.frame <= last)}:
        if camera.type != "CAMERA":
            raise ShotError(f'"{camera.name}" is used as the camera but is none')
        if camera.data.type not in {"PERSP", "ORTHO"}:
            raise ShotError(f'the camera "{camera.name}" is panoramic, and only perspective and orthographic cameras can be exported')


def _key(request: _Request, beauty: bool | Path, source: str | None) -> str | None:
    """The same for exports that make the same files; None if that cannot be said, as of pictures that somebody else renders."""
    if source is None or isinstance(beauty, Path):
        return None
    scene = request.scene.name_full
    asked = [scene, request.view_layer, request.name, str(request.frames), request.size, request.data_scale, beauty, [*request.references]]
    return hashlib.sha256(json.dumps([FORMAT_VERSION, ADDON_VERSION, compat.blender_version(), source, asked]).encode()).hexdigest()


def _prepare_folder(folder: Path, beauty: bool, key: str | None) -> set[Path]:
    """Make the folder ready; returns what an export with this key has finished there. All else of earlier ones goes."""
    for part in ("data", "beauty") if beauty else ("data",):
        (folder / part).mkdir(parents=True, exist_ok=True)
    finished = _finished(folder, key)
    _remove_earlier_shot(folder, finished)
    probe = folder / ".writable"
    probe.touch()
    probe.unlink()
    return finished


def _finished(folder: Path, key: str | None) -> set[Path]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, or none of ours
        document = json.loads((folder / _UNFINISHED).read_bytes())
        if key is not None and document["key"] == key:
            numbers = [int(entry["frame"]) for entry in document["frames"]]
            files = [folder / part / f"{number:04d}{ending}" for part, ending in _PARTS.items() for number in numbers]
            return {file for file in files if file.is_file() and is_whole(file)}
    return set()


def _remove_earlier_shot(folder: Path, finished: set[Path]) -> None:
    """Its frames, which nobody could tell from the new ones, and its shot.json: the folder is no shot until the export is finished."""
    for manifest in (folder / "shot.json", folder / _UNFINISHED):
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # none, or none of ours: its files stay
            document = json.loads(manifest.read_bytes())
            for number in [int(entry["frame"]) for entry in document["frames"]]:
                for part, ending in _PARTS.items():
                    for leftover in (folder / part).glob(f".*{number:04d}_*{ending}"):  # of a Blender that was killed
                        leftover.unlink(missing_ok=True)
                    if (file := folder / part / f"{number:04d}{ending}") not in finished:
                        file.unlink(missing_ok=True)
            for name in document.get("references", []):
                (folder / "reference" / Path(name).name).unlink(missing_ok=True)
        manifest.unlink(missing_ok=True)


def _note_unfinished(request: _Request, key: str | None) -> None:
    """What is about to be written, for the export after one that was killed: it could not tell its frames from others."""
    document = {"key": key, "frames": [{"frame": frame} for frame in request.frames], "references": list(request.references)}
    (request.folder / _UNFINISHED).write_text(json.dumps(document), encoding="utf-8")


def _discard(folder: Path, files: set[Path]) -> None:
    for file in [*files, folder / _UNFINISHED]:
        with contextlib.suppress(OSError):  # the error that brought us here is the one to tell
            file.unlink()
    for part in (folder / "data", folder / "rest", folder / "beauty", folder / "reference", folder):
        with contextlib.suppress(OSError):  # not empty: somebody else's files are there, or it was never made
            part.rmdir()


# -- one frame ---------------------------------------------------------------------------------------------------------


def _looks(
    request: _Request, motions: object_motion.ObjectMotions, memberships: membership.Memberships
) -> Generator[dict[str, Any], None, None]:
    """Look at every frame as it is rendered: take in its objects, and yield its manifest entry, which names no files yet.

    Before anything is rendered, because a scene may have only one copy at a time (Blender lets the rigid bodies of two get mixed up), and a
    copy that is rendered in turn by two engines cannot keep what either has prepared.
    """
    scratch = request.folder / "data" / "look.exr"
    previous: tuple[str, dict[str, Any]] | None = None
    with (
        scene_copies.for_data(request.scene, request.view_layer, request.size) as (copy, originals),
        evaluated.looker(copy, subdivided=not object_motion.cage_tells()) as look,
    ):
        for frame in request.frames:

            def view(depsgraph: Any, frame: int = frame) -> tuple[str, dict[str, Any]]:
                motions.look(depsgraph, frame)
                memberships.look(depsgraph)
                return _camera(depsgraph, originals, request)

            try:
                name, camera = look(view, functools.partial(_render, copy, frame, scratch))
            finally:
                with contextlib.suppress(OSError):
                    scratch.unlink()
            cut = previous is None or previous[0] != name
            if previous and not cut:
                _check_camera_motion(name, frame, previous[1], camera, request)
            previous = name, camera
            yield {"frame": frame, "data": None, "beauty": None, "rest": None, "cut": cut, "camera": camera}


@contextlib.contextmanager
def _copy_for(kind: str, request: _Request) -> Iterator[Any]:
    """The scene copy that renders one kind of picture."""
    scene, layer, size = request.scene, request.view_layer, request.size
    if kind == "data":
        with scene_copies.for_data(scene, layer, size, request.data_scale) as (copy, _):
            yield copy
    else:
        with (scene_copies.for_rest if kind == "rest" else scene_copies.for_beauty)(scene, layer, size) as copy:
            yield copy


def _camera(depsgraph: Any, originals: dict[str, str], request: _Request) -> tuple[str, dict[str, Any]]:
    """The original name of the camera, and its manifest entry: matrices as lists of rows."""
    scene = depsgraph.scene
    camera = scene.camera.evaluated_get(depsgraph)
    projection = camera.calc_matrix_camera(
        depsgraph,
        x=request.width,
        y=request.height,
        scale_x=scene.render.pixel_aspect_x,
        scale_y=scene.render.pixel_aspect_y,
    )
    # A scaled camera sees as an unscaled one does.
    world_to_camera = camera.matrix_world.normalized().inverted()
    return originals[scene.camera.name], {
        "type": camera.data.type,
        "world_to_camera": [list(row) for row in world_to_camera],
        "projection": [list(row) for row in projection],
        "clip_start": camera.data.clip_start,
        "clip_end": camera.data.clip_end,
    }


def _check_camera_motion(name: str, frame: int, before: dict[str, Any], now: dict[str, Any], request: _Request) -> None:
    """Refuse what Cycles leaves out of the Vector pass: all flow would be wrong by as much.

    A zoom by focal length or sensor size is in it; a change of shift or orthographic scale is not, in any version.
    """
    tolerance = 1e-3 * 2 / max(request.width, request.height)  # a thousandth of a pixel
    orthographic = now["type"] == "ORTHO"
    seen = ((0, 0), (1, 1), (0, 3), (1, 3)) if orthographic else ((0, 2), (1, 2))
    if any(abs(now["projection"][row][column] - before["projection"][row][column]) > tolerance for row, column in seen):
        what = "shift or orthographic scale" if orthographic else "shift"
        raise ShotError(
            f'the camera "{name}" changes its {what} at frame {frame}, which Blender leaves out of the motion vectors: '
            "move or turn the camera instead"
        )
    moves = now["world_to_camera"] != before["world_to_camera"]
    if orthographic and moves and not compat.MOVING_ORTHOGRAPHIC_VECTORS:
        raise ShotError(
            f'the orthographic camera "{name}" moves at frame {frame}, and Blender {compat.blender_version()} writes wrong motion vectors '
            "for that: use Blender 5.2 or a perspective camera"
        )


def _render(copy: Any, frame: int, file: Path) -> None:
    """Render one frame of the scene copy into `file`."""
    begun = file.with_name(f".{file.stem}_")
    copy.render.filepath = str(begun)
    rendered = begun.with_name(begun.name + file.suffix) if frame < 0 else None
    try:
        if rendered is None:
            # As an animation of one frame: a still render would take the frame from the window's scene and not from the copy.
            copy.frame_start = copy.frame_end = frame
            copy.frame_step = 1
            rendered = Path(copy.render.frame_path(frame=frame))
            bpy.ops.render.render(animation=True, scene=copy.name)
        else:
            with _shown(copy, frame):  # no scene's range may begin before 0
                bpy.ops.render.render(write_still=True, scene=copy.name)
        if not is_whole(rendered):
            raise ShotError(f"frame {frame} could not be written whole: is the disk full?")
        rendered.replace(file)
    except RuntimeError as error:
        raise ShotError(f"frame {frame} could not be rendered: {_one_line(error)}") from error
    except FileNotFoundError as error:
        raise ShotError(f"frame {frame} was not rendered: Blender wrote no file") from error
    finally:
        with contextlib.suppress(OSError):
            if rendered is not None:
                rendered.unlink()


@contextlib.contextmanager
def _shown(copy: Any, frame: int) -> Iterator[None]:
    """The window's scene is the copy, at `frame`: a still render takes its frame from there. Without a screen there is one too."""
    windows = bpy.context.window_manager.windows
    if not windows:
        raise ShotError(f"frame {frame} cannot be rendered, because Blender begins ranges at 0: move the shot later")
    window = windows[0]
    scene, layer = window.scene, window.view_layer
    try:
        window.scene = copy
        copy.frame_set(frame)
        yield
    finally:
        window.scene = scene
        window.view_layer = layer


def _one_line(error: RuntimeError) -> str:
    lines = [line.removeprefix("Error: ").strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "Blender gave no reason"


def _write_manifest(request: _Request, entries: list[dict[str, Any]], objects: list[dict[str, Any]]) -> None:
    """Put shot.json in place at once, so that an unfinished export is never a shot."""
    scene, render, view = request.scene, request.scene.render, request.scene.view_settings
    manifest = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": request.name,
        "fps": render.fps / render.fps_base,
        "frame_start": request.frames[0],
        "frame_end": request.frames[-1],
        "width": request.width,
        "height": request.height,
        "pixel_aspect": render.pixel_aspect_y / render.pixel_aspect_x,
        "view_layer": request.view_layer,
        "data_scale": request.data_scale,
        "color": {
            "display_device": scene.display_settings.display_device,
            "view_transform": view.view_transform,
            "look": view.look,
            "exposure": view.exposure,
            "gamma": view.gamma,
        },
        "versions": {"blender": compat.blender_version(), "addon": ADDON_VERSION},
        "references": list(request.references),
        "materials": [{"id": object_motion.cryptomatte_id(material.name), "name": material.name} for material in bpy.data.materials],
        "frames": entries,
    }
    # One object a line: spread out like the rest, a shot's matrices would be millions of lines.
    lines = ",\n".join(f"  {json.dumps(thing)}" for thing in objects)
    text = json.dumps(manifest, indent=1).removesuffix("\n}") + f',\n "objects": [\n{lines}\n ]\n}}\n'
    temporary = request.folder / ".shot.json"
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(request.folder / "shot.json")
    finally:
        temporary.unlink(missing_ok=True)

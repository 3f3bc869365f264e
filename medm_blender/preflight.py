"""What stands in the way of a scene's take, or will surprise: said before anything is rendered, with an operator that mends it.

For the panel, which asks at every redraw, so `check` never waits: what takes time (folders, the server's plan) is found out in a
thread and said as soon as it is known. Only errors keep a take from being made.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import bpy

from . import compat, folders, local_server, passes, preferences, settings, status, tasks
from .client import Client, ServerError

Severity = Literal["error", "warning", "info"]

LOOKS = ("terracotta", "gold", "neon", "porcelain")
"""All that the bundled model can paint."""

INSTALLING = "The server is being installed"

NO_VECTORS = ("CAST", "DISPLACE", "SMOOTH")
"""Modifiers whose keyed values move points while Cycles, in 4.5 and 5.2, writes vectors of zero."""

_MOVES_PIXELS = {
    *("CompositorNodeCornerPin", "CompositorNodeCrop", "CompositorNodeDisplace", "CompositorNodeFlip", "CompositorNodeLensdist"),
    *("CompositorNodeMapUV", "CompositorNodeMovieDistortion", "CompositorNodePlaneTrackDeform", "CompositorNodeRotate"),
    *("CompositorNodeScale", "CompositorNodeStabilize", "CompositorNodeTransform", "CompositorNodeTranslate"),
}
_BYTES_OF_DATA, _BYTES_OF_PICTURE = 40, 4
"""A pixel, as compressed in files: of the data passes with a rest pass, and of a picture."""


@dataclass(frozen=True)
class Finding:
    """One thing to know before a take.

    Attributes:
        severity: `error` keeps the take from being made; `warning` spoils it; `info` is only said.
        message: one line.
        fix: operator that mends it, as `medm.size_round`; empty where none can.
        label: of its button.
        properties: that the operator is called with.
    """

    severity: Severity
    message: str
    fix: str = ""
    label: str = ""
    properties: dict[str, Any] = field(default_factory=dict)


def check(scene: Any, *, wait: bool = False) -> list[Finding]:
    """All findings of `scene`, errors first.

    wait: also find out now what is not known yet, which may take seconds; otherwise it is looked up in a thread and found at a later call.
    """
    found = [finding for look in _CHECKS for finding in look(scene)]
    found += _of_folder(scene, wait)
    found += _of_memory(scene, wait)
    return sorted(found, key=lambda finding: ("error", "warning", "info").index(finding.severity))


def errors(findings: list[Finding]) -> list[Finding]:
    """Those that keep the take from being made."""
    return [finding for finding in findings if finding.severity == "error"]


# -- the server ---------------------------------------------------------------------------------------------------------


def _server(scene: Any) -> Iterator[Finding]:
    now = status.current()
    if now.state == "not_installed":
        yield Finding("error", "MeDM paints with a server of its own, which is not installed yet", "medm.server_plan", "Install Server...")
    elif now.state == "installing":
        yield Finding("error", INSTALLING, "medm.server_plan")
    elif now.state == "wrong_version":
        yield Finding("error", now.message, "medm.server_plan", "Update Server...")
    elif now.state == "unreachable":
        yield Finding("error", now.message or "The server does not answer", "medm.server_test", "Test Connection")
    elif now.state == "off":
        yield Finding("info", now.message or "The server starts when it is needed", "medm.server_start", "Start Now")


def _model(scene: Any) -> Iterator[Finding]:
    medm = scene.medm
    name = medm.model.strip()
    bundled = ("medm.model_bundled", "Use the Bundled One")
    models = {str(model["id"]): model for model in settings.known_models()}
    if not name:
        yield Finding("error", "No model is named", *bundled)
    elif models and name not in models:
        yield Finding("error", f'The server has no model "{name}"', *bundled)
    elif models and not models[name]["available"]:
        yield Finding("error", f'The model "{name}" is not installed on the server: "medm models pull {name}" fetches it', *bundled)
    elif name == "bundled" and not medm.guess and not any(look in medm.prompt.lower() for look in LOOKS):
        yield Finding("warning", f"The bundled model paints only {', '.join(LOOKS[:-1])} and {LOOKS[-1]}: name one in the prompt")
    if medm.reference and not Path(bpy.path.abspath(medm.reference, library=scene.library)).is_file():
        yield Finding("error", "The reference picture is not there", "medm.reference_clear", "Do Without")


def _of_memory(scene: Any, wait: bool) -> list[Finding]:
    now = status.current()
    if now.state != "ready":
        return []
    first, last = settings.frame_range(scene)
    width, height = settings.size(scene)
    asked = settings.take_settings(scene)
    asked.pop("reference", None)  # a file of this machine, which takes no memory
    key = ("plan", now.version, width, height, last - first, tuple(sorted((name, str(value)) for name, value in asked.items())))

    try:
        target = preferences.target()
    except ServerError:
        return []

    def ask() -> Any:
        client = local_server.find(target.store) if target.kind == "local" else Client(target.url, target.token)
        with contextlib.suppress(ServerError):  # what the server thinks of the settings is said where they are sent
            return client.plan(width, height, last - first + 1, asked) if client else None
        return None

    plan = _known(key, ask, 60.0, wait) if last >= first else None
    if not plan or plan["fits"]:
        return []
    return [Finding("warning", plan["message"], "medm.size_smaller", "Paint Smaller")]


# -- the scene ----------------------------------------------------------------------------------------------------------


def _camera(scene: Any) -> Iterator[Finding]:
    last = settings.frame_range(scene)[1]
    used = {marker.camera for marker in scene.timeline_markers if marker.camera and marker.frame <= last}
    if scene.camera is None and not used:
        yield Finding("error", "The scene has no camera", "medm.camera_add", "Add Camera")
        return
    for camera in sorted(used or {scene.camera}, key=lambda camera: camera.name):
        if camera.type != "CAMERA":
            yield Finding("error", f'"{camera.name}" is used as the camera but is none', "medm.camera_add", "Add Camera")
        elif camera.data.type not in {"PERSP", "ORTHO"}:
            yield Finding("error", f'The camera "{camera.name}" is panoramic', "medm.camera_perspective", "Make It Perspective")


def _render(scene: Any) -> Iterator[Finding]:
    if not hasattr(scene, "cycles"):
        yield Finding("error", "Motion and shapes are rendered by Cycles, which is switched off", "medm.cycles_enable", "Enable Cycles")
    elif scene.render.engine != compat.CYCLES and _over_render(scene):
        yield Finding("info", "Your engine renders what is painted over; motion and shapes come from Cycles")
    if not any(layer.use for layer in scene.view_layers):
        yield Finding("error", "No view layer is used for rendering", "medm.view_layer_use", "Use the Current One")
    if scene.frame_step != 1:
        yield Finding("error", f"The scene skips frames: its frame step is {scene.frame_step}", "medm.frame_step_one", "Use Every Frame")
    if scene.render.use_motion_blur:
        yield Finding("info", "Motion blur is left out of the take", "medm.motion_blur_off", "Switch Off")


def _frames(scene: Any) -> Iterator[Finding]:
    first, last = settings.frame_range(scene)
    fix = ("medm.frames_of_scene", "Use the Scene's") if scene.medm.use_frame_range else ()
    if last < first:
        yield Finding("error", f"The frame range {first} to {last} is empty", *fix)


def _size(scene: Any) -> Iterator[Finding]:
    width, height = settings.size(scene)
    if width % passes.SIZE_STEP or height % passes.SIZE_STEP:
        yield Finding("error", f"{width} x {height} will not do: both sides must be multiples of 8", "medm.size_round", "Round")
    elif max(width, height) * int(scene.medm.data_supersampling) > passes.SIZE_LIMITS[1]:
        yield Finding("error", f"Fine data passes of {width} x {height} are too large", "medm.passes_normal", "Make Them Normal")


def _compositing(scene: Any) -> Iterator[Finding]:
    if scene.render.use_sequencer and scene.sequence_editor and len(compat.strips(scene)):
        message = "The strips in this scene's sequencer are left out: the scene itself is painted"
        yield Finding("info", message, "medm.sequencer_off", "Switch Off")
    tree = compat.compositor_tree(scene) if scene.render.use_compositing else None
    if tree and _over_render(scene):
        moving = next((node for node in tree.nodes if node.bl_idname in _MOVES_PIXELS and not node.mute), None)
        if moving:
            message = f'The compositor\'s "{moving.name}" moves pixels away from the motion that is known of them'
            yield Finding("warning", message, "medm.compositor_off", "Switch Off")


def _over_render(scene: Any) -> bool:
    needed = scene.medm.mode == "ASSISTIVE" or bool(scene.medm.paint.strip())
    return needed and scene.medm.beauty == "RENDER"


def _window(scene: Any) -> Iterator[Finding]:
    medm = scene.medm
    if medm.beauty == "VIEWPORT" and tasks.needs_beauty(settings.take_settings(scene)):
        if bpy.app.background:
            yield Finding("error", "The viewport can be painted over only where Blender has a window: set Beauty to Render")
        if scene.rigidbody_world is not None:
            yield Finding("error", "The viewport cannot be painted over in a scene with rigid bodies: set Beauty to Render")
    if not bpy.data.filepath:
        yield Finding("info", "The file was never saved; its takes go to your user folder", "wm.save_mainfile", "Save")
    if medm.reuse_shot and not (_root(scene) / "shot" / "shot.json").is_file():
        yield Finding("info", "There are no passes to reuse yet: they are rendered")


def _masks(scene: Any) -> Iterator[Finding]:
    kept = {"collection:": bpy.data.collections, "material:": bpy.data.materials, "": scene.objects}
    for entry in filter(None, (entry.strip() for entry in scene.medm.paint.split(","))):
        pattern = entry.removeprefix("!").strip()
        kind = next(prefix for prefix in kept if pattern.startswith(prefix))
        name = pattern.removeprefix(kind).strip()
        if name in kept[kind] or (not kind and name in {"background", "sky"}) or name.startswith("object "):
            continue
        # Objects inside instanced collections are the scene's too.
        known = bpy.data.objects if not kind else kept[kind]
        wanted = name.replace("[", "[[]")
        if not any(fnmatch.fnmatchcase(thing.name, wanted) for thing in known):
            what = {"collection:": "collection", "material:": "material", "": "object"}[kind]
            yield Finding("error", f'No {what} is called "{name}", which Paint Only names', "medm.paint_clear", "Paint All")


def _vectors(scene: Any) -> Iterator[Finding]:
    for thing, modifier in without_vectors(scene):
        message = f'Cycles knows no motion of "{thing.name}" by its {modifier.name} modifier'
        if thing.library or thing.data.library:
            yield Finding("warning", f"{message}; give it a Basis shape key in its own file")
        else:
            yield Finding("warning", message, "medm.vectors_mend", "Mend", {"object": thing.name})


def _simulations(scene: Any) -> Iterator[Finding]:
    """What moves by a simulation that is not baked: passes are rendered in an order of their own, and each is to find the same.

    Nor must the cache end with the take: vectors look one frame ahead.
    """
    after = settings.frame_range(scene)[1] + 1
    caches = simulations(scene)
    loose = next((name for name, cache in caches if not cache.is_baked), "")
    short = next((name for name, cache in caches if cache.is_baked and cache.frame_end < after), "")
    if loose:
        message = f'The simulation of "{loose}" is not baked, and may come out different in every pass'
        yield Finding("warning", message, "medm.simulations_bake", "Bake All")
    if short:
        yield Finding(
            "warning", f'The simulation of "{short}" is missing in the last passes: bake it up to frame {after}, one more than the take'
        )


def simulations(scene: Any) -> list[tuple[str, Any]]:
    """(name of the object, point cache) of all that is simulated in a scene."""
    found = [(thing.name, cache) for thing in scene.objects if not thing.hide_render for cache in _caches(thing)]
    world = scene.rigidbody_world
    if world and world.enabled and world.collection and world.collection.objects:
        found.append((world.collection.objects[0].name, world.point_cache))
    return found


def _caches(thing: Any) -> Iterator[Any]:
    for modifier in thing.modifiers:
        if modifier.type in {"CLOTH", "SOFT_BODY"} and modifier.show_render:
            yield modifier.point_cache
        elif modifier.type == "PARTICLE_SYSTEM" and modifier.show_render:
            system = modifier.particle_system
            if system.settings.type == "EMITTER" or system.use_hair_dynamics:
                yield system.point_cache


def without_vectors(scene: Any) -> list[tuple[Any, Any]]:
    """(object, modifier) of what a keyed or driven modifier moves without Cycles noticing; it does with a shape key or nodes beside it."""
    found = []
    for thing in scene.objects:
        if thing.type != "MESH" or thing.hide_render or not thing.modifiers or thing.animation_data is None:
            continue
        modifiers = [modifier for modifier in thing.modifiers if modifier.show_render]
        if thing.data.shape_keys or any(modifier.type == "NODES" and modifier.node_group for modifier in modifiers):
            continue
        suspects = [modifier for modifier in modifiers if modifier.type in NO_VECTORS]
        paths = compat.animated_paths(thing) if suspects else set()
        for modifier in suspects:
            if any(path.startswith(f'modifiers["{bpy.utils.escape_identifier(modifier.name)}"]') for path in paths):
                found.append((thing, modifier))
                break
    return found


# -- where it is written ------------------------------------------------------------------------------------------------


def _of_folder(scene: Any, wait: bool) -> list[Finding]:
    root = _root(scene)
    first, last = settings.frame_range(scene)
    width, height = settings.size(scene)
    finer = int(scene.medm.data_supersampling) ** 2
    needed = max(0, last - first + 1) * width * height * (finer * _BYTES_OF_DATA + 2 * _BYTES_OF_PICTURE)
    there = _known(("folder", str(root)), lambda: _look_at(root), 5.0, wait)
    if there is None:
        return []
    writable, free = there
    change = ("medm.folder_choose", "Choose Another")
    if not writable:
        return [Finding("error", f"The folder {root} cannot be written", *change)]
    if free < needed:
        message = f"The take needs about {_gb(needed)}, and the disk of {root} has {_gb(free)} free"
        return [Finding("error", message, *change)]
    return []


def _root(scene: Any) -> Path:
    """`folders.root`, which reads files, at most every few seconds."""
    key = scene.session_uid, scene.medm.folder, bpy.data.filepath
    when, root = _roots.get(key, (-1e9, Path()))
    if time.monotonic() - when > 5.0:
        _roots.clear()
        root = folders.root(scene)
        _roots[key] = time.monotonic(), root
    return root


_roots: dict[Any, tuple[float, Path]] = {}


def _look_at(folder: Path) -> tuple[bool, int]:
    """Whether it can be written, and the free bytes of its disk; of the first folder above it that is there."""
    try:
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        return there.is_dir() and os.access(there, os.W_OK | os.X_OK), shutil.disk_usage(there).free
    except (OSError, StopIteration):
        return False, 0


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


_CHECKS: tuple[Callable[[Any], Iterator[Finding]], ...] = (
    *(_server, _model, _camera, _frames, _size, _render, _compositing, _masks, _vectors, _simulations, _window),
)


# -- what takes time ----------------------------------------------------------------------------------------------------

_answers: dict[Any, tuple[float, Any]] = {}
_asking: set[Any] = set()
_lock = threading.Lock()
_MOST_ANSWERS = 32


def _known(key: Any, find: Callable[[], Any], lasting: float, wait: bool) -> Any:
    """What `find` gives, at most `lasting` seconds old; None or something older, and a thread that finds it, where nobody waits."""
    with _lock:
        when, answer = _answers.get(key, (-1e9, None))
        if time.monotonic() - when < lasting:
            return answer
        if not wait:
            if key not in _asking:
                _asking.add(key)
                threading.Thread(target=_find, args=(key, find), name="medm-preflight", daemon=True).start()
                _redraw_when_found()
            return answer
    _find(key, find)
    return _answers[key][1]


def _find(key: Any, find: Callable[[], Any]) -> None:
    answer = None
    with contextlib.suppress(Exception):  # a question that could not be answered is asked again later, and stands in nobody's way
        answer = find()
    with _lock:
        while len(_answers) >= _MOST_ANSWERS:
            _answers.pop(next(iter(_answers)))
        _answers.pop(key, None)
        _answers[key] = time.monotonic(), answer
        _asking.discard(key)


def _redraw_when_found() -> None:
    if not bpy.app.background and not bpy.app.timers.is_registered(_redraw):
        bpy.app.timers.register(_redraw, first_interval=0.1)


def _redraw() -> float | None:
    if _asking:
        return 0.1
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "PROPERTIES":
                area.tag_redraw()
    return None

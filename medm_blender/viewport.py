"""The beauty from the viewport: what the 3D viewport shows through the scene's camera, as the fast choice for previs.

For `running.py`, in a Blender with a window. Every picture is made from a scene copy of its own, so the user's frame, settings and view are
as they were between any two steps. The data passes come from Cycles all the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import bpy

from . import animation, compat, scene_copies, written
from .passes import ShotError


def beauty_steps(scene: Any, folder: Path, frames: range, size: tuple[int, int]) -> Generator[tuple[float, str], None, None]:
    """Write `folder`/0001.png and so on, one frame a step; yields (share done, phase) after each.

    frames: one after the other. size: (width, height) in pixels. Shading is that of the largest 3D viewport that shows the scene, without
    its overlays; where there is none, that of the scene's own viewport render settings. Raises ShotError; one of no window, too.
    """
    if bpy.app.background:
        raise ShotError("the viewport can be rendered only in a Blender with a window: choose the render as the beauty")
    if scene.rigidbody_world is not None:
        # A copy of the scene simulates the same bodies, and Blender (5.2.2) crashes when it later lets go of the open file.
        raise ShotError("the viewport cannot be captured in a scene with rigid bodies: choose the render as the beauty")
    layer = next((layer.name for layer in scene.view_layers if layer.use), None)
    if layer is None:
        raise ShotError(f'no view layer of the scene "{scene.name}" is used for rendering')
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ShotError(f"{folder} cannot be written: {(error.strerror or str(error)).lower()}") from error
    for number, frame in enumerate(frames, 1):
        _render(scene, layer, frame, folder / f"{frame:04d}.png", size)
        yield number / len(frames), f"viewport, frame {number} of {len(frames)}"


def _render(scene: Any, layer: str, frame: int, file: Path, size: tuple[int, int]) -> None:
    window, area = _viewport(scene)
    values = animation.remember()
    try:
        with scene_copies.for_beauty(scene, layer, size) as copy:
            copy.render.filepath = str(file.with_suffix(""))
            copy.frame_set(frame)  # a marker may bring another camera
            camera = copy.camera
            if camera is None:
                raise ShotError(f'the scene "{scene.name}" has no camera')
            with _shown(window, copy, layer):
                if area is None:
                    with bpy.context.temp_override(window=window):
                        bpy.ops.render.opengl(write_still=True, view_context=False)
                else:
                    region = next(region for region in area.regions if region.type == "WINDOW")
                    here = {"window": window, "area": area, "region": region}
                    with _through_camera(area.spaces.active, camera), bpy.context.temp_override(**here):
                        bpy.ops.render.opengl(write_still=True, view_context=True)
        if not written.is_whole(file):
            raise ShotError(f"frame {frame} could not be written whole: is the disk full?")
    except RuntimeError as error:
        lines = [line.removeprefix("Error: ").strip() for line in str(error).splitlines() if line.strip()]
        raise ShotError(f"frame {frame} of the viewport could not be rendered: {lines[0] if lines else 'no reason given'}") from error
    except FileNotFoundError as error:
        raise ShotError(f"frame {frame} of the viewport was not rendered: Blender wrote no file") from error
    finally:
        animation.restore(values)


def _viewport(scene: Any) -> tuple[Any, Any | None]:
    """A window, and the area of the largest 3D viewport in a window that shows the scene; None if there is none."""
    windows = list(bpy.context.window_manager.windows)
    areas = [
        (area.width * area.height, window, area)
        for window in windows
        if window.scene == scene
        for area in window.screen.areas
        if area.type == "VIEW_3D"
    ]
    if areas:
        _, window, area = max(areas, key=lambda found: int(found[0]))
        return window, area
    return windows[0], None


@contextlib.contextmanager
def _shown(window: Any, copy: Any, layer: str) -> Iterator[None]:
    """The window's scene is the copy: the operator takes no other. Nothing is drawn meanwhile."""
    scene, view_layer = window.scene, window.view_layer
    try:
        window.scene = copy
        window.view_layer = copy.view_layers[layer]
        yield
    finally:
        window.scene = scene
        window.view_layer = view_layer


@contextlib.contextmanager
def _through_camera(space: Any, camera: Any) -> Iterator[None]:
    """The 3D view looks through the camera, shows no overlays, and is then as it was."""
    view = space.region_3d
    kept = {
        space: {name: getattr(space, name) for name in ("use_local_camera", "camera", "show_gizmo", "use_render_border")},
        space.overlay: {"show_overlays": space.overlay.show_overlays},
        view: {"view_perspective": view.view_perspective},
    }
    matrix = view.view_matrix.copy()
    try:
        space.overlay.show_overlays = False
        space.show_gizmo = False
        space.use_render_border = False
        compat.set_if_there(space, use_local_camera=False)
        space.camera = camera
        view.view_perspective = "CAMERA"
        yield
    finally:
        for owner, values in kept.items():
            for name, value in values.items():
                setattr(owner, name, value)
        if view.view_perspective != "CAMERA":
            view.view_matrix = matrix

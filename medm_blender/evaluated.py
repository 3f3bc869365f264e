"""Shows a scene as a renderer is given it: at one frame, with render visibility, render modifiers and all instances.

For `passes.py`. Only a render engine gets to see that: the scene that Python can ask for by itself is evaluated as the viewport shows it.
So for the length of one look there is an engine that draws nothing, and looks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import bpy

from . import compat

Result = TypeVar("Result")

_ENGINE = "MEDM_LOOK"
_SIDE = 16
"""Of the empty picture that comes out of it, in pixels."""


def look(copy: Any, view: Callable[[Any], Result], render: Callable[[], None], subdivided: bool) -> Result:
    """What `view` makes of the evaluated scene (a depsgraph) while `render` renders a frame of the scene copy `copy`.

    subdivided: False leaves out all subdivision modifiers, which take most of the time. Raises what `view` or `render` raises.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    class Looker(bpy.types.RenderEngine):  # type: ignore[misc]
        bl_idname = _ENGINE
        bl_label = "MeDM"

        def render(self, depsgraph: Any) -> None:
            try:
                results.append(view(depsgraph))
            except BaseException as error:  # Blender would only print it
                errors.append(error)
            finally:
                self.end_result(self.begin_result(0, 0, _SIDE, _SIDE))

    bpy.utils.register_class(Looker)
    try:
        with _set_up(copy, subdivided):
            render()
    finally:
        bpy.utils.unregister_class(Looker)
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def _set_up(copy: Any, subdivided: bool) -> Iterator[None]:
    wanted = {"engine": _ENGINE, "resolution_x": _SIDE, "resolution_y": _SIDE}
    if not subdivided:
        wanted |= {"simplify_subdivision_render": 0}
        if not copy.render.use_simplify:
            wanted |= {"use_simplify": True, "simplify_child_particles_render": 1.0, "simplify_volumes": 1.0}
    before = {name: getattr(copy.render, name) for name in wanted}
    compat.set_if_there(copy.render, **wanted)
    try:
        yield
    finally:
        compat.set_if_there(copy.render, **before)

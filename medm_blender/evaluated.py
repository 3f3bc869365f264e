"""Shows a scene as a renderer is given it: at one frame, with render visibility, render modifiers and all instances.

For `passes.py`. Only a render engine gets to see that: the scene that Python can ask for by itself is evaluated as the viewport shows it.
So for as long as there are looks there is an engine that draws nothing, and looks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import bpy

from . import compat

_ENGINE = "MEDM_LOOK"
_SIDE = 16
"""Of the empty picture that comes out of it, in pixels."""


Look = Callable[[Callable[[Any], Any], Callable[[], None]], Any]
"""`look(view, render)`: what `view` makes of the evaluated scene (a depsgraph) while `render` renders a frame of the scene copy. Raises
what either raises."""


@contextlib.contextmanager
def looker(copy: Any, subdivided: bool) -> Iterator[Look]:
    """Looks at frames of the scene copy `copy`, which is set up for nothing else from here on.

    subdivided: False leaves out all subdivision modifiers, which take most of the time. One looker for all frames of a shot: what does not
    move is then evaluated once.
    """
    views: list[Callable[[Any], Any]] = []
    results: list[Any] = []
    errors: list[BaseException] = []

    class Looker(bpy.types.RenderEngine):  # type: ignore[misc]
        bl_idname = _ENGINE
        bl_label = "MeDM"

        def render(self, depsgraph: Any) -> None:
            try:
                results.append(views[-1](depsgraph))
            except BaseException as error:  # Blender would only print it
                errors.append(error)
            finally:
                self.end_result(self.begin_result(0, 0, _SIDE, _SIDE))

    def look(view: Callable[[Any], Any], render: Callable[[], None]) -> Any:
        views.append(view)
        try:
            render()
            if errors:
                raise errors[0]
            return results[0]
        finally:
            for kept in (views, results, errors):
                kept.clear()

    bpy.utils.register_class(Looker)
    try:
        copy.render.engine = _ENGINE
        copy.render.resolution_x = copy.render.resolution_y = _SIDE
        if not subdivided:
            _leave_out_subdivision(copy.render)
        yield look
    finally:
        bpy.utils.unregister_class(Looker)


def _leave_out_subdivision(render: Any) -> None:
    if not render.use_simplify:
        render.use_simplify = True
        compat.set_if_there(render, simplify_child_particles_render=1.0, simplify_volumes=1.0)
    render.simplify_subdivision_render = 0

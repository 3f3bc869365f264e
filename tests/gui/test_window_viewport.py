"""The beauty from the viewport: what the window shows through the camera, with the user's view, frame and settings left alone."""

from __future__ import annotations

import struct

import pytest

from window import EXTENSION

pytestmark = pytest.mark.window

STANDING = """
    scene, window = bpy.context.scene, bpy.context.window_manager.windows[0]
    space = next(area.spaces.active for area in window.screen.areas if area.type == "VIEW_3D")
    render, view = scene.render, space.region_3d
    return [
        scene.name, scene.frame_current, render.filepath, render.resolution_x, render.image_settings.file_format, render.engine,
        space.overlay.show_overlays, space.shading.type, view.view_perspective, [list(row) for row in view.view_matrix],
        sorted(scene.name for scene in bpy.data.scenes), sorted(image.name for image in bpy.data.images), len(bpy.data.cameras),
        [list(thing.location) for thing in scene.objects], bpy.data.is_dirty,
    ]
"""


def test_pictures_of_the_viewport(window, tmp_path):
    window.do("""
        area = bpy.context.window_manager.windows[0].screen.areas[0]
        area.type = "VIEW_3D"
        yield 0.5
        space = area.spaces.active
        space.shading.type = "SOLID"
        bpy.context.scene.frame_set(2)
    """)
    before = window.do(STANDING)
    told = window.do(f"""
        import sys, pathlib
        viewport = sys.modules.get("{EXTENSION}.viewport") or __import__("importlib").import_module("{EXTENSION}.viewport")
        folder = pathlib.Path({str(tmp_path / "viewport ä")!r})
        return list(viewport.beauty_steps(bpy.context.scene, folder, range(1, 4), (192, 112)))
    """)
    assert [phase for _, phase in told] == [f"viewport, frame {frame} of 3" for frame in (1, 2, 3)]
    assert window.do(STANDING) == before
    files = sorted((tmp_path / "viewport ä").iterdir())
    assert [file.name for file in files] == ["0001.png", "0002.png", "0003.png"]
    pictures = [file.read_bytes() for file in files]
    assert all(struct.unpack(">II", picture[16:24]) == (192, 112) for picture in pictures)
    assert len(set(pictures)) == 3, "the frames are all the same"

"""The beauty of EEVEE's and Workbench's users, rendered by a Blender application without a window."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("bpy")

import bpy

from medm_blender import compat
from staging import add_camera, add_plane, empty_file, read_png

pytestmark = pytest.mark.bpy
ROOT = Path(__file__).resolve().parents[2]
BLENDER = shutil.which(os.environ.get("BLENDER", "")) if bpy.app.module else bpy.app.binary_path
REGISTER = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import medm_blender; medm_blender.register()"


@pytest.mark.skipif(not BLENDER, reason="BLENDER names no application")
@pytest.mark.parametrize("engine", [compat.EEVEE, "BLENDER_WORKBENCH"])
def test_the_beauty_comes_from_the_users_engine(tmp_path, engine):
    scene = empty_file()
    add_camera(scene)
    add_plane(scene, size=(3, 3))
    scene.world = bpy.data.worlds.new("World")
    scene.frame_end = 2
    scene.render.engine = engine
    scene.eevee.taa_render_samples = 1  # on a machine without graphics each takes seconds
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"), check_existing=False)
    command = [BLENDER, "-b", "--factory-startup", "--python-expr", REGISTER, str(tmp_path / "shot.blend")]
    command += ["--command", "medm", "export", "--out", str(tmp_path / "shot"), "--size", "64x40"]
    environment = {"LIBGL_ALWAYS_SOFTWARE": "1", **os.environ}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for frame in (1, 2):
        picture = read_png(tmp_path / "shot" / "beauty" / f"{frame:04d}.png")
        assert picture.shape == (40, 64, 3)
        assert picture.std() > 1  # the plane and what is behind it

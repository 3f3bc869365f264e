"""Many frames in a row: each is the same as rendered alone, though Cycles keeps what has not changed; and no frame stays in memory."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bpy")

import bpy

from medm_blender import compat, passes
from staging import add_bending_plane, add_camera, add_grid, add_plane, read_exr

pytestmark = pytest.mark.bpy

ROOT = Path(__file__).resolve().parents[2]
FRAMES = range(1, 8)


def key(owner, path, values):
    """`values` by frame, each held until the next."""
    for frame, value in values.items():
        setattr(owner, path, value)
        owner.keyframe_insert(path, frame=frame)


def restless(scene):
    """Everything that can begin, stop, appear, go and change between frames."""
    camera = add_camera(scene, location=(0, 0, 12))
    key(camera.data, "lens", {1: 30.0, 3: 30.0, 5: 45.0})
    second = add_camera(scene, "Second", location=(2, 0, 9))
    for marked, frame in ((camera, 1), (second, 6)):
        scene.timeline_markers.new(marked.name, frame=frame).camera = marked
    ground = add_grid(scene, "Ground", size=12.0, location=(0, 0, -1))
    wave = ground.modifiers.new("Wave", "WAVE")
    key(wave, "height", {2: 0.0, 3: 0.3, 5: 0.3, 6: 0.0})
    flag = add_bending_plane(scene, "Flag", location=(-2, 1, 0.5))
    mover = add_plane(scene, "Mover", size=(2, 2), location=(2, 1, 0.4))
    key(mover, "location", {2: (2, 1, 0.4), 4: (3, 1, 0.9), 5: (3, 1, 0.9)})
    child = add_plane(scene, "Child", size=(1, 1), location=(0, -2, 0.2))
    child.parent = mover
    key(child, "hide_render", {1: False, 6: True, 7: False})
    grown = add_plane(scene, "Grown", size=(1, 1), location=(-1, -2, 0.6))
    array = grown.modifiers.new("Array", "ARRAY")
    key(array, "count", {1: 1, 3: 2, 5: 4})
    finer = add_grid(scene, "Finer", size=2.0, cells=2, location=(-3, -2, 0.7))
    levels = finer.modifiers.new("Subdivision", "SUBSURF")
    levels.render_levels = 2
    key(finer, "rotation_euler", {1: (0, 0, 0), 4: (0.5, 0, 0.2), 5: (0.5, 0, 0.2)})
    collection = bpy.data.collections.new("Set")
    collection.objects.link(flag)
    for number in range(3):
        instance = bpy.data.objects.new(f"Instance {number}", None)
        instance.instance_type, instance.instance_collection = "COLLECTION", collection
        instance.location = (number - 1, 3, 0.3)
        scene.collection.objects.link(instance)
        key(instance, "location", {2 + number: (number - 1, 3, 0.3), 4 + number: (number - 1, 2.4, 0.3)})
    hole = bpy.data.materials.new("Hole")
    compat.use_nodes(hole)
    shader = hole.node_tree.nodes["Principled BSDF"]
    for frame, alpha in ((1, 1.0), (2, 1.0), (3, 0.0), (4, 0.0), (5, 1.0)):
        shader.inputs["Alpha"].default_value = alpha
        shader.inputs["Alpha"].keyframe_insert("default_value", frame=frame)
    child.data.materials.append(hole)
    # Not one that bends: where such a thing is gone in the next frame, Cycles leaves the vector to it to chance.
    blinking = add_plane(scene, "Blinking", size=(1, 1), location=(-4, 3, 0.1))
    key(blinking, "hide_render", {1: True, 2: False, 4: True, 5: False})
    text = bpy.data.objects.new("Text", bpy.data.curves.new("Text", "FONT"))
    key(text.data, "offset_x", {1: 0.0, 4: 0.5, 5: 0.5})
    text.location = (0, 0, 1)
    scene.collection.objects.link(text)


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """All frames at once, and each in a file that was just opened, in no order."""
    folder = tmp_path_factory.mktemp("row")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    restless(scene)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "restless.blend"), check_existing=False)
    span = (FRAMES[0], FRAMES[-1])
    passes.export_shot(scene, folder / "row", size=(96, 64), frame_range=span, beauty=False)
    for frame in random.Random(1).sample(FRAMES, len(FRAMES)):
        bpy.ops.wm.open_mainfile(filepath=str(folder / "restless.blend"))
        scene = bpy.context.scene
        # With one more, because a single frame moves nothing, and then there is no rest pass. What comes first has nothing before it.
        passes.export_shot(scene, folder / f"alone {frame}", size=(96, 64), frame_range=(frame, frame + 1), beauty=False)
    return folder


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_is_the_same_in_a_row(shots, frame):
    kinds = [kind for kind in ("data", "rest") if (shots / f"alone {frame}" / kind).exists()]
    assert "rest" in kinds or frame in {1, 6, 7}  # there, nothing bends
    for kind in kinds:
        here, there = (read_exr(shots / folder / kind / f"{frame:04d}.exr") for folder in ("row", f"alone {frame}"))
        assert here.keys() == there.keys()
        for channel in here:
            np.testing.assert_array_equal(here[channel], there[channel], err_msg=channel)


LONG = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from medm_blender import passes
from staging import add_bending_plane, add_camera, empty_file
scene = empty_file()
add_camera(scene), add_bending_plane(scene)
sizes = {}
def note(_, phase):
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    sizes.setdefault(phase, []).append(pages * 4096)
passes.export_shot(scene, sys.argv[3], size=(640, 360), frame_range=(1, 24), beauty=False, progress=note)
print("grown", *(max(sizes[kind]) - max(sizes[kind][:4]) for kind in ("data", "rest")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for its memory")
def test_no_frame_stays_in_memory(tmp_path):
    command = [sys.executable, "-c", LONG, str(ROOT), str(ROOT / "tests" / "addon"), str(tmp_path / "shot")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    grown = [int(word) for word in done.stdout.rpartition("grown ")[2].splitlines()[0].split()]
    picture = 640 * 360 * 24 * 4  # bytes of all passes of a frame
    assert max(grown) < picture

"""What preflight finds, that nothing is found where all is well, and that every button mends what it stands beside, and can be undone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bpy")

import bpy

import medm_blender
from medm_blender import compat, passes, preflight, status
from staging import add_camera, add_grid, move_evenly, read_shot

pytestmark = pytest.mark.bpy

MODELS = [
    {"id": "bundled", "available": True, "control": "normal+depth+lineart", "kinds": ["normal", "depth", "lineart"]},
    {"id": "sd15", "available": False, "control": "lineart", "kinds": ["lineart", "depth"]},
]


@pytest.fixture(autouse=True)
def registered(fresh):
    medm_blender.register()
    status.override(status.Status("off"))
    preflight._answers.clear()
    yield
    status.override(None)
    medm_blender.unregister()


@pytest.fixture
def scene(registered, tmp_path):
    """A scene that can be painted, in a saved file."""
    add_camera(bpy.context.scene)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    return bpy.context.scene


def found(scene):
    return preflight.check(scene, wait=True)


def the(scene, words):
    """The one finding that says `words`."""
    fitting = [finding for finding in found(scene) if words in finding.message]
    assert len(fitting) == 1, [finding.message for finding in found(scene)]
    return fitting[0]


def mend(finding):
    area, name = finding.fix.split(".")
    assert finding.label
    return getattr(getattr(bpy.ops, area), name)("EXEC_DEFAULT", **finding.properties)


def test_nothing_but_the_server_to_say_of_a_scene_that_is_well(scene):
    assert [finding.message for finding in found(scene)] == ["The server starts when it is needed"]
    assert found(scene)[0].severity == "info"


def test_looking_changes_nothing(scene):
    before = bpy.data.is_dirty
    found(scene)
    assert bpy.data.is_dirty == before
    assert not Path(bpy.path.abspath("//medm")).exists()


def motion_blur(scene):
    scene.render.use_motion_blur = True


def no_camera(scene):
    bpy.data.objects.remove(scene.camera)


def another_camera_is_there(scene):
    scene.camera = None


def lamp_as_camera(scene):
    lamp = bpy.data.objects.new("Lamp", bpy.data.lights.new("Lamp", "POINT"))
    scene.collection.objects.link(lamp)
    scene.camera = lamp


def panorama(scene):
    scene.camera.data.type = "PANO"


def odd_size(scene):
    scene.medm.use_size, scene.medm.width, scene.medm.height = True, 770, 433


def too_large(scene):
    scene.medm.use_size, scene.medm.width, scene.medm.height, scene.medm.data_supersampling = True, 4096, 2048, "3"


def empty_range(scene):
    scene.medm.use_frame_range, scene.medm.frame_start, scene.medm.frame_end = True, 10, 9


def every_other_frame(scene):
    scene.frame_step = 2


def no_layer(scene):
    scene.view_layers[0].use = False


def no_model(scene):
    scene.medm.model = " "


def lost_reference(scene):
    scene.medm.reference = "//look.png"


def nobody_to_paint(scene):
    scene.medm.paint = "Camera, !Nobody*"


def strips(scene):
    compat.strips(scene).new_effect(name="Title", type="COLOR", channel=1, frame_start=1, **_length())


def _length():
    return {"length": 10} if compat.IS_5 else {"frame_end": 10}


def lens(scene):
    scene.medm.mode = "ASSISTIVE"
    scene.render.use_compositing = True
    if compat.IS_5:
        tree = scene.compositing_node_group = bpy.data.node_groups.new("Tree", "CompositorNodeTree")
    else:
        scene.use_nodes = True
        tree = scene.node_tree
    tree.nodes.new("CompositorNodeLensdist")


def keyed_displace(scene):
    modifier = add_grid(scene).modifiers.new("Waves", "DISPLACE")
    for frame, value in ((1, 0.0), (3, 1.0)):
        modifier.strength = value
        modifier.keyframe_insert("strength", frame=frame)


def cloth(scene):
    scene.frame_end = 3
    cache = add_grid(scene, "Curtain", cells=4).modifiers.new("Cloth", "CLOTH").point_cache
    cache.frame_start, cache.frame_end = 1, 3


def particles(scene):
    system = add_grid(scene, "Fountain").modifiers.new("Drops", "PARTICLE_SYSTEM").particle_system
    system.point_cache.frame_start, system.point_cache.frame_end = 1, 3


@pytest.mark.parametrize(
    ("spoil", "words", "severity"),
    [
        (motion_blur, "Motion blur is left out", "info"),
        (no_camera, "has no camera", "error"),
        (another_camera_is_there, "has no camera", "error"),
        (lamp_as_camera, '"Lamp" is used as the camera', "error"),
        (panorama, "panoramic", "error"),
        (odd_size, "770 x 433 will not do", "error"),
        (too_large, "too large", "error"),
        (empty_range, "10 to 9 is empty", "error"),
        (every_other_frame, "its frame step is 2", "error"),
        (no_layer, "No view layer", "error"),
        (no_model, "No model is named", "error"),
        (lost_reference, "reference picture is not there", "error"),
        (nobody_to_paint, 'No object is called "Nobody*"', "error"),
        (strips, "strips in this scene's sequencer are left out", "info"),
        (lens, "moves pixels", "warning"),
        (keyed_displace, 'no motion of "Grid"', "warning"),
        (cloth, 'simulation of "Curtain" is not baked', "warning"),
        (particles, 'simulation of "Fountain" is not baked', "warning"),
    ],
)
def test_found_and_mended(scene, spoil, words, severity):
    spoil(scene)
    finding = the(scene, words)
    assert finding.severity == severity
    assert not finding.message[0].islower() and not finding.message.endswith(".")
    assert mend(finding) == {"FINISHED"}
    assert not [other.message for other in found(bpy.context.scene) if words in other.message]
    assert bool(preflight.errors([finding])) == (severity == "error")


def test_every_button_can_be_undone(scene):
    """All that change the user's data are steps of undo of their own."""
    fixes = set()
    for spoil in (motion_blur, odd_size, empty_range, every_other_frame, no_model, strips, keyed_displace):
        spoil(scene)
        fixes |= {finding.fix for finding in found(scene)}
    for fix in fixes - {"medm.server_start"}:
        area, name = fix.split(".")
        assert "UNDO" in getattr(getattr(bpy.ops, area), name).bl_options, fix


def test_the_compositor_is_no_matter_where_nothing_is_painted_over(scene):
    lens(scene)
    scene.medm.mode = "FULL"
    assert not [finding for finding in found(scene) if "moves pixels" in finding.message]


def test_the_viewport_is_refused_where_it_cannot_be_painted_over(scene):
    scene.medm.mode, scene.medm.beauty = "ASSISTIVE", "VIEWPORT"
    assert the(scene, "only where Blender has a window").severity == "error"
    assert not [finding for finding in found(scene) if "rigid bodies" in finding.message]
    bpy.ops.rigidbody.world_add()
    assert the(scene, "rigid bodies").severity == "error"
    scene.medm.mode = "FULL"
    assert not preflight.errors(found(scene))


@pytest.mark.parametrize("kind", preflight.NO_VECTORS)
def test_cycles_sees_keyed_modifiers_once_they_are_mended(scene, tmp_path, kind):
    """The fact that the finding stands on, and that its button helps: tells when a new Blender changes it."""
    scene.camera.location, scene.camera.rotation_euler = (2, -3, 9), (0.3, 0.2, 0)
    grid = add_grid(scene, size=6)
    random = np.random.default_rng(0)
    for vertex in grid.data.vertices:
        vertex.co.z += random.normal() * 0.2
    modifier = grid.modifiers.new("Keyed", kind)
    value = "strength" if kind == "DISPLACE" else "factor"
    for frame, number in ((1, 0.0), (3, 1.0)):
        setattr(modifier, value, number)
        modifier.keyframe_insert(value, frame=frame)

    def flow(folder):
        # Not the first of a shot: that one comes out right, because Cycles has just met the object.
        frame = read_shot(passes.export_shot(scene, tmp_path / folder, beauty=False, frame_range=(1, 2))).frames[2]
        return np.abs(frame.flow_to_prev[np.linalg.norm(frame.normal, axis=-1) > 0]).max()

    assert flow("before") < 0.01
    assert mend(the(scene, "no motion")) == {"FINISHED"}
    assert flow("after") > 0.5
    assert not preflight.without_vectors(scene)


def test_modifiers_that_cycles_sees_are_not_complained_of(scene):
    """A Displace that stands still, one with an animated texture, one with a shape key beside it, one that is not rendered."""
    add_grid(scene, "Still").modifiers.new("Waves", "DISPLACE")
    textured = add_grid(scene, "Textured").modifiers.new("Waves", "DISPLACE")
    textured.texture = bpy.data.textures.new("Clouds", "CLOUDS")
    for frame, value in ((1, 0.2), (3, 2.0)):
        textured.texture.noise_scale = value
        textured.texture.keyframe_insert("noise_scale", frame=frame)
    keyed_displace(scene)
    scene.objects["Grid"].shape_key_add(name="Basis")
    keyed_displace(scene)
    scene.objects["Grid.001"].modifiers[0].show_render = False
    keyed_displace(scene)
    scene.objects["Grid.002"].hide_render = True
    move_evenly(scene.objects["Still"], range(1, 4), by=(1, 0, 0))
    assert not preflight.without_vectors(scene)


def test_a_simulation_that_ends_with_the_take_is_missing_in_its_last_passes(scene):
    """Baking by the button goes one frame further; what the user baked too short is said."""
    particles(scene)
    mend(the(scene, "is not baked"))
    cache = scene.objects["Fountain"].particle_systems[0].point_cache
    assert cache.is_baked and cache.frame_end == scene.frame_end + 1
    scene.frame_end += 1
    assert the(scene, f"bake it up to frame {scene.frame_end + 1}").severity == "warning"


def test_models(scene):
    status.override(status.Status("unreachable", models=MODELS))
    assert not [finding for finding in found(scene) if "model" in finding.message]
    scene.medm.prompt = "a horse"
    assert the(scene, "paints only terracotta").severity == "warning"
    for model, words in (("sd15", '"sd15" is not installed'), ("sdx", 'no model "sdx"')):
        scene.medm.model = model
        finding = the(scene, words)
        assert finding.severity == "error"
        mend(finding)
        assert scene.medm.model == "bundled"


@pytest.mark.parametrize(
    ("state", "severity", "fix"),
    [
        ("not_installed", "error", "medm.server_plan"),
        ("wrong_version", "error", "medm.server_plan"),
        ("unreachable", "error", "medm.server_test"),
        ("off", "info", "medm.server_start"),
    ],
)
def test_the_server_and_the_operator_that_mends_it(scene, state, severity, fix):
    status.override(status.Status(state, "so it is"))
    (finding,) = found(scene)
    assert (finding.severity, finding.fix) == (severity, fix)
    assert compat.has_operator(finding.fix)


def test_a_file_that_was_never_saved(fresh):
    add_camera(bpy.context.scene)
    finding = the(bpy.context.scene, "never saved")
    assert finding.severity == "info" and compat.has_operator(finding.fix)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is unwritable to root")
def test_a_folder_that_cannot_be_written(scene, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    scene.medm.folder = "//closed/takes"
    assert the(scene, "cannot be written").severity == "error"


def test_a_folder_that_is_a_file(scene, tmp_path):
    (tmp_path / "medm").write_text("not a folder")
    assert the(scene, "cannot be written").fix == "medm.folder_choose"
    bpy.ops.medm.folder_choose(directory=str(tmp_path / "takes"))
    assert not preflight.errors(found(scene))


def test_a_disk_that_is_too_small(scene):
    scene.medm.use_frame_range, scene.medm.frame_start, scene.medm.frame_end = True, 1, 1_000_000
    scene.medm.use_size, scene.medm.width, scene.medm.height = True, 8192, 8192
    assert the(scene, "The take needs about").severity == "error"


def test_not_enough_memory_is_the_servers_word(scene, server, monkeypatch):
    """Asked in a thread while drawing; a real server plans."""
    import time

    target = preflight.local_server.Target("local", store=server.store)
    monkeypatch.setattr(preflight.preferences, "target", lambda: target)
    status.override(status.Status("ready", models=MODELS, version="1"))
    assert not [finding for finding in found(scene) if finding.fix == "medm.size_smaller"]
    scene.frame_end, scene.medm.use_size, scene.medm.width, scene.medm.height = 5000, True, 8192, 4096
    deadline = time.monotonic() + 60
    while not (said := [finding for finding in preflight.check(scene) if finding.fix == "medm.size_smaller"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert said[0].severity == "warning" and "GB" in said[0].message
    mend(said[0])
    assert (scene.medm.width, scene.medm.height) == (6144, 3072)


def test_drawing_never_waits(scene, monkeypatch):
    """However slow the disk: what is not known yet is not said yet."""
    import threading
    import time

    gate = threading.Event()
    monkeypatch.setattr(preflight, "_look_at", lambda folder: gate.wait(20) and (False, 0))
    began = time.monotonic()
    assert not preflight.errors(preflight.check(scene))
    assert time.monotonic() - began < 0.5
    gate.set()
    deadline = time.monotonic() + 10
    while not preflight.errors(preflight.check(scene)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_scene_of_many_objects_is_looked_through_quickly(scene):
    import time

    mesh = bpy.data.meshes.new("Many")
    for number in range(3000):
        thing = bpy.data.objects.new(f"Thing {number}", mesh)
        scene.collection.objects.link(thing)
        if number % 3 == 0:
            thing.modifiers.new("Waves", "DISPLACE")
    preflight.check(scene, wait=True)
    began = time.perf_counter()
    preflight.check(scene)
    assert time.perf_counter() - began < 0.05

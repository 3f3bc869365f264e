"""What the manifest says about how objects move, and the rest coordinates of those that deform."""

from __future__ import annotations

import json
import math
import subprocess

import numpy as np
import OpenEXR
import pytest

pytest.importorskip("bpy")

import bpy

from medm_blender import passes
from medm_blender.object_motion import cryptomatte_id
from staging import add_bending_plane, add_camera, add_grid, add_plane, empty_file, move_evenly, read_exr, read_shot, slide

pytestmark = pytest.mark.bpy

# Murmur3 of the last two has an exponent that Cryptomatte changes: all zeros, all ones.
NAMES = ["A", "ab", "Cup", "Würfel.001", "茶碗 – groß", "p13", "p133"]


def exported(scene, folder, **options):
    """The shot of a scene, seen from above if it has no camera."""
    if not scene.camera:
        add_camera(scene)
    return read_shot(passes.export_shot(scene, folder, **{"beauty": False, **options}))


def objects_of(shot):
    return {thing["name"]: thing for thing in shot.manifest["objects"]}


def kinds_of(shot):
    return {name: thing["kind"] for name, thing in objects_of(shot).items()}


def test_ids_are_those_that_cryptomatte_writes(fresh, tmp_path):
    for number, name in enumerate(NAMES):
        add_plane(fresh, name, size=(0.8, 0.8), location=(number - 3, 0, 0))
    shot = exported(fresh, tmp_path / "shot", frame_range=(1, 1), size=(128, 80))
    rendered = np.ascontiguousarray(shot.frames[1].channels["CryptoObject00.r"]).view(np.int32)
    assert {thing["id"] for thing in shot.manifest["objects"]} == set(np.unique(rendered)) - {0}
    header = OpenEXR.File(str(shot.folder / "data/0001.exr"), header_only=True).header()
    listed = json.loads(next(value for key, value in header.items() if key.startswith("cryptomatte/") and key.endswith("/manifest")))
    plain = NAMES[:-2]  # what the header lists is not yet kept clear of those exponents
    assert {name: cryptomatte_id(name) & 0xFFFFFFFF for name in plain} == {name: int(listed[name], 16) for name in plain}


def test_ids_keep_clear_of_exponents_that_are_no_numbers():
    exponents = {name: cryptomatte_id(name) >> 23 & 255 for name in NAMES[-2:]}
    assert set(exponents.values()) == {1, 254}


@pytest.mark.parametrize("away", [1e20, -3e38])
def test_what_is_put_out_of_all_bounds_is_not_there(fresh, tmp_path, away):
    thing = add_plane(fresh, "Away", size=(2, 2))
    for frame, x in ((1, 0.0), (2, away), (3, 1.0)):
        thing.location.x = x
        thing.keyframe_insert("location", frame=frame)
    entry = objects_of(exported(fresh, tmp_path / "shot"))["Away"]
    assert entry["kind"] == "rigid"
    assert [matrix and matrix[3] for matrix in entry["matrices"]] == [0, None, 1]


def test_what_stands_and_what_moves(fresh, tmp_path):
    add_plane(fresh, "Floor")
    move_evenly(add_plane(fresh, "Car", size=(2, 2), location=(-2, 0, 1)), range(1, 4), by=(1, 0, 0))
    handle = bpy.data.objects.new("Handle", None)  # only moves what has it as its parent
    fresh.collection.objects.link(handle)
    move_evenly(handle, range(1, 4), turn=(0, 0.2, 0.1))
    handle.scale = (1, 2, 0.5)
    follower = add_plane(fresh, "Follower", size=(2, 3), location=(0, 1, 2), rotation=(0.2, 0.1, 0.4))
    follower.scale = (-1, 1, 1)
    follower.parent = handle
    shot = exported(fresh, tmp_path / "shot")
    assert kinds_of(shot) == {"Floor": "static", "Car": "rigid", "Follower": "rigid"}
    assert "matrices" not in objects_of(shot)["Floor"]
    for name, half in (("Car", (1, 1)), ("Follower", (1, 1.5))):
        thing = objects_of(shot)[name]
        assert len(thing["matrices"]) == 3
        for frame, matrix in zip(shot.frames.values(), thing["matrices"], strict=True):
            mine = frame.channels["CryptoObject00.r"].copy().view(np.int32) == thing["id"]
            assert mine.sum() > 20
            points = np.concatenate([frame.position[mine], np.ones((mine.sum(), 1))], axis=1)
            x, y, z, _ = np.linalg.inv(np.reshape(matrix, (4, 4))) @ points.T
            assert np.abs(z).max() < 1e-4  # the plane is flat in its own space
            assert np.abs(x).max() < half[0] + 1e-4
            assert np.abs(y).max() < half[1] + 1e-4
            assert (np.abs(x).max(), np.abs(y).max()) > (half[0] - 0.4, half[1] - 0.4)
    assert np.linalg.det(np.reshape(objects_of(shot)["Follower"]["matrices"][0], (4, 4))) < 0


def test_what_comes_and_goes_has_no_matrix_while_it_is_not_there(fresh, tmp_path):
    for name, by in (("Blinker", (1, 0, 0)), ("Lamp", (0, 0, 0))):
        plane = add_plane(fresh, name, size=(2, 2), location=(0, 3 if by[0] else -3, 0))
        move_evenly(plane, range(1, 4), by=by)
        for frame, hidden in ((1, False), (2, True), (3, False)):
            plane.hide_render = hidden
            plane.keyframe_insert("hide_render", frame=frame)
    shot = exported(fresh, tmp_path / "shot")
    assert kinds_of(shot) == {"Blinker": "rigid", "Lamp": "static"}
    assert [matrix is None for matrix in objects_of(shot)["Blinker"]["matrices"]] == [False, True, False]


def test_render_visibility_is_what_counts(fresh, tmp_path):
    """What the viewport hides is rendered all the same, and the other way round."""
    unseen = add_plane(fresh, "Not in the viewport", size=(2, 2))
    move_evenly(unseen, range(1, 4), by=(1, 0, 0))
    unseen.hide_viewport = True
    add_plane(fresh, "Not in the render").hide_render = True
    quiet = add_grid(fresh, "Bent in the render", location=(0, 3, 0))
    bend = quiet.modifiers.new("Bend", "SIMPLE_DEFORM")
    bend.show_viewport = False
    for frame in (1, 3):
        bend.angle = 0.3 * frame
        bend.keyframe_insert("angle", frame=frame)
    shot = exported(fresh, tmp_path / "shot")
    assert kinds_of(shot) == {"Not in the viewport": "rigid", "Bent in the render": "deforming"}


def test_instances(fresh, tmp_path):
    """One instance of a name has its place; of several nobody knows which of them a pixel shows, unless all of them stand still."""

    def collection(name):
        group = bpy.data.collections.new(name)
        plane = add_plane(fresh, name, size=(1, 1))
        fresh.collection.objects.unlink(plane)
        group.objects.link(plane)
        return group

    def place(group, location, by=(0, 0, 0)):
        empty = bpy.data.objects.new(group.name, None)
        empty.instance_type, empty.instance_collection, empty.location = "COLLECTION", group, location
        fresh.collection.objects.link(empty)
        move_evenly(empty, range(1, 4), by=by)

    single, pair, stones = collection("Single"), collection("Pair"), collection("Stones")
    place(single, (0, 0, 0), by=(0.5, 0, 0))
    place(pair, (-3, 2, 0))
    place(pair, (3, 2, 0), by=(0, 0.2, 0))
    place(stones, (-3, -2, 0))
    place(stones, (3, -2, 0))
    shot = exported(fresh, tmp_path / "shot")
    assert kinds_of(shot) == {"Single": "rigid", "Pair": "unknown", "Stones": "static"}
    assert [matrix[3] for matrix in objects_of(shot)["Single"]["matrices"]] == pytest.approx([0, 0.5, 1])


def test_particles_that_move_are_unknown(fresh, tmp_path):
    crumb = add_plane(fresh, "Crumb", size=(0.5, 0.5), location=(50, 0, 0))
    emitter = add_plane(fresh, "Emitter", size=(4, 4))
    emitter.modifiers.new("Crumbs", "PARTICLE_SYSTEM")
    settings = emitter.particle_systems[0].settings
    settings.count, settings.frame_start, settings.frame_end = 1, 1, 1
    settings.render_type, settings.instance_object, settings.particle_size = "OBJECT", crumb, 1.0
    crumb.hide_render = True
    assert kinds_of(exported(fresh, tmp_path / "shot")) == {"Emitter": "static", "Crumb": "unknown"}


def test_hair_is_unknown(fresh, tmp_path):
    head = add_plane(fresh, "Head", size=(4, 4))
    head.modifiers.new("Hair", "PARTICLE_SYSTEM")
    head.particle_systems[0].settings.type = "HAIR"
    assert kinds_of(exported(fresh, tmp_path / "shot", frame_range=(1, 1))) == {"Head": "unknown"}


def test_text_and_curves_move_as_meshes_do(fresh, tmp_path):
    for name, location, by in (("Title", (0, 2, 0), (0, 0, 0)), ("Credits", (0, -2, 0), (0, 0.5, 0))):
        curve = bpy.data.curves.new(name, "FONT")
        curve.body = name
        text = bpy.data.objects.new(name, curve)
        text.location = location
        fresh.collection.objects.link(text)
        move_evenly(text, range(1, 4), by=by)
    shot = exported(fresh, tmp_path / "shot")
    assert kinds_of(shot) == {"Title": "static", "Credits": "rigid"}
    rendered = np.ascontiguousarray(shot.frames[1].channels["CryptoObject00.r"]).view(np.int32)
    assert set(np.unique(rendered)) - {0} == {cryptomatte_id("Title"), cryptomatte_id("Credits")}


def test_true_displacement_is_unknown(fresh, tmp_path):
    """The renderer moves the surface by what only the renderer knows."""
    for name, method in (("Rock", "DISPLACEMENT"), ("Bumps", "BUMP")):
        material = bpy.data.materials.new(name)
        if material.node_tree is None:
            material.use_nodes = True
        output = next(node for node in material.node_tree.nodes if node.bl_idname == "ShaderNodeOutputMaterial")
        displacement = material.node_tree.nodes.new("ShaderNodeDisplacement")
        material.node_tree.links.new(displacement.outputs[0], output.inputs["Displacement"])
        material.displacement_method = method
        add_plane(fresh, name, size=(2, 2), location=(0, 3 if method == "BUMP" else -3, 0)).data.materials.append(material)
    assert kinds_of(exported(fresh, tmp_path / "shot", frame_range=(1, 2))) == {"Rock": "unknown", "Bumps": "static"}


def nodes_that_move(moving):
    """A geometry node group: Set Position by a place that follows the frame, or Set Shade Smooth, as Smooth by Angle has it."""
    group = bpy.data.node_groups.new("Nodes", "GeometryNodeTree")
    for direction in ("INPUT", "OUTPUT"):
        group.interface.new_socket("Geometry", in_out=direction, socket_type="NodeSocketGeometry")
    add, link = group.nodes.new, group.links.new
    source, sink = add("NodeGroupInput"), add("NodeGroupOutput")
    step = add("GeometryNodeSetPosition" if moving else "GeometryNodeSetShadeSmooth")
    link(source.outputs[0], step.inputs["Geometry"])
    link(step.outputs[0], sink.inputs[0])
    if moving:
        waves, growing, place, time = (
            add(name)
            for name in ("ShaderNodeVectorMath", "ShaderNodeVectorMath", "GeometryNodeInputPosition", "GeometryNodeInputSceneTime")
        )
        waves.operation, growing.operation = "SINE", "SCALE"
        link(place.outputs[0], waves.inputs[0])
        link(waves.outputs[0], growing.inputs[0])
        link(time.outputs["Seconds"], growing.inputs["Scale"])
        link(growing.outputs[0], step.inputs["Offset"])
    return group


def test_shapes_whose_rest_blender_does_not_keep_are_unknown(fresh, tmp_path):
    """Generated coordinates move along with Set Position, and say nothing where vertices come and go."""
    add_grid(fresh, "Nodes", location=(-3, 0, 0)).modifiers.new("Nodes", "NODES").node_group = nodes_that_move(moving=True)
    smooth = add_bending_plane(fresh, "Smooth", location=(3, 2, 0))
    smooth.modifiers.new("Smooth", "NODES").node_group = nodes_that_move(moving=False)
    build = add_grid(fresh, "Built", location=(3, -2, 0)).modifiers.new("Build", "BUILD")
    build.frame_start, build.frame_duration = 0, 10
    array = add_plane(fresh, "Copies", size=(1, 1)).modifiers.new("Array", "ARRAY")
    for frame in (1, 3):
        array.relative_offset_displace[0] = float(frame)
        array.keyframe_insert("relative_offset_displace", frame=frame)
    add_bending_plane(fresh, "Merged", location=(0, 4, 0)).modifiers.new("Mirror", "MIRROR")  # what slides off the middle is not merged
    kinds = kinds_of(exported(fresh, tmp_path / "shot"))
    assert kinds == {"Nodes": "unknown", "Smooth": "deforming", "Built": "unknown", "Copies": "unknown", "Merged": "unknown"}


def test_a_wave_that_only_the_subdivided_mesh_shows(fresh, tmp_path):
    """The four corners of the plane stay where they are."""
    plane = add_plane(fresh, "Pond", size=(8, 8))
    subdivision = plane.modifiers.new("Subdivision", "SUBSURF")
    subdivision.subdivision_type, subdivision.render_levels = "SIMPLE", 4
    hook = bpy.data.objects.new("Hook", None)
    fresh.collection.objects.link(hook)
    pull = plane.modifiers.new("Displace", "CAST")
    pull.cast_type, pull.object, pull.use_radius_as_size, pull.radius = "SPHERE", hook, True, 2.0
    for frame in (1, 3):
        pull.factor = 0.2 * frame
        pull.keyframe_insert("factor", frame=frame)
    shot = exported(fresh, tmp_path / "shot")
    assert kinds_of(shot) == {"Pond": "deforming"}


def test_subdivision_last_leaves_the_kinds_as_they_are(fresh, tmp_path):
    move_evenly(add_plane(fresh, "Mover", size=(2, 2), location=(-2, 1, 0.5)), range(1, 4), by=(1, 0, 0))
    add_bending_plane(fresh, "Bender", location=(0, -2, 0))
    for thing in ("Mover", "Bender"):
        bpy.data.objects[thing].modifiers.new("Subdivision", "SUBSURF").render_levels = 2
    shot = exported(fresh, tmp_path / "shot")
    assert kinds_of(shot) == {"Mover": "rigid", "Bender": "deforming"}
    # The data show it subdivided: a square of four corners has become round.
    round_off = (shot.frames[2].channels["CryptoObject00.r"].copy().view(np.int32) == cryptomatte_id("Mover")).sum()
    bpy.data.objects["Mover"].modifiers.clear()
    square = exported(fresh, tmp_path / "plain", frame_range=(2, 2)).frames[2].channels["CryptoObject00.r"].copy().view(np.int32)
    assert 0.3 < round_off / (square == cryptomatte_id("Mover")).sum() < 0.8


@pytest.fixture(scope="module")
def bending(tmp_path_factory):
    """Three frames of a bending square that also turns away, and of its flipped twin."""
    scene = empty_file()
    bender = add_bending_plane(scene, location=(-3, 0, 0))
    bender.modifiers.new("Subdivision", "SUBSURF").render_levels = 1
    bender.modifiers["Subdivision"].subdivision_type = "SIMPLE"
    move_evenly(bender, range(1, 4), turn=(0, 0.3, 0.2))
    add_plane(scene, "Flipped", size=(3, 3), location=(3, 0, 0), rotation=(math.pi, 0, 0))
    scene.view_layers.new("Other")
    return exported(scene, tmp_path_factory.mktemp("bending") / "shot", size=(96, 64), data_supersampling=3)


def test_rest_coordinates_stay_on_what_bends(bending):
    assert kinds_of(bending) == {"Bender": "deforming", "Flipped": "static"}
    places = []
    for number, frame in bending.frames.items():
        assert frame.entry["rest"] == f"rest/{number:04d}.exr"
        rest = read_exr(bending.folder / frame.entry["rest"])
        assert rest["Rest.R"].shape == (64, 96)
        mine = frame.channels["CryptoObject00.r"][1::3, 1::3].copy().view(np.int32) == cryptomatte_id("Bender")
        assert mine.sum() > 300
        x, y, z = (rest[f"Rest.{letter}"][mine].astype(float) * 4 - 2 for letter in "RGB")
        assert np.abs(z).max() < 1e-5  # flat: Blender puts it into the middle of its box
        angle = (number - 1) * np.array([0.3, 0.2])
        slid = x + slide(x) * (number - 1) / 2  # the key's value is eased, but 0, 0.5 and 1 at whole frames
        tilt, turn = angle
        world = np.stack(
            [slid * math.cos(tilt) * math.cos(turn) - y * math.sin(turn) - 3, slid * math.cos(tilt) * math.sin(turn) + y * math.cos(turn)],
            axis=-1,
        )
        error = np.linalg.norm(world - frame.position[1::3, 1::3][mine][:, :2], axis=-1)
        places.append((np.median(error), error.max()))
    assert np.max(places) < 0.02  # metres, of 4: the shape between vertices is straight


def test_rest_passes_show_the_surfaces_that_the_data_show(bending):
    for frame in bending.frames.values():
        rest = read_exr(bending.folder / frame.entry["rest"])
        np.testing.assert_allclose(rest["Depth.Z"], frame.channels["Depth.Z"][1::3, 1::3], rtol=1e-5)


def test_rest_passes_tell_backs_from_fronts(bending):
    frame = bending.frames[1]
    rest = read_exr(bending.folder / frame.entry["rest"])
    names = frame.channels["CryptoObject00.r"][1::3, 1::3].copy().view(np.int32)
    assert set(rest["RestSide.X"][names == cryptomatte_id("Flipped")]) == {1.0}
    assert set(rest["RestSide.X"][names == cryptomatte_id("Bender")]) == {0.0}


def test_nothing_that_deforms_no_rest_passes(fresh, tmp_path):
    move_evenly(add_plane(fresh, size=(2, 2)), range(1, 4), by=(1, 0, 0))
    shot = exported(fresh, tmp_path / "shot")
    assert [frame.entry["rest"] for frame in shot.frames.values()] == [None, None, None]
    assert not (shot.folder / "rest").exists()
    assert kinds_of(shot) == {"Plane": "rigid"}


READ = """
import json, sys
import numpy as np
from medm.shot import Shot

shot = Shot.open(sys.argv[1])
gbuffer = shot.gbuffer()
rest, fine = shot.rest(1, gbuffer), shot.fine(1)
known = ~np.isnan(rest.coordinates).any(axis=-1)
names = {number: thing.name for number, thing in shot.objects.items()}
print(json.dumps({
    "kinds": {thing.name: thing.kind for thing in shot.objects.values()},
    "seen": sorted(names[number] for number in np.unique(gbuffer.object_id[1]) if number),
    "known": float(known[~gbuffer.background[1]].mean()),
    "known background": bool(known[gbuffer.background[1]].any()),
    "back": sorted({names[number] for number in gbuffer.object_id[1][rest.back] if number}),
    "same": bool((fine.object_id[1::3, 1::3] == gbuffer.object_id[1]).all()),
}))
"""


def test_the_server_reads_what_was_exported(bending, server_python):
    done = subprocess.run([server_python, "-c", READ, bending.folder], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "kinds": {"Bender": "deforming", "Flipped": "static"},
        "seen": ["Bender", "Flipped"],
        "known": 1.0,
        "known background": False,
        "back": ["Flipped"],
        "same": True,
    }

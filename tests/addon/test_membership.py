"""Which collections the manifest says that objects are in, and what it calls the materials of the picture."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("bpy")

import bpy
import numpy as np

from medm_blender import passes
from staging import add_camera, add_plane, read_shot

pytestmark = pytest.mark.bpy


def collection(name, parent=None):
    made = bpy.data.collections.new(name)
    if parent is not None:
        parent.children.link(made)
    return made


def plane(scene, name, *collections, x=0.0):
    """A plane in these collections, and not in the Scene Collection."""
    thing = add_plane(scene, name, size=(2, 2), location=(x, 0, 0))
    scene.collection.objects.unlink(thing)
    for one in collections:
        one.objects.link(thing)
    return thing


def instancer(name, instanced, where):
    empty = bpy.data.objects.new(name, None)
    empty.instance_type, empty.instance_collection = "COLLECTION", instanced
    where.objects.link(empty)
    return empty


def collections_of(scene, folder):
    add_camera(scene)
    shot = passes.export_shot(scene, folder, beauty=False, size=(32, 24))
    return {thing["name"]: thing["collections"] for thing in json.loads((shot / "shot.json").read_text())["objects"]}


def test_an_object_is_in_its_collections_and_in_all_around_them(fresh, tmp_path):
    town = collection("Town", fresh.collection)
    street = collection("Street", town)
    cast = collection("Cast", fresh.collection)
    plane(fresh, "House", street)
    plane(fresh, "Lamp", street, cast, x=2)
    add_plane(fresh, "Ground")
    assert collections_of(fresh, tmp_path / "shot") == {"House": ["Street", "Town"], "Lamp": ["Cast", "Street", "Town"], "Ground": []}


def test_what_is_instanced_is_where_its_instancers_are(fresh, tmp_path):
    leaves, tree = collection("Leaves"), collection("Tree")
    twigs = collection("Twigs", tree)
    forest = collection("Forest", fresh.collection)
    plane(fresh, "Leaf", leaves)
    plane(fresh, "Trunk", tree)
    instancer("Leaves here", leaves, twigs)
    instancer("Tree here", tree, forest)
    found = collections_of(fresh, tmp_path / "shot")
    assert found == {"Leaf": ["Forest", "Leaves", "Tree", "Twigs"], "Trunk": ["Forest", "Tree"]}


def test_what_geometry_nodes_instance_is_where_they_do(fresh, tmp_path):
    stones, field = collection("Stones"), collection("Field", fresh.collection)
    plane(fresh, "Stone", stones)
    ground = plane(fresh, "Ground", field)
    group = bpy.data.node_groups.new("Scatter", "GeometryNodeTree")
    group.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    info, points, spread, end = (
        group.nodes.new(f"GeometryNode{kind}") if kind != "Output" else group.nodes.new("NodeGroupOutput")
        for kind in ("ObjectInfo", "Points", "InstanceOnPoints", "Output")
    )
    info.inputs["Object"].default_value = bpy.data.objects["Stone"]
    info.inputs["As Instance"].default_value = True
    group.links.new(points.outputs[0], spread.inputs["Points"])
    group.links.new(info.outputs["Geometry"], spread.inputs["Instance"])
    group.links.new(spread.outputs[0], end.inputs[0])
    ground.modifiers.new("Scatter", "NODES").node_group = group
    assert collections_of(fresh, tmp_path / "shot")["Stone"] == ["Field", "Stones"]


def test_what_appears_later_is_told_too(fresh, tmp_path):
    late = plane(fresh, "Late", collection("Act two", fresh.collection))
    for frame, hidden in ((1, True), (3, False)):
        late.hide_render = hidden
        late.keyframe_insert("hide_render", frame=frame)
    assert collections_of(fresh, tmp_path / "shot") == {"Late": ["Act two"]}


def test_materials_are_told_as_cryptomatte_writes_them(fresh, tmp_path):
    names = ["Clay", "Grün.001", "p13"]  # Murmur3 of the last has an exponent that Cryptomatte changes
    for place, name in enumerate(names):
        add_plane(fresh, f"Plane {place}", size=(2, 2), location=(3 * place - 3, 0, 0)).data.materials.append(bpy.data.materials.new(name))
    add_camera(fresh)
    shot = read_shot(passes.export_shot(fresh, tmp_path / "shot", beauty=False, frame_range=(1, 1), size=(64, 40)))
    told = {material["name"]: material["id"] for material in shot.manifest["materials"]}
    assert set(told) == set(names)
    channels = shot.frames[1].channels
    materials, objects = (np.ascontiguousarray(channels[f"Crypto{kind}00.r"]).view(np.int32) for kind in ("Material", "Object"))
    by_name = {thing["name"]: thing["id"] for thing in shot.manifest["objects"]}
    for place, name in enumerate(names):
        assert set(np.unique(materials[objects == by_name[f"Plane {place}"]])) == {told[name]}

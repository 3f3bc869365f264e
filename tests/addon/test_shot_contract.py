"""What an exported shot folder holds, on every Blender the add-on runs in."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bpy")

import bpy

from medm_blender import passes, scene_copies
from staging import add_camera, add_plane, empty_file, move_evenly, read_exr, read_png, read_shot, tilted_world

pytestmark = pytest.mark.bpy


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def shot(tmp_path_factory, steps):
    """Frames 9 to 10 of a scene at 50 % of 128x80, whose view layer's name holds a dot."""
    scene = empty_file()
    tilted_world(scene)
    camera = add_camera(scene, location=(0, -12, 6), rotation=(1.35, 0, 0), clip_start=0.5, clip_end=250.0)
    camera.scale = (2, 2, 2)
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 128, 80, 50
    scene.render.fps, scene.render.fps_base = 24, 1.001
    scene.view_layers[0].name = "Main.v2"
    scene.view_settings.exposure = 0.5
    scene.frame_start, scene.frame_end = 9, 10
    folder = tmp_path_factory.mktemp("contract") / "shot"
    returned = passes.export_shot(scene, folder, progress=lambda *step: steps.append(step))
    assert returned == folder
    return read_shot(folder)


def test_manifest_says_what_the_contract_says(shot):
    manifest = shot.manifest
    assert {key: manifest[key] for key in ("format", "version", "name", "frame_start", "frame_end", "width", "height")} == {
        "format": "medm-shot",
        "version": 1,
        "name": "Scene",
        "frame_start": 9,
        "frame_end": 10,
        "width": 64,
        "height": 40,
    }
    assert manifest["fps"] == pytest.approx(24 / 1.001)
    assert manifest["pixel_aspect"] == 1.0
    assert manifest["view_layer"] == "Main.v2"
    assert manifest["color"] == {"display_device": "sRGB", "view_transform": "AgX", "look": "None", "exposure": 0.5, "gamma": 1.0}
    assert manifest["versions"]["blender"] == ".".join(map(str, bpy.app.version))
    assert [entry["frame"] for entry in manifest["frames"]] == [9, 10]
    assert [entry["cut"] for entry in manifest["frames"]] == [True, False]
    assert manifest["frames"][1]["data"] == "data/0010.exr"
    assert manifest["frames"][1]["beauty"] == "beauty/0010.png"
    camera = manifest["frames"][0]["camera"]
    assert set(camera) == {"type", "world_to_camera", "projection", "clip_start", "clip_end"}
    assert (camera["type"], camera["clip_start"], camera["clip_end"]) == ("PERSP", 0.5, 250.0)
    assert np.shape(camera["world_to_camera"]) == np.shape(camera["projection"]) == (4, 4)


def test_the_folder_holds_the_shot_and_nothing_else(shot):
    files = sorted(str(file.relative_to(shot.folder)) for file in shot.folder.rglob("*") if file.is_file())
    assert files == ["beauty/0009.png", "beauty/0010.png", "data/0009.exr", "data/0010.exr", "shot.json"]


def test_data_has_every_pass_in_32_bit_at_the_shots_size(shot):
    channels = shot.frames[9].channels
    wanted = {
        f"{name}.{c}" for name, letters in {"Depth": "Z", "Position": "XYZ", "Normal": "XYZ", "Vector": "XYZW"}.items() for c in letters
    }
    wanted |= {f"Crypto{kind}00.{c}" for kind in ("Object", "Material") for c in "rgba"} | {f"Combined.{c}" for c in "RGBA"}
    assert set(channels) == wanted
    assert not any(channels[f"Combined.{c}"].any() for c in "RGB")  # black takes no room
    assert {pixels.dtype for pixels in channels.values()} == {np.dtype(np.float32)}
    assert {pixels.shape for pixels in channels.values()} == {(40, 64)}


def test_data_is_one_part(shot):
    import OpenEXR

    assert len(OpenEXR.File(str(shot.folder / "data/0009.exr"), separate_channels=True).parts) == 1


def test_normals_are_unit_and_zero_where_nothing_is(shot):
    lengths = np.linalg.norm(shot.frames[9].normal, axis=-1)
    background = shot.frames[9].channels["Depth.Z"] > 1e9
    assert 0.02 < background.mean() < 0.9
    assert np.all(lengths[background] == 0)
    np.testing.assert_allclose(lengths[~background], 1, atol=1e-5)


def test_object_ids_are_whole(shot):
    ids = np.ascontiguousarray(shot.frames[9].channels["CryptoObject00.r"]).view(np.int32)
    assert len(np.unique(ids)) == 3  # floor, wall, background
    coverage = shot.frames[9].channels["CryptoObject00.g"]
    assert set(np.unique(coverage)) <= {0.0, 1.0}


def test_beauty_is_8_bit_rgb_at_the_same_size(shot):
    header = (shot.folder / "beauty/0009.png").read_bytes()[:26]
    assert header[24:26] == bytes([8, 2])  # bit depth 8, colour type RGB
    assert read_png(shot.folder / "beauty/0009.png").shape == (40, 64, 3)


def test_progress_rises_to_one_and_names_the_phase(shot, steps):
    assert [phase for _, phase in steps] == ["look", "look", "data", "data", "beauty", "beauty"]
    assert [fraction for fraction, _ in steps] == pytest.approx([0.01, 0.02, 0.265, 0.51, 0.755, 1.0])


def moving_camera_shot(folder, supersampling):
    scene = empty_file()
    tilted_world(scene)
    move_evenly(bpy.data.objects["Wall"], range(0, 4), by=(0.2, 0.1, 0))
    camera = add_camera(scene, location=(0, -12, 7), rotation=(math.radians(72), 0, 0))
    move_evenly(camera, range(0, 4), by=(0.3, 0.2, 0.05), turn=(0.01, 0.005, 0.03))
    return read_shot(passes.export_shot(scene, folder, frame_range=(2, 2), data_supersampling=supersampling))


def test_finer_data_hold_the_pixel_centres_of_the_shot(tmp_path):
    plain, fine = (moving_camera_shot(tmp_path / str(scale), scale) for scale in (1, 3))
    assert (plain.manifest["data_scale"], fine.manifest["data_scale"]) == (1, 3)
    assert (fine.manifest["width"], fine.manifest["height"]) == (64, 40)
    assert fine.frames[2].entry["camera"] == plain.frames[2].entry["camera"]
    assert read_png(fine.folder / "beauty/0002.png").shape == (40, 64, 3)
    few, many = plain.frames[2].channels, fine.frames[2].channels
    assert {plane.shape for plane in many.values()} == {(120, 192)}
    seen = few["Depth.Z"] < 1e9
    assert 0.3 < seen.mean() < 1
    for name, plane in few.items():
        centres = many[name][1::3, 1::3]
        if name == "CryptoObject00.r":
            np.testing.assert_array_equal(centres.copy().view(np.int32), plane.copy().view(np.int32))
        elif name.startswith("Vector"):
            np.testing.assert_allclose(centres[seen] / 3, plane[seen], atol=1e-3)
        else:
            # Cycles puts its sample into the pixel's centre up to 1/2048 of a pixel, of whatever size.
            np.testing.assert_allclose(centres, plane, rtol=1e-4, atol=1e-3, err_msg=name)


def test_finer_data_are_diced_as_the_beauty_is(fresh):
    """Adaptive subdivision goes by the size of pixels: with smaller ones the surface would be another."""
    fresh.cycles.dicing_rate = 2.0
    with scene_copies.for_data(fresh, fresh.view_layers[0].name, (64, 40), 3) as (copy, _):
        assert (copy.cycles.dicing_rate, copy.render.resolution_x, fresh.cycles.dicing_rate) == (6.0, 192, 2.0)


def test_without_beauty_only_data_is_rendered(fresh, tmp_path):
    add_camera(fresh)
    add_plane(fresh)
    folder = passes.export_shot(fresh, tmp_path / "shot", beauty=False, frame_range=(2, 2), size=(32, 24), name="dressing room")
    manifest = json.loads((folder / "shot.json").read_text())
    assert manifest["name"] == "dressing room"
    assert [(entry["frame"], entry["beauty"]) for entry in manifest["frames"]] == [(2, None)]
    assert not (folder / "beauty").exists()
    assert read_exr(folder / "data/0002.exr")["Depth.Z"].shape == (24, 32)


def test_beauty_is_shown_through_the_users_view_transform(fresh, tmp_path):
    add_camera(fresh)
    world = bpy.data.worlds.new("Grey")
    fresh.world = world
    if world.node_tree is None:
        world.use_nodes = True
    next(n for n in world.node_tree.nodes if n.bl_idname == "ShaderNodeBackground").inputs["Color"].default_value = (0.5, 0.5, 0.5, 1)
    values = {}
    for transform in ("Standard", "Raw"):
        fresh.view_settings.view_transform = transform
        folder = passes.export_shot(fresh, tmp_path / transform, frame_range=(1, 1))
        values[transform] = int(read_png(folder / "beauty/0001.png")[20, 32, 0])
    assert values == {"Standard": 188, "Raw": 128}


def test_a_camera_bound_by_a_marker_makes_a_cut(fresh, tmp_path):
    add_plane(fresh)
    first, second = add_camera(fresh, "Wide"), add_camera(fresh, "Close", location=(0, 0, 5), type="ORTHO")
    for frame, camera in ((1, first), (3, second), (4, second)):
        fresh.timeline_markers.new(f"cut {frame}", frame=frame).camera = camera
    shot = read_shot(passes.export_shot(fresh, tmp_path / "shot", beauty=False, frame_range=(1, 5), size=(16, 16)))
    assert [shot.frames[frame].entry["cut"] for frame in range(1, 6)] == [True, False, True, False, False]
    assert [shot.frames[frame].entry["camera"]["type"] for frame in range(1, 6)] == ["PERSP", "PERSP", "ORTHO", "ORTHO", "ORTHO"]
    assert [round(float(shot.frames[frame].channels["Depth.Z"].min()), 3) for frame in (2, 3)] == [10.0, 5.0]


@pytest.mark.parametrize(
    ("scene_size", "expected"),
    [((1920, 1080), (768, 432)), ((1080, 1920), (432, 768)), ((384, 216), (384, 216)), ((2048, 858), (768, 320)), ((100, 100), (96, 96))],
)
def test_model_size_is_a_multiple_of_8_near_the_users_aspect(scene_size, expected):
    assert passes.model_size(*scene_size) == expected


def test_the_version_in_a_shot_is_the_extensions_own():
    manifest = tomllib.loads((Path(__file__).resolve().parents[2] / "blender_manifest.toml").read_text(encoding="utf-8"))
    assert manifest["version"] == passes.ADDON_VERSION


def test_a_shorter_export_leaves_no_frame_of_the_longer_one_before(fresh, tmp_path):
    add_camera(fresh)
    folder = passes.export_shot(fresh, tmp_path / "shot", frame_range=(1, 3), size=(16, 16))
    (folder / "beauty" / "0009.png").write_bytes(b"the user's own")
    passes.export_shot(fresh, folder, beauty=False, frame_range=(2, 2), size=(16, 16))
    assert sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.*")) == ["beauty/0009.png", "data/0002.exr", "shot.json"]

"""Shot folders: what is read, and what is refused with which words."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
import pytest
from PIL import Image

import synthetic
from medm.errors import BadInput
from medm.shot import Shot, frame_file


def refused(folder: Path, read: str = "open") -> str:
    with pytest.raises(BadInput) as caught:
        shot = Shot.open(folder)
        if read != "open":
            getattr(shot, read)()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("multipart", [False, True])
def test_passes_come_back_as_they_were_written(tmp_path: Path, multipart: bool) -> None:
    scene = synthetic.two_rectangles()
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", scene, multipart=multipart))
    read, expected = shot.gbuffer(), scene.gbuffer()
    for name in ("normal", "depth", "position", "flow_to_prev", "flow_to_next", "object_id", "background"):
        np.testing.assert_array_equal(getattr(read, name), getattr(expected, name), err_msg=name)
        assert getattr(read, name).dtype == getattr(expected, name).dtype
    assert len(shot) == 4
    assert shot.frame_numbers == [1, 2, 3, 4]
    assert shot.cuts.tolist() == [True, False, False, False]
    np.testing.assert_array_equal(shot.beauty(), scene.beauty())
    np.testing.assert_array_equal(shot.cameras[2].projection, scene.cameras[2].projection)


def test_vectors_follow_blenders_signs(tmp_path: Path) -> None:
    folder = synthetic.write_shot(tmp_path / "shot")
    channels = {f"View.Layer.{name}": np.ones((48, 64), np.float32) for name in ("Depth.Z", "CryptoObject00.r")}
    channels |= {f"View.Layer.{p}.{c}": np.ones((48, 64), np.float32) for p in ("Normal", "Position") for c in "XYZ"}
    channels |= {f"View.Layer.Vector.{c}": np.full((48, 64), v, np.float32) for c, v in zip("XYZW", (1, 2, 3, 4), strict=True)}
    synthetic.write_exr(folder / "data/0001.exr", channels)
    gbuffer = Shot.open(folder).gbuffer()
    assert gbuffer.flow_to_prev[0, 0, 0].tolist() == [1, -2]
    assert gbuffer.flow_to_next[0, 0, 0].tolist() == [-3, 4]
    assert gbuffer.object_id[0, 0, 0] == np.float32(1).view(np.int32)


def test_frames_before_zero_and_no_beauty(tmp_path: Path) -> None:
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", beauty=False, first_frame=-3))
    assert shot.frame_numbers == [-3, -2, -1, 0]
    assert frame_file(-3) == "-003.png"
    assert not shot.has_beauty
    shot.gbuffer()
    with pytest.raises(BadInput, match="no beauty of frame -3"):
        shot.beauty()


def test_cancelling_stops_reading(shot_folder: Path) -> None:
    class StopError(Exception):
        pass

    def stop(fraction: float, phase: str) -> None:
        raise StopError

    with pytest.raises(StopError):
        Shot.open(shot_folder).gbuffer(stop)


def test_not_a_shot_folder(tmp_path: Path) -> None:
    assert "is not a shot folder: it has no shot.json" in refused(tmp_path)
    assert "is not a shot folder" in refused(tmp_path / "nothing")
    (tmp_path / "shot.json").write_text("{")
    assert "is not a shot folder of ours: shot.json: Invalid JSON" in refused(tmp_path)
    (tmp_path / "shot.json").write_bytes(b"\xff\xfe\x00")
    assert "is not a shot folder of ours" in refused(tmp_path)
    (tmp_path / "shot.json").write_text('{"format": "other"}')
    assert "its format is not 'medm-shot'" in refused(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(version=2), "format version is 2, and this server reads version 1"),
        (lambda m: m.update(width=63), "63x48, but both sides must be multiples of 8"),
        (lambda m: m.update(width=800_000), "width: Input should be less than"),
        (lambda m: m.update(fps=0), "fps"),
        (lambda m: m.pop("view_layer"), "view_layer: Field required"),
        (lambda m: m.update(frames=[]), "frames"),
        (lambda m: m["frames"].pop(1), "frame step of 1"),
        (lambda m: m["frames"][1]["camera"].update(type="PANO"), "PANO: only perspective and orthographic"),
        (lambda m: m["frames"][1]["camera"].update(type="ORTHO"), "projection of frame 2 is not that of a ORTHO camera"),
        (lambda m: m["frames"][1]["camera"].update(world_to_camera=np.diag([2.0, 2, 2, 1]).tolist()), "frame 2 is not rigid"),
        (lambda m: m["frames"][1]["camera"].update(projection=[[1.0]]), "projection"),
        (lambda m: m["frames"][1]["camera"]["projection"][0].__setitem__(0, float("nan")), "finite number"),
        (lambda m: m["frames"][1].update(data="../0001.exr"), "outside of the shot folder"),
        (lambda m: m["frames"][1].update(data="/etc/passwd"), "outside of the shot folder"),
        (lambda m: m["frames"][1].update(beauty="C:\\x.png"), "outside of the shot folder"),
        (lambda m: m["frames"][1].update(data="data/a\0b"), "outside of the shot folder"),
        (lambda m: m["frames"][1].update(data="data/9999.exr"), "incomplete: data/9999.exr is missing"),
        (lambda m: m["frames"][1].update(rest="../0001.exr"), "outside of the shot folder"),
        (lambda m: m.update(data_scale=2), "data_scale: Input should be 1 or 3"),
        (lambda m: m.update(data_scale=3, width=4096), "data passes of 3 times 4096x48 are wider or higher than 8192 pixels"),
        (lambda m: m["objects"][0].update(kind="bending"), "objects.0.kind"),
        (lambda m: m["objects"][0].update(id=2**31), "objects.0.id"),
        (lambda m: m["objects"][0].update(id=0), "an object has id 0, which is the background's"),
        (lambda m: m["objects"][0].pop("matrices"), "the rigid object 'rectangle 101' has no matrices, and the shot 4 frames"),
        (lambda m: m["objects"][0]["matrices"].pop(), "the rigid object 'rectangle 101' has 3 matrices, and the shot 4 frames"),
        (lambda m: m["objects"][0]["matrices"][1].pop(), "objects.0.matrices.1"),
        (lambda m: m["objects"][0]["matrices"][1].__setitem__(3, float("nan")), "finite number"),
        (lambda m: m["objects"][0]["matrices"][1].__setitem__(3, float("inf")), "finite number"),
        (lambda m: m["objects"][0]["matrices"][1].__setitem__(3, 1e300), "does not place it in the world"),
        (lambda m: m["objects"][0]["matrices"][1].__setitem__(15, 2.0), "its last row must be 0 0 0 1"),
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, change, words: str) -> None:
    folder = synthetic.write_shot(tmp_path / "shot", objects=True)
    synthetic.change_manifest(folder, change)
    assert words in refused(folder)


def test_a_link_out_of_the_folder_is_refused(shot_folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.exr"
    shutil.copy(shot_folder / "data/0002.exr", outside)
    (shot_folder / "data/0002.exr").unlink()
    (shot_folder / "data/0002.exr").symlink_to(outside)
    assert "outside of the shot folder" in refused(shot_folder)


def test_missing_files(shot_folder: Path) -> None:
    (shot_folder / "beauty/0003.png").unlink()
    assert "incomplete: beauty/0003.png is missing; export the shot again" in refused(shot_folder)


@pytest.mark.parametrize("kind", ["text", "truncated", "empty", "directory bytes"])
def test_broken_exr(shot_folder: Path, kind: str) -> None:
    path = shot_folder / "data/0002.exr"
    whole = path.read_bytes()
    path.write_bytes(
        {"text": b"hello", "truncated": whole[: len(whole) // 2], "empty": b"", "directory bytes": whole[:600] + b"\0" * 900}[kind]
    )
    assert refused(shot_folder, "gbuffer") == "data/0002.exr cannot be read as an OpenEXR file; export the shot's data again"


def test_exr_with_more_channels_than_any_render_has(shot_folder: Path) -> None:
    plane = np.zeros((48, 64), np.float16)
    synthetic.write_exr(shot_folder / "data/0002.exr", {f"Layer.Pass{number}.X": plane for number in range(513)})
    assert "data/0002.exr has more than 512 channels" in refused(shot_folder, "gbuffer")


def test_exr_of_another_size(shot_folder: Path) -> None:
    channels = OpenEXR.File(str(shot_folder / "data/0002.exr"), separate_channels=True).channels()
    synthetic.write_exr(shot_folder / "data/0002.exr", {name: c.pixels[:40] for name, c in channels.items()})
    assert "data/0002.exr is 64x40, but shot.json says 64x48" in refused(shot_folder, "gbuffer")


@pytest.mark.parametrize("missing", ["Depth.Z", "Normal.Y", "Vector.W", "Position.X", "CryptoObject00.r"])
def test_exr_without_a_pass(shot_folder: Path, missing: str) -> None:
    channels = synthetic.channels_of(synthetic.two_rectangles().gbuffer(), 2, "View.Layer")
    del channels[f"View.Layer.{missing}"]
    synthetic.write_exr(shot_folder / "data/0003.exr", channels)
    message = refused(shot_folder, "gbuffer")
    assert message.startswith(f"data/0003.exr has no {missing.split('.')[0]} pass of view layer 'View.Layer'")


def test_exr_of_another_view_layer(shot_folder: Path) -> None:
    synthetic.change_manifest(shot_folder, lambda m: m.update(view_layer="Layer"))
    assert "has no Normal pass of view layer 'Layer'" in refused(shot_folder, "gbuffer")


def test_values_that_are_not_finite(shot_folder: Path) -> None:
    channels = synthetic.channels_of(synthetic.two_rectangles().gbuffer(), 1, "View.Layer")
    channels["View.Layer.Position.Y"][24, 32] = np.nan
    synthetic.write_exr(shot_folder / "data/0002.exr", channels)
    assert "data/0002.exr: the Position pass holds values that are not finite" in refused(shot_folder, "gbuffer")


def test_beauty_that_does_not_fit(shot_folder: Path) -> None:
    Image.new("RGB", (64, 40)).save(shot_folder / "beauty/0002.png")
    assert refused(shot_folder, "beauty") == "0002.png is 64x40, but the shot is 64x48"
    (shot_folder / "beauty/0002.png").write_bytes(b"no picture")
    assert "0002.png is not a picture that can be read" in refused(shot_folder, "beauty")
    Image.new("RGB", (64, 48), (9, 8, 7)).save(shot_folder / "beauty/0002.png")
    whole = (shot_folder / "beauty/0002.png").read_bytes()
    (shot_folder / "beauty/0002.png").write_bytes(whole[:60])
    assert "is not a picture that can be read" in refused(shot_folder, "beauty")


def test_alpha_is_left_out_of_the_beauty(shot_folder: Path) -> None:
    Image.new("RGBA", (64, 48), (9, 8, 7, 255)).save(shot_folder / "beauty/0002.png")
    assert Shot.open(shot_folder).beauty()[1, 5, 5].tolist() == [9, 8, 7]


def test_manifest_keys_that_a_newer_exporter_adds_are_ignored(shot_folder: Path) -> None:
    synthetic.change_manifest(shot_folder, lambda m: m.update(extra={"a": 1}))
    assert len(Shot.open(shot_folder)) == len(json.loads((shot_folder / "shot.json").read_text())["frames"])


@pytest.mark.parametrize("multipart", [False, True])
def test_finer_data_give_the_same_shot(tmp_path: Path, multipart: bool) -> None:
    scene = synthetic.two_rectangles()
    folder = synthetic.write_shot(tmp_path / "shot", scene, data_scale=3, multipart=multipart)
    shot, expected = Shot.open(folder), scene.gbuffer()
    read = shot.gbuffer()
    for name in ("normal", "depth", "position", "flow_to_prev", "flow_to_next", "object_id", "background"):
        seen = np.ones_like(expected.background) if "flow" not in name else ~expected.background
        np.testing.assert_allclose(getattr(read, name)[seen], getattr(expected, name)[seen], rtol=1e-5, atol=1e-4, err_msg=name)
        assert getattr(read, name).dtype == getattr(expected, name).dtype
    fine, whole = shot.fine(2), scene.gbuffer(3)
    assert fine is not None
    assert fine.scale == 3
    np.testing.assert_array_equal(fine.object_id, whole.object_id[2])
    np.testing.assert_array_equal(fine.depth, whole.depth[2])
    np.testing.assert_array_equal(fine.background, whole.background[2])
    np.testing.assert_array_equal(fine.flow_to_next, whole.flow_to_next[2] / np.float32(3))
    np.testing.assert_array_equal(fine.flow_to_next[1::3, 1::3], read.flow_to_next[2])
    assert (fine.object_id.dtype, fine.depth.dtype, fine.flow_to_next.dtype) == (np.int32, np.float32, np.float32)


def test_data_of_the_shots_own_size_have_nothing_finer(shot_folder: Path) -> None:
    assert Shot.open(shot_folder).fine(0) is None


def test_data_that_are_not_of_the_scale_that_is_told(shot_folder: Path) -> None:
    synthetic.change_manifest(shot_folder, lambda m: m.update(data_scale=3))
    assert "data/0001.exr is 64x48, but shot.json says 192x144" in refused(shot_folder, "gbuffer")


def test_rest_coordinates_stick_to_what_deforms(tmp_path: Path) -> None:
    scene = synthetic.sliding_rectangle()
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", scene, rest=True, objects=True))
    gbuffer = shot.gbuffer()
    assert {motion.name: motion.kind for motion in shot.objects.values()} == {"rectangle 101": "deforming", "rectangle 202": "static"}
    for t in range(len(shot)):
        rest = shot.rest(t, gbuffer)
        assert rest is not None
        slider = gbuffer.object_id[t] == 101
        assert slider.sum() > 100
        assert np.isnan(rest.coordinates[gbuffer.background[t]]).all()
        places = (rest.coordinates[slider, :2].astype(float) * 2 - 1) * scene.rectangles[0].half
        world = scene.moved(np.zeros(len(places), int), places, t)
        np.testing.assert_allclose(world, gbuffer.position[t][slider], atol=1e-5)
        assert not rest.back[slider].any()


def test_rest_coordinates_of_another_surface_are_unknown(tmp_path: Path) -> None:
    scene = synthetic.sliding_rectangle()
    folder = synthetic.write_shot(tmp_path / "shot", scene, rest=True)
    channels = synthetic.rest_channels(scene, 1, "View.Layer")
    channels["View.Layer.Depth.Z"][20, 30] *= 1.01
    channels["View.Layer.Depth.Z"][20, 31] = np.nan
    channels["View.Layer.Rest.G"][20, 32] = np.inf
    channels["View.Layer.RestSide.X"][20, 33] = 1
    synthetic.write_exr(folder / "rest/0002.exr", channels)
    shot = Shot.open(folder)
    gbuffer = shot.gbuffer()
    assert not gbuffer.background[1, 20, 29:34].any()
    rest = shot.rest(1, gbuffer)
    assert rest is not None
    assert np.isnan(rest.coordinates[20, 29:34]).any(axis=-1).tolist() == [False, True, True, True, False]
    assert rest.back[20, 29:34].tolist() == [False, False, False, False, True]


def test_a_shot_without_rest_coordinates(shot_folder: Path) -> None:
    shot = Shot.open(shot_folder)
    assert shot.rest(0, shot.gbuffer()) is None
    assert shot.objects == {}


def test_broken_rest_files(tmp_path: Path) -> None:
    folder = synthetic.write_shot(tmp_path / "shot", rest=True)
    shot = Shot.open(folder)
    gbuffer = shot.gbuffer()
    channels = synthetic.rest_channels(synthetic.two_rectangles(), 0, "View.Layer")
    synthetic.write_exr(folder / "rest/0001.exr", {name: plane[:40] for name, plane in channels.items()})
    with pytest.raises(BadInput, match=r"rest/0001\.exr is 64x40, but shot.json says 64x48"):
        shot.rest(0, gbuffer)
    del channels["View.Layer.Rest.B"]
    synthetic.write_exr(folder / "rest/0001.exr", channels)
    with pytest.raises(BadInput, match=r"rest/0001\.exr has no Rest pass of view layer 'View\.Layer'"):
        shot.rest(0, gbuffer)
    (folder / "rest/0002.exr").write_bytes(b"no EXR")
    with pytest.raises(BadInput, match=r"rest/0002\.exr cannot be read as an OpenEXR file"):
        shot.rest(1, gbuffer)
    (folder / "rest/0003.exr").unlink()
    assert "incomplete: rest/0003.exr is missing" in refused(folder)


def test_objects_come_with_their_matrices(tmp_path: Path) -> None:
    scene = synthetic.two_rectangles()
    blinking = replace(scene.rectangles[0], visible=lambda t: t != 2)
    scene = replace(scene, rectangles=[blinking, scene.rectangles[1]])
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", scene, objects=True))
    mover, wall = shot.objects[101], shot.objects[202]
    assert (mover.kind, wall.kind, wall.matrices) == ("rigid", "static", None)
    assert mover.matrices is not None
    for t in (0, 1, 3):
        np.testing.assert_array_equal(mover.matrices[t], blinking.pose(t))
    assert np.isnan(mover.matrices[2]).all()


def test_what_the_manifest_cannot_say_for_sure_is_unknown(tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        mover, wall = manifest["objects"]
        mover["matrices"][1][:12] = [0.0] * 12  # scaled away
        mover["matrices"][2][8:11] = mover["matrices"][2][4:7]  # flattened
        manifest["objects"] = [mover, wall, {**wall, "name": "another of the same id"}, {"id": -7, "name": "hair", "kind": "unknown"}]

    folder = synthetic.write_shot(tmp_path / "shot", objects=True)
    synthetic.change_manifest(folder, change)
    shot = Shot.open(folder)
    assert {number: motion.kind for number, motion in shot.objects.items()} == {101: "rigid", 202: "unknown", -7: "unknown"}
    assert shot.objects[101].matrices is not None
    assert np.isnan(shot.objects[101].matrices).all(axis=(1, 2)).tolist() == [False, True, True, False]


class TestCamera:
    @pytest.mark.parametrize("ortho", [None, 3.0])
    def test_rays_and_projection_are_inverse(self, ortho: float | None) -> None:
        view = synthetic.camera(synthetic.at(1, 2, 3, turn=(0.3, -0.5, 0.9)), 64, 48, lens=0.8, shift=(0.1, -0.2), ortho=ortho)
        assert view.orthographic == (ortho is not None)
        xy = np.random.default_rng(0).uniform(-5, 70, (50, 2))
        origins, directions = view.rays(xy)
        np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1)
        back, depth = view.project(origins + 7.0 * directions)
        np.testing.assert_allclose(back, xy, atol=1e-9)
        np.testing.assert_allclose(depth, (view.world_to_camera[2, :3] @ -directions.T) * 7.0, atol=1e-9)

    def test_known_pixels(self) -> None:
        view = synthetic.camera(np.eye(4), 64, 48, lens=0.5)  # at 1 unit the frame is 2 wide, so a pixel is 1/32
        np.testing.assert_allclose(view.project([0, 0, -1])[0], [31.5, 23.5])
        np.testing.assert_allclose(view.project([1 / 32, 0, -1])[0], [32.5, 23.5])
        np.testing.assert_allclose(view.project([0, 1 / 32, -1])[0], [31.5, 22.5])
        np.testing.assert_allclose(view.project([0, 0, -2.5])[1], 2.5)

    def test_points_behind_have_no_pixel(self) -> None:
        xy, depth = synthetic.camera(np.eye(4), 64, 48).project([0, 0, 1])
        assert np.isnan(xy).all()
        assert depth == -1

    def test_camera_normals(self) -> None:
        view = synthetic.camera(synthetic.at(5, 5, 5, turn=(np.pi / 2, 0, 0)), 64, 48)  # looks along +y, up is +z
        np.testing.assert_allclose(view.camera_normals([[0, -1, 0], [0, 0, 1], [1, 0, 0]]), [[0, 0, 1], [0, 1, 0], [1, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_multipart_exr_that_was_cut_short(tmp_path: Path, share: float) -> None:
    folder = synthetic.write_shot(tmp_path / "shot", multipart=True)
    whole = (folder / "data/0002.exr").read_bytes()
    (folder / "data/0002.exr").write_bytes(whole[: int(len(whole) * share)])
    assert "data/0002.exr cannot be read as an OpenEXR file" in refused(folder, "gbuffer")


def test_a_part_of_a_shot_is_a_shot(tmp_path):
    scene = synthetic.two_rectangles(length=6)
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", scene, objects=True, rest=True))
    whole, part = shot.gbuffer(), shot.part(2, 5)
    assert len(part) == 3 and part.frame_numbers == shot.frame_numbers[2:5]
    for one, other in (
        (part.gbuffer(), whole),
        (shot.gbuffer(frames=range(2, 5)), whole),
    ):
        for name, values in vars(one).items():
            np.testing.assert_array_equal(values, getattr(other, name)[2:5])
    np.testing.assert_array_equal(part.beauty(), shot.beauty()[2:5])
    np.testing.assert_array_equal(part.rest(1, part.gbuffer()).coordinates, shot.rest(3, whole).coordinates)
    for camera, expected in zip(part.cameras, shot.cameras[2:5], strict=True):
        np.testing.assert_array_equal(camera.world_to_camera, expected.world_to_camera)
    for number, motion in part.objects.items():
        assert motion.kind == shot.objects[number].kind
        if motion.matrices is not None:
            np.testing.assert_array_equal(motion.matrices, shot.objects[number].matrices[2:5])

"""MPI Sintel and Virtual KITTI 2 as shots: small folders in their formats, of scenes whose passes and occlusions are known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from medm import correspondence
from medm.cli import main
from medm.correspondence.background import NOWHERE, fill_background
from medm.datasets import open_clip
from medm.datasets.inverse import inverse_flow
from medm.datasets.vkitti import CLASS, read_flow
from medm.datasets.writing import write_shot
from medm.errors import BadInput, Unavailable
from medm.evaluate import evaluate
from medm.shot import Shot
from synthetic import Rectangle, Scene, at, camera

WIDTH, HEIGHT = 66, 52  # cropped to 64x48: one pixel at the left and right, two at the top and the bottom
CROP = (slice(2, 50), slice(1, 65))
LENGTH = 5
COMPUTER_VISION = np.diag([1.0, -1, -1, 1])  # y down, z forward


def scene(wall: tuple[float, float] = (20.0, 20.0)) -> Scene:
    """A mover before a wall that fills the frame, under a camera that moves and turns."""
    return Scene(
        [
            Rectangle(101, lambda t: at(-0.6 + 0.12 * t, 0.1, -3.0, turn=(0.0, 0.3, 0.1 * t)), half=(0.4, 0.5)),
            Rectangle(202, lambda t: at(0.3, 0.0, -6.0), half=wall),
        ],
        camera=lambda t: camera(at(0.05 * t, 0.0, 0.0, turn=(0.0, 0.01 * t, 0.0)), WIDTH, HEIGHT),
        length=LENGTH,
    )


def hidden_after(of: Scene, t: int) -> np.ndarray:
    """(H, W) bool, by ray casting: the point that a pixel of frame t shows is not in view in frame t+1."""
    last = of.length - 1
    turned: list[Rectangle] = [replace(r, pose=lambda t, r=r: r.pose(last - t)) for r in of.rectangles]
    return replace(of, rectangles=turned, camera=lambda t: of.camera(last - t)).hidden_before(last - t)


def hidden_in_crop(of: Scene, t: int) -> np.ndarray:
    """(48, 64) bool: the point that a pixel of frame t shows was hidden in frame t-1 or out of the cropped frame. Sky: False."""
    gbuffer = of.gbuffer()
    y, x = np.mgrid[:48, :64]
    there = np.stack([x, y], -1) + gbuffer.flow_to_prev[t][CROP]
    outside = ((there < -0.5) | (there >= [63.5, 47.5])).any(-1) & ~gbuffer.background[t][CROP]
    return np.asarray(of.hidden_before(t)[CROP] | outside)


def intrinsics() -> np.ndarray:
    """Of the scene's camera, whose focal length is its film's width."""
    return np.array([[WIDTH, 0, (WIDTH - 1) / 2], [0, WIDTH, (HEIGHT - 1) / 2], [0, 0, 1.0]])


def write_sintel(root: Path, of: Scene, geometry: bool = True) -> Path:
    """training/final/alley_9 and all that belongs to it; returns the folder of the pictures."""
    gbuffer, beauty = of.gbuffer(), of.beauty()

    def folder(kind: str) -> Path:
        path = root / "training" / kind / "alley_9"
        path.mkdir(parents=True, exist_ok=True)
        return path

    for t, view in enumerate(of.cameras):
        name = f"frame_{t + 1:04d}"
        Image.fromarray(beauty[t]).save(folder("final") / f"{name}.png")
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(folder("invalid") / f"{name}.png")
        if t + 1 < of.length:
            cv2.writeOpticalFlow(str(folder("flow") / f"{name}.flo"), gbuffer.flow_to_next[t])
            Image.fromarray(hidden_after(of, t).astype(np.uint8) * 255).save(folder("occlusions") / f"{name}.png")
        if geometry:
            header = np.array(202021.25, "<f4").tobytes()
            pixels = np.array([WIDTH, HEIGHT], "<i4").tobytes() + gbuffer.depth[t].astype("<f4").tobytes()
            (folder("depth") / f"{name}.dpt").write_bytes(header + pixels)
            matrices = intrinsics().tobytes() + (COMPUTER_VISION @ view.world_to_camera)[:3].tobytes()
            (folder("camdata_left") / f"{name}.cam").write_bytes(header + matrices)
    return folder("final")


CLASSES = {"Car": (200, 200, 200), "Building": (140, 140, 140), "Sky": (90, 200, 255)}


def write_vkitti(root: Path, of: Scene) -> Path:
    """Scene01/clone; returns it."""
    clip, gbuffer, beauty = root / "Scene01" / "clone", of.gbuffer(), of.beauty()

    def folder(kind: str) -> Path:
        path = clip / "frames" / kind / "Camera_0"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def flow_picture(flow: np.ndarray, valid: np.ndarray) -> np.ndarray:
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint16)  # for OpenCV: blue first
        scaled = (flow / [WIDTH - 1, HEIGHT - 1] + 1) / 2 * 65535
        picture[..., 2], picture[..., 1], picture[..., 0] = scaled[..., 0].round(), scaled[..., 1].round(), 65535
        picture[~valid] = 0
        return picture

    inner, outer = (
        ["frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]"],
        ["frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1"],
    )
    for t, view in enumerate(of.cameras):
        sky, ids = gbuffer.background[t], gbuffer.object_id[t]
        cv2.imwrite(str(folder("rgb") / f"rgb_{t:05d}.jpg"), beauty[t, ..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
        cv2.imwrite(str(folder("depth") / f"depth_{t:05d}.png"), np.where(sky, 65535, gbuffer.depth[t] * 100).round().astype(np.uint16))
        if t + 1 < of.length:
            cv2.imwrite(str(folder("forwardFlow") / f"flow_{t:05d}.png"), flow_picture(gbuffer.flow_to_next[t], ~sky))
        if t > 0:
            cv2.imwrite(str(folder("backwardFlow") / f"backwardFlow_{t:05d}.png"), flow_picture(gbuffer.flow_to_prev[t], ~sky))
        instances = Image.fromarray(np.where(ids == 101, 5, 0).astype(np.uint8), "P")
        instances.putpalette([level for index in range(256) for level in (index, 255 - index, 7)])
        instances.save(folder("instanceSegmentation") / f"instancegt_{t:05d}.png")
        colours = np.select(
            [sky[..., None], (ids == 101)[..., None]], [np.array(CLASSES["Sky"]), np.array(CLASSES["Car"])], np.array(CLASSES["Building"])
        )
        Image.fromarray(colours.astype(np.uint8)).save(folder("classSegmentation") / f"classgt_{t:05d}.png")
        for number in (0, 1):  # the right camera stands elsewhere
            pose = COMPUTER_VISION @ view.world_to_camera
            pose[0, 3] -= 0.5 * number
            k = intrinsics()
            inner.append(f"{t} {number} {k[0, 0]} {k[1, 1]} {k[0, 2]} {k[1, 2]}")
            outer.append(f"{t} {number} " + " ".join(str(value) for value in pose.ravel()))
    (clip / "intrinsic.txt").write_text("\n".join(inner) + "\n")
    (clip / "extrinsic.txt").write_text("\n".join(outer) + "\n")
    (clip / "colors.txt").write_text("Category r g b\n" + "".join(f"{name} {r} {g} {b}\n" for name, (r, g, b) in CLASSES.items()))
    return clip


def imported(clip: Path, out: Path, **options: int) -> Shot:
    return write_shot(open_clip(clip, **options), out)


def f1(found: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


class TestSintel:
    def test_what_is_shipped_comes_back_exactly_but_for_the_border(self, tmp_path: Path) -> None:
        of = scene()
        shot, expected = imported(write_sintel(tmp_path, of), tmp_path / "shot"), of.gbuffer()
        assert (shot.size, shot.frame_numbers, shot.manifest.fps) == ((64, 48), [1, 2, 3, 4, 5], 24)
        assert shot.manifest.versions["source"] == "MPI Sintel"
        np.testing.assert_array_equal(shot.beauty(), of.beauty()[:, *CROP])
        g = shot.gbuffer()
        np.testing.assert_array_equal(g.flow_to_next[:-1], expected.flow_to_next[:-1, *CROP])
        np.testing.assert_array_equal(g.depth, expected.depth[:, *CROP])
        np.testing.assert_allclose(g.position, expected.position[:, *CROP], atol=1e-4)
        assert (g.object_id == 1).all()
        assert not g.background.any()
        y, x = np.mgrid[:48, :64]
        for t, view in enumerate(shot.cameras):
            np.testing.assert_allclose(view.project(g.position[t])[0], np.stack([x, y], -1), atol=1e-3)

    def test_normals_derived_from_depth_are_those_of_the_surfaces(self, tmp_path: Path) -> None:
        of = scene()
        g, expected = imported(write_sintel(tmp_path, of), tmp_path / "shot").gbuffer(), of.gbuffer()
        np.testing.assert_allclose(np.linalg.norm(g.normal, axis=-1), 1, atol=1e-5)
        angles = np.degrees(np.arccos(np.clip((g.normal * expected.normal[:, *CROP]).sum(-1), -1, 1)))
        assert np.median(angles) < 0.1
        assert (angles > 1).mean() < 0.01  # corners, where no neighbour of the same surface is left

    def test_flow_back_is_the_inverse_of_the_flow_on(self, tmp_path: Path) -> None:
        of = scene()
        shot, expected = imported(write_sintel(tmp_path, of), tmp_path / "shot"), of.gbuffer()
        g = shot.gbuffer()
        for t in range(1, LENGTH):
            known = (g.flow_to_prev[t] != np.float32(NOWHERE)).all(-1)
            hidden = of.hidden_before(t)[CROP]
            assert f1(~known, hidden) > 0.9
            off = np.linalg.norm(g.flow_to_prev[t] - expected.flow_to_prev[t][CROP], axis=-1)[known & ~hidden]
            assert np.median(off) < 1e-3
            assert (off > 0.05).mean() < 0.01

    @pytest.mark.parametrize("geometry", [True, False])
    def test_correspondences_are_those_of_the_scene(self, tmp_path: Path, geometry: bool) -> None:
        of = scene()
        clip = open_clip(write_sintel(tmp_path, of, geometry))
        shot = write_shot(clip, tmp_path / "shot")
        assert any("the shot is flat" in note for note in clip.notes) is not geometry
        found = correspondence.analyse(shot, shot.gbuffer())
        for t in range(1, LENGTH):
            assert f1(found.occluded[t], hidden_in_crop(of, t)) > (0.88 if geometry else 0.75)
        # Every pixel's own point on its rectangle, against that of the pixel that its code was born in.
        points = np.stack([np.column_stack(of.hits(t)[1:3]).reshape(HEIGHT, WIDTH, 3)[CROP] for t in range(LENGTH)])
        birth = points[found.codes.birth_frame, *found.codes.birth_xy.round().astype(int).T[::-1]]
        off = np.abs(points - birth[found.codes.codes])
        assert (off[..., 0] > 0).mean() < 0.01  # of another rectangle
        assert np.median(off[..., 1:].max(-1)) < 6 / WIDTH  # within a pixel, in the distance of the wall
        take = tmp_path / "take"
        shutil.copytree(shot.folder / "beauty", take / "frames")
        metrics = evaluate(shot, take)["take"]
        assert metrics["warping_error"] < 3e-3  # type: ignore[index]
        assert metrics["code_spread"] < 3e-3  # type: ignore[index]

    def test_pixels_whose_flow_is_invalid_lead_nowhere(self, tmp_path: Path) -> None:
        of = scene()
        pictures = write_sintel(tmp_path, of)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[30:40, 30:40] = 255
        Image.fromarray(mask).save(tmp_path / "training/invalid/alley_9/frame_0002.png")
        g = imported(pictures, tmp_path / "shot").gbuffer()
        assert (g.flow_to_next[1, 28:38, 29:39] == np.float32(NOWHERE)).all()
        assert (g.flow_to_prev[2, 31:36, 31:36] == np.float32(NOWHERE)).all()  # a pixel or so of motion aside
        assert (g.flow_to_next[2] != np.float32(NOWHERE)).all()

    def test_part_of_a_scene(self, tmp_path: Path) -> None:
        of = scene()
        shot = imported(write_sintel(tmp_path, of), tmp_path / "shot", first=2, last=4)
        assert shot.frame_numbers == [2, 3, 4]
        np.testing.assert_array_equal(shot.gbuffer().flow_to_next[0], of.gbuffer().flow_to_next[1][CROP])

    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (lambda root: (root / "occlusions/alley_9/frame_0002.png").unlink(), r"occlusions/alley_9/frame_0002\.png is missing"),
            (lambda root: (root / "flow/alley_9/frame_0002.flo").write_bytes(b"PIEHs"), r"frame_0002\.flo is not a \.flo file"),
            (lambda root: (root / "depth/alley_9/frame_0003.dpt").write_bytes(b"x" * 90), r"frame_0003\.dpt is not a \.dpt file"),
            (lambda root: (root / "camdata_left/alley_9/frame_0003.cam").write_bytes(b"x"), r"frame_0003\.cam is not a \.cam file"),
            (lambda root: (root / "camdata_left/alley_9/frame_0003.cam").unlink(), r"frame_0003\.cam cannot be read: No such file"),
            (lambda root: (root / "final/alley_9/frame_0003.png").unlink(), "lacks frame 3; flow joins neighbouring frames only"),
            (lambda root: (root / "final/alley_9/frame_0003.png").write_bytes(b"x"), r"frame_0003\.png is not a picture that can be read"),
            (lambda root: Image.new("L", (9, 9)).save(root / "final/alley_9/frame_0001.png"), "is not a picture in colour"),
            (
                lambda root: Image.new("RGB", (9, 9)).save(root / "final/alley_9/frame_0001.png"),
                "the files of frame 1 of .* different sizes",
            ),
        ],
    )
    def test_folders_that_are_refused(self, tmp_path: Path, spoil: Callable[[Path], object], words: str) -> None:
        pictures = write_sintel(tmp_path, scene())
        spoil(tmp_path / "training")
        with pytest.raises(BadInput, match=words):
            imported(pictures, tmp_path / "shot")
        assert not (tmp_path / "shot/shot.json").exists()


class TestVirtualKitti:
    def test_what_is_shipped_comes_back(self, tmp_path: Path) -> None:
        of = scene(wall=(2.6, 1.6))  # so that sky is in view
        shot, expected = imported(write_vkitti(tmp_path, of), tmp_path / "shot"), of.gbuffer()
        assert (shot.size, shot.frame_numbers, shot.manifest.fps) == ((64, 48), [0, 1, 2, 3, 4], 10)
        assert np.abs(shot.beauty().astype(int) - of.beauty()[:, *CROP]).mean() < 6  # JPEG
        g, sky = shot.gbuffer(), expected.background[:, *CROP]
        assert sky.any()
        np.testing.assert_array_equal(g.background, sky)
        np.testing.assert_allclose(g.depth[~sky], expected.depth[:, *CROP][~sky], atol=0.0051)  # whole centimetres
        np.testing.assert_allclose(g.position[~sky], expected.position[:, *CROP][~sky], atol=0.006)
        step = np.array([WIDTH - 1, HEIGHT - 1]) / 65535 * 1.01
        assert (np.abs(g.flow_to_next - expected.flow_to_next[:, *CROP])[:-1][~sky[:-1]] <= step).all()
        assert (np.abs(g.flow_to_prev - expected.flow_to_prev[:, *CROP])[1:][~sky[1:]] <= step).all()
        mover, wall = (expected.object_id[:, *CROP] == number for number in (101, 202))
        assert (g.object_id[mover] == 5).all()
        assert (g.object_id[wall] == CLASS + 0x8C8C8C).all()
        assert {motion.name: motion.kind for motion in shot.objects.values()} == {"vehicle 4": "unknown", "Building": "static"}
        angles = np.degrees(np.arccos(np.clip((g.normal * expected.normal[:, *CROP]).sum(-1), -1, 1)))[~sky]
        assert np.median(angles) < 5  # a centimetre of depth is much at three metres

    def test_correspondences_are_those_of_the_same_scene_from_blender(self, tmp_path: Path) -> None:
        of = scene(wall=(2.6, 1.6))
        shot = imported(write_vkitti(tmp_path, of), tmp_path / "shot")
        found = correspondence.analyse(shot, shot.gbuffer())
        expected = of.gbuffer()
        to_prev, _ = fill_background(expected.flow_to_prev, expected.flow_to_next, expected.background, of.cameras)
        np.testing.assert_allclose(found.flow_to_prev[1:], to_prev[1:, *CROP], atol=0.01)
        for t in range(1, LENGTH):
            surface = ~shot.gbuffer().background[t]
            assert f1(found.occluded[t] & surface, hidden_in_crop(of, t)) > 0.9

    def test_the_other_camera_has_its_own_pose_and_files(self, tmp_path: Path) -> None:
        clip = write_vkitti(tmp_path, scene())
        with pytest.raises(BadInput, match=r"rgb/Camera_1 has none of the frames that are asked for"):
            imported(clip, tmp_path / "shot", camera=1)
        for kind in (clip / "frames").iterdir():
            shutil.copytree(kind / "Camera_0", kind / "Camera_1")
        left, right = (imported(clip, tmp_path / f"shot{number}", camera=number).cameras[0] for number in (0, 1))
        np.testing.assert_allclose(right.position - left.position, [0.5, 0, 0], atol=1e-9)

    def test_without_segmentation_all_is_one_thing_of_which_nothing_is_known(self, tmp_path: Path) -> None:
        clip = write_vkitti(tmp_path, scene())
        for kind in ("instanceSegmentation", "classSegmentation"):
            shutil.rmtree(clip / "frames" / kind)
        opened = open_clip(clip)
        shot = write_shot(opened, tmp_path / "shot")
        assert [(motion.name, motion.kind) for motion in shot.objects.values()] == [("everything", "unknown")]
        assert any("Without instanceSegmentation" in note for note in opened.notes)

    def test_flow_that_is_not_known(self, tmp_path: Path) -> None:
        picture = np.full((4, 6, 3), 32768, np.uint16)
        picture[1, 2, 0] = 0  # blue
        cv2.imwrite(str(tmp_path / "flow.png"), picture)
        flow = read_flow(tmp_path / "flow.png")
        assert (flow[1, 2] == np.float32(NOWHERE)).all()
        np.testing.assert_allclose(np.delete(flow.reshape(-1, 2), 8, axis=0), 0, atol=1e-3)

    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (lambda clip: (clip / "intrinsic.txt").unlink(), r"intrinsic\.txt cannot be read"),
            (lambda clip: (clip / "extrinsic.txt").write_text("frame\n0 0 a"), r"extrinsic\.txt is not a table of numbers"),
            (lambda clip: (clip / "extrinsic.txt").write_text("frame\n0 0 1 2"), r"extrinsic\.txt: every line must have 18 numbers"),
            (lambda clip: (clip / "intrinsic.txt").write_text("frame\n0 0 1 1 1 1"), "says nothing of frame 1, camera 0"),
            (lambda clip: shutil.rmtree(clip / "frames/backwardFlow"), r"backwardFlow_00001\.png is missing"),
            (
                lambda clip: Image.new("RGB", (66, 52)).save(clip / "frames/forwardFlow/Camera_0/flow_00001.png"),
                r"flow_00001\.png is no flow: it must be a PNG of 16 bits with three channels",
            ),
            (
                lambda clip: Image.new("RGB", (66, 52)).save(clip / "frames/instanceSegmentation/Camera_0/instancegt_00001.png"),
                "must hold one number a pixel, not RGB",
            ),
        ],
    )
    def test_folders_that_are_refused(self, tmp_path: Path, spoil: Callable[[Path], object], words: str) -> None:
        clip = write_vkitti(tmp_path, scene())
        spoil(clip)
        with pytest.raises(BadInput, match=words):
            imported(clip, tmp_path / "shot")

    def test_flows_that_contradict_each_other_are_refused(self, tmp_path: Path) -> None:
        """As when backward flow were numbered by the frame that it leads to."""
        of = scene()
        fast = replace(of, camera=lambda t: camera(at(0.3 * t * t, turn=(0, 0.01 * t, 0)), WIDTH, HEIGHT))
        clip = write_vkitti(tmp_path, fast)
        folder = clip / "frames/backwardFlow/Camera_0"
        for number in range(1, LENGTH):
            (folder / f"backwardFlow_{number:05d}.png").rename(folder / f"backwardFlow_{number - 1:05d}.png")
        shutil.copy(folder / "backwardFlow_00000.png", folder / "backwardFlow_00004.png")
        with pytest.raises(BadInput, match=r"backwardFlow_00001\.png does not lead back along flow_00000\.png"):
            imported(clip, tmp_path / "shot")


class TestInverse:
    @pytest.mark.parametrize("zoom", [0.8, 1.0, 1.3])
    def test_a_zoom_and_a_turn_are_undone(self, zoom: float) -> None:
        y, x = np.mgrid[:40, :60].astype(float)
        matrix = zoom * np.array([[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]])
        centre = np.array([30, 20])
        places = np.stack([x, y], -1) - centre
        on = (places @ (matrix - np.eye(2)).T).astype(np.float32)
        back = inverse_flow(on, np.ones((40, 60), bool))
        exact = places @ (np.linalg.inv(matrix) - np.eye(2)).T
        there = np.stack([x, y], -1) + exact
        inside = ((there >= 0) & (there <= [59, 39])).all(-1)
        assert (back[inside] != np.float32(NOWHERE)).all()
        np.testing.assert_allclose(back[inside], exact[inside], atol=2e-3)
        outside = ((there < -1) | (there > [60, 40])).any(-1)
        assert (back[outside] == np.float32(NOWHERE)).all()

    def test_nothing_comes_from_pixels_that_are_not_usable(self) -> None:
        on = np.zeros((8, 8, 2), np.float32)
        usable = np.ones((8, 8), bool)
        usable[2:5, 2:5] = False
        back = inverse_flow(on, usable)
        np.testing.assert_array_equal((back == np.float32(NOWHERE)).all(-1), ~usable)
        assert (inverse_flow(on, np.zeros((8, 8), bool)) == np.float32(NOWHERE)).all()
        on[6, 6] = np.nan
        assert (inverse_flow(on, usable)[6, 6] == np.float32(NOWHERE)).all()


def test_the_command_makes_a_shot_that_the_other_commands_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = write_sintel(tmp_path, scene())
    assert main(["import", str(pictures), "-o", str(tmp_path / "shot"), "--first", "1", "--last", "4"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'shot'}\n"
    assert "medm_progress 1 import" in printed.err
    assert "note: Flow to the frame before is the inverse" in printed.err
    shutil.copytree(tmp_path / "shot/beauty", tmp_path / "take/frames")
    assert main(["evaluate", str(tmp_path / "shot"), str(tmp_path / "take"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 4
    assert main(["codes", str(tmp_path / "shot"), "-o", str(tmp_path / "codes.npz"), "--coding", "rounded", "--anchor", "last"]) == 0
    assert main(["inspect", str(tmp_path / "shot"), "-o", str(tmp_path / "page")]) == 0


def test_folders_that_are_no_clip_or_not_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(tmp_path), "-o", str(tmp_path / "shot")]) == 2
    assert "is no clip of a dataset that is known: give training/final/SCENE of MPI Sintel" in capsys.readouterr().err
    pictures = write_sintel(tmp_path, scene())
    assert main(["import", str(pictures), "-o", str(tmp_path)]) == 2
    assert "is not empty; choose another folder" in capsys.readouterr().err
    with pytest.raises(BadInput, match="has none of the frames that are asked for"):
        imported(pictures, tmp_path / "shot", first=90)
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="the shot cannot be written to"):
        imported(pictures, tmp_path / "file/shot")

"""`medm inspect` on whole shot folders: each warning provoked and absent, a page that keeps to itself, pictures that mean what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import medm
import synthetic
from medm.cli import main
from medm.correspondence import Codes
from medm.diffusion.control import KINDS
from medm.inspection import views
from medm.inspection.checks import ranges
from medm.inspection.sheets import chosen_frames, sheet
from medm.shot import GBuffer
from synthetic import Rectangle, Scene, at, camera, change_manifest, sliding_rectangle, two_rectangles, write_shot


@dataclass(frozen=True)
class Spoilt(Scene):
    """A scene whose passes are not what they should be."""

    spoil: Callable[[GBuffer], Any] = lambda _: None

    def gbuffer(self, scale: int = 1) -> GBuffer:
        result = super().gbuffer(scale)
        self.spoil(result)
        return result


def spoilt(scene: Scene, spoil: Callable[[GBuffer], Any]) -> Spoilt:
    return Spoilt(scene.rectangles, scene.camera, scene.length, scene.cuts, spoil)


def inspected(shot: Path) -> dict[str, Any]:
    out = shot.parent / "inspected"
    assert main(["inspect", str(shot), "-o", str(out)]) == 0
    figures: dict[str, Any] = json.loads((out / "numbers.json").read_text())
    return figures


def warnings(shot: Path) -> dict[str, dict[str, Any]]:
    """By kind; checks on the way that each is one line."""
    found = inspected(shot)["warnings"]
    assert all("\n" not in warning["message"] for warning in found)
    assert len({warning["kind"] for warning in found}) == len(found)
    return {warning["kind"]: warning for warning in found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "shot"


@pytest.mark.parametrize("told", [True, False], ids=["with objects", "without objects"])
@pytest.mark.parametrize("scene", [two_rectangles(), sliding_rectangle()], ids=["rigid", "deforming"])
def test_a_healthy_shot_has_no_warnings(folder: Path, scene: Scene, told: bool) -> None:
    assert warnings(write_shot(folder, scene, objects=told, rest=told)) == {}


def test_a_healthy_orthographic_shot_with_finer_data_has_no_warnings(folder: Path) -> None:
    scene = replace(two_rectangles(), camera=lambda t: camera(at(0.05 * t, turn=(0, 0, 0.02 * t)), 64, 48, ortho=5.0))
    assert warnings(write_shot(folder, scene, objects=True, data_scale=3)) == {}


def nothing_moves() -> Scene:
    scene = two_rectangles()
    return replace(
        scene, camera=lambda _: camera(at(), 64, 48), rectangles=[replace(r, pose=lambda _, r=r: r.pose(0)) for r in scene.rectangles]
    )


def zero_all(gbuffer: GBuffer) -> None:
    gbuffer.flow_to_prev[:] = 0
    gbuffer.flow_to_next[:] = 0


@pytest.mark.parametrize("told", [True, False])
def test_motion_blur_left_on_is_said_once(folder: Path, told: bool) -> None:
    found = warnings(write_shot(folder, spoilt(two_rectangles(), zero_all), objects=told))
    assert found["motion_blur"]["message"].startswith("All motion vectors are zero, though things move: turn off Motion Blur")
    assert found["motion_blur"]["frames"] == [2, 3, 4]
    assert not {"zero_vectors", "frozen_deformation"} & found.keys()


def test_zero_vectors_where_nothing_moves_are_right(folder: Path) -> None:
    assert warnings(write_shot(folder, spoilt(nothing_moves(), zero_all), objects=True)) == {}


def test_some_frames_with_motion_blur(folder: Path) -> None:
    def spoil(gbuffer: GBuffer) -> None:
        gbuffer.flow_to_prev[2] = 0

    found = warnings(write_shot(folder, spoilt(two_rectangles(), spoil)))
    assert found["motion_blur"]["frames"] == [3]
    assert "of frame 3 are zero" in found["motion_blur"]["message"]


def spoil_mover(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[GBuffer], None]:
    def spoil(gbuffer: GBuffer) -> None:
        mover = gbuffer.object_id == 101
        gbuffer.flow_to_prev[mover] = change(gbuffer.flow_to_prev[mover])
        gbuffer.flow_to_next[mover] = -change(-gbuffer.flow_to_next[mover])

    return spoil


def test_zero_vectors_on_something_that_moves(folder: Path) -> None:
    scene = spoilt(two_rectangles(), spoil_mover(lambda flow: 0 * flow))
    found = warnings(write_shot(folder, scene, objects=True, first_frame=10))
    assert found.keys() == {"zero_vectors"}
    assert found["zero_vectors"]["message"].startswith("'rectangle 101': vectors are zero in frames 11-13, though it moves")
    assert (found["zero_vectors"]["objects"], found["zero_vectors"]["frames"]) == (["rectangle 101"], [11, 12, 13])


def test_vectors_that_are_not_what_the_matrices_say(folder: Path) -> None:
    found = warnings(write_shot(folder, spoilt(two_rectangles(), spoil_mover(lambda flow: flow + 2)), objects=True))
    assert found["wrong_vectors"]["objects"] == ["rectangle 101"]
    assert "vectors and matrices disagree in frames 2-4" in found["wrong_vectors"]["message"]


@pytest.mark.parametrize(("half", "number", "mentioned"), [(0.5, 60, False), (0.5, 80, True), (0.18, 15, False), (0.18, 17, True)])
def test_vectors_that_contradict_are_mentioned_from_16_pixels_and_a_fifth_of_an_object_on(
    folder: Path, half: float, number: int, mentioned: bool
) -> None:
    def spoil(gbuffer: GBuffer) -> None:
        row, column = (place[:number] for place in np.nonzero(gbuffer.object_id[2] == 101))
        assert len(row) == number
        gbuffer.flow_to_prev[2, row, column] += 0.9

    mover, wall = two_rectangles().rectangles
    scene = replace(two_rectangles(), rectangles=[replace(mover, half=(0.8 * half, half)), wall])
    assert ("wrong_vectors" in warnings(write_shot(folder, spoilt(scene, spoil), objects=True))) == mentioned


def test_an_object_that_was_not_there_before_needs_no_vectors(folder: Path) -> None:
    """Blender writes 0 there. It comes into view, and nothing is wrong."""
    scene = two_rectangles()
    mover = replace(scene.rectangles[0], visible=lambda t: t >= 2)
    assert warnings(write_shot(folder, replace(scene, rectangles=[mover, scene.rectangles[1]]), objects=True)) == {}


@pytest.mark.parametrize("told", [True, False], ids=["said to deform", "nothing said"])
@pytest.mark.parametrize("turn", [0.0, 0.02], ids=["still camera", "turning camera"])
def test_a_surface_that_moves_without_its_vectors_knowing(folder: Path, told: bool, turn: float) -> None:
    """As under a Displace modifier: the mesh comes closer, and the vectors say what the camera's motion alone would."""

    def view(t: float) -> synthetic.Camera:
        return camera(at(turn=(0, turn * t, 0)), 64, 48)

    wall = Rectangle(7, lambda t: at(z=-4 + 0.2 * t), half=(1.5, 1.0))
    scene = Scene([wall, Rectangle(8, lambda _: at(z=-9.0), half=(8.0, 8.0))], camera=view)

    def spoil(gbuffer: GBuffer) -> None:
        grid = np.stack(np.meshgrid(np.arange(64), np.arange(48)), -1)
        for t in range(4):
            own = gbuffer.object_id[t] == 7
            for flow, other in ((gbuffer.flow_to_prev, t - 1), (gbuffer.flow_to_next, t + 1)):
                flow[t][own] = (view(other).project(gbuffer.position[t])[0] - grid)[own]

    write_shot(folder, spoilt(scene, spoil), objects=told)
    if told:
        change_manifest(folder, lambda manifest: manifest["objects"][0].update(kind="deforming", name="Sea", matrices=None))
    frozen = warnings(folder)["frozen_deformation"]
    assert frozen["objects"] == ["Sea" if told else "object 00000007"]
    assert frozen["frames"] == [2, 3, 4]
    assert "Displace" in frozen["message"]


def test_the_rest_pass_tells_of_deformations_that_stay_in_the_surface(folder: Path) -> None:
    """Position cannot see a surface slide along itself."""
    scene = sliding_rectangle()
    slider = replace(scene.rectangles[0], slide=lambda t: -0.2 + 0.15 * t)
    stiff = replace(scene, rectangles=[replace(slider, slide=lambda _: 0.0), scene.rectangles[1]]).gbuffer()

    def spoil(gbuffer: GBuffer) -> None:
        own = gbuffer.object_id == 101
        gbuffer.flow_to_prev[own], gbuffer.flow_to_next[own] = stiff.flow_to_prev[own], stiff.flow_to_next[own]

    sliding = replace(scene, rectangles=[slider, scene.rectangles[1]])
    assert warnings(write_shot(folder, sliding, objects=True, rest=True)) == {}
    found = warnings(write_shot(folder.with_name("other"), spoilt(sliding, spoil), objects=True, rest=True))
    assert found["frozen_deformation"]["objects"] == ["rectangle 101"]


def test_passes_that_disagree(folder: Path) -> None:
    def spoil(gbuffer: GBuffer) -> None:
        gbuffer.flow_to_next[1][gbuffer.object_id[1] == 202] += 4

    found = warnings(write_shot(folder, spoilt(two_rectangles(), spoil)))
    assert found["disagreement"]["frames"] == [3]
    assert found["disagreement"]["objects"] == ["object 000000ca"]
    assert found["disagreement"]["message"].startswith("'object 000000ca': vectors there and back miss each other in frame 3.")


def test_vectors_that_are_not_numbers(folder: Path) -> None:
    found = warnings(
        write_shot(folder, spoilt(two_rectangles(), lambda gbuffer: gbuffer.flow_to_prev[2, 20:24].fill(np.nan)), objects=True)
    )
    assert found["broken_vectors"]["frames"] == [3]
    assert "vectors are not numbers in frame 3" in found["broken_vectors"]["message"]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_vectors_beyond_all_bounds_are_survived(folder: Path) -> None:
    def spoil(gbuffer: GBuffer) -> None:
        rng = np.random.default_rng(0)
        for flow in (gbuffer.flow_to_prev, gbuffer.flow_to_next):
            broken = rng.random(flow.shape) < 0.05
            flow[broken] = rng.choice(np.array([np.nan, np.inf, -np.inf, 3e38, -1e30], np.float32), broken.sum())

    assert "broken_vectors" in warnings(write_shot(folder, spoilt(two_rectangles(), spoil), objects=True))


def test_objects_smaller_than_a_pixel(folder: Path) -> None:
    scene = two_rectangles(length=6)
    specks = [Rectangle(900 + n, lambda t, n=n: at(-0.8 + 0.3 * n + 0.03 * t, -0.6, -3.0), half=(0.02, 0.02)) for n in range(7)]
    found = warnings(write_shot(folder, replace(scene, rectangles=[*specks, *scene.rectangles]), objects=True))
    assert found.keys() == {"tiny_objects"}
    assert len(found["tiny_objects"]["objects"]) > 5
    assert found["tiny_objects"]["message"].startswith("'rectangle 900', 'rectangle 901', ")
    assert f" and {len(found['tiny_objects']['objects']) - 5} more: fewer than 4 pixels in frames " in found["tiny_objects"]["message"]


def test_frames_without_any_surface(folder: Path) -> None:
    scene = two_rectangles()
    hidden = [replace(rectangle, visible=lambda t: t != 2) for rectangle in scene.rectangles]
    found = warnings(write_shot(folder, replace(scene, rectangles=hidden), objects=True))
    assert found["no_surface"]["frames"] == [3]
    assert found["no_surface"]["message"].startswith("Nothing but background in frame 3:")


def test_a_cut_that_nothing_marks(folder: Path) -> None:
    scene = two_rectangles()
    behind = Rectangle(303, lambda _: at(z=9.0), half=(9.0, 9.0))

    def view(t: float) -> synthetic.Camera:
        return camera(at(turn=(0, np.pi if t >= 2 else 0.0, 0)), 64, 48)

    jumping = replace(scene, rectangles=[*scene.rectangles, behind], camera=view)
    assert warnings(write_shot(folder, jumping))["unmarked_cut"]["frames"] == [3]
    marked = write_shot(folder.with_name("marked"), replace(jumping, cuts=(0, 2)))
    assert warnings(marked) == {}
    assert inspected(marked)["cuts"] == [3]


def test_a_shot_without_beauty_objects_or_surface(folder: Path) -> None:
    """And of one frame: as little as a shot can be."""
    figures = inspected(write_shot(folder, Scene([], length=1), beauty=False))
    assert [warning["kind"] for warning in figures["warnings"]] == ["no_surface"]
    assert figures["longest_motion"] is None and figures["occluded_share"] is None
    assert figures["objects"] == []


def test_the_numbers(folder: Path) -> None:
    """A wall that fills the frame, under a camera that moves by 2 pixels a frame: what comes into view are 2 of 64 columns."""
    scene = Scene(
        [Rectangle(5, lambda _: at(z=-6.0), half=(30.0, 30.0))], camera=lambda t: camera(at(x=2 * 6.0 / 64 * t), 64, 48), length=6
    )
    figures = inspected(write_shot(folder, scene, objects=True, first_frame=100))
    assert figures["frames"] == {"first": 100, "last": 105, "count": 6, "fps": 24.0}
    assert (figures["width"], figures["height"], figures["has_beauty"], figures["cuts"]) == (64, 48, True, [])
    assert figures["longest_motion"]["pixels"] == pytest.approx(2, abs=1e-3)
    assert figures["longest_motion"]["object"] == "rectangle 5"
    assert figures["occluded_share"] == pytest.approx(2 / 64)
    assert figures["codes"] == 48 * (64 + 5 * 2)
    assert figures["codes_per_pixel"] == pytest.approx((64 + 10) / (64 * 6))
    assert figures["mean_frames_per_code"] == pytest.approx(6 * 64 / (64 + 10))
    assert figures["revived_share"] == 0
    assert [frame["frame"] for frame in figures["per_frame"]] == list(range(100, 106))
    assert [frame["cut"] for frame in figures["per_frame"]] == [True] + [False] * 5
    assert figures["objects"] == [{"name": "rectangle 5", "id": 5, "kind": "static", "share": 1.0, "frames": 6}]


def test_codes_that_come_back_are_counted(folder: Path) -> None:
    """A board passes before a wall: what it hid is known again."""
    wall = Rectangle(1, lambda _: at(z=-6.0), half=(30.0, 30.0))
    board = Rectangle(2, lambda t: at(x=-1.6 + 0.4 * t, z=-3.0), half=(0.25, 3.0))
    figures = inspected(write_shot(folder, Scene([board, wall], camera=lambda _: camera(at(), 64, 48), length=9), objects=True))
    assert 0.3 < figures["revived_share"] <= 1
    assert max(frame["revived_share"] for frame in figures["per_frame"]) > 0.05
    assert figures["warnings"] == []


class _Page(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\n\x1b[2J{0}{objects}"


def test_hostile_names_stay_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shot(folder, spoilt(two_rectangles(), spoil_mover(lambda flow: 0 * flow)), objects=True)

    def rename(manifest: dict[str, Any]) -> None:
        manifest["name"] = HOSTILE
        manifest["objects"][0]["name"] = HOSTILE

    change_manifest(folder, rename)
    inspected(folder)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert len(printed.splitlines()) == 2  # the warning, and where the page is
    page = _Page()
    page.feed((folder.parent / "inspected" / "index.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    assert "x" not in {attributes.get("src") for _, attributes in page.tags}
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count("<script>alert(1)</script>") >= 3  # title, heading, warning: shown as what they are
    assert "'<script>alert(1)</script>\"'><img src=x onerror=alert(2)> [2J{0}{objects}': vectors are zero" in page.text


def test_the_page_asks_for_nothing_from_outside_and_all_its_pictures_are_there(folder: Path) -> None:
    inspected(write_shot(folder))
    out = folder.parent / "inspected"
    text = (out / "index.html").read_text()
    page = _Page()
    page.feed(text)
    assert "//" not in text.replace("<!DOCTYPE", "") and "url(" not in text and "@import" not in text
    files = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
    assert files == ["overview.mp4", "flow.png", "occlusion.png", "codes.png", "codes.mp4", "length.png", "control.png"]
    assert all((out / str(file)).is_file() for file in files)
    assert "Nothing found that would spoil a take." in page.text


def test_what_would_be_painted_is_shown_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shot(folder, objects=True)
    out = folder.parent / "inspected"
    assert main(["inspect", str(folder), "-o", str(out), "--paint", "rectangle 101"]) == 0
    page = _Page()
    page.feed((out / "index.html").read_text())
    assert next(attributes["src"] for _, attributes in page.tags if "src" in attributes) == "mask.png"
    assert (out / "mask.png").is_file()
    capsys.readouterr()
    assert main(["inspect", str(folder), "-o", str(out), "--paint", "rectangle 102"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("medm: no object of the shot is called 'rectangle 102'; did you mean 'rectangle 202' or 'rectangle 101'?")
    assert error.count("\n") == 1  # before anything was worked out


def test_a_mask_is_orange_where_it_is_painted_and_the_picture_where_it_is_not() -> None:
    base = np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8)
    coverage = np.array([[0, 1, 0.5], [0, 0, 1]], np.float32)
    picture = views.mask_picture(base, coverage)
    assert np.array_equal(picture[coverage == 0], base[coverage == 0])
    assert (picture[coverage == 1][:, 0] > picture[coverage == 1][:, 2]).all()


def test_the_control_sheet_has_a_row_for_every_kind(folder: Path) -> None:
    inspected(write_shot(folder))
    with Image.open(folder.parent / "inspected" / "control.png") as image:
        columns, rows = 4, len(KINDS)
        cell = 64 * (400 // 64), 48 * (400 // 64)
        assert image.width == columns * (cell[0] + 10) + 10
        assert image.height > rows * cell[1]
        assert image.height < (rows + 1) * (cell[1] + 80)


def test_the_videos_have_all_frames(folder: Path) -> None:
    inspected(write_shot(folder, two_rectangles(length=5)))
    for name in ("overview.mp4", "codes.mp4"):
        with av.open(str(folder.parent / "inspected" / name)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == 5
        assert all(frame.std() > 10 for frame in frames)


@pytest.mark.parametrize("what", ["no folder", "no shot", "a broken pass", "a beauty of another size"])
def test_bad_input_is_said_in_one_line(folder: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    if what == "no shot":
        folder.mkdir()
    elif what != "no folder":
        write_shot(folder)
        if what == "a broken pass":
            (folder / "data" / "0002.exr").write_bytes(b"not an EXR")
        else:
            Image.new("RGB", (32, 32)).save(folder / "beauty" / "0002.png")
    assert main(["inspect", str(folder), "-o", str(folder.parent / "out")]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("medm_progress ")]
    assert len(error) == 1 and error[0].startswith("medm: ")


def test_a_folder_that_cannot_be_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shot(folder)
    (folder.parent / "taken").write_text("a file")
    assert main(["inspect", str(folder), "-o", str(folder.parent / "taken")]) == 3
    assert "the pictures cannot be written to" in capsys.readouterr().err


def test_progress_rises_to_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspected(write_shot(folder))
    shares = [float(line.split()[1]) for line in capsys.readouterr().err.splitlines()]
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_pythons_own_inspect_is_not_hidden_when_the_command_is_run_as_a_file() -> None:
    cli = Path(medm.__file__).with_name("cli.py")
    ended = subprocess.run([sys.executable, str(cli), "inspect", "--help"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "index.html" in ended.stdout


def test_the_wheels_colours() -> None:
    flow = np.array([[[0, 0], [4, 0], [8, 0], [-4, 0], [np.nan, 0], [2, 0]]], np.float32)
    still, right, faster, left, unknown, slow = (tuple(colour) for colour in views.flow_picture(flow, 4.0)[0].tolist())
    assert still == (255, 255, 255)
    assert right == faster == (255, 0, 0)
    assert left == (0, 255, 255)
    assert unknown == views.UNKNOWN
    assert slow == (255, 128, 128)
    legend = np.asarray(views.wheel(4.0, 120))
    middle = 60
    assert (legend[middle, middle - 2 : middle + 2] > 240).all()
    assert legend[middle, 60 + 40, 0] == 255 and legend[middle, 60 + 40, 1] < 60  # right is red in the legend too
    assert (legend[:, 130:].max(axis=(1, 2)) > 150).any()  # the words


def test_a_code_keeps_its_colour_and_its_neighbours_have_others() -> None:
    grid = np.arange(64 * 64, dtype=np.int32).reshape(64, 64)
    codes = Codes(
        np.stack([grid, np.roll(grid, 5, axis=1)]), grid.size, np.zeros(grid.size, np.int32), np.zeros((grid.size, 2), np.float32)
    )
    y, x = np.divmod(np.arange(grid.size), 64)
    codes = replace(codes, birth_xy=np.stack([x, y], -1).astype(np.float32))
    first, second = (views.code_picture(codes, t, np.ones((64, 64), np.float32)) for t in (0, 1))
    np.testing.assert_array_equal(np.roll(first, 5, axis=1), second)
    assert (first[:, 1:] != first[:, :-1]).any(axis=-1).mean() > 0.95
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 2000


def test_occlusion_is_orange_over_grey() -> None:
    base = np.full((2, 2, 3), (200, 10, 10), np.uint8)
    picture = views.occlusion_picture(base, np.array([[True, False], [False, False]]))
    assert picture[0, 0, 0] > 180 and picture[0, 0, 2] < 40
    assert len(set(picture[1, 1].tolist())) == 1


def test_a_clay_picture_tells_objects_apart_though_they_face_the_same_way() -> None:
    sky = np.array([[False, False, True]])
    clay = views.shaded_picture(np.ones((1, 3), np.float32), sky, np.array([[5, -6, 0]], np.int32))[0, :, 0].tolist()
    assert len(set(clay)) == 3 and clay[2] < min(clay[:2])


def test_heat_goes_from_violet_to_yellow() -> None:
    picture = views.heat_picture(np.array([[0, 12, 24, 99]], np.int32), 24)[0].tolist()
    assert picture[0][2] > picture[0][1] and picture[2][0] > 240 and picture[2][2] < 60
    assert picture[3] == picture[2]


def test_sheets_show_first_and_last_frame_and_their_pixels() -> None:
    assert chosen_frames(5) == [0, 1, 2, 3, 4]
    assert chosen_frames(100, 3) == [0, 50, 99] or chosen_frames(100, 3) == [0, 49, 99]
    pictures = [np.full((20, 400, 3), shade, np.uint8) for shade in (50, 100, 150, 200, 250)]
    page = np.asarray(sheet({"": pictures}, [f"frame {n}" for n in range(5)]))
    assert [page[20, 10 + 410 * n + 200, 0] for n in range(4)] == [50, 100, 150, 200]
    assert page.shape[1] == 4 * 410 + 10


def test_runs_of_frames_are_shortened() -> None:
    assert ranges([7]) == "7"
    assert ranges([3, 4, 5, 9]) == "3-5, 9"
    assert ranges([1, 3, 5, 7, 9, 11, 12, 20]) == "1, 3, 5, 7, 9, and 3 more"

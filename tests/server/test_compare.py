"""Takes beside each other: the pictures, the table, and what is refused. Through the command and through `medm.compare`."""

import json

import numpy as np
import pytest
from PIL import Image

import synthetic
from medm.cli import main
from medm.compare import compare
from medm.errors import BadInput, Unavailable
from medm.evaluate import METRICS
from medm.shot import Shot


@pytest.fixture
def takes(shot_folder, tmp_path):
    """Two takes of the shot: the beauty itself, and the beauty under noise that is new in every frame."""
    random = np.random.default_rng(0)
    for name, noise in (("steady", 0), ("noisy", 60)):
        folder = tmp_path / name / "frames"
        folder.mkdir(parents=True)
        for path in (shot_folder / "beauty").glob("*.png"):
            frame = np.asarray(Image.open(path)).astype(int) + random.integers(-noise, noise + 1, (48, 64, 3))
            Image.fromarray(frame.clip(0, 255).astype(np.uint8)).save(folder / path.name)
    return {"steady": tmp_path / "steady", "noisy": tmp_path / "noisy"}


def test_takes_are_measured_and_shown_beside_the_beauty(shot_folder, takes, tmp_path):
    told = []
    metrics = compare(Shot.open(shot_folder), takes, tmp_path / "out/deep", lambda *report: told.append(report))
    assert list(metrics) == ["beauty", "steady", "noisy"]
    assert metrics["steady"] == metrics["beauty"]
    assert metrics["noisy"]["warping_error"] > 10 * metrics["steady"]["warping_error"]
    assert metrics["noisy"]["code_spread"] > metrics["steady"]["code_spread"]
    assert [fraction for fraction, _ in told] == sorted(fraction for fraction, _ in told)
    assert told[-1] == (1.0, "done")
    sizes = {}
    for name in ("contact_sheet.png", "scan.png"):
        with Image.open(tmp_path / "out/deep" / name) as picture:
            sizes[name] = picture.size
    assert sizes["contact_sheet.png"][0] > 4 * 64 and sizes["contact_sheet.png"][1] > 3 * 48
    assert sizes["scan.png"][1] > 3 * 48
    assert (tmp_path / "out/deep/preview.mp4").stat().st_size > 0


def test_without_a_beauty_the_takes_alone_are_compared(takes, tmp_path):
    folder = synthetic.write_shot(tmp_path / "bare", beauty=False)
    assert list(compare(Shot.open(folder), {"one": takes["steady"]}, tmp_path / "out")) == ["one"]


def test_the_command_prints_the_table_and_json(shot_folder, takes, tmp_path, capsys):
    (tmp_path / "w=0.8").symlink_to(takes["steady"])
    given = [f"steady={tmp_path / 'w=0.8'}", f"noisy={takes['noisy']}"]
    assert main(["compare", str(shot_folder), *given, "-o", str(tmp_path / "out")]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["beauty", "steady", "noisy"]
    assert main(["compare", str(shot_folder), *given, "-o", str(tmp_path / "out"), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["noisy"]) == set(METRICS)


@pytest.mark.parametrize("given", [["take"], ["=take"], ["a="], ["a=x", "a=y"]])
def test_takes_without_a_label_of_their_own_are_bad_input(shot_folder, tmp_path, capsys, given):
    assert main(["compare", str(shot_folder), *given, "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"medm: {given[-1]!r} does not name a take; write LABEL=FOLDER, every label once\n"
    assert not (tmp_path / "out").exists()


def test_the_label_of_the_beauty_is_taken(shot_folder, takes, tmp_path):
    with pytest.raises(BadInput, match="the label beauty means the shot's own render"):
        compare(Shot.open(shot_folder), {"beauty": takes["steady"]}, tmp_path / "out")


def test_a_take_of_another_shot_is_bad_input(shot_folder, takes, tmp_path):
    shot = Shot.open(shot_folder)
    with pytest.raises(BadInput, match="is not a take: it has no folder frames"):
        compare(shot, {"none": tmp_path}, tmp_path / "out")
    (takes["noisy"] / "frames/0003.png").unlink()
    with pytest.raises(BadInput, match=r"does not match the shot: frames/0003\.png missing"):
        compare(shot, takes, tmp_path / "out")
    Image.new("RGB", (32, 32)).save(takes["noisy"] / "frames/0003.png")
    with pytest.raises(BadInput, match="32"):
        compare(shot, takes, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_said_in_one_line(shot_folder, takes, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(Unavailable, match=r"the pictures cannot be written to .*out: File exists"):
        compare(Shot.open(shot_folder), takes, tmp_path / "out")

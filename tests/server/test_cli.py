"""The command `medm` as scripts call it: exit codes, one-line errors, flags, progress."""

import json
import os
import shutil
import socket
import subprocess
import sys
import termios

import numpy as np
import pytest

import synthetic
from medm.cli import main
from medm.correspondence import analyse
from medm.settings import RenderSettings
from medm.shot import Shot
from quick_server import write_quick_model


def medm(*arguments):
    return subprocess.run([sys.executable, "-m", "medm.cli", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_a_port_in_use_is_said_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = medm("serve", "--port", port, "--store", tmp_path)
    assert ended.returncode == 3
    assert (
        ended.stderr == f"medm: port {port} of 127.0.0.1 cannot be used (Address already in use); choose another with --port, 0 for any\n"
    )


@pytest.mark.parametrize("arguments", [("--port", "70000"), ("--host", "no such host")])
def test_an_address_that_is_none_is_bad_input(tmp_path, arguments, capsys):
    assert main(["serve", "--store", str(tmp_path), *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"medm: {arguments[0]} {arguments[1]}")


def test_a_token_file_of_ones_own_is_made_for_oneself_alone_and_too_short_ones_are_refused(tmp_path):
    token = tmp_path / "secret"
    arguments = ["serve", "--port", "0", "--store", tmp_path / "store", "--token-file", token, "--stop-when-stdin-closes"]
    ended = medm_without_input(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text().strip() not in ended.stdout
    token.write_text("short")
    ended = medm_without_input(*arguments)
    assert ended.returncode == 2
    assert "shorter than 16 characters" in ended.stderr


def medm_without_input(*arguments):
    command = [sys.executable, "-m", "medm.cli", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def test_every_setting_is_a_flag_of_render(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["render", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in RenderSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in text
    assert "--no-tiny-autoencoder" in text
    assert "{detail,feathered,mean,off}" in text


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--w", "2"), "w: Input should be less than or equal to 1"),
        (("--steps", "many"), "steps: 'many' is no whole number"),
        (("--w", "nan"), "w: 'nan' is no number"),
    ],
)
def test_a_setting_out_of_range_is_bad_input(tmp_path, flags, says):
    ended = medm("render", tmp_path, "-o", tmp_path / "take", *flags)
    assert ended.returncode == 2
    assert ended.stderr.startswith("medm: ") and ended.stderr.count("\n") == 1
    assert says in ended.stderr


@pytest.mark.parametrize("command", [("codes", "-o", "out.npz"), ("occlusion", "-o", "out.npz"), ("evaluate", "take")])
def test_a_folder_that_is_no_shot_is_bad_input(tmp_path, command):
    ended = medm(command[0], tmp_path, *command[1:])
    assert ended.returncode == 2
    assert ended.stderr.startswith("medm: ") and ended.stderr.count("\n") == 1
    assert str(tmp_path) in ended.stderr


def test_codes_and_occlusion_are_written_with_progress_for_programs(shot_folder, tmp_path):
    ended = medm("codes", shot_folder, "-o", tmp_path / "codes.npz", "--coding", "rounded")
    assert (ended.returncode, ended.stdout) == (0, f"{tmp_path / 'codes.npz'}\n")
    lines = [line.split(maxsplit=2) for line in ended.stderr.splitlines()]
    assert {line[0] for line in lines} == {"medm_progress"}
    shares = [float(line[1]) for line in lines]
    assert shares == sorted(shares) and shares[-1] == 1.0
    with np.load(tmp_path / "codes.npz") as file:
        codes, frame, place = file["codes"], file["birth_frame"], file["birth_xy"]
    assert codes.shape == (4, 48, 64)
    assert (len(frame), place.shape) == (codes.max() + 1, (codes.max() + 1, 2))

    assert medm("occlusion", shot_folder, "-o", tmp_path / "occlusion.npz").returncode == 0
    with np.load(tmp_path / "occlusion.npz") as file:
        assert (file["occluded"].shape, file["occluded"].dtype) == ((4, 48, 64), bool)
    assert sorted(path.name for path in tmp_path.glob("*.npz*")) == ["codes.npz", "occlusion.npz"]


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--no-reidentify"], {"reidentify": False}),
        (["--anchor", "last"], {"anchor": "last"}),
        (["--coding", "rounded", "--distant", "1"], {"coding": "rounded", "distant": 1}),
        (["--coding", "rounded", "--anchor", "last"], {"coding": "rounded", "anchor": "last"}),
    ],
    ids=" ".join,
)
def test_the_options_of_codes_are_followed(tmp_path, flags, options):
    to_and_fro = synthetic.Scene(
        [synthetic.Rectangle(202, lambda _: synthetic.at(0, 0, -2), half=(9, 9))],
        camera=lambda t: synthetic.camera(synthetic.at(0.27 * (t % 4 if t % 4 < 3 else 1)), 64, 48),
        length=5,
    )
    folder = synthetic.write_shot(tmp_path / "shot", to_and_fro, beauty=False, objects=True)
    assert main(["codes", str(folder), "-o", str(tmp_path / "codes.npz"), *flags]) == 0
    shot = Shot.open(folder)
    expected, plain = (analyse(shot, shot.gbuffer(), **chosen).codes for chosen in (options, {"coding": options.get("coding", "subpixel")}))
    with np.load(tmp_path / "codes.npz") as file:
        np.testing.assert_array_equal(file["codes"], expected.codes)
        np.testing.assert_array_equal(file["birth_frame"], expected.birth_frame)
    assert (expected.codes != plain.codes).any()


def test_distant_flows_of_another_coding_are_bad_input(shot_folder, tmp_path, capsys):
    assert main(["codes", str(shot_folder), "-o", str(tmp_path / "codes.npz"), "--distant", "2"]) == 2
    assert "--distant belongs to --coding rounded" in capsys.readouterr().err


def test_progress_is_a_bar_on_a_terminal(shot_folder, tmp_path):
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-m", "medm.cli", "occlusion", shot_folder, "-o", tmp_path / "o.npz"]
    assert subprocess.run(command, stderr=theirs, stdout=subprocess.DEVNULL, timeout=60).returncode == 0
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "100%" in shown and "medm_progress" not in shown


def test_an_output_that_cannot_be_written_is_bad_input(shot_folder, tmp_path):
    ended = medm("occlusion", shot_folder, "-o", tmp_path / "nowhere" / "o.npz")
    assert ended.returncode == 2
    assert "medm: " + str(tmp_path / "nowhere" / "o.npz") + " cannot be written: No such file or directory" in ended.stderr


def test_a_take_is_evaluated_for_people_and_for_programs(shot_folder, tmp_path):
    (tmp_path / "take" / "frames").mkdir(parents=True)
    for picture in (shot_folder / "beauty").glob("*.png"):
        shutil.copy(picture, tmp_path / "take" / "frames")
    metrics = json.loads(medm("evaluate", shot_folder, tmp_path / "take", "--json").stdout)
    assert metrics["frames"] == 4
    assert metrics["take"] == metrics["beauty"]
    table = medm("evaluate", shot_folder, tmp_path / "take").stdout
    assert [line.split()[0] for line in table.splitlines()[:3]] == ["take", "warping", "spread"]


def test_a_plan_is_shown_before_time_is_spent(shot_folder, tmp_path, capsys):
    assert main(["plan", str(shot_folder), "--harmonisation", "weighted", "--window", "8"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("4 frames of 64 x 48, bundled on ")
    assert "how well pixels see" in shown and " GB free" in shown
    assert main(["plan", str(shot_folder), "--model", "sdxl", "--models", str(tmp_path)]) == 0, "a preset that is not there yet"
    assert "4 frames of 64 x 48, sdxl on " in capsys.readouterr().out
    assert main(["plan", str(shot_folder), "--model", str(tmp_path / "nowhere")]) == 3
    assert main(["plan", str(shot_folder), "--window", "2"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_an_unknown_command_is_bad_input():
    assert medm("paint").returncode == 2


def test_models_are_listed_with_their_licences(capsys):
    assert main(["models", "list"]) == 0
    assert "bundled" in (text := capsys.readouterr().out) and "CC0-1.0" in text


def test_help_loads_no_heavy_library():
    script = "import sys, json, medm.cli; print(json.dumps([name for name in ('torch', 'numpy', 'uvicorn') if name in sys.modules]))"
    assert json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout) == []


def test_a_render_refuses_what_it_can_before_torch_is_loaded(shot_folder, tmp_path):
    write_quick_model(tmp_path / "model")
    lines = f"""
import sys, medm.cli
for arguments in (
    [{str(shot_folder)!r}, "--model", {str(tmp_path / "no model")!r}],
    [{str(tmp_path)!r}, "--model", {str(tmp_path / "model")!r}],
):
    print(medm.cli.main(["render", *arguments, "-o", {str(tmp_path / "take")!r}]), "torch" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=60)
    assert ended.stdout.splitlines() == ["3 False", "2 False"]
    assert ended.stderr.startswith(f"medm: there is no model in {tmp_path / 'no model'}") and ended.stderr.count("\n") == 2

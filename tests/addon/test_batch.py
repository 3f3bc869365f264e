"""`medm batch`: a queue of shots, each in a process of its own, that goes on after failures and where it stopped."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medm_blender import batch
from medm_blender.client import Client

ROOT = Path(__file__).resolve().parents[2]


def write(folder, text, *blends):
    for name in blends:
        (folder / name).touch()
    file = folder / "shots ä.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_queue_with_defaults(tmp_path):
    file = write(
        tmp_path,
        """
        retries = 3
        [defaults]
        prompt = "paper"
        seed = 7
        out = "takes"
        set = { w_steps = 2, guess = true }
        [[shots]]
        file = "a.blend"
        frames = "-10:10"
        consistency = 0.5
        [[shots]]
        file = "a.blend"
        scene = "Night"
        prompt = "glass"
        out = "//beside the blend"
        set = { w_steps = 4 }
        """,
        "a.blend",
    )
    queue = batch.read(file)
    assert queue.retries == 3
    first, second = queue.shots
    assert (first.name, second.name) == ("a", "a Night")
    assert first.file == tmp_path / "a.blend"
    expected = ["--prompt=paper", "--seed=7", f"--out={tmp_path / 'takes'}", "--set=w_steps=2", "--set=guess=true", "--frames=-10:10"]
    assert list(first.arguments) == [*expected, "--consistency=0.5"]
    expected = ["--prompt=glass", "--seed=7", "--out=//beside the blend", "--set=w_steps=4", "--set=guess=true", "--scene=Night"]
    assert list(second.arguments) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[shots]]\nfile = ", "is no TOML: Invalid value (at "),
        ("", "shots: at least one table [[shots]] is wanted"),
        ("[[shots]]\n", "shots[1].file: the .blend is missing"),
        ('[[shots]]\nfile = "b.blend"', "shots[1].file: {folder}/b.blend does not exist"),
        ('[[shots]]\nfile = "a.blend"\npromt = "gold"', "shots[1].promt: there is no such key; there are: consistency, control"),
        ('[[shots]]\nfile = "a.blend"\nseed = "7"', "shots[1].seed: a whole number is wanted"),
        ('[[shots]]\nfile = "a.blend"\nframes = "1-7"', 'shots[1].frames: "1-7" is no frame range: write it as "1:24"'),
        ('[[shots]]\nfile = "a.blend"\n[[shots]]\nfile = "a.blend"', 'shots[2].name: "a" is the name of shots[1] too'),
        ('defaults = 3\n[[shots]]\nfile = "a.blend"', "defaults: a table [defaults] is wanted"),
        ('[defaults]\nfile = "a.blend"\n[[shots]]\nfile = "a.blend"', "defaults.file: there is no such key"),
        ('[defaults]\nprompt = 3\n[[shots]]\nfile = "a.blend"', "defaults.prompt: a text is wanted"),
        ('retries = -1\n[[shots]]\nfile = "a.blend"', "retries: a whole number from 0 to 100"),
        ('[[shots]]\nfile = "a.blend"\nset = { control = ["a"] }', "shots[1].set.control: a text or a number is wanted"),
        ('[[shots]]\nfile = "a.blend"\nprompt = "\\u0000"', "shots[1].prompt: a text without the character 0 is wanted"),
        ('[[shots]]\nfile = "a.blend"\nset = { sampler = "\\u0000" }', "shots[1].set.sampler: a text or a number is wanted"),
        ('[[shots]]\nfile = "a.blend"\nname = "a\\nb"', "shots[1].name: a text in one line is wanted"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(tmp_path, capsys, text, words):
    file = write(tmp_path, text, "a.blend")
    assert batch.main(["batch", str(file)], "medm") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"medm: {file}") and words.format(folder=tmp_path) in error and error.count("\n") == 1


def test_no_blender_is_said_in_one_line(tmp_path, capsys):
    file = write(tmp_path, '[[shots]]\nfile = "a.blend"', "a.blend")
    assert batch.main(["batch", str(file), "--blender", str(tmp_path / "none")], "medm") == 2
    assert capsys.readouterr().err == f"medm: there is no Blender at {tmp_path / 'none'}\n"


def test_knows_no_blender():
    code = "import sys; sys.modules['bpy'] = None; import medm_blender.batch, medm_blender.__main__"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# -- with Blender ------------------------------------------------------------------------------------------------------


@pytest.fixture
def queue(server, tmp_path):
    """Three shots: a good one, one without a camera, and another good one."""
    bpy = pytest.importorskip("bpy")
    from staging import add_camera, add_plane, empty_file

    for name in ("one", "no camera", "drei ä"):
        scene = empty_file()
        add_plane(scene)
        scene.frame_end = 2
        if name != "no camera":
            add_camera(scene)
        bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / f"{name}.blend"), check_existing=False)
    text = f"""
        [defaults]
        server = "{server.url}"
        token_file = "{server.store / "token"}"
        size = "32x24"
        model = "quick"
        prompt = "quick"
        [[shots]]
        file = "one.blend"
        out = "one"
        [[shots]]
        file = "no camera.blend"
        [[shots]]
        file = "drei ä.blend"
        prompt = "PROMPT"
        """
    return write(tmp_path, text)


def medm_batch(file, *options):
    command = [sys.executable, "-m", "medm_blender", "batch", str(file), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=200, check=False)


def told(file):
    return {shot["name"]: shot for shot in json.loads(file.with_suffix(".report.json").read_text("utf-8"))["shots"]}


@pytest.mark.bpy
def test_it_goes_on_after_a_failure_and_where_it_stopped(queue, server, tmp_path):
    client = Client(server.url, server.token)
    before = len(client.jobs())
    queue.write_text(queue.read_text("utf-8").replace("PROMPT", "killed"), encoding="utf-8")
    done = medm_batch(queue)
    assert (done.returncode, done.stderr) == (1, "")
    shots = told(queue)
    assert [shot["state"] for shot in shots.values()] == ["done", "failed", "failed"]
    assert shots["one"]["take"] == str(tmp_path / "one" / "take")
    assert (tmp_path / "one" / "take" / "take.json").is_file()
    assert (shots["no camera"]["exit_code"], shots["no camera"]["tries"]) == (2, 1)  # trying again would not bring one
    assert shots["no camera"]["error"] == 'the scene "Scene" has no camera'
    assert shots["drei ä"]["tries"] == 2 and shots["drei ä"]["error"]
    assert "1 of 3 shots are done" in done.stdout and 'failed   no camera: the scene "Scene" has no camera' in done.stdout
    shares = [float(share) for share in re.findall(r"^medm_progress (\S+) (?:one|no camera|drei ä|done)", done.stdout, re.MULTILINE)]
    assert shares[0] >= 0.0 and shares[-1] == 1.0
    assert len(client.jobs()) == before + 3

    queue.write_text(queue.read_text("utf-8").replace("killed", "quick"), encoding="utf-8")
    assert medm_batch(queue).returncode == 2  # only what is wrong in a file is left
    assert len(client.jobs()) == before + 4, "what was done is not done again"
    take = Path(told(queue)["drei ä"]["take"])
    assert (take.parent.parent, take.name) == (tmp_path / "medm", "take_003")  # two before it failed
    assert json.loads((take / "record.json").read_text())["state"] == "ready"


@pytest.mark.bpy
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a single process")
def test_ctrl_c_calls_the_job_off_and_the_next_batch_begins_there(queue, server):
    queue.write_text(queue.read_text("utf-8").replace('prompt = "quick"', 'prompt = "slow"'), encoding="utf-8")
    command = [sys.executable, "-m", "medm_blender", "batch", str(queue)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "sampling" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (1, "medm: stopped\n")
    assert time.monotonic() - start < 12
    assert [shot["state"] for shot in told(queue).values()] == ["waiting"] * 3
    server.wait(Client(server.url, server.token).jobs()[-1]["id"], "cancelled")

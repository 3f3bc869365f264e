"""A Blender in the background renders a take's passes from a copy of the open file, which is left alone; against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("bpy")

import bpy

from medm_blender import background, passes
from medm_blender.client import Client, ServerError
from staging import add_camera, add_plane, differences, dump_file, empty_file, move_evenly, read_shot

pytestmark = [pytest.mark.bpy, pytest.mark.skipif(sys.platform == "win32", reason="looks into /proc")]
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"model": "quick", "prompt": "quick"}


@pytest.fixture
def client(server):
    return Client(server.url, server.token)


@pytest.fixture
def scene(tmp_path):
    """A plane in a file of its own folder, and a change since it was saved; it links a scene of the same name."""
    other = empty_file()
    add_camera(other)
    other.frame_start = other.frame_end = 9
    (tmp_path / "Szene ä").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "Szene ä" / "library.blend"), check_existing=False)
    scene = empty_file()
    move_evenly(add_plane(scene), range(1, 4), by=(0.1, 0, 0))
    add_camera(scene)
    scene.frame_end = 2
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "Szene ä" / "prévis.blend"), check_existing=False)
    with bpy.data.libraries.load(str(tmp_path / "Szene ä" / "library.blend"), link=True, relative=True) as (_, linked):
        linked.scenes = ["Scene"]
    bpy.data.objects["Plane"].name = "Changed since"
    bpy.context.view_layer.update()
    return scene


def steps(client, tmp_path, **options):
    given = {"scene_name": "Scene", "settings": SETTINGS, "frame_range": (1, 2), "size": (32, 24), **options}
    return background.submit_in_background(root=tmp_path / "an out ä", client=client, **given)


def finish(work, phases=()):
    """Steps as the window takes them: the first in the main thread, the others in another."""
    next(work)
    outcome = []

    def rest():
        try:
            while True:
                phases.append(next(work)[1]) if isinstance(phases, list) else next(work)
        except StopIteration as done:
            outcome.append(done.value)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=rest)
    thread.start()
    thread.join(90)
    assert outcome, "still at it"
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def copies():
    return sorted(Path(bpy.app.tempdir).glob("medm_*"))


def children():
    """Processes of this one's that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return set(found)


def test_what_is_in_the_window_is_painted_and_the_window_is_left_alone(scene, client, server, tmp_path):
    before, path = dump_file(), bpy.data.filepath
    saved, dirty = Path(path).read_bytes(), bpy.data.is_dirty
    phases = []
    job = finish(steps(client, tmp_path), phases)
    assert differences(before, dump_file()) == []
    assert (bpy.data.filepath, bpy.data.is_dirty, Path(path).read_bytes()) == (path, dirty, saved)
    shot = read_shot(tmp_path / "an out ä" / "shot")
    assert [thing["name"] for thing in shot.manifest["objects"]] == ["Changed since"]
    assert list(shot.frames) == [1, 2]
    assert {"data, frame 1 of 2", "data, frame 2 of 2"} <= set(phases)
    assert client.job(job)["settings"]["prompt"] == "quick"
    server.wait(job, "done")
    assert copies() == []


def test_a_linked_scene_of_the_same_name(scene, client, tmp_path):
    (linked,) = (other for other in bpy.data.scenes if other.library)
    assert linked.name == scene.name
    finish(steps(client, tmp_path, scene_name=linked.name_full, frame_range=(9, 9)))
    assert read_shot(tmp_path / "an out ä" / "shot").manifest["objects"] == []


def test_a_file_that_was_never_saved(client, tmp_path):
    scene = empty_file()
    add_plane(scene, name="Fresh")
    add_camera(scene)
    finish(steps(client, tmp_path))
    assert bpy.data.filepath == ""
    assert [thing["name"] for thing in read_shot(tmp_path / "an out ä" / "shot").manifest["objects"]] == ["Fresh"]


def test_the_token_is_in_no_command_line_and_for_nobody_else(scene, client, tmp_path):
    before = children()
    work = steps(client, tmp_path)
    next(work)
    next(work)
    (child,) = children() - before
    assert client.token.encode() not in Path(f"/proc/{child}/cmdline").read_bytes()
    (folder,) = copies()
    assert folder.stat().st_mode & 0o077 == 0
    request = folder / background.REQUEST
    assert client.token in request.read_text() and request.stat().st_mode & 0o077 == 0
    work.close()


@pytest.mark.parametrize("steps_taken", [1, 2, 30])
def test_closing_ends_it_at_once_and_leaves_nothing(scene, client, tmp_path, steps_taken):
    before, jobs = children(), len(client.jobs())
    work = steps(client, tmp_path, settings={"model": "quick", "prompt": "slow"}, frame_range=(1, 200))
    for _ in range(steps_taken):
        next(work)
    start = time.monotonic()
    work.close()
    assert time.monotonic() - start < 2.0
    assert children() == before
    assert copies() == []
    assert len(client.jobs()) == jobs
    assert not (tmp_path / "an out ä" / "shot" / "shot.json").exists()


def test_the_export_after_one_that_was_killed_sweeps_up(scene, client, tmp_path):
    work = steps(client, tmp_path, frame_range=(1, 200))
    while "data, frame 3" not in next(work)[1]:
        pass
    work.close()
    data = tmp_path / "an out ä" / "shot" / "data"
    assert (data / "0003.exr").is_file()
    (data / "notes.txt").write_text("mine")
    finish(steps(client, tmp_path, frame_range=(1, 2)))
    assert sorted(file.name for file in data.iterdir()) == ["0001.exr", "0002.exr", "notes.txt"]
    assert sorted(file.name for file in data.parent.iterdir()) == ["data", "shot.json"]


def test_a_blender_that_is_killed_says_so(scene, client, tmp_path):
    before = children()
    work = steps(client, tmp_path, frame_range=(1, 200))
    while "frame" not in next(work)[1]:
        pass
    (child,) = children() - before
    os.kill(child, signal.SIGKILL)
    with pytest.raises(passes.ShotError, match=r"was ended \(signal 9\): is there enough memory\?"):
        for _ in work:
            pass
    assert copies() == []


def test_its_refusals_are_told_in_its_own_words(scene, client, tmp_path):
    bpy.data.objects.remove(bpy.data.objects["Camera"])
    with pytest.raises(passes.ShotError, match=r'^the scene "Scene" has no camera$'):
        finish(steps(client, tmp_path))


def test_a_server_that_is_gone_is_a_server_error(scene, start_server, tmp_path):
    server = start_server(tmp_path / "store")
    client = Client(server.url, server.token)
    server.stop()
    with pytest.raises(ServerError, match="it is not running"):
        finish(steps(client, tmp_path))
    assert not (tmp_path / "an out ä").exists()


def test_it_ends_with_the_blender_that_started_it(scene, tmp_path, client):
    """However that went: killed, here."""
    request = {
        "scene": "Scene",
        "settings": SETTINGS,
        "root": str(tmp_path / "out"),
        "frames": [1, 2000],
        "size": [32, 24],
        "data_supersampling": 1,
        "beauty": None,
        "url": client.url,
        "token": client.token,
        "scripts_ran": True,
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-m", "medm_blender", bpy.data.filepath, "render", "--request", tmp_path / "request.json"]
    child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while "frame 2" not in (line := child.stdout.readline()):
        assert line
    child.stdin.close()
    assert child.wait(10) == 1
    child.stdout.close()


def test_simulations_kept_on_disk_beside_the_file_are_found(client, tmp_path):
    """A cloth that is baked to disk must be in the background where it is here, not at its start."""
    scene = empty_file()
    add_camera(scene)
    cloth = add_plane(scene, name="Cloth", size=(2, 2))
    cloth.modifiers.new("Cloth", "CLOTH")
    scene.frame_end = 6
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "sim ä.blend"), check_existing=False)
    cache = cloth.modifiers[0].point_cache
    cache.use_disk_cache, cache.frame_start, cache.frame_end = True, 1, 6
    with bpy.context.temp_override(scene=scene, active_object=cloth, object=cloth, point_cache=cache):
        bpy.ops.ptcache.bake(bake=True)
    assert (tmp_path / "blendcache_sim ä").is_dir()
    bpy.ops.wm.save_mainfile()
    kept = sorted(file.name for file in (tmp_path / "blendcache_sim ä").iterdir())
    scene.frame_set(6)
    here = min(v.co.z for v in cloth.evaluated_get(bpy.context.evaluated_depsgraph_get()).data.vertices)
    assert here < -0.01
    finish(steps(client, tmp_path, frame_range=(6, 6)))
    shot = read_shot(tmp_path / "an out ä" / "shot")
    assert shot.frames[6].position[..., 2].min() == pytest.approx(here, abs=1e-3)
    assert sorted(file.name for file in (tmp_path / "blendcache_sim ä").iterdir()) == kept


def test_pictures_of_a_beauty_are_taken_over(scene, client, tmp_path):
    import numpy as np

    from staging import write_png

    pictures = tmp_path / "viewport"
    pictures.mkdir()
    for frame in (1, 2):
        write_png(pictures / f"{frame:04d}.png", np.full((24, 32, 3), 40 * frame, np.uint8))
    assistive = {**SETTINGS, "mode": "assistive"}
    finish(steps(client, tmp_path, settings=assistive, beauty=pictures))
    shot = tmp_path / "an out ä" / "shot"
    assert (shot / "beauty" / "0002.png").read_bytes() == (pictures / "0002.png").read_bytes()
    (pictures / "0002.png").unlink()
    with pytest.raises(passes.ShotError, match="the beauty of frame 2 cannot be read"):
        finish(steps(client, tmp_path, settings=assistive, beauty=pictures))


def test_a_folder_that_cannot_be_written(scene, client, tmp_path):
    (tmp_path / "an out ä").write_text("a file is in the way")
    with pytest.raises(passes.ShotError, match=r"an out ä.shot cannot be written: not a directory$"):
        finish(steps(client, tmp_path))


def test_no_room_for_the_copy(scene, client, tmp_path):
    """A limit on the size of files stands in for a full disk."""
    import resource

    before, saved = dump_file(), Path(bpy.data.filepath).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(passes.ShotError, match=r"^a copy of the file cannot be written to .*medm_"):
            next(steps(client, tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert differences(before, dump_file()) == []
    assert Path(bpy.data.filepath).read_bytes() == saved
    assert copies() == []

"""Takes in a real window's sequencer: found at the start, placed by a click, compared, undone, exported; the window stays where it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from service_process import ServerProcess, write_shot
from window import EXTENSION, Window, prepare

pytestmark = pytest.mark.window
SIZE, FRAMES = (192, 112), (1, 2, 3)
COLOURS = {1: (200, 60, 40), 2: (230, 190, 40), 3: (40, 90, 200)}
MODULE = f"__import__('sys').modules['{EXTENSION}.%s']"
EDIT = f"{MODULE % 'sequencer'}.edit_of(bpy.data.scenes[0] if 'Edit' not in bpy.data.scenes[0].name else bpy.data.scenes[1])"
STRIPS = f"sorted((strip.name, strip.mute) for strip in {EDIT}.sequence_editor.strips_all)"


@pytest.fixture
def server(tmp_path):
    """A real server whose renderer is quick."""
    process = ServerProcess(tmp_path / "store")
    yield process
    process.stop()


@pytest.fixture
def window(screen, user, blend, server, tmp_path):
    """A window with a saved shot, in a Blender whose preferences name the server."""
    prepare(
        user,
        f"""
        preferences = bpy.context.preferences.addons[{EXTENSION!r}].preferences
        preferences.server_kind, preferences.remote_url, preferences.remote_token = "REMOTE", {server.url!r}, {server.token!r}
        """,
    )
    (tmp_path / "project").mkdir()
    with Window(screen, user, tmp_path / "window", Path(shutil.copy(blend, tmp_path / "project/shot.blend"))) as opened:
        yield opened
    assert opened.complaints() == []


def write_take(window, number, job="", server="", painted=True):
    """A take's folder as a download leaves it; not painted: as it is while a server works."""
    root = Path(window.get(f"str({MODULE % 'folders'}.prepare(bpy.context.scene))"))
    take = root / f"take_{number:03}"
    (take / "frames").mkdir(parents=True)
    settings = {"prompt": f"look {number}", "seed": number, "mode": "full", "model": "bundled"}
    record = {"format": "medm-take-record", "version": 1, "state": "painting", "settings": settings, "job": job or "none", "server": server}
    (take / "record.json").write_text(json.dumps(record))
    if painted:
        for frame in FRAMES:
            Image.new("RGB", SIZE, COLOURS[number]).save(take / "frames" / f"{frame:04}.png")
        (take / "take.json").write_text(json.dumps({"settings": settings}))
    return take


def reopen(window):
    window.do("bpy.ops.wm.save_mainfile()\nyield 0.2\nbpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)\nyield 0.5")


def show_takes(window):
    window.do("with override():\n    bpy.ops.medm.take_show()\nyield 2.0")


def test_takes_are_found_at_the_start_placed_by_a_click_compared_and_undone(window, server, tmp_path):
    shot = write_shot(tmp_path / "uploaded", tmp_path.name)
    Image.new("RGB", SIZE, COLOURS[3]).save(tmp_path / "painted.png")
    picture = (tmp_path / "painted.png").read_bytes()
    (shot / "data" / "0001.exr").write_bytes(picture[:50])  # this server's renderer joins them
    (shot / "data" / "0002.exr").write_bytes(picture[50:])
    from medm_blender.client import Client

    client = Client(server.url, server.token)
    job = client.submit(client.upload_shot(shot, lambda *_: None), {"prompt": "quick", "model": "quick"})
    server.wait(job, "done")
    for number in (1, 2):
        write_take(window, number)
    write_take(window, 3, job, server.url, painted=False)
    reopen(window)
    scenes = window.get("len(bpy.data.scenes)")
    assert window.wait(f"{MODULE % 'waiting'}.news({MODULE % 'takes'}.find(bpy.context.scene, 3)).state == 'finished'", 10)
    assert window.get("len(bpy.data.scenes)") == scenes == 1, "nothing is placed unasked"

    window.do("with override():\n    bpy.ops.medm.take_place('EXEC_DEFAULT', True, take=1)\nyield 0.3")
    assert window.get("bpy.context.window_manager.windows[0].scene.name") != window.get(f"{EDIT}.name"), "the window stays with the shot"
    show_takes(window)
    assert window.get("bpy.context.window_manager.windows[0].workspace.name") == "Video Editing"
    for number in (2, 3):
        window.click(f"medm.take_place(take={number}", "SEQUENCE_EDITOR", "UI")
        window.wait(f"('Take {number}', False) in {STRIPS}", 10)
        window.do("yield 1.5")  # the list is another now, and a second click at once would be a double click
    assert [tuple(strip) for strip in window.get(STRIPS)] == [("Take 1", True), ("Take 2", True), ("Take 3", False)]
    assert window.get(f"{MODULE % 'takes'}.pending(bpy.data.scenes[0])") == []

    window.click("medm.take_compare(", "SEQUENCE_EDITOR", "UI")
    window.wait(f"{MODULE % 'sequencer'}.compared({EDIT}) is not None", 5)
    window.do("yield 1.0")
    window.picture(tmp_path / "compared.png")
    colours = Image.open(tmp_path / "compared.png").convert("RGB").getcolors(2**24)
    seen = {colour for count, colour in colours if count > 10_000}
    pair = window.get(f"{MODULE % 'sequencer'}.compared({EDIT})")
    assert {COLOURS[number] for number in pair} <= seen, "both halves are in the preview, in their own colours"
    window.do("with override():\n    bpy.ops.ed.undo()\nyield 0.5")
    assert window.get(f"{MODULE % 'sequencer'}.compared({EDIT})") is None
    window.do("with override():\n    bpy.ops.ed.undo()\nyield 0.5")
    assert [name for name, _ in window.get(STRIPS)] == ["Take 1", "Take 2"], "fetching one is a step of its own"


def test_an_export_leaves_the_window_free_and_opens_none(window, tmp_path):
    write_take(window, 1)
    window.do("with override():\n    bpy.ops.medm.take_place('EXEC_DEFAULT', True)\nyield 0.5")
    show_takes(window)
    window.longest_gap()
    window.do(
        f"""
        before = bpy.context.preferences.view.render_display_type
        with override():
            bpy.ops.medm.take_export(filepath={str(tmp_path / "out" / "cut.png")!r}, kind="PNG")
        assert bpy.context.preferences.view.render_display_type == before
        yield 0.2
        while bpy.app.is_job_running("RENDER"):
            yield 0.1
        """
    )
    assert window.longest_gap() < 1.0
    assert window.get("len(bpy.context.window_manager.windows)") == 1
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["cut_0001.png", "cut_0002.png", "cut_0003.png"]
    assert Image.open(files[0]).convert("RGB").getcolors() == [(SIZE[0] * SIZE[1], COLOURS[1])]


def test_show_takes_goes_there_and_back(window):
    write_take(window, 1)
    window.do("with override():\n    bpy.ops.medm.take_place('EXEC_DEFAULT', True)\nyield 0.5")
    before = window.get("[bpy.context.window_manager.windows[0].workspace.name, bpy.context.window_manager.windows[0].scene.name]")
    show_takes(window)
    window.click("medm.take_show(back=True", "SEQUENCE_EDITOR", "UI")
    window.do("yield 1.0")
    after = window.get("[bpy.context.window_manager.windows[0].workspace.name, bpy.context.window_manager.windows[0].scene.name]")
    assert after == before

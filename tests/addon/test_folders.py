"""Every scene has a folder of its own, whatever it is called and wherever its file is, and every take a number of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("bpy")

import bpy

from medm_blender import folders
from staging import empty_file

pytestmark = pytest.mark.bpy
ROOT = Path(__file__).resolve().parents[2]


def save(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(file))


@pytest.fixture
def saved(fresh, tmp_path):
    """The scene of a file that was saved in a folder of its own."""
    save(tmp_path / "project" / "shot_010.blend")
    return bpy.context.scene


def test_everything_is_beside_the_blend_and_looking_makes_nothing(saved, tmp_path):
    root = tmp_path / "project" / "medm" / "Scene"
    assert folders.root(saved) == root
    assert folders.shot(saved) == root / "shot"
    assert folders.preview(saved) == root / "preview"
    assert folders.takes(saved) == []
    assert not (tmp_path / "project" / "medm").exists()


def test_takes_are_numbered_after_the_last_and_other_folders_are_none(saved):
    root = folders.prepare(saved)
    assert [folders.new_take(saved).name for _ in range(2)] == ["take_001", "take_002"]
    (root / "take_007").mkdir()
    (root / "take_old").mkdir()
    (root / "take_012").write_text("a file, not a folder")
    (root / "take_003").mkdir()
    assert [number for number, _ in folders.takes(saved)] == [1, 2, 3, 7]
    assert folders.new_take(saved) == root / "take_008"
    assert folders.new_take(saved, above=11) == root / "take_013", "take_012 is there, even if it is a file"
    assert [folders.take_number(Path(name)) for name in ("take_013", "take_1000", "take_1", "shot")] == [13, 1000, None, None]


def test_processes_never_get_the_same_take(saved, tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import bpy; from medm_blender import folders, compat;"
        f"bpy.ops.wm.open_mainfile(filepath={bpy.data.filepath!r});"
        "print(*[folders.new_take(bpy.context.scene).name for _ in range(40)]); compat.leave(0)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    got = [process.communicate(timeout=120)[0].split() for process in processes]
    names = [name for line in got for name in line if name.startswith("take_")]
    assert len(names) == 120
    assert len(set(names)) == 120
    assert len(folders.takes(saved)) == 120


@pytest.mark.parametrize("name", ["Straße – Ночь", "城市 01", "مشهد", "a.b", "Shot 10_v2"])
def test_names_of_any_script_are_kept(saved, name):
    saved.name = name
    assert folders.safe_name(saved) == name
    assert folders.new_take(saved).is_dir()


@pytest.mark.parametrize(
    "name", ["a/b", "a:b", "a?b", "..", ".", " ", "con", "NUL.x", "end.", "a\\b", "two\nlines", "x" * 63, "e\u0301", ".hidden"]
)
def test_what_file_systems_refuse_is_replaced_and_never_leads_out(saved, name):
    saved.name = name
    safe = folders.safe_name(saved)
    assert folders.root(saved).parent == Path(bpy.data.filepath).parent / "medm"
    assert not set(safe) & set('<>:"/\\|?*\n') and safe.strip(" .") == safe and safe
    assert safe.split(".")[0].lower() not in ("con", "nul")
    take = folders.new_take(saved)
    assert take.is_dir() and take.parent == folders.root(saved)


def test_names_that_become_alike_stay_apart(saved):
    names = ["a/b", "a:b", "a_b"]
    scenes = [bpy.data.scenes.new(name) for name in names]
    assert len({folders.prepare(scene) for scene in scenes}) == 3


def test_a_linked_scene_with_the_same_name_has_its_own_folder(saved, tmp_path):
    library = tmp_path / "project" / "library.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(library), copy=True)
    with bpy.data.libraries.load(str(library), link=True) as (_, wanted):
        wanted.scenes = ["Scene"]
    linked = next(scene for scene in bpy.data.scenes if scene.library)
    assert linked.name == saved.name
    mine, theirs = folders.prepare(saved), folders.prepare(linked)
    assert mine != theirs
    assert (folders.root(saved), folders.root(linked)) == (mine, theirs)


def test_two_files_in_one_folder_with_scenes_of_one_name_stay_apart(saved, tmp_path):
    first = folders.new_take(saved)
    save(tmp_path / "project" / "shot_020.blend")
    second = folders.new_take(bpy.context.scene)
    assert first.parent != second.parent
    assert second.name == "take_001"
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "project" / "shot_010.blend"))
    assert folders.root(bpy.context.scene) == first.parent


def test_scenes_that_differ_in_capitals_stay_apart_where_the_disk_does_not_tell_them(saved, monkeypatch):
    other = bpy.data.scenes.new("scene")
    mine = folders.prepare(saved)
    monkeypatch.setattr(folders, "safe_name", lambda scene: "Scene")  # what such a disk makes of both
    assert folders.root(saved) == mine
    theirs = folders.prepare(other)
    assert theirs != mine and theirs.is_dir()


def test_a_project_that_was_moved_and_a_file_that_was_renamed_find_their_takes(saved, tmp_path):
    folders.new_take(saved)
    (tmp_path / "project").rename(tmp_path / "moved")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "moved" / "shot_010.blend"))
    assert folders.root(bpy.context.scene) == tmp_path / "moved" / "medm" / "Scene"
    (tmp_path / "moved" / "shot_010.blend").rename(tmp_path / "moved" / "final.blend")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "moved" / "final.blend"))
    assert [number for number, _ in folders.takes(bpy.context.scene)] == [1]
    assert folders.new_take(bpy.context.scene) == tmp_path / "moved" / "medm" / "Scene" / "take_002"


def test_a_file_that_was_never_saved_has_its_takes_in_the_users_data_folder(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "data"))
    if sys.platform == "darwin":
        monkeypatch.setenv("HOME", str(tmp_path / "data"))
    take = folders.new_take(bpy.context.scene)
    assert tmp_path / "data" in take.parents
    assert take.parts[-4:] == ("medm", "takes", "Scene", "take_001")
    save(tmp_path / "now.blend")
    assert folders.root(bpy.context.scene) == tmp_path / "medm" / "Scene"


def test_paths_that_are_not_ascii(fresh, tmp_path):
    save(tmp_path / "Проект ü 写真" / "Szene.blend")
    assert folders.new_take(bpy.context.scene) == tmp_path / "Проект ü 写真" / "medm" / "Scene" / "take_001"


@pytest.mark.skipif(os.name == "nt", reason="folders are locked otherwise there")
def test_a_folder_that_cannot_be_written_is_said_in_one_line(saved, tmp_path):
    blocked = tmp_path / "project" / "medm"
    blocked.write_text("a file is where the folder should be")  # permissions do not stop root, who runs tests too
    with pytest.raises(folders.FolderError) as refusal:
        folders.new_take(saved)
    assert str(blocked) in str(refusal.value)
    assert "choose another folder" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert folders.takes(saved) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"blend": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_signature_that_is_damaged_is_as_none(saved, content):
    folder = folders.prepare(saved)
    (folder / "scene.json").write_bytes(content)
    assert folders.root(saved) == folder
    assert folders.prepare(saved) == folder
    empty_file()

"""Reference pictures that go along with a shot."""

from __future__ import annotations

import json
import struct
import zlib

import pytest

pytest.importorskip("bpy")

from medm_blender import passes
from medm_blender.client import Client
from medm_blender.tasks import in_thread, run
from staging import add_camera, add_plane

pytestmark = pytest.mark.bpy


def write_png(file, colour=(200, 30, 60)):
    """A PNG of one pixel."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", 1, 1, 8, 2, 0, 0, 0)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes([0, *colour]))) + chunk(b"IEND", b"")
    )
    return file


@pytest.fixture
def scene(fresh):
    add_plane(fresh)
    add_camera(fresh)
    return fresh


def export(scene, folder, *references):
    return passes.export_shot(scene, folder, beauty=False, size=(32, 24), frame_range=(1, 1), references=references)


def references_of(folder):
    return json.loads((folder / "shot.json").read_text())["references"]


def test_they_lie_in_the_shot_under_names_that_every_server_takes(scene, tmp_path):
    picture, other = write_png(tmp_path / "Büro (final) 2.png"), write_png(tmp_path / ".hidden.jpg")
    shot = export(scene, tmp_path / "shot", picture, str(other))
    assert references_of(shot) == ["reference/B_ro__final__2.png", "reference/hidden.jpg"]
    assert (shot / "reference" / "B_ro__final__2.png").read_bytes() == picture.read_bytes()
    assert references_of(export(scene, shot)) == []
    assert not list((shot / "reference").iterdir())


def test_one_that_lies_in_the_shot_already_survives_a_new_export(scene, tmp_path):
    shot = export(scene, tmp_path / "shot", write_png(tmp_path / "look.png"))
    content = (shot / "reference" / "look.png").read_bytes()
    assert references_of(export(scene, shot, shot / "reference" / "look.png")) == ["reference/look.png"]
    assert (shot / "reference" / "look.png").read_bytes() == content


def test_what_is_no_picture_is_refused_before_anything_is_rendered(scene, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(passes.LARGEST_REFERENCE + 1)
    for file, complaint in (
        (tmp_path / "notes.png", "is no PNG, JPEG or WebP picture"),
        (tmp_path / "absent.png", "cannot be read: no such file or directory"),
        (tmp_path, "cannot be read: "),
        (huge, "is too large: at most 64 MiB are taken"),
    ):
        with pytest.raises(passes.ShotError, match=complaint):
            export(scene, tmp_path / "shot", file)
    with pytest.raises(passes.ShotError, match="two reference pictures have the same name"):
        export(scene, tmp_path / "shot", write_png(tmp_path / "a" / "look.png"), write_png(tmp_path / "b" / "look.png"))
    assert not (tmp_path / "shot").exists()


def test_an_export_that_ends_early_leaves_none(scene, tmp_path):
    steps = passes.export_steps(scene, tmp_path / "shot", beauty=False, size=(32, 24), references=[write_png(tmp_path / "look.png")])
    next(steps)
    assert (tmp_path / "shot" / "reference" / "look.png").is_file()
    steps.close()
    assert not (tmp_path / "shot").exists()


def test_they_are_uploaded_with_the_shot(scene, server, tmp_path):
    shot = export(scene, tmp_path / "shot", write_png(tmp_path / "look.png"))
    client = Client(server.url, server.token)
    name = run(in_thread(lambda progress: client.upload_shot(shot, progress), "upload"), lambda *_: None)
    assert (server.store / "shots" / name / "reference" / "look.png").read_bytes() == (tmp_path / "look.png").read_bytes()

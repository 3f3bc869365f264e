"""Reference pictures: listed by a shot, uploaded with it, read with care, and no other file of a server's machine."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medm.errors import BadInput
from medm.service.documents import check_fits, files_of_manifest
from medm.settings import RenderSettings
from medm.shot import MAX_REFERENCE_PIXELS, Shot, read_reference
from service_process import ServerProcess, manifest
from synthetic import change_manifest, write_shot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A shot that brings a red picture."""
    folder = write_shot(tmp_path / "shot")
    (folder / "reference").mkdir()
    Image.new("RGBA", (40, 30), (250, 10, 20, 255)).save(folder / "reference" / "look.png")
    change_manifest(folder, lambda document: document.update(references=["reference/look.png"]))
    return folder


def test_a_shot_gives_its_references(folder: Path) -> None:
    picture = Shot.open(folder).reference("reference/look.png")
    assert (picture.mode, picture.size) == ("RGB", (40, 30))
    assert (np.asarray(picture) == (250, 10, 20)).all()


@pytest.mark.parametrize("name", ["look.png", "data/0001.exr", "../shot/reference/look.png", "/etc/passwd", ""])
def test_it_gives_no_other_file(folder: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"the shot brings no reference picture .*; it brings reference/look.png"):
        Shot.open(folder).reference(name)


@pytest.mark.parametrize("name", ["../look.png", "/etc/passwd", "reference/../../x", "C:/x.png"])
def test_a_manifest_cannot_lead_out_of_the_folder(folder: Path, name: str) -> None:
    change_manifest(folder, lambda document: document.update(references=[name]))
    with pytest.raises(BadInput, match=r"names a file outside of the shot folder"):
        Shot.open(folder)


def test_a_missing_one_is_named(folder: Path) -> None:
    (folder / "reference" / "look.png").unlink()
    with pytest.raises(BadInput, match=r"is incomplete: reference/look.png is missing"):
        Shot.open(folder)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not a PNG, JPEG or WebP picture that can be read"),
        (b"no picture", "is not a PNG, JPEG or WebP picture that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a PNG, JPEG or WebP picture that can be read"),
        (png(8, 8, b"\0" * 10), "is not a PNG, JPEG or WebP picture that can be read"),
        (png(60_000, 60_000), "make it smaller"),
        (png(9_600, 9_600), "make it smaller"),
        (png(8_000, 8_400), "is 8000x8400, larger than a reference picture needs to be; make it smaller"),
    ],
    ids=["empty", "text", "PostScript", "cut off", "bomb", "half a bomb", "too large"],
)
def test_hostile_pictures_are_refused_in_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "look.png").write_bytes(content)
    with pytest.raises(BadInput, match=complaint) as refusal:
        read_reference(tmp_path / "look.png")
    assert "\n" not in str(refusal.value)
    with pytest.raises(BadInput, match="is missing"):
        read_reference(tmp_path / "absent.png")
    with pytest.raises(BadInput, match="that can be read"):
        read_reference(tmp_path)
    assert MAX_REFERENCE_PIXELS < 8_000 * 8_400


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_photographs_are_turned_as_they_were_taken(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.new("RGB", (40, 30), (10, 250, 20)).save(tmp_path / f"look.{suffix}", exif=exif)
    assert read_reference(tmp_path / f"look.{suffix}").size == (30, 40)


def test_a_job_may_name_a_picture_of_its_shot_and_nothing_else() -> None:
    document = manifest(beauty=True) | {"references": ["reference/look.png"]}
    check_fits(document, RenderSettings(reference="reference/look.png", paint="*", mode="assistive"))
    for name in ("look.png", "/etc/passwd", "reference/../reference/look.png"):
        with pytest.raises(BadInput, match=r"the shot brings no reference picture .* send it with the shot, by --reference"):
            check_fits(document, RenderSettings(reference=name))
    with pytest.raises(BadInput, match="what is not painted keeps your own render, and this shot has none; export it with the beauty"):
        check_fits(manifest(), RenderSettings(paint="*"))
    assert files_of_manifest(document)[-1] == "reference/look.png"
    for references in ("look.png", {"a": 1}, [1], ["../x.png"], ["shot.json"], ["data/0001.exr"], None):
        with pytest.raises(BadInput):
            files_of_manifest(manifest() | {"references": references})


def test_a_server_takes_them_with_the_shot(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store")
    try:
        _, _, shot = server.request("POST", "/v1/shots", manifest(frames=1) | {"references": ["reference/look.png"]})
        assert shot["missing"] == ["data/0001.exr", "reference/look.png"]
        for path in shot["missing"]:
            digest = hashlib.sha256(b"content").hexdigest()
            assert server.request("PUT", f"/v1/shots/{shot['id']}/files/{path}", b"content", X_Content_SHA256=digest)[0] == 201
        for settings, status in (({"reference": "reference/look.png"}, 201), ({"reference": "/etc/passwd"}, 400)):
            order = {"shot": shot["id"], "settings": {"model": "quick", "prompt": "quick", **settings}}
            assert server.request("POST", "/v1/jobs", order)[0] == status
    finally:
        server.stop()


def test_a_server_judges_settings_without_a_shot(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store")
    try:
        status, _, answer = server.request("POST", "/v1/settings", {"model": "quick", "w_steps": "2", "reidentify": "no"})
        assert (status, answer["settings"]["w_steps"], answer["settings"]["reidentify"]) == (200, 2, False)
        for wrong, words in (({"promt": "x"}, "promt: there is no such setting"), ({"model": "../x"}, "'../x'"), ([], "valid dictionary")):
            status, _, answer = server.request("POST", "/v1/settings", wrong)
            assert (status, answer["error"]["code"]) == (400, "bad_input")
            assert words in answer["error"]["message"]
    finally:
        server.stop()

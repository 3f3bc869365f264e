"""Files that are sent while their shot is still rendered, and adopted once it is known: over the wire, and with Blender's client."""

import hashlib
import json
import os
import shutil
import threading

import pytest

from medm.service.store import UPLOAD_LIFE, Store
from medm_blender.client import Client, ServerError
from service_process import ServerProcess, manifest, write_shot


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ServerProcess(tmp_path_factory.mktemp("uploads") / "store")
    yield server
    server.stop()


@pytest.fixture
def client(server):
    return Client(server.url, server.token)


def quiet(fraction, phase):
    assert 0.0 <= fraction <= 1.0


def digest_of(data):
    return hashlib.sha256(data).hexdigest()


def put(server, data, digest=None):
    return server.request("PUT", f"/v1/uploads/{digest or digest_of(data)}", data)


def uploads(server):
    return sorted(path.name for path in (server.store / "uploads").iterdir())


def shot_of(server, name, **options):
    return server.request("POST", "/v1/shots", manifest(name, **options))[2]["id"]


def adopt(server, shot, files):
    return server.request("POST", f"/v1/shots/{shot}/adopt", {"files": files})


def test_a_shot_is_sent_while_it_is_rendered(client, server, tmp_path, monkeypatch):
    """Nothing is sent or read twice, and a job can be made of it."""
    folder = write_shot(tmp_path / "shot", "early", beauty=True)
    files = sorted(folder.glob("*/*.*"))
    for file in files[:3]:
        client.upload_early(file)
    sent, read = [], []
    send, digest = client._put, hashlib.file_digest
    monkeypatch.setattr(client, "_put", lambda path, *rest: (sent.append(path), send(path, *rest)))
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: (read.append(file.name), digest(file, kind))[1])
    reports = []
    shot = client.upload_shot(folder, lambda *report: reports.append(report))
    assert (len(sent), len(read)) == (1, 1)
    assert reports[-1] == (1.0, "upload")
    for file in files:
        assert (server.store / "shots" / shot / file.relative_to(folder)).read_bytes() == file.read_bytes()
    assert uploads(server) == []
    assert list(client.wait(client.submit(shot, {"model": "quick"})))[-1][0] == 1.0


def test_what_changed_after_it_was_sent_is_sent_again(client, server, tmp_path):
    folder = write_shot(tmp_path / "shot", "late change")
    client.upload_early(folder / "data" / "0001.exr")
    (folder / "data" / "0001.exr").write_bytes(b"rendered again")
    shot = client.upload_shot(folder, quiet)
    assert (server.store / "shots" / shot / "data" / "0001.exr").read_bytes() == b"rendered again"


def test_what_was_sent_early_and_swept_away_is_sent_again(client, server, tmp_path):
    folder = write_shot(tmp_path / "shot", "swept")
    client.upload_early(folder / "data" / "0001.exr")
    shutil.rmtree(server.store / "uploads")
    (server.store / "uploads").mkdir()
    shot = client.upload_shot(folder, quiet)
    assert (server.store / "shots" / shot / "data" / "0001.exr").is_file()


def test_two_frames_of_a_still_may_be_the_same_picture(server):
    shot = shot_of(server, "still")
    assert put(server, b"still")[0] == 201
    status, _, answer = adopt(server, shot, {f"data/000{n}.exr": digest_of(b"still") for n in (1, 2)})
    assert (status, answer) == (200, {"missing": []})
    assert uploads(server) == []
    (server.store / "shots" / shot / "data" / "0001.exr").unlink()
    assert (server.store / "shots" / shot / "data" / "0002.exr").read_bytes() == b"still"
    assert adopt(server, shot, {"data/0002.exr": digest_of(b"still")})[2] == {"missing": []}, "there already"
    assert adopt(server, shot, {"data/0001.exr": digest_of(b"still")})[2] == {"missing": ["data/0001.exr"]}


def test_a_job_keeps_its_files_when_others_are_adopted(server):
    shot = shot_of(server, "kept", frames=1)
    put(server, b"old")
    adopt(server, shot, {"data/0001.exr": digest_of(b"old")})
    server.request("POST", "/v1/jobs", {"shot": shot, "settings": {"model": "quick", "prompt": "slow"}})
    job = server.request("POST", "/v1/jobs", {"shot": shot, "settings": {"model": "quick"}})[2]["id"]
    put(server, b"new")
    adopt(server, shot, {"data/0001.exr": digest_of(b"new")})
    assert (server.store / "shots" / shot / "data" / "0001.exr").read_bytes() == b"new"
    assert (server.store / "jobs" / job / "shot" / "data" / "0001.exr").read_bytes() == b"old"
    for running in server.request("GET", "/v1/jobs")[2]["jobs"]:
        server.request("POST", f"/v1/jobs/{running['id']}/cancel")


def test_an_upload_must_be_what_its_name_says(server):
    status, _, answer = put(server, b"one", digest_of(b"other"))
    assert (status, answer["error"]["code"]) == (400, "digest_mismatch")
    assert uploads(server) == [] and not list((server.store / "incoming").iterdir())


@pytest.mark.parametrize(
    "name", ["../token", "%2e%2e%2ftoken", "x", "A" * 64, "0" * 63, "0" * 65, "0" * 32 + "/" + "0" * 31, "..", "0" * 64 + "%0a"]
)
def test_an_upload_has_no_name_but_its_digest(server, name):
    before = (server.store / "token").read_text()
    assert put(server, b"evil", name)[0] in (400, 404, 405)
    assert uploads(server) == [] and (server.store / "token").read_text() == before


def test_an_upload_that_is_too_large_is_refused_before_it_is_read(server):
    status, _, answer = server.request("PUT", f"/v1/uploads/{'0' * 64}", None, Content_Length=str(3 * 1024**3))
    assert (status, answer["error"]["code"]) == (413, "too_large")


def test_only_files_that_the_manifest_lists_are_adopted_and_then_all_or_none(server):
    shot = shot_of(server, "adopting")
    put(server, b"frame")
    for path in ("shot.json", "../../token", "/etc/passwd", "data/0009.exr", ""):
        status, _, answer = adopt(server, shot, {"data/0001.exr": digest_of(b"frame"), path: digest_of(b"frame")})
        assert (status, answer["error"]["code"]) == (400, "bad_input")
    assert server.request("HEAD", f"/v1/shots/{shot}/files/data/0001.exr")[0] == 404
    assert adopt(server, "0" * 32, {})[0] == 404
    for files in (None, [], {"data/0001.exr": "../token"}, {"data/0001.exr": 7}, {"data/0001.exr": "0" * 63}):
        assert adopt(server, shot, files)[2]["error"]["code"] == "bad_input"
    assert adopt(server, shot, {"data/0001.exr": digest_of(b"frame")})[2] == {"missing": []}


def test_many_uploads_at_once(client, server, tmp_path):
    folder = write_shot(tmp_path / "shot", "crowd")
    document = json.loads((folder / "shot.json").read_text())
    document["frames"] = [{"frame": n, "data": f"data/{n:04d}.exr", "beauty": None} for n in range(20)]
    for frame in document["frames"]:
        (folder / frame["data"]).write_bytes(os.urandom(200_000))
    (folder / "shot.json").write_text(json.dumps(document))
    threads = [threading.Thread(target=client.upload_early, args=(folder / frame["data"],)) for frame in document["frames"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(uploads(server)) == 20
    shot = client.upload_shot(folder, quiet)
    assert server.request("POST", "/v1/shots", document)[2] == {"id": shot, "missing": []}


def test_a_file_that_cannot_be_read_is_named(client, tmp_path):
    with pytest.raises(ServerError, match=r"0001\.exr cannot be used: No such file"):
        client.upload_early(tmp_path / "0001.exr")


def test_what_no_shot_has_adopted_for_a_day_is_removed(tmp_path):
    store = Store(tmp_path / "store")
    for content in (b"old", b"new"):
        with store.incoming() as file:
            file.write(content)
            store.keep_upload(file)
    old = tmp_path / "store" / "uploads" / digest_of(b"old")
    os.utime(old, (old.stat().st_mtime - UPLOAD_LIFE - 10,) * 2)
    store._tidied = 0.0
    with store.incoming() as file:
        file.write(b"newer")
        store.keep_upload(file)
    left = {digest_of(b"new"), digest_of(b"newer")}
    assert {path.name for path in old.parent.iterdir()} == left
    store.close()
    for path in old.parent.iterdir():
        os.utime(path, (0, 0))
    Store(tmp_path / "store").close()
    assert list(old.parent.iterdir()) == []

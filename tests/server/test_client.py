"""Blender's client and its local server, against real server processes; none of it needs Blender."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medm_blender.client import PATIENCE, Client, ServerError
from medm_blender.local_server import LocalServer
from service_process import ServerProcess, write_shot


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ServerProcess(tmp_path_factory.mktemp("client") / "store")
    yield server
    server.stop()


@pytest.fixture
def client(server):
    return Client(server.url, server.token)


def quiet(fraction, phase):
    assert 0.0 <= fraction <= 1.0


def submitted(client, folder, prompt="quick"):
    return client.submit(client.upload_shot(folder, quiet), {"prompt": prompt, "model": "quick"})


def test_from_shot_folder_to_take_folder(client, tmp_path):
    assert client.health()["status"] == "ok"
    assert client.models()[0]["id"] == "bundled"
    reports = []
    shot = client.upload_shot(write_shot(tmp_path / "shot", beauty=True), lambda *report: reports.append(report))
    assert reports[0] == (0.0, "upload") and reports[-1] == (1.0, "upload")
    job = client.submit(shot, {"mode": "assistive", "prompt": "gold", "model": "quick"})
    states = list(client.wait(job))
    assert states[-1][0] == 1.0
    assert [fraction for fraction, _ in states] == sorted(fraction for fraction, _ in states)
    assert client.job(job)["state"] == "done"
    reports.clear()
    files = client.download(job, tmp_path / "take", lambda *report: reports.append(report))
    assert files == [tmp_path / "take" / "frames" / "0001.png", tmp_path / "take" / "take.json"]
    assert files[0].read_bytes() == b"".join((tmp_path / "shot" / "data" / f"000{n}.exr").read_bytes() for n in (1, 2))
    assert reports[-1] == (1.0, "download")
    assert sorted(path.name for path in (tmp_path / "take").rglob("*") if path.is_file()) == ["0001.png", "take.json"]


def test_every_file_that_the_manifest_lists_is_sent(client, server, tmp_path):
    folder = write_shot(tmp_path / "shot", "bending", beauty=True)
    document = json.loads((folder / "shot.json").read_text())
    (folder / "rest").mkdir()
    for frame in document["frames"]:
        frame["rest"] = f"rest/{frame['frame']:04d}.exr"
        (folder / frame["rest"]).write_bytes(f"rest {frame['frame']}".encode())
    (folder / "shot.json").write_text(json.dumps(document))
    (folder / "rest" / "0009.exr").write_bytes(b"of an earlier export")
    there = server.store / "shots" / client.upload_shot(folder, quiet)
    files = sorted(file.relative_to(there).as_posix() for file in there.glob("*/*.*"))
    assert files == [
        f"{part}/000{number}.{kind}" for part, kind in (("beauty", "png"), ("data", "exr"), ("rest", "exr")) for number in (1, 2)
    ]
    assert (there / "rest" / "0002.exr").read_bytes() == b"rest 2"


def test_an_upload_that_was_broken_off_goes_on_where_it_was(client, server, tmp_path):
    folder = write_shot(tmp_path / "shot", "resumed")

    class StopError(Exception):
        pass

    def stop_in_second_file(fraction, phase):
        if fraction > 0.5:
            raise StopError

    with pytest.raises(StopError):
        client.upload_shot(folder, stop_in_second_file)
    arrived = [path for path in (server.store / "shots").rglob("0001.exr") if path.read_bytes() == (folder / "data/0001.exr").read_bytes()]
    assert len(arrived) == 1
    before = arrived[0].stat().st_ino
    client.upload_shot(folder, quiet)
    assert arrived[0].stat().st_ino == before  # sent again, it would be another file
    assert arrived[0].with_name("0002.exr").read_bytes() == (folder / "data/0002.exr").read_bytes()


def test_a_frame_that_was_rendered_again_is_sent_again(client, server, tmp_path):
    folder = write_shot(tmp_path / "shot", "changed")
    shot = client.upload_shot(folder, quiet)
    (folder / "data" / "0002.exr").write_bytes(b"another light")
    assert client.upload_shot(folder, quiet) == shot
    assert (server.store / "shots" / shot / "data" / "0002.exr").read_bytes() == b"another light"


def test_a_download_fetches_only_what_is_not_there_whole(client, tmp_path):
    job = submitted(client, write_shot(tmp_path / "shot", "again"))
    list(client.wait(job))
    frame, take = client.download(job, tmp_path / "take", quiet)
    inode = frame.stat().st_ino
    take.write_text("damaged")
    client.download(job, tmp_path / "take", quiet)
    assert frame.stat().st_ino == inode
    assert "process" in json.loads(take.read_text())


def test_a_wait_can_be_stepped_by_a_window(client, tmp_path):
    job = submitted(client, write_shot(tmp_path / "shot"), "slow")
    wait = client.wait(job)
    for _ in range(20):
        start = time.monotonic()
        next(wait)
        assert time.monotonic() - start < 0.5
    client.cancel(job)
    with pytest.raises(ServerError, match="The job was cancelled") as caught:
        list(wait)
    assert caught.value.code == "cancelled"


def test_a_wait_that_is_left_leaves_no_thread(client, tmp_path):
    job = submitted(client, write_shot(tmp_path / "shot"), "slow")
    wait = client.wait(job)
    next(wait)
    wait.close()
    client.cancel(job)
    deadline = time.monotonic() + 5
    while any(thread.name == "medm-wait" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_failed_job_says_why(client, tmp_path):
    with pytest.raises(ServerError, match=r"^the shot shows nothing$"):
        list(client.wait(submitted(client, write_shot(tmp_path / "shot"), "refused")))


def test_the_servers_own_words_reach_the_user(client, tmp_path):
    shot = client.upload_shot(write_shot(tmp_path / "shot"), quiet)
    with pytest.raises(ServerError, match="promt: there is no such setting") as caught:
        client.submit(shot, {"promt": "gold"})
    assert caught.value.code == "bad_input"


def test_a_wrong_token_is_named(server):
    with pytest.raises(ServerError, match="does not take this token") as caught:
        Client(server.url, "wrong").health()
    assert caught.value.code == "wrong_token"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_no_server_is_named_with_what_to_do():
    with pytest.raises(ServerError, match=r"^No MeDM server answers at http://127.0.0.1:\d+ .*medm serve") as caught:
        Client(f"127.0.0.1:{free_port()}", "token").health()
    assert caught.value.code == "unreachable"


@pytest.mark.parametrize("url", ["", "http://", "ftp://x", "http://host:port", "http://host:99999"])
def test_what_is_no_address_is_named(url):
    with pytest.raises(ServerError, match="is not the address of a server"):
        Client(url, "token")


def test_something_else_that_answers_is_not_taken_for_a_server():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ServerError, match="is not a MeDM server"):
            Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "token").health()


def test_proxies_of_the_environment_are_passed_by(client, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert client.health()["status"] == "ok"


def test_a_server_that_dies_ends_the_wait_with_an_error_in_seconds(tmp_path):
    server = ServerProcess(tmp_path / "store")
    client = Client(server.url, server.token)
    wait = client.wait(submitted(client, write_shot(tmp_path / "shot"), "slow"))
    next(wait)
    server.kill()
    start = time.monotonic()
    with pytest.raises(ServerError, match="No MeDM server answers"):
        list(wait)
    assert time.monotonic() - start < PATIENCE + 3


def test_a_shot_folder_that_lacks_a_file_is_named(client, tmp_path):
    folder = write_shot(tmp_path / "shot")
    (folder / "data" / "0002.exr").unlink()
    with pytest.raises(ServerError, match=r"0002\.exr cannot be used: No such file"):
        client.upload_shot(folder, quiet)
    (folder / "shot.json").write_text("{}")
    with pytest.raises(ServerError, match="holds no shot of MeDM"):
        client.upload_shot(folder, quiet)


def test_a_local_server_serves_and_ends_with_its_block(tmp_path):
    with LocalServer(Path(sys.executable), tmp_path / "store") as local:
        assert Client(local.url, local.token).health()["status"] == "ok"
        assert local.running
        url, token = local.url, local.token
    assert not local.running
    with pytest.raises(ServerError, match="No MeDM server answers"):
        Client(url, token).health()


def test_a_local_server_does_not_outlive_the_process_that_started_it(tmp_path):
    lines = f"""
import os, sys, pathlib
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from medm_blender.local_server import LocalServer
local = LocalServer(pathlib.Path(sys.executable), pathlib.Path({str(tmp_path / "store")!r}))
local.start()
print(local.url, local.token, flush=True)
os._exit(1)  # as a crash of Blender would
"""
    output = subprocess.run([sys.executable, "-c", lines], stdout=subprocess.PIPE, text=True, timeout=60).stdout
    client = Client(*output.split())
    deadline = time.monotonic() + 10
    while True:
        try:
            client.health()
        except ServerError:
            return
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_local_server_that_cannot_start_says_why(tmp_path):
    with pytest.raises(ServerError, match=r"cannot be started with .*: No such file"):
        LocalServer(tmp_path / "python", tmp_path / "store").start()
    with LocalServer(Path(sys.executable), tmp_path / "store"), pytest.raises(ServerError, match="another MeDM server works in"):
        LocalServer(Path(sys.executable), tmp_path / "store").start()


def test_a_local_server_is_not_led_astray_by_blenders_python(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    monkeypatch.chdir(tmp_path)
    with LocalServer(Path(sys.executable), tmp_path / "store") as local:
        assert Client(local.url, local.token).health()["status"] == "ok"

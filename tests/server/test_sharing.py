"""How the programs of one machine find, start, share and leave a server: real processes, killed as a crash would."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest

import medm
from medm_blender import local_server
from medm_blender.client import VERSION, ServerError
from medm_blender.local_server import Target
from service_process import ROOT, ServerProcess, write_shot

BLENDER = f"""
import pathlib, sys
sys.path.insert(0, {str(ROOT)!r})
from medm_blender import local_server
target = local_server.Target(python=pathlib.Path({sys.executable!r}), store=pathlib.Path(sys.argv[1]), stop_when_unused=True)
print(local_server.connect(target).url, flush=True)
sys.stdin.read()
"""
"""A program that needs the server until its standard input ends, as a Blender does."""


@pytest.fixture
def store(tmp_path):
    store = tmp_path / "store"
    yield store
    local_server.release()
    local_server.stop(store)


class Blender:
    def __init__(self, store):
        self.process = subprocess.Popen([sys.executable, "-c", BLENDER, store], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def url(self):
        return self.process.stdout.readline().strip()

    def crash(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stdin.close()


def target(store, **options):
    return Target(python=Path(sys.executable), store=store, **options)


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pid_of(store):
    return json.loads((store / "server.json").read_text())["pid"]


def submit_slow(client, folder):
    return client.submit(client.upload_shot(write_shot(folder), lambda *_: None), {"model": "quick", "prompt": "slow"})


def test_two_blenders_that_start_at_the_same_moment_share_one_server(store):
    blenders = [Blender(store) for _ in range(3)]
    urls = {blender.url() for blender in blenders}
    assert len(urls) == 1 and urls != {""}
    assert local_server.find(store).url in urls
    assert local_server.log_tail(store).count("medm_ready") == 1
    for blender in blenders[:2]:
        blender.crash()
    time.sleep(7)
    assert local_server.find(store) is not None, "one Blender still needs it"
    blenders[2].crash()
    wait_until(lambda: local_server.find(store) is None)
    wait_until(lambda: not (store / "server.json").exists())
    assert list((store / "leases").iterdir()) == []


def test_what_is_said_of_the_server_is_for_its_owner_alone(store):
    client = local_server.connect(target(store))
    assert (store / "server.json").stat().st_mode & 0o777 == 0o600
    document = json.loads((store / "server.json").read_text())
    assert (document["url"], document["version"], document["stops_when_unused"]) == (client.url, VERSION, True)
    local_server.stop(store)
    assert local_server.find(store) is None and not (store / "server.json").exists()


def test_a_server_that_was_killed_is_followed_by_another(store):
    local_server.connect(target(store))
    killed = pid_of(store)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: local_server.find(store) is None)
    assert (store / "server.json").exists(), "what it had said is still there"
    assert local_server.connect(target(store)).health()["status"] == "ok"
    assert pid_of(store) != killed


def test_a_server_that_is_killed_in_a_job_comes_back_once_for_all_and_goes_on(store, tmp_path):
    server = ServerProcess(store, "--stop-when-unused")
    blender = Blender(store)
    client = local_server.connect(target(store))
    assert blender.url() == client.url
    job = submit_slow(client, tmp_path / "shot")
    wait_until(lambda: client.job(job)["state"] == "running")
    server.kill()
    with pytest.raises(ServerError, match="No MeDM server answers"):
        list(client.wait(job))
    clients = []
    threads = [threading.Thread(target=lambda: clients.append(local_server.connect(target(store)))) for _ in range(3)]
    other = Blender(store)  # and from another process
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {client.url for client in clients} == {other.url()}
    wait_until(lambda: clients[0].job(job)["state"] in ("running", "done", "failed"))
    assert len(list((store / "leases").iterdir())) == 3
    clients[0].cancel(job)
    for each in (blender, other):
        each.crash()


def test_a_folder_of_leases_that_was_removed_is_no_lease(store):
    local_server.connect(target(store))
    shutil.rmtree(store / "leases")
    wait_until(lambda: local_server.find(store) is None)


def test_a_server_needs_no_file_with_its_token_once_it_runs(store):
    local_server.connect(target(store))
    (store / "token").unlink()
    assert local_server.connect(target(store)).jobs() == []
    local_server.stop(store)
    assert local_server.connect(target(store)).jobs() == []
    assert (store / "token").is_file()


def test_a_server_that_was_told_to_stay_stays(store):
    local_server.connect(target(store, stop_when_unused=False))
    local_server.release()
    time.sleep(7)
    assert local_server.find(store) is not None


def test_a_server_that_somebody_else_started_is_used(store):
    other = ServerProcess(store)
    assert local_server.connect(target(store)).url == other.url
    assert local_server.find(store).url == other.url
    other.stop()
    assert local_server.find(store) is None


def test_a_job_keeps_the_server_until_it_is_done(store, tmp_path):
    server = ServerProcess(store, "--stop-when-unused")
    job = submit_slow(local_server.connect(target(store)), tmp_path / "shot")
    local_server.release()
    time.sleep(7)
    client = local_server.find(store)
    assert client is not None and client.job(job)["state"] == "running"
    client.cancel(job)
    wait_until(lambda: server.process.poll() is not None)
    assert server.process.returncode == 0
    server._end()


def test_who_comes_while_the_server_ends_gets_a_server(store):
    """Again and again at the moment when it finds that it is not needed."""
    for pause in (4.8, 5.2, 5.4, 5.6):
        local_server.connect(target(store))
        local_server.release()
        time.sleep(pause)
        client = local_server.connect(target(store))
        time.sleep(1.2)
        assert client.health()["status"] == "ok"
        local_server.release()


def test_without_an_environment_there_is_nothing_to_start(store):
    with pytest.raises(ServerError, match="install it in the add-on's preferences") as caught:
        local_server.connect(Target(store=store))
    assert caught.value.code == "not_installed"


def test_a_server_of_another_version_makes_way_if_nobody_needs_it(store, monkeypatch):
    local_server.connect(target(store))
    before = pid_of(store)
    monkeypatch.setattr(local_server, "VERSION", "9.9.9")
    blender = Blender(store)
    assert blender.url()
    with pytest.raises(ServerError, match=f"version {VERSION} runs .* another Blender uses it") as caught:
        local_server.connect(target(store))
    assert caught.value.code == "wrong_version"
    blender.crash()
    local_server.connect(target(store))
    assert pid_of(store) != before


def test_a_server_of_another_version_that_somebody_started_by_hand_is_left_alone(store, monkeypatch):
    server = ServerProcess(store)
    monkeypatch.setattr(local_server, "VERSION", "9.9.9")
    with pytest.raises(ServerError, match=rf"end it \(process {server.process.pid}\)"):
        local_server.connect(target(store))
    server.stop()


def test_a_server_of_the_network_is_found_here_and_not_stopped_from_here(store):
    command = [sys.executable, "-m", "medm.cli", "serve", "--host", "0.0.0.0", "--port", "0", "--store", store]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline().startswith("medm_ready http://0.0.0.0:")
    client = local_server.connect(target(store))
    assert client.url.startswith("http://127.0.0.1:") and client.health()["status"] == "ok"
    with pytest.raises(ServerError, match="end it where it was started"):
        local_server.stop(store)
    server.terminate()
    assert server.wait(10) == 0
    server.stdout.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 9000,
        "7",
        '{"url": 7, "token": "x"}',
        '{"url": "http://192.0.2.1:80", "token": "secret"}',
        '{"url": "http://evil.example:80", "token": "secret"}',
        '{"url": "http://[::1", "token": "x"}',
        '{"url": "file:///etc/passwd", "token": "x"}',
        '{"url": "http://127.0.0.1:99999", "token": "x"}',
        '{"url": "http://127.0.0.1:1", "token": "x\\n"}',
        "\ud800".encode("utf-8", "surrogatepass"),
        "x" * 1_000_000,
    ],
)
def test_what_no_server_would_say_is_not_followed(tmp_path, text):
    store = tmp_path
    (store / "server.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    (store / "server.lock").touch()
    held = os.open(store / "server.lock", os.O_RDWR)
    local_server._lock(held)
    try:
        assert local_server.find(store) is None
    finally:
        os.close(held)


def test_the_token_is_not_sent_to_who_has_a_dead_servers_port(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (tmp_path / "server.json").write_text(json.dumps({"url": f"http://127.0.0.1:{port}", "token": "secret", "pid": os.getpid()}))
        (tmp_path / "server.lock").touch()
        listener.settimeout(0.5)
        assert local_server.find(tmp_path) is None
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ServerError, match="leases cannot be used: Not a directory"):
        local_server.connect(target(tmp_path / "file"))


def test_a_server_that_cannot_start_says_why(store):
    store.mkdir()
    (store / "token").write_text("short")
    with pytest.raises(ServerError, match=r"did not start: the token in .* is shorter than 16 characters"):
        local_server.connect(target(store))


def test_the_log_can_be_read(store):
    assert local_server.log_tail(store) == ""
    local_server.connect(target(store))
    assert "medm_ready" in local_server.log_tail(store)
    local_server.log_file(store).write_text("\n".join(f"line {n}" for n in range(10_000)))
    assert local_server.log_tail(store, 2) == "line 9998\nline 9999"


def test_the_add_on_and_its_server_have_one_version():
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text())
    assert medm.__version__ == VERSION == manifest["version"]

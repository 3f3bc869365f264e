"""Jobs from the queue to their end, however that comes: done, cancelled, crashed, killed, the server itself killed."""

import hashlib
import http.client
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from medm.service.store import Store
from medm.service.worker import Worker, _describe
from quick_server import deaf_render
from service_process import ServerProcess, manifest


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ServerProcess(tmp_path_factory.mktemp("jobs") / "store")
    yield server
    server.stop()


def submit(server, prompt, content=b"content "):
    _, _, shot = server.request("POST", "/v1/shots", manifest("jobs"))
    for number in (1, 2):
        path = f"/v1/shots/{shot['id']}/files/data/{number:04d}.exr"
        assert server.request("PUT", path, content, X_Content_SHA256=hashlib.sha256(content).hexdigest())[0] == 201
    status, _, job = server.request("POST", "/v1/jobs", {"shot": shot["id"], "settings": {"prompt": prompt, "model": "quick"}})
    assert status == 201
    return job["id"]


def worker_of(server, job):
    """The process that made a take, as the quick server's takes say."""
    return server.request("GET", f"/v1/jobs/{job}/files/take.json")[2]["process"]


def listen(server, job):
    """An open stream of a job's events, which has brought one."""
    listener = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    listener.request("GET", f"/v1/jobs/{job}/events", headers={"Authorization": f"Bearer {server.token}", "Connection": "close"})
    answer = listener.getresponse()
    assert answer.readline().startswith(b"data: ")
    return answer


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_jobs_go_through_one_worker_one_after_the_other(server):
    first, second = submit(server, "quick"), submit(server, "quick")
    assert server.wait(first, "done", "failed")["finished"] <= server.wait(second, "done", "failed")["started"]
    assert worker_of(server, first) == worker_of(server, second) != server.process.pid


def test_a_running_job_stops_when_cancelled_and_leaves_nothing(server):
    job = submit(server, "slow")
    waiting = submit(server, "quick")
    wait_until(lambda: server.request("GET", f"/v1/jobs/{job}")[2]["progress"] > 0)
    assert server.request("POST", f"/v1/jobs/{waiting}/cancel")[2]["state"] == "cancelled"
    server.request("POST", f"/v1/jobs/{job}/cancel")
    assert server.wait(job, "cancelled", "failed", "done")["state"] == "cancelled"
    assert server.request("GET", f"/v1/jobs/{job}/files/")[2] == {"files": []}
    wait_until(lambda: not list((server.store / "jobs" / job).iterdir()))
    assert server.wait(submit(server, "quick"), "done", "failed")["state"] == "done"
    assert server.request("POST", f"/v1/jobs/{job}/cancel")[2]["state"] == "cancelled"


def test_a_killed_worker_fails_its_job_with_a_reason_and_the_next_job_works(server):
    failed = server.wait(submit(server, "killed"), "failed", "done")
    assert failed["error"]["code"] == "worker_died"
    assert "memory ran out" in failed["error"]["message"]
    assert server.wait(submit(server, "quick"), "failed", "done")["state"] == "done"


def test_a_defect_fails_its_job_in_one_line_and_the_next_job_gets_a_fresh_process(server):
    before = submit(server, "quick")
    server.wait(before, "done")
    failed = server.wait(submit(server, "defect"), "failed", "done")
    assert failed["error"]["code"] == "internal"
    assert "RuntimeError: shapes do not match)" in failed["error"]["message"]
    assert "second line" not in failed["error"]["message"]
    after = submit(server, "quick")
    server.wait(after, "done")
    assert worker_of(server, after) != worker_of(server, before)


def test_memory_that_ran_out_is_named_wherever_it_did():
    for amount in (bytearray, torch.empty):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            amount(2**46)
        assert _describe(caught.value) == "memory ran out; try fewer frames or a smaller size, or close other programs"


def test_a_refusal_of_the_renderer_reaches_the_artist(server):
    failed = server.wait(submit(server, "refused"), "failed", "done")
    assert failed["error"] == {"code": "bad_input", "message": "the shot shows nothing"}


def test_a_job_keeps_the_files_that_it_was_submitted_with(server):
    blocker = submit(server, "slow")
    job = submit(server, "quick", b"old")
    submit(server, "quick", b"new")
    server.request("POST", f"/v1/jobs/{blocker}/cancel")
    server.wait(job, "done")
    assert server.request("GET", f"/v1/jobs/{job}/files/frames/0001.png")[2] == b"oldold"


def test_a_server_that_was_killed_takes_its_jobs_up_again(tmp_path):
    store = tmp_path / "store"
    first = ServerProcess(store)
    done = submit(first, "quick")
    first.wait(done, "done")
    worker = worker_of(first, done)
    running, queued = submit(first, "slow"), submit(first, "quick")
    wait_until(lambda: first.request("GET", f"/v1/jobs/{running}")[2]["progress"] > 0)
    first.kill()
    wait_until(lambda: not is_alive(worker))  # a worker without its server ends itself
    (store / "incoming" / "half").write_bytes(b"an upload that never ended")

    second = ServerProcess(store)
    assert second.token == first.token
    assert second.request("GET", f"/v1/jobs/{done}/files/frames/0001.png")[2] == b"content content "
    second.wait(running, "running")
    assert second.request("GET", f"/v1/jobs/{queued}")[2]["state"] == "queued"
    assert not list((store / "incoming").iterdir())
    second.request("POST", f"/v1/jobs/{running}/cancel")
    assert second.wait(queued, "done", "failed")["state"] == "done"
    second.stop()


def test_one_store_has_one_server(server):
    other = subprocess.run(
        [sys.executable, "-m", "medm.cli", "serve", "--port", "0", "--store", server.store], capture_output=True, text=True
    )
    assert other.returncode == 3
    assert other.stderr.startswith("medm: another MeDM server works in ") and other.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_server_and_worker_at_once_though_a_client_listens(tmp_path, number):
    server = ServerProcess(tmp_path / "store")
    quick = submit(server, "quick")
    server.wait(quick, "done")
    worker = worker_of(server, quick)
    running = submit(server, "slow")
    server.wait(running, "running")
    listener = listen(server, running)
    start = time.monotonic()
    os.kill(server.process.pid, number)
    server._end()
    listener.close()
    assert (server.process.returncode, is_alive(worker)) == (0, False)
    assert time.monotonic() - start < 5
    with sqlite3.connect(server.store / "medm.sqlite3") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_process_that_serves_never_loads_torch(server):
    server.wait(submit(server, "quick"), "done")
    assert "torch" not in Path(f"/proc/{server.process.pid}/maps").read_text()


def test_a_client_that_leaves_its_events_leaves_nothing_open(server):
    job = submit(server, "slow")
    server.wait(job, "running")

    def open_files():
        return sum(1 for _ in Path(f"/proc/{server.process.pid}/fd").iterdir())

    listeners = [listen(server, job) for _ in range(10)]
    before = open_files()
    for listener in listeners:
        listener.close()
    wait_until(lambda: open_files() <= before - 10)
    server.request("POST", f"/v1/jobs/{job}/cancel")


def test_a_job_that_is_deaf_to_its_cancelling_is_ended_with_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr("medm.service.worker.CANCEL_GRACE", 0.5)
    store = Store(tmp_path / "store")
    shot = store.add_shot(manifest(frames=1))
    with store.incoming() as file:
        file.write(b"data")
        store.keep_shot_file(shot, "data/0001.exr", file)
    worker = Worker(store, deaf_render)
    job = store.add_job(shot, {})
    worker.start()
    try:
        wait_until(lambda: store.job(job.id).phase == "deaf")
        store.cancel(job.id)
        wait_until(lambda: store.job(job.id).is_finished)
        assert store.job(job.id).state == "cancelled"
    finally:
        worker.stop()
        store.close()

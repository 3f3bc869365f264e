"""The HTTP API as it goes over the wire, against a real server process."""

import hashlib
import re
import threading

import pytest

from medm.service.app import create_app
from medm.service.server import _Server
from medm.service.store import Store
from medm.service.worker import Worker
from service_process import ROOT, ServerProcess, manifest


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ServerProcess(tmp_path_factory.mktemp("http") / "store")
    yield server
    server.stop()


QUICK = {"model": "quick"}
"""Settings with the model that the test's server brings."""


def put(server, shot, path, data, digest=None, **headers):
    digest = digest or hashlib.sha256(data).hexdigest()
    return server.request("PUT", f"/v1/shots/{shot}/files/{path}", data, X_Content_SHA256=digest, **headers)


def add_shot(server, name, **options):
    status, _, answer = server.request("POST", "/v1/shots", manifest(name, **options))
    assert status == 201
    return answer["id"]


def error_of(answer):
    status, _, document = answer
    assert set(document) == {"error"} and set(document["error"]) == {"code", "message"}
    assert "\n" not in document["error"]["message"]
    return status, document["error"]["code"], document["error"]["message"]


def files_of(store):
    return {path for path in store.parent.rglob("*") if path.is_file() and "sqlite" not in path.name}


def test_health_says_the_version_to_who_has_the_token(server):
    status, _, document = server.request("GET", "/v1/health")
    assert (status, document["status"]) == (200, "ok")


@pytest.mark.parametrize("path", ["/v1/health", "/v1/jobs", "/v1/jobs/x/files/take.json", "/nowhere"])
def test_every_route_wants_the_token(server, path):
    assert error_of(server.request("GET", path, token="x" * 43))[:2] == (401, "wrong_token")
    assert error_of(server.request("GET", path, Authorization=f"Basic {server.token}"))[:2] == (401, "wrong_token")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "localhost:1:evil"])
def test_a_foreign_host_header_is_refused(server, host):
    assert error_of(server.request("GET", "/v1/health", Host=host))[:2] == (403, "wrong_host")


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8765"])
def test_its_own_names_are_taken(server, host):
    assert server.request("GET", "/v1/health", Host=host)[0] == 200


def test_the_token_is_for_its_owner_alone(server):
    assert (server.store / "token").stat().st_mode & 0o777 == 0o600
    assert server.store.stat().st_mode & 0o777 == 0o700


def test_errors_are_documents(server):
    assert error_of(server.request("GET", "/v1/nothing"))[:2] == (404, "not_found")
    assert error_of(server.request("DELETE", "/v1/jobs"))[:2] == (405, "method_not_allowed")
    assert error_of(server.request("POST", "/v1/shots", b"{no"))[:2] == (400, "bad_input")
    assert error_of(server.request("GET", "/v1/jobs/x"))[:2] == (404, "not_found")


def test_models_are_named_with_their_licences(server):
    (server.store / "models" / "notes.txt").write_text("no model")
    (server.store / "models" / "half").mkdir(exist_ok=True)
    _, _, document = server.request("GET", "/v1/models")
    assert [(model["id"], model["licence"]) for model in document["models"]] == [("bundled", "CC0-1.0"), ("quick", "see its model card")]
    assert document["models"][1]["available"] is True


def test_an_upload_knows_what_is_missing_and_what_is_there(server):
    shot = add_shot(server, "upload")
    data = b"pixels" * 100_000
    assert server.request("HEAD", f"/v1/shots/{shot}/files/data/0001.exr")[0] == 404
    assert put(server, shot, "data/0001.exr", data)[0] == 201
    status, headers, _ = server.request("HEAD", f"/v1/shots/{shot}/files/data/0001.exr")
    assert (status, headers["X-Content-SHA256"], headers["X-Content-Size"]) == (200, hashlib.sha256(data).hexdigest(), "600000")
    _, _, again = server.request("POST", "/v1/shots", manifest("upload"))
    assert again == {"id": shot, "missing": ["data/0002.exr"]}


def test_a_damaged_file_is_not_kept(server):
    shot = add_shot(server, "damaged")
    assert error_of(put(server, shot, "data/0001.exr", b"one", hashlib.sha256(b"other").hexdigest()))[:2] == (400, "digest_mismatch")
    assert error_of(put(server, shot, "data/0001.exr", b"one", "abc"))[:2] == (400, "bad_input")
    assert server.request("HEAD", f"/v1/shots/{shot}/files/data/0001.exr")[0] == 404
    assert not list((server.store / "incoming").iterdir())


def test_a_file_that_is_too_large_is_refused_before_it_is_read(server):
    shot = add_shot(server, "large")
    answer = server.request(
        "PUT", f"/v1/shots/{shot}/files/data/0001.exr", None, X_Content_SHA256="0" * 64, Content_Length=str(3 * 1024**3)
    )
    assert error_of(answer)[:2] == (413, "too_large")


@pytest.mark.parametrize(
    "path",
    [
        "shot.json",
        "data/0009.exr",
        "../../token",
        "data/../../../token",
        "%2e%2e/%2e%2e/token",
        "..%2f..%2ftoken",
        "/etc/passwd",
        "%2Fetc/x",
        "",
    ],
)
def test_only_files_that_the_manifest_lists_are_written(server, path):
    shot = add_shot(server, "escape")
    before = files_of(server.store)
    assert error_of(put(server, shot, path, b"evil"))[0] in (404, 405)
    assert server.request("HEAD", f"/v1/shots/{shot}/files/{path}")[0] == 404
    assert files_of(server.store) == before


@pytest.mark.parametrize(
    "path", ["../x.exr", "/x.exr", "a/../../x", "a//b", ".hidden", "C:\\x", "a\\b", "shot.json", "", "a\0b", "a/./b", 7, "x" * 400]
)
def test_a_manifest_cannot_name_files_outside(server, path):
    for kind in ("data", "beauty", "rest"):
        document = manifest("outside")
        document["frames"][0][kind] = path
        assert error_of(server.request("POST", "/v1/shots", document))[:2] == (400, "bad_input")


def test_rest_files_are_awaited_too(server):
    document = manifest("rest")
    document["frames"][1]["rest"] = "rest/0002.exr"
    _, _, shot = server.request("POST", "/v1/shots", document)
    assert shot["missing"] == ["data/0001.exr", "data/0002.exr", "rest/0002.exr"]
    assert put(server, shot["id"], "rest/0002.exr", b"rest")[0] == 201


@pytest.mark.parametrize("document", [[], {}, {"format": "medm-shot", "version": 2}, {"format": "medm-shot", "version": 1, "frames": []}])
def test_what_is_no_manifest_is_refused(server, document):
    assert error_of(server.request("POST", "/v1/shots", document))[:2] == (400, "bad_input")


def test_a_job_needs_all_files_and_says_which_are_missing(server):
    shot = add_shot(server, "incomplete", frames=6)
    put(server, shot, "data/0002.exr", b"two")
    status, code, message = error_of(server.request("POST", "/v1/jobs", {"shot": shot, "settings": QUICK}))
    assert (status, code) == (400, "bad_input")
    assert "data/0001.exr, data/0003.exr, data/0004.exr and 2 more" in message


def complete_shot(server, name):
    shot = add_shot(server, name)
    for number in (1, 2):
        assert put(server, shot, f"data/{number:04d}.exr", f"{name} {number};".encode())[0] == 201
    return shot


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"promt": "gold"}, "promt: there is no such setting"),
        ({"w": 1.5}, "w: Input should be less than or equal to 1"),
        ({"mode": "half", "w": -1}, "(and 1 more)"),
        ({"model": "x" * 2000}, "model: String should have at most 1000 characters"),
        ({"w": float("nan")}, "w: "),
        ({"mode": "assistive"}, "needs your own render of every frame"),
        ([], "valid dictionary"),
    ],
)
def test_wrong_settings_are_named(server, settings, says):
    shot = complete_shot(server, "settings")
    status, code, message = error_of(server.request("POST", "/v1/jobs", {"shot": shot, "settings": settings}))
    assert (status, code) == (400, "bad_input")
    assert says in message


@pytest.mark.parametrize("model", ["/etc", "../models/quick", "..", ".", "quick/unet", "..\\models", "~", "quick/../quick"])
def test_a_job_cannot_name_a_folder_of_the_servers_machine(server, model):
    shot = complete_shot(server, "model")
    status, code, message = error_of(server.request("POST", "/v1/jobs", {"shot": shot, "settings": {"model": model}}))
    assert (status, code) == (400, "bad_input")
    assert f"{model!r} names none" in message and str(server.store / "models") in message


@pytest.mark.parametrize("kind", ["lora", "embeddings"])
@pytest.mark.parametrize("name", ["../token.safetensors", "/etc/passwd.safetensors", "a\\b.safetensors"])
def test_nor_weights_that_lie_elsewhere(server, kind, name):
    for path, document in (
        ("/v1/settings", {kind: name}),
        ("/v1/jobs", {"shot": complete_shot(server, "weights"), "settings": {kind: name}}),
    ):
        status, code, message = error_of(server.request("POST", path, document))
        assert (status, code) == (400, "bad_input")
        assert "the names of files in" in message


def test_weights_that_are_not_there_are_named_before_a_job_is_queued(server):
    shot = complete_shot(server, "weights")
    status, code, message = error_of(server.request("POST", "/v1/jobs", {"shot": shot, "settings": {"lora": "look.safetensors:0.5"}}))
    assert (status, code) == (503, "unavailable")
    assert "there is no look.safetensors in" in message


def test_a_model_that_is_not_there_is_named_before_a_job_is_queued(server):
    shot = complete_shot(server, "model")
    before = len(server.request("GET", "/v1/jobs")[2]["jobs"])
    status, code, message = error_of(server.request("POST", "/v1/jobs", {"shot": shot, "settings": {"model": "sd15"}}))
    assert (status, code) == (503, "unavailable")
    assert f"there is no model in {server.store / 'models' / 'sd15'}" in message
    (server.store / "models" / "empty").mkdir(exist_ok=True)
    status, code, message = error_of(server.request("POST", "/v1/jobs", {"shot": shot, "settings": {"model": "empty"}}))
    assert (status, code) == (400, "bad_input")
    assert "is not a diffusers model" in message
    assert len(server.request("GET", "/v1/jobs")[2]["jobs"]) == before


def test_a_job_says_the_model_as_it_was_named(server):
    """Not as a path of the server's: the settings can be submitted again, there and elsewhere."""
    shot = complete_shot(server, "model")
    _, _, job = server.request("POST", "/v1/jobs", {"shot": shot, "settings": QUICK})
    assert job["settings"]["model"] == "quick"
    assert server.request("POST", "/v1/jobs", {"shot": shot, "settings": job["settings"]})[0] == 201


def test_a_job_on_an_unknown_shot_is_refused(server):
    assert error_of(server.request("POST", "/v1/jobs", {"shot": "0" * 32}))[:2] == (404, "not_found")
    assert error_of(server.request("POST", "/v1/jobs", {"settings": {}}))[:2] == (400, "bad_input")


def test_a_take_is_listed_with_digests_and_nothing_else_is_given(server):
    shot = complete_shot(server, "take")
    _, _, job = server.request("POST", "/v1/jobs", {"shot": shot, "settings": {**QUICK, "seed": 3}})
    assert (job["state"], job["settings"]["seed"], job["settings"]["w"]) == ("queued", 3, 1.0)
    done = server.wait(job["id"], "done", "failed")
    assert (done["state"], done["progress"], done["error"]) == ("done", 1, None)
    files = server.request("GET", f"/v1/jobs/{job['id']}/files/")[2]["files"]
    assert [file["path"] for file in files] == ["frames/0001.png", "take.json"]
    status, headers, data = server.request("GET", f"/v1/jobs/{job['id']}/files/frames/0001.png")
    assert (status, data) == (200, b"take 1;take 2;")
    assert hashlib.sha256(data).hexdigest() == headers["X-Content-SHA256"] == files[0]["sha256"]
    for path in ("../../../token", "%2e%2e/%2e%2e/%2e%2e/token", "..%2f..%2f..%2ftoken", "frames", "/etc/passwd", "../shot/shot.json"):
        assert error_of(server.request("GET", f"/v1/jobs/{job['id']}/files/{path}"))[0] == 404
    assert job["id"] in [entry["id"] for entry in server.request("GET", "/v1/jobs")[2]["jobs"]]


def test_events_tell_every_job_to_its_end(server):
    shot = complete_shot(server, "events")
    _, _, job = server.request("POST", "/v1/jobs", {"shot": shot, "settings": QUICK})
    status, headers, stream = server.request("GET", f"/v1/jobs/{job['id']}/events")
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    events = [event for event in stream.decode().split("\n\n") if event]
    assert all(event.startswith("data: {") for event in events)
    assert '"state": "done"' in events[-1]
    late = server.request("GET", f"/v1/jobs/{job['id']}/events")[2].decode()
    assert late.count("data: ") == 1


def test_two_uploads_of_one_file_at_once_leave_one_whole_file(server):
    shot = add_shot(server, "race")
    contents = [bytes([letter]) * 2_000_000 for letter in b"ab"]
    threads = [threading.Thread(target=put, args=(server, shot, "data/0001.exr", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    digest = server.request("HEAD", f"/v1/shots/{shot}/files/data/0001.exr")[1]["X-Content-SHA256"]
    stored = (server.store / "shots" / shot / "data" / "0001.exr").read_bytes()
    assert hashlib.sha256(stored).hexdigest() == digest
    assert stored in contents


def test_the_documentation_names_every_route_and_no_other(tmp_path):
    store = Store(tmp_path / "store")
    app = create_app(store, Worker(store), "x" * 16, None, _Server(""))
    served = {f"{method} {route.path.replace(':path', '')}" for route in app.routes for method in route.methods}
    served -= {f"HEAD {route.path.replace(':path', '')}" for route in app.routes if "GET" in route.methods}  # every GET takes HEAD too
    text = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([A-Z]+ /v1/[^`]*)`", text, re.MULTILINE)) == served
    store.close()


def test_a_part_of_a_file_is_served(server):
    shot = complete_shot(server, "range")
    _, _, job = server.request("POST", "/v1/jobs", {"shot": shot, "settings": QUICK})
    server.wait(job["id"], "done")
    status, _, data = server.request("GET", f"/v1/jobs/{job['id']}/files/frames/0001.png", Range="bytes=6-7")
    assert (status, data) == (206, b"1;")

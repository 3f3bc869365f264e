"""A take over HTTP with nothing stood in for: Blender's client, a real server process, its worker, a real pipeline in miniature."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import service_process  # noqa: F401  (finds medm_blender)
import synthetic
import tiny_models
from medm.evaluate import read_take
from medm.shot import Shot
from medm_blender.client import Client, ServerError
from medm_blender.local_server import LocalServer


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("render") / "store"
    tiny_models.write(store / "models" / "tiny")
    broken = tiny_models.write(store / "models" / "broken")
    next((broken / "vae").glob("*.safetensors")).write_bytes(b"not weights")
    with LocalServer(Path(sys.executable), store) as local:
        yield local


@pytest.fixture(scope="module")
def client(server):
    return Client(server.url, server.token)


@pytest.fixture(scope="module")
def shot(client, tmp_path_factory):
    """(folder, id) of a shot that is on the server."""
    folder = synthetic.write_shot(tmp_path_factory.mktemp("shot") / "shot")
    return folder, client.upload_shot(folder, lambda *_: None)


def taken(client, job, folder):
    """A job's take in `folder`, and what its waiting said."""
    states = list(client.wait(job))
    client.download(job, folder, lambda *_: None)
    return json.loads((folder / "take.json").read_text()), states


def test_a_shot_becomes_a_take_that_its_own_settings_repeat(client, server, shot, tmp_path):
    folder, name = shot
    assert [model["id"] for model in client.models()] == ["bundled", "broken", "tiny"]
    document, states = taken(client, client.submit(name, {"model": "tiny", "steps": 2, "seed": 7}), tmp_path / "take")
    assert [fraction for fraction, _ in states] == sorted(fraction for fraction, _ in states)
    assert {"load model", "align frames, step 1 of 2", "write take"} & {phase for _, phase in states}
    assert sorted(path.relative_to(tmp_path / "take").as_posix() for path in (tmp_path / "take").rglob("*.*")) == [
        *(f"frames/{number:04d}.png" for number in (1, 2, 3, 4)),
        "preview.mp4",
        "scan.png",
        "take.json",
    ]
    told = {"name": "tiny", "licence": "see its model card", "control": [{"kinds": ["lineart"], "weight": 1.0}], "guidance_scale": 7.5}
    assert told.items() <= document["model"].items()
    assert str(server.log.parent) not in json.dumps(document)

    again, _ = taken(client, client.submit(name, document["settings"]), tmp_path / "again")
    assert again == document
    opened = Shot.open(folder)
    assert np.array_equal(read_take(opened, tmp_path / "take"), read_take(opened, tmp_path / "again"))
    assert "Traceback" not in server.log.read_text()


def test_finer_data_rest_coordinates_and_objects_go_along(client, tmp_path):
    folder = synthetic.write_shot(tmp_path / "shot", synthetic.sliding_rectangle(), data_scale=3, rest=True, objects=True)
    name = client.upload_shot(folder, lambda *_: None)
    document, _ = taken(client, client.submit(name, {"model": "tiny", "steps": 2}), tmp_path / "take")
    assert read_take(Shot.open(folder), tmp_path / "take").shape == (4, 48, 64, 3)
    assert document["settings"]["steps"] == 2


def test_a_refusal_of_the_renderer_comes_back_and_the_next_take_is_made(client, server, shot, tmp_path):
    job = client.submit(shot[1], {"model": "broken"})
    with pytest.raises(ServerError, match="cannot be loaded") as caught:
        list(client.wait(job))
    assert caught.value.code == "bad_input"
    document, _ = taken(client, client.submit(shot[1], {"model": "tiny", "steps": 2, "mode": "assistive"}), tmp_path / "take")
    assert document["settings"]["mode"] == "assistive"
    assert "Traceback" not in server.log.read_text()

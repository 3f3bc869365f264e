"""Where the server is and how it is: the preferences of the installed extension, and what is said of real servers."""

from __future__ import annotations

import inspect
import json
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("bpy")

import bpy

from extension_package import in_blender
from medm_blender import client, install, preferences, server_operators, status
from medm_blender.install import InstallError, Package, Plan
from medm_blender.local_server import Target
from medm_blender.server_work import Worker
from medm_blender.status import Question
from test_package import INSTALL

pytestmark = pytest.mark.bpy


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("http://127.0.0.1:8765", True),
        ("localhost:8765", True),
        ("http://[::1]:8765", True),
        ("127.8.8.8", True),
        ("http://render-node:8765", False),
        ("10.0.0.7:8765", False),
        ("http://127.0.0.1.evil.org", False),
        ("http://127.0.0.1@evil.org", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_what_stays_on_this_computer(address, here):
    assert preferences.is_loopback(address) is here


# -- the state of a server ---------------------------------------------------------------------------------------------


def test_a_server_that_is_not_installed(tmp_path):
    assert status.ask(Question(Target(store=tmp_path))).state == "not_installed"


def test_a_server_that_is_off(tmp_path):
    now = status.ask(Question(Target(store=tmp_path, python=Path(sys.executable)), installed=client.VERSION))
    assert (now.state, now.message) == ("off", "The server starts when it is needed")


def test_an_installed_server_of_another_version(tmp_path):
    now = status.ask(Question(Target(store=tmp_path, python=Path(sys.executable)), installed="0.0.1"))
    assert (now.state, now.message) == ("wrong_version", f"Server 0.0.1 is installed; this is MeDM {client.VERSION}")


def test_a_server_that_answers(server):
    now = status.ask(Question(Target("remote", server.url, server.token)))
    assert now.state == "ready"
    assert now.version == client.VERSION
    assert now.models
    assert f"of {len(now.models)} models" in now.message
    assert status.ask(Question(Target("remote", server.url, server.token)), known=[]).models == []


def test_a_server_of_another_version(server, monkeypatch):
    monkeypatch.setattr(status, "VERSION", "9.9.9")
    now = status.ask(Question(Target("remote", server.url, server.token)))
    assert (now.state, now.message) == ("wrong_version", f"The server that runs is of version {client.VERSION}; this is MeDM 9.9.9")


@pytest.mark.parametrize(("address", "token"), [("http://127.0.0.1:9", "x"), (None, "wrong"), ("nonsense://", "x")])
def test_a_server_that_cannot_be_had(server, address, token):
    now = status.ask(Question(Target("remote", address or server.url, token)))
    assert now.state == "unreachable"
    assert now.message
    assert "\n" not in now.message


def test_no_server_may_be_asked():
    assert status.ask(Question(None, "Blender is offline")) == status.Status("unreachable", "Blender is offline")


# -- work --------------------------------------------------------------------------------------------------------------


def slowly(value=None, error=None):
    for step in range(3):
        yield step / 3, f"step {step}"
        time.sleep(0.01)
    if error:
        raise error
    return value


def test_work_is_shown_and_its_plan_kept(tmp_path):
    shown = []
    worker = Worker(shown.append)
    plan = Plan((Package("torch", "2", "torch.whl", 5, "pypi.org", False),), tmp_path, (), None, tmp_path)
    worker.start(slowly(plan), "begins")
    with pytest.raises(RuntimeError):
        worker.start(slowly(), "another")
    worker.join()
    assert shown == [(0.0, "begins"), (0.0, "step 0"), (1 / 3, "step 1"), (2 / 3, "step 2"), None]
    assert worker.plan is plan
    worker.run(slowly())
    assert worker.plan is None


def test_work_that_fails_says_so_in_one_line():
    worker = Worker(lambda _: None)
    for error in (InstallError("The disk is full"), client.ServerError("The disk is full", "x"), OSError(28, "The disk is full", "/x")):
        worker.start(slowly(error=error), "begins")
        worker.join()
        assert "The disk is full" in worker.error
    worker.start(slowly(), "again")
    worker.join()
    assert worker.error == ""


def test_work_that_is_cancelled_is_closed():
    closed = []

    def endless():
        try:
            while True:
                yield 0.0, "on and on"
                time.sleep(0.01)
        finally:
            closed.append(True)

    worker = Worker(lambda _: None)
    worker.start(endless(), "begins")
    worker.cancel(wait=2.0)
    assert closed == [True]
    assert not worker.running
    assert worker.error == ""


# -- in Blender --------------------------------------------------------------------------------------------------------


def test_operators_are_named_as_blender_names_its_own():
    for cls in server_operators._CLASSES:
        assert cls.bl_description
        assert not cls.bl_description.endswith(".")
        assert cls.bl_label == cls.bl_label.title()
    properties = {name: prop.keywords for name, prop in inspect.get_annotations(preferences.Preferences, eval_str=True).items()}
    for name, keywords in properties.items():
        assert keywords["description"], name
        assert not keywords["description"].endswith("."), name
    assert {item[0] for item in properties["torch_source"]["items"]} == set(install.TORCH_SOURCES)


PREFERENCES = """
import importlib, json
preferences = importlib.import_module("bl_ext.user_default.medm_blender.preferences")
status = importlib.import_module("bl_ext.user_default.medm_blender.status")
mine, found = preferences.get(), {}
found["offline"] = bpy.ops.medm.server_plan.poll()
bpy.context.preferences.system.use_online_access = True
found["online"] = bpy.ops.medm.server_plan.poll()
found["start"], found["cancel"] = bpy.ops.medm.server_start.poll(), bpy.ops.medm.server_cancel_install.poll()
found["log"] = bpy.ops.medm.server_log.poll()
bpy.context.preferences.system.use_online_access = False
mine.server_kind = "REMOTE"
found["nowhere"] = status.refresh(wait=True).message
mine.remote_url = "http://render-node:8765"
found["far"] = status.refresh(wait=True).message
mine.remote_url, mine.remote_token = sys.argv[2:4]
found["near"] = status.refresh(wait=True).state
found["test"] = list(bpy.ops.medm.server_test())
mine.server_kind = "LOCAL"
mine.stop_with_blender = False
found["stops"] = preferences.target().stop_when_unused
print("found", json.dumps(found))
"""


def test_the_installed_extensions_preferences(built_extension, server, tmp_path):
    said, errors = in_blender(tmp_path, INSTALL + PREFERENCES, built_extension.zip, server.url, server.token)
    found = json.loads(next(line for line in said.splitlines() if line.startswith("found ")).removeprefix("found "))
    assert found == {
        "offline": False,
        "online": True,
        "start": False,
        "cancel": False,
        "log": False,
        "nowhere": "The server's address is not given: see the add-on's preferences",
        "far": "Blender is offline: Allow Online Access in Preferences > System > Network",
        "near": "ready",
        "test": ["FINISHED"],
        "stops": False,
    }
    assert "Error" not in errors


def test_without_being_enabled_the_defaults_apply():
    assert preferences.get() is None
    target = preferences.target()
    assert (target.kind, target.stop_when_unused) == ("local", True)
    assert bpy.app.background

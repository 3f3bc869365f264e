"""The add-on's tests run inside Blender's Python module: `.venv-bpy/bin/python -m pytest tests/addon`, also with .venv-bpy-4.5."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVER_PYTHON = ROOT / (".venv/Scripts/python.exe" if os.name == "nt" else ".venv/bin/python")
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]
sys.path.append(str(ROOT / "tests" / "server"))  # for service_process: the server that both sides' tests talk to

_exit_status = 0


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    global _exit_status
    _exit_status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """The 4.5 module can hang in its own clean-up when the process ends."""
    bpy = sys.modules.get("bpy")
    if bpy is not None and bpy.app.version < (5, 0, 0):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_status)


@pytest.fixture
def fresh():
    """An empty file in Blender before the test."""
    from staging import empty_file

    return empty_file()


@pytest.fixture(scope="session")
def server_python():
    """The interpreter of the server's environment."""
    if not SERVER_PYTHON.exists():
        pytest.skip(f"the server's environment is not there ({SERVER_PYTHON.parents[1]}); bootstrap.py makes it")
    return SERVER_PYTHON


@pytest.fixture(scope="module")
def start_server(server_python):
    """Starts real server processes whose renderer is quick and does what the prompt says; see quick_server.py."""
    from service_process import ServerProcess

    started = []

    def start(store):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", str(server_python))  # the class takes the interpreter that runs the tests, here Blender's
            started.append(ServerProcess(store))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    """One such server for the tests of a module."""
    return start_server(tmp_path_factory.mktemp("server") / "store")


@pytest.fixture(scope="session")
def built_extension(tmp_path_factory):
    """The extension's zip and repository, built by `bootstrap.py build` from a copy of the sources."""
    from extension_package import Built, build, copy_sources

    sources = copy_sources(tmp_path_factory.mktemp("extension") / "sources")
    ended = build(sources)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return Built(sources / "dist")

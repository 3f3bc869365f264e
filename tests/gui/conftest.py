"""Tests in a real Blender window: `BLENDER=$(.ci/blender) .venv/bin/python -m pytest tests/gui`. They need Xvfb and xdotool too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from screen import Screen, missing
from window import SERVER_PRESET, Window, demo_blend, install_tree, prepare

FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items):
    lacking = missing()
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.window)
            if lacking:
                item.add_marker(pytest.mark.skip(reason=lacking))


@pytest.fixture
def screen():
    """An empty screen."""
    with Screen() as made:
        yield made


@pytest.fixture(scope="session")
def blend(tmp_path_factory):
    """The demo's scene, three small frames. Copy it: a test may save it."""
    return demo_blend(tmp_path_factory.mktemp("blend") / "demo.blend")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A user's folder with the extension enabled and the server there. Copy it: a Blender writes into it."""
    resources = tmp_path_factory.mktemp("user") / "resources"
    install_tree(resources)
    prepare(resources, SERVER_PRESET)
    return resources


@pytest.fixture
def user(prepared, tmp_path):
    """A user's folder of the test's own, with the extension enabled."""
    return Path(shutil.copytree(prepared, tmp_path / "user", symlinks=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.stash.setdefault(FAILED, False)
    item.stash[FAILED] |= report.failed
    return report


@pytest.fixture
def window(request, screen, user, blend, tmp_path):
    """A window with the demo's scene open, and MeDM in the Render properties where the 3D view would be."""
    (tmp_path / "project").mkdir()
    with Window(screen, user, tmp_path / "window", Path(shutil.copy(blend, tmp_path / "project/shot.blend"))) as opened:
        opened.show_properties()
        yield opened
        if request.node.stash.get(FAILED, False) and opened.process.poll() is None:
            print(f"the screen as it was: {screen.picture(tmp_path / 'failed.png')}\n{opened.log()}")
    assert opened.complaints() == []

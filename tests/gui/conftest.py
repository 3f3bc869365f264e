"""Tests in a real Blender window: `BLENDER=$(.ci/blender) .venv/bin/python -m pytest tests/gui`. They need Xvfb and xdotool too."""

from __future__ import annotations

from pathlib import Path

import pytest

from screen import Screen, missing


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

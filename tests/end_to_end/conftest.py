"""The demo, run once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from running import FRAMES, HEIGHT, WIDTH, bootstrap


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """The folder of a finished demo; its output is in log.txt. The folder's name is not ASCII and has a space, as artists' have."""
    out = tmp_path_factory.mktemp("Szene eins ä")
    done = bootstrap("demo", "--out", str(out), "--frames", str(FRAMES), "--size", f"{WIDTH}x{HEIGHT}", "--steps", "12")
    assert done.returncode == 0, done.stdout + done.stderr
    (out / "log.txt").write_text(done.stdout)
    return out

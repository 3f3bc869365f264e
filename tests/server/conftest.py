"""What several of the server's tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that tests can `import synthetic`

import synthetic


@pytest.fixture
def shot_folder(tmp_path: Path) -> Path:
    """A small complete shot: 4 frames of 64x48, a mover before a wall, sky in view."""
    return synthetic.write_shot(tmp_path / "shot")

"""What several of the server's tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that tests can `import synthetic`

import synthetic


@pytest.fixture
def shot_folder(tmp_path: Path) -> Path:
    """A small complete shot: 4 frames of 64x48, a mover before a wall, sky in view."""
    return synthetic.write_shot(tmp_path / "shot")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Frames of a few thousand pixels are done before a second thread of torch's has woken up."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

"""Runs the project's commands as a user does, and reads what they leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FRAMES, WIDTH, HEIGHT = 6, 192, 112
TAKES = ("per-frame", "full", "assistive")


def bootstrap(*arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """`bootstrap.py` with these arguments; its output is kept."""
    return subprocess.run([sys.executable, ROOT / "bootstrap.py", *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def clip(folder: Path) -> np.ndarray:
    """The frames in a folder, uint8 (T, H, W, 3)."""
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))])

"""The rendered training scenes in memory: pictures, control channels and looks, and random crops of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model import PROMPTS

LOOKS = tuple(PROMPTS)


@dataclass
class Pictures:
    """`pictures` (N, 3, S, S) and `controls` (N, 5, S, S) uint8, `looks` (N,) index into LOOKS."""

    pictures: torch.Tensor
    controls: torch.Tensor
    looks: torch.Tensor

    def __len__(self) -> int:
        return len(self.looks)


def load(folder: Path) -> Pictures:
    """All complete scenes of `folder` (see render_data.py)."""
    pictures, controls, looks = [], [], []
    for control_file in sorted(folder.glob("*.npy")):
        control = torch.from_numpy(np.load(control_file))
        for index, look in enumerate(LOOKS):
            picture_file = control_file.with_name(f"{control_file.stem}_{look}.png")
            if picture_file.exists():
                pictures.append(torch.from_numpy(np.array(Image.open(picture_file))).permute(2, 0, 1))
                controls.append(control)
                looks.append(index)
    if not looks:
        raise SystemExit(f"no rendered scenes in {folder}; run render_data.py first")
    return Pictures(torch.stack(pictures), torch.stack(controls), torch.tensor(looks))


def crop_corners(count: int, size: int, crop: int, generator: torch.Generator) -> torch.Tensor:
    """(count, 2) top-left corners (y, x) of random crops."""
    return torch.randint(0, size - crop + 1, (count, 2), generator=generator)


def cropped(images: torch.Tensor, which: torch.Tensor, corners: torch.Tensor, crop: int) -> torch.Tensor:
    """The crops of `images[which]` at `corners`."""
    return torch.stack([images[i, :, y : y + crop, x : x + crop] for i, (y, x) in zip(which.tolist(), corners.tolist(), strict=True)])

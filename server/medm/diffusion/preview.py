"""A small picture of the take as it now stands, while it is painted: the middle frame's clean estimate, decoded."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from medm.diffusion.models import Model

SIDE = 384
"""Pixels of the longer side of a preview, at most."""
PERIOD = 2.0
"""Seconds between two previews, at least."""
SHARE = 0.015
"""Of the time, at most, that previews take: the next one waits until the last is paid for."""


class Preview:
    """Hands pictures to `show`, now and then; what that raises ends the take."""

    def __init__(self, show: Callable[[Image.Image], None]) -> None:
        self._show = show
        self._next = time.monotonic() + PERIOD

    def look(self, model: Model, clean: Callable[[], Tensor]) -> None:
        """Called at every step; where a picture is due, it is that of `clean()`, latents (1, C, h, w)."""
        if time.monotonic() < self._next:
            return
        if model.device.type == "cuda":
            torch.cuda.synchronize()  # else work that was begun before would count
        start = time.monotonic()
        frame = model.decode(clean(), tiny=True)[0].float().mul(127.5).add(127.5).round().clamp(0, 255)
        picture = Image.fromarray(frame.to(torch.uint8).permute(1, 2, 0).cpu().numpy())
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
        self._show(picture)
        end = time.monotonic()
        self._next = end + max(PERIOD, (end - start) * (1 - SHARE) / SHARE)

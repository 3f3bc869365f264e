"""Flow Coding as the paper has it: algorithm 1, to the letter, with equation 11's distant flows.

For correspondence.analyse, and for whoever has flow from elsewhere. Whole pixels and one gather a frame: it drifts, half a pixel a frame.
subpixel.py does not. Runs on any torch device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medm.correspondence.codes import Codes
from medm.shot import Bool, Float32


@dataclass(frozen=True)
class Distant:
    """Flow from frames to such as are further away than the next (equation 11).

    Attributes:
        frames: d, how many frames before the one that the ordinary flow points to: frame i+1 also looks at frame max(i - d, 0).
        between: gives for two frames t and s the flow from t to s, (H, W, 2) float32 pixels, and the pixels of t that have no
            counterpart in s, (H, W) bool.
    """

    frames: int
    between: Callable[[int, int], tuple[Float32, Bool]]

    def in_reverse(self, length: int) -> Distant:
        """The same for a clip of `length` frames whose time runs backwards."""
        return Distant(self.frames, lambda t, s: self.between(length - 1 - t, length - 1 - s))


def rounded(
    flow: Float32,
    occluded: Bool,
    direction: Literal["backward", "forward"] = "backward",
    distant: Distant | None = None,
    device: str | torch.device = "cpu",
) -> Codes:
    """Algorithm 1, vectorised; bit-identical to reading it pixel by pixel.

    What the algorithm leaves open is settled so: a destination out of the frame, or not finite, is novel as an occluded pixel is; fresh
    codes go to novel pixels in row-major order (line 14 must mean E[N], not E[V]); halves are rounded to even, after adding in float32.

    Equation 11: a pixel that is occluded neither in the frame before nor in the distant one takes its code from the distant one; a pixel
    that is occluded there but not in the frame before takes it from the frame before.

    Args:
        flow: (T, H, W, 2) float32, pixels. Backward: flow[t] points from frame t to t-1, and the first frame is the anchor, with the codes
            0 to HW-1 in row-major order. Forward: flow[t] points from t to t+1, and the last frame is the anchor (lines 1 to 3 flip
            time). The anchor's own flow is not read.
        occluded: (T, H, W), pixels that have no counterpart in the frame that the flow points to. The anchor's is not read.
        direction: see `flow`.
        distant: equation 11's flows; None: algorithm 1 alone.
        device: where the work is done.

    Raises:
        ValueError: a distance of less than one frame.
    """
    if distant is not None and distant.frames < 1:
        raise ValueError(f"distant flows must reach at least one frame further, not {distant.frames}")
    if direction == "forward":
        flipped = None if distant is None else distant.in_reverse(len(flow))
        return in_reverse(rounded(flow[::-1], occluded[::-1], "backward", flipped, device))
    length, height, width = occluded.shape
    destinations = _Destinations(height, width, torch.device(device))
    codes = np.empty((length, height, width), np.int32)
    novel = np.ones((length, height, width), np.bool_)
    codes[0] = np.arange(height * width, dtype=np.int32).reshape(height, width)
    count = torch.tensor(height * width, dtype=torch.int32, device=device)
    before = destinations.on_device(codes[0]).reshape(-1)
    for t in range(1, length):
        place, fresh = destinations.of(flow[t], occluded[t])
        here = before.index_select(0, place)
        s = t if distant is None else max(t - 1 - distant.frames, 0)
        if distant is not None and s < t - 1:
            far_place, far_fresh = destinations.of(*distant.between(t, s))
            far = destinations.on_device(codes[s]).reshape(-1).index_select(0, far_place)
            here = torch.where(far_fresh, here, far)
        here = torch.where(fresh, count - 1 + fresh.cumsum(0, dtype=torch.int32), here)  # nothing that the device must wait for
        count = count + fresh.sum(dtype=torch.int32)
        codes[t] = here.reshape(height, width).cpu().numpy()
        novel[t] = fresh.reshape(height, width).cpu().numpy()
        before = here
    frame, y, x = np.nonzero(novel)  # in the order in which the codes were given out
    return Codes(codes, len(frame), frame.astype(np.int32), np.stack([x, y], axis=-1).astype(np.float32))


def in_reverse(codes: Codes) -> Codes:
    """The codes of a clip that was coded from its last frame to its first, in the clip's own order of time.

    A code's birth is still where it was given out: now the last frame in which it is seen, not the first.
    """
    last = len(codes.codes) - 1
    return Codes(np.ascontiguousarray(codes.codes[::-1]), codes.count, (last - codes.birth_frame).astype(np.int32), codes.birth_xy)


class _Destinations:
    """Which pixels a flow leads to."""

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        self._height, self._width, self._device = height, width, device
        self._x = torch.arange(width, dtype=torch.float32, device=device)
        self._y = torch.arange(height, dtype=torch.float32, device=device)[:, None]

    def on_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def of(self, flow: Float32, occluded: Bool) -> tuple[Tensor, Tensor]:
        """(HW,) int32 row-major index of the pixel that each pixel's flow leads to, and (HW,) bool, whether there is none."""
        planes = self.on_device(flow)
        x, y = (self._x + planes[..., 0]).round_(), (self._y + planes[..., 1]).round_()
        inside = (x >= 0) & (x <= self._width - 1) & (y >= 0) & (y <= self._height - 1)  # nothing that is not a number is
        place = torch.where(inside, y, 0).int() * self._width + torch.where(inside, x, 0).int()
        return place.reshape(-1), (~inside | self.on_device(occluded)).reshape(-1)

"""Flow at places between pixels. For sub-pixel coding."""

from __future__ import annotations

import torch
from torch import Tensor

SMOOTH = 0.5
"""Pixels within which the flow of the four pixels around a place must agree to be interpolated."""

_NO_OBJECT = 2**62


def sample_flow(x: Tensor, y: Tensor, object_id: Tensor, flow: Tensor, ids: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The flow (H * W, 2) at places in the frame: bilinear where it is smooth, else that of the nearest pixel of the place's object.

    Args:
        x: (N,) pixels, as is y; at most half a pixel out of the frame.
        object_id: (N,) the object that is at each place.
        flow: (H * W, 2) pixels.
        ids: (H * W,) the objects that the pixels show.
        height: H, at least 2, as is width.

    Returns:
        x and y of the flow, (N,) each.
    """
    left, top = x.floor().clamp_(0, width - 2), y.floor().clamp_(0, height - 2)
    # Within half a pixel of the frame's border the shares leave 0 to 1: the flow is continued in a straight line.
    u, v = x - left, y - top
    corner = top.long() * width + left.long()
    values = [rows_of(flow, corner + step) for step in (0, 1, width, width + 1)]
    upper = [torch.lerp(values[0][axis], values[1][axis], u) for axis in (0, 1)]
    lower = [torch.lerp(values[2][axis], values[3][axis], u) for axis in (0, 1)]
    flow_x, flow_y = (torch.lerp(upper[axis], lower[axis], v) for axis in (0, 1))
    smooth = _smooth(flow, ids, height, width)
    rough = (smooth.index_select(0, corner) != object_id).nonzero()[:, 0]
    u, v, corner, mine = u[rough], v[rough], corner[rough], object_id[rough]
    # Of the corners that show the place's object the one with the largest weight is the nearest.
    best, nearest = torch.full_like(u, -torch.inf), corner
    for step, weight in ((0, (1 - u) * (1 - v)), (1, u * (1 - v)), (width, (1 - u) * v), (width + 1, u * v)):
        better = (ids[corner + step] == mine) & (weight > best)
        best, nearest = torch.where(better, weight, best), torch.where(better, corner + step, nearest)
    flow_x[rough], flow_y[rough] = rows_of(flow, nearest)
    return flow_x, flow_y


def _smooth(flow: Tensor, ids: Tensor, height: int, width: int) -> Tensor:
    """(H * W,) int64: the object of a pixel and its right and lower neighbours where it is one and their flow agrees, else 2**62."""
    grid = ids.reshape(height, width)
    agree = (grid[:-1, :-1] == grid[:-1, 1:]) & (grid[:-1, :-1] == grid[1:, :-1]) & (grid[:-1, :-1] == grid[1:, 1:])
    for axis in (0, 1):
        plane = flow[:, axis].reshape(height, width)
        low, high = torch.minimum(plane[:, :-1], plane[:, 1:]), torch.maximum(plane[:, :-1], plane[:, 1:])
        agree &= torch.maximum(high[:-1], high[1:]) - torch.minimum(low[:-1], low[1:]) <= SMOOTH
    result = torch.full((height, width), _NO_OBJECT, dtype=torch.int64, device=ids.device)
    result[:-1, :-1] = torch.where(agree, grid[:-1, :-1].long(), _NO_OBJECT)
    return result.reshape(-1)


def rows_of(flow: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Both components (N,) of rows of a flow, (H * W, 2) float32: a row is gathered as one 64-bit number, three times as fast."""
    rows = flow.view(torch.int64)[:, 0].index_select(0, index).view(torch.float32).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]

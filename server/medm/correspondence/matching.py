"""Which pixel of a frame takes which of the codes that have moved into it. For sub-pixel coding."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from medm.correspondence.occlusion import MAX_ROUND_TRIP
from medm.correspondence.sampling import rows_of

REACH = 0.8
"""Pixels within which a pixel takes a code. Half a pixel's diagonal, 0.71, is the least with which an even lattice leaves no gaps."""
NOBODY = 2**62
"""An object that no code is of."""

_STEPS = 2**24
_NO_BID = 2**60
_LOW = 2**32 - 1


@dataclass(frozen=True)
class Offers:
    """Which pixels may take which of N codes that have moved into a frame.

    Attributes:
        x, y: (N,) places, pixels; infinite out of the frame.
        flow_x, flow_y: (N,) how they came there.
        object_id: (N,) int32.
        ids: (H * W,) int64, the objects of pixels that may take codes over, NOBODY of the others.
        flow_to_prev: (H * W, 2).
        height: H.
        width: W.
    """

    x: Tensor
    y: Tensor
    flow_x: Tensor
    flow_y: Tensor
    object_id: Tensor
    ids: Tensor
    flow_to_prev: Tensor
    height: int
    width: int

    def in_pixel(self) -> tuple[Tensor, Tensor]:
        """(N,) the pixel that each code is in, and the distance as `_distance`'s."""
        x, y = self.x.round(), self.y.round()
        pixel = torch.where(x.isfinite(), y, 0).long() * self.width + torch.where(x.isfinite(), x, 0).long()
        return pixel, self._distance(pixel, x, y, self.x, self.y, self.flow_x, self.flow_y, self.object_id)

    def around(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """(4, n) the pixels around codes (n,), and their distance as `_distance`'s. None that is nearer than 1 px is missing."""
        x, y, flow_x, flow_y, object_id = (
            values.index_select(0, code) for values in (self.x, self.y, self.flow_x, self.flow_y, self.object_id)
        )
        across, down = torch.tensor([0, 1, 0, 1], device=x.device)[:, None], torch.tensor([0, 0, 1, 1], device=x.device)[:, None]
        near_x, near_y = x.floor() + across, y.floor() + down
        inside = (near_x >= 0) & (near_x < self.width) & (near_y >= 0) & (near_y < self.height)
        pixel = torch.where(inside, near_y, 0).long() * self.width + torch.where(inside, near_x, 0).long()
        distance = self._distance(pixel, near_x, near_y, x, y, flow_x, flow_y, object_id)
        return pixel, torch.where(inside, distance, torch.inf)

    def exchange(self, owner: Tensor, free: Tensor, pixel: Tensor, distance: Tensor) -> None:
        """Let pixels without a code have one whose pixel can do with another one that is free: once, the cheapest such exchange.

        Args:
            owner: (H * W,) the code of each pixel, -1: none; changed in place.
            free: (n,) codes that no pixel has, with
            pixel, distance: (4, n) the pixels that may take them.
        """
        # Pixel a, left without, takes code c from pixel b, and b takes the free code d.
        pixels = len(owner)
        other = _smallest(pixel, _bids(distance) | free, pixels)  # d of every b
        left = (owner < 0).nonzero()[:, 0]
        x, y = left % self.width, left // self.width
        found = []
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                inside = (x + across >= 0) & (x + across < self.width) & (y + down >= 0) & (y + down < self.height)
                b = torch.where(inside, left + down * self.width + across, left)
                can = ((owner.index_select(0, b) >= 0) & (other.index_select(0, b) < _NO_BID)).nonzero()[:, 0]
                found.append((left[can], b[can]))
        a, b = (torch.cat(part) for part in zip(*found, strict=True))
        c = owner[b]
        mine = (values.index_select(0, c) for values in (self.x, self.y, self.flow_x, self.flow_y, self.object_id))
        cost = _bids(self._distance(a, a % self.width, a // self.width, *mine))
        can = (cost < _NO_BID).nonzero()[:, 0]
        a, b, c, cost = a[can], b[can], c[can], cost[can]
        d = other[b] & _LOW
        cost = (cost + (other[b] & ~_LOW)) | torch.arange(len(can), device=cost.device)
        for partner in (a, c, d):  # each takes part in one exchange at most; b goes with c
            cost = cost | _barred(cost != _smallest(partner, cost, max(pixels, len(self.x))).index_select(0, partner))
        done = (cost < _NO_BID).nonzero()[:, 0]
        owner[a[done]], owner[b[done]] = c[done], d[done]

    def _distance(
        self, pixel: Tensor, near_x: Tensor, near_y: Tensor, x: Tensor, y: Tensor, flow_x: Tensor, flow_y: Tensor, object_id: Tensor
    ) -> Tensor:
        """Squared distance from codes to pixels, which are at (near_x, near_y); infinite if they may not take them."""
        flat = pixel.reshape(-1)
        back_x, back_y = (values.reshape(pixel.shape) for values in rows_of(self.flow_to_prev, flat))
        miss = (back_x + flow_x).square_().add_((back_y + flow_y).square_())
        may = (miss <= MAX_ROUND_TRIP**2) & (self.ids.index_select(0, flat).reshape(pixel.shape) == object_id)
        distance = (x - near_x).square_().add_((y - near_y).square_())
        return torch.where(may & (distance <= REACH**2), distance, torch.inf)


def match(code: Tensor, pixel: Tensor, distance: Tensor, owner: Tensor, rounds: int) -> Tensor:
    """Gives pixels codes, one each.

    Every pixel that has no code asks for the nearest, of equally near ones the first; of those that ask for it a code takes the nearest
    pixel, the first if equally near. Whoever is left asks again among the codes that are left.

    Args:
        code: (N,) numbers of the codes, ascending.
        pixel: (K, N) pixels near each of them.
        distance: (K, N) float32, from code to pixel, squared, pixels, less than 2; infinite: the pixel may not take it.
        owner: (H * W,) int64 the code of each pixel, -1: none; changed in place.
        rounds: how often may be asked.

    Returns:
        (n,) the codes that are left.
    """
    bids = _bids(distance)
    for _ in range(rounds):
        bids = bids | _barred(owner.index_select(0, pixel.reshape(-1)).reshape(pixel.shape) >= 0)
        # One number orders by distance first and then by number, so that the smallest is the same in whatever order they come.
        bid = bids | code
        asked = bid == _smallest(pixel, bid, len(owner)).index_select(0, pixel.reshape(-1)).reshape(bid.shape)
        answer = functools.reduce(torch.minimum, bids | pixel | _barred(~asked))  # many times as fast as amin(dim=0)
        agreed, rest = (answer < _NO_BID).nonzero()[:, 0], (answer >= _NO_BID).nonzero()[:, 0]
        owner[answer[agreed] & _LOW] = code[agreed]
        code, pixel, bids = code[rest], pixel.index_select(1, rest), bids.index_select(1, rest)
    return code


def _bids(distance: Tensor) -> Tensor:
    """Squared distances as the high bits of numbers; what is infinite is barred."""
    return (distance.clamp(max=2) * _STEPS).long() << 32 | _barred(distance >= 2)


def in_columns(code: Tensor, pixel: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (P,) as `match` wants them, the pixels of code n in column n; every code occurs."""
    order = code.sort(stable=True).indices
    code, pixel, distance = code[order], pixel[order], distance[order]
    sizes = torch.bincount(code)
    row = torch.arange(len(code), device=code.device) - (sizes.cumsum(0) - sizes)[code]
    shape = int(sizes.max()), len(sizes)
    pixels, distances = torch.zeros(shape, dtype=torch.int64, device=code.device), torch.full(shape, torch.inf, device=code.device)
    pixels[row, code], distances[row, code] = pixel, distance
    return pixels, distances


def nearest(pixel: Tensor, code: Tensor, distance: Tensor, pixels: int) -> Tensor:
    """(pixels,) the nearest code of each pixel among pairs (P,), the first of equally near ones; -1: none. Distances as `match`'s."""
    best = _smallest(pixel, _bids(distance) | code, pixels)
    return torch.where(best < _NO_BID, best & _LOW, -1)


def _barred(pairs: Tensor) -> Tensor:
    """A high bit for pairs that do not count: on a CPU in a fifth of the time of `torch.where`."""
    return pairs.long() << 60


def _smallest(place: Tensor, values: Tensor, size: int) -> Tensor:
    """(size,) the smallest of the values at each place; 2**60 where there is none."""
    result = torch.full((size,), _NO_BID, dtype=torch.int64, device=values.device)
    return result.scatter_reduce_(0, place.reshape(-1), values.reshape(-1), "amin")

"""Tells the codes that have strayed from the surface point at which they were born.

For sub-pixel coding. Flow says exactly where a surface point goes, but two things it does not say. Where a surface turns away, a pixel
comes to cover what were many pixels when its code was born. And where one part of an object slowly creeps over another, the flow of both
is nearly the same: codes of the part that is hidden would ride on with the part in front.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medm.correspondence.archive import AT_BIRTH
from medm.correspondence.surface import SurfaceFrame, tangents

_OFF = 2.0
"""How far off in space a code may be, in the root of the mean square of its birth pixel's sides: along the surface and off it."""


class Birthplaces:
    """Where on the surface codes were born. They are numbered from 0 in the order of `add`."""

    def __init__(self, device: torch.device) -> None:
        self._count = 0
        # A code is a column: its point (3), how many pixels a step on the surface was in its birth frame, in x (3) and y (3), and the
        # inverse square of how far off it may be. Rows that are contiguous are gathered and multiplied in a third of the time.
        self._rows = torch.empty(10, 0, device=device)

    def add(self, frame: SurfaceFrame, pixel: Tensor) -> None:
        """Codes born at pixels (N,) of a frame."""
        first, last = self._count, self._count + len(pixel)
        if last > self._rows.shape[1]:
            grown = torch.empty(10, max(last, 2 * self._rows.shape[1]), device=self._rows.device)
            grown[:, :first] = self._rows[:, :first]
            self._rows = grown
        along_x, along_y, known = tangents(frame, pixel)
        a, b, c = ((one * other).sum(-1, keepdim=True) for one, other in ((along_x, along_x), (along_x, along_y), (along_y, along_y)))
        determinant = a * c - b * b
        determinant = torch.where(known[:, None] & (determinant > 1e-6 * a * c), determinant, torch.nan)  # nothing will be said of it
        per_x, per_y = (c * along_x - b * along_y) / determinant, (a * along_y - b * along_x) / determinant
        off = torch.where(determinant.isnan(), torch.nan, 2 / (a + c) / _OFF**2)
        points = frame.coordinates.index_select(0, pixel)
        self._rows[:, first:last] = torch.cat([points, per_x, per_y, off], dim=1).T
        self._count = last

    def strayed(self, frame: SurfaceFrame, pixel: Tensor, code: Tensor) -> Tensor:
        """Which pixels show another point than the one at which a code was born.

        That is, one that was more than a pixel away from it in the frame of the birth, or is as far off the surface as two such pixels.

        Args:
            frame: what is shown.
            pixel: (N,) its pixels.
            code: (N,) a code for each.

        Returns:
            (N,) bool; False where nothing is known of the pixel or the code.
        """
        x, y, z, x_x, x_y, x_z, y_x, y_y, y_z, off = (row.index_select(0, code) for row in self._rows)
        here = frame.coordinates.index_select(0, pixel)
        x, y, z = here[:, 0] - x, here[:, 1] - y, here[:, 2] - z
        born_x, born_y = x_x * x + x_y * y + x_z * z, y_x * x + y_y * y + y_z * z
        strayed: Tensor = (born_x * born_x + born_y * born_y > AT_BIRTH**2) | ((x * x + y * y + z * z) * off > 1)
        return strayed

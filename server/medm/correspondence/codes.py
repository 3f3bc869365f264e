"""What Flow Coding gives: which surface point every pixel shows."""

from __future__ import annotations

from dataclasses import dataclass

from medm.shot import Float32, Int32


@dataclass(frozen=True)
class Codes:
    """Which surface point every pixel shows.

    Attributes:
        codes: (T, H, W) int32, 0 <= code < count; every number in that range occurs.
        count: number of codes.
        birth_frame: (count,) int32, index t of the frame in which the code was given out.
        birth_xy: (count, 2) float32, where in that frame, pixels.
    """

    codes: Int32
    count: int
    birth_frame: Int32
    birth_xy: Float32

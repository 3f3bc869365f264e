"""The pixels of each object in a frame: for whatever has to treat one object after the other, as each has its own matrix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from medm.shot import Bool


def pixels_by_object(ids: npt.NDArray[np.integer], which: Bool) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Each id among the chosen pixels of a frame, rising, and the row-major indices of its pixels, rising.

    One sort for all of them: to compare the whole frame with each id takes minutes a shot where thousands of objects move.

    Args:
        ids: (H, W).
        which: (H, W) the pixels to be looked at.
    """
    flat = np.flatnonzero(which)
    order = flat[np.argsort(ids.ravel()[flat], kind="stable")]
    numbers, starts = np.unique(ids.ravel()[order], return_index=True)
    yield from zip(numbers.tolist(), np.split(order, starts[1:]), strict=len(flat) > 0)

"""Where a picture of surfaces breaks off: lines for lineart, soft edge and canny networks. numpy alone.

Three things break off: what object is seen, which way the surface faces, and how far it is. Lines are drawn from these and not
found in a picture, so shadows and textures make none.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medm.diffusion.view import FloatArray, View

WIDEST = 10.0
"""Pixels of the widest line."""

_HED_PICTURE = 512
"""Shorter side, in pixels, of the pictures whose edges the soft edge networks learnt from."""
_HED_REACH = (0.8, 2.0, 4.0)
"""Standard deviations, in pixels of such a picture, of the three Gaussians whose mean is the profile of a soft edge."""

_Slices = tuple[slice, ...]


def lineart_image(view: View, width: float = 1.0) -> FloatArray:
    """White lines on black where the object, the normal or the depth breaks off. (T, 1, H, W).

    A pixel is on a line if it differs from its right or lower neighbour in object or background, in normal (from 30 to 60
    degrees), or if the inverse depth bends by 2 to 6 percent over its three-pixel neighbourhood: inverse depth is affine on
    a plane, so that a plane seen at a grazing angle draws no line.

    `width`: pixels, 1 to WIDEST. A wider line is the one-pixel line dilated by a disc of that diameter whose rim is antialiased,
    so that its values across sum to `width` times those of the one-pixel line.
    """
    line = np.zeros(view.depth.shape, np.float32)
    for axis in (1, 2):
        here, inner = _halves(axis)[0], _inner(axis)
        edge = np.maximum(_smoothstep(0.13, 0.5, _creases(view, axis)), _outlines(view, axis))
        line[here] = np.maximum(line[here], edge)
        line[inner] = np.maximum(line[inner], _smoothstep(0.02, 0.06, _bends(view, axis)))
    return (line if width == 1.0 else _dilated_by_disc(line, width))[:, None]


def softedge_image(view: View) -> FloatArray:
    """Edges as holistically nested edge detection (HED) draws them: wide, soft, graded by how sharply something breaks off. (T, 1, H, W).

    Outlines are white; creases, over three pixels, fade in from 10 to 60 degrees, and bends of the inverse depth from 0.5 to 6 percent. An
    edge of strength s has s times the mean of three Gaussians of the distance, of 0.8, 2 and 4 pixels in a picture of 512.
    """
    edge = np.zeros(view.depth.shape, np.float32)
    for axis in (1, 2):
        here, inner = _halves(axis)[0], _inner(axis)
        edge[here] = np.maximum(edge[here], _outlines(view, axis))
        rounded = np.maximum(_smoothstep(0.015, 0.5, _round_creases(view, axis)), _smoothstep(0.005, 0.06, _bends(view, axis)))
        edge[inner] = np.maximum(edge[inner], rounded)
    scale = min(edge.shape[1:]) / _HED_PICTURE
    layers = [_dilated_by_gaussian(edge, max(0.5, reach * scale)) for reach in _HED_REACH]
    return np.asarray(np.mean(layers, axis=0), np.float32)[:, None]


def canny_image(view: View) -> FloatArray:
    """Lines of 1 on 0, one pixel wide: as Canny's detector draws them, for networks that were taught by it. (T, 1, H, W).

    Outlines and bends of the inverse depth (by 4 percent) are drawn on their nearer side; creases (of 37 degrees over three pixels) where
    the normal turns fastest along a row or a column.
    """
    depth = np.where(view.background, np.float32(np.inf), view.depth)
    line = np.zeros(depth.shape, np.bool_)
    for axis in (1, 2):
        (here, there), inner = _halves(axis), _inner(axis)
        outline, nearer = _outlines(view, axis), depth[there] < depth[here]
        line[here] |= outline & ~nearer
        line[there] |= outline & nearer
        turn = np.pad(_round_creases(view, axis), [(1, 1) if a == axis else (0, 0) for a in range(3)])
        before, after = _around(axis)
        fastest = (turn[inner] >= turn[after]) & (turn[inner] > turn[before])
        line[inner] |= fastest & (turn[inner] > 0.2)
        line[inner] |= _bends(view, axis) > 0.04
    return line.astype(np.float32)[:, None]


# -- what breaks off, along one axis -----------------------------------------------------------------------------------


def _outlines(view: View, axis: int) -> npt.NDArray[np.bool_]:
    """Whether a pixel and the next one show different things. One fewer along the axis, as `_creases`."""
    here, there = _halves(axis)
    label = np.where(view.background, np.int32(-1), view.object_id)  # -1 is no object's: as a float, which ids are made as, it is NaN
    return np.asarray(label[here] != label[there])


def _creases(view: View, axis: int) -> FloatArray:
    """1 - cosine between the normals of a pixel and the next one; 0 beside the background."""
    return _turned(view, *_halves(axis))


def _round_creases(view: View, axis: int) -> FloatArray:
    """1 - cosine between the normals before and after a pixel; 0 where they are not on its object. As long as `_inner`, as are bends."""
    before, after = _around(axis)
    here = view.object_id[_inner(axis)]
    same = (view.object_id[before] == here) & (view.object_id[after] == here) & ~view.background[_inner(axis)]
    return np.asarray(np.where(same, _turned(view, before, after), np.float32(0.0)), np.float32)


def _turned(view: View, here: _Slices, there: _Slices) -> FloatArray:
    surface = ~view.background[here] & ~view.background[there]
    cosine = np.einsum("thwc,thwc->thw", view.normals[here], view.normals[there])
    return np.asarray(np.where(surface, 1.0 - cosine, np.float32(0.0)), np.float32)


def _bends(view: View, axis: int) -> FloatArray:
    """Second difference of the inverse depth along an axis over the largest of the three; 0 on the farther side of a step."""
    inverse = inverse_depth(view)
    before, after = _around(axis)
    inner = inverse[_inner(axis)]
    bend = np.abs(inverse[before] + inverse[after] - 2.0 * inner)
    nearest = np.maximum(np.maximum(inverse[before], inverse[after]), inner)
    # only the nearer side of a step draws, else every outline would be two pixels wide
    near_side = inner * 2.0 >= inverse[before] + inverse[after]
    return np.divide(bend, nearest, out=np.zeros_like(bend), where=near_side & (nearest > 0.0))


def inverse_depth(view: View) -> FloatArray:
    """1 / z, 0 on the background: affine over the image of a plane, which depth is not."""
    inverse = np.zeros(view.depth.shape, np.float32)
    np.divide(1.0, view.depth, out=inverse, where=~view.background & (view.depth > 0.0))
    return inverse


def _halves(axis: int) -> tuple[_Slices, _Slices]:
    """All pixels but the last, and all but the first, along an axis of (T, H, W)."""
    return _along(axis, slice(None, -1)), _along(axis, slice(1, None))


def _around(axis: int) -> tuple[_Slices, _Slices]:
    """The pixels before and after those of `_inner`."""
    return _along(axis, slice(None, -2)), _along(axis, slice(2, None))


def _inner(axis: int) -> _Slices:
    return _along(axis, slice(1, -1))


def _along(axis: int, some: slice) -> _Slices:
    return tuple(some if a == axis else slice(None) for a in range(3))


def _smoothstep(low: float, high: float, value: FloatArray) -> FloatArray:
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), np.float32)


# -- wider -------------------------------------------------------------------------------------------------------------


def _dilated_by_disc(line: FloatArray, width: float) -> FloatArray:
    reach = int(width / 2 + 0.5)
    result = np.zeros_like(line)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            share = min(1.0, width / 2 + 0.5 - float(np.hypot(down, right)))
            if share > 0.0:
                _raise_to(result, line, (down, right), share)
    return result


def _dilated_by_gaussian(edge: FloatArray, deviation: float) -> FloatArray:
    """The largest of edge times exp(-d^2 / (2 deviation^2)) over all pixels at distance d; one axis after the other gives the same."""
    for axis in (0, 1):
        result = edge.copy()
        for step in range(1, int(3 * deviation) + 1):
            share = float(np.exp(-0.5 * (step / deviation) ** 2))
            for offset in (-step, step):
                _raise_to(result, edge, (offset, 0) if axis == 0 else (0, offset), share)
        edge = result
    return edge


def _raise_to(result: FloatArray, line: FloatArray, offset: tuple[int, int], share: float) -> None:
    """result = max(result, share * line moved by offset)."""
    target = tuple(slice(max(0, step), size + min(0, step)) for step, size in zip(offset, line.shape[1:], strict=True))
    source = tuple(slice(max(0, -step), size + min(0, -step)) for step, size in zip(offset, line.shape[1:], strict=True))
    moved = line[(slice(None), *source)] * np.float32(share)
    np.maximum(result[(slice(None), *target)], moved, out=result[(slice(None), *target)])

"""Codes of the synthetic scenes, and what ray casting says of them: for the tests of coding, subpixel, surface, archive and distant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

import synthetic
from medm.correspondence import Correspondence, analyse
from medm.correspondence.background import fill_background
from medm.correspondence.codes import Codes
from medm.correspondence.occlusion import occluded_pixels
from medm.correspondence.subpixel import subpixel
from medm.correspondence.surface import Surface
from medm.shot import GBuffer, Shot
from synthetic import Rectangle, Scene, at, camera


def wall(half: float = 20) -> Rectangle:
    """Two units in front of a camera at the origin, where 32 pixels of `camera(..., 64, 48)` see one unit."""
    return Rectangle(202, lambda _: at(0, 0, -2), half=(half, half))


@dataclass(frozen=True)
class Passes:
    """What coding needs of a scene."""

    scene: Scene

    @cached_property
    def gbuffer(self) -> GBuffer:
        return self.scene.gbuffer()

    @cached_property
    def flows(self) -> tuple[np.ndarray, np.ndarray]:
        g = self.gbuffer
        return fill_background(g.flow_to_prev, g.flow_to_next, g.background, self.scene.cameras)

    @cached_property
    def occluded(self) -> np.ndarray:
        return occluded_pixels(self.gbuffer, *self.flows, self.scene.cameras, self.scene.cut_mask)

    def subpixel(self, frames: slice = slice(None), surface: Surface | None = None, device: str = "cpu") -> Codes:
        parts = (*self.flows, self.occluded, self.gbuffer.object_id, self.scene.cut_mask)
        return subpixel(*(part[frames] for part in parts), surface, device)


def written(folder: Path, scene: Scene, objects: bool = True, rest: bool = False) -> Shot:
    return Shot.open(synthetic.write_shot(folder, scene, beauty=False, objects=objects, rest=rest))


def analysed(folder: Path, scene: Scene, reidentify: bool = True, objects: bool = True, rest: bool = False) -> Correspondence:
    shot = written(folder, scene, objects, rest)
    return analyse(shot, shot.gbuffer(), reidentify=reidentify)


def backwards(scene: Scene) -> Scene:
    """The same, filmed in reverse; without cuts."""
    last = scene.length - 1

    def turned(rectangle: Rectangle) -> Rectangle:
        return replace(
            rectangle,
            pose=lambda t: rectangle.pose(last - t),
            visible=lambda t: rectangle.visible(last - t),
            slide=lambda t: rectangle.slide(last - t),
        )

    return replace(scene, rectangles=[turned(rectangle) for rectangle in scene.rectangles], camera=lambda t: scene.camera(last - t))


def check(result: Codes, object_id: np.ndarray | None = None) -> None:
    """What holds of all codes: each is used, was born where it is said to have been, in its first frame, and stays on one object."""
    assert result.codes.dtype == result.birth_frame.dtype == np.int32
    assert result.birth_xy.dtype == np.float32
    assert result.birth_frame.shape == (result.count,)
    assert result.birth_xy.shape == (result.count, 2)
    assert result.count <= result.codes.size
    assert np.array_equal(np.unique(result.codes), np.arange(result.count))
    place = (result.birth_frame, *born_at(result))
    np.testing.assert_array_equal(result.codes[place], np.arange(result.count))
    if object_id is not None:
        assert (result.birth_frame[result.codes] <= np.arange(len(result.codes))[:, None, None]).all()
        np.testing.assert_array_equal(object_id[place][result.codes], object_id)


def born_at(result: Codes) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each code's birth."""
    x, y = result.birth_xy.astype(int).T
    return y, x


def fresh(result: Codes) -> np.ndarray:
    """(T, H, W) bool, pixels whose code was born there."""
    return result.birth_frame[result.codes] == np.arange(len(result.codes))[:, None, None]


def shared_within_a_frame(result: Codes) -> float:
    """Share of pixels whose code another pixel of the frame has, too."""
    counts = [np.unique(codes, return_counts=True)[1] for codes in result.codes]
    return 1 - sum(int((count == 1).sum()) for count in counts) / result.codes.size


def errors(scene: Scene, result: Codes) -> np.ndarray:
    """(T, H, W) pixels between a code's birth and the place, in that frame, of the point that a pixel shows; NaN on the background."""
    found = []
    for t in range(scene.length):
        _, index, place, _ = scene.hits(t)
        code = result.codes[t].ravel()
        there = np.full((len(code), 2), np.nan)
        for birth in np.unique(result.birth_frame[code]):
            mine = (result.birth_frame[code] == birth) & (index >= 0)
            there[mine] = scene.cameras[birth].project(scene.moved(index[mine], place[mine], birth))[0]
        found.append(np.linalg.norm(there - result.birth_xy[code], axis=-1))
    return np.stack(found).reshape(result.codes.shape)


def seen_again(scene: Scene, t: int, frames: range) -> np.ndarray:
    """(H, W) bool: the surface point that a pixel of frame t shows was well in view in one of the frames: nothing else was near it."""
    view = scene.camera(t)
    _, index, place, _ = scene.hits(t)
    seen = np.zeros(len(index), bool)
    for s in frames:
        there = scene.camera(s).project(scene.moved(index, place, s))[0]
        _, index_there, place_there, _ = scene.hits(s)
        inside = (index >= 0) & (there > 0).all(-1) & (there < [view.width - 1, view.height - 1]).all(-1)
        alike = inside.copy()
        for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
            x, y = np.where(inside[:, None], np.floor(np.nan_to_num(there)), 0).astype(int).T + np.array(corner)[:, None]
            pixel = np.minimum(y, view.height - 1) * view.width + np.minimum(x, view.width - 1)
            # Within two pixels on the surface, so it is not another part of the same rectangle.
            alike &= (index_there[pixel] == index) & (
                np.linalg.norm(place_there[pixel] - place, axis=-1) < 2 * footprint(place_there, view.width)
            )
        seen |= alike
    return seen.reshape(view.height, view.width)


def footprint(place: np.ndarray, width: int) -> float:
    """The distance on the surface from a pixel to its right neighbour, in the median."""
    grid = place.reshape(-1, width, 2)
    return float(np.median(np.linalg.norm(grid[:, 1:] - grid[:, :-1], axis=-1)))


def panning(speed: float, length: int, frame: tuple[int, int] = (64, 48)) -> Scene:
    """A wall, under a camera that moves `speed` pixels a frame to the right."""
    return Scene([wall()], camera=lambda t: camera(at(speed * t * 2 / frame[0]), *frame), length=length)

"""Facts of codes and pixels, against scenes whose answers can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from medm.correspondence.codes import Codes
from medm.correspondence.facts import LEAST_FACING, Facts, ages, confidence, gather_facts, how_seen
from medm.shot import Camera
from synthetic import Rectangle, Scene, at, camera

TILT = 0.9  # radians
WIDTH, HEIGHT = 64, 48


def plane(view: Camera, tilt: float = TILT) -> tuple[np.ndarray, np.ndarray]:
    """Footprint and facing of a plane 5 units away, tilted about x, that fills the frame."""
    scene = Scene([Rectangle(1, lambda _: at(z=-5.0, turn=(tilt, 0, 0)), half=(60.0, 60.0))], camera=lambda _: view, length=1)
    gbuffer = scene.gbuffer()
    assert not gbuffer.background.any()
    return how_seen(view, gbuffer.normal[0], gbuffer.depth[0], gbuffer.background[0])


def area_between_corners(view: Camera, tilt: float = TILT) -> np.ndarray:
    """(H, W): the area of the tilted plane under each pixel, by casting rays through the pixel's corners."""
    x, y = np.meshgrid(np.arange(WIDTH + 1) - 0.5, np.arange(HEIGHT + 1) - 0.5)
    origins, directions = view.rays(np.stack([x, y], -1))
    normal, centre = at(turn=(tilt, 0, 0))[:3, 2], np.array([0, 0, -5.0])
    hit = origins + (((centre - origins) @ normal) / (directions @ normal))[..., None] * directions
    one, other = hit[1:, 1:] - hit[:-1, :-1], hit[1:, :-1] - hit[:-1, 1:]
    return np.linalg.norm(np.cross(one, other), axis=-1) / 2


@pytest.mark.parametrize(
    "view",
    [
        camera(at(), WIDTH, HEIGHT, lens=1.5),
        camera(at(turn=(0.1, -0.2, 0.7)), WIDTH, HEIGHT, lens=1.5, shift=(0.2, -0.1)),
        camera(at(turn=(0.1, 0, 0.3)), WIDTH, HEIGHT, ortho=4.0, shift=(0.1, 0)),
    ],
    ids=["perspective", "turned and shifted", "orthographic"],
)
def test_the_footprint_is_the_root_of_the_area_that_a_pixel_covers(view: Camera) -> None:
    footprint, _ = plane(view)
    np.testing.assert_allclose(footprint**2, area_between_corners(view), rtol=2e-3)


def test_pixels_that_are_not_square() -> None:
    """An anamorphic film: pixels twice as wide as high cover twice as much."""
    square = camera(at(), WIDTH, HEIGHT, ortho=4.0)
    wide = Camera(square.world_to_camera, np.diag([0.5, 1, 1, 1]) @ square.projection, WIDTH, HEIGHT)
    np.testing.assert_allclose(plane(wide)[0] ** 2, 2 * plane(square)[0] ** 2, rtol=1e-5)
    np.testing.assert_allclose(plane(wide)[0] ** 2, area_between_corners(wide), rtol=1e-5)


def test_a_tilted_plane_in_an_orthographic_camera() -> None:
    footprint, facing = plane(camera(at(), WIDTH, HEIGHT, ortho=4.0))
    np.testing.assert_allclose(facing, np.cos(TILT), rtol=1e-5)
    np.testing.assert_allclose(footprint, 4.0 / WIDTH / np.sqrt(np.cos(TILT)), rtol=1e-5)


def test_facing_in_perspective_is_the_angle_to_the_ray_and_has_no_side() -> None:
    view = camera(at(), WIDTH, HEIGHT, lens=1.0)
    _, facing = plane(view, tilt=0.0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    off_axis = np.hypot((x - 31.5) / WIDTH, (y - 23.5) / WIDTH)
    np.testing.assert_allclose(facing, np.cos(np.arctan(off_axis)), rtol=1e-5)
    away = how_seen(view, np.full((HEIGHT, WIDTH, 3), [0, 0, -1], np.float32), np.full((HEIGHT, WIDTH), 5, np.float32), facing < 0)
    np.testing.assert_allclose(away[1], facing, rtol=1e-5)


def test_the_background_is_seen_head_on_at_distance_1() -> None:
    view = camera(at(), WIDTH, HEIGHT, lens=1.0)
    normal, depth = np.zeros((HEIGHT, WIDTH, 3), np.float32), np.full((HEIGHT, WIDTH), 1e10, np.float32)
    footprint, facing = how_seen(view, normal, depth, np.ones((HEIGHT, WIDTH), np.bool_))
    assert (facing == 1).all()
    assert footprint[24, 32] == pytest.approx(1 / WIDTH, rel=1e-3)  # radians
    assert footprint[0, 0] < footprint[24, 32]  # an angle gets smaller towards the corners


def test_normals_that_are_turned_away_leave_numbers_finite() -> None:
    view = camera(at(), WIDTH, HEIGHT, ortho=4.0)
    normal = np.broadcast_to(np.array([1, 0, 0], np.float32), (HEIGHT, WIDTH, 3))
    footprint, facing = how_seen(view, normal, np.ones((HEIGHT, WIDTH), np.float32), np.zeros((HEIGHT, WIDTH), np.bool_))
    assert (facing == 0).all()
    np.testing.assert_allclose(footprint, 4.0 / WIDTH / np.sqrt(LEAST_FACING), rtol=1e-5)


def wall_and_camera(pose: Callable[[float], np.ndarray]) -> tuple[Scene, Codes, Facts]:
    """A wall 8 units away in 3 frames. Codes by hand: every pixel of column 0 keeps its own, the rest of each frame shares one."""
    scene = Scene([Rectangle(1, lambda _: at(z=-8.0), half=(90.0, 90.0))], camera=lambda t: camera(pose(t), WIDTH, HEIGHT), length=3)
    codes = np.empty((3, HEIGHT, WIDTH), np.int32)
    codes[:, :, 0] = np.arange(HEIGHT)
    codes[0, :, 1:] = HEIGHT
    codes[1, :, 1:] = HEIGHT + 1
    codes[2, :, 1:] = HEIGHT + 2
    birth = np.array([0] * HEIGHT + [0, 1, 2], np.int32)
    given = Codes(codes, HEIGHT + 3, birth, np.zeros((HEIGHT + 3, 2), np.float32))
    return scene, given, gather_facts(given, scene.gbuffer(), scene.cameras)


def test_what_is_counted_of_a_code() -> None:
    _, codes, facts = wall_and_camera(lambda t: at(z=-2.0 * t))
    np.testing.assert_array_equal(facts.frames, [3] * HEIGHT + [1, 1, 1])
    np.testing.assert_array_equal(facts.length, [3] * HEIGHT + [HEIGHT * (WIDTH - 1)] * 3)
    np.testing.assert_array_equal(facts.last_frame, [2] * HEIGHT + [0, 1, 2])
    age = ages(codes)
    assert (age[:, :, 0] == np.arange(3)[:, None]).all()
    assert (age[:, :, 1:] == 0).all()


def test_means_and_the_finest_of_a_code() -> None:
    _, codes, facts = wall_and_camera(lambda t: at(z=-2.0 * t))
    for code in (5, HEIGHT + 1):
        own = codes.codes == code
        assert facts.finest_footprint[code] == facts.footprint[own].min()
        assert facts.mean_footprint[code] == pytest.approx(facts.footprint[own].mean(dtype=np.float64), rel=1e-6)
        assert facts.mean_facing[code] == pytest.approx(facts.facing[own].mean(dtype=np.float64), rel=1e-6)
    assert facts.footprint.dtype == facts.facing.dtype == facts.finest_footprint.dtype == np.float32


def test_twice_as_far_counts_a_quarter() -> None:
    """The camera goes from 8 to 4 units: column 0 keeps its ray, so that nothing but the distance changes."""
    _, codes, facts = wall_and_camera(lambda t: at(z=-2.0 * t))
    weight = confidence(facts, codes)
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight[0, :, 0] / weight[2, :, 0], 1 / 4, rtol=1e-5)
    np.testing.assert_allclose(weight[2, :, 0], facts.facing[2, :, 0], rtol=1e-5)
    assert ((weight > 0) & (weight <= 1)).all()


def test_at_60_degrees_from_head_on_a_pixel_counts_a_quarter() -> None:
    """An orthographic camera: the distance does not count, the angle alone does."""
    views = [camera(at(z=5.0), 8, 8, ortho=1.0)] * 2
    normal = np.zeros((2, 8, 8, 3), np.float32)
    normal[0] = 0, 0, 1
    normal[1] = np.sin(np.pi / 3), 0, np.cos(np.pi / 3)
    blank = Scene([], camera=lambda _: views[0], length=2).gbuffer()
    gbuffer = type(blank)(
        normal,
        np.full((2, 8, 8), 5, np.float32),
        blank.position,
        blank.flow_to_prev,
        blank.flow_to_next,
        blank.object_id,
        np.zeros((2, 8, 8), np.bool_),
    )
    grid = np.arange(64, dtype=np.int32).reshape(8, 8)
    codes = Codes(np.stack([grid, grid]), 64, np.zeros(64, np.int32), np.zeros((64, 2), np.float32))
    weight = confidence(gather_facts(codes, gbuffer, views), codes)
    np.testing.assert_allclose(weight[0], 1, rtol=1e-5)
    np.testing.assert_allclose(weight[1], 1 / 4, rtol=1e-4)


def test_progress_ends_at_1() -> None:
    scene, codes, _ = wall_and_camera(lambda _: at())
    told: list[float] = []
    gather_facts(codes, scene.gbuffer(), scene.cameras, lambda share, _: told.append(share))
    assert told == sorted(told) and told[-1] == 1.0

"""Control images: each convention on surfaces whose picture is known."""

from __future__ import annotations

import numpy as np
import pytest

from medm.diffusion.control import View, control_images, depth_image, lineart_image, normal_image
from medm.errors import BadInput


def view(normals: np.ndarray, depth: np.ndarray, ids: np.ndarray | None = None) -> View:
    return View(normals.astype(np.float32), depth.astype(np.float32), np.zeros(depth.shape, np.int32) if ids is None else ids)


def facing(height: int, width: int) -> np.ndarray:
    return np.broadcast_to(np.array([0.0, 0.0, 1.0], np.float32), (1, height, width, 3)).copy()


@pytest.mark.parametrize(
    ("normal", "colour"),
    [((0, 0, 1), (0.5, 0.5, 1.0)), ((-1, 0, 0), (1.0, 0.5, 0.5)), ((0, 1, 0), (0.5, 1.0, 0.5)), ((0, 0, 0), (0, 0, 0))],
    ids=["towards the camera: blue", "to the left: red", "up: green", "background: black"],
)
def test_normals_as_colour(normal, colour):
    normals = np.broadcast_to(np.array(normal, np.float32), (1, 2, 2, 3)).copy()
    assert np.allclose(normal_image(view(normals, np.ones((1, 2, 2))))[0, :, 0, 0], colour)


def test_depth_is_inverse_and_normalised_over_the_whole_shot():
    normals = np.broadcast_to(np.array([0, 0, 1], np.float32), (2, 1, 2, 3)).copy()
    normals[0, 0, 1] = 0
    picture = depth_image(view(normals, np.array([[[4.0, 1e10]], [[2.0, 8.0]]])))
    assert np.allclose(picture[:, 0, 0], [[0.5, 0.0], [1.0, 0.25]])


def test_a_plane_seen_at_a_grazing_angle_has_no_line():
    rows = np.linspace(0.02, 1.0, 40)
    depth = np.broadcast_to((1.0 / rows)[None, :, None], (1, 40, 30))
    assert lineart_image(view(facing(40, 30), depth)).max() == 0.0


def test_a_crease_a_step_and_an_outline_are_lines_one_pixel_wide():
    normals, depth, ids = facing(9, 40), np.full((1, 9, 40), 5.0), np.zeros((1, 9, 40), np.int32)
    normals[:, :, :10] = (-0.866, 0, 0.5)  # a crease of 60 degrees before column 10
    depth[:, :, 20:] = 3.0  # a step towards the camera at column 20
    ids[:, :, 30:] = 7  # another object from column 30 on, at the same depth
    line = lineart_image(view(normals, depth, ids))[0, 0, 4]
    assert list(np.flatnonzero(line > 0.5)) == [9, 20, 29]


def test_the_silhouette_against_the_sky_is_a_line():
    normals = facing(5, 10)
    normals[:, :, 6:] = 0
    line = lineart_image(view(normals, np.full((1, 5, 10), 5.0)))[0, 0, 2]
    assert list(np.flatnonzero(line > 0.5)) == [5]


def test_kinds_fill_the_channels_in_their_order():
    surface = view(facing(4, 4), np.full((1, 4, 4), 2.0))
    stack = control_images(surface, ("normal", "depth", "lineart"), 5)
    assert stack.shape == (1, 5, 4, 4)
    assert np.allclose(stack[0, :, 1, 1], (0.5, 0.5, 1.0, 1.0, 0.0))
    grey = control_images(surface, ("depth",), 3)
    assert grey.shape == (1, 3, 4, 4)
    assert np.allclose(grey, 1.0)


def test_kinds_that_do_not_fit_the_network_are_refused():
    surface = view(facing(4, 4), np.ones((1, 4, 4)))
    with pytest.raises(BadInput, match="takes 3 channels, but normal \\+ depth make 4"):
        control_images(surface, ("normal", "depth"), 3)
    with pytest.raises(BadInput, match="no control image is called pose; there are normal, depth, lineart"):
        control_images(surface, ("pose",), 3)

"""Control images: each convention on surfaces whose picture is known."""

from __future__ import annotations

import numpy as np
import pytest

from medm.diffusion import ade20k
from medm.diffusion.control import (
    KINDS,
    ShotFacts,
    View,
    canny_image,
    channels_of,
    control_images,
    depth_image,
    facts_of,
    lineart_image,
    normal_bae_image,
    normal_image,
    segmentation_image,
    softedge_image,
    view_of,
)
from medm.errors import BadInput
from synthetic import two_rectangles


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


def test_normal_bae_is_the_same_but_for_a_background_that_faces_the_camera():
    normals = facing(2, 3)
    normals[:, 0] = (-0.6, 0.0, 0.8)
    normals[:, :, 2] = 0
    surface = view(normals, np.ones((1, 2, 3)))
    bae = normal_bae_image(surface)[0]
    assert np.array_equal(bae[:, :, :2], normal_image(surface)[0, :, :, :2])
    assert np.allclose(bae[:, :, 2].T, (0.5, 0.5, 1.0))


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


def test_a_wider_line_is_as_wide_as_it_says_and_stays_in_its_place():
    normals = facing(40, 40)
    normals[:, :, :20] = (-0.866, 0, 0.5)  # a crease of 60 degrees before column 20
    surface = view(normals, np.full((1, 40, 40), 5.0))
    thin = lineart_image(surface)
    assert np.array_equal(lineart_image(surface, 1.0), thin)
    for width in (1.5, 2.0, 3.0, 4.4, 10.0):
        line = lineart_image(surface, width)[0, 0, 20]
        assert np.isclose(line.sum() / thin[0, 0, 20].sum(), width)
        assert np.allclose(line[:39], line[38::-1])  # about column 19
        assert line.max() == thin.max()


def test_a_wider_dot_is_round():
    normals = facing(21, 21)
    ids = np.zeros((1, 21, 21), np.int32)
    ids[0, 20, 20] = 1
    corner = lineart_image(view(normals, np.full((1, 21, 21), 5.0), ids), 8.0)[0, 0]
    # two pixels draw, left of the corner and above it: what is 4.5 pixels or more from both stays black
    y, x = np.mgrid[:21, :21]
    distance = np.minimum(np.hypot(y - 20, x - 19), np.hypot(y - 19, x - 20))
    assert np.allclose(corner, np.clip(4.5 - distance, 0, 1), atol=1e-6)


@pytest.mark.parametrize("kind", ["lineart@0.5", "lineart@11", "lineart@", "lineart@two", "lineart@-1", "lineart@nan", "lineart@1e1"])
def test_a_width_that_is_none_is_refused(kind):
    with pytest.raises(BadInput, match=f"{kind}: the width of lines is a number of pixels from 1 to 10"):
        channels_of([kind])


@pytest.mark.parametrize("kind", ["canny@2", "@2", "lineart ", ""])
def test_only_lineart_has_a_width(kind):
    with pytest.raises(BadInput, match="no control image is called"):
        channels_of([kind])


def test_kinds_know_their_channels():
    assert channels_of(["normal", "depth", "lineart@2.5"]) == 5
    assert control_images(view(facing(8, 8), np.full((1, 8, 8), 2.0)), ["lineart@2.5"], 3).shape == (1, 3, 8, 8)
    for kind, channels in KINDS.items():
        image = control_images(view(facing(8, 8), np.full((1, 8, 8), 2.0)), [kind], channels)
        assert image.shape == (1, channels, 8, 8)
        assert image.dtype == np.float32


def test_a_soft_edge_is_three_gaussians_of_the_distance():
    normals = facing(64, 512)
    ids = np.zeros((1, 64, 512), np.int32)
    ids[:, :, 256:] = 1
    tall = view(np.repeat(normals, 8, axis=1), np.full((1, 512, 512), 5.0), np.repeat(ids, 8, axis=1))
    across = softedge_image(tall)[0, 0, 256]
    distance = np.abs(np.arange(512) - 255.0)
    expected = np.mean([np.exp(-0.5 * (distance / reach) ** 2) * (distance <= 3 * reach) for reach in (0.8, 2.0, 4.0)], axis=0)
    assert np.allclose(across, expected, atol=1e-6)
    assert across[255] == 1.0


def test_soft_edges_are_as_wide_in_a_larger_picture():
    def edge(size):
        ids = np.zeros((1, size, size), np.int32)
        ids[:, :, size // 2 :] = 1
        return softedge_image(view(facing(size, size), np.full((1, size, size), 5.0), ids))[0, 0, size // 2].sum() / size

    assert np.isclose(edge(1024), edge(512), rtol=0.1)


def test_soft_edges_fade_with_the_crease():
    def strongest(degrees):
        normals = facing(32, 32)
        normals[:, :, :16] = (-np.sin(np.radians(degrees)), 0, np.cos(np.radians(degrees)))
        return softedge_image(view(normals, np.full((1, 32, 32), 5.0))).max()

    strength = [strongest(degrees) for degrees in (5, 20, 35, 50, 75)]
    assert strength[0] == 0.0
    assert strength == sorted(strength)
    assert 0.0 < strength[1] < 0.5 < strength[3] < 1.0
    assert strength[4] == 1.0


def disc(size: int = 64, near: float = 3.0, far: float = 5.0) -> View:
    """A disc, object 7, before a wall, object 5."""
    y, x = np.mgrid[:size, :size] - size / 2 + 0.3
    inside = (np.hypot(x, y) < size / 3)[None]
    return view(facing(size, size), np.where(inside, near, far), np.where(inside, 7, 5).astype(np.int32))


@pytest.mark.parametrize(("near", "far"), [(3.0, 5.0), (5.0, 3.0), (5.0, 4.999)])
def test_canny_lines_are_one_pixel_wide_and_closed_on_the_nearer_side(near, far):
    surface = disc(near=near, far=far)
    line = canny_image(surface)[0, 0] > 0
    inside = surface.object_id[0] == 7
    assert set(np.unique(canny_image(surface))) == {0.0, 1.0}
    assert not (line & (inside if near > far else ~inside)).any()
    blocks = line[:-1, :-1] & line[1:, :-1] & line[:-1, 1:] & line[1:, 1:]
    assert not blocks.any()  # nowhere two wide
    # closed: a flood of the inside that steps up, down, left and right does not get out
    flood, open_ = np.zeros_like(line), ~line
    flood[32, 32] = True
    for _ in range(100):
        spread = flood.copy()
        spread[1:] |= flood[:-1]
        spread[:-1] |= flood[1:]
        spread[:, 1:] |= flood[:, :-1]
        spread[:, :-1] |= flood[:, 1:]
        flood = spread & open_
    assert not flood[0, 0]


def test_canny_draws_a_rounded_edge_once():
    """A bevel over four pixels, of which no two neighbours differ by much."""
    angle = np.radians(np.clip((np.arange(40) - 18) / 4, 0, 1) * 90)
    normals = np.stack([np.sin(angle), 0 * angle, np.cos(angle)], -1)
    surface = view(np.broadcast_to(normals, (1, 9, 40, 3)).copy(), np.full((1, 9, 40), 5.0))
    assert lineart_image(surface).max() < 0.1
    line = np.flatnonzero(canny_image(surface)[0, 0, 4])
    assert len(line) == 1
    assert 18 < line[0] < 22


def test_a_cylinder_and_a_plane_have_no_creases():
    turn = np.linspace(-1.2, 1.2, 64)
    normals = np.stack([np.sin(turn), 0 * turn, np.cos(turn)], -1)
    depth = 10.0 - np.cos(turn)
    cylinder = view(np.broadcast_to(normals, (1, 64, 64, 3)).copy(), np.broadcast_to(depth, (1, 64, 64)))
    assert canny_image(cylinder).max() == 0.0
    rows = np.linspace(0.02, 1.0, 40)
    plane = view(facing(40, 30), np.broadcast_to((1.0 / rows)[None, :, None], (1, 40, 30)))
    assert canny_image(plane).max() == softedge_image(plane).max() == 0.0


def test_segmentation_is_one_flat_colour_of_ade20k_an_object():
    normals = facing(4, 6)
    normals[:, 0] = 0
    ids = np.array([[0, 0, -5, -5, 900, 900]] * 4, np.int32)[None]
    picture = segmentation_image(view(normals, np.full((1, 4, 6), 5.0), ids))[0]
    colours = np.rint(picture * 255).astype(int).transpose(1, 2, 0)
    assert (colours[0] == ade20k.COLOURS["sky"]).all()
    below = [tuple(colours[2, x].tolist()) for x in (0, 2, 4)]
    assert len(set(below)) == 3
    assert set(below) <= set(ade20k.COLOURS.values()) - {ade20k.COLOURS["sky"]}
    assert np.array_equal(colours[1:, ::2], colours[1:, 1::2])


@pytest.mark.parametrize(
    ("name", "spoken_of"),
    [
        ("Tree.001", "tree"),
        ("Street lamp", "lamp"),
        ("Tree house", "house"),
        ("CoffeeTable", "coffee table"),
        ("traffic_light-2", "traffic light"),
        ("Ground", "earth"),
        ("Carpet", None),
        ("Cube.003", None),
        ("", None),
    ],
)
def test_the_name_of_an_object_may_say_what_it_is(name, spoken_of):
    assert ade20k.class_of(name) == spoken_of


def test_named_objects_have_their_class_colour_and_others_have_others():
    facts = ShotFacts(1.0, tuple(range(1, 301)), {1: "Tree", 2: "Tree.001", 3: "Wall left"})
    colours = [tuple(colour) for colour in facts.colours().tolist()]
    assert colours[0] == colours[1] == ade20k.COLOURS["tree"]
    assert colours[2] == ade20k.COLOURS["wall"]
    assert not {ade20k.COLOURS[name] for name in ("tree", "wall", "sky")} & set(colours[3:])
    assert len(set(colours[3:])) == 146  # the 147 other classes; roads and skyscrapers share a colour
    few = ShotFacts(1.0, (5, 155, 305)).colours()
    assert len(np.unique(few, axis=0)) == 3
    assert len(ade20k.COLOURS) == 150


@pytest.mark.parametrize("kind", [*KINDS, "lineart@2.5"])
def test_a_part_of_a_shot_is_that_part_of_the_whole(kind):
    scene = two_rectangles(length=6)
    gbuffer = scene.gbuffer()
    facts = facts_of(gbuffer, {101: "Ball"})
    channels = channels_of([kind])
    whole = control_images(view_of(gbuffer, scene.cameras), [kind], channels, facts)
    for frames in (range(2), range(2, 5), [5]):
        part = control_images(view_of(gbuffer, scene.cameras, frames), [kind], channels, facts)
        assert np.array_equal(part, whole[list(frames)])
    assert np.array_equal(
        control_images(view_of(gbuffer, scene.cameras), ["depth"], 1), control_images(view_of(gbuffer, scene.cameras), ["depth"], 1, facts)
    )


def test_facts_of_the_parts_are_those_of_the_whole():
    scene = two_rectangles(length=6)
    gbuffer = scene.gbuffer()
    parts = [facts_of(view_of(gbuffer, scene.cameras, frames)) for frames in (range(2), range(2, 6))]
    assert parts[0].with_part(parts[1]) == parts[1].with_part(parts[0]) == facts_of(gbuffer)
    assert facts_of(gbuffer).ids == (101, 202)
    empty = View(np.zeros((2, 4, 4, 3), np.float32), np.full((2, 4, 4), 1e10, np.float32), np.zeros((2, 4, 4), np.int32))
    assert facts_of(empty) == ShotFacts(0.0, ())
    assert parts[0].with_part(facts_of(empty)) == parts[0]
    for kind, channels in KINDS.items():
        assert np.isfinite(control_images(empty, [kind], channels)).all()

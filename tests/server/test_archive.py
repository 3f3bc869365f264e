"""Finding codes by the surface point that they stand for: all that the rule allows and none that it forbids, however many there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medm.correspondence import archive as archive_module
from medm.correspondence.archive import AT_BIRTH, OFF_SURFACE, Archive
from medm.correspondence.surface import SurfaceFrame

pytestmark = pytest.mark.usefixtures("one_thread")

REACH = 1.0
SIZE = 12
GRID = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1).reshape(-1, 2) - (SIZE - 1) / 2
ALL = torch.arange(SIZE * SIZE)


def frame_of(points: np.ndarray, normal: np.ndarray, object_id: int = 0, size: int = SIZE) -> SurfaceFrame:
    """A square frame of points (N, 3)."""
    normals = np.broadcast_to(normal, points.shape)
    ids = np.full(len(points), object_id, np.int32)
    rows = (np.ascontiguousarray(values.astype(np.float32)) for values in (points, normals))
    return SurfaceFrame(*(torch.from_numpy(row) for row in rows), torch.from_numpy(ids), size, size)


def found(archive: Archive, frame: SurfaceFrame, pixel: torch.Tensor = ALL) -> set[tuple[int, int]]:
    """The pairs of pixel and code that `near` gives."""
    pixels, codes, _, _ = archive.near(frame, pixel, REACH)
    return set(zip(pixels.tolist(), codes.tolist(), strict=True))


def squeezed(rng: np.random.Generator, zoom: float, slant: float) -> np.ndarray:
    """(2, 2): how a plane's pixels lie on it: turned, `zoom` times as large, and `slant` times as long as wide, in any direction."""
    angles = rng.uniform(0, 2 * np.pi, 2)
    turn, along = (np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles)
    return zoom * turn @ np.diag([slant**0.5, slant**-0.5]) @ along


class Plane:
    """A plane somewhere in space, of pixels of any size, and two views of it."""

    def __init__(self, seed: int, zoom: float = 1, slant: float = 1, above: float = 0) -> None:
        """The second view's pixels are `zoom` times as large and lie up to `slant` times as long as wide, `above` above the plane."""
        rng = np.random.default_rng(seed)
        self.axes = np.linalg.qr(rng.normal(size=(3, 3)))[0] if seed % 4 else np.eye(3)[[1, 2, 0]]  # some are aligned, and through 0
        centre = rng.normal(0, 5, 3) if seed % 8 else np.zeros(3)
        size = np.exp(rng.uniform(-4, 3))
        self.born, self.now = size * squeezed(rng, 1, 1), size * squeezed(rng, zoom, slant)
        self.born_uv, self.now_uv = GRID @ self.born.T, (GRID + rng.uniform(-1, 1, 2)) @ self.now.T
        self.first = frame_of(centre + self.born_uv @ self.axes[:2], self.axes[2])
        self.above = above * size
        self.second = frame_of(centre + self.now_uv @ self.axes[:2] + self.above * self.axes[2], self.axes[2])

    def allowed(self, slack: float) -> np.ndarray:
        """(pixels of the second view, those of the first): what the rule allows, if its limits were `slack` wider."""
        apart = self.born_uv[None] - self.now_uv[:, None]
        now = np.linalg.norm(apart @ np.linalg.inv(self.now).T, axis=-1)
        born = np.linalg.norm(apart @ np.linalg.inv(self.born).T, axis=-1)
        longest = np.linalg.norm(self.now, axis=0).max()
        return (now <= REACH + slack) & (born <= AT_BIRTH + slack) & (self.above <= (OFF_SURFACE + slack) * longest)


def filed(frame: SurfaceFrame) -> Archive:
    """One code a pixel, all out of view."""
    archive = Archive(torch.device("cpu"))
    archive.add(frame, ALL)
    archive.leave(ALL)
    return archive


@given(seed=st.integers(0, 2**32 - 1), zoom=st.floats(0.55, 1.8), slant=st.floats(1, 4), above=st.sampled_from([0, 0, 0.3, 3]))
@settings(max_examples=80, deadline=None)
def test_nothing_is_found_that_the_rule_forbids(seed: int, zoom: float, slant: float, above: float) -> None:
    plane = Plane(seed, zoom, slant, above)
    archive = filed(plane.first)
    pixel, code, dx, dy = archive.near(plane.second, ALL, REACH)
    assert plane.allowed(2e-3)[pixel, code].all()
    apart = np.stack([dx, dy], -1) @ plane.now.T
    np.testing.assert_allclose(apart, plane.born_uv[code] - plane.now_uv[pixel], atol=0.01 * np.linalg.norm(plane.now))


@pytest.mark.parametrize(
    ("zoom", "slant"), [(1, 1), (0.6, 1), (1.7, 1), (1, 4), (1.7, 3)], ids=["alike", "closer", "further", "slanted", "further and slanted"]
)
def test_nearly_all_is_found_that_the_rule_allows(zoom: float, slant: float) -> None:
    """It looks in some places around a pixel only. What it misses are corners of voxels, and hardly ever all codes of a pixel."""
    pairs = allowed = pixels = any_allowed = 0
    for seed in range(40):
        plane = Plane(seed, zoom, slant)
        rule, got = plane.allowed(-2e-3), np.zeros((len(ALL), len(ALL)), bool)
        pixel, code, _, _ = filed(plane.first).near(plane.second, ALL, REACH)
        got[pixel, code] = True
        pairs, allowed = pairs + (got & rule).sum(), allowed + rule.sum()
        pixels, any_allowed = pixels + (got.any(1) & rule.any(1)).sum(), any_allowed + rule.any(1).sum()
    assert allowed > 1000
    assert pairs > 0.93 * allowed
    assert pixels > 0.98 * any_allowed


def test_a_floor_at_0_is_found_though_its_points_are_not_exactly_on_it() -> None:
    noise = np.random.default_rng(1).normal(0, 1e-7, (2, len(GRID), 3))
    flat = np.append(GRID * 0.1, np.zeros((len(GRID), 1)), axis=1)
    archive = filed(frame_of(flat + noise[0], np.array([0, 0, 1])))
    pairs = found(archive, frame_of(flat + noise[1], np.array([0, 0, 1])))
    assert {(p, p) for p in range(len(ALL))} <= pairs


def test_only_codes_out_of_view_of_the_same_object_and_side_are_found() -> None:
    plane = Plane(3)
    archive = filed(plane.first)
    same = {(p, p) for p in range(len(ALL))}
    first = plane.first
    assert same <= found(archive, first)
    assert not found(archive, SurfaceFrame(first.coordinates, -first.normal, first.object_id, SIZE, SIZE))
    assert not found(archive, SurfaceFrame(first.coordinates, first.normal, first.object_id + 1, SIZE, SIZE))
    archive.come_back(ALL[::2])
    assert {code for _, code in found(archive, first)} == set(range(1, len(ALL), 2))
    archive.come_back(ALL)
    assert not found(archive, first)


def test_only_the_pixels_that_ask_are_answered() -> None:
    plane = Plane(3)
    asking = torch.tensor([17, 40, 41])
    pairs = found(filed(plane.first), plane.first, asking)
    assert {(17, 17), (40, 40), (41, 41)} <= pairs
    assert {pixel for pixel, _ in pairs} == {17, 40, 41}


def test_what_has_no_surface_point_is_neither_filed_nor_found() -> None:
    plane = Plane(5)
    coordinates = plane.first.coordinates.clone()
    hole = 5 * SIZE + 5
    coordinates[hole] = torch.nan
    with_hole = SurfaceFrame(coordinates, plane.first.normal, plane.first.object_id, SIZE, SIZE)
    assert {pixel for pixel, _ in found(filed(plane.first), with_hole)} == set(range(len(ALL))) - {hole}
    assert {code for _, code in found(filed(with_hole), plane.first)} == set(range(len(ALL))) - {hole}


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, 1e30])
def test_coordinates_beyond_all_bounds_are_survived(value: float) -> None:
    plane = Plane(5)
    coordinates = plane.first.coordinates.clone()
    coordinates[::3] = value
    wild = SurfaceFrame(coordinates, plane.first.normal, plane.first.object_id, SIZE, SIZE)
    archive = filed(wild)
    found(archive, wild)
    archive.add(plane.first, ALL)
    archive.leave(ALL + len(ALL))
    assert {(p, p + len(ALL)) for p in range(len(ALL))} <= found(archive, plane.first)


def test_nothing_is_found_in_an_empty_archive() -> None:
    plane = Plane(1)
    archive = Archive(torch.device("cpu"))
    assert not found(archive, plane.first)
    archive.add(plane.first, ALL)
    assert not found(archive, plane.first)
    archive.leave(ALL[:0])
    assert not found(archive, plane.first)


def tiles(number: int) -> list[SurfaceFrame]:
    """Views of 12 x 12 pixels of one plane that lie beside each other, a row of them."""
    square = np.append(GRID * 0.01, np.zeros((len(GRID), 1)), axis=1)
    return [frame_of(square + np.array([n * SIZE * 0.01, 0, 1.7]), np.array([0, 0, 1])) for n in range(number)]


def test_codes_are_found_among_many_thousands() -> None:
    """The table grows again and again; what is filed stays where it can be found."""
    frames = tiles(200)
    archive = Archive(torch.device("cpu"))
    for n, frame in enumerate(frames):
        archive.add(frame, ALL)
        archive.leave(ALL + n * len(ALL))
    for n in (0, 1, 28, 113, 199):
        assert {(p, p + n * len(ALL)) for p in range(len(ALL))} <= found(archive, frames[n])


def test_codes_that_all_leave_at_once_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at a cut: many more than the table has room for, which must grow at once to be one in which chains are short."""
    monkeypatch.setattr(archive_module, "_MAX_CHAIN", 16)
    side = 600
    y, x = np.mgrid[:side, :side]
    everything = frame_of(np.stack([x * 0.01, y * 0.01, np.full(x.shape, 1.7)], -1).reshape(-1, 3), np.array([0, 0, 1]), size=side)
    archive = Archive(torch.device("cpu"))
    archive.add(everything, torch.arange(side * side))
    archive.leave(torch.arange(side * side))
    some = torch.arange(0, side * side, 997)
    assert {(int(p), int(p)) for p in some} <= found(archive, everything, some)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_codes_can_leave_and_come_back_again_and_again(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = tiles(6)
    archive = Archive(torch.device("cpu"))
    out: set[int] = set()
    born = 0
    for step in range(40):
        if born < len(frames) and step % 5 == 0:
            archive.add(frames[born], ALL)
            born += 1
        codes = rng.choice(born * len(ALL), rng.integers(0, born * len(ALL)), replace=False)
        if rng.random() < 0.5:
            archive.leave(torch.from_numpy(codes))
            out |= set(codes.tolist())
        else:
            archive.come_back(torch.from_numpy(codes))
            out -= set(codes.tolist())
    pairs = {n: found(archive, frames[n]) for n in range(born)}
    assert set().union(*({code for _, code in pairs[n]} for n in pairs)) == out
    for code in out:
        assert (code % len(ALL), code) in pairs[code // len(ALL)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_finds_what_a_cpu_finds() -> None:
    """But for pairs at the limits of the rule, as a sum that fuses a product is rounded otherwise."""
    plane = Plane(3, 1.3, 2)

    def on(device: str) -> set[tuple[int, int]]:
        first, second = (
            SurfaceFrame(f.coordinates.to(device), f.normal.to(device), f.object_id.to(device), SIZE, SIZE)
            for f in (plane.first, plane.second)
        )
        archive = Archive(torch.device(device))
        archive.add(first, ALL.to(device))
        archive.leave(ALL.to(device))
        return found(archive, second, ALL.to(device))

    here, there = on("cpu"), on("cuda")
    assert len(here ^ there) <= 0.01 * len(here)

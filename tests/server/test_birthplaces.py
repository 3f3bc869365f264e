"""Codes stay at the surface point at which they were born, also where the flow would let them stray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coded_scenes import analysed, check, errors, fresh
from medm.correspondence.birthplaces import Birthplaces
from medm.correspondence.surface import SurfaceFrame
from synthetic import Rectangle, Scene, at, camera

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 9
GRID = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1).reshape(-1, 2) - (SIZE - 1) / 2
ALL = torch.arange(SIZE * SIZE)


def turning(angle: Callable[[float], float], length: int) -> Scene:
    """A turntable seen at a slant: the direction in which its points are foreshortened changes."""
    return Scene(
        [Rectangle(7, lambda t: at(0.01, 0.01, -1.6, turn=(1.25, 0, 0)) @ at(turn=(0, 0, angle(t))), half=(0.6, 0.6))], length=length
    )


TURNING = turning(lambda t: 1.6 * t / 29, 30)
# One object with a part in front of another; the camera creeps past them, so that the front one covers 0.3 pixels more in every frame.
CREEPING = Scene(
    [Rectangle(5, lambda _: at(0.01, 0.01, -1.6), half=(0.2, 0.5)), Rectangle(5, lambda _: at(0, 0, -2.4), half=(20, 20))],
    camera=lambda t: camera(at(0.0225 * t, 0.003 * t), 64, 48),
    length=30,
)


def frame_of(points: np.ndarray, axis: np.ndarray | tuple[int, ...] = (0, 0, 1)) -> SurfaceFrame:
    """A square frame of points (N, 3) on one object, whose normal is the axis."""
    coordinates = torch.from_numpy(points.astype(np.float32))
    normal = torch.from_numpy(np.asarray(axis, np.float32)).expand(len(points), 3)
    return SurfaceFrame(coordinates, normal, torch.ones(len(points), dtype=torch.int32), SIZE, SIZE)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), slant=st.floats(1, 12), size=st.floats(1e-3, 1e3))
def test_a_code_strays_by_more_than_a_pixel_of_its_birth_frame(seed: int, slant: float, size: float) -> None:
    """Whatever the birth's pixels are like, and wherever the points lie in their plane."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    skew = size * np.linalg.qr(rng.normal(size=(2, 2)))[0] @ np.diag([slant, 1])
    centre = size * rng.normal(0, 5, 3)
    born = frame_of(centre + GRID @ skew.T @ axes[:2], axes[2])
    apart = rng.uniform(-1.5, 1.5, GRID.shape)
    shown = frame_of(centre + (GRID + apart) @ skew.T @ axes[:2], axes[2])
    places = Birthplaces(torch.device("cpu"))
    places.add(born, ALL)
    distance = np.linalg.norm(apart, axis=-1)
    clear = np.abs(distance - 1) > 0.02
    assert (places.strayed(shown, ALL, ALL).numpy() == (distance > 1))[clear].all()


@pytest.mark.parametrize(("off", "strayed"), [(0.0, False), (1.9, False), (2.1, True), (30.0, True)])
def test_a_code_strays_by_leaving_the_surface(off: float, strayed: bool) -> None:
    points = np.column_stack([0.1 * GRID, np.zeros(len(GRID))])
    places = Birthplaces(torch.device("cpu"))
    places.add(frame_of(points), ALL)
    assert (places.strayed(frame_of(points + np.array([0, 0, 0.1 * off])), ALL, ALL) == strayed).all()


def test_of_what_is_not_known_nothing_strays() -> None:
    points = np.column_stack([GRID, np.zeros(len(GRID))])
    unknown = frame_of(np.full_like(points, np.nan))
    places = Birthplaces(torch.device("cpu"))
    places.add(frame_of(points), ALL[:40])
    places.add(unknown, ALL[40:])
    places.add(frame_of(np.zeros_like(points)), ALL)  # all pixels show one point: no step has a length
    assert not places.strayed(unknown, ALL, ALL).any()
    assert not places.strayed(frame_of(points + 100), ALL[40:], ALL[40:]).any()
    assert not places.strayed(frame_of(points + 100), ALL, ALL + len(ALL)).any()
    assert places.strayed(frame_of(points + 100), ALL[:40], ALL[:40]).all()


@pytest.mark.parametrize(("scene", "objects", "before"), [(TURNING, True, 0.03), (CREEPING, False, 0.01)], ids=["turning", "creeping over"])
def test_codes_stay_at_their_points(tmp_path: Path, scene: Scene, objects: bool, before: float) -> None:
    """Errors are in pixels of the birth frame; without surface points, by the flow alone, there are as many as `before`."""
    result = analysed(tmp_path / "shot", scene, objects=objects)
    check(result.codes, scene.gbuffer().object_id)
    old = ~fresh(result.codes) & ~scene.gbuffer().background
    assert (errors(scene, result.codes)[old] > 1.05).mean() < 0.002
    flow_alone = analysed(tmp_path / "alone", scene, reidentify=False, objects=objects)
    assert (errors(scene, flow_alone.codes)[~fresh(flow_alone.codes) & ~scene.gbuffer().background] > 1.05).mean() > before
    assert result.codes.count < 1.3 * flow_alone.codes.count


def test_what_turns_back_finds_the_codes_that_had_strayed(tmp_path: Path) -> None:
    scene = turning(lambda t: 1.6 * np.sin(np.pi * t / 30), 31)
    codes = analysed(tmp_path / "shot", scene).codes
    surface = ~scene.gbuffer().background[-1]
    assert (codes.codes[-1] == codes.codes[0])[surface].mean() > 0.8

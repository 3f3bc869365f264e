"""What is painted and what is kept, on scenes whose masks are known by ray casting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medm.diffusion.masks import composite, painted, select
from medm.errors import BadInput
from medm.shot import Shot
from synthetic import change_manifest, channels_of, two_rectangles, write_exr, write_shot

NAMES = {101: ("Figure", ["Cast", "Figures"]), 202: ("Wall [brick]", ["Set"])}


def tell_names(manifest: dict[str, Any]) -> None:
    for thing in manifest["objects"]:
        thing["name"], thing["collections"] = NAMES[thing["id"]]


@pytest.fixture
def shot(tmp_path: Path) -> Shot:
    """Object 101, the Figure, before object 202, the wall, before nothing."""
    folder = write_shot(tmp_path / "shot", objects=True)
    change_manifest(folder, tell_names)
    return Shot.open(folder)


@pytest.mark.parametrize(
    ("selection", "ids"),
    [
        ("Figure", {101}),
        ("Fig*", {101}),
        ("Fi?ure", {101}),
        ("*", {101, 202}),
        ("Wall [brick]", {202}),
        ("W*[*", {202}),
        ("background", {0}),
        ("sky, Figure", {0, 101}),
        ("collection:Figures", {101}),
        ("collection:Cast, collection:S*", {101, 202}),
        ("!Figure", {0, 202}),
        ("!Figure, !background", {202}),
        ("!*, Figure", {0, 101}),
        ("*, !Figure", {202}),
        ("*, !Wall*, Wall*", {101, 202}),
        (" Figure ,, ! collection:Set ", {101}),
        ("object 00000065", {101}),
    ],
)
def test_the_last_name_that_fits_counts(shot: Shot, selection: str, ids: set[int]) -> None:
    object_id = shot.gbuffer().object_id
    coverage = painted(shot, object_id, selection)
    assert coverage.dtype == np.float32
    assert np.array_equal(coverage, np.isin(object_id, list(ids)))
    assert 0 < coverage.mean() < 1 or ids == {0, 101, 202}


@pytest.mark.parametrize(
    ("selection", "complaint"),
    [
        ("figure", "no object of the shot is called 'figure'; did you mean 'Figure'?"),
        ("Figur_*", "no object of the shot is called 'Figur_*'; did you mean 'Figure'?"),
        ("Figure, Q", "no object of the shot is called 'Q'; there are 'Figure', 'Wall [brick]', 'background', 'sky'"),
        ("!Lamp", "no object of the shot is called 'Lamp'; "),
        ("collection:Figurs", "no collection with objects of the shot is called 'Figurs'; did you mean 'Figures'?"),
        ("material:Clay", "this shot was exported by an older add-on, which did not note materials: export it again, or name objects"),
        (" , ", "nothing is selected to be painted: "),
        ("Figure, !Figure", "nothing of 'Figure, !Figure' is in view in this shot"),
        ("object 0000dead", "nothing of 'object 0000dead' is in view in this shot"),
    ],
)
def test_what_fits_nothing_is_refused_with_names_that_are_near(shot: Shot, selection: str, complaint: str) -> None:
    with pytest.raises(BadInput) as refusal:
        painted(shot, shot.gbuffer().object_id, selection)
    assert str(refusal.value).startswith(complaint)
    assert "\n" not in str(refusal.value)


def test_a_shot_of_an_older_add_on_tells_no_collections(tmp_path: Path) -> None:
    shot = Shot.open(write_shot(tmp_path / "shot", objects=True))
    with pytest.raises(BadInput, match="exported by an older add-on, which did not note collections: export it again"):
        select(shot.manifest, "collection:Set")
    assert painted(shot, shot.gbuffer().object_id, "rectangle 101").any()


def test_a_shot_without_names_is_painted_by_ids(tmp_path: Path) -> None:
    shot = Shot.open(write_shot(tmp_path / "shot"))
    with pytest.raises(BadInput, match="does not say what its objects are called, so 'Figure' cannot be found; export it again"):
        select(shot.manifest, "Figure")
    object_id = shot.gbuffer().object_id
    assert np.array_equal(painted(shot, object_id, "object 000000ca"), object_id == 202)


def test_two_objects_of_one_id_are_painted_together(tmp_path: Path) -> None:
    folder = write_shot(tmp_path / "shot", objects=True)
    change_manifest(folder, lambda manifest: manifest["objects"].append({"id": 101, "name": "Twin", "kind": "unknown"}))
    shot = Shot.open(folder)
    object_id = shot.gbuffer().object_id
    for name in ("Twin", "rectangle 101"):
        assert np.array_equal(painted(shot, object_id, name), object_id == 101)


def test_without_a_beauty_there_is_nothing_to_keep(tmp_path: Path) -> None:
    shot = Shot.open(write_shot(tmp_path / "shot", objects=True, beauty=False))
    with pytest.raises(BadInput, match="synthetic was exported without its beauty, which is kept where nothing is painted"):
        select(shot.manifest, "rectangle 101")


def test_a_name_full_of_stars_is_matched_at_once(shot: Shot) -> None:
    with pytest.raises(BadInput, match="no object of the shot is called"):
        select(shot.manifest, "*i" * 500)


def test_finer_data_tell_how_much_of_a_pixel_is_painted(tmp_path: Path) -> None:
    scene = two_rectangles()
    shot = Shot.open(write_shot(tmp_path / "shot", scene, objects=True, data_scale=3))
    object_id = shot.gbuffer().object_id
    coverage = painted(shot, object_id, "rectangle 101")
    assert np.allclose(coverage * 9, np.rint(coverage * 9), atol=1e-5)
    assert ((coverage > 0) & (coverage < 1)).any()
    # by ray casting, at the middles of nine ninths of every pixel
    for t in range(scene.length):
        _, index, _, _ = scene.hits(t, 3)
        fine = (index == 0).reshape(object_id.shape[1], 3, object_id.shape[2], 3)
        assert np.allclose(coverage[t], fine.mean(axis=(1, 3)))
    assert np.array_equal(coverage == 1, coverage > 0.999)  # a pixel that is painted wholly is exactly 1


@pytest.mark.parametrize("data_scale", [1, 3])
def test_materials_are_told_apart_within_an_object(tmp_path: Path, data_scale: int) -> None:
    """The upper half of every frame shows clay, id 7, and the lower half glass, id -9."""
    folder = write_shot(tmp_path / "shot", objects=True, data_scale=data_scale)

    def upper(ids: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.arange(ids.shape[0])[:, None] < ids.shape[0] // 2, ids.shape)

    for number in range(1, 5):
        file = folder / "data" / f"{number:04d}.exr"
        channels = channels_of(two_rectangles().gbuffer(data_scale), number - 1, "View.Layer")
        ids = channels["View.Layer.CryptoObject00.r"]
        channels["View.Layer.CryptoMaterial00.r"] = np.where(upper(ids), 7, -9).astype(np.int32).view(np.float32)
        write_exr(file, channels)
    change_manifest(folder, lambda document: document.update(materials=[{"id": 7, "name": "Clay"}, {"id": -9, "name": "Glass"}]))
    shot = Shot.open(folder)
    object_id = shot.gbuffer().object_id
    for selection, wanted in (
        ("material:Clay", upper(object_id[0]) & (object_id != 0)),
        ("rectangle 101, !material:C*", ~upper(object_id[0]) & (object_id == 101)),
        ("!material:Glass", upper(object_id[0]) | (object_id == 0)),
        ("!*, material:Glass", ~upper(object_id[0]) | (object_id == 0)),
    ):
        coverage = painted(shot, object_id, selection)
        assert np.array_equal(coverage >= 0.5, wanted) if data_scale == 1 else np.abs((coverage >= 0.5) ^ wanted).mean() < 0.02
    with pytest.raises(BadInput, match=r"no material is called 'clay'; did you mean 'Clay'\?"):
        select(shot.manifest, "material:clay")


def test_a_shot_without_the_pass_is_to_be_exported_again(shot: Shot) -> None:
    change_manifest(shot.folder, lambda document: document.update(materials=[{"id": 7, "name": "Clay"}]))
    with pytest.raises(BadInput, match=r"has no CryptoMaterial00 pass of view layer 'View\.Layer'; export the shot's data again"):
        painted(Shot.open(shot.folder), shot.gbuffer().object_id, "material:Clay")


@pytest.mark.parametrize("data_scale", [1, 3])
def test_the_rest_of_the_beauty_is_kept_to_the_bit(tmp_path: Path, data_scale: int) -> None:
    shot = Shot.open(write_shot(tmp_path / "shot", objects=True, data_scale=data_scale))
    object_id, beauty = shot.gbuffer().object_id, shot.beauty()
    paint = np.random.default_rng(0).integers(0, 256, beauty.shape, np.uint8)
    coverage = painted(shot, object_id, "rectangle 101")
    untouched = beauty.copy(), paint.copy()
    result = composite(paint, beauty, coverage)
    assert result.dtype == np.uint8
    assert result[coverage == 0].tobytes() == beauty[coverage == 0].tobytes()
    assert result[coverage == 1].tobytes() == paint[coverage == 1].tobytes()
    edge = (coverage > 0) & (coverage < 1)
    exact = beauty[edge] + coverage[edge][:, None].astype(float) * (paint[edge].astype(float) - beauty[edge])
    assert edge.any() == (data_scale == 3)
    assert np.abs(result[edge] - exact).max(initial=0) <= 0.5 + 1e-4
    assert np.array_equal(beauty, untouched[0])
    assert np.array_equal(paint, untouched[1])


def test_what_moves_takes_its_mask_along(tmp_path: Path) -> None:
    scene = two_rectangles()
    hidden = replace(scene.rectangles[0], visible=lambda t: t != 2)
    shot = Shot.open(write_shot(tmp_path / "shot", replace(scene, rectangles=[hidden, scene.rectangles[1]]), objects=True))
    coverage = painted(shot, shot.gbuffer().object_id, "rectangle 101")
    assert coverage.any(axis=(1, 2)).tolist() == [True, True, False, True]

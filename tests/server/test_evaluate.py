"""Metrics: 0 for what is steady, larger for what is not, and clear words for takes that do not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import synthetic
from medm import correspondence
from medm.correspondence import Codes
from medm.errors import BadInput
from medm.evaluate import code_spread, evaluate, measure, sharpness, warping_error
from medm.harmonize import Harmonizer
from medm.shot import Shot, frame_file
from synthetic import Rectangle, Scene, at, camera


def write_take(folder: Path, frames: np.ndarray, numbers: list[int]) -> Path:
    (folder / "frames").mkdir(parents=True)
    for number, frame in zip(numbers, frames, strict=True):
        Image.fromarray(frame).save(folder / "frames" / frame_file(number))
    return folder


def test_a_perfectly_warped_clip_has_no_warping_error(tmp_path: Path) -> None:
    """Waves painted on a wall, seen by a moving camera: all that is left is interpolation and 8 bits."""
    scene = Scene(
        [Rectangle(202, lambda t: at(0, 0, -3), half=(20, 20))],
        camera=lambda t: camera(at(0.05 * t, turn=(0, 0.01 * t, 0)), 64, 48),
        length=4,
    )
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", scene))
    g = shot.gbuffer()
    found = correspondence.analyse(shot, g)
    steady = measure(shot.beauty(), found, g.object_id)
    assert steady["warping_error"] is not None
    assert steady["warping_error"] < 5e-5
    assert steady["code_spread"] is not None
    assert steady["code_spread"] < 2e-3
    flicker = (shot.beauty() * np.array([1, 0.9, 1, 0.9])[:, None, None, None]).astype(np.uint8)
    assert measure(flicker, found, g.object_id)["warping_error"] > 50 * steady["warping_error"]  # type: ignore[operator]


def test_warping_error_of_known_size() -> None:
    """One pixel to the right a frame, exact but for a step in brightness."""
    rng = np.random.default_rng(0)
    wide = rng.random((8, 12, 3), dtype=np.float32)
    frames = np.stack([wide[:, 2:10], wide[:, 1:9] + 0.1])
    flow = np.zeros((2, 8, 8, 2), np.float32)
    flow[1, ..., 0] = -1
    occluded = np.zeros((2, 8, 8), bool)
    assert warping_error(frames, flow, occluded) == pytest.approx(0.01, rel=1e-4)  # the column that enters is left out
    frames[1, 3, 4] = 9
    occluded[1, 3, 4] = True
    assert warping_error(frames, flow, occluded) == pytest.approx(0.01, rel=1e-4)
    assert warping_error(frames, flow + np.float32(0.5), occluded) > 0.01
    assert math.isnan(warping_error(frames, flow, np.ones_like(occluded)))
    flow[1] = np.nan
    assert math.isnan(warping_error(frames, flow, occluded))


def test_code_spread_is_the_variance_within_codes() -> None:
    codes = Codes(np.array([[[0, 1]], [[0, 2]]], np.int32), 3, np.array([0, 0, 1], np.int32), np.zeros((3, 2), np.float32))
    frames = np.zeros((2, 1, 2, 3), np.float32)
    frames[1, 0, 0] = 1  # code 0 has the values 0 and 1: variance 1/4; the others are alone
    frames[1, 0, 1] = 7
    assert code_spread(frames, codes) == pytest.approx(0.25)
    alone = Codes(np.arange(4, dtype=np.int32).reshape(2, 1, 2), 4, np.zeros(4, np.int32), np.zeros((4, 2), np.float32))
    assert math.isnan(code_spread(frames, alone))


def test_harmonised_clips_have_no_spread(shot_folder: Path) -> None:
    import torch

    shot = Shot.open(shot_folder)
    codes = correspondence.analyse(shot, shot.gbuffer()).codes
    noise = torch.rand(4, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    mean = Harmonizer(codes.codes, codes.count).global_mean(noise)
    assert code_spread(noise.permute(0, 2, 3, 1).numpy(), codes) > 0.02
    assert code_spread(mean.permute(0, 2, 3, 1).numpy(), codes) < 1e-10


def test_sharpness_looks_inside_of_objects_only() -> None:
    ids = np.zeros((1, 6, 8), np.int32)
    ids[..., 4:] = 1
    frames = np.repeat(ids[..., None].astype(np.float32), 3, axis=-1)
    assert sharpness(frames, ids) == 0
    assert sharpness(frames, np.zeros_like(ids)) > 0
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[None, None, :, None] * 0.1, (1, 6, 8, 3))
    assert sharpness(ramp, ids) == pytest.approx(0.1, rel=1e-5)


def test_evaluating_a_take(shot_folder: Path, tmp_path: Path) -> None:
    shot = Shot.open(shot_folder)
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)
    seen: list[float] = []
    result = evaluate(shot, write_take(tmp_path / "noise", noise, shot.frame_numbers), lambda share, _: seen.append(share))
    assert seen == sorted(seen)
    assert result["frames"] == 4
    assert result["take"]["warping_error"] > 10 * result["beauty"]["warping_error"]  # type: ignore[index]
    json.dumps(result, allow_nan=False)
    same = evaluate(shot, write_take(tmp_path / "same", shot.beauty(), shot.frame_numbers))
    assert same["take"] == same["beauty"]


def test_a_shot_of_one_frame_has_nothing_to_compare(tmp_path: Path) -> None:
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", synthetic.two_rectangles(length=1)))
    result = evaluate(shot, write_take(tmp_path / "take", shot.beauty(), shot.frame_numbers))
    assert result["take"]["warping_error"] is None  # type: ignore[index]
    assert result["take"]["sharpness"] > 0  # type: ignore[index]


def test_takes_that_do_not_match(shot_folder: Path, tmp_path: Path) -> None:
    shot = Shot.open(shot_folder)
    with pytest.raises(BadInput, match="is not a take: it has no folder frames"):
        evaluate(shot, tmp_path)
    take = write_take(tmp_path / "take", shot.beauty()[:2], [1, 2])
    with pytest.raises(BadInput, match=r"does not match the shot: frames/0003\.png and 1 more missing"):
        evaluate(shot, take)
    take = write_take(tmp_path / "small", shot.beauty()[:, :40], [1, 2, 3, 4])
    with pytest.raises(BadInput, match=r"0001\.png is 64x40, but the shot is 64x48"):
        evaluate(shot, take)

"""Metrics: 0 for what is steady, larger for what is not, and clear words for takes that do not fit."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import synthetic
from medm import correspondence
from medm.correspondence import Codes
from medm.datasets.flo import write_flo
from medm.errors import BadInput, Unavailable
from medm.evaluate import METRICS, code_spread, evaluate, measure, sharpness, table, warping_error
from medm.evaluation.light import SlowLight
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


def lit(change: np.ndarray, texture: float = 0.0) -> tuple[np.ndarray, Codes]:
    """A clip (T, 48, 64, 3) of a still surface whose luminance changes by `change` (T, 48, 64), and its codes: one a pixel."""
    random = np.random.default_rng(1)
    surface = 0.4 + texture * random.standard_normal(change.shape[1:])
    frames = ((surface + change)[..., None] * 255 + random.uniform(-0.5, 0.5, (*change.shape, 1))).round().clip(0, 255)
    pixels = change[0].size
    codes = np.broadcast_to(np.arange(pixels, dtype=np.int32).reshape(change.shape[1:]), change.shape)
    y, x = np.divmod(np.arange(pixels), change.shape[2])
    return np.repeat(frames, 3, axis=-1).astype(np.uint8), Codes(
        np.ascontiguousarray(codes), pixels, np.zeros(pixels, np.int32), np.stack([x, y], -1).astype(np.float32)
    )


def dusk(length: int = 48) -> np.ndarray:
    """(T, 48, 64): from left to right it darkens ever more; the left third stays as it is."""
    place = np.clip(np.linspace(-0.5, 1, 64), 0, 1)
    return np.broadcast_to(-0.25 * np.linspace(0, 1, length)[:, None, None] * place, (length, 48, 64))


class TestLight:
    def test_the_beauty_keeps_all_of_its_light_and_a_still_clip_none(self) -> None:
        frames, codes = lit(dusk())
        light = SlowLight(frames, codes)
        assert light.kept(frames) == 1
        assert light.kept(np.repeat(frames[:1], 48, axis=0)) == 0

    @pytest.mark.parametrize("share", [0.25, 0.9, 1.5])
    def test_a_clip_of_another_texture_keeps_what_it_shows_of_the_change(self, share: float) -> None:
        frames, codes = lit(dusk(), texture=0.05)
        other, _ = lit(share * dusk() + 0.1, texture=0.03)
        assert SlowLight(frames, codes).kept(other) == pytest.approx(share, abs=0.02)

    def test_flicker_is_no_slow_change(self) -> None:
        frames, codes = lit(dusk())
        flicker = 0.1 * np.random.default_rng(5).standard_normal((48, 48, 64))
        assert SlowLight(frames, codes).kept(lit(dusk() + flicker)[0]) == pytest.approx(1, abs=0.1)
        assert SlowLight(frames, codes).kept(lit(flicker)[0]) == pytest.approx(0, abs=0.1)

    def test_light_that_comes_and_goes_is_followed_in_stretches(self) -> None:
        wave = np.broadcast_to(0.15 * np.sin(np.linspace(0, 2 * np.pi, 96))[:, None, None], (96, 48, 64))
        frames, codes = lit(wave)
        assert SlowLight(frames, codes).kept(lit(0.5 * wave)[0]) == pytest.approx(0.5, abs=0.02)

    def test_where_the_light_stays_there_is_nothing_to_keep(self) -> None:
        still, codes = lit(np.zeros((24, 48, 64)), texture=0.05)
        flicker, _ = lit(0.05 * np.random.default_rng(5).standard_normal((24, 48, 64)))
        assert math.isnan(SlowLight(still, codes).kept(flicker))
        assert math.isnan(SlowLight(flicker, codes).kept(still))

    def test_points_that_are_seen_for_a_few_frames_only_do_not_count(self) -> None:
        frames, codes = lit(dusk(6))
        assert math.isnan(SlowLight(frames, codes).kept(frames))

    def test_harmonised_along_a_rendered_clip(self, tmp_path: Path) -> None:
        """A light that fades over moving surfaces: the mean over each code washes it out, a window over time keeps it."""
        import torch

        scene = synthetic.two_rectangles(96, 64, length=24)
        fade = np.linspace(1, 0.6, 24)[:, None, None, None]
        shot = Shot.open(synthetic.write_shot(tmp_path / "shot", scene))
        beauty = (shot.beauty() * fade).astype(np.uint8)
        codes = correspondence.analyse(shot, shot.gbuffer()).codes
        harmonizer = Harmonizer(codes.codes, codes.count)
        clip = torch.from_numpy(np.moveaxis(beauty, -1, 1) / np.float32(255))
        light = SlowLight(beauty, codes)
        washed, kept = (
            light.kept(np.moveaxis(result.numpy(), 1, -1)) for result in (harmonizer.global_mean(clip), harmonizer.local(clip, 2.0, 8))
        )
        assert abs(washed) < 0.02
        assert 0.85 < kept <= 1.01


def test_a_take_beside_its_reference(shot_folder: Path, tmp_path: Path) -> None:
    shot = Shot.open(shot_folder)
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)
    take = write_take(tmp_path / "take", shot.beauty(), shot.frame_numbers)
    reference = write_take(tmp_path / "w0", noise, shot.frame_numbers)
    result: Any = evaluate(shot, take, reference=reference, out=tmp_path / "out")
    assert list(result) == ["frames", "estimator", "take", "beauty", "reference", "ratios"]
    assert all(list(result[label]) == list(METRICS) for label in ("take", "beauty", "reference"))
    for name in ("warping_error", "sharpness"):
        assert result["ratios"][name] == pytest.approx(result["take"][name] / result["reference"][name])
    assert result["reference"]["epe"] > 3 * result["take"]["epe"]
    assert json.loads((tmp_path / "out/evaluation.json").read_text()) == result
    with Image.open(tmp_path / "out/scan.png") as scan:
        assert scan.height > 2 * 48
    assert evaluate(shot, take)["reference"] is None
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="the evaluation cannot be written to"):
        evaluate(shot, take, out=tmp_path / "file")


def test_without_an_estimator_or_with_the_flow_of_another_program(shot_folder: Path, tmp_path: Path) -> None:
    shot = Shot.open(shot_folder)
    take = write_take(tmp_path / "take", shot.beauty(), shot.frame_numbers)
    result: Any = evaluate(shot, take, estimator="none")
    assert (result["estimator"], result["take"]["epe"], result["take"]["over_3px"]) == ("none", None, None)
    found = correspondence.analyse(shot, shot.gbuffer())
    for folder, off in (("flow", 0.5), ("flow/beauty", 0.25)):
        (tmp_path / folder).mkdir()
        for t in (1, 2, 3):
            write_flo(tmp_path / folder / f"000{t + 1}.flo", found.flow_to_prev[t] + np.array([off, 0], np.float32))
    result = evaluate(shot, take, flow=tmp_path / "flow")
    assert result["estimator"] == "flow"
    assert result["take"]["epe"] == pytest.approx(0.5, rel=1e-4)
    assert result["beauty"]["epe"] == pytest.approx(0.25, rel=1e-4)
    shutil.rmtree(tmp_path / "flow/beauty")
    assert evaluate(shot, take, flow=tmp_path / "flow")["beauty"]["epe"] is None  # type: ignore[index]


def test_the_table_has_one_line_a_metric_or_one_a_clip() -> None:
    clips = {"take": {"warping_error": 0.00123, "epe": 1.5, "over_1px": 0.125}, "beauty": dict.fromkeys(METRICS)}
    by_metric = table(clips, line="metric").splitlines()
    assert by_metric[0].split() == ["take", "beauty"]
    assert by_metric[1].split() == ["warping", "error", "0.00123", "-"]
    assert by_metric[4].split() == ["EPE", ">", "1", "px", "12.50", "%", "-"]
    assert len(by_metric) == 1 + len(METRICS)
    by_clip = table(clips, line="clip").splitlines()
    assert [line.split()[0] for line in by_clip[1:]] == ["take", "beauty"]
    assert len({len(line) for line in by_clip}) == len({len(line) for line in by_metric}) == 1


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
    take = write_take(tmp_path / "long", np.concatenate([shot.beauty(), shot.beauty()]), range(1, 9))
    (take / "frames/notes.png").touch()
    with pytest.raises(BadInput, match=r"does not match the shot: the take has 8 frames, the shot 4"):
        evaluate(shot, take)
    with pytest.raises(BadInput, match=r"the take has 8 frames, the shot 4"):
        evaluate(shot, write_take(tmp_path / "whole", shot.beauty(), [1, 2, 3, 4]), reference=take)

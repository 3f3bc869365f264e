"""A take of a synthetic shot by a real pipeline in miniature: what is written, what repeats, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import synthetic
import tiny_models
from medm.correspondence import analyse
from medm.diffusion.rendering import render_take
from medm.errors import BadInput, Cancelled, Unavailable
from medm.evaluate import read_take
from medm.settings import RenderSettings
from medm.shot import Shot


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_models.write(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def shot(shot_folder) -> Shot:
    return Shot.open(shot_folder)


def settings(model: str, **others) -> RenderSettings:
    return RenderSettings(model=model, steps=3, **others)


def test_a_take_is_complete(shot, model, tmp_path):
    told = []
    document = render_take(shot, settings(model), tmp_path / "take", lambda fraction, phase: told.append((fraction, phase)))
    assert json.loads((tmp_path / "take/take.json").read_text()) == document
    assert document["settings"]["seed"] == 0
    assert set(document["metrics"]) == {"warping_error", "code_spread", "sharpness"}
    frames = read_take(shot, tmp_path / "take")
    assert frames.shape == (4, 48, 64, 3)
    assert frames.std() > 0
    assert (tmp_path / "take/preview.mp4").stat().st_size > 0
    with Image.open(tmp_path / "take/scan.png") as scan:
        assert scan.height == 48
    assert [fraction for fraction, _ in told] == sorted(fraction for fraction, _ in told)
    assert told[-1] == (1.0, "done")
    assert not list((tmp_path / "take").rglob("*.part"))


def test_the_same_seed_gives_the_same_frames_and_another_does_not(shot, model, tmp_path):
    takes = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        render_take(shot, settings(model, seed=seed), tmp_path / name)
        takes.append(read_take(shot, tmp_path / name))
    assert np.array_equal(takes[0], takes[1])
    assert not np.array_equal(takes[0], takes[2])


def test_with_w_1_every_code_has_one_colour(shot, model, tmp_path):
    render_take(shot, settings(model, w=1.0), tmp_path / "take")
    frames = read_take(shot, tmp_path / "take")
    codes = analyse(shot, shot.gbuffer()).codes.codes
    assert len(np.unique(np.column_stack([codes.reshape(-1, 1), frames.reshape(-1, 3)]), axis=0)) == len(np.unique(codes))


def test_assistive_rendering_starts_from_the_beauty(shot, model, tmp_path):
    """With next to no noise, the take is what the autoencoder makes of the beauty, whatever the prompt."""
    from medm.diffusion.models import Model

    take = settings(model, mode="assistive", strength=0.01, w=0.0).model_copy(update={"steps": 200})
    render_take(shot, take, tmp_path / "take")
    loaded = Model.load(model)
    beauty = torch.from_numpy(shot.beauty()).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = loaded.decode(loaded.encode(beauty)).permute(0, 2, 3, 1).numpy()
    got = read_take(shot, tmp_path / "take").astype(np.float32) / 127.5 - 1
    full = settings(model, w=0.0)
    render_take(shot, full, tmp_path / "full")
    noise = read_take(shot, tmp_path / "full").astype(np.float32) / 127.5 - 1
    assert np.abs(got - expected).mean() < 0.5 * np.abs(noise - expected).mean()


def test_guidance_scale_asks_both_prompts(shot, model, tmp_path):
    plain, guided = (settings(model, guidance_scale=scale, prompt="gold", negative_prompt="neon") for scale in (1.0, 9.0))
    render_take(shot, plain, tmp_path / "plain")
    render_take(shot, guided, tmp_path / "guided")
    assert not np.array_equal(read_take(shot, tmp_path / "plain"), read_take(shot, tmp_path / "guided"))


def test_cancelling_leaves_no_take(shot, model, tmp_path):
    def stop(fraction: float, phase: str) -> None:
        if "step 2" in phase:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        render_take(shot, settings(model), tmp_path / "take", stop)
    assert not (tmp_path / "take/take.json").exists()


def test_assistive_without_a_beauty_is_refused(tmp_path, model):
    folder = synthetic.write_shot(tmp_path / "shot", beauty=False)
    with pytest.raises(BadInput, match="exported without its beauty"):
        render_take(Shot.open(folder), settings(model, mode="assistive"), tmp_path / "take")


def test_folders_that_are_no_models_are_refused(shot, model, tmp_path):
    def refusal(folder: Path) -> str:
        with pytest.raises((BadInput, Unavailable)) as caught:
            render_take(shot, settings(str(folder)), tmp_path / "take")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "there is no model in" in refusal(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "is not a diffusers model: it holds no readable model_index.json" in refusal(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "holds a FluxPipeline, not a StableDiffusionControlNetPipeline" in refusal(tmp_path / "other")
    (tmp_path / "other/model_index.json").write_text('{"_class_name": "StableDiffusionControlNetPipeline"}')
    assert "lacks tokenizer, text_encoder" in refusal(tmp_path / "other")
    broken = tiny_models.write(tmp_path / "broken")
    next((broken / "unet").glob("*.safetensors")).write_bytes(b"not weights")
    assert "cannot be loaded" in refusal(broken)


def test_a_control_that_does_not_fit_the_folders_network_is_refused(shot, model, tmp_path):
    with pytest.raises(BadInput, match="takes 3 channels"):
        render_take(shot, settings(model, control="normal+depth"), tmp_path / "take")


@pytest.mark.parametrize("control", ["normal", "depth", "lineart"])
def test_every_control_image_drives_a_folders_network(shot, model, tmp_path, control):
    render_take(shot, settings(model, control=control), tmp_path / "take")
    assert (tmp_path / "take/take.json").exists()


def test_an_unwritable_folder_is_said_in_one_line(shot, model, tmp_path):
    (tmp_path / "take").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="the take cannot be written to"):
        render_take(shot, settings(model), tmp_path / "take")

"""A take of a synthetic shot by a real pipeline in miniature: what is written, what repeats, what is refused."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, EulerDiscreteScheduler, UNet2DConditionModel
from PIL import Image

import synthetic
import tiny_models
from medm.correspondence import analyse
from medm.diffusion import plan
from medm.diffusion.models import Model
from medm.diffusion.rendering import render_take
from medm.errors import BadInput, Cancelled, Unavailable
from medm.evaluate import read_take
from medm.harmonize import Harmonizer
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
    assert document["model"] == Model.load(settings(model)).describe()
    assert (document["window"], document["windows"]) == (None, [[0, 4]])
    assert document["guided_steps"] == [1]  # of three, from a quarter of them on, but not the last
    assert set(document["versions"]) == {"medm", "torch", "diffusers"}
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


def test_with_the_mean_in_the_end_every_code_has_one_colour(shot, model, tmp_path):
    """Deblurring comes after it, and would tell apart again what stands beside different neighbours."""
    render_take(shot, settings(model, w=1.0, final_harmonisation="mean", deblur=0.0), tmp_path / "take")
    frames = read_take(shot, tmp_path / "take")
    codes = analyse(shot, shot.gbuffer()).codes.codes
    assert len(np.unique(np.column_stack([codes.reshape(-1, 1), frames.reshape(-1, 3)]), axis=0)) == len(np.unique(codes))


@pytest.mark.parametrize("reidentify", [True, False])
def test_after_a_cut_back_the_set_looks_as_before_if_points_are_found_again(model, tmp_path, reidentify):
    wall = synthetic.Rectangle(202, lambda _: synthetic.at(0, 0, -2), half=(20, 20))
    there_and_back = synthetic.Scene([wall], lambda t: synthetic.camera(synthetic.at(10.0 * (t == 1)), 64, 48), length=3, cuts=(1, 2))
    shot = Shot.open(synthetic.write_shot(tmp_path / "shot", there_and_back, beauty=False, objects=True))
    render_take(shot, settings(model, reidentify=reidentify), tmp_path / "take")
    first, _, again = read_take(shot, tmp_path / "take")
    assert np.array_equal(first, again) == reidentify


def test_assistive_rendering_starts_from_the_beauty(shot, model, tmp_path):
    """With next to no noise, the take is what the autoencoder makes of the beauty, whatever the prompt."""
    take = settings(model, mode="assistive", strength=0.01, w=0.0).model_copy(update={"steps": 200})
    render_take(shot, take, tmp_path / "take")
    loaded = Model.load(take)
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


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_painted(shot, model, tmp_path):
    (tmp_path / "take").write_text("a file where the folder should be")
    phases = []
    with pytest.raises(Unavailable, match="the take cannot be written to"):
        render_take(shot, settings(model), tmp_path / "take", lambda _, phase: phases.append(phase))
    assert phases == ["load model"]


@pytest.mark.parametrize("bytes_a_file", [100, 7000])  # too few for a frame; enough for frames, not for the scan
def test_a_disk_without_room_is_said_in_one_line_and_nothing_half_written_is_left(shot, model, tmp_path, bytes_a_file):
    def limit(fraction: float, phase: str) -> None:
        if phase == "write take":
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_a_file, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(Unavailable, match=r"the take cannot be written to .*take: File too large"):
            render_take(shot, settings(model), tmp_path / "take", limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.suffix for path in (tmp_path / "take").rglob("*") if path.is_file()} <= {".png", ".mp4"}


def test_a_take_that_is_painted_over_is_no_whole_take_until_it_is(shot, model, tmp_path):
    def stop(fraction: float, phase: str) -> None:
        if phase == "write take" and (tmp_path / "take/frames/0001.png").stat().st_mtime_ns != first:
            raise Cancelled("stop")

    render_take(shot, settings(model), tmp_path / "take")
    first = (tmp_path / "take/frames/0001.png").stat().st_mtime_ns
    with pytest.raises(Cancelled):
        render_take(shot, settings(model, seed=1), tmp_path / "take", stop)
    assert not (tmp_path / "take/take.json").exists()


def test_frames_of_a_longer_take_before_are_removed_and_other_files_stay(shot, model, tmp_path):
    render_take(shot, settings(model), tmp_path / "take")
    stale, foreign = ("0009.png", "12345.png", "-003.png"), ("9.png", "00009.png", "0009.jpg", "x0009.png", "note.txt")
    for name in (*stale, *foreign):
        (tmp_path / "take/frames" / name).write_bytes(b"")
    (tmp_path / "take/frames/0007").mkdir()
    render_take(shot, settings(model), tmp_path / "take")
    own = [f"{number:04d}.png" for number in shot.frame_numbers]
    assert {path.name for path in (tmp_path / "take/frames").iterdir()} == {*own, *foreign, "0007"}


def test_a_take_in_the_shots_own_folder_is_refused(shot, model, tmp_path):
    (tmp_path / "link").symlink_to(shot.folder)
    before = set(shot.folder.rglob("*"))
    for out in (shot.folder, shot.folder / "beauty/..", tmp_path / "link"):
        with pytest.raises(BadInput, match="is the shot's own folder; choose another folder for the take"):
            render_take(shot, settings(model), out)
    assert set(shot.folder.rglob("*")) == before


def test_a_server_opens_no_reference_that_did_not_come_with_the_shot(shot, model, tmp_path):
    picture = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(picture)
    wanted = settings(Path(model).name, reference=str(picture))
    with pytest.raises(BadInput, match="the shot brings no reference picture"):
        render_take(shot, wanted, tmp_path / "take", models=Path(model).parent)
    with pytest.raises(Unavailable, match="has no IP-Adapter"):  # opened, where it is the user's own machine
        render_take(shot, settings(model, reference=str(picture)), tmp_path / "take")


def test_frames_are_the_same_however_few_the_networks_see_at_once_and_every_few_can_be_cancelled(shot, model, tmp_path, monkeypatch):
    render_take(shot, settings(model), tmp_path / "all")
    monkeypatch.setattr(plan, "_MOST_PIXELS", {"cpu": 1, "cuda": 1, "mps": 1})
    told = []
    render_take(shot, settings(model, mode="assistive"), tmp_path / "assistive", lambda *report: told.append(report))
    assert [fraction for fraction, _ in told] == sorted(fraction for fraction, _ in told)
    phases = [phase for _, phase in told]
    assert phases.count("encode beauty") == phases.count("decode") == len(shot)
    assert phases.count("paint, step 1 of 2") == len(shot)
    assert phases.count("align frames, step 1 of 2") == 2 * len(shot)  # decoded and encoded
    assert not [phase for phase in phases if phase.startswith("align frames, step 2")]  # the last step is never guided
    render_take(shot, settings(model), tmp_path / "one")
    frames = [read_take(shot, tmp_path / name).astype(np.int16) for name in ("all", "one")]
    assert np.abs(frames[0] - frames[1]).max() <= 1


def test_compiling_is_not_called_painting(shot, model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)  # a compiler may be missing
    told = []
    render_take(shot, settings(model, compile=True), tmp_path / "take", lambda _, phase: told.append(phase))
    assert "compile" in told
    assert [phase for phase in told if phase.startswith("paint")] and not [phase for phase in told if phase.startswith("paint, step 1 of")]


def test_the_decoded_frames_are_harmonised_with_feathered_edges(shot, model, tmp_path):
    found = analyse(shot, shot.gbuffer()).codes
    for name, final in (("before", "off"), ("after", "feathered")):
        render_take(shot, settings(model, w=1.0, final_harmonisation=final, deblur=0.0), tmp_path / name)
    before, after = (torch.from_numpy(read_take(shot, tmp_path / name)).permute(0, 3, 1, 2).float() for name in ("before", "after"))
    expected = Harmonizer(found.codes, found.count).feathered_mean(before).clamp(0, 255)
    assert (after - expected).abs().mean() < 0.5  # the take's own rounding


@pytest.fixture
def changed(model, tmp_path):
    """Changes a copy of the model: `changed("unet/config.json", key=value)`; returns its folder."""
    folder = shutil.copytree(model, tmp_path / "changed")

    def change(file: str, **values: object) -> str:
        config = json.loads((folder / file).read_text()) | values
        (folder / file).write_text(json.dumps(config))
        return str(folder)

    return change


@pytest.mark.parametrize(
    ("file", "values", "says"),
    [
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "starts from noise alone"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "predicts flow_prediction, which is unknown"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "odd"}, "cannot be loaded: "),
        ("unet/config.json", {"block_out_channels": [8, 24]}, "cannot be loaded: "),
        ("model_index.json", {"unet": ["diffusers", "NoSuchNetwork"]}, "cannot be loaded: "),
        ("model_index.json", {"unet": ["no_such_library", "Network"]}, "cannot be loaded: "),
        ("model_index.json", {"unet": [None, None]}, "cannot be loaded: "),
        ("text_encoder/config.json", {"hidden_size": "many"}, "cannot be loaded: "),
    ],
)
def test_a_model_whose_parts_are_wrong_is_refused_in_one_line(shot, tmp_path, changed, file, values, says):
    with pytest.raises(BadInput, match=says) as caught:
        render_take(shot, settings(changed(file, **values)), tmp_path / "take")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "take").exists()


@pytest.mark.parametrize("part", ["text_encoder", "controlnet", "vae"])
def test_broken_weights_are_refused_whichever_they_are(shot, model, tmp_path, part):
    folder = shutil.copytree(model, tmp_path / "broken")
    weights = next((folder / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadInput, match="cannot be loaded: ") as caught:
        render_take(shot, settings(str(folder)), tmp_path / "take")
    assert "\n" not in str(caught.value)


def test_a_controlnet_for_another_text_encoder_is_refused(shot, model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "mixed")
    network = ControlNetModel.from_pretrained(folder / "controlnet")
    config = dict(network.config) | {"cross_attention_dim": 24}
    ControlNetModel.from_config(config).save_pretrained(folder / "controlnet")
    with pytest.raises(BadInput, match=r"made for different text encoders \(16 and 24\)"):
        render_take(shot, settings(str(folder)), tmp_path / "take")


def test_latents_are_never_clipped_whatever_sampler_the_model_was_saved_with(changed):
    folder = Path(changed("scheduler/scheduler_config.json"))
    (folder / "scheduler/scheduler_config.json").unlink()
    EulerDiscreteScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text()) | {"scheduler": ["diffusers", "EulerDiscreteScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    scheduler = Model.load(settings(str(folder))).scheduler()
    assert (scheduler.config.clip_sample, scheduler.config.prediction_type) == (False, "v_prediction")


def test_more_steps_than_the_noise_has_levels_are_refused(shot, model, tmp_path):
    with pytest.raises(BadInput, match="1000 steps are too many for this model, whose noise has 1000 levels"):
        render_take(shot, RenderSettings(model=model, steps=1000), tmp_path / "take")


@pytest.mark.parametrize(
    ("part", "kind", "says"),
    [("unet", UNet2DConditionModel, "at step 1"), ("vae", AutoencoderKL, "when decoding")],
)
def test_a_model_that_leaves_all_bounds_is_named_instead_of_painting_black(shot, model, tmp_path, part, kind, says):
    folder = shutil.copytree(model, tmp_path / "wild")
    network = kind.from_pretrained(folder / part)
    (network.conv_out if part == "unet" else network.decoder.conv_out).bias.data.fill_(float("nan"))
    network.save_pretrained(folder / part)
    with pytest.raises(BadInput, match=f"painted no picture: values beyond all bounds {says}"):
        render_take(shot, settings(str(folder), w=0.0), tmp_path / "take")


def test_half_precision_paints_what_single_does(shot, model, tmp_path):
    """As on a GPU: the networks in float16, all that adds up in float32."""
    for precision in ("fp32", "fp16"):
        render_take(shot, settings(model, mode="assistive", precision=precision), tmp_path / precision)
    single, half = (read_take(shot, tmp_path / precision).astype(int) for precision in ("fp32", "fp16"))
    assert not np.array_equal(single, half)
    assert np.abs(single - half).mean() < 1.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", ["full", "assistive"])
def test_a_gpu_paints_what_the_cpu_does(shot, model, tmp_path, monkeypatch, mode):
    assert render_take(shot, settings(model, mode=mode), tmp_path / "gpu")["device"] == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert render_take(shot, settings(model, mode=mode), tmp_path / "cpu")["device"] == "cpu"
    frames = [read_take(shot, tmp_path / name).astype(int) for name in ("gpu", "cpu")]
    assert np.abs(frames[0] - frames[1]).mean() < 2.0

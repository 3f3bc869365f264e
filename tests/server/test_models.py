"""Models of every family in miniature, against diffusers' own pipelines run end to end: the same numbers for the same inputs."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImageControlNetModel,
    ZImageControlNetPipeline,
    ZImagePipeline,
)
from PIL import Image
from safetensors.torch import load_file

import tiny_models
from medm.cli import main
from medm.diffusion.models import Model
from medm.diffusion.prompts import PromptSchedule
from medm.diffusion.rendering import render_take
from medm.errors import BadInput, Unavailable
from medm.evaluate import read_take
from medm.settings import RenderSettings
from medm.shot import Shot

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES, HEIGHT, WIDTH, STEPS = 2, 48, 64, 3
PROMPT, NEGATIVE = "gold", "a neon sculpture"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_models.write(folder / "sd")
    tiny_models.write_controlnet(folder / "sd/controlnet-depth")
    tiny_models.write_sdxl_union(folder / "union")
    tiny_models.write_sdxl(folder / "sdxl")
    tiny_models.write_sdxl_controlnet(folder / "sdxl/controlnet-lineart", 3)
    tiny_models.write_sdxl_controlnet(folder / "sdxl/controlnet-depth", 13)
    tiny_models.write_z_image(folder / "z")
    tiny_models.write_z_image(folder / "z-dynamic", dynamic=True)
    return folder


@pytest.fixture(autouse=True)
def no_models_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDM_MODELS", str(tmp_path / "none"))


def load(folder: Path, reference: Image.Image | None = None, **settings) -> Model:
    return Model.load(RenderSettings(**{"model": str(folder), "prompt": PROMPT} | settings), reference=reference)


def noise_of(model: Model) -> torch.Tensor:
    scale = model.latent_scale
    return torch.randn(FRAMES, model.latent_channels, HEIGHT // scale, WIDTH // scale, generator=torch.Generator().manual_seed(1))


def images(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(FRAMES, 3, HEIGHT, WIDTH, generator=generator) for _ in range(count)]


def painted(model: Model, negative: str = NEGATIVE, prompt: str = PROMPT, frames: tuple[int, ...] = (1, 2)) -> torch.Tensor:
    """Latents after all steps, without temporal guidance; the frames go through the networks one by one."""
    conditioning = model.embed(PromptSchedule.parse(prompt), frames, negative)
    controls = model.prepare(images(len(model.controls)))
    scheduler = model.scheduler()
    model.set_timesteps(scheduler, STEPS, HEIGHT, WIDTH)
    latents = noise_of(model) * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        given = latents if model.flow else scheduler.scale_model_input(latents, timestep)
        chunks = [slice(index, index + 1) for index in range(FRAMES)]
        outputs = [
            model.predict(given[chunk], timestep, [one[chunk] for one in controls], conditioning[chunk], model.guidance_scale)
            for chunk in chunks
        ]
        latents = scheduler.step(torch.cat(outputs), timestep, latents, return_dict=False)[0]
    return latents


def stock(pipeline, model: Model, **arguments) -> torch.Tensor:
    """Latents that diffusers' own pipeline arrives at with the model's scheduler."""
    pipeline.set_progress_bar_config(disable=True)
    if not model.flow:
        pipeline.scheduler = model.scheduler()
    arguments = {"prompt": [PROMPT] * FRAMES, "negative_prompt": [NEGATIVE] * FRAMES, "guidance_scale": model.guidance_scale} | arguments
    return pipeline(
        height=HEIGHT, width=WIDTH, num_inference_steps=STEPS, latents=noise_of(model), output_type="latent", return_dict=False, **arguments
    )[0]


def assert_same(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.dtype == torch.float32
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def sd_controlnets(root: Path) -> MultiControlNetModel:
    return MultiControlNetModel([ControlNetModel.from_pretrained(root / "sd" / name) for name in ("controlnet", "controlnet-depth")])


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++", "unipc"])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_stable_diffusion_with_a_controlnet(root, sampler, scale):
    model = load(root / "sd", sampler=sampler, guidance_scale=scale, control="lineart:0.7")
    assert [(one.kinds, one.channels, one.weight) for one in model.controls] == [(("lineart",), 3, 0.7)]
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(root / "sd", safety_checker=None)
    assert_same(painted(model), stock(pipeline, model, image=images(1)[0], controlnet_conditioning_scale=0.7))


@pytest.mark.parametrize("guess", [False, True])
def test_stable_diffusion_with_several_controlnets_and_guess_mode(root, guess):
    model = load(root / "sd", control="lineart:0.8, depth:0.5", guess=guess)
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(root / "sd", controlnet=sd_controlnets(root), safety_checker=None)
    arguments = {"image": images(2), "controlnet_conditioning_scale": [0.8, 0.5], "guess_mode": guess}
    prompt = {"prompt": [""] * FRAMES} if guess else {}  # guess mode: no prompt
    assert_same(painted(model), stock(pipeline, model, **arguments, **prompt))


def test_stable_diffusion_without_controlnet(root):
    model = load(root / "sd", control="none")
    assert model.controls == ()
    parts = StableDiffusionControlNetPipeline.from_pretrained(root / "sd", safety_checker=None).components
    pipeline = StableDiffusionPipeline(
        **{name: part for name, part in parts.items() if name != "controlnet"}, requires_safety_checker=False
    )
    assert_same(painted(model), stock(pipeline, model))


def test_prompts_are_blended_between_their_frames(root):
    model = load(root / "sd")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(root / "sd", safety_checker=None)
    dawn, dusk, negative = (pipeline.encode_prompt(text, "cpu", 1, False)[0] for text in ("dawn", "dusk", NEGATIVE))
    got = painted(model, prompt="0: dawn, 4: dusk", frames=(0, 1))
    expected = stock(
        pipeline,
        model,
        image=images(1)[0],
        prompt=None,
        negative_prompt=None,
        prompt_embeds=torch.cat([dawn, 0.75 * dawn + 0.25 * dusk]),
        negative_prompt_embeds=negative.expand(2, -1, -1),
    )
    assert_same(got, expected)


def test_lora_weights_count_as_much_as_they_should(root, tmp_path):
    files = [tiny_models.write_lora(tmp_path / f"{name}.safetensors", root / "sd", seed=seed) for name, seed in (("a", 7), ("b", 8))]
    model = load(root / "sd", lora=f"{files[0]}:0.6, {files[1]}")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(root / "sd", safety_checker=None)
    plain = stock(pipeline, model, image=images(1)[0])
    for name, file in zip("ab", files, strict=True):
        pipeline.load_lora_weights(file, adapter_name=name)
    pipeline.set_adapters(["a", "b"], [0.6, 1.0])
    got = painted(model)
    assert_same(got, stock(pipeline, model, image=images(1)[0]))
    assert (got - plain).abs().mean() > 0.01


def test_a_textual_inversion_is_called_by_its_files_name(root, tmp_path):
    file = tiny_models.write_textual_inversion(tmp_path / "bronze.safetensors")
    model = load(root / "sd", embeddings=str(file))
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(root / "sd", safety_checker=None)
    pipeline.load_textual_inversion(str(file), token="<bronze>")
    prompt = "a <bronze> sculpture"
    got = painted(model, prompt=prompt)
    assert_same(got, stock(pipeline, model, image=images(1)[0], prompt=[prompt] * FRAMES))
    assert (got - painted(load(root / "sd"), prompt=prompt)).abs().mean() > 0.01


def test_a_textual_inversion_of_sdxl_teaches_both_text_encoders(root, tmp_path):
    file = tiny_models.write_sdxl_textual_inversion(tmp_path / "bronze.safetensors")
    model = load(root / "sdxl", embeddings=str(file), control="none")
    pipeline = StableDiffusionXLPipeline.from_pretrained(root / "sdxl", add_watermarker=False)
    tensors = load_file(file)
    pipeline.load_textual_inversion(
        tensors["clip_g"], token="<bronze>", text_encoder=pipeline.text_encoder_2, tokenizer=pipeline.tokenizer_2
    )
    pipeline.load_textual_inversion(tensors["clip_l"], token="<bronze>", text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer)
    prompt = "a <bronze> sculpture"
    got = painted(model, prompt=prompt)
    assert_same(got, stock(pipeline, model, prompt=[prompt] * FRAMES))
    assert (got - painted(load(root / "sdxl", control="none"), prompt=prompt)).abs().mean() > 0.01


def test_a_lora_of_z_image_is_merged_in(root, tmp_path):
    file = tiny_models.write_lora(tmp_path / "look.safetensors", root / "z", "transformer")
    model = load(root / "z", control="none", lora=f"{file}:0.7")
    pipeline = ZImagePipeline.from_pretrained(root / "z")
    pipeline.load_lora_weights(file, adapter_name="look")
    pipeline.set_adapters(["look"], [0.7])
    got = painted(model)
    assert_same(got, stock(pipeline, model, guidance_scale=0.0))
    assert (got - painted(load(root / "z", control="none"))).abs().mean() > 0.001


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_an_ip_adapter_looks_at_the_reference(root, tmp_path, scale):
    folder = shutil.copytree(root / "sd", tmp_path / "sd")
    tiny_models.write_ip_adapter(folder / "ip_adapter", folder)
    picture = Image.effect_noise((40, 30), 80).convert("RGB")
    model = load(folder, reference=picture, reference_scale=0.7, guidance_scale=scale)
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.load_ip_adapter(str(folder / "ip_adapter"), subfolder="", weight_name="ip-adapter.safetensors")
    pipeline.set_ip_adapter_scale(0.7)
    got = painted(model)
    assert_same(got, stock(pipeline, model, image=images(1)[0], ip_adapter_image=picture))
    assert (got - painted(load(folder, guidance_scale=scale))).abs().mean() > 0.001


def test_an_ip_adapters_image_encoder_is_never_read_from_a_pickle(root, tmp_path):
    folder = shutil.copytree(root / "sd", tmp_path / "sd")
    tiny_models.write_ip_adapter(folder / "ip_adapter", folder)
    weights = folder / "ip_adapter/image_encoder/model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(Unavailable, match=r"ip_adapter lacks image_encoder/model\.safetensors .*: `medm models pull sd15 --reference`$"):
        load(folder, reference=Image.new("RGB", (8, 8)))


def test_a_distilled_unet_is_told_the_guidance_scale_and_asked_once(root, tmp_path):
    folder = shutil.copytree(root / "sd", tmp_path / "lcm")
    config = dict(UNet2DConditionModel.from_pretrained(folder / "unet").config) | {"time_cond_proj_dim": 8}
    torch.manual_seed(0)
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    model = load(folder, guidance_scale=8.0, sampler="lcm")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(folder, safety_checker=None)
    expected = stock(pipeline, model, image=images(1)[0], generator=torch.Generator().manual_seed(3))
    conditioning = model.embed(PromptSchedule.parse(PROMPT), [1, 2], NEGATIVE)
    scheduler = model.scheduler()
    model.set_timesteps(scheduler, STEPS, HEIGHT, WIDTH)
    latents, chance = noise_of(model) * scheduler.init_noise_sigma, torch.Generator().manual_seed(3)
    for timestep in scheduler.timesteps:
        output = model.predict(latents, timestep, images(1), conditioning, model.guidance_scale)
        latents = scheduler.step(output, timestep, latents, generator=chance, return_dict=False)[0]
    assert_same(latents, expected)


@pytest.mark.parametrize(("control", "modes", "weights"), [("lineart:0.8, depth:0.5", [3, 1], [0.8, 0.5]), ("normal", [4], [1.0])])
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_sdxl_with_a_union_controlnet(root, control, modes, weights, scale):
    model = load(root / "union", control=control, guidance_scale=scale)
    pipeline = StableDiffusionXLControlNetUnionPipeline.from_pretrained(
        root / "union", controlnet=ControlNetUnionModel.from_pretrained(root / "union/controlnet"), add_watermarker=False
    )
    expected = stock(pipeline, model, control_image=images(len(modes)), control_mode=modes, controlnet_conditioning_scale=weights)
    assert_same(painted(model), expected)


def test_sdxl_guess_mode_with_a_union_controlnet(root):
    model = load(root / "union", control="normal, depth", guess=True)
    pipeline = StableDiffusionXLControlNetUnionPipeline.from_pretrained(
        root / "union", controlnet=ControlNetUnionModel.from_pretrained(root / "union/controlnet"), add_watermarker=False
    )
    # the pipeline itself fails at this: it gives the ControlNet twice as many kinds as pictures
    with pytest.raises(RuntimeError):
        stock(pipeline, model, control_image=images(2), control_mode=[4, 1], guess_mode=True, prompt=[""] * FRAMES)
    assert painted(model).isfinite().all()


@pytest.mark.parametrize("negative", ["", NEGATIVE])
def test_sdxl_with_plain_controlnets_and_the_zeros_of_no_negative_prompt(root, negative):
    model = load(root / "sdxl", control="lineart, depth:0.5")
    networks = MultiControlNetModel(
        [ControlNetModel.from_pretrained(root / "sdxl" / f"controlnet-{kind}") for kind in ("lineart", "depth")]
    )
    pipeline = StableDiffusionXLControlNetPipeline.from_pretrained(root / "sdxl", controlnet=networks, add_watermarker=False)
    arguments = {"image": images(2), "controlnet_conditioning_scale": [1.0, 0.5]}
    arguments["negative_prompt"] = [negative] * FRAMES if negative else None
    assert_same(painted(model, negative), stock(pipeline, model, **arguments))


def test_sdxl_alone_with_an_ip_adapter_and_a_lora(root, tmp_path):
    folder = shutil.copytree(root / "sdxl", tmp_path / "sdxl")
    tiny_models.write_ip_adapter(folder / "ip_adapter", folder)
    lora = tiny_models.write_lora(tmp_path / "look.safetensors", folder)
    picture = Image.effect_noise((40, 30), 80).convert("RGB")
    model = load(folder, reference=picture, lora=f"{lora}:0.5", control="none")
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipeline.load_lora_weights(lora, adapter_name="look")
    pipeline.set_adapters(["look"], [0.5])
    pipeline.load_ip_adapter(str(folder / "ip_adapter"), subfolder="", weight_name="ip-adapter.safetensors")
    pipeline.set_ip_adapter_scale(0.6)
    assert_same(painted(model), stock(pipeline, model, ip_adapter_image=picture))


@pytest.mark.parametrize("name", ["z", "z-dynamic"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_z_image_with_its_controlnet(root, name, scale):
    model = load(root / name, control="depth:0.75", guidance_scale=scale)
    pipeline = ZImageControlNetPipeline.from_pretrained(
        root / name, controlnet=ZImageControlNetModel.from_pretrained(root / name / "controlnet")
    )
    # it takes tensors as its autoencoder does, and its scale counts from the prompted prediction, not from the unprompted one
    arguments = {"control_image": images(1)[0] * 2 - 1, "controlnet_conditioning_scale": 0.75, "guidance_scale": scale - 1.0}
    assert_same(painted(model), stock(pipeline, model, **arguments))


def test_z_image_without_its_controlnet(root):
    model = load(root / "z", control="none", guidance_scale=3.0)
    assert_same(painted(model), stock(ZImagePipeline.from_pretrained(root / "z"), model, guidance_scale=2.0))


def test_a_controlnet_of_z_image_is_told_by_its_tensors_where_it_has_no_config(root, tmp_path):
    folder = shutil.copytree(root / "z", tmp_path / "z")
    config = json.loads((folder / "controlnet/config.json").read_text())
    (folder / "controlnet/config.json").unlink()
    model = load(folder, control="depth")
    told = dict(model.controlnet.config)
    assert {name: told[name] for name in ("control_layers_places", "control_in_dim", "add_control_noise_refiner", "dim", "n_heads")} == {
        name: config[name] for name in ("control_layers_places", "control_in_dim", "add_control_noise_refiner", "dim", "n_heads")
    }
    assert_same(painted(model), painted(load(root / "z", control="depth")))


def test_z_image_takes_control_images_encoded_or_not(root):
    model = load(root / "z", control="depth, lineart:0.5")
    assert model.size_multiple == 16
    conditioning = model.embed(PromptSchedule.parse("0: dawn, 4: dusk"), [1, 3], "")
    encoded = model.prepare(images(2))
    assert encoded[0].shape == (FRAMES, 33, HEIGHT // 8, WIDTH // 8)
    outputs = [model.predict(noise_of(model), torch.tensor(900.0), given, conditioning, 1.0) for given in (images(2), encoded)]
    torch.testing.assert_close(*outputs)


def test_z_images_prompts_are_blended_only_where_they_are_equally_long(root):
    model = load(root / "z", control="none")
    same = model.embed(PromptSchedule.parse("0: dawn, 4: dusk"), [0, 1, 4], "")
    dawn, dusk = same.prompts
    torch.testing.assert_close(torch.stack(same.of_frames()), torch.stack([dawn, 0.75 * dawn + 0.25 * dusk, dusk]))
    other = model.embed(PromptSchedule.parse("0: dawn, 4: midnight"), [1, 3], "")
    assert [len(text) for text in other.of_frames()] == [len(one) for one in other.prompts]


@pytest.mark.parametrize(("name", "preset"), [("sd", "sd15"), ("sdxl", "sdxl")])
def test_a_single_file_paints_what_its_folder_does_with_what_an_installed_preset_brings(root, tmp_path, monkeypatch, name, preset):
    monkeypatch.setenv("MEDM_MODELS", str(tmp_path))
    file = tiny_models.write_single_file(tmp_path / "look.safetensors", root / name)
    with pytest.raises(Unavailable, match=f"look.safetensors holds weights alone; .* `medm models pull {preset}`"):
        load(file)
    shutil.copytree(root / name, tmp_path / preset)
    for weights in (tmp_path / preset / "unet").glob("*.safetensors"):
        weights.unlink()  # only its configs count
    control = "lineart" if name == "sdxl" else "depth"
    model = load(file, control=control)
    assert (model.preset.family, model.controls[0].kinds) == ({"sd15": "stable-diffusion"}.get(preset, preset), (control,))
    assert_same(painted(model), painted(load(root / name, control=control)))
    if name == "sdxl":
        assert load(file, precision="fp16").vae_dtype == torch.float32
    assert (
        Model.load(RenderSettings(model="look.safetensors", control=control), tmp_path).describe()["digest"] == model.describe()["digest"]
    )


@pytest.mark.parametrize(("name", "size"), [("sd", 4), ("union", 4), ("z", 16)])
def test_frames_are_encoded_as_the_pipelines_decode_them_and_a_tiny_autoencoder_serves_where_it_is_wanted(root, tmp_path, name, size):
    folder = shutil.copytree(root / name, tmp_path / name)
    tiny_models.write_tiny_autoencoder(folder / "vae_tiny", size)
    model = load(folder)
    frames = images(1)[0] * 2 - 1
    vae = model.pipeline.vae
    latents = model.encode(frames)
    shift = vae.config.shift_factor or 0.0
    torch.testing.assert_close(latents, (vae.encode(frames).latent_dist.mode() - shift) * vae.config.scaling_factor)
    torch.testing.assert_close(model.decode(latents), vae.decode(latents / vae.config.scaling_factor + shift).sample.clamp(-1, 1))
    assert model.has_tiny and not load(root / name).has_tiny
    assert model.encode(frames, tiny=True).shape == latents.shape == (FRAMES, size, HEIGHT // 8, WIDTH // 8)
    torch.testing.assert_close(model.decode(latents, tiny=True), model.tiny.decode(latents).sample.clamp(-1, 1))


@pytest.mark.parametrize("name", ["sd", "union", "z"])
def test_half_precision_predicts_about_what_single_does(root, name):
    outputs = []
    for precision in ("fp32", "bf16"):
        model = load(root / name, precision=precision)
        conditioning = model.embed(PromptSchedule.parse(PROMPT), [1, 2], NEGATIVE)
        outputs.append(model.predict(noise_of(model), torch.tensor(500), images(len(model.controls)), conditioning, 3.0))
    assert outputs[1].dtype == torch.float32
    assert 0.0 < (outputs[0] - outputs[1]).abs().mean() < 0.05 * outputs[0].std()


def test_half_precision_serves_on_a_cpu_with_all_that_can_be_added(root, tmp_path):
    folder = shutil.copytree(root / "sd", tmp_path / "sd")
    tiny_models.write_ip_adapter(folder / "ip_adapter", folder)
    lora = tiny_models.write_lora(tmp_path / "look.safetensors", folder)
    picture, outputs = Image.effect_noise((40, 30), 80), []
    for precision in ("fp32", "fp16"):
        model = load(folder, picture, precision=precision, lora=str(lora))
        conditioning = model.embed(PromptSchedule.parse(PROMPT), [1, 2], NEGATIVE)
        outputs.append(model.predict(noise_of(model), torch.tensor(500), images(1), conditioning, 3.0))
    assert 0.0 < (outputs[0] - outputs[1]).abs().mean() < 0.05 * outputs[0].std()


def test_sdxls_autoencoder_is_kept_in_single_precision_where_half_would_overflow(root):
    model = load(root / "union", precision="fp16")
    assert (model.dtype, model.vae_dtype) == (torch.float16, torch.float32)
    assert load(root / "union", precision="bf16").vae_dtype == torch.bfloat16


def test_a_compiled_network_predicts_the_same(root, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__))  # a compiler may be missing
    load(root / "sd", compile=True)
    assert compiled == ["UNet2DConditionModel", "ControlNetModel"]


def test_what_an_earlier_take_compiled_is_forgotten_by_the_next_that_compiles(root, monkeypatch):
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    network = torch.compile(torch.nn.Linear(2, 2), backend=backend)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda _: None)
    for compiles, times in ((False, 1), (True, 2)):
        network(torch.ones(1, 2))
        load(root / "sd", compile=compiles)
        network(torch.ones(1, 2))
        assert len(compiled) == times


def test_the_networks_convolve_with_channels_last(root):
    weight = load(root / "sd").network.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_model_says_what_repeats_a_take_and_its_digest_tells_files_apart(root, tmp_path):
    described = load(root / "sd", control="lineart:0.8, depth", steps=4).describe()
    assert described | {"name": "", "digest": ""} == {
        "name": "",
        "family": "stable-diffusion",
        "licence": "see its model card",
        "control": [{"kinds": ["lineart"], "weight": 0.8}, {"kinds": ["depth"], "weight": 1.0}],
        "sampler": "ddim",
        "scheduler": "DDIMScheduler",
        "prediction": "epsilon",
        "steps": 4,
        "guidance_scale": 7.5,
        "precision": "float32",
        "autoencoder_precision": "float32",
        "tiny_autoencoder": False,
        "digest": "",
    }
    json.dumps(described)
    moved = shutil.copytree(root / "sd", tmp_path / "moved")
    assert load(moved).describe()["digest"] == load(root / "sd").describe()["digest"] != described["digest"]
    weights = next((moved / "controlnet").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert load(moved).describe()["digest"] != load(root / "sd").describe()["digest"]


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("sd", {"control": "lineart, softedge"}, "one ControlNet, and lineart, softedge are for several"),
        ("sd", {"control": "lineart:loud"}, "is not KIND, KIND:WEIGHT"),
        ("sd", {"sampler": "flow-euler"}, "is sampled with ddim, ddpm, euler"),
        (
            "sdxl",
            {"control": "normal"},
            "has no ControlNet for normal, but for depth, lineart: put one into .*controlnet-normal, or get those of sdxl",
        ),
        ("union", {"control": "normal+depth"}, r"union ControlNet takes depth, softedge, .*, not normal\+depth"),
        ("z", {"control": "normal"}, "union ControlNet takes canny, lineart, softedge, depth, not normal"),
        ("z", {"sampler": "ddim"}, "is sampled with flow-euler"),
        ("z", {"guess": True}, "guess mode is for models with ControlNets of Stable Diffusion"),
        ("z", {"embeddings": "a.safetensors"}, "knows no textual inversions"),
        ("sd", {"lora": "absent.safetensors"}, "there is no absent.safetensors in"),
        ("sd", {"lora": "../../absent.safetensors"}, r"there is no file /(.*/)?absent\.safetensors$"),
        ("sd", {"lora": "../../absent"}, "'../../absent' is no .safetensors file; write FILE"),
        ("sd", {"lora": "look.pt"}, "'look.pt' is no .safetensors file"),
        ("sd", {"lora": "look.safetensors:much"}, "'look.safetensors:much' is no .safetensors file; write FILE"),
        ("sd", {"embeddings": "look.bin"}, "'look.bin' is no .safetensors file"),
        ("sd", {"embeddings": "look.safetensors:0.5"}, "'look.safetensors:0.5' is no .safetensors file"),
    ],
)
def test_what_a_model_cannot_do_is_said_in_one_line(root, name, settings, says):
    with pytest.raises((BadInput, Unavailable), match=says) as caught:
        load(root / name, **settings)
    assert "\n" not in str(caught.value)


def test_parts_without_weights_are_all_named_and_the_libraries_keep_silent(root, tmp_path, capfd):
    folder = shutil.copytree(root / "sd", tmp_path / "sd")
    for part in ("vae", "text_encoder"):
        weights = next((folder / part).glob("*.safetensors"))
        weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(BadInput, match=r"sd has no \.safetensors weights in text_encoder, vae; other formats can hold programs"):
        load(folder)
    assert main(["models", "check", str(folder)]) == 2
    (folder / "text_encoder/pytorch_model.bin").rename(folder / "text_encoder/model.safetensors")
    (folder / "vae/pytorch_model.bin").rename(folder / "vae/other.safetensors")
    with pytest.raises(BadInput, match=r"the model in .*sd cannot be loaded"):
        load(folder)
    said = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("medm_progress")]
    assert len(said) == 1 and said[0].startswith(f"medm: the model in {folder} has no .safetensors weights in text_encoder, vae")


def test_weights_that_do_not_fit_are_named(root, tmp_path):
    lora = tiny_models.write_lora(tmp_path / "of-sdxl.safetensors", root / "sdxl")
    with pytest.raises(BadInput, match=r"the LoRA .*of-sdxl.safetensors does not fit"):
        load(root / "sd", lora=str(lora))
    inversion = tiny_models.write_textual_inversion(tmp_path / "wide.safetensors", width=24)
    with pytest.raises(BadInput, match=r"the textual inversion .*wide.safetensors does not fit the model"):
        load(root / "sd", embeddings=str(inversion))
    (tmp_path / "empty.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match=r"empty.safetensors is no readable .safetensors file"):
        load(root / "sd", lora=str(tmp_path / "empty.safetensors"))
    with pytest.raises(BadInput, match="the bundled model cannot follow a reference picture"):
        Model.load(RenderSettings(), reference=Image.new("RGB", (8, 8)))
    with pytest.raises(Unavailable, match="has no IP-Adapter to look at a reference with: `medm models pull sd15 --reference`"):
        load(root / "sd", reference=Image.new("RGB", (8, 8)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sd", {"control": "lineart@2:0.8, depth:0.5"}),
        ("sd", {"control": "none", "sampler": "lcm"}),
        ("union", {"control": "normal-bae, canny:0.5", "guess": True, "mode": "assistive"}),
        ("z", {"control": "canny, depth:0.75", "guidance_scale": 3.0, "prompt": "0: dawn, 3: midnight"}),
        ("z", {"control": "none", "sampler": "unipc", "mode": "assistive"}),
    ],
)
def test_every_family_paints_a_take(root, shot_folder, tmp_path, name, settings):
    document = render_take(Shot.open(shot_folder), RenderSettings(model=str(root / name), steps=3, **settings), tmp_path / "take")
    assert document["model"]["control"] == load(root / name, **settings | {"prompt": PROMPT}).describe()["control"]
    assert read_take(Shot.open(shot_folder), tmp_path / "take").std() > 1.0


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "euler-ancestral", "dpm++", "unipc", "lcm"])
def test_latents_are_not_clipped_even_where_the_models_config_says_so(root, tmp_path, sampler):
    folder = shutil.copytree(root / "sd", tmp_path / "sd")
    file = folder / "scheduler/scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"clip_sample": True, "thresholding": True}))
    scheduler = load(folder, sampler=sampler).scheduler()
    known = inspect.signature(type(scheduler).__init__).parameters  # the config also keeps what the sampler has no use for
    assert not any(scheduler.config[option] for option in ("clip_sample", "thresholding") if option in known)


def test_more_steps_than_a_sampler_has_are_refused(root):
    with pytest.raises(BadInput, match="51 steps are too many for the sampler lcm, which takes 50 at most"):
        load(root / "sd", sampler="lcm").check_steps(51)
    with pytest.raises(BadInput, match="1000 steps are too many for this model, whose noise has 1000 levels"):
        load(root / "sd").check_steps(1000)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["sd", "union", "sdxl", "z"])
def test_a_gpu_predicts_what_the_cpu_does(root, tmp_path, monkeypatch, name):
    folder = shutil.copytree(root / name, tmp_path / name)
    picture = Image.effect_noise((40, 30), 80).convert("RGB") if name == "sd" else None
    if picture:
        tiny_models.write_ip_adapter(folder / "ip_adapter", folder)
    outputs = []
    for available in (True, False):
        if not available:
            monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        model = load(folder, picture, control="depth")
        assert model.device.type == ("cuda" if available else "cpu")
        conditioning = model.embed(PromptSchedule.parse("0: dawn, 4: dusk"), [1, 2], NEGATIVE)
        output = model.predict(noise_of(model), torch.tensor(500.0 if model.flow else 500), model.prepare(images(1)), conditioning, 3.0)
        frames = model.decode(model.encode(images(1)[0] * 2 - 1))
        outputs.append((output.cpu(), frames.cpu()))
    for on_gpu, on_cpu in zip(*outputs, strict=True):
        assert (on_gpu - on_cpu).abs().mean() < 0.05 * on_cpu.std()

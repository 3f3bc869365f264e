"""From noise to clean latents: that every sampler begins where it should, ends where it should, and adds noise that sticks."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_models
from medm.correspondence import Codes
from medm.diffusion import sampling
from medm.diffusion.guidance import guided
from medm.diffusion.memory import Chunk
from medm.diffusion.models import Model
from medm.diffusion.noise import ClipNoise
from medm.diffusion.rendering import render_take
from medm.diffusion.sampling import Clip, Sampler
from medm.errors import BadInput, Unavailable
from medm.evaluate import read_take
from medm.harmonize import Harmonizer
from medm.service.documents import read_settings
from medm.settings import RenderSettings
from medm.settings import Sampler as Name
from medm.shot import Shot

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH, HEIGHT, WIDTH, STEPS = 3, 32, 48, 6
NAMES = [name for name in typing.get_args(Name) if name != "flow-euler"]
STOCHASTIC = ["ddpm", "euler-ancestral", "lcm"]
SAMPLERS = [("sd", name) for name in NAMES] + [("z", name) for name in ("flow-euler", "dpm++", "unipc", "lcm")]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    tiny_models.write(folder / "sd")
    tiny_models.write_z_image(folder / "z")
    return {name: Model.load(RenderSettings(model=str(folder / name), prompt="gold")) for name in ("sd", "z")}


@pytest.fixture(scope="module")
def folder(models) -> str:
    return str(models["sd"].preset.folder)


def still(length: int = LENGTH) -> Codes:
    """A camera at rest before a wall: every frame shows the same points."""
    count = HEIGHT * WIDTH
    codes = np.broadcast_to(np.arange(count, dtype=np.int32).reshape(HEIGHT, WIDTH), (length, HEIGHT, WIDTH)).copy()
    return Codes(codes, count, np.zeros(count, np.int32), np.zeros((count, 2), np.float32))


def beauty(length: int = LENGTH) -> torch.Tensor:
    """The same smooth picture in every frame."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / 8
    picture = np.stack([np.sin(x), np.cos(x + y), np.sin(y)]) * 90 + 128
    return torch.from_numpy(picture.astype(np.uint8)).expand(length, -1, -1, -1)


def sampler(model: Model, codes: Codes | None = None, frame_numbers: Sequence[int] | None = None, **options) -> Sampler:
    """Of a still clip, with the settings' changes."""
    settings = model.settings.model_copy(update={"steps": STEPS, "guidance_scale": 1.0} | options)
    codes = codes or still()
    length = len(codes.codes)
    picture = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    controls = [picture.expand(length, -1, -1, -1) for _ in model.controls]
    clip = Clip(codes, frame_numbers or range(1, length + 1), controls, beauty(length) if settings.mode == "assistive" else None)
    harmonizer = Harmonizer(codes.codes, codes.count)
    return Sampler(replace(model, settings=settings), settings, clip, harmonizer, Chunk(2), Chunk(2))


@pytest.mark.parametrize(("family", "name"), SAMPLERS)
def test_every_sampler_paints_and_paints_the_same_again(models, family, name):
    first, again = (sampler(models[family], sampler=name, w=0.8) for _ in range(2))
    latents = first.sample()
    assert latents.shape == (LENGTH, models[family].latent_channels, HEIGHT // 8, WIDTH // 8)
    assert latents.dtype == torch.float32
    assert torch.equal(latents, again.sample())
    assert first.guided
    assert not torch.equal(latents, sampler(models[family], sampler=name, w=0.8, seed=1).sample())
    assert not torch.equal(latents, sampler(models[family], sampler=name, w=0.0).sample()) or name not in STOCHASTIC


class Oracle:
    """Stands for the networks and knows the clean latents: what it says of a sample is exact. Notes the noise that it is shown."""

    def __init__(self, model: Model, clean: torch.Tensor) -> None:
        config = model.pipeline.scheduler.config
        self.flow, self.clean, self.noise = model.flow, clean, list[torch.Tensor]()
        if not self.flow:
            betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps, dtype=torch.float64) ** 2
            self.left = torch.cumprod(1 - betas, 0)

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor, *_) -> torch.Tensor:
        if self.flow:
            alpha, sigma = 1 - float(timestep) / 1000, float(timestep) / 1000
        else:
            left = float(self.left[int(timestep)])
            alpha, sigma = left**0.5, (1 - left) ** 0.5
        noise = (latents - alpha * self.clean[: len(latents)]) / sigma
        self.noise.append(noise)
        return noise - self.clean[: len(latents)] if self.flow else noise


@pytest.mark.parametrize(("family", "name"), SAMPLERS)
@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_assistive_rendering_noises_the_beauty_to_the_step_it_begins_at(models, monkeypatch, family, name, strength):
    """With networks that know the beauty, it comes out again; and the first noise that they see is the noise that was drawn."""
    model = models[family]
    job = sampler(model, sampler=name, mode="assistive", strength=strength, w=0.0)
    clean = model.encode(beauty() / 127.5 - 1)
    oracle = Oracle(model, clean)
    monkeypatch.setattr(job.model, "predict", oracle)
    latents = job.sample()
    drawn = ClipNoise("code", job.clip.codes, model.latent_channels, 8, seed=0).draw()
    near = 0.02 if family == "z" else 2e-3  # where timesteps are rounded, the network is told a little less or more noise than there is
    torch.testing.assert_close(oracle.noise[0], drawn[:2], atol=near, rtol=0)
    assert len(oracle.noise) == 2 * max(round(STEPS * strength), 1)  # two chunks a step
    torch.testing.assert_close(latents, clean, atol=0.05 if name == "lcm" else near, rtol=0)


@pytest.mark.parametrize(("family", "name"), SAMPLERS)
def test_full_rendering_begins_with_the_noise_alone(models, monkeypatch, family, name):
    job = sampler(models[family], sampler=name, w=0.0)
    shown = []
    predict = type(job.model).predict

    def watch(latents, *others):
        shown.append(latents.clone())
        return predict(job.model, latents, *others)

    monkeypatch.setattr(job.model, "predict", watch)
    job.sample()
    drawn = ClipNoise("code", job.clip.codes, job.model.latent_channels, 8, seed=0).draw()
    torch.testing.assert_close(
        shown[0], drawn[:2], atol=0.01, rtol=0.01
    )  # Euler's is divided by sqrt(sigma^2 + 1) after a product with sigma


@pytest.mark.parametrize("name", NAMES)
def test_a_higher_strength_leaves_less_of_the_beauty(models, name):
    clean = models["sd"].encode(beauty() / 127.5 - 1)
    moved = [
        (sampler(models["sd"], sampler=name, mode="assistive", strength=strength, w=0.0).sample() - clean).abs().mean()
        for strength in (0.2, 0.5, 1.0)
    ]
    assert moved[0] < moved[1] < moved[2]


@pytest.mark.parametrize("name", NAMES)
def test_noise_by_code_keeps_still_frames_alike_without_guidance_also_where_the_sampler_adds_some(models, name):
    frames = sampler(models["sd"], sampler=name, w=0.0, noise="code").sample()
    torch.testing.assert_close(frames[1:], frames[:1].expand(LENGTH - 1, -1, -1, -1), atol=1e-4, rtol=1e-4)
    apart = sampler(models["sd"], sampler=name, w=0.0, noise="independent").sample()
    assert (apart[1:] - apart[:1]).abs().mean() > 0.1


@pytest.mark.parametrize("name", STOCHASTIC)
def test_what_a_sampler_adds_is_fresh_at_every_step(models, monkeypatch, name):
    """Or it would add up: the noise that the networks see would be the one that was drawn first, again and again."""
    job = sampler(models["sd"], sampler=name, w=0.0)
    oracle = Oracle(models["sd"], torch.zeros(LENGTH, 4, HEIGHT // 8, WIDTH // 8))
    monkeypatch.setattr(job.model, "predict", oracle)
    job.sample()
    first, last = oracle.noise[0].flatten(), oracle.noise[-2].flatten()
    assert abs(np.corrcoef(first, last)[0, 1]) < (0.35 if name == "lcm" else 0.9)
    assert float(last.std()) == pytest.approx(1.0, abs=0.15)


# -- what is guided ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "guided"),
    [
        ({"w_steps": 3, "w_start": 0.0, "w_end": 1.0}, [0, 4, 8]),
        ({"w_steps": 1000, "w_start": 0.0, "w_end": 1.0}, list(range(9))),
        ({"w_steps": 1000, "w_start": 0.25, "w_end": 0.85}, [3, 4, 5, 6, 7, 8]),
        ({"w_steps": 1}, [6]),
        ({"w": 0.0}, []),
        ({"w_steps": 1000, "w_schedule": "rising", "w_start": 0.0, "w_end": 1.0}, list(range(9))),
        ({"w_steps": 1000, "w_schedule": "falling", "w_start": 0.0, "w_end": 0.5}, list(range(5))),
        ({"w_steps": 2, "w_start": 0.0, "w_end": 1.0, "mode": "assistive", "strength": 0.5}, [5, 8]),
        ({"steps": 20, "mode": "assistive", "strength": 0.15}, [18]),  # of 17 to 19, all after w_end
        ({"steps": 20, "mode": "assistive", "strength": 0.1}, [18]),
        ({"steps": 20, "mode": "assistive", "strength": 0.05}, []),
        ({"steps": 2}, [0]),
    ],
)
def test_which_steps_are_guided(models, options, guided):
    job = sampler(models["sd"], **{"steps": 10} | options)
    phases: list[str] = []
    job.sample(lambda fraction, phase: phases.append(phase))
    assert job.guided == guided
    first = job.model.steps - len({phase for phase in phases if phase.startswith("paint")})
    harmonised = {int(phase.split()[3]) + first - 1 for phase in phases if phase.startswith("align frames")}
    assert sorted(harmonised) == guided


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.9, 0.85)])
def test_a_guidance_that_ends_before_it_begins_is_refused_in_one_line(start, end):
    with pytest.raises(BadInput) as caught:
        read_settings({"w_start": start, "w_end": end})
    assert str(caught.value) == (
        f"settings: w_start ({start}) must be less than w_end ({end}), or no step is guided; to paint without guidance, set w to 0"
    )
    assert read_settings({"w": 0.0, "w_start": start, "w_end": end}).w_end == end


def test_guided_steps_are_noted_in_the_take(folder, shot_folder, tmp_path):
    settings = RenderSettings(model=folder, steps=5, w_steps=2, w_start=0.0, w_end=0.7)
    assert render_take(Shot.open(shot_folder), settings, tmp_path / "take")["guided_steps"] == [0, 3]


@pytest.mark.parametrize(
    ("kind", "strengths"),
    [("constant", [0.8, 0.8, 0.8, 0.8, 0.8]), ("falling", [0.8, 0.8, 0.6, 0.4, 0.4]), ("rising", [0.4, 0.4, 0.6, 0.8, 0.8])],
)
def test_w_falls_to_half_of_it_and_rises_from_half_of_it(models, monkeypatch, kind, strengths):
    made = []
    monkeypatch.setattr(sampling, "guided", lambda *args, **options: made.append(guided(*args, **options)) or made[-1])
    sampler(models["sd"], w=0.8, w_schedule=kind, w_start=0.2, w_end=0.6).sample()
    assert [made[0].w(share) for share in (0.0, 0.2, 0.4, 0.6, 0.9)] == pytest.approx(strengths)


def test_the_schedules_of_w_paint_differently(models):
    schedules = [sampler(models["sd"], noise="independent", w=0.8, w_schedule=kind).sample() for kind in ("constant", "rising", "falling")]
    assert not any(torch.equal(one, other) for one, other in pairwise([*schedules, schedules[0]]))


def test_the_sample_can_be_held_as_in_the_paper(models):
    noise, sample, again = (sampler(models["sd"], noise="independent", hold=hold).sample() for hold in ("noise", "sample", "sample"))
    assert torch.equal(sample, again)
    assert (noise - sample).abs().mean() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_guidance_brings_frames_together_whatever_the_sampler(shot_folder, tmp_path, name):
    """The bundled model, from noise that no two frames share, without the final harmonisation."""
    shot = Shot.open(shot_folder)
    settings = RenderSettings(steps=6, sampler=name, noise="independent", final_harmonisation="off")
    plain, guided = (
        render_take(shot, settings.model_copy(update={"w": w}), tmp_path / str(w))["metrics"]["warping_error"] for w in (0.0, 1.0)
    )
    assert guided < 0.2 * plain


def test_progress_never_goes_back(models):
    told: list[float] = []
    sampler(models["sd"], mode="assistive").sample(lambda fraction, phase: told.append(fraction))
    assert told == sorted(told)
    assert told[0] == 0.0
    assert told[-1] < 1.0


# -- prompts, masks, references ----------------------------------------------------------------------------------------


def test_prompts_change_by_frame_number(models):
    """Frames 9 and 30 have one prompt each, as if it were the only one; what lies between has some of both."""
    codes = still(4)
    numbers = [9, 10, 20, 30]
    options = {"codes": codes, "frame_numbers": numbers, "w": 0.0}
    changing = sampler(models["sd"], prompt="10: gold, 30: velvet", **options).sample()
    gold, velvet = (sampler(models["sd"], prompt=prompt, **options).sample() for prompt in ("gold", "velvet"))
    torch.testing.assert_close(changing[:2], gold[:2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(changing[3], velvet[3], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(gold, velvet, atol=1e-3)
    for one in (gold, velvet):
        assert not torch.allclose(changing[2], one[2], atol=1e-4)


@pytest.mark.parametrize("mode", ["full", "assistive"])
def test_what_is_not_to_be_painted_stays_the_beauty_bit_for_bit(folder, shot_folder, tmp_path, mode):
    shot = Shot.open(shot_folder)
    settings = RenderSettings(model=folder, steps=3, mode=mode, paint="background")
    render_take(shot, settings, tmp_path / "take")
    frames, original, painted = read_take(shot, tmp_path / "take"), shot.beauty(), shot.gbuffer().background
    assert painted.any()
    assert np.array_equal(frames[~painted], original[~painted])
    assert np.abs(frames[painted].astype(int) - original[painted]).mean() > 1


def test_a_mask_that_names_nothing_is_refused(folder, shot_folder, tmp_path):
    with pytest.raises(BadInput, match="Nobody"):
        render_take(Shot.open(shot_folder), RenderSettings(model=folder, steps=3, paint="Nobody"), tmp_path / "take")
    assert not (tmp_path / "take").exists()


def test_a_reference_is_refused_where_the_model_cannot_look_at_it(folder, shot_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDM_MODELS", str(tmp_path / "none"))
    picture: Path = next((shot_folder / "beauty").iterdir())
    settings = RenderSettings(model=folder, steps=3, reference=str(picture))
    with pytest.raises(Unavailable, match="has no IP-Adapter to look at a reference with"):
        render_take(Shot.open(shot_folder), settings, tmp_path / "take")


def test_a_reference_changes_what_is_painted(shot_folder, tmp_path):
    model = tiny_models.write(tmp_path / "model")
    tiny_models.write_ip_adapter(model / "ip_adapter", model)
    shot, picture = Shot.open(shot_folder), next((shot_folder / "beauty").iterdir())
    for name, options in (("with", {"reference": str(picture), "reference_scale": 1.0}), ("without", {})):
        render_take(shot, RenderSettings(model=str(model), steps=3, **options), tmp_path / name)
    assert not np.array_equal(read_take(shot, tmp_path / "with"), read_take(shot, tmp_path / "without"))

"""The temporal guidance: nothing at w = 0, everything at w = 1, equations 8 to 10 between, inside a stock pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, StableDiffusionControlNetPipeline

import tiny_models
from medm.diffusion.guidance import clean_estimate, guided, output_for
from medm.errors import BadInput
from medm.harmonize import Harmonizer

PREDICTIONS = ("epsilon", "v_prediction", "sample")
CODES = np.array([[[0, 1], [2, 3]], [[1, 4], [3, 5]], [[4, 6], [3, 7]]], np.int32)  # surfaces move to the left


def harmonizer() -> Harmonizer:
    return Harmonizer(CODES, 8)


def ddim(prediction: str = "epsilon") -> DDIMScheduler:
    zero_snr = prediction != "epsilon"
    return DDIMScheduler(prediction_type=prediction, clip_sample=False, rescale_betas_zero_snr=zero_snr, timestep_spacing="trailing")


def clip(seed: int) -> torch.Tensor:
    return torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(seed))


def sampled(scheduler, steps: int = 6) -> torch.Tensor:
    """A deterministic stand-in for a network, sampled to the end."""
    scheduler.set_timesteps(steps)
    x = clip(0)
    for timestep in scheduler.timesteps:
        x = scheduler.step(torch.tanh(1.7 * x + 0.3), timestep, x).prev_sample
    return x


def must_not_be_called(clean: torch.Tensor) -> torch.Tensor:
    raise AssertionError("w = 0 asked for agreement")


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_w_0_changes_nothing(prediction):
    assert torch.equal(sampled(guided(ddim(prediction), must_not_be_called, 0.0)), sampled(ddim(prediction)))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_w_1_with_a_lossless_autoencoder_makes_all_pixels_of_a_code_equal(prediction):
    scheduler = guided(ddim(prediction), harmonizer().global_mean, 1.0)
    scheduler.set_timesteps(5)
    x = clip(1)
    for timestep in scheduler.timesteps[:-1]:
        result = scheduler.step(clip(int(timestep)), timestep, x)
        clean = result.pred_original_sample.permute(0, 2, 3, 1)
        for code in range(8):
            values = clean[torch.from_numpy(code == CODES)]
            assert torch.allclose(values, values[:1].expand_as(values), atol=1e-4)
        x = result.prev_sample


def test_it_is_the_papers_blend_of_noise_estimates():
    """Equations 8 and 10, computed as they stand, for an autoencoder that is not lossless."""
    w, scheduler, sample, noise = 0.8, ddim(), clip(2), clip(3)
    scheduler.set_timesteps(10)
    timestep = scheduler.timesteps[4]
    alpha = scheduler.alphas_cumprod[timestep]

    def agree(clean: torch.Tensor) -> torch.Tensor:
        return 0.9 * harmonizer().global_mean(0.8 * clean) + 0.05

    estimate = (sample - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    repository = (sample - alpha.sqrt() * agree(estimate)) / (1 - alpha).sqrt()
    expected = scheduler.step((1 - w) * noise + w * repository, timestep, sample).prev_sample
    wrapped = guided(ddim(), agree, w)
    wrapped.set_timesteps(10)
    assert torch.allclose(wrapped.step(noise, timestep, sample).prev_sample, expected, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("alpha", [0.02, 0.5, 0.99])
def test_outputs_and_clean_estimates_are_inverse(prediction, alpha):
    output, sample = clip(4), clip(5)
    clean = clean_estimate(output, sample, torch.tensor(alpha), prediction)
    assert torch.allclose(output_for(clean, sample, torch.tensor(alpha), prediction), output, atol=1e-4)


def test_noise_alone_can_be_guided():
    """Zero terminal SNR: alpha is 0 at the first step, and everything stays finite."""
    assert sampled(guided(ddim("v_prediction"), harmonizer().global_mean, 0.8)).isfinite().all()


def test_the_last_step_is_left_alone():
    calls = []

    def agree(clean: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return clean

    sampled(guided(ddim(), agree, 0.8), steps=6)
    assert len(calls) == 5


def test_it_works_unchanged_inside_a_stock_pipeline(tmp_path):
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(tiny_models.write(tmp_path / "model"), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    codes = np.zeros((3, 8, 8), np.int32) + np.arange(64).reshape(8, 8)  # nothing moves: every pixel of the latents is one code

    def take(w: float) -> torch.Tensor:
        pipeline.scheduler = guided(ddim(), Harmonizer(codes, 64).global_mean, w)
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(3, 3, 64, 64, generator=generator)
        return pipeline(["clay"] * 3, image=images, num_inference_steps=4, output_type="latent", generator=generator).images

    spread = [float(take(w).var(dim=0).mean()) for w in (0.0, 1.0)]
    assert spread[1] < 0.5 * spread[0]


def test_ddpm_is_guided_too():
    assert isinstance(guided(DDPMScheduler(), must_not_be_called, 0.5), DDPMScheduler)


def test_schedulers_that_scale_their_samples_are_refused():
    with pytest.raises(BadInput, match="works with DDIMScheduler, DDPMScheduler, not with EulerDiscreteScheduler"):
        guided(EulerDiscreteScheduler(), must_not_be_called, 0.8)


def test_w_out_of_range_is_refused():
    with pytest.raises(BadInput, match=r"between 0 and 1, not 1\.5"):
        guided(ddim(), must_not_be_called, 1.5)

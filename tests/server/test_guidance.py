"""The temporal guidance: nothing at w = 0, everything at w = 1, equations 8 to 10 between; what is held; with every scheduler."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers import StableDiffusionControlNetPipeline as Pipeline

import tiny_models
from medm.diffusion.guidance import clean_weights, guided
from medm.errors import BadInput
from medm.harmonize import Harmonizer

CODES = np.array([[[0, 1], [2, 3]], [[1, 4], [3, 5]], [[4, 6], [3, 7]]], np.int32)  # surfaces move to the left
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def _schedulers() -> dict[str, Any]:
    """Every scheduler with every prediction it knows, and the settings that change how it steps."""
    settings: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
        "ddim": ("DDIMScheduler", PREDICTIONS, {"clip_sample": False, "timestep_spacing": "trailing"}),
        "ddim from noise alone": (
            "DDIMScheduler",
            PREDICTIONS[1:],
            {"clip_sample": False, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
        ),
        "ddpm": ("DDPMScheduler", PREDICTIONS, {"clip_sample": False}),
        "pndm": ("PNDMScheduler", PREDICTIONS[:2], {"skip_prk_steps": True}),
        "pndm with Runge-Kutta": ("PNDMScheduler", PREDICTIONS[:2], {}),
        "lcm": ("LCMScheduler", PREDICTIONS, {}),
        "lcm from noise alone": ("LCMScheduler", PREDICTIONS[1:], {"rescale_betas_zero_snr": True}),
        "tcd": ("TCDScheduler", PREDICTIONS, {}),
        "euler": ("EulerDiscreteScheduler", PREDICTIONS, {}),
        "euler, karras": ("EulerDiscreteScheduler", PREDICTIONS, {"use_karras_sigmas": True}),
        "euler from noise alone": ("EulerDiscreteScheduler", PREDICTIONS, {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}),
        "euler ancestral": ("EulerAncestralDiscreteScheduler", PREDICTIONS[:2], {}),
        "dpm++": ("DPMSolverMultistepScheduler", PREDICTIONS, {}),
        "dpm++, third order": ("DPMSolverMultistepScheduler", PREDICTIONS, {"solver_order": 3, "use_karras_sigmas": True}),
        "dpm++ sde": ("DPMSolverMultistepScheduler", PREDICTIONS, {"algorithm_type": "sde-dpmsolver++"}),
        "dpm++ of flow": ("DPMSolverMultistepScheduler", ("flow_prediction",), {"use_flow_sigmas": True}),
        "dpm++ singlestep": ("DPMSolverSinglestepScheduler", PREDICTIONS, {"lower_order_final": True}),
        "dpm++ singlestep sde": (
            "DPMSolverSinglestepScheduler",
            PREDICTIONS,
            {"algorithm_type": "sde-dpmsolver++", "lower_order_final": True},
        ),
        "unipc": ("UniPCMultistepScheduler", PREDICTIONS, {}),
        "unipc of noise": ("UniPCMultistepScheduler", PREDICTIONS, {"predict_x0": False, "final_sigmas_type": "sigma_min"}),
        "unipc of flow": ("UniPCMultistepScheduler", ("flow_prediction",), {"use_flow_sigmas": True}),
        "deis": ("DEISMultistepScheduler", PREDICTIONS, {}),
        "flow euler": ("FlowMatchEulerDiscreteScheduler", ("flow_prediction",), {"shift": 3.0}),
        "flow euler, stochastic": ("FlowMatchEulerDiscreteScheduler", ("flow_prediction",), {"stochastic_sampling": True}),
        "flow lcm": ("FlowMatchLCMScheduler", ("flow_prediction",), {}),
    }
    made = {}
    for name, (kind, predictions, options) in settings.items():
        for prediction in predictions:
            known = inspect.signature(getattr(diffusers, kind).__init__).parameters
            given = options | {key: value for key, value in BETAS.items() if key in known}
            given |= {"prediction_type": prediction} if "prediction_type" in known else {}
            made[f"{name}, {prediction}"] = (getattr(diffusers, kind), given)
    return made


SCHEDULERS = _schedulers()
HOLDS = ("sample", "noise")
HELD = [(name, hold) for name in SCHEDULERS for hold in HOLDS if not (hold == "noise" and re.search("pndm.*v_prediction", name))]
STOCHASTIC = [name for name in SCHEDULERS if re.search("ddpm|lcm|tcd|ancestral|sde|stochastic", name)]


def scheduler_of(name: str) -> Any:
    kind, options = SCHEDULERS[name]
    return kind(**options)


def clip(seed: int, frames: int = 3) -> torch.Tensor:
    return torch.randn(frames, 2, 2, 2, generator=torch.Generator().manual_seed(seed))


def levels(scheduler: Any, index: int) -> tuple[float, float]:
    """alpha and sigma of the sample that a scheduler expects, by its own way to make such samples."""
    mix = (
        scheduler.scale_noise
        if hasattr(scheduler, "scale_noise")
        else lambda clean, timestep, noise: scheduler.add_noise(clean, noise, timestep)
    )
    one, nothing = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    timestep = scheduler.timesteps[index][None]
    return float(mix(one, timestep, nothing)), float(mix(nothing, timestep, one))


def output_of(clean: torch.Tensor, sample: torch.Tensor, alpha: float, sigma: float, prediction: str) -> torch.Tensor:
    """What a network says that takes `sample` for noise on `clean`, by the definitions of what is predicted."""
    noise = (sample - alpha * clean) / sigma
    size = (alpha**2 + sigma**2) ** 0.5
    answers = {"epsilon": noise, "v_prediction": (alpha * noise - sigma * clean) / size, "sample": clean, "flow_prediction": noise - clean}
    return answers[prediction]


def denoised(sample: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
    """The best guess at pictures that are normally distributed about 0.3 with a deviation of 0.5: a perfect network for such pictures."""
    return (0.3 / 0.25 + alpha * sample / sigma**2) / (1 / 0.25 + alpha**2 / sigma**2)


def sampled(scheduler: Any, steps: int = 8, network: Any = denoised, frames: int = 3) -> torch.Tensor:
    """Sampled to the end, with a network that predicts what the scheduler expects."""
    scheduler.set_timesteps(steps)
    fresh = getattr(type(scheduler), "unguided", type(scheduler)).from_config(scheduler.config)
    fresh.set_timesteps(steps)  # levels are asked of one that is not in the middle of anything
    prediction = scheduler.config.get("prediction_type", "flow_prediction")
    x = clip(0, frames) * getattr(scheduler, "init_noise_sigma", 1.0)
    torch.manual_seed(5)
    for index, timestep in enumerate(scheduler.timesteps):
        alpha, sigma = levels(fresh, index)
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, timestep)
        x = scheduler.step(output_of(network(x, alpha, sigma), x, alpha, sigma, prediction), timestep, x, return_dict=False)[0]
    return x


def must_not_be_called(clean: torch.Tensor) -> torch.Tensor:
    raise AssertionError("asked for agreement")


def agree(clean: torch.Tensor) -> torch.Tensor:
    """All frames become their mean, by an autoencoder that is not lossless."""
    return (0.9 * clean.mean(dim=0, keepdim=True) + 0.05).expand_as(clean)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_toy_network_is_perfect_with_every_scheduler(name):
    """Guards the tests below: levels and predictions are understood, so the samples have the mean and deviation of the pictures."""
    result = sampled(scheduler_of(name), 16, frames=60)
    assert float(result.mean()) == pytest.approx(0.3, abs=0.1)
    assert 0.2 < float(result.std()) < 0.6  # lcm expects a consistency function, and with this network gives less


@pytest.mark.parametrize(("name", "hold"), HELD)
def test_w_0_changes_nothing(name, hold):
    assert torch.equal(sampled(guided(scheduler_of(name), must_not_be_called, 0.0, hold=hold)), sampled(scheduler_of(name)))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_it_is_as_if_the_network_had_said_it(name):
    """Holding the sample: the plain scheduler with a network whose clean estimates agree takes the same way to the same end."""
    scheduler = guided(scheduler_of(name), agree, 0.8, hold="sample")
    result = sampled(scheduler)
    guided_calls, calls = set(scheduler.guided_steps()), iter(range(100))

    def network(sample: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        clean = denoised(sample, alpha, sigma)
        return torch.lerp(clean, agree(clean), 0.8) if next(calls) in guided_calls else clean

    torch.testing.assert_close(result, sampled(scheduler_of(name), network=network), atol=2e-3, rtol=0)
    assert float(result.var(dim=0).mean()) < 0.75 * float(sampled(scheduler_of(name)).var(dim=0).mean())


def is_pndm(name: str) -> bool:
    return name.startswith("pndm")


MOVED = [(name, count) for name, hold in HELD if hold == "noise" for count in (None, 3) if not (count and is_pndm(name))]


@pytest.mark.parametrize(("name", "count"), MOVED)
def test_it_is_as_if_all_had_been_moved_from_the_beginning(name, count):
    """Holding the noise: the plain scheduler, which never hears of the changes, takes the same way, alpha times their sum aside."""
    moves, way = [torch.zeros(3, 2, 2, 2)], []

    def remember(clean: torch.Tensor) -> torch.Tensor:
        moves.append(moves[-1] + 0.8 * (agree(clean) - clean))
        return agree(clean)

    def note(sample: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        way.append((sample, alpha, moves[-1]))
        return denoised(sample, alpha, sigma)

    scheduler = guided(scheduler_of(name), remember, 0.8, count=count)
    result = sampled(scheduler, network=note)
    assert len(moves) == 1 + (count or len(way) - 1)
    unmoved = iter(way)

    def network(sample: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        there, _, move = next(unmoved)
        torch.testing.assert_close(sample + alpha * move, there, atol=1e-3 * max(1.0, sigma), rtol=1e-3)
        return denoised(sample + alpha * move, alpha, sigma) - move

    sampled(scheduler_of(name), network=network)
    assert float(result.var(dim=0).mean()) < 0.75 * float(sampled(scheduler_of(name)).var(dim=0).mean())


@pytest.mark.parametrize(("name", "hold"), HELD)
def test_what_is_held_stays(name, hold, monkeypatch):
    """What the scheduler itself is given means the agreed pictures, and the same sample or the same noise."""
    scheduler, fresh, given = guided(scheduler_of(name), agree, 1.0, hold=hold), scheduler_of(name), []
    scheduler.set_timesteps(6)
    fresh.set_timesteps(6)
    own = type(fresh).step

    def step(self: Any, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **options: Any) -> Any:
        given.append((model_output, sample))
        return own(self, model_output, timestep, sample, **options)

    monkeypatch.setattr(type(fresh), "step", step)
    for index, timestep in enumerate(scheduler.timesteps[:4]):
        alpha, sigma = levels(fresh, index)
        clean, noise = clip(3), clip(2 + index)
        x = alpha * clean + sigma * noise
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, timestep)
        prediction = scheduler.config.get("prediction_type", "flow_prediction")
        scheduler.step(output_of(clean, x, alpha, sigma, prediction), timestep, x)
        there = x if hold == "sample" else alpha * agree(clean) + sigma * noise
        tolerance = 1e-5 * max(1.0, sigma / max(alpha, 1e-2))
        torch.testing.assert_close(given[-1][1], there, atol=tolerance, rtol=0)
        torch.testing.assert_close(given[-1][0], output_of(agree(clean), there, alpha, sigma, prediction), atol=tolerance, rtol=0)


DETERMINISTIC = [name for name in SCHEDULERS if name not in STOCHASTIC and not is_pndm(name)]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_frames_of_the_same_noise_agree_to_the_end_after_one_step(name):
    """Three pictures under one noise, and a network that knows the noise: they end as one picture, their mean, if it is held."""
    pictures, noise = clip(1), clip(2, 1)

    def ended(**options: Any) -> torch.Tensor:
        scheduler = guided(scheduler_of(name), lambda clean: clean.mean(dim=0, keepdim=True).expand_as(clean), **options)
        scheduler.set_timesteps(12)
        fresh = scheduler_of(name)
        fresh.set_timesteps(12)
        alpha, sigma = levels(fresh, 3)
        x = alpha * pictures + sigma * noise
        prediction = scheduler.config.get("prediction_type", "flow_prediction")
        for index, timestep in enumerate(scheduler.timesteps[3:], 3):
            alpha, sigma = levels(fresh, index)
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(x, timestep)
            x = scheduler.step(output_of((x - sigma * noise) / alpha, x, alpha, sigma, prediction), timestep, x).prev_sample
        return x

    apart = float(ended(w=0.0).std(dim=0).mean())
    held = ended(w=1.0, first=3, count=1)
    assert apart > 0.5
    assert float(held.std(dim=0).mean()) < 1e-3 * apart
    if not re.search("unipc of noise", name):  # which leaves a little noise
        torch.testing.assert_close(held[0], pictures.mean(dim=0), atol=0.05, rtol=0)
    assert float(ended(w=1.0, first=3, count=1, hold="sample").std(dim=0).mean()) > 0.1 * apart


@pytest.mark.parametrize(
    "name", ["lcm, epsilon", "lcm, v_prediction", "flow euler, stochastic, flow_prediction", "flow lcm, flow_prediction"]
)
def test_samplers_that_draw_all_noise_anew_hold_nothing(name):
    one, other = (sampled(guided(scheduler_of(name), agree, 0.8, hold=hold)) for hold in HOLDS)
    torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


def clean_estimate_of(scheduler: Any, result: Any, sample: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
    """The clean estimate that a scheduler says, or stores, that it has just used."""
    if hasattr(result, "pred_original_sample"):
        return result.pred_original_sample
    stored = scheduler.model_outputs[-1]
    of_noise = "DEIS" in type(scheduler).__name__ or not getattr(scheduler, "predict_x0", True)
    return (sample - sigma * stored) / alpha if of_noise else stored


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("name", [name for name in SCHEDULERS if not re.search("pndm|lcm|tcd|flow [el]", name)])  # which tell of none
def test_the_schedulers_own_clean_estimate_is_what_was_agreed(name, hold):
    agreed: list[torch.Tensor] = []

    def remember(clean: torch.Tensor) -> torch.Tensor:
        agreed.append(Harmonizer(CODES, 8).global_mean(clean))
        return agreed[-1]

    scheduler, fresh = guided(scheduler_of(name), remember, 1.0, hold=hold), scheduler_of(name)
    scheduler.set_timesteps(6)
    fresh.set_timesteps(6)
    for index, timestep in enumerate(scheduler.timesteps):
        alpha, sigma = levels(fresh, index)
        x = alpha * clip(1) + sigma * clip(2 + index)
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, timestep)
        output = output_of(clip(3), x, alpha, sigma, scheduler.config.prediction_type)
        result = scheduler.step(output, timestep, x)
        moved = x + alpha * (agreed[-1] - clip(3)) if hold == "noise" and index in scheduler.guided_steps() else x
        used = clean_estimate_of(scheduler, result, moved, alpha, sigma)
        if index in scheduler.guided_steps():
            tolerance = max(1e-4, 2e-7 * sigma / max(alpha, 1e-3))
            torch.testing.assert_close(used, agreed[-1], atol=tolerance, rtol=0)
            assert not torch.allclose(agreed[-1], clip(3), atol=0.1)
    assert len(agreed) == len(scheduler.guided_steps()) >= 5


def ddim(prediction: str = "epsilon", **options: Any) -> DDIMScheduler:
    return DDIMScheduler(prediction_type=prediction, clip_sample=False, timestep_spacing="trailing", **options)


def test_it_is_the_papers_blend_of_noise_estimates():
    """Equations 8 and 10, computed as they stand, for an autoencoder that is not lossless."""
    w, scheduler, sample, noise = 0.8, ddim(), clip(2), clip(3)
    scheduler.set_timesteps(10)
    timestep = scheduler.timesteps[4]
    alpha = scheduler.alphas_cumprod[timestep]

    def lossy(clean: torch.Tensor) -> torch.Tensor:
        return 0.9 * Harmonizer(CODES, 8).global_mean(0.8 * clean) + 0.05

    estimate = (sample - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    repository = (sample - alpha.sqrt() * lossy(estimate)) / (1 - alpha).sqrt()
    expected = scheduler.step((1 - w) * noise + w * repository, timestep, sample).prev_sample
    wrapped = guided(ddim(), lossy, w, hold="sample")
    wrapped.set_timesteps(10)
    assert torch.allclose(wrapped.step(noise, timestep, sample).prev_sample, expected, atol=1e-5)


def test_ddim_that_holds_the_noise_is_the_blended_estimate_under_the_networks_noise():
    w, scheduler, sample, noise = 0.8, guided(ddim(), agree, 0.8), clip(2), clip(3)
    scheduler.set_timesteps(10)
    product, after = (scheduler.alphas_cumprod[scheduler.timesteps[index]] for index in (4, 5))
    clean = (sample - (1 - product).sqrt() * noise) / product.sqrt()
    expected = after.sqrt() * ((1 - w) * clean + w * agree(clean)) + (1 - after).sqrt() * noise
    step = scheduler.step(noise, scheduler.timesteps[4], sample)
    torch.testing.assert_close(step.prev_sample, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(step.pred_original_sample, (1 - w) * clean + w * agree(clean), atol=1e-5, rtol=0)


@pytest.mark.parametrize("stochastic", [False, True])
def test_flow_that_holds_the_noise_is_the_blended_estimate_under_the_networks_noise(stochastic):
    w, scheduler, sample, flow = 0.8, FlowMatchEulerDiscreteScheduler(stochastic_sampling=stochastic), clip(2), clip(3)
    scheduler = guided(scheduler, agree, w, noise=torch.ones_like)
    scheduler.set_timesteps(10)
    scheduler.set_begin_index(4)
    sigma, after = float(scheduler.sigmas[4]), float(scheduler.sigmas[5])
    clean, noise = sample - sigma * flow, sample + (1 - sigma) * flow
    expected = (1 - after) * ((1 - w) * clean + w * agree(clean)) + after * (torch.ones_like(noise) if stochastic else noise)
    torch.testing.assert_close(scheduler.step(flow, scheduler.timesteps[4], sample).prev_sample, expected, atol=1e-5, rtol=0)


def test_ddim_with_eta_and_a_noise_estimate_made_anew():
    """DDIM can derive the noise once more from the sample and x0: held, it is what it was; and eta adds what it always does."""
    steps = []
    for again in (False, True):
        scheduler = guided(ddim("v_prediction"), agree, 0.8)
        scheduler.set_timesteps(10)
        step = scheduler.step(clip(0), scheduler.timesteps[4], clip(1), eta=0.7, use_clipped_model_output=again, variance_noise=clip(2))
        steps.append(step.prev_sample)
    torch.testing.assert_close(steps[0], steps[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("prediction", [*PREDICTIONS, "flow_prediction"])
@pytest.mark.parametrize("alpha", [0.02, 0.5, 0.99])
def test_clean_estimates_are_those_of_the_definitions(prediction, alpha):
    sigma = 1 - alpha if prediction == "flow_prediction" else 0.7
    sample, clean = clip(4), clip(5)
    of_sample, of_output = clean_weights(prediction, alpha, sigma)
    output = output_of(clean, sample, alpha, sigma, prediction)
    torch.testing.assert_close(of_sample * sample + of_output * output, clean, atol=1e-4, rtol=0)


def test_which_steps_are_guided():
    def steps(number: int = 10, scheduler: Any = None, **options: Any) -> list[int]:
        wrapped = guided(scheduler or ddim(), must_not_be_called, **options)
        wrapped.set_timesteps(number)
        return wrapped.guided_steps()

    assert steps() == [0, 1, 2, 3, 4, 5, 6, 7, 8], "all but the last"
    assert steps(w=0.0) == []
    assert steps(start=0.3) == [3, 4, 5, 6, 7, 8]
    assert steps(end=0.6) == [0, 1, 2, 3, 4, 5]
    assert steps(start=0.5, end=0.5) == []
    assert steps(start=1.0) == steps(start=1.0, count=3) == []
    assert steps(start=0.2, count=3) == [2, 5, 8]
    assert steps(count=2) == [0, 8], "the first and the last that may be"
    assert steps(count=1) == [4], "the middle one"
    assert steps(count=4) == [0, 3, 5, 8]
    assert steps(start=0.2, end=0.6, count=3) == [2, 4, 5]
    assert steps(count=9) == steps(count=10) == steps(count=1000) == steps()
    assert steps(start=0.5, end=0.6, count=3) == [5]
    assert steps(4, start=0.2, end=0.9, count=3) == [1, 2]
    assert steps(2, count=3) == [0]
    assert steps(first=5) == [5, 6, 7, 8]
    assert steps(first=5, count=3) == [5, 7, 8], "of those that are taken"
    assert steps(first=5, end=0.75, count=2) == [5, 7]
    assert steps(first=9) == steps(first=100, count=1) == []
    assert steps(1) == []
    assert steps(2, start=0.25, end=0.85) == [0], "none falls between: the middle one of those that are taken, but the last"
    assert steps(20, start=0.25, end=0.8, first=16, count=3) == [17]
    assert steps(20, start=0.25, end=0.85, first=17) == steps(20, end=0.3, first=17) == [18]
    assert steps(20, start=0.25, end=0.85, first=18) == [18]
    assert steps(20, start=0.25, end=0.85, first=19) == steps(1, start=0.25, end=0.85) == [], "only the last is taken"
    assert steps(w=lambda share: max(0.0, share - 0.55)) == [6, 7, 8]
    to_nothing = FlowMatchEulerDiscreteScheduler()
    to_nothing.sigma_min = 0.0  # as the pipeline of Z-Image does: then the last but one step is the last that does anything
    assert steps(4, to_nothing) == [0, 1]


@pytest.mark.parametrize("steps", [4, 7, 20, 50])
def test_as_many_steps_as_wanted_are_guided_and_evenly_spread(steps):
    for count in range(2, steps):
        scheduler = guided(ddim(), must_not_be_called, count=count)
        scheduler.set_timesteps(steps)
        taken = scheduler.guided_steps()
        gaps = np.diff(taken)
        assert len(taken) == count and taken[0] == 0 and taken[-1] == steps - 2
        assert gaps.size == 0 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_the_steps_told_are_the_steps_taken():
    called = []

    def note(clean: torch.Tensor) -> torch.Tensor:
        called.append(len(done))
        return clean

    done: list[float] = []
    scheduler = guided(ddim(), note, w=lambda share: 0.8 * (1 - share), start=0.1, end=0.8, count=4)
    sampled(scheduler, 10, network=lambda x, alpha, sigma: done.append(alpha) or denoised(x, alpha, sigma))
    assert [count - 1 for count in called] == scheduler.guided_steps() == [1, 3, 5, 7]


def test_w_is_asked_for_the_share_of_the_steps_that_is_done():
    shares: list[float] = []
    scheduler = guided(ddim(), agree, w=lambda share: shares.append(share) or 0.5)
    scheduler.set_timesteps(5)
    scheduler.guided_steps()
    assert shares == [0.0, 0.2, 0.4, 0.6]


@pytest.mark.parametrize("name", ["ddim, epsilon", "euler, epsilon", "dpm++, epsilon", "pndm, epsilon", "flow euler, flow_prediction"])
def test_shares_count_over_the_whole_schedule_where_sampling_begins_in_its_middle(name):
    """SDEdit: of ten steps the last five are taken, and the guidance ends at 0.7 of all."""
    calls: list[int] = []
    scheduler = guided(scheduler_of(name), lambda clean: calls.append(1) or clean, 0.8, end=0.7)
    scheduler.set_timesteps(10)
    x = clip(0)
    for timestep in scheduler.timesteps[5:]:
        x = scheduler.step(denoised(x, 0.5, 0.5), timestep, x).prev_sample
    assert len(calls) == 2 + (name == "pndm, epsilon")  # which takes eleven steps
    assert [index for index in scheduler.guided_steps() if index >= 5] == [5, 6, 7][: len(calls)]


def test_a_pipeline_may_say_where_it_begins():
    calls: list[int] = []
    scheduler = guided(scheduler_of("euler, epsilon"), lambda clean: calls.append(1) or clean, 0.8, end=0.7)
    scheduler.set_timesteps(10)
    scheduler.set_begin_index(6)
    scheduler.step(clip(0), scheduler.timesteps[6], clip(1))
    scheduler.step(clip(0), scheduler.timesteps[7], clip(1))
    assert calls == [1]
    scheduler.count, scheduler.end = 2, 1.0
    assert scheduler.guided_steps() == [6, 8], "of those that are taken"


@pytest.mark.parametrize("name", STOCHASTIC)
def test_noise_can_be_given(name):
    """Two runs with the same noise are equal, whatever torch's own generators do; with other noise they differ."""

    def taken(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        asked = []

        def noise(sample: torch.Tensor) -> torch.Tensor:
            asked.append(sample.shape)
            return torch.randn(sample.shape, generator=generator)

        torch.manual_seed(len(results))
        scheduler = guided(scheduler_of(name), agree, 0.5, noise=noise)
        result = sampled(scheduler)
        assert set(asked) == {(3, 2, 2, 2)} and 7 <= len(asked) <= 8
        results.append(result)
        return result

    results: list[torch.Tensor] = []
    assert torch.equal(taken(1), taken(1))
    assert not torch.allclose(results[0], taken(2), atol=1e-2)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_noise_drawn_as_the_scheduler_draws_it_changes_nothing(name):
    drawing = guided(scheduler_of(name), must_not_be_called, 0.0, noise=lambda sample: torch.randn(sample.shape))
    assert torch.equal(sampled(drawing), sampled(scheduler_of(name)))


def test_noise_that_is_given_takes_the_place_of_a_generator():
    scheduler = guided(scheduler_of("ddim, epsilon"), agree, 0.0, noise=torch.ones_like)
    scheduler.set_timesteps(10)
    generators = [torch.Generator().manual_seed(frame) for frame in range(3)]
    step = scheduler.step(clip(0), scheduler.timesteps[3], clip(1), eta=1.0, generator=generators)
    plain = scheduler_of("ddim, epsilon")
    plain.set_timesteps(10)
    expected = plain.step(clip(0), plain.timesteps[3], clip(1), eta=1.0, variance_noise=torch.ones(3, 2, 2, 2))
    assert torch.equal(step.prev_sample, expected.prev_sample)


def test_noise_that_sticks_to_frames_that_agree_leaves_them_equal():
    same = guided(scheduler_of("lcm, epsilon"), agree, 1.0, noise=lambda sample: clip(9, 1).expand_as(sample))
    result = sampled(same, 8, network=lambda x, alpha, sigma: denoised(x.mean(dim=0, keepdim=True).expand_as(x), alpha, sigma))
    assert torch.allclose(result[0], result[1], atol=0.05)


@pytest.mark.parametrize(("name", "hold"), [(name, hold) for name, hold in HELD if not re.search("noise alone", name)])
def test_half_precision_stays_what_it_is(name, hold):
    seen: list[torch.dtype] = []
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        scheduler = guided(scheduler_of(name), lambda clean: seen.append(clean.dtype) or agree(clean), 0.8, hold=hold)
        scheduler.set_timesteps(8)
        x = (clip(1) * getattr(scheduler, "init_noise_sigma", 1.0)).to(dtype)
        torch.manual_seed(3)
        for timestep in scheduler.timesteps[:4]:
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(x, timestep)
            x = scheduler.step((0.9 * clip(2)).to(dtype), timestep, x, return_dict=False)[0]
        results.append(x)
    assert results[1].dtype == torch.bfloat16
    assert set(seen) == {torch.float32}
    if name not in STOCHASTIC:  # which draw other noise in another precision
        torch.testing.assert_close(results[1].float(), results[0], atol=0.05 * float(results[0].abs().max()), rtol=0)


def test_a_pipeline_finds_the_parameters_of_the_schedulers_step():
    for kind in (ddim(), EulerDiscreteScheduler(), PNDMScheduler(skip_prk_steps=True)):
        assert inspect.signature(guided(kind, agree).step) == inspect.signature(kind.step)


def test_the_given_scheduler_stays_as_it_is_and_its_state_is_kept():
    plain = ddim()
    plain.set_timesteps(7)
    wrapped = guided(plain, agree)
    assert type(plain) is DDIMScheduler and isinstance(wrapped, DDIMScheduler) and type(wrapped).__name__ == "GuidedDDIMScheduler"
    assert torch.equal(wrapped.timesteps, plain.timesteps)
    wrapped.set_timesteps(3)
    assert len(plain.timesteps) == 7


@pytest.mark.parametrize("name", ["unipc, epsilon", "dpm++, epsilon", "dpm++ singlestep, epsilon", "pndm, epsilon", "ddim, epsilon"])
def test_a_second_run_is_as_the_first(name):
    """And so is one of another size: nothing is remembered over `set_timesteps`, and two schedulers share nothing."""
    plain = scheduler_of(name)
    one, other = guided(plain, agree, 0.8), guided(plain, agree, 0.8)
    first = sampled(one)
    sampled(one, 5, frames=4)
    assert torch.equal(sampled(one), first)
    assert torch.equal(sampled(other), first)
    assert dict(plain.config) == dict(scheduler_of(name).config)


def test_what_a_config_keeps_of_another_scheduler_says_nothing():
    """`from_config` copies all, known or not: clip_sample means nothing to DPM-Solver, nor use_flow_sigmas to DDIM."""
    plain = DPMSolverMultistepScheduler.from_config(DDIMScheduler(clip_sample=True).config)
    assert plain.config.clip_sample
    result = sampled(guided(plain, agree, 0.8))
    assert torch.equal(result, sampled(guided(DPMSolverMultistepScheduler(), agree, 0.8)))
    flow = DPMSolverMultistepScheduler(use_flow_sigmas=True).config
    assert guided(DDIMScheduler.from_config(flow, clip_sample=False), agree).prediction == "epsilon"


def test_guiding_anew_takes_the_place_of_the_guidance_before():
    twice = guided(guided(ddim(), must_not_be_called), agree, 0.8)
    assert type(twice).__mro__.count(DDIMScheduler) == 1 and type(twice).__name__ == "GuidedDDIMScheduler"
    assert torch.equal(sampled(twice), sampled(guided(ddim(), agree, 0.8)))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (HeunDiscreteScheduler(), "HeunDiscreteScheduler cannot be guided; these can: DDIMScheduler, DDPMScheduler, "),
        (DDIMScheduler(), "DDIMScheduler cannot be guided with clip_sample: it would change what the frames agreed on. Switch it off"),
        (UniPCMultistepScheduler(thresholding=True), "cannot be guided with thresholding"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "cannot be guided with invert_sigmas"),
        (FlowMatchLCMScheduler(scale_factors=[0.5]), "cannot be guided with scale_factors"),
        (DDPMScheduler(clip_sample=False, variance_type="learned_range"), "a model that predicts its variance"),
        (EulerAncestralDiscreteScheduler(prediction_type="sample"), "prediction_type sample, only with epsilon, v_prediction"),
        (UniPCMultistepScheduler(use_flow_sigmas=True), "prediction_type epsilon, only with flow_prediction"),
        (UniPCMultistepScheduler(prediction_type="flow_prediction"), "flow_prediction, only with epsilon, v_prediction, sample"),
    ],
)
def test_what_cannot_be_guided_is_refused(scheduler, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        guided(scheduler, agree)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w": 1.5}, "the guidance strength w must lie between 0 and 1, not 1.5"),
        ({"w": float("nan")}, "the guidance strength w must lie between 0 and 1, not nan"),
        ({"start": -0.1}, "the start of the guidance must lie between 0 and 1, not -0.1"),
        ({"end": 2.0}, "the end of the guidance must lie between 0 and 1, not 2.0"),
        ({"count": 0}, "at least one step must be guided, not 0; for none there is w = 0"),
        ({"first": -1}, "the first step that is taken must be 0 or later, not -1"),
        ({"hold": "breath"}, "the guidance holds the noise or the sample, not breath"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        guided(ddim(), agree, **options)


def test_pndm_is_guided_at_every_step_or_not_at_all():
    with pytest.raises(BadInput, match="must be guided at every step"):
        guided(PNDMScheduler(), agree, count=2)
    with pytest.raises(BadInput, match="mixes the v_prediction of steps of different noise, which only hold='sample' allows"):
        guided(PNDMScheduler(prediction_type="v_prediction"), agree)


def test_a_schedule_of_w_out_of_range_is_refused():
    scheduler = guided(ddim(), agree, lambda share: 1 + share)
    scheduler.set_timesteps(4)
    with pytest.raises(BadInput, match=r"between 0 and 1, not 1\.25"):
        scheduler.guided_steps()


def test_noise_alone_says_nothing_to_a_model_that_predicts_noise():
    with pytest.raises(BadInput, match="use one that predicts v"):
        sampled(guided(ddim(rescale_betas_zero_snr=True), agree, 0.8), network=lambda x, alpha, sigma: x)


def test_a_sample_that_the_scheduler_moves_first_is_refused():
    scheduler = guided(EulerDiscreteScheduler(), agree)
    scheduler.set_timesteps(4)
    with pytest.raises(BadInput, match="s_churn"):
        scheduler.step(clip(0), scheduler.timesteps[0], clip(1), 0.5)


def test_it_works_unchanged_inside_a_stock_pipeline(tmp_path):
    pipeline = Pipeline.from_pretrained(tiny_models.write(tmp_path / "model"), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    codes = np.zeros((3, 8, 8), np.int32) + np.arange(64).reshape(8, 8)  # nothing moves: every pixel of the latents is one code

    def take(scheduler: Any) -> torch.Tensor:
        pipeline.scheduler = scheduler
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(3, 3, 64, 64, generator=generator)
        return pipeline(["clay"] * 3, image=images, num_inference_steps=4, output_type="latent", generator=generator).images

    for plain in (ddim(), scheduler_of("euler ancestral, epsilon"), scheduler_of("dpm++ sde, epsilon")):
        unguided = take(plain)
        assert torch.equal(take(guided(plain, must_not_be_called, 0.0)), unguided), "the generator, too, is handed on"
        held = take(guided(plain, Harmonizer(codes, 64).global_mean, 1.0))
        assert held.var(dim=0).mean() < 0.5 * unguided.var(dim=0).mean()


def test_the_example_in_the_documentation_works(tmp_path, monkeypatch):
    """Its code, as it stands, on a model in miniature: only the model's name is another, and the pictures are small."""
    page = (Path(__file__).parents[2] / "docs" / "guidance.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    tiny_models.write(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    known: dict[str, Any] = {
        "codes": (np.zeros((3, 64, 64), np.int32) + np.arange(64 * 64).reshape(64, 64)),
        "count": 64 * 64,
        "drawings": torch.from_numpy(generator.random((3, 3, 64, 64), np.float32)),
    }
    exec(compile(code, "docs/guidance.md", "exec"), known)
    assert np.asarray(known["frames"][0]).shape == (64, 64, 3) and len(known["frames"]) == 3
    assert known["pipeline"].scheduler.guided_steps() == [5, 11, 16]

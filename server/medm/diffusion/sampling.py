"""Sampling a clip: the steps from noise to clean latents, all frames in step with each other, the networks a few frames at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medm.correspondence import Codes
from medm.diffusion.agreement import Agreement
from medm.diffusion.guidance import guided
from medm.diffusion.memory import Chunk, in_chunks
from medm.diffusion.models import Conditioning, Model
from medm.diffusion.noise import ClipNoise
from medm.diffusion.preview import Preview
from medm.diffusion.prompts import PromptSchedule
from medm.diffusion.windows import Carry
from medm.errors import BadInput
from medm.harmonize import Harmonizer
from medm.progress import Progress, part, phased, silent
from medm.settings import RenderSettings


@dataclass(frozen=True)
class Clip:
    """What is sampled of a shot: T frames of H x W pixels.

    Attributes:
        codes: its Flow Coding.
        frame_numbers: on Blender's timeline; prompts go by them.
        controls: control images (T, channels, H, W) in 0 to 1, one for each of the model's `controls`; on any device, of any floating type.
        beauty: (T, 3, H, W) uint8, display-referred, for assistive rendering.
        noise: where its noise is drawn; None: by the settings, from these codes.
        carry: what the windows of a shot hand on; None: this is the whole shot.
    """

    codes: Codes
    frame_numbers: Sequence[int]
    controls: Sequence[Tensor]
    beauty: Tensor | None = None
    noise: ClipNoise | None = None
    carry: Carry | None = None


@dataclass
class Sampler:
    """The way from noise to the clean latents of a clip, as the settings say. Deterministic for their seed.

    Attributes:
        model: that paints.
        settings: of the take.
        clip: what is painted.
        harmonizer: of the clip's codes, on the model's device.
        networks: frames that the denoising networks see at once.
        autoencoder: frames that the autoencoder sees at once.
        preview: is shown the middle frame at every step; None: nobody watches.
        guided: indices of the steps that were guided, once sampled.
    """

    model: Model
    settings: RenderSettings
    clip: Clip
    harmonizer: Harmonizer
    networks: Chunk
    autoencoder: Chunk
    preview: Preview | None = None
    guided: list[int] = field(default_factory=list)

    def sample(self, progress: Progress = silent) -> Tensor:
        """Clean latents (T, C, h, w), float32, on the model's device.

        Raises:
            BadInput: the sampler cannot be guided; the model leaves all bounds.
        """
        model, settings = self.model, self.settings
        height, width = self.clip.codes.codes.shape[1:]
        noise = self.clip.noise or clip_noise(model, settings, self.clip.codes)
        plain = model.scheduler()
        model.set_timesteps(plain, model.steps, height, width)
        begin = self._begin(len(plain.timesteps))
        agreement = Agreement(model, self.harmonizer, settings, self.autoencoder, self.clip.carry)
        scheduler = guided(
            plain,
            agreement,
            self._strength(),
            start=settings.w_start,
            end=settings.w_end,
            count=settings.w_steps,
            hold=settings.hold,
            first=begin,
            noise=lambda sample: noise.draw().to(sample.device),
        )
        self.guided = [step for step in scheduler.guided_steps() if step >= begin]
        conditioning = model.embed(PromptSchedule.parse(settings.prompt), self.clip.frame_numbers, settings.negative_prompt)
        latents = self._start(scheduler, noise.draw().to(model.device), begin, part(progress, 0.0, 0.03))
        controls = self._prepared(part(progress, 0.03, 0.05))

        steps = scheduler.timesteps[begin:]
        shares = _shares([1.0 + (begin + place in self.guided) for place in range(len(steps))])
        for place, timestep in enumerate(steps):
            step = part(progress, 0.05 + 0.95 * shares[place], 0.05 + 0.95 * shares[place + 1])
            harmonises = begin + place in self.guided
            agreement.progress = phased(part(step, 0.5, 1.0), f"align frames, step {place + 1} of {len(steps)}")
            output = self._output(
                scheduler, latents, timestep, controls, conditioning, part(step, 0.0, 0.5 if harmonises else 1.0), place, len(steps)
            )
            if self.preview is not None:
                middle = slice(len(latents) // 2, len(latents) // 2 + 1)
                self.preview.look(model, partial(scheduler.clean, output[middle], timestep, latents[middle]))
            latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
            check_finite(latents, model, f"at step {place + 1}")
        return latents

    def _strength(self) -> Callable[[float], float]:
        w, start, end = self.settings.w, self.settings.w_start, max(self.settings.w_end, self.settings.w_start + 1e-9)
        kind = self.settings.w_schedule

        def strength(share: float) -> float:
            through = min(max((share - start) / (end - start), 0.0), 1.0)
            return w * {"constant": 1.0, "falling": 1.0 - 0.5 * through, "rising": 0.5 + 0.5 * through}[kind]

        return strength

    def _begin(self, steps: int) -> int:
        """The index of the first step. SDEdit noises the beauty to `strength` of the schedule, and takes at least one step."""
        if self.settings.mode == "full":
            return 0
        return steps - min(max(round(steps * self.settings.strength), 1), steps)

    def _start(self, scheduler: Any, noise: Tensor, begin: int, progress: Progress) -> Tensor:
        """The samples that the first step is given."""
        if self.settings.mode == "full":
            return noise * getattr(scheduler, "init_noise_sigma", 1.0)  # flow matching starts from plain noise
        beauty = self.clip.beauty
        assert beauty is not None, "assistive rendering needs the beauty"

        def encode(first: int, last: int) -> Tensor:
            return self.model.encode(beauty[first:last].to(self.model.device).float() / 127.5 - 1.0)

        clean = torch.cat(list(in_chunks(encode, len(beauty), self.autoencoder, progress, "encode beauty")))
        return noised(scheduler, clean, noise, begin)

    def _prepared(self, progress: Progress) -> list[Tensor]:
        """The control images as the networks use them, where those make something of them that is worth keeping."""
        controls = list(self.clip.controls)
        if not controls or type(self.model).prepare is Model.prepare:
            return controls

        def prepare(first: int, last: int) -> list[Tensor]:
            return self.model.prepare([control[first:last].to(self.model.device).float() for control in controls])

        parts = list(in_chunks(prepare, len(controls[0]), self.autoencoder, progress, "encode control images"))
        return [torch.cat(of_one) for of_one in zip(*parts, strict=True)]

    def _output(
        self,
        scheduler: Any,
        latents: Tensor,
        timestep: Tensor,
        controls: Sequence[Tensor],
        conditioning: Conditioning,
        progress: Progress,
        place: int,
        steps: int,
    ) -> Tensor:
        """What the networks say of all frames."""
        scaled = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents

        def predict(first: int, last: int) -> Tensor:
            shown = [control[first:last] for control in controls]
            return self.model.predict(scaled[first:last], timestep, shown, conditioning[first:last], self.model.guidance_scale)

        compiles = place == 0 and self.settings.compile and (self.clip.carry is None or self.clip.carry.at_first)
        phase = "compile" if compiles else f"paint, step {place + 1} of {steps}"
        return torch.cat(list(in_chunks(predict, len(latents), self.networks, progress, phase)))


def clip_noise(model: Model, settings: RenderSettings, codes: Codes, frames: range | None = None) -> ClipNoise:
    """The noise of a shot, or of some of its frames, as the settings say. `codes`: of the whole shot."""
    return ClipNoise(settings.noise, codes, model.latent_channels, model.latent_scale, settings.seed, frames)


def noised(scheduler: Any, clean: Tensor, noise: Tensor, begin: int) -> Tensor:
    """Clean latents with the noise that a scheduler expects before its step `begin`; it is told that it begins there."""
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    timestep = scheduler.timesteps[begin : begin + 1].expand(len(clean))
    if hasattr(scheduler, "scale_noise"):
        return torch.as_tensor(scheduler.scale_noise(clean, timestep, noise))
    return torch.as_tensor(scheduler.add_noise(clean, noise, timestep))


def check_finite(values: Tensor, model: Model, when: str) -> None:
    """Raises BadInput where half precision overflowed, as with some autoencoders: better a refusal than black frames."""
    if not values.isfinite().all():
        raise BadInput(f"the model in {model.preset.folder} painted no picture: values beyond all bounds {when}")


def _shares(weights: Sequence[float]) -> list[float]:
    """How far one is before each of these pieces of work, and after the last: from 0 to 1."""
    total, done = sum(weights), 0.0
    shares = [0.0]
    for weight in weights:
        done += weight
        shares.append(done / total)
    return shares

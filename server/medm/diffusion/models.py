"""Models: the one face that painting sees of any of them, and the one way in which they are loaded. Nothing is ever fetched.

What the face hides stands in `medm.diffusion.families`, one module a family. All weights come from .safetensors files.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from torch.compiler import reset as forget_compiled
from transformers.utils import logging as transformers_logging

from medm.diffusion.prompts import PromptSchedule
from medm.errors import BadInput, MedmError
from medm.presets import Preset, preset_of
from medm.settings import RenderSettings
from medm.weights import digest

if TYPE_CHECKING:
    from PIL import Image

_UNLOADABLE = (
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, SafetensorError, StrictDataclassError
)  # fmt: skip
"""What the libraries raise at a folder that is wrong, each in its own way."""

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_SAMPLERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-ancestral": EulerAncestralDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "lcm": LCMScheduler,
}

_FLOW_SAMPLERS: dict[str, Any] = {
    "flow-euler": FlowMatchEulerDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "lcm": FlowMatchLCMScheduler,
}


@dataclass(frozen=True)
class ControlInput:
    """What one ControlNet is to be given: images of `kinds` side by side make up `channels`; its outputs count `weight` times."""

    kinds: tuple[str, ...]
    channels: int
    weight: float


class Conditioning(ABC):
    """What the prompts mean to a model's networks, for T frames. `conditioning[first:last]` is that of a chunk of them."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, frames: slice) -> Self: ...


@dataclass
class Model(ABC):
    """A loaded model, ready to denoise batches of frames. Latents are float32, on `device`, scaled to about unit variance.

    Attributes:
        preset: what it was loaded from, with its licence.
        settings: what it was loaded for.
        device: of all networks and results.
        dtype: of the networks that denoise; the autoencoder may have another (see `vae_dtype`).
        controls: the control images that `predict` wants, in this order; none: it paints by the prompt alone.
        pipeline: diffusers' pipeline that holds its parts.
        tiny: a small autoencoder for the same latents, if it has one.
        files: everything that was read, for `describe`.
    """

    preset: Preset
    settings: RenderSettings
    device: torch.device
    dtype: torch.dtype
    controls: tuple[ControlInput, ...]
    pipeline: Any  # diffusers' pipelines declare none of their parts
    tiny: Any
    files: tuple[Path, ...]

    flow: ClassVar[bool] = False
    """Whether it predicts a flow between noise and picture, and so is sampled by flow matching."""

    @staticmethod
    def load(settings: RenderSettings, models: Path | None = None, reference: Image.Image | None = None) -> Model:
        """The model that the settings mean, with the ControlNets, LoRA, textual inversions and IP-Adapter that they ask for.

        Args:
            settings: of the take.
            models: the folder of models, a server's; None: the user's own (see `medm.presets.preset_of`).
            reference: the picture whose look is followed, if any.

        Raises:
            Unavailable: a model, ControlNet or adapter is not there.
            BadInput: something of it cannot be loaded, or does not belong together.
        """
        from medm.diffusion.families import FAMILIES  # they import this module

        preset = preset_of(settings.model, models)
        preset.check()
        diffusers_logging.set_verbosity(logging.CRITICAL)  # what it has to say of an error is raised too
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        family = FAMILIES[preset.family]
        device = best_device()
        dtype = family.precision(device) if settings.precision == "auto" else _PRECISIONS[settings.precision]
        if settings.compile:
            # what was compiled for an earlier take in this process is of no use to these networks, and counts towards a limit
            forget_compiled()
        try:
            return family.open(preset, settings, device, dtype, models, reference)
        except MedmError:
            raise
        except _UNLOADABLE as error:
            raise unloadable(preset.folder, error) from error

    @classmethod
    @abstractmethod
    def open(
        cls,
        preset: Preset,
        settings: RenderSettings,
        device: torch.device,
        dtype: torch.dtype,
        models: Path | None,
        reference: Image.Image | None,
    ) -> Model:
        """Loads a model of this family; `load` has checked that the preset is there."""

    @staticmethod
    def precision(device: torch.device) -> torch.dtype:
        """What `auto` means: half precision on a GPU, single on a CPU."""
        return torch.float32 if device.type == "cpu" else torch.float16

    @property
    @abstractmethod
    def network(self) -> Any:
        """The network that denoises."""

    @property
    def vae_dtype(self) -> torch.dtype:
        """Of the full autoencoder."""
        return next(self.pipeline.vae.parameters()).dtype  # type: ignore[no-any-return]

    @property
    def latent_scale(self) -> int:
        """Pixels a side of a latent cell."""
        return int(self.pipeline.vae_scale_factor)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.network.config.in_channels)

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this many pixels."""
        return self.latent_scale

    @property
    def steps(self) -> int:
        """The settings', else the preset's."""
        return self.settings.steps or self.preset.steps

    @property
    def guidance_scale(self) -> float:
        """The settings', else the preset's. 1: the negative prompt plays no part."""
        return self.preset.guidance_scale if self.settings.guidance_scale is None else self.settings.guidance_scale

    @property
    def sampler(self) -> str:
        """The settings', else the preset's."""
        return self.settings.sampler or self.preset.sampler

    def scheduler(self) -> Any:
        """A fresh diffusers scheduler of the sampler over the model's own noise schedule.

        Latents are never clipped: a config that was written for another sampler says nothing of it, and by default they would be at 1.

        Raises:
            BadInput: the model cannot be sampled so.
        """
        samplers = _FLOW_SAMPLERS if self.flow else _SAMPLERS
        if self.sampler not in samplers:
            raise BadInput(f"{self.preset.name} is sampled with {', '.join(samplers)}, not with {self.sampler}")
        kind = samplers[self.sampler]
        config = dict(self.pipeline.scheduler.config)
        changes: dict[str, Any] = {}
        if self.flow and kind in (DPMSolverMultistepScheduler, UniPCMultistepScheduler):
            changes = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "thresholding": False}
            changes["flow_shift"] = config.get("shift", 1.0)
        elif not self.flow:
            changes = {"clip_sample": False, "thresholding": False}
        if self.preset.spacing is not None:
            changes["timestep_spacing"] = self.preset.spacing
        return kind.from_config(config, **changes)

    def check_steps(self, steps: int) -> None:
        """Raises BadInput where the noise schedule has not as many levels as a take is to have steps."""
        config = self.scheduler().config
        levels = int(config.num_train_timesteps)
        distilled = config.get("original_inference_steps", levels)  # of latent consistency
        if steps > distilled:
            raise BadInput(f"{steps} steps are too many for the sampler {self.sampler}, which takes {distilled} at most; 4 to 8 are usual")
        if steps >= levels:
            raise BadInput(f"{steps} steps are too many for this model, whose noise has {levels} levels; use fewer")

    def set_timesteps(self, scheduler: Any, steps: int, height: int, width: int) -> None:
        """Sets up `scheduler` for `steps` steps over frames of so many pixels."""
        self.check_steps(steps)
        scheduler.set_timesteps(steps, device=self.device)

    @abstractmethod
    def embed(self, prompts: PromptSchedule, frame_numbers: Sequence[int], negative: str) -> Conditioning:
        """What the prompts mean for these frames. Every distinct prompt is encoded once."""

    @contextmanager
    def _text_encoders(self) -> Iterator[None]:
        """Within it the text encoders are on the device. They are used once, and may be larger than the network that paints."""
        encoders = [getattr(self.pipeline, name, None) for name in ("text_encoder", "text_encoder_2")]
        present = [encoder for encoder in encoders if encoder is not None]
        for encoder in present:
            encoder.to(self.device)
        try:
            yield
        finally:
            for encoder in present:
                encoder.to("cpu")

    def prepare(self, controls: Sequence[Tensor]) -> list[Tensor]:
        """Control images, (N, channels, H, W) in 0 to 1, as `predict` uses them at every step: worth keeping from step to step.

        `predict` takes the images themselves too. Here they stay what they are; a family may encode them.
        """
        return list(controls)

    @abstractmethod
    def predict(
        self, latents: Tensor, timestep: Tensor, controls: Sequence[Tensor], conditioning: Conditioning, guidance_scale: float
    ) -> Tensor:
        """The model output, float32 (N, C, h, w), for the scheduler's `step`.

        Args:
            latents: (N, C, h, w), through `scheduler.scale_model_input` already.
            timestep: the scheduler's.
            controls: one (N, channels, H, W) in 0 to 1 for each of `self.controls`, or what `prepare` made of them.
            conditioning: of these N frames.
            guidance_scale: classifier-free guidance, >= 1; 1 asks the network once instead of twice.
        """

    @torch.no_grad()
    def encode(self, frames: Tensor, tiny: bool = False) -> Tensor:
        """Scaled latents of frames in -1 to 1, (N, 3, H, W) -> (N, C, h, w). A Gaussian encoder gives its mean: no chance."""
        vae, dtype = self._autoencoder(tiny)
        encoded = vae.encode(frames.to(self.device, dtype, memory_format=torch.channels_last))
        latents = encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mode()
        shift, scale = _normalisation(vae)
        return (torch.as_tensor(latents, dtype=torch.float32) - shift) * scale

    @torch.no_grad()
    def decode(self, latents: Tensor, tiny: bool = False) -> Tensor:
        """Frames in -1 to 1 of scaled latents; the inverse of `encode` within the autoencoder's loss."""
        vae, dtype = self._autoencoder(tiny)
        shift, scale = _normalisation(vae)
        latents = latents.to(self.device, torch.float32) / scale + shift
        frames = vae.decode(latents.to(dtype, memory_format=torch.channels_last)).sample
        return torch.as_tensor(frames, dtype=torch.float32).clamp(-1.0, 1.0)

    @property
    def has_tiny(self) -> bool:
        """Whether a small autoencoder for the steps in between is there."""
        return self.tiny is not None

    def _autoencoder(self, tiny: bool) -> tuple[Any, torch.dtype]:
        return (self.tiny, self.dtype) if tiny and self.tiny is not None else (self.pipeline.vae, self.vae_dtype)

    def describe(self) -> dict[str, Any]:
        """What take.json says of it, enough to repeat the take: names, licence, defaults in use and a digest of every file read."""
        scheduler = self.scheduler()
        return {
            "name": self.preset.name,
            "family": self.preset.family,
            "licence": self.preset.licence,
            "control": [{"kinds": list(control.kinds), "weight": control.weight} for control in self.controls],
            "sampler": self.sampler,
            "scheduler": type(scheduler).__name__,
            "prediction": "flow_prediction" if self.flow else scheduler.config.prediction_type,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "precision": str(self.dtype).removeprefix("torch."),
            "autoencoder_precision": str(self.vae_dtype).removeprefix("torch."),
            "tiny_autoencoder": self.has_tiny,
            "digest": digest(self.files, self.preset.folder),
        }


def best_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def unloadable(path: Path, error: BaseException) -> BadInput:
    """The one line that stands for whatever a library said about the model at `path`."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return BadInput(f"the model in {path} cannot be loaded: {lines[0]}")


def read_files(folder: Path) -> list[Path]:
    """The files in a part's folder that loading it reads, or may read."""
    return [file for file in sorted(folder.glob("*")) if file.suffix in (".json", ".safetensors", ".txt")]


def _normalisation(vae: Any) -> tuple[Tensor | float, Tensor | float]:
    """(shift, scale) of an autoencoder: scaled latents are (latents - shift) * scale."""
    config = vae.config
    mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and deviation is not None:
        device = next(vae.parameters()).device
        shift, spread = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, deviation))
        return shift, config.scaling_factor / spread
    return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor

"""Models: what there is, and the one way in which any of them is loaded, the bundled one included. Nothing is ever fetched.

A model is a diffusers folder that holds a Stable Diffusion ControlNet pipeline: tokenizer, text_encoder, unet, controlnet, vae and
scheduler, weights as safetensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionControlNetPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers.utils import logging as transformers_logging

from medm.errors import BadInput
from medm.presets import Preset, preset_of

_UNLOADABLE = (
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, SafetensorError, StrictDataclassError
)  # fmt: skip
"""What the libraries raise at a folder that is wrong, each in its own way."""


@dataclass
class Model:
    """A loaded model, ready to denoise batches of frames. All tensors on `device`; latents are scaled to unit variance."""

    preset: Preset
    pipeline: Any  # diffusers' pipelines declare none of their parts
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def load(cls, name: str, models: Path | None = None) -> Model:
        """The model that `name` means: `bundled`, or a diffusers folder (see `medm.presets.preset_of`).

        Raises:
            Unavailable: there is no such folder.
            BadInput: the folder is not a Stable Diffusion ControlNet pipeline, or its parts do not belong together.
        """
        preset = preset_of(name, models)
        preset.check()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        diffusers_logging.set_verbosity_error()
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            pipeline: Any = StableDiffusionControlNetPipeline.from_pretrained(  # type: ignore[no-untyped-call]
                preset.folder, dtype=dtype, local_files_only=True, use_safetensors=True, safety_checker=None
            )
        except _UNLOADABLE as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise BadInput(f"the model in {preset.folder} cannot be loaded: {lines[0]}") from error
        complaint = _mismatch(pipeline)
        if complaint:
            raise BadInput(f"the model in {preset.folder} cannot paint: {complaint}")
        pipeline.to(device)
        for part in (pipeline.unet, pipeline.controlnet, pipeline.vae):
            part.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        return cls(preset, pipeline, device, dtype)

    @property
    def latent_scale(self) -> int:
        """Pixels a side of a latent cell."""
        return int(self.pipeline.vae_scale_factor)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.pipeline.unet.config.in_channels)

    @property
    def control_channels(self) -> int:
        """Channels of the control image."""
        return int(self.pipeline.controlnet.config.conditioning_channels)

    def scheduler(self) -> Any:
        """DDIM over the model's own noise schedule, as the paper samples."""
        return _ddim(self.pipeline)

    def check_steps(self, steps: int) -> None:
        """Raises BadInput where the noise schedule has not as many levels as a take is to have steps."""
        levels = int(self.scheduler().config.num_train_timesteps)
        if steps >= levels:
            raise BadInput(f"{steps} steps are too many for this model, whose noise has {levels} levels; use fewer")

    @torch.no_grad()
    def embed(self, prompt: str, negative: str) -> tuple[Tensor, Tensor]:
        """Embeddings of the prompt and of the negative prompt, (1, tokens, features) each."""
        positive, negative_embedding = self.pipeline.encode_prompt(
            prompt, self.device, num_images_per_prompt=1, do_classifier_free_guidance=True, negative_prompt=negative
        )
        return positive, negative_embedding

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Scaled latents of frames in -1 to 1, (N, 3, H, W) -> (N, C, h, w). A Gaussian encoder gives its mean: no chance."""
        vae = self.pipeline.vae
        frames = frames.to(self.device, self.dtype, memory_format=torch.channels_last)
        encoded = vae.encode(frames)
        latents = encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mode()
        return torch.as_tensor(latents * vae.config.scaling_factor, dtype=torch.float32)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Frames in -1 to 1 of scaled latents; the inverse of `encode` within the autoencoder's loss."""
        vae = self.pipeline.vae
        latents = (latents / vae.config.scaling_factor).to(self.device, self.dtype, memory_format=torch.channels_last)
        return torch.as_tensor(vae.decode(latents).sample, dtype=torch.float32).clamp(-1.0, 1.0)

    @torch.no_grad()
    def predict(self, latents: Tensor, timestep: Tensor, control: Tensor, prompt: Tensor, negative: Tensor, scale: float) -> Tensor:
        """The model output for noisy latents (N, C, h, w) under control images (N, K, H, W); `scale` 1 asks the network just once."""
        x = latents.to(self.device, self.dtype)
        control = control.to(self.device, self.dtype)
        embeddings = prompt.expand(len(x), -1, -1)
        if scale != 1.0:
            x, control = torch.cat([x, x]), torch.cat([control, control])
            embeddings = torch.cat([negative.expand(len(embeddings), -1, -1), embeddings])
        x = x.contiguous(memory_format=torch.channels_last)
        down, mid = self.pipeline.controlnet(x, timestep, embeddings, controlnet_cond=control, return_dict=False)
        output = torch.as_tensor(
            self.pipeline.unet(x, timestep, embeddings, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample,
            dtype=torch.float32,
        )
        if scale == 1.0:
            return output
        unprompted, prompted = output.chunk(2)
        return unprompted + scale * (prompted - unprompted)


def _ddim(pipeline: Any) -> Any:
    # a config that was written for another sampler says nothing of clipping, and DDIM's own default would cut latents off at 1
    return DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)  # type: ignore[no-untyped-call]


def _mismatch(pipeline: Any) -> str | None:
    """Why the parts of a pipeline that could be loaded cannot paint together; None if they can."""
    unet, controlnet, vae = pipeline.unet.config, pipeline.controlnet.config, pipeline.vae.config
    if not unet.in_channels == unet.out_channels == controlnet.in_channels == vae.latent_channels:
        return f"unet, controlnet and vae make latents of {unet.in_channels}, {controlnet.in_channels} and {vae.latent_channels} channels"
    if unet.cross_attention_dim != controlnet.cross_attention_dim:
        return (
            f"unet and controlnet were made for different text encoders ({unet.cross_attention_dim} and {controlnet.cross_attention_dim})"
        )
    scheduler = _ddim(pipeline)
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction", "sample"):
        return f"it predicts {scheduler.config.prediction_type}, which is unknown here"
    if scheduler.config.prediction_type == "epsilon" and float(scheduler.alphas_cumprod[-1]) == 0.0:
        return "its scheduler starts from noise alone (rescale_betas_zero_snr), of which a model that predicts noise learns nothing"
    return None

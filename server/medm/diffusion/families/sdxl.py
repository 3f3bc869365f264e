"""Stable Diffusion XL: two text encoders, a pooled embedding, the picture's size as an input; a union ControlNet or plain ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLControlNetPipeline

from medm.diffusion.families.stable_diffusion import StableDiffusion, UNetConditioning
from medm.diffusion.prompts import PromptSchedule


@dataclass
class StableDiffusionXL(StableDiffusion):
    """See `Model` and `StableDiffusion`."""

    PIPELINE: ClassVar[Any] = StableDiffusionXLControlNetPipeline

    @staticmethod
    def _left_out() -> dict[str, Any]:
        return {"controlnet": None, "feature_extractor": None, "image_encoder": None, "add_watermarker": False}

    def _to_device(self) -> None:
        # the autoencoder that SDXL came with leaves the range of half precision; which one a single file holds is not said
        if self.dtype == torch.float16 and (self.pipeline.vae.config.force_upcast or self.preset.folder.is_file()):
            self.pipeline.vae.to(torch.float32)
        super()._to_device()

    @torch.no_grad()
    def embed(self, prompts: PromptSchedule, frame_numbers: Sequence[int], negative: str) -> UNetConditioning:
        """See `Model.embed`. No negative prompt is, where the model wants it so, an embedding of zeros."""
        texts, weights = self._texts(prompts, frame_numbers)
        with self._text_encoders():
            encoded, unwanted, pooled, unwanted_pooled = self.pipeline.encode_prompt(
                texts, device=self.device, negative_prompt=[negative] * len(texts) if negative else None
            )
        return UNetConditioning(encoded, unwanted[:1], weights, pooled, unwanted_pooled[:1])

    def _added(self, conditioning: UNetConditioning, guided: bool, height: int, width: int) -> dict[str, Any]:
        # as if the picture had been that large when the model was trained, and nothing of it cropped
        pooled = conditioning.summaries(guided).to(self.dtype)
        size = torch.tensor([height, width, 0, 0, height, width], device=self.device, dtype=self.dtype)
        return {"text_embeds": pooled, "time_ids": size.expand(len(pooled), -1)}

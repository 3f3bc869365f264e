"""Stable Diffusion 1.5 and 2.x, and what is built like them (the bundled model): a UNet with none, one or several ControlNets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from diffusers import StableDiffusionControlNetPipeline
from torch import Tensor

from medm.diffusion.families.adapters import add_embeddings, add_loras, add_reference
from medm.diffusion.families.controlnets import ControlNet, open_controlnets, prepare_network, tiny_autoencoder
from medm.diffusion.models import Conditioning, Model, read_files
from medm.diffusion.prompts import PromptSchedule
from medm.errors import BadInput, Unavailable
from medm.presets import FAMILIES, Preset, preset_of
from medm.settings import RenderSettings

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class UNetConditioning(Conditioning):
    """Embeddings of the K distinct prompts and how much each counts in each of the T frames.

    `prompts`: (K, tokens, features); `pooled`: (K, features), of SDXL. `negative`, `negative_pooled`: the same of one negative prompt.
    `weights`: (T, K).
    """

    prompts: Tensor
    negative: Tensor
    weights: Tensor
    pooled: Tensor | None = None
    negative_pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, frames: slice) -> Self:
        return type(self)(self.prompts, self.negative, self.weights[frames], self.pooled, self.negative_pooled)

    def tokens(self, guided: bool) -> Tensor:
        """(N, tokens, features) of the N frames; guided, (2 N, ...), those of the negative prompt first."""
        return self._blended(self.prompts, self.negative, guided)

    def summaries(self, guided: bool) -> Tensor:
        """The same of the pooled embeddings."""
        assert self.pooled is not None and self.negative_pooled is not None
        return self._blended(self.pooled, self.negative_pooled, guided)

    def _blended(self, prompts: Tensor, negative: Tensor, guided: bool) -> Tensor:
        if len(prompts) == 1:
            blended = prompts.expand(len(self), *prompts.shape[1:])
        else:
            blended = torch.einsum("tk,k...->t...", self.weights, prompts.float()).to(prompts.dtype)
        return torch.cat([negative.expand_as(blended), blended]) if guided else blended


@dataclass
class StableDiffusion(Model):
    """See `Model`. `controlnets` are asked in turn and their outputs added up; `reference`: embeddings of the reference picture."""

    controlnets: tuple[ControlNet, ...] = ()
    reference: tuple[Tensor, Tensor] | None = None

    # whether there are ControlNets or not: the plain pipeline rewrites the scheduler's config to what it takes for right
    PIPELINE: ClassVar[Any] = StableDiffusionControlNetPipeline

    @classmethod
    def open(
        cls,
        preset: Preset,
        settings: RenderSettings,
        device: torch.device,
        dtype: torch.dtype,
        models: Path | None,
        reference: Image.Image | None,
    ) -> StableDiffusion:
        """See `Model.open`."""
        pipeline, files = cls._pipeline(preset, dtype, models)
        controlnets, controls, more = open_controlnets(preset, settings, dtype, models)
        complaint = cls._mismatch(pipeline, controlnets)
        if complaint:
            raise BadInput(f"the model in {preset.folder} cannot paint: {complaint}")
        tiny, its_files = tiny_autoencoder(preset, dtype)
        files = [*files, *more, *its_files]
        files += add_loras(pipeline, preset, settings, models)
        files += add_embeddings(pipeline, settings, models)
        picture = None
        if reference is not None:
            picture, its_files = add_reference(pipeline, preset, settings, reference, models)
            files += its_files
        model = cls(preset, settings, device, dtype, controls, pipeline, tiny, tuple(files), controlnets=controlnets, reference=picture)
        model._to_device()
        model.scheduler()  # refuses a sampler that is not the family's before time is spent
        return model

    @classmethod
    def _pipeline(cls, preset: Preset, dtype: torch.dtype, models: Path | None) -> tuple[Any, list[Path]]:
        """The pipeline without ControlNets, and the files that it was read from."""
        if preset.folder.is_file():
            return cls._from_file(preset, dtype, models)
        pipeline = cls.PIPELINE.from_pretrained(preset.folder, dtype=dtype, local_files_only=True, use_safetensors=True, **cls._left_out())
        return pipeline, [file for part in FAMILIES[preset.family].parts for file in read_files(preset.folder / part)]

    @classmethod
    def _from_file(cls, preset: Preset, dtype: torch.dtype, models: Path | None) -> tuple[Any, list[Path]]:
        """A single-file checkpoint holds all weights; what they are parts of, and the tokenizers, come from the family's preset."""
        companion = preset_of(FAMILIES[preset.family].companion, models)
        parts = [companion.folder / part for part in FAMILIES[preset.family].parts]
        if not (companion.folder / "model_index.json").is_file() or not all(part.is_dir() for part in parts):
            raise Unavailable(
                f"{preset.folder.name} holds weights alone; its configs and tokenizer come with {companion.name}: "
                f"`medm models pull {companion.name}`"
            )
        pipeline = cls.PIPELINE.from_single_file(
            str(preset.folder), config=str(companion.folder), dtype=dtype, local_files_only=True, **cls._left_out()
        )
        small = [file for part in parts for file in read_files(part) if file.suffix != ".safetensors"]
        return pipeline, [preset.folder, *small]

    @staticmethod
    def _left_out() -> dict[str, Any]:
        """Parts of the pipeline that are not loaded with it, whatever the folder holds."""
        return {"controlnet": None, "safety_checker": None, "feature_extractor": None, "image_encoder": None}

    @classmethod
    def _mismatch(cls, pipeline: Any, controlnets: Sequence[ControlNet]) -> str | None:
        """Why the parts that could be loaded cannot paint together; None if they can."""
        unet, vae = pipeline.unet.config, pipeline.vae.config
        if not unet.in_channels == unet.out_channels == vae.latent_channels:
            return f"unet and vae make latents of {unet.in_channels} and {vae.latent_channels} channels"
        for one in controlnets:
            config = one.network.config
            if config.in_channels != unet.in_channels:
                return f"unet and controlnet make latents of {unet.in_channels} and {config.in_channels} channels"
            if config.cross_attention_dim != unet.cross_attention_dim:
                return (
                    "unet and controlnet were made for different text encoders "
                    f"({unet.cross_attention_dim} and {config.cross_attention_dim})"
                )
        scheduler = pipeline.scheduler.config
        prediction = scheduler.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction", "sample"):
            return f"it predicts {prediction}, which is unknown here"
        if prediction == "epsilon" and scheduler.get("rescale_betas_zero_snr"):
            return "its scheduler starts from noise alone (rescale_betas_zero_snr), of which a model that predicts noise learns nothing"
        return None

    def _to_device(self) -> None:
        networks = [self.pipeline.unet, self.pipeline.vae, self.tiny, *(one.network for one in self.controlnets)]
        for network in filter(None, networks):
            network.to(self.device)
            prepare_network(network, self.settings.compile and network is not self.pipeline.vae and network is not self.tiny)

    @property
    def network(self) -> Any:
        """The UNet."""
        return self.pipeline.unet

    @torch.no_grad()
    def embed(self, prompts: PromptSchedule, frame_numbers: Sequence[int], negative: str) -> UNetConditioning:
        """See `Model.embed`. In guess mode the prompts are empty."""
        texts, weights = self._texts(prompts, frame_numbers)
        with self._text_encoders():
            encoded, _ = self.pipeline.encode_prompt(texts, self.device, 1, False)
            unwanted, _ = self.pipeline.encode_prompt([negative], self.device, 1, False)
        return UNetConditioning(encoded, unwanted, weights)

    def _texts(self, prompts: PromptSchedule, frame_numbers: Sequence[int]) -> tuple[list[str], Tensor]:
        if self.settings.guess:
            return [""], torch.ones(len(frame_numbers), 1, device=self.device)
        return list(prompts.prompts), torch.from_numpy(prompts.weights(frame_numbers)).to(self.device)

    @torch.no_grad()
    def predict(
        self, latents: Tensor, timestep: Tensor, controls: Sequence[Tensor], conditioning: Conditioning, guidance_scale: float
    ) -> Tensor:
        """See `Model.predict`. In guess mode only the prompted half of a guided batch sees the control images."""
        assert isinstance(conditioning, UNetConditioning)
        # a UNet that was distilled with a guidance scale (latent consistency) takes it as an input, and is asked once
        embedded_scale = self.network.config.time_cond_proj_dim is not None
        guided = guidance_scale != 1.0 and not embedded_scale
        x = latents.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)
        tokens = conditioning.tokens(guided).to(self.dtype)
        height, width = (side * self.latent_scale for side in latents.shape[-2:])
        added = self._added(conditioning, guided, height, width)
        images = [control.to(self.device, self.dtype) for control in controls]
        if guided:
            x = torch.cat([x, x])
        down, mid = self._controlled(x, timestep, tokens, images, added, guided)
        if self.reference is not None:
            unseen, seen = (one.to(self.device, self.dtype) for one in self.reference)
            pictures = [unseen, seen] if guided else [seen]
            added["image_embeds"] = [torch.cat([one.expand(len(latents), *one.shape[1:]) for one in pictures])]
        output = self.network(
            x,
            timestep,
            tokens,
            timestep_cond=self._scale_embedding(guidance_scale, len(x)) if embedded_scale else None,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            added_cond_kwargs=added,
            return_dict=False,
        )[0].float()
        if not guided:
            return torch.as_tensor(output)
        unprompted, prompted = output.chunk(2)
        return torch.as_tensor(unprompted + guidance_scale * (prompted - unprompted))

    def _added(self, conditioning: UNetConditioning, guided: bool, height: int, width: int) -> dict[str, Any]:
        """What else the networks are told beside the prompt, for frames of so many pixels."""
        return {}

    def _controlled(
        self, x: Tensor, timestep: Tensor, tokens: Tensor, images: Sequence[Tensor], added: dict[str, Any], guided: bool
    ) -> tuple[list[Tensor] | None, Tensor | None]:
        """The sum of what the ControlNets add to the UNet's blocks on the way down and in the middle."""
        half = guided and self.settings.guess
        if half:
            x, tokens = x.chunk(2)[1], tokens.chunk(2)[1]
            added = {name: value.chunk(2)[1] for name, value in added.items()}
        down: list[Tensor] | None = None
        mid: Tensor | None = None
        for one in self.controlnets:
            its = [images[index] for index in one.inputs]
            if guided and not half:
                its = [torch.cat([image, image]) for image in its]
            weights = [self.controls[index].weight for index in one.inputs]
            if not any(weights):
                continue
            more, middle = one(x, timestep, tokens, its, weights, added, self.settings.guess)
            down = list(more) if down is None else [a + b for a, b in zip(down, more, strict=True)]
            mid = middle if mid is None else mid + middle
        if half and down is not None and mid is not None:
            down = [torch.cat([torch.zeros_like(one), one]) for one in down]
            mid = torch.cat([torch.zeros_like(mid), mid])
        return down, mid

    def _scale_embedding(self, guidance_scale: float, batch: int) -> Tensor:
        scale = torch.tensor(guidance_scale - 1.0).repeat(batch)
        embedded = self.pipeline.get_guidance_scale_embedding(scale, embedding_dim=self.network.config.time_cond_proj_dim)
        return torch.as_tensor(embedded.to(self.device, self.dtype))

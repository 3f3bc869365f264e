"""Z-Image (Turbo): a transformer that predicts a flow, with Qwen3 for a text encoder and a union ControlNet that sees encoded images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler, ZImageControlNetModel, ZImagePipeline
from safetensors.torch import load_file
from torch import Tensor

from medm.diffusion.families.adapters import add_loras
from medm.diffusion.families.controlnets import control_folder, tiny_autoencoder
from medm.diffusion.models import Conditioning, ControlInput, Model, read_files
from medm.diffusion.prompts import PromptSchedule
from medm.errors import BadInput
from medm.presets import FAMILIES, Preset, parse_control
from medm.settings import RenderSettings
from medm.weights import tensors_of

if TYPE_CHECKING:
    from PIL import Image

KINDS = ("canny", "lineart", "softedge", "depth")
"""Control images that its union ControlNet was trained on, or takes for them, and that are made here (Canny, HED, depth)."""


_FLOW_MATCHING: tuple[Any, ...] = (FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler)


@dataclass(frozen=True)
class TextConditioning(Conditioning):
    """Embeddings of the K distinct prompts, (tokens, features) each with as many tokens as it has, and their weights (T, K)."""

    prompts: tuple[Tensor, ...]
    negative: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, frames: slice) -> Self:
        return type(self)(self.prompts, self.negative, self.weights[frames])

    def of_frames(self) -> list[Tensor]:
        """One (tokens, features) a frame: blended where the frame's prompts have equally many tokens, else the one that counts most."""
        blended = []
        for weights in self.weights:
            used = [(weight, prompt) for weight, prompt in zip(weights.tolist(), self.prompts, strict=True) if weight > 0.0]
            if len({len(prompt) for _, prompt in used}) > 1:
                used = [(1.0, max(used, key=lambda one: one[0])[1])]
            # one that counts wholly is left as it is, bit for bit
            blended.append(used[0][1] if len(used) == 1 else sum(weight * prompt.float() for weight, prompt in used).to(used[0][1].dtype))
        return blended


def controlnet_config(tensors: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The config of the ControlNet that has these tensors (see `medm.weights.tensors_of`), for a transformer of so many layers.

    As in its makers' configs, its blocks add to evenly spaced layers, and the two of the noise refiner to the transformer's two.
    """
    blocks = len({name.split(".")[1] for name in tensors if name.startswith("control_layers.")})
    dim, patch = tensors["control_all_x_embedder.2-1.weight"]["shape"]
    head = tensors["control_layers.0.attention.norm_q.weight"]["shape"][0]
    refines = "control_noise_refiner.0.after_proj.weight" in tensors  # from version 2.1; the first has plain blocks there
    return {
        "control_layers_places": list(range(0, layers, layers // blocks)),
        "control_refiner_layers_places": [0, 1] if refines else None,
        "control_in_dim": patch // 4,
        "add_control_noise_refiner": "control_noise_refiner" if refines else None,
        "dim": dim,
        "n_heads": dim // head,
        "n_kv_heads": tensors["control_layers.0.attention.to_k.weight"]["shape"][0] // head,
    }


@dataclass
class ZImage(Model):
    """See `Model`. `controlnet` is asked once for every control image."""

    controlnet: Any = None

    flow: ClassVar[bool] = True
    PIPELINE: ClassVar[Any] = ZImagePipeline
    CONTROLNET: ClassVar[Any] = ZImageControlNetModel

    @classmethod
    def open(
        cls,
        preset: Preset,
        settings: RenderSettings,
        device: torch.device,
        dtype: torch.dtype,
        models: Path | None,
        reference: Image.Image | None,
    ) -> ZImage:
        """See `Model.open`."""
        if settings.guess:
            raise BadInput(f"guess mode is for models with ControlNets of Stable Diffusion; {preset.name} needs a prompt")
        if reference is not None:
            raise BadInput(
                f"{preset.name} has no IP-Adapter, so it cannot follow a reference picture; a LoRA or the prompt can say its look"
            )
        if settings.embeddings:
            raise BadInput(f"{preset.name} knows no textual inversions; a LoRA can teach it a look")
        if preset.folder.is_file():
            raise BadInput(f"{preset.folder.name} holds one network of a {preset.family} model; give its diffusers folder")
        pipeline = cls.PIPELINE.from_pretrained(preset.folder, dtype=dtype, local_files_only=True, use_safetensors=True)
        files = [file for part in FAMILIES[preset.family].parts for file in read_files(preset.folder / part)]
        controls, controlnet = [], None
        for request in parse_control(preset.control if settings.control is None else settings.control):
            if request.name not in KINDS:
                raise BadInput(f"the model's union ControlNet takes {', '.join(KINDS)}, not {request.name}")
            controls.append(ControlInput(request.kinds, 3, request.weight))
            if controlnet is None:
                folder = control_folder(request, preset, models)
                controlnet = cls._controlnet(folder, pipeline.transformer)
                files += read_files(folder)
        tiny, its_files = tiny_autoencoder(preset, dtype)
        files += its_files
        files += add_loras(pipeline, preset, settings, models)
        for network in filter(None, (pipeline.transformer, pipeline.vae, tiny, controlnet)):
            network.requires_grad_(False).eval().to(device)
        for network in filter(None, (pipeline.vae, tiny)):
            network.to(memory_format=torch.channels_last)
        if settings.compile:
            for network in filter(None, (pipeline.transformer, controlnet)):
                network.compile()
        model = cls(preset, settings, device, dtype, tuple(controls), pipeline, tiny, tuple(files), controlnet=controlnet)
        model.scheduler()
        return model

    @classmethod
    def _controlnet(cls, folder: Path, transformer: Any) -> Any:
        """The ControlNet of a folder in diffusers' layout, or of one with nothing but its makers' file, which says what it is."""
        dtype = transformer.dtype
        if (folder / "config.json").is_file():
            network = cls.CONTROLNET.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)
        else:
            file = next(folder.glob("*.safetensors"), folder / "diffusion_pytorch_model.safetensors")
            with torch.device("meta"):
                network = cls.CONTROLNET(**controlnet_config(tensors_of(file), transformer.config.n_layers))
            network.load_state_dict(load_file(file), assign=True)
            network.to(dtype)
        return cls.CONTROLNET.from_transformer(network, transformer)  # it borrows the transformer's embedders

    @staticmethod
    def precision(device: torch.device) -> torch.dtype:
        """bfloat16 on a GPU, which it was trained in: its activations leave the range of float16."""
        return torch.float32 if device.type == "cpu" else torch.bfloat16

    @property
    def network(self) -> Any:
        """The transformer."""
        return self.pipeline.transformer

    @property
    def size_multiple(self) -> int:
        """Its patches are two latent cells wide."""
        return 2 * self.latent_scale

    def set_timesteps(self, scheduler: Any, steps: int, height: int, width: int) -> None:
        """See `Model.set_timesteps`. Noise levels run evenly from 1 to 1 / steps, and are shifted, by size where the model wants it so."""
        self.check_steps(steps)
        if not isinstance(scheduler, _FLOW_MATCHING):
            scheduler.set_timesteps(steps, device=self.device)
            return
        config = scheduler.config
        tokens = (height // self.size_multiple) * (width // self.size_multiple)
        few, many = config.base_image_seq_len, config.max_image_seq_len
        mu = config.base_shift + (config.max_shift - config.base_shift) * (tokens - few) / (many - few)
        sigmas = torch.linspace(1.0, 1.0 / steps, steps).tolist()
        scheduler.set_timesteps(steps, device=self.device, sigmas=sigmas, mu=mu)

    @torch.no_grad()
    def embed(self, prompts: PromptSchedule, frame_numbers: Sequence[int], negative: str) -> TextConditioning:
        """See `Model.embed`."""
        with self._text_encoders():
            encoded, unwanted = self.pipeline.encode_prompt(
                list(prompts.prompts), self.device, negative_prompt=[negative] * len(prompts.prompts)
            )
        return TextConditioning(tuple(encoded), unwanted[0], torch.from_numpy(prompts.weights(frame_numbers)))

    @torch.no_grad()
    def prepare(self, controls: Sequence[Tensor]) -> list[Tensor]:
        """See `Model.prepare`. The ControlNet sees control images as latents, beside channels of zeros where it can inpaint too."""
        return [self._encoded(control) for control in controls]

    def _encoded(self, control: Tensor) -> Tensor:
        latents = self.encode(control.to(self.device) * 2.0 - 1.0)
        empty = self.controlnet.config.control_in_dim - latents.shape[1]
        return torch.nn.functional.pad(latents, (0, 0, 0, 0, 0, empty)).to(self.dtype)

    @torch.no_grad()
    def predict(
        self, latents: Tensor, timestep: Tensor, controls: Sequence[Tensor], conditioning: Conditioning, guidance_scale: float
    ) -> Tensor:
        """See `Model.predict`. The network runs from noise at time 0 to the picture at 1 and predicts that way; samplers run the other."""
        assert isinstance(conditioning, TextConditioning)
        guided = guidance_scale != 1.0
        texts = conditioning.of_frames()
        x = latents.to(self.device, self.dtype)
        contexts = [self._encoded(one) if one.shape[-1] > x.shape[-1] else one.to(self.device, self.dtype) for one in controls]
        if guided:
            x = torch.cat([x, x])
            texts = texts + [conditioning.negative] * len(texts)
            contexts = [torch.cat([context, context]) for context in contexts]
        time = ((1000.0 - timestep.to(self.device, torch.float32)) / 1000.0).expand(len(x))
        frames = list(x.unsqueeze(2).unbind(0))
        added: dict[int, Tensor] = {}
        for control, context in zip(self.controls, contexts, strict=True):
            if control.weight > 0.0:
                hints = self.controlnet(frames, time, texts, list(context.unsqueeze(2)), conditioning_scale=control.weight)
                added = {layer: added[layer] + hint if layer in added else hint for layer, hint in hints.items()}
        output = self.network(frames, time, texts, controlnet_block_samples=added or None, return_dict=False)[0]
        flow = -torch.stack([frame.float() for frame in output]).squeeze(2)
        if not guided:
            return flow
        prompted, unprompted = flow.chunk(2)
        return unprompted + guidance_scale * (prompted - unprompted)

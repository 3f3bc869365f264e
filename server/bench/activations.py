"""What the networks hold while they work, beyond their weights: bytes a pixel of a frame, in 16 bits. The figures in medm.diffusion.plan.

    .venv/bin/python server/bench/activations.py

The networks are run without numbers (torch's meta device), and the tensors that are alive at a time are added up. So it is the least
that any device needs; work space and gaps come on top. Attention counts as it is on a GPU, without a matrix of its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, StableDiffusionControlNetPipeline, UNet2DConditionModel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medm.presets import BUNDLED

HEIGHT, WIDTH = 72, 128  # of the latents: 1024 x 576 pixels

SD15: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": (320, 640, 1280, 1280)}
SDXL: dict[str, Any] = {
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
AUTOENCODER: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


class Alive(TorchDispatchMode):
    """Adds up the tensors that are alive, but for those that were there before."""

    def __init__(self, modules: tuple[torch.nn.Module, ...]) -> None:
        super().__init__()
        self.sizes = {weight.untyped_storage()._cdata: 0 for module in modules for weight in module.parameters()}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage._cdata)
        return result

    def _gone(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


class Fused(TorchFunctionMode):
    """Attention whose matrix is never whole."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0] if args else kwargs["query"])
        return func(*args, **(kwargs or {}))


def peak(function: Callable[[], object], *modules: torch.nn.Module) -> int:
    """Bytes that are alive at most while the function runs."""
    alive = Alive(modules)
    with torch.no_grad(), Fused(), alive:
        function()
    return alive.peak


def networks(unet: Any, controlnet: Any, conditioning: dict[str, torch.Tensor] | None, scale: int) -> float:
    """Of a denoising step of one frame."""
    dtype, height, width = unet.dtype, HEIGHT * 8 // scale, WIDTH * 8 // scale
    latents = torch.empty(1, 4, height, width, dtype=dtype, device="meta")
    text = torch.empty(1, 77, unet.config.cross_attention_dim, dtype=dtype, device="meta")
    image = torch.empty(1, controlnet.config.conditioning_channels, height * scale, width * scale, dtype=dtype, device="meta")
    timestep = torch.empty((), dtype=torch.long, device="meta")

    def step() -> None:
        down, middle = controlnet(latents, timestep, text, image, added_cond_kwargs=conditioning, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        unet(latents, timestep, text, added_cond_kwargs=conditioning, **residuals)

    return peak(step, unet, controlnet) / (HEIGHT * WIDTH * 64)


def autoencoder(model: Any, scale: int) -> float:
    """Of decoding or encoding one frame, whichever needs more."""
    dtype, height, width = next(model.parameters()).dtype, HEIGHT * 8 // scale, WIDTH * 8 // scale
    latents = torch.empty(1, model.config.latent_channels, height, width, dtype=dtype, device="meta")
    picture = torch.empty(1, 3, height * scale, width * scale, dtype=dtype, device="meta")
    return max(peak(lambda: model.decode(latents), model), peak(lambda: model.encode(picture), model)) / (HEIGHT * WIDTH * 64)


def main() -> None:
    """Prints the table."""
    half = torch.float16
    print("| | networks | autoencoder |\n|---|---|---|")
    with torch.device("meta"):
        full = autoencoder(AutoencoderKL(latent_channels=4, **AUTOENCODER).to(half), 8)
        for name, config in (("Stable Diffusion 1.5", SD15), ("SDXL", SDXL)):
            unet = UNet2DConditionModel(**config)
            controlnet = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
            more = {"text_embeds": torch.empty(1, 1280, dtype=half), "time_ids": torch.empty(1, 6, dtype=half)} if name == "SDXL" else None
            print(f"| {name} | {networks(unet.to(half), controlnet.to(half), more, 8):.0f} | {full:.0f} |")
        print(f"| the tiny autoencoder of either | | {autoencoder(AutoencoderTiny().to(half), 8):.0f} |")
    own = StableDiffusionControlNetPipeline.from_pretrained(BUNDLED.folder, safety_checker=None)
    unet, controlnet, vae = (part.to("meta", half) for part in (own.unet, own.controlnet, own.vae))
    print(f"| bundled | {networks(unet, controlnet, None, 4):.0f} | {autoencoder(vae, 4):.0f} |")


if __name__ == "__main__":
    main()

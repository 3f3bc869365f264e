"""How much work the guidance adds to a ControlNet render: operations counted part by part, no weights needed.

    .venv/bin/python server/bench/diffusion/operations.py

Runs the networks of Stable Diffusion 1.5 and of the bundled model on torch's `meta` device, where nothing is computed but shapes, and
counts the multiplications and additions of their convolutions and matrix products, for one frame. The rest of a render (harmonisation,
control images) moves bytes and multiplies little.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from medm.presets import BUNDLED


def count(function: Any, *arguments: Any, **options: Any) -> float:
    """Operations of a call, in units of 10^12."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(*arguments, **options)
    return float(counter.get_total_flops()) / 1e12


def of_model(
    unet: Any, controlnet: Any, autoencoders: dict[str, Any], width: int, height: int, control_channels: int, tokens: int
) -> dict[str, float]:
    """Operations a frame of one step's networks, and of decoding and encoding with each autoencoder."""
    scale = 2 ** (len(next(iter(autoencoders.values())).config.block_out_channels) - 1)
    latents = torch.empty(1, 4, height // scale, width // scale, device="meta")
    text = torch.empty(1, tokens, unet.config.cross_attention_dim, device="meta")
    control = torch.empty(1, control_channels, height, width, device="meta")
    timestep = torch.empty((), dtype=torch.int64, device="meta")
    parts = {
        "denoiser": count(unet, latents, timestep, text),
        "ControlNet": count(controlnet, latents, timestep, text, controlnet_cond=control),
    }
    for name, autoencoder in autoencoders.items():
        parts[f"{name}: decode"] = count(autoencoder.decode, latents)
        parts[f"{name}: encode"] = count(autoencoder.encode, control[:, :1].expand(-1, 3, -1, -1))
    return parts


def report(
    name: str, parts: dict[str, float], steps: int, asked: int, guided: int, autoencoder: str, final: str, paper: bool = False
) -> None:
    """One row: operations with guidance over those without. `asked`: how often the networks are asked a step; CFG asks twice."""
    plain = steps * asked * (parts["denoiser"] + parts["ControlNet"]) + parts[f"{final}: decode"]
    encodings = 1 if paper else 2  # fidelity encoding encodes the frames as they were, too
    added = guided * (parts[f"{autoencoder}: decode"] + encodings * parts[f"{autoencoder}: encode"])
    print(f"| {name} | {plain:.2f} | {added:.2f} | {(plain + added) / plain:.2f} |")


def main() -> None:
    """Prints both tables."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        sd15 = of_model(
            unet,
            ControlNetModel(cross_attention_dim=768),
            {
                "full": AutoencoderKL(
                    block_out_channels=(128, 256, 512, 512),
                    down_block_types=("DownEncoderBlock2D",) * 4,
                    up_block_types=("UpDecoderBlock2D",) * 4,
                    layers_per_block=2,
                ),
                "tiny": AutoencoderTiny(),
            },
            512,
            512,
            3,
            77,
        )
        ours = of_model(
            UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(BUNDLED.folder / "unet")),
            ControlNetModel.from_config(ControlNetModel.load_config(BUNDLED.folder / "controlnet")),
            {"full": AutoencoderTiny.from_config(AutoencoderTiny.load_config(BUNDLED.folder / "vae"))},
            512,
            288,
            5,
            16,
        )
    for title, parts in (("Stable Diffusion 1.5, 512 x 512", sd15), ("bundled, 512 x 288", ours)):
        print(f"\n{title}: 10^12 operations a frame\n\n| part | once |\n|---|---|")
        for part, operations in parts.items():
            print(f"| {part} | {operations:.3f} |")
    print("\n| | without guidance | guidance adds | factor |\n|---|---|---|---|")
    report("SD 1.5, 20 steps with CFG, the paper's round trip at 19 steps", sd15, 20, 2, 19, "full", "full", paper=True)
    report("SD 1.5, 20 steps with CFG, defaults, full autoencoder", sd15, 20, 2, 3, "full", "full")
    report("SD 1.5, 20 steps with CFG, defaults, tiny autoencoder", sd15, 20, 2, 3, "tiny", "full")
    report("SD 1.5, 4 steps without CFG, defaults, full autoencoder", sd15, 4, 1, 2, "full", "full")
    report("SD 1.5, 4 steps without CFG, defaults, tiny autoencoder", sd15, 4, 1, 2, "tiny", "full")
    report("bundled, 20 steps, the paper's round trip at 19 steps", ours, 20, 1, 19, "full", "full", paper=True)
    report("bundled, 20 steps, defaults", ours, 20, 1, 3, "full", "full")


if __name__ == "__main__":
    main()

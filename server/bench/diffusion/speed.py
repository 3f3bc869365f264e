"""What guided renders cost on a GPU: frames a second, memory and the split of time, beside what the arithmetic alone would take.

    PYTHONPATH=tests/server .venv/bin/python server/bench/diffusion/speed.py [--frames 48] [--size 512x512] [--small]

The model has the size of Stable Diffusion 1.5, with a ControlNet and the tiny autoencoder, and random weights: what it paints is nothing
to look at, and takes as long as if it were. It is loaded and painted with as any other. The shot is a generated one. The floor of a row
is its operations (operations.py) over the rate at which this machine multiplies matrices of 8192 x 8192. --small takes tiny networks and
a small shot, to see that all of it runs where there is no GPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import cache
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
)
from levers import Timer
from operations import of_model
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import synthetic
import tiny_models
from medm.diffusion.models import Model, best_device
from medm.diffusion.rendering import paint, plan_of
from medm.diffusion.seen import look_at
from medm.presets import BUNDLED
from medm.settings import RenderSettings
from medm.shot import Shot

ROWS: list[tuple[str, dict[str, object]]] = [
    ("4 steps, w = 0", {"steps": 4, "guidance_scale": 1.0, "w": 0.0}),
    ("4 steps, defaults", {"steps": 4, "guidance_scale": 1.0}),
    ("4 steps, full autoencoder", {"steps": 4, "guidance_scale": 1.0, "tiny_autoencoder": False}),
    ("20 steps, CFG, w = 0", {"steps": 20, "guidance_scale": 7.5, "w": 0.0}),
    ("20 steps, CFG, defaults", {"steps": 20, "guidance_scale": 7.5}),
    ("20 steps, CFG, full autoencoder", {"steps": 20, "guidance_scale": 7.5, "tiny_autoencoder": False}),
]


def networks() -> tuple[UNet2DConditionModel, ControlNetModel, AutoencoderKL, AutoencoderTiny]:
    """Stable Diffusion 1.5's, and its tiny autoencoder."""
    return (
        UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
        ControlNetModel(cross_attention_dim=768),
        AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            scaling_factor=0.18215,
        ),
        AutoencoderTiny(),
    )


def write_model(folder: Path) -> Path:
    """A pipeline of that size with random weights, in half precision."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(BUNDLED.folder / "tokenizer")
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, **special)
    with torch.device(best_device()):
        unet, controlnet, vae, tiny = (network.half() for network in networks())
    StableDiffusionControlNetPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text).half(),
        tokenizer=tokenizer,
        unet=unet,
        controlnet=controlnet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    tiny.save_pretrained(folder / "vae_tiny")
    return folder


def matrix_rate(device: torch.device) -> float:
    """Operations a second in products of large matrices, in the precision that `auto` takes."""
    size, dtype = (8192, torch.float16) if device.type == "cuda" else (1024, torch.float32)
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        started = time.perf_counter()
        product = one @ other
        float(product[0, 0])  # waits for it
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


@cache
def of_networks(width: int, height: int) -> dict[str, float]:
    """Operations of each, in units of 10^12, for a frame of this size."""
    with torch.device("meta"):
        unet, controlnet, vae, tiny = networks()
        return of_model(unet, controlnet, {"full": vae, "tiny": tiny}, width, height, 3, 77)


def operations(shot: Shot, settings: RenderSettings, guided: int) -> float:
    """Of the networks, for the whole shot."""
    parts = of_networks(*shot.size)
    asked = 2 if (settings.guidance_scale or 1.0) > 1.0 else 1
    kind = "tiny" if settings.tiny_autoencoder else "full"
    steps = (settings.steps or 0) * asked * (parts["denoiser"] + parts["ControlNet"])
    agreement = guided * (parts[f"{kind}: decode"] + 2 * parts[f"{kind}: encode"])
    return len(shot) * 1e12 * (steps + agreement + parts["full: decode"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time guided renders with a model of Stable Diffusion 1.5's size.")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--size", type=lambda text: tuple(int(side) for side in text.split("x")), default=(512, 512), metavar="WxH")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    width, height = (64, 48) if options.small else options.size
    device = best_device()
    with tempfile.TemporaryDirectory() as scratch:
        folder = tiny_models.write(Path(scratch) / "model") if options.small else write_model(Path(scratch) / "model")
        if options.small:
            tiny_models.write_tiny_autoencoder(folder / "vae_tiny")
        scene = synthetic.two_rectangles(width, height, 4 if options.small else options.frames)
        shot = Shot.open(synthetic.write_shot(Path(scratch) / "shot", scene, beauty=False))
        rate = matrix_rate(device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        print(f"{name}, {rate / 1e12:.0f} TFLOP/s in matrix products; {len(shot)} frames of {width} x {height}\n")
        print(
            "| | frames a second | of w = 0 | networks | agreement | result | floor | peak memory, GB |\n|---|---|---|---|---|---|---|---|"
        )
        base = 1.0
        for label, options_of_row in [("warming up", ROWS[1][1]), *ROWS]:
            settings = RenderSettings.model_validate({"model": str(folder), "prompt": "gold", **options_of_row})
            model, timer = Model.load(settings), Timer()
            seen = look_at(shot, settings, model.controls, model.device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            timer(0.0, "start")
            timer.seconds.clear()
            _, notes = paint(shot, seen, model, settings, plan_of(shot, settings, model), timer)
            timer(1.0, "done")
            seconds = sum(timer.seconds.values())
            if settings.w == 0.0:
                base = seconds
            peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")
            floor = operations(shot, settings, len(notes["guided_steps"]) if settings.w > 0 else 0) / rate
            split = " | ".join(f"{timer.seconds[part]:.2f} s" for part in ("networks", "agreement", "result"))
            if label != "warming up":
                print(f"| {label} | {len(shot) / seconds:.2f} | {seconds / base:.2f} | {split} | {floor:.2f} s | {peak:.1f} |", flush=True)


if __name__ == "__main__":
    main()

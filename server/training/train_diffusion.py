r"""Trains the bundled model's denoiser, control branch and text encoder together, on latents of the rendered pictures.

    .venv/bin/python server/training/train_diffusion.py --data server/training/runs/data \
        --vae server/training/runs/autoencoder/vae --out server/training/runs/diffusion --steps 12000

Repeat the command to go on from the last checkpoint, with more scenes if there are more by then. `--steps` may change between
calls: the learning rate is constant until the last fifth of the steps and falls to zero over it. When all steps are done, the
averaged weights are written to `<out>/model`, a diffusers folder in half precision; without, `--export` writes it now.

The first, noisiest step follows the control after a thousand training steps; what takes long is to draw texture without losing the shapes
again, at middling noise. So half of the timesteps are drawn evenly and half about the middle.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, StableDiffusionControlNetPipeline
from PIL import Image

from dataset import LOOKS, crop_corners, cropped, load
from model import LATENT_SCALE, PROMPTS, controlnet, scheduler, text_encoder, tokenizer, unet

CROP = 128


class Networks(torch.nn.Module):
    """Everything that is trained, so that one optimizer, one average and one checkpoint hold it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.tokenizer = tokenizer(folder / "tokenizer")
        self.text, self.unet, self.control = text_encoder(self.tokenizer), unet(), controlnet()

    def tokens(self, prompts: list[str]) -> torch.Tensor:
        """(N, tokens) ids, padded."""
        return self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids

    def forward(self, noisy: torch.Tensor, timestep: torch.Tensor, tokens: torch.Tensor, control: torch.Tensor) -> torch.Tensor:
        """The predicted velocity of noisy latents (N, 4, h, w)."""
        prompt = self.text(tokens)[0]
        down, mid = self.control(noisy, timestep, prompt, control, return_dict=False)
        return self.unet(noisy, timestep, prompt, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample


@torch.no_grad()
def encode(vae: AutoencoderTiny, pictures: torch.Tensor, device: str) -> torch.Tensor:
    """Scaled latents (N, 4, S / 4, S / 4) of uint8 pictures (N, 3, S, S)."""
    frames = (pictures.to(device).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device, torch.bfloat16):
        latents = vae.encode(frames).latents
    return latents.float() * vae.config.scaling_factor


@torch.no_grad()
def sample(networks: Networks, vae: AutoencoderTiny, control: torch.Tensor, steps: int, device: str) -> torch.Tensor:
    """Pictures (looks, N, 3, S, S) uint8 of the control images (N, 5, S, S) in every look, from the same noise."""
    ddim = scheduler()
    noise = torch.randn(len(control), 4, *(s // LATENT_SCALE for s in control.shape[-2:]), generator=torch.Generator().manual_seed(7))
    rows = []
    for look in LOOKS:
        ddim.set_timesteps(steps)
        x, tokens = noise.to(device), networks.tokens([PROMPTS[look][0]] * len(control)).to(device)
        for t in ddim.timesteps:
            with torch.autocast(device, torch.bfloat16):
                v = networks(x, t.to(device).expand(len(control)), tokens, control)
            x = ddim.step(v.float(), t, x).prev_sample
        rows.append(vae.decode(x / vae.config.scaling_factor).sample.clamp(-1, 1).mul(127.5).add(127.5).round().byte().cpu())
    return torch.stack(rows)


def export(networks: Networks, vae: AutoencoderTiny, folder: Path) -> None:
    """Writes the stock diffusers folder that the server loads, weights in half precision."""
    pipeline = StableDiffusionControlNetPipeline(
        vae=vae, text_encoder=networks.text, tokenizer=networks.tokenizer, unet=networks.unet, controlnet=networks.control,
        scheduler=scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    copy.deepcopy(pipeline).to(dtype=torch.float16).save_pretrained(folder)


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints and sample sheets")
    parser.add_argument("--export", action="store_true", help="write the model of the last checkpoint and stop")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    vae = AutoencoderTiny.from_pretrained(args.vae).to(device).eval()
    networks = Networks(args.out).to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(networks).requires_grad_(False)
    optimizer = torch.optim.AdamW(networks.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    checkpoint, done = args.out / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        networks.load_state_dict(saved["networks"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["step"]
    if args.export:
        export(average, vae, args.out / "model")
        return

    noising, tokens = scheduler(), networks.tokens([*(prompt for look in LOOKS for prompt in PROMPTS[look]), ""]).to(device)
    variants = len(PROMPTS[LOOKS[0]])
    held_out = 8  # the first scenes are never trained on: the sample sheets show them
    data, losses, start = None, [], time.time()
    for step in range(done + 1, args.steps + 1):
        if data is None or (step - 1) % args.every == 0:  # rendering may go on beside the training
            data = load(args.data)
            generator = torch.Generator().manual_seed(step)
        rate = args.lr * min(1.0, step / 300, max(0.0, (args.steps - step) / (0.2 * args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        which = torch.randint(held_out, len(data), (args.batch,), generator=generator)
        corners = crop_corners(args.batch, data.pictures.shape[-1], CROP, generator)
        control = cropped(data.controls, which, corners, CROP).to(device).float() / 255
        # encoded after cropping: the autoencoder treats what lies at a picture's border in its own way
        clean = encode(vae, cropped(data.pictures, which, corners, CROP), device)
        chosen = data.looks[which] * variants + torch.randint(0, variants, (args.batch,), generator=generator)
        chosen[torch.rand(args.batch, generator=generator) < 0.1] = len(tokens) - 1
        u, v = torch.rand(2, args.batch, generator=generator)
        middling = torch.rand(args.batch, generator=generator) < 0.5
        timestep = (torch.where(middling, (u + v) / 2, u) * 1000).long().to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)

        with torch.autocast(device, torch.bfloat16):
            noisy = noising.add_noise(clean, noise, timestep)
            velocity = networks(noisy, timestep, tokens[chosen.to(device)], control)
        loss = F.mse_loss(velocity.float(), noising.get_velocity(clean, noise, timestep))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        decay = min(0.9995, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(networks.parameters()), 1 - decay)
        losses.append(loss.item())
        if step % args.every == 0 or step == args.steps:
            print(f"step {step} loss {sum(losses) / len(losses):.4f} rate {rate:.1e}, {len(data)} pictures, "
                  f"{(time.time() - start) / len(losses):.2f} s a step", flush=True)  # fmt: skip
            losses, start = [], time.time()
            state = {"networks": networks.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
            shown = data.controls[:6].to(device).float() / 255
            sheet = torch.cat([data.controls[None, :6, :3], sample(average, vae, shown, 20, device)])
            Image.fromarray(torch.cat([torch.cat(list(row.permute(0, 2, 3, 1)), 1) for row in sheet]).numpy()).save(
                args.out / "samples.png"
            )

    export(average, vae, args.out / "model")


if __name__ == "__main__":
    main()

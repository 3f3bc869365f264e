r"""Trains the bundled model's autoencoder on the rendered pictures; repeat the command to go on from where it stopped.

    .venv/bin/python server/training/train_autoencoder.py --data server/training/runs/data \
        --out server/training/runs/autoencoder --steps 4000

The loss asks for the picture (L1, and L1 of its gradients, which keeps edges crisp), for latents that survive a round trip,
E(D(z)) = z, because the temporal guidance makes one at every sampling step, and for a decoder that bears a little noise.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from dataset import crop_corners, cropped, load
from model import autoencoder


def gradients(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences to the right and lower neighbours."""
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = autoencoder().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.05)
    checkpoint, done = args.out / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        done = saved["step"]
    data = load(args.data)
    test, train = data.pictures[:32].to(device).float() / 127.5 - 1, data.pictures[32:]
    print(f"{len(train)} pictures, from step {done}", flush=True)

    generator = torch.Generator().manual_seed(done)
    start = time.time()
    for step in range(done + 1, args.steps + 1):
        which = torch.randint(0, len(train), (args.batch,), generator=generator)
        corners = crop_corners(args.batch, train.shape[-1], args.crop, generator)
        x = (cropped(train, which, corners, args.crop).float() / 127.5 - 1).to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16, enabled=step < 0.8 * args.steps):
            z = model.encode(x).latents
            y = model.decode(z + 0.02 * torch.randn_like(z)).sample
            again = model.encode(y).latents
        z, y, again = z.float(), y.float(), again.float()
        loss = F.l1_loss(y, x) + sum(F.l1_loss(a, b) for a, b in zip(gradients(y), gradients(x), strict=True))
        loss = loss + 0.1 * F.l1_loss(again, z.detach()) + 1e-4 * z.pow(2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == args.steps:
            with torch.no_grad():
                z = model.encode(test).latents
                y = model.decode(z).sample.clamp(-1, 1)
                twice = model.decode(model.encode(y).latents).sample.clamp(-1, 1)
            once_db, twice_db = (float(-10 * torch.log10(F.mse_loss(v, test) / 4)) for v in (y, twice))
            print(f"step {step} loss {loss.item():.4f} {once_db:.2f} dB, after two round trips {twice_db:.2f} dB, "
                  f"latent deviation {z.std():.3f}, {time.time() - start:.0f} s", flush=True)  # fmt: skip
            pairs = torch.cat([test[:8], y[:8]], -2).mul(127.5).add(127.5).round().byte().cpu()
            Image.fromarray(torch.cat(list(pairs.permute(0, 2, 3, 1)), 1).numpy()).save(args.out / "samples.png")
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "step": step}
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)

    with torch.no_grad():  # latents of unit variance, the way latent diffusion wants them
        model.register_to_config(scaling_factor=1.0 / model.encode(test).latents.std().item())
    model.save_pretrained(args.out / "vae")


if __name__ == "__main__":
    main()

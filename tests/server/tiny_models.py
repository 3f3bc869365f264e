"""Tiny models of real classes with random weights, made on the spot: what a user's own Stable Diffusion ControlNet folder looks like."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from medm.presets import BUNDLED


def write(folder: Path, prediction: str = "epsilon") -> Path:
    """A Stable Diffusion 1.5 pipeline in miniature, with AutoencoderKL (reduction 8) and a three-channel ControlNet."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(BUNDLED.folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    blocks = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    down = ("DownBlock2D", "CrossAttnDownBlock2D")
    controlnet = ControlNetModel(down_block_types=down, conditioning_embedding_out_channels=(4, 4, 8, 8), **blocks)
    for parameter in controlnet.parameters():  # as if trained: its outlets start at zero
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    StableDiffusionControlNetPipeline(
        vae=AutoencoderKL(
            block_out_channels=(4, 4, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=2,
            latent_channels=4,
            scaling_factor=4.0,  # the latents of random weights are small; noise must not drown them
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(sample_size=8, down_block_types=down, up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **blocks),
        controlnet=controlnet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder

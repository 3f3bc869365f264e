"""The bundled model's parts, all stock diffusers and transformers classes: their sizes are chosen here and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CONTROLS = ("normal", "depth", "lineart")
CONTROL_CHANNELS = 5
LATENT_SCALE = 4
TOKENS = 16

PROMPTS = {
    "terracotta": ("a terracotta sculpture", "terracotta", "terracotta clay in warm sunlight", "figures of painted terracotta clay"),
    "gold": ("a gold sculpture", "gold", "hammered gold on dark marble", "figures of shining gold metal"),
    "neon": ("a neon sculpture", "neon", "glowing neon light at night", "figures of glowing neon in the dark"),
    "porcelain": ("a porcelain sculpture", "porcelain", "white porcelain with blue glaze", "figures of blue and white porcelain"),
}
"""What each look is called in training; an empty prompt stands for any of them."""


def autoencoder() -> AutoencoderTiny:
    """4x reduction, 4 latent channels. No blocks at full resolution, where they would cost more than the UNet."""
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 3, 3),
        num_decoder_blocks=(3, 3, 0),
        latent_channels=4,
        upsampling_scaling_factor=2,
        scaling_factor=1.0,
    )


_BLOCKS = {
    "block_out_channels": (64, 96, 160, 160),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
    "only_cross_attention": True,  # no self-attention: convolutional, so that it serves sizes other than its own
    "mid_block_type": "UNetMidBlock2D",
}


def unet() -> UNet2DConditionModel:
    """The denoiser, v-prediction. The prompt enters at one level, an eighth of the latent; the decoder carries it up."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        **_BLOCKS,
    )


def controlnet() -> ControlNetModel:
    """The control branch, blind to the prompt: structure is the same in every look.

    Its outlets start at random, not at zero, because it is trained together with the denoiser.
    """
    model = ControlNetModel(
        in_channels=4,
        conditioning_channels=CONTROL_CHANNELS,
        conditioning_embedding_out_channels=(16, 32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"),
        **_BLOCKS,
    )
    outlets = [*model.controlnet_down_blocks, model.controlnet_mid_block, model.controlnet_cond_embedding.conv_out]
    for outlet in outlets:
        torch.nn.init.kaiming_normal_(outlet.weight, nonlinearity="linear")
    return model


def scheduler() -> DDIMScheduler:
    """DDIM with zero terminal SNR, so that sampling starts from noise alone."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A byte-level BPE tokenizer whose merges are just the words of PROMPTS; any other text falls apart into bytes."""
    alphabet = sorted(_byte_symbols().values())
    vocabulary = [*alphabet, *(symbol + "</w>" for symbol in alphabet)]
    merges: list[str] = []
    for word in sorted({word for prompts in PROMPTS.values() for prompt in prompts for word in prompt.split()}):
        symbols = [*word[:-1], word[-1] + "</w>"]
        left = symbols[0]
        for right in symbols[1:]:
            merge = f"{left} {right}"
            if merge not in merges:
                merges.append(merge)
            left += right
            if left not in vocabulary:
                vocabulary.append(left)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)


def _byte_symbols() -> dict[int, str]:
    """The printable character that byte-level BPE writes for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = {byte: chr(byte) for byte in printable}
    spare = (byte for byte in range(256) if byte not in symbols)
    return symbols | {byte: chr(256 + index) for index, byte in enumerate(spare)}


def text_encoder(tokens: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model of the smallest useful size, trained with the denoiser."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=64,
            intermediate_size=128,
            projection_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )

"""Tiny models of real classes with random weights, made on the spot: what a user's own folders and files look like, family by family."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    ControlNetUnionModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImageControlNetModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
)

from medm.presets import BUNDLED

_BLOCKS = {"block_out_channels": (8, 16), "layers_per_block": 1, "attention_head_dim": 2, "norm_num_groups": 4}
_DOWN, _UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
_SDXL = {
    "cross_attention_dim": 16 + 24,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 16,
    "transformer_layers_per_block": 1,
    "use_linear_projection": True,
}


def write(folder: Path, prediction: str = "epsilon") -> Path:
    """A Stable Diffusion 1.5 pipeline in miniature, with AutoencoderKL (reduction 8) and a three-channel ControlNet."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(BUNDLED.folder / "tokenizer")
    text = _text(tokenizer)
    blocks = {**_BLOCKS, "cross_attention_dim": 16}
    controlnet = _as_if_trained(ControlNetModel(down_block_types=_DOWN, conditioning_embedding_out_channels=(4, 4, 8, 8), **blocks))
    StableDiffusionControlNetPipeline(
        vae=_autoencoder(scaling_factor=4.0),  # the latents of random weights are small; noise must not drown them
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(sample_size=8, down_block_types=_DOWN, up_block_types=_UP, **blocks),
        controlnet=controlnet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def write_controlnet(folder: Path, seed: int = 1, channels: int = 3) -> Path:
    """Another ControlNet for `write`'s UNet."""
    torch.manual_seed(seed)
    network = ControlNetModel(
        down_block_types=_DOWN,
        conditioning_embedding_out_channels=(4, 4, 8, 8),
        conditioning_channels=channels,
        cross_attention_dim=16,
        **_BLOCKS,
    )
    _as_if_trained(network).save_pretrained(folder)
    return folder


def write_sdxl(folder: Path) -> Path:
    """An SDXL pipeline in miniature, without ControlNet."""
    torch.manual_seed(2)
    tokenizer = CLIPTokenizer.from_pretrained(BUNDLED.folder / "tokenizer")
    text, other = (_text(tokenizer, num_hidden_layers=2, projection_dim=16, hidden_size=size) for size in (16, 24))
    StableDiffusionXLPipeline(
        vae=_autoencoder(scaling_factor=4.0),
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(other),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(sample_size=8, down_block_types=_DOWN, up_block_types=_UP, **_BLOCKS, **_SDXL),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def write_sdxl_controlnet(folder: Path, seed: int = 3) -> Path:
    """A plain ControlNet for `write_sdxl`'s UNet."""
    torch.manual_seed(seed)
    network = ControlNetModel(down_block_types=_DOWN, conditioning_embedding_out_channels=(4, 4, 8, 8), **_BLOCKS, **_SDXL)
    _as_if_trained(network).save_pretrained(folder)
    return folder


def write_sdxl_union(folder: Path) -> Path:
    """An SDXL pipeline in miniature with a union ControlNet, ProMax's eight kinds."""
    write_sdxl(folder)
    torch.manual_seed(4)
    network = ControlNetUnionModel(
        down_block_types=_DOWN,
        conditioning_embedding_out_channels=(4, 4, 8, 8),
        num_control_type=8,
        num_trans_channel=8,
        num_trans_head=2,
        num_proj_channel=8,
        **_BLOCKS,
        **_SDXL,
    )
    _as_if_trained(network).save_pretrained(folder / "controlnet")
    return folder


def write_z_image(folder: Path, dynamic: bool = False, control: bool = True) -> Path:
    """A Z-Image pipeline in miniature, its ControlNet as version 2.1 (33 channels) has it; `dynamic`: noise shifted by the size."""
    torch.manual_seed(5)
    sizes = {"dim": 32, "n_refiner_layers": 2, "n_heads": 2, "n_kv_heads": 2}
    text = Qwen3Config(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=dynamic, shift=3.0),
        vae=_autoencoder(latent_channels=16, scaling_factor=3.0, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=Qwen3Model(text),
        tokenizer=_qwen_tokenizer(),
        transformer=_as_if_trained(
            ZImageTransformer2DModel(n_layers=2, cap_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[256, 64, 64], **sizes)
        ),
    ).save_pretrained(folder)
    if control:
        network = ZImageControlNetModel(
            control_layers_places=[0, 1],
            control_refiner_layers_places=[0, 1],
            control_in_dim=33,
            add_control_noise_refiner="control_noise_refiner",
            **sizes,
        )
        _as_if_trained(network).save_pretrained(folder / "controlnet")
    return folder


def write_tiny_autoencoder(folder: Path, channels: int = 4) -> Path:
    """TAESD in miniature."""
    torch.manual_seed(6)
    blocks = {"encoder_block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 4}
    AutoencoderTiny(latent_channels=channels, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4, **blocks).save_pretrained(folder)
    return folder


def write_lora(file: Path, model: Path, network: str = "unet", seed: int = 7) -> Path:
    """A LoRA for a network of a pipeline's folder, as diffusers saves them."""
    torch.manual_seed(seed)
    kind = {"unet": UNet2DConditionModel, "transformer": ZImageTransformer2DModel}[network]
    loaded = kind.from_pretrained(model / network)
    loaded.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    save_file({f"{network}.{name}": tensor.contiguous() for name, tensor in get_peft_model_state_dict(loaded).items()}, file)
    return file


def write_textual_inversion(file: Path, width: int = 16, tokens: int = 2) -> Path:
    """A textual inversion of as many tokens for `write`'s text encoder, as kohya's scripts save them."""
    torch.manual_seed(8)
    save_file({"emb_params": torch.randn(tokens, width)}, file)
    return file


def write_sdxl_textual_inversion(file: Path) -> Path:
    """One of two tokens for both text encoders of `write_sdxl`."""
    torch.manual_seed(8)
    save_file({"clip_l": torch.randn(2, 16), "clip_g": torch.randn(2, 24)}, file)
    return file


def write_ip_adapter(folder: Path, model: Path, tokens: int = 4) -> Path:
    """An IP-Adapter for a pipeline's UNet, with its image encoder."""
    torch.manual_seed(9)
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    seen, width = 12, unet.config.cross_attention_dim
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8, projection_dim=seen
    )
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
    tensors = {
        "image_proj.proj.weight": torch.randn(tokens * width, seen),
        "image_proj.proj.bias": torch.randn(tokens * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    place = 1  # the layers that look at the prompt are the odd ones
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            inner = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            tensors |= {f"ip_adapter.{place}.to_{part}_ip.weight": torch.randn(inner, width) for part in "kv"}
            place += 2
    save_file(tensors, folder / "ip-adapter.safetensors")
    return folder


def write_single_file(file: Path, model: Path) -> Path:
    """The weights of `write`'s or `write_sdxl`'s folder in one file, named as the original Stable Diffusion names them."""
    unet, vae, text, text_2 = (
        {name: tensor for part in sorted((model / folder).glob("*.safetensors")) for name, tensor in load_file(part).items()}
        for folder in ("unet", "vae", "text_encoder", "text_encoder_2")
    )
    tensors = {f"model.diffusion_model.{_renamed(name, _UNET_NAMES)}": tensor for name, tensor in unet.items()}
    for name, tensor in vae.items():
        original = _renamed(name, _VAE_NAMES)
        tensors[f"first_stage_model.{original}"] = tensor[..., None, None] if ".attn_1." in original and tensor.ndim == 2 else tensor
    encoder = "conditioner.embedders.0.transformer" if text_2 else "cond_stage_model.transformer"
    tensors |= {f"{encoder}.text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in text.items()}
    for name, tensor in text_2.items():
        original = _renamed(name, _OPEN_CLIP_NAMES)
        if "self_attn.q_proj" in name:
            tensor = torch.cat([text_2[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
        if "self_attn.k_proj" not in name and "self_attn.v_proj" not in name:
            tensors[f"conditioner.embedders.1.model.{original}"] = tensor.T if name == "text_projection.weight" else tensor
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, file)
    return file


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
}

_UNET_NAMES = {
    r"time_embedding.linear_1": "time_embed.0",
    r"time_embedding.linear_2": "time_embed.2",
    r"add_embedding.linear_1": "label_emb.0.0",
    r"add_embedding.linear_2": "label_emb.0.2",
    r"^conv_in": "input_blocks.0.0",
    r"^conv_norm_out": "out.0",
    r"^conv_out": "out.2",
    r"down_blocks.0.resnets.0": "input_blocks.1.0",
    r"down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    r"down_blocks.1.resnets.0": "input_blocks.3.0",
    r"down_blocks.1.attentions.0": "input_blocks.3.1",
    r"mid_block.resnets.0": "middle_block.0",
    r"mid_block.attentions.0": "middle_block.1",
    r"mid_block.resnets.1": "middle_block.2",
    r"up_blocks.0.resnets.(\d)": r"output_blocks.\1.0",
    r"up_blocks.0.attentions.(\d)": r"output_blocks.\1.1",
    r"up_blocks.0.upsamplers.0": "output_blocks.1.2",
    r"up_blocks.1.resnets.0": "output_blocks.2.0",
    r"up_blocks.1.resnets.1": "output_blocks.3.0",
    r"conv_shortcut": "skip_connection",
    **{rf"((?:put_blocks|middle_block)[\d.]*)\.{name}\.": rf"\1.{original}." for name, original in _RESNET.items()},
}

_VAE_NAMES = {
    r"mid_block.resnets.0": "mid.block_1",
    r"mid_block.resnets.1": "mid.block_2",
    r"mid_block.attentions.0": "mid.attn_1",
    r"attn_1.group_norm": "attn_1.norm",
    r"attn_1.to_([qkv])": r"attn_1.\1",
    r"attn_1.to_out.0": "attn_1.proj_out",
    r"down_blocks.(\d).resnets": r"down.\1.block",
    r"down_blocks.(\d).downsamplers.0": r"down.\1.downsample",
    **{rf"up_blocks.{block}.": f"up.{3 - block}." for block in range(4)},
    r"(up.\d).resnets": r"\1.block",
    r"(up.\d).upsamplers.0": r"\1.upsample",
    r"conv_norm_out": "norm_out",
    r"conv_shortcut": "nin_shortcut",
}

_OPEN_CLIP_NAMES = {
    r"text_model.embeddings.position_embedding.weight": "positional_embedding",
    r"text_model.embeddings.token_embedding": "token_embedding",
    r"text_model.final_layer_norm": "ln_final",
    r"text_projection.weight": "text_projection",
    r"text_model.encoder.layers": "transformer.resblocks",
    r"layer_norm(\d)": r"ln_\1",
    r"mlp.fc1": "mlp.c_fc",
    r"mlp.fc2": "mlp.c_proj",
    r"self_attn.q_proj.(weight|bias)": r"attn.in_proj_\1",
    r"self_attn": "attn",
}


def _renamed(name: str, names: dict[str, str]) -> str:
    for pattern, original in names.items():
        name = re.sub(pattern, original, name)
    return name


def _text(tokenizer: CLIPTokenizer, **others: int) -> CLIPTextConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, **others}
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **sizes,
    )


def _autoencoder(latent_channels: int = 4, **others: object) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
        latent_channels=latent_channels,
        **others,
    )


def _qwen_tokenizer() -> Qwen2Tokenizer:
    """Bytes for words, Qwen's names for special tokens, and a chat template like its own."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocabulary = {character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))}
    for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        vocabulary[token] = len(vocabulary)
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def _as_if_trained(network: torch.nn.Module) -> torch.nn.Module:
    """Its outlets no longer at zero, where training starts."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network

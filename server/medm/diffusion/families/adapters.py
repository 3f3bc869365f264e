"""What is added to a loaded pipeline: LoRA weights, textual inversions, and the IP-Adapter that looks at a reference picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from medm.diffusion.models import read_files, unloadable
from medm.errors import BadInput, Unavailable
from medm.presets import BUNDLED, FAMILIES, Preset, default_models, parse_embeddings, parse_weights, preset_of
from medm.settings import RenderSettings

if TYPE_CHECKING:
    from PIL import Image


def add_loras(pipeline: Any, preset: Preset, settings: RenderSettings, models: Path | None) -> list[Path]:
    """Merges the preset's own LoRA weights and those of the settings into the networks; returns their files."""
    wanted = [(preset.folder / name, weight) for name, weight in preset.loras]
    wanted += [(added_file(name, "loras", models), weight) for name, weight in parse_weights(settings.lora)]
    for file, weight in wanted:
        try:
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="lora", local_files_only=True)
            if not pipeline.get_list_adapters():
                raise ValueError("it names none of its layers")
            pipeline.set_adapters(["lora"], [weight])
            pipeline.fuse_lora()  # merged: no more time a step than without
            pipeline.unload_lora_weights()
        except Exception as error:  # peft and diffusers refuse what does not fit in a dozen ways
            raise BadInput(f"the LoRA {file} does not fit {preset.name}: {first_line(error)}") from error
    return [file for file, _ in wanted]


def add_embeddings(pipeline: Any, settings: RenderSettings, models: Path | None) -> list[Path]:
    """Teaches the text encoders the settings' textual inversions, each called by its file's name, `<style>`; returns their files."""
    files = [added_file(name, "embeddings", models) for name in parse_embeddings(settings.embeddings)]
    for file in files:
        token = f"<{file.stem}>"
        try:
            tensors = load_file(file)
            if "clip_l" in tensors and "clip_g" in tensors:
                for part, suffix in (("clip_l", ""), ("clip_g", "_2")):
                    encoder, tokenizer = (getattr(pipeline, kind + suffix) for kind in ("text_encoder", "tokenizer"))
                    pipeline.load_textual_inversion(tensors[part], token=token, text_encoder=encoder, tokenizer=tokenizer)
            else:
                pipeline.load_textual_inversion(tensors, token=token)
        except Exception as error:
            raise BadInput(f"the textual inversion {file} does not fit the model: {first_line(error)}") from error
    return files


def add_reference(
    pipeline: Any, preset: Preset, settings: RenderSettings, reference: Image.Image, models: Path | None
) -> tuple[tuple[Tensor, Tensor], list[Path]]:
    """Loads the IP-Adapter of the model, or else of its family's preset, and looks at the reference picture.

    Returns the embeddings of nothing seen and of the picture, (1, 1, ...) each, and the files read.
    """
    if preset.name == BUNDLED.name:
        raise BadInput("the bundled model cannot follow a reference picture; paint with sd15 or sdxl")
    companion = preset_of(FAMILIES[preset.family].companion, models)
    folder = next((root / "ip_adapter" for root in (preset.folder, companion.folder) if (root / "ip_adapter").is_dir()), None)
    weights = sorted(folder.glob("*.safetensors")) if folder else []
    if folder is None or not weights:
        raise Unavailable(f"{preset.name} has no IP-Adapter to look at a reference with: `medm models pull {companion.name} --reference`")
    if not (folder / "image_encoder/model.safetensors").is_file():  # or transformers would open a pickle that lies there
        raise Unavailable(
            f"the IP-Adapter in {folder} lacks image_encoder/model.safetensors (other formats can hold programs and are not opened): "
            f"`medm models pull {companion.name} --reference`"
        )
    try:
        pipeline.load_ip_adapter(str(folder), subfolder="", weight_name=weights[0].name, local_files_only=True)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        raise unloadable(folder, error) from error
    pipeline.set_ip_adapter_scale(settings.reference_scale)
    unseen, seen = pipeline.prepare_ip_adapter_image_embeds(reference.convert("RGB"), None, pipeline.device, 1, True)[0].chunk(2)
    pipeline.image_encoder = None  # it has done its work, and it is as large as the UNet
    return (unseen, seen), [*weights[:1], *read_files(folder / "image_encoder")]


def added_file(name: str, kind: str, models: Path | None) -> Path:
    """A file of weights that settings name: in the folder of models under `kind`, or, without one given, also a path.

    Raises:
        Unavailable: there is none.
        BadInput: it is no .safetensors file.
    """
    plain = Path(name).name == name
    if models is not None and not plain:
        raise BadInput(f"{name!r} is no name of a file in {models / kind}")
    folder = (models or default_models()) / kind
    places = [folder / name] if plain else []
    if models is None:
        places.insert(0, Path(name).expanduser())
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise Unavailable(f"there is no {name} in {folder}" if plain else f"there is no file {Path(name).expanduser().resolve()}")
    try:
        with safe_open(file, framework="pt"):
            return file
    except Exception as error:
        raise BadInput(f"{file} is no readable .safetensors file: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What a library said, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

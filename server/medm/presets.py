"""What MeDM knows about models before loading one: the table of presets, where their files are, their defaults and their licences.

A model is a diffusers pipeline folder of one of three families. A preset is such a folder put together by `medm models pull` in the
folder of models; docs/models.md says what lies where, so that it can as well be copied by hand. Nothing here reads weights.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from medm.errors import BadInput, Unavailable
from medm.weights import tensors_of

PIPELINE = "StableDiffusionControlNetPipeline"
PARTS = ("tokenizer", "text_encoder", "unet", "controlnet", "vae", "scheduler")


@dataclass(frozen=True)
class Family:
    """Models that are painted with by the same code.

    Attributes:
        pipelines: classes of diffusers' pipelines, as model_index.json names them.
        parts: folders that each of them holds; ControlNets come beside.
        companion: the preset whose ControlNets, tokenizers and IP-Adapter serve a user's own model of this family too.
        sampler, steps, guidance_scale: of a user's own model of this family.
        size: side in pixels of the square pictures that its models were made for.
        memory_gb: that a render at that size needs, about.
    """

    pipelines: tuple[str, ...]
    parts: tuple[str, ...]
    companion: str
    sampler: str
    steps: int
    guidance_scale: float
    size: int
    memory_gb: float


FAMILIES: Mapping[str, Family] = {
    "stable-diffusion": Family(
        pipelines=(PIPELINE, "StableDiffusionPipeline"),
        parts=tuple(part for part in PARTS if part != "controlnet"),
        companion="sd15",
        sampler="ddim",
        steps=20,
        guidance_scale=7.5,
        size=512,
        memory_gb=8.0,
    ),
    "sdxl": Family(
        pipelines=("StableDiffusionXLPipeline", "StableDiffusionXLControlNetPipeline", "StableDiffusionXLControlNetUnionPipeline"),
        parts=("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet", "vae", "scheduler"),
        companion="sdxl",
        sampler="euler",
        steps=25,
        guidance_scale=6.0,
        size=1024,
        memory_gb=16.0,
    ),
    "z-image": Family(
        pipelines=("ZImagePipeline", "ZImageControlNetPipeline"),
        parts=("tokenizer", "text_encoder", "transformer", "vae", "scheduler"),
        companion="z-image-turbo",
        sampler="flow-euler",
        steps=8,
        guidance_scale=1.0,
        size=1024,
        memory_gb=24.0,
    ),
}


@dataclass(frozen=True)
class Source:
    """Files of one repository on the hub.

    Attributes:
        repo: OWNER/NAME.
        files: (path there, path in the model's folder); a path there that ends in `*` means all that match, and goes with a folder here.
        control: the kind of control image that they are for; None: what every render needs.
        gb: to download, about.
    """

    repo: str
    files: tuple[tuple[str, str], ...]
    gb: float
    control: str | None = None


@dataclass(frozen=True)
class Preset:
    """A model by name.

    Attributes:
        name: what settings call it.
        folder: of the diffusers pipeline, or a single .safetensors file.
        family: key of FAMILIES.
        control: control images when the settings name none, written as in the settings.
        kinds: of control images that it can be given.
        sampler, steps, guidance_scale: when the settings name none; guidance scale 1 asks the network once a step instead of twice.
        size: side in pixels of the square pictures that it was made for.
        description: one line for an artist.
        licence: SPDX identifier, or what the model's maker calls it.
        forbids: what the licence does not allow, in words.
        memory_gb: main or GPU memory that a render at its own size needs, about.
        sources: where its files come from; none: it is not to be had from the hub.
        reference: where the files come from that let a take follow a reference picture.
        loras: files in the folder that belong to it, and how much each counts.
        spacing: of the sampler's timesteps, if not the folder's own.
    """

    name: str
    folder: Path
    family: str
    control: str
    kinds: tuple[str, ...]
    sampler: str
    steps: int
    guidance_scale: float
    size: int
    description: str
    licence: str
    memory_gb: float
    forbids: str = "see its model card"
    sources: tuple[Source, ...] = ()
    reference: tuple[Source, ...] = ()
    loras: tuple[tuple[str, float], ...] = field(default=())
    spacing: str | None = None

    @property
    def available(self) -> bool:
        """Whether it is there."""
        if self.sources:
            return not self.missing()
        return (self.folder / "model_index.json").is_file() or _family_of_file(self.folder) is not None

    @property
    def download_gb(self) -> float:
        """GB to fetch for all of it but the IP-Adapter."""
        return sum(source.gb for source in self.sources)

    def missing(self) -> list[Source]:
        """The sources that no render can do without of which a file is missing.

        A ControlNet is missed only where none of the preset's is there: a user may have fetched but some.
        """
        absent = [source for source in self.sources if not _complete(source, self.folder)]
        controls = [source for source in self.sources if source.control]
        some = any(source not in absent for source in controls)
        return [source for source in absent if not (source.control and some)]

    def check(self) -> None:
        """Says what keeps it from being a model, before time is spent; reads no weights.

        Raises:
            Unavailable: it is not there, or not all of it.
            BadInput: the folder holds no pipeline of a family that MeDM paints with.
        """
        if self.name == BUNDLED.name and not self.available:
            raise Unavailable(f"the bundled model is missing from {self.folder}; install medm-server anew, or name another model")
        if self.sources and not self.available:
            where = "" if self.folder.parent == default_models() else f" --models {self.folder.parent}"
            what = f"the model in {self.folder} is not whole" if self.folder.is_dir() else f"there is no model in {self.folder}"
            raise Unavailable(f"{what}; `medm models pull {self.name}{where}` fetches it")
        if self.folder.is_file():
            if self.folder.suffix != ".safetensors":
                raise BadInput(f"{self.folder} is no .safetensors file; other files may hold programs and are not opened")
            if _family_of_file(self.folder) is None:
                raise BadInput(f"{self.folder} is no checkpoint of Stable Diffusion 1.5 or XL; give another model's diffusers folder")
            return
        if not self.folder.is_dir():
            near = get_close_matches(self.name, [BUNDLED.name, *PRESETS], n=1)
            what = f"did you mean {near[0]}?" if near else "give a diffusers folder, or bundled for the model that MeDM brings"
            raise Unavailable(f"there is no model in {self.folder}; {what}")
        kind = _pipeline_class(self.folder)
        if kind is None:
            raise BadInput(f"{self.folder} is not a diffusers model: it holds no readable model_index.json")
        if family_of(kind) is None:
            known = [name for family in FAMILIES.values() for name in family.pipelines]
            raise BadInput(f"{self.folder} holds a {kind}, not a {', '.join(known[:-1])} or {known[-1]}")
        parts = FAMILIES[self.family].parts + (("controlnet",) if kind == PIPELINE and not list(self.folder.glob("controlnet-*")) else ())
        missing = [part for part in parts if not (self.folder / part).is_dir()]
        if missing:
            raise BadInput(f"the model in {self.folder} lacks {', '.join(missing)}")
        networks = [part for part in parts if part != "scheduler" and not part.startswith("tokenizer")]
        empty = [part for part in networks if not any((self.folder / part).glob("*.safetensors"))]
        if empty:
            raise BadInput(
                f"the model in {self.folder} has no .safetensors weights in {', '.join(empty)}; "
                "other formats can hold programs and are not opened"
            )


def _complete(source: Source, folder: Path) -> bool:
    for there, here in source.files:
        if not there.endswith("*"):
            if not (folder / here).is_file():
                return False
            continue
        present = [file for file in (folder / here).glob("*") if file.suffix in (".json", ".safetensors")]
        indices = [file for file in present if file.name.endswith(".index.json")]
        wanted = {name for index in indices for name in _document(index).get("weight_map", {}).values()}
        if not present or any(not (folder / here / name).is_file() for name in wanted):
            return False
    return True


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _pipeline_class(folder: Path) -> str | None:
    """What model_index.json calls itself; None where there is no readable one."""
    document = _document(folder / "model_index.json")
    return str(document.get("_class_name")) if document else None


def family_of(pipeline: str | None) -> str | None:
    """Key in FAMILIES of a pipeline's class; None if none of them paints with it."""
    return next((name for name, family in FAMILIES.items() if pipeline in family.pipelines), None)


BUNDLED = Preset(
    name="bundled",
    folder=Path(__file__).parent / "bundled",
    family="stable-diffusion",
    control="normal+depth+lineart",
    kinds=("normal", "depth", "lineart"),
    sampler="ddim",
    steps=20,
    guidance_scale=1.0,
    size=384,
    description="small model that ships with MeDM; looks: terracotta, gold, neon, porcelain",
    licence="CC0-1.0",
    forbids="nothing",
    memory_gb=2.0,
)

_OPENRAIL = (
    "free also for commercial work; not to break the law, harm or exploit minors, defame or harass, spread false information to harm, give "
    "medical advice, discriminate, or decide about people's rights; whoever passes the weights on must pass these terms on"
)


def _pipeline(*folders: str) -> tuple[tuple[str, str], ...]:
    """Files of a pipeline's parts whose weights are kept in half precision beside the others."""
    weights = {"text_encoder": "model", "text_encoder_2": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
    files = [("model_index.json", "model_index.json"), ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json")]
    for folder in folders:
        if folder.startswith("tokenizer"):
            names = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
            files += [(f"{folder}/{name}", f"{folder}/{name}") for name in names]
        else:
            files.append((f"{folder}/config.json", f"{folder}/config.json"))
            files.append((f"{folder}/{weights[folder]}.fp16.safetensors", f"{folder}/{weights[folder]}.safetensors"))
    return tuple(files)


def _network(folder: str, weights: str = "diffusion_pytorch_model.safetensors", config: str = "config.json") -> tuple[tuple[str, str], ...]:
    """Config and weights of one network, to lie in `folder`."""
    return ((config, f"{folder}/config.json"), (weights, f"{folder}/diffusion_pytorch_model.safetensors"))


def _control_v11(kind: str, repo: str) -> Source:
    return Source(f"lllyasviel/{repo}", _network(f"controlnet-{kind}", "diffusion_pytorch_model.fp16.safetensors"), 0.72, control=kind)


def _ip_adapter(weights: str, gb: float) -> tuple[Source, ...]:
    encoder = (
        ("models/image_encoder/config.json", "ip_adapter/image_encoder/config.json"),
        ("models/image_encoder/model.safetensors", "ip_adapter/image_encoder/model.safetensors"),
    )
    return (Source("h94/IP-Adapter", ((weights, f"ip_adapter/{weights.rpartition('/')[2]}"), *encoder), gb),)


_SD15 = Preset(
    name="sd15",
    folder=Path("sd15"),
    family="stable-diffusion",
    control="lineart",
    kinds=("lineart", "normal-bae", "depth", "softedge", "segmentation"),
    sampler="dpm++",
    steps=20,
    guidance_scale=7.5,
    size=512,
    description="Stable Diffusion 1.5 with ControlNet 1.1, as in the paper; the largest choice of looks",
    licence="CreativeML OpenRAIL-M",
    forbids=_OPENRAIL,
    memory_gb=6.0,
    sources=(
        Source("stable-diffusion-v1-5/stable-diffusion-v1-5", _pipeline("tokenizer", "text_encoder", "unet", "vae"), 2.14),
        _control_v11("lineart", "control_v11p_sd15_lineart"),
        _control_v11("normal-bae", "control_v11p_sd15_normalbae"),
        _control_v11("depth", "control_v11f1p_sd15_depth"),
        _control_v11("softedge", "control_v11p_sd15_softedge"),
        _control_v11("segmentation", "control_v11p_sd15_seg"),
        Source("madebyollin/taesd", _network("vae_tiny"), 0.01),
    ),
    reference=_ip_adapter("models/ip-adapter_sd15.safetensors", 2.57),
)

_SDXL = Preset(
    name="sdxl",
    folder=Path("sdxl"),
    family="sdxl",
    control="lineart:0.7, depth:0.5",
    kinds=("depth", "softedge", "lineart", "canny", "normal", "normal-bae", "segmentation"),
    sampler="dpm++",
    steps=25,
    guidance_scale=6.0,
    size=1024,
    description="Stable Diffusion XL with one ControlNet for all control images; sharper, for frames of about a million pixels",
    licence="CreativeML OpenRAIL++-M; its ControlNet Apache-2.0",
    forbids=_OPENRAIL,
    memory_gb=14.0,
    sources=(
        Source(
            "stabilityai/stable-diffusion-xl-base-1.0",
            _pipeline("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet"),
            6.78,
        ),
        Source("madebyollin/sdxl-vae-fp16-fix", _network("vae"), 0.33),
        Source(
            "xinsir/controlnet-union-sdxl-1.0",
            _network("controlnet", "diffusion_pytorch_model_promax.safetensors", "config_promax.json"),
            2.51,
        ),
        Source("madebyollin/taesdxl", _network("vae_tiny"), 0.01),
    ),
    reference=_ip_adapter("sdxl_models/ip-adapter_sdxl_vit-h.safetensors", 3.23),
)

_Z_IMAGE = Preset(
    name="z-image-turbo",
    folder=Path("z-image-turbo"),
    family="z-image",
    control="depth:0.75",
    kinds=("canny", "lineart", "softedge", "depth"),
    sampler="flow-euler",
    steps=8,
    guidance_scale=1.0,
    size=1024,
    description="Z-Image-Turbo (6 billion parameters, 8 steps) with its union ControlNet; follows long prompts, knows no negative ones",
    licence="Apache-2.0",
    forbids="nothing but the removal of its notices",
    memory_gb=24.0,
    sources=(
        Source(
            "Tongyi-MAI/Z-Image-Turbo",
            (
                ("model_index.json", "model_index.json"),
                *((f"{part}/*", part) for part in ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")),
            ),
            32.8,
        ),
        Source(
            "alibaba-pai/Z-Image-Turbo-Fun-Controlnet-Union-2.1",
            (("Z-Image-Turbo-Fun-Controlnet-Union-2.1-2601-8steps.safetensors", "controlnet/diffusion_pytorch_model.safetensors"),),
            6.71,
        ),
        Source("madebyollin/taef1", _network("vae_tiny"), 0.01),
    ),
)


def _few_steps(
    base: Preset, name: str, repo: str, weights: str, gb: float, *, description: str, sampler: str, steps: int, spacing: str | None = None
) -> Preset:
    """`base` with a LoRA (all of them OpenRAIL++-M) that lets it paint in a few steps, without a negative prompt."""
    file = f"lora/{name}.safetensors"
    return replace(
        base,
        name=name,
        description=description,
        licence=f"{base.licence}; its LoRA OpenRAIL++-M",
        sampler=sampler,
        steps=steps,
        guidance_scale=1.0,
        spacing=spacing,
        loras=((file, 1.0),),
        sources=(*base.sources, Source(repo, ((weights, file),), gb)),
    )


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        _SD15,
        _few_steps(
            _SD15,
            "sd15-lcm",
            "latent-consistency/lcm-lora-sdv1-5",
            "pytorch_lora_weights.safetensors",
            0.13,
            description="sd15 in 6 steps, by latent consistency; softer",
            sampler="lcm",
            steps=6,
        ),
        _few_steps(
            _SD15,
            "sd15-hyper",
            "ByteDance/Hyper-SD",
            "Hyper-SD15-4steps-lora.safetensors",
            0.27,
            description="sd15 in exactly 4 steps, by Hyper-SD",
            sampler="ddim",
            steps=4,
            spacing="trailing",
        ),
        _SDXL,
        _few_steps(
            _SDXL,
            "sdxl-lcm",
            "latent-consistency/lcm-lora-sdxl",
            "pytorch_lora_weights.safetensors",
            0.39,
            description="sdxl in 6 steps, by latent consistency; softer",
            sampler="lcm",
            steps=6,
        ),
        _few_steps(
            _SDXL,
            "sdxl-lightning",
            "ByteDance/SDXL-Lightning",
            "sdxl_lightning_4step_lora.safetensors",
            0.39,
            description="sdxl in exactly 4 steps, by SDXL-Lightning",
            sampler="euler",
            steps=4,
            spacing="trailing",
        ),
        _Z_IMAGE,
    )
}
"""The presets that can be pulled. Names of files and sizes as the repositories had them when this was written; see docs/models.md."""


def default_models() -> Path:
    """The folder of models of whoever works on the command line: MEDM_MODELS, or in the user's data folder."""
    import platformdirs

    given = os.environ.get("MEDM_MODELS")
    return Path(given).expanduser() if given else platformdirs.user_data_path("medm", appauthor=False) / "models"


def preset_of(name: str, models: Path | None = None) -> Preset:
    """The preset called `name`, or one for the user's own model of that name.

    Args:
        name: of a preset, of a folder or a .safetensors file in `models`, or, with no `models`, also a path.
        models: the folder of models, a server's; None: the user's own, and paths mean files of this machine.
    """
    if name == BUNDLED.name:
        return BUNDLED
    if name in PRESETS:
        row = PRESETS[name]
        return replace(row, folder=(models or default_models()) / row.folder)
    folder = models / name if models is not None else Path(name).expanduser()
    if models is None and not folder.exists() and (default_models() / name).exists():
        folder = default_models() / name
    family = family_of(_pipeline_class(folder)) or _family_of_file(folder) or "stable-diffusion"
    own = FAMILIES[family]
    return Preset(
        name=name,
        folder=folder,
        family=family,
        control="lineart" if (folder / "controlnet").is_dir() else "none",
        kinds=(),
        sampler=own.sampler,
        steps=own.steps,
        guidance_scale=own.guidance_scale,
        size=own.size,
        description="a model of the user's",
        licence="see its model card",
        memory_gb=own.memory_gb,
    )


def _family_of_file(file: Path) -> str | None:
    """The family of a single-file checkpoint, by the tensors that it names; None if it is no such file."""
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    names = tensors_of(file)
    if "model.diffusion_model.input_blocks.0.0.weight" not in names:
        return None
    if any(name.startswith("conditioner.embedders.1.model.") for name in names):
        return "sdxl"
    return "stable-diffusion" if any(name.startswith("cond_stage_model.transformer.") for name in names) else None


_KIND = r"[a-z]+(?:-[a-z]+)*(?:@[0-9.]+)?"


@dataclass(frozen=True)
class ControlRequest:
    """Control images of one network: several kinds are put side by side."""

    kinds: tuple[str, ...]
    weight: float

    @property
    def name(self) -> str:
        """What its network is called: the kinds without the width of lines, `lineart`, `normal+depth`."""
        return "+".join(kind.partition("@")[0] for kind in self.kinds)


def parse_control(text: str) -> tuple[ControlRequest, ...]:
    """The networks that a `control` setting asks for: `lineart`, `lineart:0.8, depth:0.5`, `normal+depth`; `none`: no network.

    Raises BadInput where it is not written so; which kinds there are is known to `medm.diffusion.control`.
    """
    if text.strip() == "none":
        return ()
    requests = []
    for entry in text.split(","):
        match = re.fullmatch(rf"\s*({_KIND}(?:\s*\+\s*{_KIND})*)\s*(?::\s*([0-9.]+)\s*)?", entry)
        weight = _number(match[2]) if match else None
        if match is None or weight is None or weight > 2.0:
            raise BadInput(f"control: {entry.strip()!r} is not KIND, KIND:WEIGHT or KIND+KIND, with a weight from 0 to 2")
        requests.append(ControlRequest(tuple(kind.strip() for kind in match[1].split("+")), weight))
    return tuple(requests)


def parse_weights(text: str) -> tuple[tuple[str, float], ...]:
    """(file, how much it counts) of a `lora` setting, `style.safetensors:0.8, detail.safetensors`; BadInput where it is not written so."""
    files = []
    for entry in filter(None, (entry.strip() for entry in text.split(","))):
        match = re.fullmatch(r"(.*\.safetensors)(?::([0-9.]+))?", entry)
        weight = _number(match[2]) if match else None
        if match is None or weight is None:
            raise BadInput(f"lora: {entry!r} is no .safetensors file; write FILE.safetensors or FILE.safetensors:WEIGHT")
        files.append((match[1], weight))
    return tuple(files)


def parse_embeddings(text: str) -> tuple[str, ...]:
    """The files of an `embeddings` setting, `style.safetensors, other.safetensors`; BadInput where it is not written so."""
    files = tuple(filter(None, (entry.strip() for entry in text.split(","))))
    for name in files:
        if not name.endswith(".safetensors"):
            raise BadInput(f"embeddings: {name!r} is no .safetensors file; others may hold programs and are not opened")
    return files


def _number(text: str | None) -> float | None:
    try:
        return 1.0 if text is None else float(text)
    except ValueError:
        return None

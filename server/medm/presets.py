"""What MeDM knows about a model before loading it: where it is, which control images it takes, its defaults and its licence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medm.errors import BadInput, Unavailable

PIPELINE = "StableDiffusionControlNetPipeline"
PARTS = ("tokenizer", "text_encoder", "unet", "controlnet", "vae", "scheduler")


@dataclass(frozen=True)
class Preset:
    """A model by name.

    Attributes:
        name: what settings call it.
        folder: of the diffusers pipeline.
        control: kinds of control images side by side, in the order of the ControlNet's input channels (see medm.diffusion.control).
        guidance_scale: classifier-free guidance when the settings name none; 1 asks the network once a step instead of twice.
        description: one line for an artist.
        licence: SPDX identifier, or what the model's maker calls it.
        memory_gb: main or GPU memory that a render at 384 x 216 needs, about.
    """

    name: str
    folder: Path
    control: tuple[str, ...]
    guidance_scale: float
    description: str
    licence: str
    memory_gb: float

    @property
    def available(self) -> bool:
        """Whether its folder is there."""
        return (self.folder / "model_index.json").is_file()

    def check(self) -> None:
        """Says what keeps the folder from being a model, before time is spent; reads no weights.

        Raises:
            Unavailable: there is no such folder.
            BadInput: it is not a Stable Diffusion ControlNet pipeline of diffusers.
        """
        if self is BUNDLED and not self.available:
            raise Unavailable(f"the bundled model is missing from {self.folder}; install medm-server anew, or name another model")
        if not self.folder.is_dir():
            raise Unavailable(f"there is no model in {self.folder}; give a diffusers folder, or bundled for the model that MeDM brings")
        try:
            document: Any = json.loads((self.folder / "model_index.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise BadInput(f"{self.folder} is not a diffusers model: it holds no readable model_index.json") from None
        kind = document.get("_class_name") if isinstance(document, dict) else None
        if kind != PIPELINE:
            raise BadInput(f"{self.folder} holds a {kind}, not a {PIPELINE}")
        missing = [part for part in PARTS if not (self.folder / part).is_dir()]
        if missing:
            raise BadInput(f"the model in {self.folder} lacks {', '.join(missing)}")


BUNDLED = Preset(
    name="bundled",
    folder=Path(__file__).parent / "bundled",
    control=("normal", "depth", "lineart"),
    guidance_scale=1.0,
    description="small model that ships with MeDM; looks: terracotta, gold, neon, porcelain",
    licence="CC0-1.0",
    memory_gb=2.0,
)


def preset_of(name: str, models: Path | None = None) -> Preset:
    """The preset called `name`, or one for the folder of that name: a Stable Diffusion with a lineart ControlNet, as in the paper.

    Args:
        name: `bundled`, or a folder.
        models: what the folder's name is relative to, as a server's are; None: the working folder, as on the command line.
    """
    if name == BUNDLED.name:
        return BUNDLED
    return Preset(
        name=name,
        folder=Path(name).expanduser() if models is None else models / name,
        control=("lineart",),
        guidance_scale=7.5,
        description="a diffusers folder of the user's",
        licence="see its model card",
        memory_gb=8.0,
    )

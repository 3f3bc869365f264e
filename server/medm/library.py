"""The models of this machine: what is there, what would fit, and whether what is there is whole. Fetches nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medm.errors import BadInput
from medm.presets import BUNDLED, PRESETS, Preset, default_models, preset_of
from medm.progress import Progress, silent
from medm.weights import is_union, is_whole, tensors_of

RECORD = "medm.json"
"""File in a pulled model's folder: where every other came from, how large it is and its digest."""


@dataclass(frozen=True)
class Device:
    """What models are run on here: `cuda`, `mps` or `cpu`, called `name`, with `memory_gb` of it in all."""

    kind: str
    name: str
    memory_gb: float

    def needs(self, preset: Preset) -> float:
        """GB that a render at the preset's own size needs on this device: on a CPU single precision doubles it."""
        return preset.memory_gb * (2.0 if self.kind == "cpu" and preset.name != BUNDLED.name else 1.0)

    def fits(self, preset: Preset) -> bool:
        """Whether that much is there."""
        return self.needs(preset) <= self.memory_gb


def this_device() -> Device:
    """The device that models are run on here."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Device("cuda", str(properties.name), properties.total_memory / 1e9)
    if torch.backends.mps.is_available():
        return Device("mps", "Apple GPU", torch.mps.recommended_max_memory() / 1e9)
    return Device("cpu", "CPU", _main_memory() / 1e9)


def _main_memory() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 16e9


def known_models(models: Path | None = None) -> list[Preset]:
    """The bundled model, every preset, there or not, and every other model in the folder of models."""
    folder = models or default_models()
    presets = [preset_of(name, folder) for name in PRESETS]
    taken = {preset.folder for preset in presets}
    own = [preset_of(path.name, folder) for path in sorted(folder.glob("*")) if path not in taken]
    return [BUNDLED, *presets, *(preset for preset in own if preset.available)]


def licence_of(preset: Preset) -> str:
    """The preset's licence; of a user's own folder what its model card says."""
    card = preset.folder / "README.md"
    if preset.sources or preset.name == BUNDLED.name or not card.is_file():
        return preset.licence
    found = re.search(r"^license(?:_name)?:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return found[1] if found else preset.licence


def check_model_files(preset: Preset, progress: Progress = silent) -> list[str]:
    """What is wrong with the files of a model that `Preset.check` lets pass, a line each; none: it is whole.

    Reads every file whose digest was noted when it was pulled; of the others only what they say of themselves.
    """
    if preset.folder.is_file():
        return [] if is_whole(preset.folder) else [f"{preset.folder.name} is shorter or longer than it says; get it anew"]
    record = record_of(preset.folder)
    files = [file for file in sorted(preset.folder.rglob("*")) if file.is_file() and file.suffix in (".json", ".safetensors", ".txt")]
    complaints = []
    for index, file in enumerate(files):
        name = file.relative_to(preset.folder).as_posix()
        progress(index / len(files), name)
        complaints += [f"{name} {what}" for what in _complaints(file, record.get(name))]
    complaints += [f"{name} is missing" for name in record if not (preset.folder / name).is_file()]
    complaints += list(_networks_that_do_not_fit(preset.folder))
    progress(1.0, "done")
    return complaints


def record_of(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """What was noted of the files in a model's folder when they were pulled, by path; nothing where there is no readable record."""
    try:
        document = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {str(name): dict(file) for name, file in document["files"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def _complaints(file: Path, recorded: Mapping[str, Any] | None) -> Iterator[str]:
    if recorded is not None and file.stat().st_size != recorded["size"]:
        yield f"has {file.stat().st_size} bytes, not {recorded['size']}; pull it again"
    elif recorded is not None and recorded.get("sha256") and sha256_of(file) != recorded["sha256"]:
        yield "is damaged: its digest is another; delete it and pull it again"
    elif file.suffix == ".safetensors" and not is_whole(file):
        yield "is no whole .safetensors file"
    elif file.suffix == ".json":
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            yield "is no readable JSON"


def sha256_of(file: Path) -> str:
    """Digest of a file's whole contents."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _networks_that_do_not_fit(folder: Path) -> Iterator[str]:
    """Networks of diffusers whose weights are not those of their config, told by names and shapes: nothing is loaded."""
    import medm.diffusion  # noqa: F401, I001  keeps the libraries from fetching anything, if it comes first
    import diffusers
    import torch
    from diffusers.utils import logging

    logging.set_verbosity_error()
    classes = {name: value[1] for name, value in _index(folder).items() if isinstance(value, list) and value[0] == "diffusers"}
    classes.pop("scheduler", None)
    controlnet = "ZImageControlNetModel" if "transformer" in classes else "ControlNetModel"
    classes |= {path.name: controlnet for path in sorted(folder.glob("controlnet*")) if (path / "config.json").is_file()}
    for part, name in classes.items():
        try:
            config = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
            kind: Any = getattr(diffusers, "ControlNetUnionModel" if is_union(folder / part) else name)
            with torch.device("meta"):
                expected = {name: list(tensor.shape) for name, tensor in kind.from_config(config).state_dict().items()}
        except (OSError, ValueError, AttributeError, TypeError, RuntimeError, LookupError, AssertionError) as error:
            yield f"{part} has no config that diffusers can use ({(str(error) or type(error).__name__).splitlines()[0]})"
            continue
        got = {name: tensor["shape"] for file in (folder / part).glob("*.safetensors") for name, tensor in tensors_of(file).items()}
        wrong = [name for name, shape in got.items() if name in expected and expected[name] != shape]
        present = sum(name in got for name in expected)
        if wrong or present < 0.9 * len(expected):  # old autoencoders call the layers of their one attention otherwise
            yield f"{part}'s weights are not those of its config: {wrong[0] if wrong else 'most are missing'}"


def _index(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadInput(f"{folder} is not a diffusers model: it holds no readable model_index.json") from None
    return document if isinstance(document, dict) else {}

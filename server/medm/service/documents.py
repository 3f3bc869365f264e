"""Documents of the API: a shot's manifest and a job's settings, checked before anything is kept, and what is said of a model."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medm.diffusion.control import channels_of
from medm.diffusion.prompts import PromptSchedule
from medm.errors import BadInput, Unavailable
from medm.library import known_models
from medm.presets import Preset, parse_control, parse_embeddings, parse_weights, preset_of
from medm.settings import RenderSettings

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def one_line(error: ValidationError) -> str:
    """The first complaint of `error` as `where: what`, and how many more there are."""
    complaints = error.errors(include_url=False, include_context=False)
    where = ".".join(str(part) for part in complaints[0]["loc"])
    what = _complaint(complaints[0]["type"], complaints[0]["input"], complaints[0]["msg"])
    more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
    return f"{where}: {what}{more}" if where else f"{what}{more}"


def _complaint(kind: str, value: Any, message: str) -> str:
    """What is wrong with a value, in one line; `kind` and `message` are pydantic's."""
    if kind == "extra_forbidden":
        return "there is no such setting"
    if kind in ("int_parsing", "int_type", "int_from_float"):
        return f"{reprlib.repr(value)} is no whole number"
    if kind in ("float_parsing", "float_type") or str(value).strip().lower() == "nan":
        return f"{reprlib.repr(value)} is no number"
    return message.splitlines()[0]


def read_settings(document: Any) -> RenderSettings:
    """The settings of a take from a JSON object (or the command line's strings); BadInput names the setting that is wrong."""
    try:
        settings = RenderSettings.model_validate(document)
    except ValidationError as error:
        raise BadInput(f"settings: {one_line(error)}") from error
    # the settings that are a language of their own: refused here, and not when the shot has been sent and read
    PromptSchedule.parse(settings.prompt)
    for request in () if settings.control is None else parse_control(settings.control):
        channels_of(request.kinds)
    parse_weights(settings.lora)
    parse_embeddings(settings.embeddings)
    return settings


def files_of_manifest(manifest: Any) -> list[str]:
    """Paths, relative to the shot folder and with `/`, of all files that a shot.json lists.

    Raises BadInput where it is no shot manifest of version 1, or lists a path that could lead out of the shot's folder. What the
    rest of the document says is checked by `medm.shot.Shot` when the job runs.
    """
    if not isinstance(manifest, Mapping) or manifest.get("format") != "medm-shot":
        raise BadInput("this is not the shot.json of a MeDM shot")
    if manifest.get("version") != 1:
        raise BadInput(f"this server reads shots of version 1, not {manifest.get('version')!r}; use matching versions of add-on and server")
    frames = manifest.get("frames")
    if not isinstance(frames, list) or not frames:
        raise BadInput("the shot has no frames")
    paths: list[str] = []
    for frame in frames:
        if not isinstance(frame, Mapping) or not isinstance(frame.get("data"), str):
            raise BadInput("a frame of the shot names no data file")
        paths.append(frame["data"])
        paths.extend(frame[kind] for kind in ("rest", "beauty") if frame.get(kind) is not None)
    references = manifest.get("references", [])
    if not isinstance(references, list):
        raise BadInput("the shot's references are no list of files")
    paths.extend(references)
    for path in paths:
        if not isinstance(path, str) or len(path) > 300 or not all(_PART.fullmatch(part) for part in path.split("/")):
            raise BadInput(f"the shot lists a file name that is not allowed: {path!r}")
        if path == "shot.json":
            raise BadInput("the shot lists shot.json among its files")
    if len(set(paths)) != len(paths):
        raise BadInput("the shot lists the same file twice")
    return paths


def check_fits(manifest: Mapping[str, Any], settings: RenderSettings) -> None:
    """Refuses, before a job is queued, settings that need what the shot does not bring.

    Raises:
        BadInput: no beauty to paint over or to keep the rest of; a reference picture that the shot does not list: a client may name no
            other file of this machine.
    """
    if any(frame.get("beauty") is None for frame in manifest["frames"]):
        if settings.mode == "assistive":
            raise BadInput("assistive rendering needs your own render of every frame, and this shot has none; export it with the beauty")
        if settings.paint is not None:
            raise BadInput("what is not painted keeps your own render, and this shot has none; export it with the beauty")
    if settings.reference is not None and settings.reference not in manifest.get("references", []):
        raise BadInput(f"the shot brings no reference picture {settings.reference!r}; send it with the shot, by --reference")


def check_model(name: str, models: Path) -> None:
    """Refuses, before a job is queued, a model that it could not be painted with.

    It is the bundled one, a preset or the name of a folder or file in `models`, the server's own: a client may name nothing else of this
    machine.

    Raises:
        BadInput: the name could lead elsewhere, or the folder is no model.
        Unavailable: there is no such folder.
    """
    if not _PART.fullmatch(name):
        raise BadInput(f"the server paints with bundled or with a folder in {models}, and {name!r} names none")
    preset_of(name, models).check()


def check_names(settings: RenderSettings, models: Path) -> None:
    """Refuses, before a job is queued, LoRA weights and textual inversions that are not in the server's `loras` and `embeddings`.

    Raises:
        BadInput: a name could lead elsewhere, or is not that of a .safetensors file.
        Unavailable: there is no such file.
    """
    for kind, names in (
        ("loras", [name for name, _ in parse_weights(settings.lora)]),
        ("embeddings", parse_embeddings(settings.embeddings)),
    ):
        for name in names:
            if not _PART.fullmatch(name):
                raise BadInput(f"the server takes {kind} by the names of files in {models / kind}, and {name!r} is none")
            if not (models / kind / name).is_file():
                raise Unavailable(f"there is no {name} in {models / kind}")


def models_there(models: Path) -> list[Preset]:
    """The bundled model, and every model that is in a server's own folder of models."""
    return [preset for preset in known_models(models) if preset.available and _PART.fullmatch(preset.name)]


def model_document(preset: Preset) -> dict[str, Any]:
    """What an artist wants to know before choosing a model; `id` is what the setting `model` is then."""
    return {
        "id": preset.name,
        "description": preset.description,
        "licence": preset.licence,
        "memory_gb": preset.memory_gb,
        "available": preset.available,
        "forbids": preset.forbids,
        "control": preset.control,
        "kinds": list(preset.kinds),
        "size": preset.size,
        "steps": preset.steps,
        "guidance_scale": preset.guidance_scale,
    }

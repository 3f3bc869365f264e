"""A take of a shot: from the shot folder to painted frames, in both modes, full (from noise) and assistive (SDEdit over the beauty)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import medm
from medm.correspondence import Correspondence, analyse
from medm.correspondence.facts import clear_views, confidence, gather_facts
from medm.diffusion import masks
from medm.diffusion.agreement import harmonise_result
from medm.diffusion.control import control_images, facts_of, view_of
from medm.diffusion.memory import Chunk, in_chunks
from medm.diffusion.models import Model
from medm.diffusion.sampling import Clip, Sampler, check_finite
from medm.diffusion.take import naming_what_cannot_be_written, write_take
from medm.errors import BadInput
from medm.evaluate import measure
from medm.harmonize import Harmonizer
from medm.progress import Progress, part, phased, silent
from medm.settings import RenderSettings
from medm.shot import GBuffer, Shot, read_reference

_CHUNK_PIXELS = {"cpu": 2**18, "cuda": 2**19, "mps": 2**18}
"""Pixels of frames that the networks see at once, by device: bounds their memory whatever the length of the clip.

On a CPU three frames of 384 x 216 together were a tenth to a fifth faster than six, measured on one thread.
"""


def render_take(shot: Shot, settings: RenderSettings, out: Path, progress: Progress = silent, models: Path | None = None) -> dict[str, Any]:
    """Paints `shot` and writes the take to `out`: frames/, preview.mp4, scan.png and, last, take.json; returns what take.json says.

    The same shot, settings and machine give the same frames; on a GPU within rounding, because it sums in any order. `progress` may
    raise Cancelled; frames already written stay. `models`: where the settings' model is looked for, see `medm.presets.preset_of`.

    Raises:
        BadInput: the shot or the settings cannot be rendered (assistive without a beauty, a size the model cannot paint).
        Unavailable: the model is not there, memory does not hold even one frame, or the take cannot be written.
    """
    _check_shot(shot, settings)
    progress(0.0, "load model")
    model = Model.load(settings, models, _reference(shot, settings))
    _check_size(shot, model)
    model.check_steps(model.steps)
    with naming_what_cannot_be_written(out):
        (out / "frames").mkdir(parents=True, exist_ok=True)  # now, and not when hours of work are to be kept
    gbuffer = shot.gbuffer(part(progress, 0.02, 0.06))
    found = analyse(
        shot, gbuffer, settings.coding, part(progress, 0.06, 0.12), reidentify=settings.reidentify, device=model.device, in_place=True
    )
    frames, notes = paint(shot, gbuffer, found, model, settings, part(progress, 0.12, 0.95))
    progress(0.95, "write take")
    document: dict[str, Any] = {
        "format": "medm-take",
        "version": 1,
        "shot": shot.manifest.name,
        "settings": settings.model_dump(),
        "model": model.describe(),
        **notes,
        "versions": {"medm": medm.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
        "device": _device_name(model.device),
        "metrics": measure(frames, found, gbuffer.object_id),
    }
    write_take(shot, frames, out, document, part(progress, 0.95, 1.0))
    progress(1.0, "done")
    return document


def paint(
    shot: Shot, gbuffer: GBuffer, found: Correspondence, model: Model, settings: RenderSettings, progress: Progress = silent
) -> tuple[npt.NDArray[np.uint8], Mapping[str, Any]]:
    """The painted frames, uint8 (T, H, W, 3), and what is to be noted of how they were painted."""
    length, height, width = gbuffer.depth.shape
    chunk = max(1, _CHUNK_PIXELS[model.device.type] // (height * width))
    networks, autoencoder = Chunk(chunk), Chunk(chunk)
    coverage = None if settings.paint is None else masks.painted(shot, gbuffer.object_id, settings.paint)
    needs_beauty = settings.mode == "assistive" or coverage is not None
    beauty = shot.beauty(part(progress, 0.0, 0.02)) if needs_beauty else None
    harmonizer = _harmonizer(shot, gbuffer, found, settings, model.device)
    clip = Clip(
        found.codes,
        shot.frame_numbers,
        _controls(shot, gbuffer, model),
        torch.from_numpy(beauty).permute(0, 3, 1, 2) if beauty is not None and settings.mode == "assistive" else None,
    )
    sampler = Sampler(model, settings, clip, harmonizer, networks, autoencoder)
    latents = sampler.sample(part(progress, 0.02, 0.92))

    decoding = phased(part(progress, 0.92, 0.97), "decode")
    decoded = torch.cat(list(in_chunks(lambda first, last: model.decode(latents[first:last]), length, autoencoder, decoding)))
    check_finite(decoded, model, "when decoding")
    progress(0.97, "harmonise")
    decoded = harmonise_result(decoded, harmonizer, settings, torch.from_numpy(gbuffer.object_id).to(decoded.device))
    frames = _pictures(decoded)
    if coverage is not None and beauty is not None:
        frames = masks.composite(frames, beauty, coverage)
    return frames, {"guided_steps": sampler.guided}


def _controls(shot: Shot, gbuffer: GBuffer, model: Model) -> list[Tensor]:
    """The control images of all frames, one (T, channels, H, W) for each that the model wants, float16: they are seen by networks alone."""
    facts = facts_of(gbuffer, {number: thing.name for number, thing in shot.objects.items()})
    length, height, width = gbuffer.depth.shape
    controls = [torch.empty(length, control.channels, height, width, dtype=torch.float16) for control in model.controls]
    for t in range(length) if controls else ():
        view = view_of(gbuffer, shot.cameras, [t])
        for images, control in zip(controls, model.controls, strict=True):
            images[t] = torch.from_numpy(control_images(view, control.kinds, control.channels, facts))[0]
    return controls


def _harmonizer(shot: Shot, gbuffer: GBuffer, found: Correspondence, settings: RenderSettings, device: torch.device) -> Harmonizer:
    """The harmoniser of the shot's codes, with what the settings' way to harmonise needs to know of the pixels."""
    codes, weights, clear = found.codes, None, None
    if settings.w > 0.0 and settings.harmonisation == "weighted":
        weights = confidence(gather_facts(codes, gbuffer, shot.cameras), codes)
    if settings.w > 0.0 and settings.harmonisation in ("key", "local"):
        clear = clear_views(codes, gbuffer, shot.cameras)
    return Harmonizer(codes.codes, codes.count, device, weights, clear)


def _pictures(frames: Tensor) -> npt.NDArray[np.uint8]:
    """Frames (T, 3, H, W) in -1 to 1 as pictures (T, H, W, 3) uint8."""
    pictures = np.empty((len(frames), *frames.shape[2:], 3), np.uint8)
    for picture, frame in zip(pictures, frames, strict=True):
        picture[...] = frame.float().mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pictures


def _reference(shot: Shot, settings: RenderSettings) -> Any:
    """The picture whose look is to be followed: one that came with the shot, or a file of the command line's."""
    if settings.reference is None:
        return None
    return (
        shot.reference(settings.reference) if settings.reference in shot.manifest.references else read_reference(Path(settings.reference))
    )


def _check_shot(shot: Shot, settings: RenderSettings) -> None:
    if settings.mode == "assistive" and not shot.has_beauty:
        raise BadInput(f"{shot.manifest.name} was exported without its beauty, which assistive rendering paints over")
    if settings.paint is not None:
        masks.select(shot.manifest, settings.paint)


def _check_size(shot: Shot, model: Model) -> None:
    multiple = model.size_multiple
    width, height = shot.manifest.width, shot.manifest.height
    if width % multiple or height % multiple:
        raise BadInput(f"{width} x {height} cannot be painted: this model needs width and height to be multiples of {multiple}")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)

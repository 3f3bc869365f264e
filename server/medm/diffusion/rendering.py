"""A take of a shot: from the shot folder to painted frames, in both modes, full (from noise) and assistive (SDEdit over the beauty)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image
from torch import Tensor

import medm
from medm.diffusion import masks
from medm.diffusion.agreement import harmonise_result, storage
from medm.diffusion.memory import Chunk, in_chunks
from medm.diffusion.models import Model
from medm.diffusion.plan import ModelFacts, Plan, plan
from medm.diffusion.preview import Preview
from medm.diffusion.sampling import Clip, Sampler, check_finite, clip_noise
from medm.diffusion.seen import Seen, flows_to_prev, look_at
from medm.diffusion.take import naming_what_cannot_be_written, write_take
from medm.diffusion.windows import Carry, blend, windows
from medm.errors import BadInput
from medm.evaluate import measure
from medm.harmonize import Harmonizer
from medm.progress import Progress, part, phased, silent
from medm.settings import RenderSettings
from medm.shot import Int32, Shot, read_reference


def render_take(
    shot: Shot,
    settings: RenderSettings,
    out: Path,
    progress: Progress = silent,
    models: Path | None = None,
    preview: Callable[[Image], None] | None = None,
) -> dict[str, Any]:
    """Paints `shot` and writes the take to `out`: frames/, preview.mp4, scan.png and, last, take.json; returns what take.json says.

    The same shot, settings and machine give the same frames; on a GPU within rounding, because it sums in any order. Where the settings
    leave the window open it is chosen by the memory that is free, and with other windows other frames are painted: take.json says which
    (`window`, the most frames of one, and `windows`, the first frame of each and the one after its last, counted from 0), and the setting
    `window` brings them back.

    Args:
        shot: to paint.
        settings: what it is painted with.
        out: folder of the take, not the shot's; frames there that an earlier take has and this one has not are removed.
        progress: may raise Cancelled; frames already written stay.
        models: a server's folder, where the settings' model is looked for (see `medm.presets.preset_of`); then references come with the
            shot. None: the user's own, and references may be any file.
        preview: is handed a small picture of the middle frame now and then, as it stands by then.

    Raises:
        BadInput: the shot or the settings cannot be rendered (assistive without a beauty, a size the model cannot paint, a take in the
            shot's own folder).
        Unavailable: the model is not there, memory does not hold even one frame, or the take cannot be written.
    """
    _check_shot(shot, settings)
    if out.exists() and out.samefile(shot.folder):
        raise BadInput(f"{out} is the shot's own folder; choose another folder for the take")
    progress(0.0, "load model")
    model = Model.load(settings, models, _reference(shot, settings, models))
    _check_size(shot, model)
    model.check_steps(model.steps)
    with naming_what_cannot_be_written(out):
        (out / "frames").mkdir(parents=True, exist_ok=True)  # now, and not when hours of work are to be kept
    planned = plan_of(shot, settings, model)
    seen = look_at(shot, settings, model.controls, model.device, part(progress, 0.02, 0.08), read=planned.read, flows=planned.flows)
    frames, notes = paint(shot, seen, model, settings, planned, part(progress, 0.08, 0.97), None if preview is None else Preview(preview))
    found, object_id = seen.found, seen.object_id
    del seen  # control images and how well pixels see make room for what measuring works with
    progress(0.97, "write take")
    document: dict[str, Any] = {
        "format": "medm-take",
        "version": 1,
        "shot": shot.manifest.name,
        "settings": settings.model_dump(),
        "model": model.describe(),
        **notes,
        "versions": {"medm": medm.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
        "device": _device_name(model.device),
        "metrics": measure(frames, found, object_id, None if planned.flows else flows_to_prev(shot, planned.read)),
    }
    write_take(shot, frames, out, document, part(progress, 0.97, 1.0))
    progress(1.0, "done")
    return document


def plan_of(shot: Shot, settings: RenderSettings, model: Model) -> Plan:
    """How much of the shot is worked on at once, by the memory that is free now that the model is loaded."""
    width, height = shot.size
    return plan(len(shot), height, width, ModelFacts.loaded(model), model.device, settings)


def paint(
    shot: Shot,
    seen: Seen,
    model: Model,
    settings: RenderSettings,
    planned: Plan,
    progress: Progress = silent,
    preview: Preview | None = None,
) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """The painted frames, uint8 (T, H, W, 3), and what take.json notes of how they were painted."""
    length, height, width = seen.object_id.shape
    coverage = None if settings.paint is None else masks.painted(shot, seen.object_id, settings.paint)
    needs_beauty = settings.mode == "assistive" or coverage is not None
    beauty = shot.beauty(part(progress, 0.0, 0.02)) if needs_beauty else None
    chunks = Chunk(planned.networks), Chunk(planned.autoencoder)
    parts = windows(length, planned.window)
    carry = Carry(seen.found.codes, parts)
    frames = np.empty((length, height, width, 3), np.uint8)
    done, guided = 0, list[int]()
    for place, (first, last, codes) in enumerate(carry):
        own, here = slice(first, last), part(progress, 0.02 + 0.98 * place / len(parts), 0.02 + 0.98 * (place + 1) / len(parts))
        clip = Clip(
            codes,
            shot.frame_numbers[own],
            [images[own] for images in seen.controls],
            torch.from_numpy(beauty[own]).permute(0, 3, 1, 2) if beauty is not None and settings.mode == "assistive" else None,
            clip_noise(model, settings, seen.found.codes, range(first, last)),
            carry,
        )
        harmonizer = Harmonizer(
            codes.codes,
            codes.count,
            model.device
            if planned.clip == "device" and model.device.type == "cuda"
            else "cpu",  # Apple's GPUs share memory, and lack float64
            None if seen.weights is None else seen.weights[own],
            None if seen.clear is None else seen.clear[own],
        )
        painted, guided = _painted(clip, harmonizer, model, settings, chunks, seen.object_id[own], here, preview)
        blend(frames, painted, first, done)
        del clip, harmonizer  # what they hold makes room for the next window's
        done = last
    if coverage is not None and beauty is not None:
        frames = masks.composite(frames, beauty, coverage)
    return frames, {
        "guided_steps": guided,
        "deblurred": carry.deblur,
        "window": planned.window,
        "windows": [list(window) for window in parts],
    }


def _painted(
    clip: Clip,
    harmonizer: Harmonizer,
    model: Model,
    settings: RenderSettings,
    chunks: tuple[Chunk, Chunk],
    object_id: Int32,
    progress: Progress,
    preview: Preview | None,
) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """The pictures of a clip, (T, H, W, 3), and the steps that were guided."""
    networks, autoencoder = chunks
    sampler = Sampler(model, settings, clip, harmonizer, networks, autoencoder, preview)
    latents = sampler.sample(part(progress, 0.0, 0.96))
    ids = torch.from_numpy(object_id).to(harmonizer.device)
    # decoded as it is handed over: a name for it here would keep it while its harmonised copies are made
    frames = harmonise_result(
        _decoded(latents, model, harmonizer.device, autoencoder, part(progress, 0.96, 1.0)), harmonizer, settings, ids, clip.carry
    )
    return _pictures(frames), sampler.guided


def _decoded(latents: Tensor, model: Model, device: torch.device, chunk: Chunk, progress: Progress) -> Tensor:
    """The frames of a clip, (T, 3, H, W) in -1 to 1, on `device`."""
    frames: Tensor | None = None
    first = 0
    for some in in_chunks(
        lambda first, last: model.decode(latents[first:last]), len(latents), chunk, phased(part(progress, 0.0, 0.6), "decode")
    ):
        check_finite(some, model, "when decoding")
        if frames is None:
            frames = torch.empty(len(latents), *some.shape[1:], dtype=storage(model), device=device)
        frames[first : first + len(some)] = some
        first += len(some)
    progress(0.6, "align frames")
    assert frames is not None, "a clip has frames"
    return frames


def _pictures(frames: Tensor) -> npt.NDArray[np.uint8]:
    """Frames (T, 3, H, W) in -1 to 1 as pictures (T, H, W, 3) uint8."""
    pictures = np.empty((len(frames), *frames.shape[2:], 3), np.uint8)
    for picture, frame in zip(pictures, frames, strict=True):
        picture[...] = frame.float().mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pictures


def _reference(shot: Shot, settings: RenderSettings, models: Path | None) -> Image | None:
    """The picture whose look is to be followed: one that came with the shot, or, unless this is a server, a file of the command line's."""
    if settings.reference is None:
        return None
    if models is not None or settings.reference in shot.manifest.references:
        return shot.reference(settings.reference)
    return read_reference(Path(settings.reference))


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

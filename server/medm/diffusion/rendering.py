"""A take of a shot: from the shot folder to painted frames, in both modes, full (from noise) and assistive (SDEdit over the beauty).

The networks see a few frames at a time; only the harmonisation needs the whole clip.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

import medm
from medm.correspondence import Correspondence, analyse
from medm.diffusion.control import View, control_images
from medm.diffusion.guidance import guided
from medm.diffusion.models import Model
from medm.diffusion.noise import initial_noise
from medm.errors import BadInput, Unavailable
from medm.evaluate import measure
from medm.harmonize import Harmonizer
from medm.pictures import horizontal_scan, write_video
from medm.progress import Progress, part, silent
from medm.settings import RenderSettings
from medm.shot import GBuffer, Shot, frame_file

_CHUNK_PIXELS = {"cpu": 2**18, "cuda": 2**19}
"""Pixels of frames that the networks see at once, by device: bounds their memory whatever the length of the clip.

On a CPU three frames of 384 x 216 together were a tenth to a fifth faster than six, measured on one thread.
"""


def render_take(shot: Shot, settings: RenderSettings, out: Path, progress: Progress = silent, models: Path | None = None) -> dict[str, Any]:
    """Paints `shot` and writes the take to `out`: frames/, preview.mp4, scan.png and, last, take.json; returns what take.json says.

    The same shot, settings and machine give the same frames; on a GPU within rounding, because it sums in any order. `progress` may
    raise Cancelled; frames already written stay. `models`: where the settings' model is looked for, see `medm.presets.preset_of`.

    Raises:
        BadInput: the shot or the settings cannot be rendered (assistive without a beauty, a size the model cannot paint).
        Unavailable: the model is not there, or the take cannot be written.
    """
    if settings.mode == "assistive" and not shot.has_beauty:
        raise BadInput(f"{shot.manifest.name} was exported without its beauty, which assistive rendering paints over")
    progress(0.0, "load model")
    model = Model.load(settings.model, models)
    _check_size(shot, model)
    model.check_steps(settings.steps)
    with _naming_what_cannot_be_written(out):
        (out / "frames").mkdir(parents=True, exist_ok=True)  # now, and not when hours of work are to be kept
    gbuffer = shot.gbuffer(part(progress, 0.02, 0.06))
    found = analyse(shot, gbuffer, settings.coding, part(progress, 0.06, 0.12), reidentify=settings.reidentify, device=model.device)
    frames = paint(shot, gbuffer, found, model, settings, part(progress, 0.12, 0.95))
    progress(0.95, "write take")
    document: dict[str, Any] = {
        "format": "medm-take",
        "version": 1,
        "shot": shot.manifest.name,
        "settings": settings.model_dump(),
        "model": {
            "name": model.preset.name,
            "licence": model.preset.licence,
            "control": _control_kinds(model, settings),
            "guidance_scale": _guidance_scale(model, settings),
        },
        "versions": {"medm": medm.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
        "device": str(model.device),
        "metrics": measure(frames, found, gbuffer.object_id),
    }
    with _naming_what_cannot_be_written(out):
        _write_take(shot, frames, out, document, part(progress, 0.95, 1.0))
    progress(1.0, "done")
    return document


def paint(
    shot: Shot, gbuffer: GBuffer, found: Correspondence, model: Model, settings: RenderSettings, progress: Progress = silent
) -> npt.NDArray[np.uint8]:
    """The painted frames, uint8 (T, H, W, 3)."""
    length, height, width = gbuffer.depth.shape
    chunk = max(1, _CHUNK_PIXELS[model.device.type] // (height * width))
    harmonizer = Harmonizer(found.codes.codes, found.codes.count, model.device)
    prompt, negative = model.embed(settings.prompt, settings.negative_prompt)
    guidance_scale = _guidance_scale(model, settings)
    view = View(
        normals=np.stack([camera.camera_normals(n) for camera, n in zip(shot.cameras, gbuffer.normal, strict=True)]),
        depth=gbuffer.depth,
        object_id=gbuffer.object_id,
    )
    control = torch.from_numpy(control_images(view, _control_kinds(model, settings), model.control_channels))
    harmonising: Progress = silent

    def agree(clean: Tensor) -> Tensor:
        decoded = _in_chunks(model.decode, clean, chunk, part(harmonising, 0.0, 0.5))
        return _in_chunks(model.encode, harmonizer.global_mean(decoded), chunk, part(harmonising, 0.5, 1.0))

    scheduler = guided(model.scheduler(), agree, settings.w)
    scheduler.set_timesteps(settings.steps)
    timesteps = scheduler.timesteps
    noise = initial_noise(settings.noise, found.codes, model.latent_channels, model.latent_scale, settings.seed).to(model.device)
    if settings.mode == "assistive":
        # SDEdit: noise the beauty to `strength` of the schedule and go on from there; at least one step is taken
        taken = min(max(round(settings.steps * settings.strength), 1), settings.steps)
        timesteps = timesteps[-taken:]
        beauty = torch.from_numpy(shot.beauty()).permute(0, 3, 1, 2)
        encoding = _phase(part(progress, 0.0, 0.05), "encode beauty")
        clean = _in_chunks(lambda frames: model.encode(frames.float() / 127.5 - 1.0), beauty, chunk, encoding)
        latents = scheduler.add_noise(clean, noise, timesteps[:1].expand(length))
    else:
        latents = noise * scheduler.init_noise_sigma

    sampling = part(progress, 0.05, 0.95)
    for index, timestep in enumerate(timesteps):
        step = part(sampling, index / len(timesteps), (index + 1) / len(timesteps))
        outputs = []
        for first in range(0, length, chunk):
            step(0.5 * first / length, f"paint, step {index + 1} of {len(timesteps)}")
            last = first + chunk
            outputs.append(model.predict(latents[first:last], timestep, control[first:last], prompt, negative, guidance_scale))
        harmonising = _phase(part(step, 0.5, 1.0), f"harmonise, step {index + 1} of {len(timesteps)}")
        latents = scheduler.step(torch.cat(outputs), timestep, latents, return_dict=False)[0]
        _check_finite(latents, model, f"at step {index + 1}")

    decoded = _in_chunks(model.decode, latents, chunk, _phase(part(progress, 0.95, 1.0), "decode"))
    _check_finite(decoded, model, "when decoding")
    if settings.final_harmonisation and settings.w > 0.0:
        decoded = torch.lerp(decoded, harmonizer.feathered_mean(decoded), settings.w)
    pixels = decoded.mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


def _in_chunks(function: Callable[[Tensor], Tensor], frames: Tensor, chunk: int, progress: Progress) -> Tensor:
    done = []
    for first in range(0, len(frames), chunk):
        progress(first / len(frames), "")
        done.append(function(frames[first : first + chunk]))
    return torch.cat(done)


def _check_finite(values: Tensor, model: Model, when: str) -> None:
    # half precision on a GPU overflows with some autoencoders: better a refusal than black frames
    if not values.isfinite().all():
        raise BadInput(f"the model in {model.preset.folder} painted no picture: values beyond all bounds {when}")


def _phase(progress: Progress, name: str) -> Progress:
    """A progress that says what is being done, whatever the phase it is given."""
    return lambda fraction, _: progress(fraction, name)


def _control_kinds(model: Model, settings: RenderSettings) -> list[str]:
    return list(model.preset.control) if settings.control is None else settings.control.split("+")


def _guidance_scale(model: Model, settings: RenderSettings) -> float:
    return model.preset.guidance_scale if settings.guidance_scale is None else settings.guidance_scale


def _check_size(shot: Shot, model: Model) -> None:
    scale = model.latent_scale
    width, height = shot.manifest.width, shot.manifest.height
    if width % scale or height % scale:
        raise BadInput(f"{width} x {height} cannot be painted: this model needs width and height to be multiples of {scale}")


def _write_take(shot: Shot, frames: npt.NDArray[np.uint8], out: Path, document: dict[str, Any], progress: Progress) -> None:
    (out / "take.json").unlink(missing_ok=True)  # of an earlier take, from whose frames this one's are told by nothing else
    for index, (number, frame) in enumerate(zip(shot.frame_numbers, frames, strict=True)):
        progress(index / len(frames), "write take")
        with _aside(out / "frames" / frame_file(number)) as file:
            Image.fromarray(frame).save(file, format="PNG")
    with _aside(out / "preview.mp4") as file:
        write_video(file, frames, shot.manifest.fps)
    with _aside(out / "scan.png") as file:
        horizontal_scan(frames).save(file, format="PNG")
    with _aside(out / "take.json") as file:  # last: its presence says that the take is complete
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """Where to write what becomes `target` once it is whole; nothing is left of what was broken off."""
    file = target.with_name(f"{target.name}.part")
    try:
        yield file
        file.replace(target)
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def _naming_what_cannot_be_written(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the take cannot be written to {out}: {error.strerror or error}") from error

"""What a render takes, known before it begins: where the clip lies, how many frames the networks see at once, and whether all of it fits.

For painting and for `medm plan`. The figures are those of docs/memory.md; chunks that turn out too large are halved while painting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from medm.diffusion.control import channels_of
from medm.diffusion.memory import free_memory
from medm.harmonize import CHUNK_PIXELS
from medm.presets import BUNDLED, Preset, parse_control, preset_of
from medm.settings import RenderSettings

if TYPE_CHECKING:
    from medm.diffusion.models import Model

GB = 1e9

PASSES = 49
"""Bytes a pixel of a shot's passes, as `Shot.gbuffer` reads them; 16 of them are the flows."""
CODES, OCCLUDED, FLOWS, CODING = 4, 1, 16, 6
"""Bytes a pixel of what correspondences are; the last is what coding remembers of the surfaces, measured."""
OBJECT_ID, WEIGHT, CLEAR = 4, 4, 1
"""Bytes a pixel of what else is kept of the passes: the object, how well it is seen, whether clearly."""
LINES = 10
"""Bytes a pixel of what local harmonisation notes of how fast light changes."""
EDGES = 9
"""Frames around a window that are read with it."""

MIXING = 56
"""Bytes a pixel of what the final harmonisation works with, on `CHUNK_PIXELS` or a frame at a time."""

MEASURING, MEASURED_FRAMES = 100, 4
"""Bytes a pixel of what measuring works with, and the frames that it works on at a time; it takes as much as coding for its sums, too."""

_ACTIVATIONS = {"stable-diffusion": (332, 1536), "sdxl": (216, 1536), "z-image": (500, 1536), BUNDLED.name: (120, 128)}
"""Of the networks that denoise and of the autoencoder, bytes a pixel in 16 bits (server/bench/activations.py; Z-Image's are reckoned)."""
_SLACK = 3.0
"""How many times what is alive kernels and the allocator take: 2.5 measured on a CPU with the bundled model."""
_LATENTS = {"stable-diffusion": (8, 4), "sdxl": (8, 4), "z-image": (8, 16), BUNDLED.name: (4, 4)}
"""Pixels to a side of a latent, and channels."""
_LATENT_COPIES = 8
"""Sample, output, estimate, what was agreed on, noise, and what multistep samplers remember."""
_MOST_PIXELS = {"cpu": 2**18, "mps": 2**19, "cuda": 2**22}
"""Of frames that networks see at once: more at a time is no faster."""
_KEEP_FREE = 0.1
"""Share of free memory that is not planned with: others live there too."""
_SHORTEST = 8
"""Frames of the shortest window."""


@dataclass(frozen=True)
class ModelFacts:
    """What a model takes.

    Attributes:
        name: what the table calls it.
        weights: bytes of all its networks.
        latent_scale: pixels to a side of a latent.
        latent_channels: of the latents.
        control_channels: of all its control images together.
        networks: bytes a pixel of a frame that the denoising networks need while they work.
        autoencoder: the same of the autoencoder.
    """

    name: str
    weights: int
    latent_scale: int
    latent_channels: int
    control_channels: int
    networks: float
    autoencoder: float

    @classmethod
    def of(
        cls,
        preset: Preset,
        weights: int | None = None,
        *,
        control_channels: int = 3,
        guidance_scale: float | None = None,
        bytes_per_number: int = 2,
        autoencoder_bytes: int | None = None,
    ) -> ModelFacts:
        """Reckoned by the model's family.

        Args:
            preset: the model.
            weights: bytes; None: by the sizes of its files, or where they are not there by what its table says.
            control_channels: of all its control images together.
            guidance_scale: above 1 every frame is shown to the networks twice; None: the preset's.
            bytes_per_number: of the networks' activations, 2 or 4.
            autoencoder_bytes: of the autoencoder's, if that is another.
        """
        key = preset.name if preset.name in _ACTIVATIONS else preset.family
        networks, autoencoder = (_SLACK * size / 2 for size in _ACTIVATIONS[key])
        scale, channels = _LATENTS[key]
        twice = 2 if (preset.guidance_scale if guidance_scale is None else guidance_scale) > 1 else 1
        return cls(
            preset.name,
            _weights(preset, bytes_per_number) if weights is None else weights,
            scale,
            channels,
            control_channels,
            networks * bytes_per_number * twice,
            autoencoder * (autoencoder_bytes or bytes_per_number),
        )

    @classmethod
    def wanted(cls, settings: RenderSettings, device: torch.device, models: Path | None = None) -> ModelFacts:
        """Of the model that settings mean, before it is loaded; a preset may as well not be there yet.

        Raises:
            Unavailable: there is no such model.
            BadInput: it is none that MeDM paints with; its control images are not known.
        """
        from medm.diffusion.families import FAMILIES  # which take seconds to import

        preset = preset_of(settings.model, models)
        if not preset.sources:
            preset.check()
        requests = parse_control(preset.control if settings.control is None else settings.control)
        channels = [channels_of(request.kinds) for request in requests]
        auto = FAMILIES[preset.family].precision(device) if settings.precision == "auto" else None
        return cls.of(
            preset,
            control_channels=sum(3 if count == 1 else count for count in channels),  # networks of other people's want colours
            guidance_scale=settings.guidance_scale,
            bytes_per_number=auto.itemsize if auto is not None else 4 if settings.precision == "fp32" else 2,
        )

    @classmethod
    def loaded(cls, model: Model) -> ModelFacts:
        """Of a model that is loaded, whose weights and types of numbers are known; they are in memory already, so `weights` is 0."""
        reckoned = cls.of(
            model.preset,
            0,
            control_channels=sum(control.channels for control in model.controls),
            guidance_scale=model.guidance_scale,
            bytes_per_number=model.dtype.itemsize,
            autoencoder_bytes=model.vae_dtype.itemsize,
        )
        return replace(reckoned, latent_scale=model.latent_scale, latent_channels=model.latent_channels)


Place = Literal["device", "host"]
_PLACES: tuple[Place, ...] = ("device", "host")

_PHASES = ("analyse", "look", "paint", "agree", "decode", "finish", "measure")
"""Correspondences are found; what else painting needs is taken from the passes, which are then let go; by turns the networks denoise, and
frames are made to agree; then they are decoded, harmonised, and the take is measured."""


@dataclass(frozen=True)
class Part:
    """One thing that takes memory: what it is, where it lies, bytes, and in which phases of the work."""

    name: str
    place: Place
    size: int
    phases: tuple[str, ...] = _PHASES


@dataclass(frozen=True)
class Plan:
    """How a shot is rendered on a device.

    Attributes:
        length: frames of the shot.
        height, width: pixels.
        model: what it is painted with.
        device: what paints: `cpu`, `cuda`, `mps`.
        free: bytes that may be used, of the device and of main memory; the same memory for a CPU and for Apple's GPUs.
        networks: frames that the denoising networks see at once.
        autoencoder: frames that the autoencoder sees at once.
        clip: where the repository of codes and the decoded frames lie.
        read: frames of the passes that are held at a time while the shot is looked at; None: all.
        flows: whether the flows are kept for measuring the result; else they are read again.
        window: frames that are painted together; None: all.
        parts: what takes how much, for one window.
    """

    length: int
    height: int
    width: int
    model: ModelFacts
    device: str
    free: dict[str, int]
    networks: int
    autoencoder: int
    clip: Place
    read: int | None
    flows: bool
    window: int | None
    parts: tuple[Part, ...]

    def peak(self, place: Place) -> int:
        """Bytes that are needed at most, in one place."""
        mine = [part for part in self.parts if part.place == place or self._one_memory]
        return max(sum(part.size for part in mine if phase in part.phases) for phase in _PHASES)

    @property
    def fits(self) -> bool:
        """Whether free memory is enough."""
        return all(self.peak(place) <= (1 - _KEEP_FREE) * self.free[place] for place in _PLACES)

    @property
    def _one_memory(self) -> bool:
        return self.device != "cuda"

    def __str__(self) -> str:
        """The plan as a table."""
        lines = [
            f"{self.length} frames of {self.width} x {self.height}, {self.model.name} on {self.device}",
            f"  at once: {self.networks} frames in the networks, {self.autoencoder} in the autoencoder",
            f"  passes are read {'whole' if self.read is None else f'{self.read} frames at a time'}; "
            f"painted together: {'all frames' if self.window is None else f'{self.window} frames'}; "
            f"the clip is held {'on the GPU' if self.clip == 'device' and not self._one_memory else 'in main memory'}",
            "",
        ]
        names = {"device": "main" if self._one_memory else "GPU", "host": "main"}
        for part in self.parts:
            if part.size:
                when = "" if part.phases == _PHASES else _named(part.phases)
                lines.append(f"  {part.name:<44}{names[part.place]:<6}{part.size / GB:8.2f} GB  {when}".rstrip())
        lines.append("")
        for place in _PLACES[:1] if self._one_memory else _PLACES:
            lines.append(f"  {names[place] + ' memory at most':<50}{self.peak(place) / GB:8.2f} GB  of {self.free[place] / GB:.1f} GB free")
        if not self.fits:
            lines.append("  may not fit: take fewer or smaller frames, or a smaller model")
        return "\n".join(lines)


def _named(phases: tuple[str, ...]) -> str:
    """Phases in short: the first and the last of those that follow one another."""
    first, last = _PHASES.index(phases[0]), _PHASES.index(phases[-1])
    if len(phases) > 2 and phases == _PHASES[first : last + 1]:
        return f"{phases[0]} to {phases[-1]}"
    return ", ".join(phases)


def plan(
    length: int,
    height: int,
    width: int,
    model: ModelFacts,
    device: str | torch.device,
    settings: RenderSettings | None = None,
    *,
    free_device: int | None = None,
    free_host: int | None = None,
) -> Plan:
    """How a shot of `length` frames is rendered; it prefers, in this order: all frames together, the clip on the GPU, passes held whole.

    Args:
        length: frames.
        height: pixels.
        width: pixels.
        model: that paints.
        device: it paints on.
        settings: of the take: what they want takes memory. None: the default.
        free_device: bytes of its memory that are free; None: as they are now.
        free_host: bytes of main memory that are free; None: as they are now.

    Returns:
        The plan; where nothing fits, the one that needs least, whose `fits` is False. It may work all the same: sizes are estimates.
    """
    settings = settings or RenderSettings()
    kind = torch.device(device).type
    free = {
        "device": free_memory(device) if free_device is None else free_device,
        "host": free_memory("cpu") if free_host is None else free_host,
    }
    if kind != "cuda":
        free["device"] = free["host"] = min(free.values())
    window = None if settings.window is None or settings.window >= length else settings.window
    base = Plan(length, height, width, model, kind, free, 1, 1, "device", None, True, window, ())
    while True:
        for clip in _PLACES:
            for read, flows in ((None, True), (64, True), (64, False), (16, False)):
                if read is not None and read + EDGES >= length:
                    continue
                found = _with_parts(replace(base, clip=clip, read=read, flows=flows), settings)
                if found.fits:
                    return _with_chunks(found, settings)
        together = length if base.window is None else base.window
        if window is not None or together <= _SHORTEST:
            return found
        base = replace(base, window=max(_SHORTEST, together * 3 // 4))


def _with_parts(one: Plan, settings: RenderSettings) -> Plan:
    """The plan with what takes how much, with the chunks that it has."""
    model, frame = one.model, one.height * one.width
    clip, whole = frame * (one.window or one.length), one.length * frame
    weighing = settings.w > 0.0 and settings.harmonisation != "global"
    weighted, local = (settings.harmonisation == kind for kind in ("weighted", "local"))
    latents = _LATENT_COPIES * 4 * model.latent_channels / model.latent_scale**2
    colours = 12 if one.device == "cpu" else 6  # in 32 bits, or in 16
    copies = 3 if local else 2
    on_gpu = one.clip == "device" and one.device == "cuda"
    codes = CODES if on_gpu or one.window is not None else 0  # else those of the shot serve
    harmoniser = codes + WEIGHT * (weighing and weighted) + 4 * local + CODING
    analyse, look, paint, agree, decode, finish, measure = ((phase,) for phase in _PHASES)
    seeing, painting = analyse + look, paint + agree + decode + finish
    parts = (
        Part("the model's weights", "device", model.weights),
        Part("codes, occlusion, flows" if one.flows else "codes, occlusion", "host", (CODES + OCCLUDED + FLOWS * one.flows) * whole),
        Part("passes", "host", (PASSES - FLOWS) * whole, seeing)
        if one.read is None
        else Part("passes, some", "host", PASSES * (one.read + EDGES) * frame, seeing if one.flows else seeing + measure),
        Part("what coding remembers", "device", CODING * whole, analyse),
        Part("objects", "host", OBJECT_ID * whole, look + painting + measure),
        Part("how well pixels see", "host", WEIGHT * whole if weighing else 0, look + painting if weighted else look),
        Part("which pixels see clearly", "host", 0 if not weighing or weighted else CLEAR * whole, look + painting),
        Part("control images", "host", 2 * model.control_channels * whole, look + painting),
        Part("the beauty", "host", 3 * whole if settings.mode == "assistive" or settings.paint is not None else 0, painting),
        Part("what is painted", "host", 4 * whole if settings.paint is not None else 0, painting),
        Part("latents, noise", "device", int(latents * clip), painting),
        Part("codes and repository", one.clip, harmoniser * clip, painting),
        Part(f"{one.networks} frames in the networks", "device", int(one.networks * frame * model.networks), paint),
        Part(f"{one.autoencoder} frames in the autoencoder", "device", int(one.autoencoder * frame * model.autoencoder), agree + decode),
        Part("decoded frames, harmonised locally", one.clip, (copies * colours + LINES) * clip if local else 0, agree),
        Part("decoded frames", one.clip, colours * clip, decode),
        Part("decoded frames, harmonised at the end", one.clip, (copies * colours + LINES * local + OBJECT_ID * on_gpu) * clip, finish),
        Part("what harmonising them works with", one.clip, MIXING * min(max(CHUNK_PIXELS, frame), clip), finish),
        Part("finished pictures", "host", 3 * whole, (painting if one.window else finish) + measure),
        Part("what measuring works with", "host", MEASURING * min(MEASURED_FRAMES, one.length) * frame + CODING * whole, measure),
    )
    return replace(one, parts=parts)


def _with_chunks(one: Plan, settings: RenderSettings) -> Plan:
    """The plan with the largest chunks that fit and are of use."""
    most = min(max(1, _MOST_PIXELS[one.device] // (one.height * one.width)), one.window or one.length)

    def fits(networks: int, autoencoder: int) -> bool:
        return _with_parts(replace(one, networks=networks, autoencoder=autoencoder), settings).fits

    networks = next((frames for frames in range(most, 1, -1) if fits(frames, 1)), 1)
    autoencoder = next((frames for frames in range(most, 1, -1) if fits(networks, frames)), 1)
    return _with_parts(replace(one, networks=networks, autoencoder=autoencoder), settings)


def _weights(preset: Preset, bytes_per_number: int) -> int:
    """Bytes of a preset's weights: of its files, else the greater part of what its table says that it needs, both in 16 bits."""
    folder = preset.folder
    files: Sequence[int] = [folder.stat().st_size] if folder.is_file() else [file.stat().st_size for file in folder.rglob("*.safetensors")]
    twice = 1 if preset.name == BUNDLED.name else bytes_per_number // 2
    return twice * (sum(files) or int(0.7 * preset.memory_gb * GB))

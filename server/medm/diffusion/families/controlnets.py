"""The ControlNets of a UNet: which of a model's folders serves which control image, and asking any of them in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, ControlNetModel, ControlNetUnionModel
from torch import Tensor

from medm.diffusion.models import ControlInput, read_files
from medm.errors import BadInput, Unavailable
from medm.presets import FAMILIES, ControlRequest, Preset, parse_control, preset_of
from medm.settings import RenderSettings
from medm.weights import is_union

UNION_MODES = {"depth": 1, "softedge": 2, "lineart": 3, "canny": 3, "normal": 4, "normal-bae": 4, "segmentation": 5}
"""Where a union ControlNet (ControlNet++, ProMax or not) has which kind of control image; 0 is for poses."""


@dataclass(frozen=True)
class ControlNet:
    """One network, and which of the model's control images are its. `modes`: of a union ControlNet, one an image."""

    network: Any
    inputs: tuple[int, ...]
    modes: tuple[int, ...] | None = None

    def __call__(
        self,
        x: Tensor,
        timestep: Tensor,
        tokens: Tensor,
        images: Sequence[Tensor],
        weights: Sequence[float],
        added: dict[str, Any],
        guess: bool,
    ) -> tuple[Sequence[Tensor], Tensor]:
        """What it adds to the UNet's blocks on the way down and in the middle, for noisy latents x (N, C, h, w)."""
        if self.modes is None:
            down, mid = self.network(
                x,
                timestep,
                tokens,
                controlnet_cond=images[0],
                conditioning_scale=weights[0],
                guess_mode=guess,
                added_cond_kwargs=added,
                return_dict=False,
            )
            return down, mid
        types = torch.zeros(len(x), self.network.config.num_control_type, device=x.device, dtype=x.dtype)
        types[:, list(self.modes)] = 1
        down, mid = self.network(
            x,
            timestep,
            tokens,
            controlnet_cond=list(images),
            control_type=types,
            control_type_idx=list(self.modes),
            conditioning_scale=list(weights),
            guess_mode=guess,
            added_cond_kwargs=added,
            return_dict=False,
        )
        return down, mid


def open_controlnets(
    preset: Preset, settings: RenderSettings, dtype: torch.dtype, models: Path | None
) -> tuple[tuple[ControlNet, ...], tuple[ControlInput, ...], list[Path]]:
    """The networks that the settings, or else the preset, ask for; what each is given; the files that they were read from.

    Raises:
        Unavailable: there is no network for a kind of control image.
        BadInput: a network cannot be given what is asked.
    """
    requests = parse_control(preset.control if settings.control is None else settings.control)
    by_folder: dict[Path, list[int]] = {}
    for index, request in enumerate(requests):
        by_folder.setdefault(control_folder(request, preset, models), []).append(index)
    networks, controls, files = [], {}, []
    for folder, places in by_folder.items():
        files += read_files(folder)
        union = is_union(folder)
        if not union and len(places) > 1:
            kinds = ", ".join(requests[place].name for place in places)
            raise BadInput(f"{folder} is one ControlNet, and {kinds} are for several; write KIND+KIND if it takes them side by side")
        kind: Any = ControlNetUnionModel if union else ControlNetModel
        network = kind.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)
        modes = tuple(_mode(requests[place], network) for place in places) if union else None
        networks.append(ControlNet(network, tuple(places), modes))
        for place in places:
            controls[place] = ControlInput(requests[place].kinds, network.config.conditioning_channels, requests[place].weight)
    return tuple(networks), tuple(controls[place] for place in sorted(controls)), files


def _mode(request: ControlRequest, network: Any) -> int:
    mode = UNION_MODES.get(request.name)
    if mode is None or mode >= network.config.num_control_type:
        raise BadInput(f"the model's union ControlNet takes {', '.join(UNION_MODES)}, not {request.name}")
    return mode


def control_folder(request: ControlRequest, preset: Preset, models: Path | None) -> Path:
    """The ControlNet for a control image: the model's own for that kind, its only one, or else that of the family's preset."""
    kind = request.name
    companion = preset_of(FAMILIES[preset.family].companion, models)
    places = [preset.folder / f"controlnet-{kind}", preset.folder / "controlnet", companion.folder / f"controlnet-{kind}"]
    if is_union(companion.folder / "controlnet"):  # any other would be for who knows which kind
        places.append(companion.folder / "controlnet")
    for place in places:
        if place.is_dir():
            return place
    own = ", ".join(sorted(folder.name.removeprefix("controlnet-") for folder in preset.folder.glob("controlnet-*")))
    raise Unavailable(
        f"{preset.name} has no ControlNet for {kind}{own and f', but for {own}'}: put one into {preset.folder / f'controlnet-{kind}'}, "
        f"or get those of {companion.name}: `medm models pull {companion.name}`"
    )


def tiny_autoencoder(preset: Preset, dtype: torch.dtype) -> tuple[Any, list[Path]]:
    """The small autoencoder in the model's folder, or None, and its files."""
    folder = preset.folder / "vae_tiny"
    if not folder.is_dir():
        return None, []
    tiny: Any = AutoencoderTiny.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)  # type: ignore[no-untyped-call]
    return tiny, read_files(folder)


def prepare_network(network: Any, compiled: bool) -> None:
    """Ready to run and nothing else: no gradients, channels last for its convolutions, compiled if that is wanted."""
    network.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    if compiled:
        network.compile()

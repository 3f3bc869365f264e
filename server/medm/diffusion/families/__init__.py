"""The families of models, one module each: how they are loaded, what a prompt means to them, what their networks say."""

from medm.diffusion.families.stable_diffusion import StableDiffusion
from medm.diffusion.models import Model

FAMILIES: dict[str, type[Model]] = {"stable-diffusion": StableDiffusion}
"""By the key in `medm.presets.FAMILIES`."""

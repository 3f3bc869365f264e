"""The families of models, one module each: how they are loaded, what a prompt means to them, what their networks say."""

from medm.diffusion.families.sdxl import StableDiffusionXL
from medm.diffusion.families.stable_diffusion import StableDiffusion
from medm.diffusion.families.z_image import ZImage
from medm.diffusion.models import Model

FAMILIES: dict[str, type[Model]] = {"stable-diffusion": StableDiffusion, "sdxl": StableDiffusionXL, "z-image": ZImage}
"""By the key in `medm.presets.FAMILIES`."""

"""MeDM: paints a Blender animation with an image diffusion model, every surface point the same way in every frame."""

__version__ = "0.1.0"

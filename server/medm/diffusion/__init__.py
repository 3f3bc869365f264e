"""Painting: control images from the G-buffer, models, the temporal guidance inside the sampler, and the render of a take."""

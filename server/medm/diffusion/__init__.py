"""Painting: control images from the G-buffer, models, the temporal guidance inside the sampler, and the render of a take."""

import os

# Before the libraries are imported: they fetch and report nothing by themselves, and keep their advice about optional parts to themselves.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

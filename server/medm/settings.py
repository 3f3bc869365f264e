"""What a take is rendered with: one validated document, the same on the command line, on the wire and in take.json."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RenderSettings(BaseModel):
    """Settings of one take. Unknown keys are refused, so that a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    prompt: str = Field(default="a terracotta sculpture", max_length=2000)
    """What to paint."""
    negative_prompt: str = Field(default="", max_length=2000)
    """What not to paint; counts only with a guidance scale above 1."""
    mode: Literal["full", "assistive"] = "full"
    """full: from noise, by the G-buffer alone. assistive: SDEdit over the beauty."""
    strength: float = Field(default=0.5, gt=0.0, le=1.0)
    """Share of the noise schedule that assistive rendering goes through; full rendering always takes all of it."""
    w: float = Field(default=0.8, ge=0.0, le=1.0)
    """Strength of the temporal guidance (equations 7 to 10): 0 is plain per-frame ControlNet."""
    steps: int = Field(default=20, ge=1, le=1000)
    """Of the DDIM sampler."""
    guidance_scale: float | None = Field(default=None, ge=1.0, le=50.0)
    """Classifier-free guidance; None takes the model's own default."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Same seed, same frames."""
    noise: Literal["code", "shared", "independent"] = "code"
    """Initial noise: one sample per surface point, one image shared by all frames, or fresh for every frame."""
    coding: Literal["subpixel", "rounded"] = "subpixel"
    """Flow Coding by continuous trajectories, or the paper's algorithm 1."""
    reidentify: bool = True
    """Surface points that are seen again, after they were hidden or over a cut, take their old code; of subpixel coding."""
    final_harmonisation: bool = True
    """Harmonise the decoded frames once more: removes the autoencoder's own wobble. Has no effect at w = 0."""
    model: str = Field(default="bundled", min_length=1, max_length=1000)
    """`bundled`, or a diffusers folder that holds a Stable Diffusion ControlNet pipeline; a server takes the name of one in its store."""
    control: str | None = Field(default=None, max_length=100, pattern=r"^[a-z]+(\+[a-z]+)*$")
    """Control images of a folder's ControlNet, side by side: `lineart`, `normal+depth`. None: the model's own, lineart for a folder."""

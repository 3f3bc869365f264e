"""What a take is rendered with: one validated document, the same on the command line, on the wire and in take.json."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Sampler = Literal["ddim", "ddpm", "euler", "euler-ancestral", "dpm++", "unipc", "lcm", "flow-euler"]


class RenderSettings(BaseModel):
    """Settings of one take. Unknown keys are refused, so that a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    # what to paint
    prompt: str = Field(default="a terracotta sculpture", max_length=8000)
    """What to paint. By frame numbers it changes on the way, blended between them: `0: dawn, 40: dusk`."""
    negative_prompt: str = Field(default="", max_length=2000)
    """What not to paint; counts only with a guidance scale above 1."""
    mode: Literal["full", "assistive"] = "full"
    """full: from noise, by the G-buffer alone. assistive: SDEdit over the beauty."""
    strength: float = Field(default=0.5, gt=0.0, le=1.0)
    """Share of the noise schedule that assistive rendering goes through; full rendering always takes all of it."""
    paint: str | None = Field(default=None, max_length=4000)
    """Paint only this and keep the rest of the beauty untouched: names with * and ?, `Figure*, collection:Set, !Lamp`. None: everything."""
    reference: str | None = Field(default=None, min_length=1, max_length=1000)
    """A picture whose look the take follows, through the model's IP-Adapter."""
    reference_scale: float = Field(default=0.6, ge=0.0, le=2.0)
    """How much the reference counts beside the prompt."""

    # with what
    model: str = Field(default="bundled", min_length=1, max_length=1000)
    """A preset's name (`medm models list`), a diffusers folder or a .safetensors file; a server takes presets and names in its store."""
    control: str | None = Field(default=None, max_length=300)
    """Control images: `lineart`; of several networks, `lineart:0.8, depth:0.5`; of one side by side, `normal+depth`; `none`."""
    guess: bool = False
    """Guess mode: no prompt, the control images alone say what is painted."""
    lora: str = Field(default="", max_length=2000)
    """LoRA weights and how much each counts: `style.safetensors:0.8, detail.safetensors`."""
    embeddings: str = Field(default="", max_length=2000)
    """Textual inversions, `style.safetensors, other.safetensors`; each is called in the prompt by its file's name, `<style>`."""
    sampler: Sampler | None = None
    """None: the model's own."""
    steps: int | None = Field(default=None, ge=1, le=1000)
    """Of the sampler. None: the model's own."""
    guidance_scale: float | None = Field(default=None, ge=1.0, le=50.0)
    """Classifier-free guidance; None takes the model's own default."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Same seed, same frames."""

    # how it is held together over time
    w: float = Field(default=1.0, ge=0.0, le=1.0)
    """Strength of the temporal guidance (equations 7 to 10): 0 is plain per-frame ControlNet."""
    w_steps: int = Field(default=3, ge=1, le=1000)
    """How many steps are guided, evenly spread from w_start to w_end; as many as there are steps, or more: all but the last."""
    w_start: float = Field(default=0.25, ge=0.0, le=1.0)
    """Share of the steps after which the guidance begins."""
    w_end: float = Field(default=0.85, ge=0.0, le=1.0)
    """Share of the steps after which it ends; the very last step is never guided."""
    w_schedule: Literal["constant", "falling", "rising"] = "constant"
    """Strength of the guidance over its steps: w in all, falling from w at w_start to half of it at w_end, or rising from half of it."""
    hold: Literal["noise", "sample"] = "noise"
    """What stays while the frames are made to agree: the noise in the sample, so that it is done at once, or the sample (the paper)."""
    harmonisation: Literal["key", "global", "weighted", "local"] = "key"
    """How frames agree. key: on what a key frame shows, in the end on the mean; global: on the mean of all frames; weighted: the same,
    by how well each frame shows a point; local: on a key frame's detail over a Gaussian mean in time, which keeps slow changes of light."""
    local_sigma: float = Field(default=4.0, gt=0.0, le=100.0)
    """Of local harmonisation, in frames."""
    local_width: int = Field(default=16, ge=2, le=400, multiple_of=2)
    """Of local harmonisation: l of equation 14, in frames; it has l + 1 taps."""
    encoding: Literal["fidelity", "plain"] = "fidelity"
    """How harmonised frames become latents again: z + E(G(D(z))) - E(D(z)), which does not lose what the autoencoder loses, or plainly."""
    tiny_autoencoder: bool = True
    """Guide with the model's tiny autoencoder, if it has one; the frames themselves are decoded by the full one."""
    final_harmonisation: Literal["detail", "feathered", "mean", "off"] = "detail"
    """Harmonise the decoded frames once more, unless w = 0. mean: equations 1 to 3; feathered: so that fresh codes do not show; detail: the
    same, but frames keep their own detail below 3 pixels. With local harmonisation mean and feathered are both its Gaussian mean."""
    deblur: float | None = Field(default=None, ge=0.0, le=1.0)
    """Blur that frames are relieved of after the final harmonisation: its variance at w = 1, in square pixels; it goes with w. None: as
    much as makes surfaces as sharp everywhere as the first key frame shows them, from 1/6 to 1/2. 0: none."""
    noise: Literal["code", "shared", "independent"] = "code"
    """Initial noise: one sample per surface point, one image shared by all frames, or fresh for every frame."""
    coding: Literal["subpixel", "rounded"] = "subpixel"
    """Flow Coding by continuous trajectories, or the paper's algorithm 1."""
    reidentify: bool = True
    """Surface points that are seen again, after they were hidden or over a cut, take their old code; of subpixel coding."""

    # on which machine
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the networks. auto: what suits the device and the model."""
    compile: bool = False
    """Compile the networks first (torch.compile): minutes once, then faster on a GPU."""
    window: int | None = Field(default=None, ge=8, le=20_000)
    """Frames worked on together. None: the whole shot if memory allows."""

    @model_validator(mode="after")
    def _guides(self) -> Self:
        """Refuses settings that ask for guidance and leave it no steps; without any it is w = 0."""
        if self.w > 0.0 and self.w_start >= self.w_end:
            raise PydanticCustomError(
                "nothing_guided",
                "w_start ({start}) must be less than w_end ({end}), or no step is guided; to paint without guidance, set w to 0",
                {"start": self.w_start, "end": self.w_end},
            )
        return self

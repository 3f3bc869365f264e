"""The temporal guidance (equations 7 to 10) as a scheduler: its `step()` makes the clean estimates of all frames agree.

Blending noise at a fixed sample, as equation 8 does, is blending the clean estimate: x0 <- (1 - w) x0 + w E(G(D(x0))), and then
the model output that belongs to it. So it needs no access to the network, serves every kind of prediction, and works wherever a
diffusers scheduler does. (A pipeline's `callback_on_step_end` could not do it: it runs after the step and sees no model output.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from medm.errors import BadInput

Agreement = Callable[[Tensor], Tensor]
"""Takes the clean latents of all frames, (T, C, h, w), and returns them made to agree, E(G(D(x0)))."""

SUPPORTED = (DDIMScheduler, DDPMScheduler)
"""Schedulers whose samples are sqrt(alpha) x0 + sqrt(1 - alpha) noise at every timestep (equation 4)."""


def guided(scheduler: Any, agree: Agreement, w: float) -> Any:
    """A scheduler like `scheduler` whose every step but the last is guided with strength `w`, 0 to 1.

    The frames are the batch. The last step is left alone, as the paper's authors do: what it would change is done once more,
    and better, on the decoded frames. With w = 0 the result is the given scheduler's, bit for bit, and `agree` is not called.

    Raises:
        BadInput: the scheduler scales its samples in another way, or w is out of range.
    """
    base = type(scheduler)
    if not issubclass(base, SUPPORTED):
        raise BadInput(f"the temporal guidance works with {', '.join(one.__name__ for one in SUPPORTED)}, not with {base.__name__}")
    if not 0.0 <= w <= 1.0:
        raise BadInput(f"the guidance strength w must lie between 0 and 1, not {w}")
    kind = type(f"Guided{base.__name__}", (_Guided, base), {})
    result: Any = kind.from_config(scheduler.config)  # type: ignore[attr-defined]
    result.agree, result.w = agree, w
    return result


class _Guided:
    """Mixed in before a scheduler's class; its `step` rewrites the model output and hands it on."""

    agree: Agreement
    w: float

    def step(self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's own `step` on a model output whose clean estimate agrees over time."""
        scheduler: Any = self
        last = int(timestep) == int(scheduler.timesteps[-1])
        if self.w > 0.0 and not last:
            alpha = scheduler.alphas_cumprod[int(timestep)].to(sample.device, torch.float32)
            prediction = scheduler.config.prediction_type
            clean = clean_estimate(model_output.float(), sample.float(), alpha, prediction)
            clean = torch.lerp(clean, self.agree(clean), self.w)
            model_output = output_for(clean, sample.float(), alpha, prediction).to(model_output.dtype)
        return super().step(model_output, timestep, sample, *args, **kwargs)  # type: ignore[misc]


def clean_estimate(output: Tensor, sample: Tensor, alpha: Tensor, prediction: str) -> Tensor:
    """x0 that a model output means (equation 5), for `epsilon`, `v_prediction` or `sample`.

    alpha is alpha-bar of the timestep. At alpha = 0 (zero terminal SNR) the noise in a sample says nothing of x0, so that `epsilon` gives
    no finite value there: such a model is refused when it is loaded.
    """
    if prediction == "epsilon":
        return (sample - (1 - alpha).sqrt() * output) / alpha.sqrt()
    if prediction == "v_prediction":
        return alpha.sqrt() * sample - (1 - alpha).sqrt() * output
    return output


def output_for(clean: Tensor, sample: Tensor, alpha: Tensor, prediction: str) -> Tensor:
    """The model output that means the clean estimate `clean` (equation 6); the inverse of `clean_estimate`."""
    if prediction == "epsilon":
        return (sample - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    if prediction == "v_prediction":
        return (alpha.sqrt() * sample - clean) / (1 - alpha).sqrt()
    return clean

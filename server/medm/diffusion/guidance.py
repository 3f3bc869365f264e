"""The temporal guidance (equations 7 to 10) as a scheduler: its `step()` makes the clean estimates of all frames agree.

Blending noise at a fixed sample, as equation 8 does, is blending the clean estimate: x0 <- (1 - w) x0 + w E(G(D(x0))), and then
the model output that belongs to it. So it needs no access to the network, serves every kind of prediction, and works wherever a
diffusers scheduler does. (A pipeline's `callback_on_step_end` could not do it: it runs after the step and sees no model output.)

Every scheduler here sees samples x = alpha x0 + sigma noise and takes its clean estimate from them and the model output o as
x0 = a x + b o, with a and b known from alpha, sigma and the kind of prediction. So a change d of x0 is a change d / b of o.

That is the paper's guidance: it holds the sample, so that what is taken from x0 goes into the estimated noise, from where most of it
comes back in the next step; it takes many guided steps to be rid of it. To hold the noise instead, the sample moves along: x becomes
x + alpha d, and o what means x0 + d there. Then what the frames did not agree on is gone at once, and a few guided steps do.
All that a scheduler remembers of earlier steps moves with it, as if x0 + d had been the goal from the beginning. Otherwise one that goes
by the change of its estimates (DPM-Solver++, UniPC) would take the correction for such a change, go on with it, and overshoot.
See docs/guidance.md.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    LCMScheduler,
    PNDMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor
from torch.overrides import TorchFunctionMode

from medm.errors import BadInput

Agreement = Callable[[Tensor], Tensor]
"""Takes the clean latents of all frames, (T, C, h, w) float32, and returns them made to agree, E(G(D(x0)))."""

Noise = Callable[[Tensor], Tensor]
"""Takes the sample of all frames, (T, C, h, w), and returns fresh noise of that shape, of mean 0 and variance 1."""

Levels = Callable[[Any, int], tuple[float, float]]
"""Takes a scheduler and an index into its timesteps; returns alpha and sigma there, of x = alpha x0 + sigma noise."""


def _levels_by_timestep(scheduler: Any, index: int) -> tuple[float, float]:
    product = scheduler.alphas_cumprod[int(scheduler.timesteps[index])]
    return float(product.sqrt()), float((1 - product).sqrt())


def _levels_by_sigma(scheduler: Any, index: int) -> tuple[float, float]:
    sigma = float(scheduler.sigmas[index])
    return 1 / (sigma**2 + 1) ** 0.5, sigma / (sigma**2 + 1) ** 0.5


def _levels_exploding(scheduler: Any, index: int) -> tuple[float, float]:
    return 1.0, float(scheduler.sigmas[index])


def _levels_of_flow(scheduler: Any, index: int) -> tuple[float, float]:
    sigma = float(scheduler.sigmas[index])
    return 1 - sigma, sigma


Hold = Literal["sample", "noise"]
"""What stays as it is where the clean estimate changes: the sample (the paper) or the noise in it."""

_NOISE_OR_V = ("epsilon", "v_prediction")
_ANY = (*_NOISE_OR_V, "sample")
_FLOW = ("flow_prediction",)

_SUPPORTED: dict[type, tuple[Levels, tuple[str, ...]]] = {
    DDIMScheduler: (_levels_by_timestep, _ANY),
    DDPMScheduler: (_levels_by_timestep, _ANY),
    PNDMScheduler: (_levels_by_timestep, _NOISE_OR_V),
    LCMScheduler: (_levels_by_timestep, _ANY),
    TCDScheduler: (_levels_by_timestep, _ANY),
    EulerDiscreteScheduler: (_levels_exploding, _ANY),
    EulerAncestralDiscreteScheduler: (_levels_exploding, _NOISE_OR_V),
    DPMSolverMultistepScheduler: (_levels_by_sigma, _ANY),
    DPMSolverSinglestepScheduler: (_levels_by_sigma, _ANY),
    UniPCMultistepScheduler: (_levels_by_sigma, _ANY),
    DEISMultistepScheduler: (_levels_by_sigma, _ANY),
    FlowMatchEulerDiscreteScheduler: (_levels_of_flow, _FLOW),
    FlowMatchLCMScheduler: (_levels_of_flow, _FLOW),
}
"""Of every scheduler that can be guided: the levels of its samples, and what its model may predict.

Those that ask the network twice a step (Heun, KDPM2) are left out. They would make the autoencoder's round trip twice a step; and as the
second estimate is divided by the small sigma at the step's end, what the two disagree by, if only because the round trip loses a little
each time, grows up to hundredfold: frames came out further apart than without guidance.
"""


_KEPT_SAMPLE: dict[type, str] = {
    DPMSolverSinglestepScheduler: "sample",
    PNDMScheduler: "cur_sample",
    UniPCMultistepScheduler: "last_sample",
}
"""Where schedulers keep the sample of an earlier step to go on from it, instead of from the one that they are given."""


def guided(
    scheduler: Any,
    agree: Agreement,
    w: float | Callable[[float], float] = 0.8,
    *,
    start: float = 0.0,
    end: float = 1.0,
    count: int | None = None,
    first: int = 0,
    hold: Hold = "noise",
    noise: Noise | None = None,
) -> Any:
    """A copy of `scheduler` whose steps are guided: the frames, which are the batch, agree with strength w.

    Step i of n may be guided if start <= i / n < end, counted over the scheduler's whole list of timesteps, also where sampling begins in
    the middle of it (SDEdit). The last step never is, as with the paper's authors: what it would change is done once more, and better, on
    the decoded frames. If of those that are taken none falls between start and end (few steps, SDEdit from late in the schedule), the
    middle one of all but the last is guided. A step at w = 0 is the given scheduler's, bit for bit, and `agree` is not called.

    Args:
        scheduler: a diffusers scheduler (docs/guidance.md has the list); it stays as it is. One that is guided already is guided anew.
        agree: makes clean latents agree.
        w: strength, 0 to 1, or a function that gives it for the share i / n of the steps that is done.
        start: share of the steps after which the guidance begins, 0 to 1.
        end: share of the steps after which it ends, 0 to 1.
        count: how many of these steps are guided, at least 1, evenly spread over them, the first and the last of them included; one is
            the middle one. None, or more than there are: all.
        first: the index of the first timestep that is taken, where sampling begins in the middle of the schedule; those before it are not
            counted. A pipeline's `set_begin_index` says the same.
        hold: what stays as it is where the clean estimate changes: the noise, or the sample, as in the paper.
        noise: where a stochastic sampler takes the noise from that it adds on the way. None: from its own generator.

    Returns:
        A scheduler of a class derived from the given one's, which also has `guided_steps()`.

    Raises:
        BadInput: the scheduler cannot be guided as it is set, or a number is out of range.
    """
    base: Any = type(scheduler).unguided if isinstance(scheduler, _Guided) else type(scheduler)
    supported = next((kind for kind in base.__mro__ if kind in _SUPPORTED), None)
    if supported is None:
        names = ", ".join(kind.__name__ for kind in _SUPPORTED)
        raise BadInput(f"{base.__name__} cannot be guided; these can: {names}")
    levels, predictions = _SUPPORTED[supported]
    # diffusers keeps in a config also what came from another scheduler's, where it means nothing
    known = inspect.signature(supported.__init__).parameters
    options = {name: value for name, value in scheduler.config.items() if name in known}
    if options.get("use_flow_sigmas"):
        levels, predictions = _levels_of_flow, _FLOW
    prediction = options.get("prediction_type", "flow_prediction")
    if prediction not in predictions:
        raise BadInput(f"{base.__name__} cannot be guided with prediction_type {prediction}, only with {', '.join(predictions)}")
    for option in ("clip_sample", "thresholding", "invert_sigmas", "scale_factors"):
        if options.get(option):
            raise BadInput(f"{base.__name__} cannot be guided with {option}: it would change what the frames agreed on. Switch it off")
    if str(options.get("variance_type")).startswith("learned"):
        raise BadInput(f"{base.__name__} cannot be guided with a model that predicts its variance")
    if isinstance(w, (int, float)):
        _check_share("the guidance strength w", w)
    _check_share("the start of the guidance", start)
    _check_share("the end of the guidance", end)
    if count is not None and count < 1:
        raise BadInput(f"at least one step must be guided, not {count}; for none there is w = 0")
    if first < 0:
        raise BadInput(f"the first step that is taken must be 0 or later, not {first}")
    if hold not in ("sample", "noise"):
        raise BadInput(f"the guidance holds the noise or the sample, not {hold}")
    if supported is PNDMScheduler and count is not None:
        raise BadInput(f"{base.__name__} must be guided at every step: it goes by its last four, and makes much of what sets them apart")
    if supported is PNDMScheduler and hold == "noise" and prediction != "epsilon":
        raise BadInput(f"{base.__name__} mixes the {prediction} of steps of different noise, which only hold='sample' allows")

    kind: Any = _guided_class(base)
    result = kind.__new__(kind)
    vars(result).update({name: copy.deepcopy(value) for name, value in vars(scheduler).items() if name not in _Guided.__annotations__})
    result.agree, result.w, result.noise = agree, w if callable(w) else lambda share: w, noise
    result.start, result.end, result.count, result.first, result.hold = start, end, count, first, hold
    result.levels, result.prediction = levels, prediction
    result.kept_sample, result.kept_from = _KEPT_SAMPLE.get(supported), 0
    result.keeps_clean = bool(options.get("predict_x0", str(options.get("algorithm_type")).endswith("dpmsolver++")))
    return result


class _Guided:
    """Mixed into a scheduler's class; rewrites the model outputs that its `step` is given."""

    unguided: type
    agree: Agreement
    w: Callable[[float], float]
    start: float
    end: float
    count: int | None
    first: int
    hold: Hold
    noise: Noise | None
    levels: Levels
    prediction: str
    kept_sample: str | None
    kept_from: int
    keeps_clean: bool

    def guided_steps(self) -> list[int]:
        """The indices into `timesteps` at which `agree` will be called; known once `set_timesteps` has been called."""
        return [index for index in range(len(self._scheduler.timesteps)) if self._strength(index) > 0]

    def clean(self, output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
        """What the `step` with these would take for the clean latents, before they are made to agree; of some of the frames or of all."""
        of_sample, of_output = self._clean_weights(self._index(timestep))
        return of_sample * sample.float() + of_output * output.float()

    def _clean_weights(self, index: int) -> tuple[float, float]:
        return clean_weights(self.prediction, *self.levels(self, index))

    @property
    def _scheduler(self) -> Any:
        return self

    def _strength(self, index: int) -> float:
        """The w of a step, 0 where it is not guided."""
        if index not in self._chosen():
            return 0.0
        w = self.w(index / len(self._scheduler.timesteps))
        _check_share("the guidance strength w", w)
        return w

    def _chosen(self) -> list[int]:
        """The steps that first, start, end and count leave, rising; at least one where there is one beside the last."""
        steps = len(self._scheduler.timesteps)
        first = max(self.first, getattr(self._scheduler, "begin_index", None) or 0)
        last = steps - 1
        while last > 0 and self.levels(self, last)[1] == 0:
            last -= 1  # some flow schedules end with a step from sigma = 0 to 0, which does nothing
        taken = range(first, last)
        there = [index for index in taken if self.start <= index / steps < self.end]
        if not there and taken and self.start < self.end:  # few steps, or the last few of a schedule: none falls between
            there = [taken[len(taken) // 2]]
        if self.count is None or self.count >= len(there):
            return there
        if self.count == 1:
            return [there[len(there) // 2]]
        return [there[round(place * (len(there) - 1) / (self.count - 1))] for place in range(self.count)]

    def _index(self, timestep: Any) -> int:
        """Where in `timesteps` the sampler is. PNDM comes to some timesteps twice: both count as the first time."""
        scheduler = self._scheduler
        if not hasattr(scheduler, "_init_step_index"):
            return int((scheduler.timesteps == timestep).nonzero()[0])
        if scheduler.step_index is None:
            scheduler._init_step_index(timestep)
        return int(scheduler.step_index)

    def _guide(self, index: int, output: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """The model output and the sample that the scheduler goes on from."""
        w = self._strength(index)
        if w == 0:
            return output, sample
        alpha, _ = self.levels(self, index)
        of_sample, of_output = self._clean_weights(index)
        clean = of_sample * sample.float() + of_output * output.float()
        change = w * (self.agree(clean) - clean)
        moved = 0.0
        if self.hold == "noise":
            moved = alpha
            self._move_memory(change)
            sample = (sample.float() + alpha * change).to(sample.dtype)
        return (output.float() + (1 - moved * of_sample) / of_output * change).to(output.dtype), sample

    def _move_memory(self, change: Tensor) -> None:
        """Moves what is kept of earlier steps, as if their clean estimates had been changed too. Estimates of the noise stay."""
        scheduler = self._scheduler
        if self.keeps_clean:
            scheduler.model_outputs = [kept if kept is None else kept + change.to(kept.dtype) for kept in scheduler.model_outputs]
        kept = self._kept()
        if self.kept_sample is not None and kept is not None:
            alpha, _ = self.levels(self, self.kept_from)
            setattr(self, self.kept_sample, kept + (alpha * change).to(kept.dtype))

    def _kept(self) -> Tensor | None:
        """The sample of an earlier step that the scheduler goes on from."""
        return None if self.kept_sample is None else getattr(self, self.kept_sample)


def _guided_class(base: Any) -> type:
    """The class of guided schedulers made from `base`.

    Its `step` keeps the signature, because pipelines look there whether a scheduler takes a `generator` or an `eta`.
    """
    signature = inspect.signature(base.step)

    def step(self: _Guided, *args: Any, **kwargs: Any) -> Any:
        call = signature.bind(self, *args, **kwargs)
        given = call.arguments
        if given.get("s_churn") or given.get("per_token_timesteps") is not None:
            raise BadInput(
                f"{base.__name__} cannot be guided with s_churn or timesteps per token: they move the sample before it is guided"
            )
        index = self._index(given["timestep"])
        given["model_output"], given["sample"] = self._guide(index, given["model_output"], given["sample"])
        kept = self._kept()
        drawing: AbstractContextManager[Any] = nullcontext()
        if self.noise is not None:
            drawing = _Drawing(self.noise, given["sample"])
            given.pop("generator", None)
        with drawing:
            result = base.step(*call.args, **call.kwargs)
        if self._kept() is not kept:
            self.kept_from = index
        return result

    step.__signature__ = signature  # type: ignore[attr-defined]
    step.__doc__ = base.step.__doc__
    return type(f"Guided{base.__name__}", (_Guided, base), {"unguided": base, "step": step, "__doc__": base.__doc__})


class _Drawing(TorchFunctionMode):
    """While it lasts, and in this thread only, `torch.randn` returns what `noise` draws.

    All schedulers draw by `torch.randn`, few let the noise be given. (Its name in their modules could be exchanged, but for all threads.)
    """

    def __init__(self, noise: Noise, sample: Tensor) -> None:
        super().__init__()
        self.noise, self.sample = noise, sample

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.randn:
            return func(*args, **kwargs)
        return self.noise(self.sample).to(device=kwargs.get("device"), dtype=kwargs.get("dtype"))


def clean_weights(prediction: str, alpha: float, sigma: float) -> tuple[float, float]:
    """a and b of x0 = a x + b o, the clean estimate of a sample x and a model output o (equation 5).

        epsilon           o is the noise:                         x0 = (x - sigma o) / alpha
        v_prediction      o is (alpha noise - sigma x0) / n:      x0 = (alpha x - n sigma o) / n^2,   n^2 = alpha^2 + sigma^2
        sample            o is x0
        flow_prediction   o is noise - x0, alpha = 1 - sigma:     x0 = x - sigma o

    Args:
        prediction: one of these four.
        alpha: of x = alpha x0 + sigma noise, at least 0.
        sigma: the same, more than 0.

    Raises:
        BadInput: a model that predicts noise is asked at alpha = 0, where the noise is all there is and says nothing of x0.
    """
    if prediction == "sample":
        return 0.0, 1.0
    if prediction == "flow_prediction":
        return 1.0, -sigma
    if prediction == "v_prediction":
        square = alpha**2 + sigma**2
        return alpha / square, -sigma / square**0.5
    if alpha == 0:
        raise BadInput(
            "a model that predicts noise cannot begin at noise alone (zero terminal SNR): use one that predicts v, or another schedule"
        )
    return 1 / alpha, -sigma / alpha


def _check_share(what: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise BadInput(f"{what} must lie between 0 and 1, not {value}")

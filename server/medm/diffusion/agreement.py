"""Agreement over time of clean latents, E(G(D(x0))): what the guided scheduler asks for, and the same for the decoded result.

Frames pass through the autoencoder a few at a time. Unless harmonisation is local they are never all there: they leave what they have to
say of their codes in a repository, and then every few frames are read from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medm.diffusion.deblurring import LEAST, deblurred, key_detail, lost
from medm.diffusion.memory import Chunk, in_chunks
from medm.diffusion.models import Model
from medm.diffusion.windows import Carry
from medm.harmonize import Harmonizer, Repository
from medm.progress import Progress, part, silent
from medm.settings import RenderSettings

DETAIL = 3
"""Pixels a side of the box below which frames keep their own detail in the final harmonisation."""


@dataclass
class Agreement:
    """Makes the clean latents of all frames agree, as the settings say.

    Attributes:
        model: its autoencoder decodes and encodes.
        harmonizer: of the shot's codes, on the model's device.
        settings: `harmonisation`, `encoding` and `tiny_autoencoder`.
        chunk: frames that the autoencoder sees at once.
        carry: what the windows of a shot hand on; None: the whole shot is there.
        progress: told of the call that is under way.
        calls: how often frames were made to agree so far.
    """

    model: Model
    harmonizer: Harmonizer
    settings: RenderSettings
    chunk: Chunk
    carry: Carry | None = None
    progress: Progress = silent
    calls: int = 0

    def __call__(self, clean: Tensor) -> Tensor:
        """Latents (T, C, h, w) made to agree: E(G(D(z))), or z + E(G(D(z))) - E(D(z)) with fidelity encoding."""
        tiny, fidelity = self.settings.tiny_autoencoder, self.settings.encoding == "fidelity"
        local = self.settings.harmonisation == "local"
        lost = torch.zeros_like(clean)
        decoded: list[Tensor] = []
        repository = None if local else self._repository()

        def take_in(first: int, last: int) -> tuple[Tensor, Tensor | None]:
            frames = self.model.decode(clean[first:last], tiny)
            encoded = self.model.encode(frames, tiny) if fidelity else None
            return frames.to(self.harmonizer.device), encoded  # here, where memory that does not suffice is met with fewer frames

        first = 0
        for frames, encoded in in_chunks(take_in, len(clean), self.chunk, part(self.progress, 0.0, 0.6)):
            last = first + len(frames)
            if encoded is not None:
                lost[first:last] = clean[first:last] - encoded
            if repository is None:
                decoded.append(frames.to(storage(self.model)))
            else:
                repository.add(frames, first)
            first = last

        self.calls += 1
        if self.carry is not None and repository is not None:
            self.carry.settle(f"step {self.calls}", repository.values())
        read = self._smoothed(decoded).__getitem__ if repository is None else lambda frames: repository.read(frames.start, frames.stop)

        def give_out(first: int, last: int) -> Tensor:
            return self.model.encode(read(slice(first, last)).float(), tiny) + lost[first:last]

        return torch.cat(list(in_chunks(give_out, len(clean), self.chunk, part(self.progress, 0.6, 1.0))))

    def _repository(self) -> Repository:
        keyed = self.settings.harmonisation == "key"
        return self.harmonizer.keyed_repository(3) if keyed else self.harmonizer.mean_repository(3)

    def _smoothed(self, decoded: list[Tensor]) -> Tensor:
        """Local harmonisation, and on top the key frame's difference from it: a mean of several pictures alone would be blurred."""
        frames = torch.cat(decoded)
        decoded.clear()
        smooth = self.harmonizer.local(frames, self.settings.local_sigma, self.settings.local_width)
        differences = self.harmonizer.keyed_repository(3, frames.dtype)
        differences.add(frames.sub_(smooth), 0)
        if self.carry is not None:
            self.carry.settle(f"step {self.calls}", differences.values())
        for t in range(len(smooth)):
            smooth[t] += differences.read(t, t + 1)[0]
        return smooth


def harmonise_result(
    frames: Tensor, harmonizer: Harmonizer, settings: RenderSettings, object_id: Tensor, carry: Carry | None = None
) -> Tensor:
    """The decoded frames, harmonised once more as `settings.final_harmonisation` says, with strength w.

    `detail` takes from the harmonised frames F only what is coarser than 3 pixels: X + box(F - X). The mean of a code mixes pictures in
    which its point fell on other places within a pixel, and is then shown at whole pixels: grain, which the frames themselves have not.
    What is left different below 3 pixels is hardly seen.

    What agreeing has blurred is deblurred in the end by `settings.deblur`, w times of it, so that as w goes to 0 the frames stay as they
    are; where that is None, by as much as `medm.diffusion.deblurring` measures. The windows of a shot share the amount.

    Args:
        frames: (T, 3, H, W), -1 to 1, of any floating type; what is returned may share its memory.
        harmonizer: of the shot's codes, where the frames are.
        settings: of the take.
        object_id: (T, H, W), where the frames are.
        carry: what the windows of a shot hand on, and told how much was deblurred; None: the whole shot is there.
    """
    kind = settings.final_harmonisation
    if settings.w == 0.0 or kind == "off":
        return frames
    amount = carry.deblur if settings.deblur is None and carry is not None else settings.deblur
    if amount is None and settings.harmonisation not in ("key", "local"):
        amount = LEAST  # no frame was left as sharp as it was painted
    keys = key_detail(frames, harmonizer, object_id) if amount is None else None
    harmonised = _final(frames, harmonizer, settings, carry)
    for t in range(len(frames)):
        change = (harmonised[t : t + 1] - frames[t : t + 1]).float()
        if kind == "detail":
            change = torch.nn.functional.avg_pool2d(change, DETAIL, stride=1, padding=DETAIL // 2, count_include_pad=False)
        harmonised[t] = (frames[t] + settings.w * change[0]).to(frames.dtype)
    if keys is not None:
        amount = lost(harmonised, keys, harmonizer, object_id)
    assert amount is not None
    if carry is not None:
        carry.deblur = amount
    for t in range(len(harmonised) if amount > 0.0 else 0):
        harmonised[t] = deblurred(harmonised[t : t + 1], object_id[t : t + 1], settings.w * amount)[0]
    return harmonised


def _final(frames: Tensor, harmonizer: Harmonizer, settings: RenderSettings, carry: Carry | None) -> Tensor:
    if settings.harmonisation == "local":
        return harmonizer.local(frames, settings.local_sigma, settings.local_width)
    stages = iter(("means", "result"))
    settle = None if carry is None else lambda values: carry.settle(next(stages), values)
    mix = harmonizer.global_mean if settings.final_harmonisation == "mean" else harmonizer.feathered_mean
    return mix(frames, settle)


def storage(model: Model) -> torch.dtype:
    """What decoded clips are kept in: half precision holds 11 bits of the 8 that are seen."""
    return torch.float32 if model.device.type == "cpu" else torch.float16

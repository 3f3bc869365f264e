"""What painting needs to know of a shot: which pixel shows which surface point, and control images. From the passes, which are then let go.

Passes take 49 bytes a pixel, what is kept of them a third of that or less; of a long shot only some frames' passes are held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medm.correspondence import Correspondence, analyse
from medm.correspondence.background import fill_background
from medm.correspondence.facts import clear_views, view_weights
from medm.diffusion.control import ShotFacts, control_images, facts_of, view_of
from medm.diffusion.models import ControlInput
from medm.progress import Progress, part, silent
from medm.settings import RenderSettings
from medm.shot import Bool, Float32, GBuffer, Int32, Shot


@dataclass(frozen=True)
class Seen:
    """A shot of T frames of H x W pixels, as painting sees it.

    Attributes:
        found: its correspondences; flows may be left out, and then have no frames.
        object_id: (T, H, W) int32.
        controls: control images (T, channels, H, W) float16 in 0 to 1, one for each that the model wants. Only networks see them.
        weights: (T, H, W), for weighted harmonisation.
        clear: (T, H, W), for harmonisation with key frames.
    """

    found: Correspondence
    object_id: Int32
    controls: list[Tensor]
    weights: Float32 | None = None
    clear: Bool | None = None


def look_at(
    shot: Shot,
    settings: RenderSettings,
    controls: tuple[ControlInput, ...],
    device: torch.device,
    progress: Progress = silent,
    *,
    read: int | None = None,
    flows: bool = True,
) -> Seen:
    """Reads the passes and finds out what painting needs.

    Args:
        shot: to be painted.
        settings: of the take.
        controls: control images that the model wants.
        device: where codes are made.
        progress: told as work goes on.
        read: frames whose passes are held at a time, and some more; None: all, which is a little faster.
        flows: whether the flows are wanted too, to measure the take.

    Raises:
        BadInput: passes cannot be read; no control image is called so.
    """
    gbuffer = shot.gbuffer(part(progress, 0.0, 0.3)) if read is None else None
    found = analyse(
        shot,
        gbuffer,
        settings.coding,
        part(progress, 0.3, 0.8),
        reidentify=settings.reidentify,
        device=device,
        in_place=True,
        window=read,
        flows=flows,
    )
    shape = found.codes.codes.shape
    object_id = np.empty(shape, np.int32)
    by_keys = settings.harmonisation in ("key", "local")
    weighing = settings.w > 0.0 and settings.harmonisation != "global"
    weights = np.empty(shape, np.float32) if weighing else None
    names = {number: thing.name for number, thing in shot.objects.items()}
    facts: ShotFacts | None = None
    for first, last, passes in _parts(shot, gbuffer, read):
        progress(0.8 + 0.1 * first / len(shot), "look at surfaces")
        object_id[first:last] = passes.object_id
        if weights is not None:
            weights[first:last] = view_weights(passes, shot.cameras[first:last])
        here = facts_of(passes, names)
        facts = here if facts is None else facts.with_part(here)
        del passes  # before the next are read

    images = [torch.empty(shape[0], control.channels, *shape[1:], dtype=torch.float16) for control in controls]
    for first, last, passes in _parts(shot, gbuffer, read) if controls else ():
        for t in range(first, last):
            progress(0.9 + 0.1 * t / len(shot), "draw control images")
            view = view_of(passes, shot.cameras[first:last], [t - first])
            for clip, control in zip(images, controls, strict=True):
                clip[t] = torch.from_numpy(control_images(view, control.kinds, control.channels, facts))[0]
        del passes

    clear = clear_views(found.codes, weights) if weights is not None and by_keys else None
    return Seen(found, object_id, images, None if by_keys else weights, clear)


def flows_to_prev(shot: Shot, read: int | None = None) -> Iterator[Float32]:
    """The flow to the frame before of every frame in turn, (H, W, 2), as `analyse` has it: for who did not keep the flows.

    Args:
        shot: its passes are read anew.
        read: frames whose passes are held at a time, and one more; None: all.

    Raises:
        BadInput: passes cannot be read.
    """
    step = read or len(shot)
    for first in range(0, len(shot), step):
        start = max(first - 1, 0)
        here = shot.part(start, min(first + step, len(shot)))
        passes = here.gbuffer()
        to_prev, _ = fill_background(passes.flow_to_prev, passes.flow_to_next, passes.background, here.cameras, in_place=True)
        del passes
        yield from to_prev[first - start :]


def _parts(shot: Shot, gbuffer: GBuffer | None, read: int | None) -> Iterator[tuple[int, int, GBuffer]]:
    """The passes of the shot, at most `read` frames at a time, with the first frame and the one after the last."""
    if gbuffer is not None:
        yield 0, len(shot), gbuffer
        return
    step = read or len(shot)
    for first in range(0, len(shot), step):
        last = min(first + step, len(shot))
        yield first, last, shot.gbuffer(frames=range(first, last))

"""What `medm inspect` looks at: a shot with everything that was worked out about it, and how its objects are called."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from medm import correspondence
from medm.correspondence import Correspondence
from medm.correspondence.facts import Facts, gather_facts
from medm.progress import Progress, part
from medm.shot import Bool, GBuffer, Int32, Shot


@dataclass(frozen=True)
class Evidence:
    """A shot and what is known about it. T frames of H x W pixels; conventions as in medm.shot."""

    shot: Shot
    gbuffer: GBuffer
    found: Correspondence
    facts: Facts

    @classmethod
    def of(cls, shot: Shot, progress: Progress) -> Evidence:
        """Read and analyse a shot.

        Raises:
            BadInput: its passes cannot be read.
        """
        gbuffer = shot.gbuffer(part(progress, 0.0, 0.4))
        found = correspondence.analyse(shot, gbuffer, progress=part(progress, 0.4, 0.9))
        return cls(shot, gbuffer, found, gather_facts(found.codes, gbuffer, shot.cameras, part(progress, 0.9, 1.0)))

    def __len__(self) -> int:
        return len(self.shot)

    @cached_property
    def ids(self) -> Int32:
        """(K,) the ids of all objects in view, rising."""
        each = [np.unique(ids[~sky]) for ids, sky in zip(self.gbuffer.object_id, self.gbuffer.background, strict=True)]
        return np.unique(np.concatenate(each))

    @cached_property
    def names(self) -> list[str]:
        """How each of `ids` is called, in one line of printable characters; by its number where the manifest does not say."""
        known = self.shot.objects
        return [_line(known[id_].name) if id_ in known else f"object {id_ & 0xFFFFFFFF:08x}" for id_ in self.ids.tolist()]

    @cached_property
    def pixels(self) -> npt.NDArray[np.int64]:
        """(T, K) in how many pixels of each frame each object is seen."""
        return np.stack([np.bincount(self.objects(t)[~self.gbuffer.background[t]], minlength=len(self.ids)) for t in range(len(self))])

    def objects(self, t: int) -> npt.NDArray[np.int64]:
        """(H, W) the place in `ids` of what each pixel of a frame shows; without meaning on the background."""
        return np.asarray(np.minimum(np.searchsorted(self.ids, self.gbuffer.object_id[t]), max(0, len(self.ids) - 1)), np.int64)

    @cached_property
    def joined(self) -> Bool:
        """(T,) whether a frame has anything to do with the frame before: false for the first, and after cuts."""
        return np.asarray(~self.found.occluded.all(axis=(1, 2)))


def _line(name: str) -> str:
    """A name that a terminal can show: names come from files, and may hold line ends and control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())

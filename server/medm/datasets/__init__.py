"""Flow datasets as shots: MPI Sintel and Virtual KITTI 2, on which the paper measures. For `medm import`.

A clip is written once as a shot folder; from then on everything that works on shots works on it. docs/evaluate.md says what of such a
shot is exact and what is derived.
"""

from __future__ import annotations

from pathlib import Path

from medm.datasets.clip import Clip
from medm.datasets.sintel import SintelClip
from medm.datasets.vkitti import VkittiClip
from medm.errors import BadInput

__all__ = ["Clip", "open_clip"]


def open_clip(folder: Path, *, camera: int = 0, first: int | None = None, last: int | None = None) -> Clip:
    """A clip of a dataset, recognised by its folder.

    Args:
        folder: `training/final/SCENE` of MPI Sintel, or `SceneNN/VARIATION` of Virtual KITTI 2.
        camera: of Virtual KITTI 2: 0 is the left one, 1 the right one.
        first: number of the first frame; None: the clip's.
        last: number of the last frame; None: the clip's.

    Raises:
        BadInput: it is neither.
    """
    if SintelClip.recognises(folder):
        return SintelClip(folder, first, last)
    if VkittiClip.recognises(folder):
        return VkittiClip(folder, camera, first, last)
    if (folder / "frame_0001.png").is_file():
        flow = folder.parent.parent / "flow" / folder.name
        raise BadInput(f"{flow} lacks frame_0001.flo: a clip of MPI Sintel needs its flow, which its test scenes do not have")
    raise BadInput(
        f"{folder} is no clip of a dataset that is known: give training/final/SCENE of MPI Sintel or SceneNN/VARIATION of Virtual KITTI 2"
    )

"""How steady, sharp and true to the light a take is: every metric of one or several clips of a shot. docs/evaluate.md defines them.

For the command line (`medm evaluate`, `medm compare`), take.json and the benchmarks. All numbers are on display-referred values from 0
to 1; the kinds of metric are in `medm.evaluation`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from medm import correspondence
from medm.correspondence import Correspondence
from medm.errors import BadInput, Unavailable
from medm.evaluation.consistency import code_spread, warping_error
from medm.evaluation.detail import sharpness
from medm.evaluation.light import SlowLight
from medm.evaluation.motion import THRESHOLDS, Estimate, dis, endpoint_errors, from_folder
from medm.pictures import scan_comparison
from medm.progress import Progress, part, silent
from medm.shot import Float32, Int32, Shot, frame_file, read_picture

__all__ = ["BEAUTY", "METRICS", "Judge", "code_spread", "evaluate", "measure", "read_take", "sharpness", "table", "warping_error"]

BEAUTY = "beauty"
"""Label of the artist's own render. Its warping error and EPE are the floor: what a perfectly steady clip measures."""

Metrics = dict[str, float | None]
"""By name (`METRICS`); None where nothing could be compared."""

METRICS = {
    "warping_error": "warping error",
    "code_spread": "spread in codes",
    "epe": "EPE, px",
    **{f"over_{threshold}px": f"EPE > {threshold} px" for threshold in THRESHOLDS},
    "sharpness": "sharpness",
    "light_kept": "light kept",
}
"""All metrics, in order, with their headings."""


def measure(
    frames: npt.NDArray[np.uint8], found: Correspondence, object_id: Int32, flow_to_prev: Iterable[Float32] | None = None
) -> Metrics:
    """The metrics that need nothing but the clip, (T, H, W, 3) uint8: `warping_error`, `code_spread`, `sharpness`.

    `flow_to_prev`: (H, W, 2) of every frame in turn, where `found` was made without flows.
    """
    return _known(
        warping_error=warping_error(frames, found.flow_to_prev if flow_to_prev is None else flow_to_prev, found.occluded),
        code_spread=code_spread(frames, found.codes),
        sharpness=sharpness(frames, object_id),
    )


class Judge:
    """Measures clips of one shot with all metrics.

    Args:
        found: the shot's correspondences.
        object_id: (T, H, W) int32, the shot's.
        beauty: (T, H, W, 3) uint8, the artist's own render; without it `light_kept` is None.
    """

    def __init__(self, found: Correspondence, object_id: Int32, beauty: npt.NDArray[np.uint8] | None) -> None:
        self._found, self._object_id = found, object_id
        self._light = SlowLight(beauty, found.codes) if beauty is not None else None

    def measure(self, frames: npt.NDArray[np.uint8], estimate: Estimate | None = None, progress: Progress = silent) -> Metrics:
        """All of METRICS of a clip (T, H, W, 3) uint8.

        Args:
            frames: the clip.
            estimate: flow estimated on the clip; without it `epe` and the portions are None.
            progress: told as work goes on.
        """
        progress(0.0, "measure")
        own = measure(frames, self._found, self._object_id)
        motion: Metrics = {}
        if estimate is not None:
            errors = endpoint_errors(estimate, self._found.flow_to_prev, self._found.occluded, part(progress, 0.3, 0.9))
            motion = _known(epe=errors.epe, **{f"over_{limit}px": share for limit, share in errors.portions.items()})
        light = _known(light_kept=self._light.kept(frames)) if self._light is not None else {}
        progress(1.0, "measure")
        return {name: (own | motion | light).get(name) for name in METRICS}


def evaluate(
    shot: Shot,
    take: str | Path,
    progress: Progress = silent,
    *,
    estimator: Literal["dis", "none"] = "dis",
    flow: Path | None = None,
    reference: str | Path | None = None,
    out: Path | None = None,
) -> dict[str, object]:
    """Measure a take against its shot.

    Args:
        shot: the take's.
        take: folder of the take.
        progress: told as work goes on.
        estimator: what estimates flow on the clips.
        flow: a folder of .flo files that another program has estimated on the take, see `medm.evaluation.motion.from_folder`, instead of an
            estimator; the same of the beauty and of the reference in its folders `beauty` and `reference`, if they are there.
        reference: folder of a take without guidance (w = 0, the same noise), to compare with.
        out: folder to write scan.png and evaluation.json to; made if it is not there.

    Returns:
        What docs/evaluate.md describes: `frames`, `estimator`, the METRICS of `take`, `beauty` and `reference` (None where there is none),
        and the `ratios` of the take's warping error and sharpness to the reference's.

    Raises:
        BadInput: a folder holds no take, its frames are not those of the shot, or flow is missing.
        Unavailable: `out` cannot be written.
    """
    clips = {"take": read_take(shot, take)}
    if shot.has_beauty:
        clips[BEAUTY] = shot.beauty()
    if reference is not None:
        clips["reference"] = read_take(shot, reference)
    estimates = _estimates(shot, clips, estimator, flow)
    gbuffer = shot.gbuffer(part(progress, 0.0, 0.2))
    found = correspondence.analyse(shot, gbuffer, progress=part(progress, 0.2, 0.5))
    judge = Judge(found, gbuffer.object_id, clips.get(BEAUTY))
    measured: dict[str, Metrics] = {}
    for index, (label, frames) in enumerate(clips.items()):
        step = part(part(progress, 0.5, 0.95), index / len(clips), (index + 1) / len(clips))
        measured[label] = judge.measure(frames, estimates.get(label), step)
    result: dict[str, object] = {
        "frames": len(shot),
        "estimator": "flow" if flow is not None else estimator,
        **{label: measured.get(label) for label in ("take", BEAUTY, "reference")},
        "ratios": _ratios(measured["take"], measured["reference"]) if reference is not None else None,
    }
    if out is not None:
        _write(out, result, clips)
    progress(1.0, "measure")
    return result


def table(clips: Mapping[str, Mapping[str, float | None]], *, line: Literal["metric", "clip"]) -> str:
    """Metrics of clips, by label, as text for a terminal: one line a metric or one line a clip; a dash where nothing was measured."""
    cells = [["", *(METRICS.values())]]
    cells += [[label, *(_cell(name, numbers.get(name)) for name in METRICS)] for label, numbers in clips.items()]
    if line == "metric":
        cells = [list(row) for row in zip(*cells, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))] for row in cells)
    return "\n".join("  ".join(pieces) for pieces in lines)


def read_take(shot: Shot, take: str | Path) -> npt.NDArray[np.uint8]:
    """The frames of a take, (T, H, W, 3) uint8, in the order of the shot's.

    Raises:
        BadInput: as `evaluate`.
    """
    folder = Path(take) / "frames"
    if not folder.is_dir():
        raise BadInput(f"{take} is not a take: it has no folder frames")
    names = [frame_file(number) for number in shot.frame_numbers]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInput(f"take {take} does not match the shot: frames/{missing[0]}{more} missing")
    present = [file for file in folder.glob("*.png") if re.fullmatch(r"-?\d+", file.stem)]
    if len(present) > len(names):
        raise BadInput(f"take {take} does not match the shot: the take has {len(present)} frames, the shot {len(names)}")
    return np.stack([read_picture(folder / name, shot.size) for name in names])


def _known(**numbers: float) -> Metrics:
    return {name: None if math.isnan(number) else number for name, number in numbers.items()}


def _estimates(
    shot: Shot, clips: Mapping[str, npt.NDArray[np.uint8]], estimator: Literal["dis", "none"], flow: Path | None
) -> dict[str, Estimate]:
    if flow is not None:
        folders = {label: flow if label == "take" else flow / label for label in clips}
        there = {label: folder for label, folder in folders.items() if label == "take" or folder.is_dir()}
        return {label: from_folder(folder, shot.frame_numbers, shot.size) for label, folder in there.items()}
    return {label: dis(frames) for label, frames in clips.items()} if estimator == "dis" else {}


def _ratios(take: Metrics, reference: Metrics) -> Metrics:
    ratios: Metrics = {}
    for name in ("warping_error", "sharpness"):
        above, below = take[name], reference[name]
        ratios[name] = above / below if above is not None and below else None
    return ratios


def _write(out: Path, result: Mapping[str, object], clips: Mapping[str, npt.NDArray[np.uint8]]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        scan_comparison(clips).save(out / "scan.png")
        (out / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
    except OSError as error:
        raise Unavailable(f"the evaluation cannot be written to {out}: {error.strerror or error}") from error


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name.startswith("over_"):
        return f"{100 * value:.2f} %"
    return f"{value:.3f}" if name in ("epe", "light_kept") else f"{value:.5f}"

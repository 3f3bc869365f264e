"""Takes of one shot beside each other, and beside the artist's own render: pictures to look at and one table of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medm import correspondence
from medm.errors import BadInput, Unavailable
from medm.evaluate import measure, read_take
from medm.pictures import contact_sheet, scan_comparison, side_by_side, write_video
from medm.progress import Progress, part, silent
from medm.shot import Shot

BEAUTY = "beauty"
"""Label of the artist's own render. Its warping error is the floor: what a perfectly steady clip measures."""

Metrics = dict[str, dict[str, float | None]]
"""By label, what `medm.evaluate.measure` says."""


def compare(shot: Shot, takes: Mapping[str, Path], out: Path, progress: Progress = silent) -> Metrics:
    """Writes contact_sheet.png, scan.png and preview.mp4 to `out` and measures every take, the beauty first if there is one.

    Raises:
        BadInput: a label is used twice, or a folder is no take of the shot.
        Unavailable: the pictures cannot be written.
    """
    if BEAUTY in takes:
        raise BadInput(f"the label {BEAUTY} means the shot's own render; call the take otherwise")
    clips = {BEAUTY: shot.beauty()} if shot.has_beauty else {}
    clips |= {label: read_take(shot, folder) for label, folder in takes.items()}
    gbuffer = shot.gbuffer(part(progress, 0.0, 0.3))
    found = correspondence.analyse(shot, gbuffer, progress=part(progress, 0.3, 0.6))
    metrics: Metrics = {}
    for index, (label, frames) in enumerate(clips.items()):
        progress(0.6 + 0.3 * index / len(clips), "measure")
        metrics[label] = measure(frames, found, gbuffer.object_id)
    progress(0.9, "pictures")
    try:
        out.mkdir(parents=True, exist_ok=True)
        contact_sheet(clips).save(out / "contact_sheet.png")
        scan_comparison(clips).save(out / "scan.png")
        write_video(out / "preview.mp4", side_by_side(clips), shot.manifest.fps)
    except OSError as error:
        raise Unavailable(f"the pictures cannot be written to {out}: {error.strerror or error}") from error
    progress(1.0, "done")
    return metrics


def table(metrics: Metrics) -> str:
    """The metrics as text for a terminal, one line a clip."""
    width = max(len(label) for label in metrics)
    lines = [f"{'':{width}}  warping error  spread in codes  sharpness"]
    for label, numbers in metrics.items():
        cells = ["-" if value is None else f"{value:.5f}" for value in numbers.values()]
        lines.append(f"{label:{width}}  {cells[0]:>13}  {cells[1]:>15}  {cells[2]:>9}")
    return "\n".join(lines)

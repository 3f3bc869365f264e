"""Takes of one shot beside each other, and beside the artist's own render: pictures to look at and one table of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medm import correspondence
from medm.errors import BadInput, Unavailable
from medm.evaluate import BEAUTY, Judge, Metrics, read_take
from medm.evaluation.motion import dis
from medm.pictures import contact_sheet, scan_comparison, side_by_side, write_video
from medm.progress import Progress, part, silent
from medm.shot import Shot


def compare(shot: Shot, takes: Mapping[str, Path], out: Path, progress: Progress = silent) -> dict[str, Metrics]:
    """Writes contact_sheet.png, scan.png and preview.mp4 to `out` and measures every take, the beauty first if there is one.

    Returns:
        By label, all of `medm.evaluate.METRICS`; flow is estimated by DIS.

    Raises:
        BadInput: a label is used twice, or a folder is no take of the shot.
        Unavailable: the pictures cannot be written.
    """
    if BEAUTY in takes:
        raise BadInput(f"the label {BEAUTY} means the shot's own render; call the take otherwise")
    clips = {BEAUTY: shot.beauty()} if shot.has_beauty else {}
    clips |= {label: read_take(shot, folder) for label, folder in takes.items()}
    gbuffer = shot.gbuffer(part(progress, 0.0, 0.2))
    found = correspondence.analyse(shot, gbuffer, progress=part(progress, 0.2, 0.5))
    judge = Judge(found, gbuffer.object_id, clips.get(BEAUTY))
    metrics: dict[str, Metrics] = {}
    for index, (label, frames) in enumerate(clips.items()):
        step = part(part(progress, 0.5, 0.9), index / len(clips), (index + 1) / len(clips))
        metrics[label] = judge.measure(frames, dis(frames), step)
    progress(0.91, "pictures")
    try:
        out.mkdir(parents=True, exist_ok=True)
        contact_sheet(clips).save(out / "contact_sheet.png")
        scan_comparison(clips).save(out / "scan.png")
        write_video(out / "preview.mp4", side_by_side(clips), shot.manifest.fps)
    except OSError as error:
        raise Unavailable(f"the pictures cannot be written to {out}: {error.strerror or error}") from error
    progress(1.0, "done")
    return metrics

"""A shot as a person can judge it before anything is painted: pictures of its motion, numbers, and warnings about what would spoil a take.

For `medm inspect`. (Not called `inspect`: that is a module of Python's own, and would be hidden from it when cli.py is run as a file.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medm.diffusion.masks import painted, select
from medm.errors import Unavailable
from medm.inspection.checks import check
from medm.inspection.drawing import draw
from medm.inspection.evidence import Evidence
from medm.inspection.numbers import numbers
from medm.inspection.page import page
from medm.progress import Progress, part, silent
from medm.shot import Shot

__all__ = ["inspect_shot"]


def inspect_shot(shot: Shot, out: Path, progress: Progress = silent, paint: str | None = None) -> dict[str, Any]:
    """Writes index.html, numbers.json, the pictures and the videos to `out`.

    `paint`: a selection as in RenderSettings, which is shown too.

    Returns:
        What numbers.json holds, see `medm.inspection.numbers`.

    Raises:
        BadInput: the shot's passes or its beauty cannot be read, or nothing is selected by `paint`.
        Unavailable: nothing can be written to `out`.
    """
    if paint is not None:
        select(shot.manifest, paint)  # a name that is misspelt should not cost the time of an analysis
    evidence = Evidence.of(shot, part(progress, 0.0, 0.5))
    coverage = painted(shot, evidence.gbuffer.object_id, paint) if paint is not None else None
    figures = numbers(evidence, check(evidence, part(progress, 0.5, 0.6)))
    try:
        out.mkdir(parents=True, exist_ok=True)
        shown = draw(evidence, out, part(progress, 0.6, 1.0), coverage)
        (out / "numbers.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        (out / "index.html").write_text(page(figures, shown), encoding="utf-8")
    except OSError as error:
        raise Unavailable(f"the pictures cannot be written to {out}: {error.strerror or error}") from error
    progress(1.0, "done")
    return figures

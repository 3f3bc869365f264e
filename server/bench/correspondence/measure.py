"""Prints how good occlusion and codes are on shots with ground truth (see scenes.py), as Markdown tables.

    .venv/bin/python server/bench/correspondence/measure.py DIR/static DIR/rigid ...

A shot whose data passes are finer than its pixels is judged for occlusion twice: with them, and as if it had none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from truth import Agreement, Truth, occlusion, score, seen_again

from medm.correspondence import analyse
from medm.correspondence.background import fill_background
from medm.correspondence.occlusion import occluded_pixels
from medm.shot import Shot

CODINGS = {
    "rounded": {"coding": "rounded"},
    "subpixel --no-reidentify": {"coding": "subpixel", "reidentify": False},
    "subpixel": {"coding": "subpixel"},
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: float) -> str:
    """`1.23 %`, or a dash for NaN."""
    return "-" if share != share else f"{100 * share:.2f} %"


def code_rows(folder: Path) -> list[list[str]]:
    """One row a coding."""
    truth, shot = Truth.load(folder), Shot.open(folder)
    gbuffer, again = shot.gbuffer(), seen_again(truth)
    rows = []
    for name, options in CODINGS.items():
        found = score(truth, analyse(shot, gbuffer, **options).codes, again)
        row = [folder.name, name, f"{found.median:.2f} px", f"{found.p95:.2f} px"]
        row += [percent(share) for share in (found.above_1px, found.above_1px_old, found.shared)]
        row += [f"{found.codes_per_pixel:.3f}"]
        row += [percent(share) for share in (found.foreign, found.again, found.again_above_1px)]
        rows.append(row)
    return rows


def occlusion_rows(folders: Sequence[Path]) -> list[list[str]]:
    """One row for each shot and the data at hand, one without what is finer than the pixels, and the same for all pixels of all shots."""
    found: dict[tuple[str, int], list[Agreement]] = {}
    for folder in folders:
        truth, shot = Truth.load(folder), Shot.open(folder)
        gbuffer = shot.gbuffer()
        flows = fill_background(gbuffer.flow_to_prev, gbuffer.flow_to_next, gbuffer.background, shot.cameras)
        for scale in sorted({1, shot.manifest.data_scale}):
            occluded = occluded_pixels(gbuffer, *flows, shot.cameras, shot.cuts, shot.fine if scale > 1 else None)
            found[folder.name, scale] = [occlusion(truth, occluded), occlusion(truth, occluded, sky=True)]
    for scale in sorted({scale for _, scale in found}):
        one, *others = [agreements for (_, its_scale), agreements in found.items() if its_scale == scale]
        found["all", scale] = [sum((other[i] for other in others), one[i]) for i in (0, 1)]
    return [
        [name, f"{scale}x", *(f"{share:.4f}" for share in (surface.precision, surface.recall, surface.f1, with_sky.f1))]
        for (name, scale), (surface, with_sky) in found.items()
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure occlusion and codes of shots with ground truth.")
    parser.add_argument("shots", type=Path, nargs="+", metavar="SHOT")
    parser.add_argument("--occlusion-only", action="store_true", help="leave out the codes, which take longer")
    arguments = parser.parse_args()
    head = ["scene", "data", "precision", "recall", "F1", "F1 with sky"]
    print(table(head, occlusion_rows(arguments.shots)))
    if arguments.occlusion_only:
        return
    head = ["scene", "coding", "median", "95 %", "> 1 px", "> 1 px, age >= 24", "sharing", "codes / pixels"]
    head += ["other object", "seen again", "of these > 1 px"]
    print()
    print(table(head, [row for folder in arguments.shots for row in code_rows(folder)]))


if __name__ == "__main__":
    main()

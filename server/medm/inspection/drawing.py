"""Draws what is known of a shot into files. For `medm inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from medm.diffusion.control import KINDS, channels_of, control_images, facts_of, view_of
from medm.inspection import views
from medm.inspection.evidence import Evidence
from medm.inspection.sheets import LEGEND, chosen_frames, fitted, sheet
from medm.inspection.views import Picture
from medm.pictures import side_by_side, write_video
from medm.progress import Progress, part
from medm.shot import Float32

Shown = list[tuple[str, str, str]]
"""Title, file and explanation of every picture, in the order in which they should be looked at."""


def draw(evidence: Evidence, out: Path, progress: Progress, coverage: Float32 | None = None) -> Shown:
    """Write all pictures and videos to a folder.

    `coverage`: (T, H, W) how much of each pixel a selection would have painted, if there is one to be shown.

    Raises:
        BadInput: the beauty cannot be read.
        OSError: a file cannot be written.
    """
    easel = _Easel(evidence, part(progress, 0.0, 0.1))
    fps = evidence.shot.manifest.fps
    shown: Shown = []

    progress(0.1, "draw overview")
    write_video(out / "overview.mp4", _told(easel.overview(), len(evidence), part(progress, 0.1, 0.4), "draw overview"), fps)
    shown.append(
        ("Overview", "overview.mp4", "The picture, its motion, what comes into view in each frame, and the codes. The legends are below.")
    )

    easel.flow_sheet().save(out / "flow.png")
    text = (
        "Where each point was in the frame before. Edges of colour belong to edges of objects; something that moves on the screen and "
        "stays white has no vectors. The sky's motion comes from the cameras."
    )
    shown.append(("Motion", "flow.png", text))

    progress(0.4, "draw occlusion")
    easel.occlusion_sheet().save(out / "occlusion.png")
    text = (
        "Orange pixels come into view: the model paints them anew. They belong to the edges of what moves and of the picture; orange all "
        "over an object means that it has just appeared, or that its vectors are of no use."
    )
    shown.append(("What comes into view", "occlusion.png", text))

    progress(0.5, "draw codes")
    easel.code_sheet().save(out / "codes.png")
    shown.append(
        (
            "Codes",
            "codes.png",
            "Every code has its colour for the whole shot, and codes born side by side have one hue: patches must ride on the surfaces.",
        )
    )
    write_video(out / "codes.mp4", _told(easel.codes(), len(evidence), part(progress, 0.5, 0.8), "draw codes"), fps)
    shown.append(("Codes in motion", "codes.mp4", "Colours must stick to the surfaces; where they boil, so will the take."))

    progress(0.8, "draw lengths")
    easel.length_sheet().save(out / "length.png")
    text = (
        "Above: in how many frames the point that a pixel shows is seen in all. Below: for how long it has been known. Yellow is held "
        "steady for long; violet is seen once, and looks as the model happened to paint it."
    )
    shown.append(("How long points are seen", "length.png", text))

    progress(0.9, "draw control images")
    easel.control_sheet().save(out / "control.png")
    shown.append(
        (
            "What the model sees",
            "control.png",
            "The control images, of which a model takes one or a few. What makes no line, no shade and no depth here does not exist for "
            "the model. Depth is relative to what comes nearest in the whole shot; segmentation has the colours of ADE20K, by the "
            "objects' names.",
        )
    )

    if coverage is not None:
        easel.mask_sheet(coverage).save(out / "mask.png")
        shown.insert(
            0, ("What is painted", "mask.png", "Orange would be painted. Everything else stays as it is in the picture, to the bit.")
        )
    return shown


class _Easel:
    """Makes the pictures; each needs memory for a few frames, whatever the length of the shot."""

    def __init__(self, evidence: Evidence, progress: Progress) -> None:
        self.evidence = evidence
        self.beauty = evidence.shot.beauty(progress) if evidence.shot.has_beauty else None
        self.fastest = self._fastest()
        self.chosen = chosen_frames(len(evidence))
        self.captions = [f"frame {evidence.shot.frame_numbers[t]}" for t in self.chosen]

    def _fastest(self) -> float:
        """Full colour of the wheel: 99 of 100 pixels are slower."""
        found = self.evidence.found
        some = ~found.occluded[:, ::3, ::3] & np.isfinite(found.flow_to_prev[:, ::3, ::3]).all(axis=-1)
        speed = np.linalg.norm(found.flow_to_prev[:, ::3, ::3][some], axis=-1)
        return max(0.1, float(np.percentile(speed, 99))) if len(speed) else 1.0

    def base(self, t: int) -> Picture:
        """The beauty, or a clay picture if there is none."""
        if self.beauty is not None:
            return np.asarray(self.beauty[t])
        gbuffer = self.evidence.gbuffer
        return views.shaded_picture(self.evidence.facts.facing[t], gbuffer.background[t], gbuffer.object_id[t])

    def flow(self, t: int) -> Picture:
        flow = self.evidence.found.flow_to_prev[t]
        return views.flow_picture(flow if self.evidence.joined[t] else np.full_like(flow, np.nan), self.fastest)

    def occlusion(self, t: int) -> Picture:
        return views.occlusion_picture(self.base(t), self.evidence.found.occluded[t])

    def code(self, t: int) -> Picture:
        return views.code_picture(self.evidence.found.codes, t, self.evidence.facts.facing[t])

    def codes(self) -> Iterator[Picture]:
        return (self.code(t) for t in range(len(self.evidence)))

    def overview(self) -> Iterator[Picture]:
        first = "beauty" if self.beauty is not None else "surfaces"
        for t in range(len(self.evidence)):
            cells = {
                first: fitted(self.base(t)),
                "motion": fitted(self.flow(t)),
                "comes into view": fitted(self.occlusion(t)),
                "codes": fitted(self.code(t), mixed=False),
            }
            yield side_by_side({label: picture[None] for label, picture in cells.items()})[0]

    def flow_sheet(self) -> Image.Image:
        return sheet({"": [self.flow(t) for t in self.chosen]}, self.captions, views.wheel(self.fastest, LEGEND))

    def occlusion_sheet(self) -> Image.Image:
        evidence = self.evidence
        share = evidence.found.occluded.mean(axis=(1, 2))
        notes = [f"{100 * share[t]:.1f} % new" if evidence.joined[t] else "all new: no frame before" for t in self.chosen]
        captions = [f"{caption}: {note}" for caption, note in zip(self.captions, notes, strict=True)]
        legend = views.swatches([(views.FRESH, "comes into view: no counterpart in the frame before")], LEGEND)
        return sheet({"": [self.occlusion(t) for t in self.chosen]}, captions, legend)

    def code_sheet(self) -> Image.Image:
        return sheet({"": [self.code(t) for t in self.chosen]}, self.captions, mixed=False)

    def length_sheet(self) -> Image.Image:
        evidence = self.evidence
        length, codes = len(evidence), evidence.found.codes
        few = chosen_frames(length, 6)
        rows = {
            "frames in which the point is seen": [views.heat_picture(evidence.facts.frames[codes.codes[t]] - 1, length - 1) for t in few],
            "frames since it was first seen": [views.heat_picture(t - codes.birth_frame[codes.codes[t]], length - 1) for t in few],
        }
        captions = [f"frame {evidence.shot.frame_numbers[t]}" for t in few]
        return sheet(rows, captions, views.heat_legend(length, 1, "frames", LEGEND))

    def control_sheet(self) -> Image.Image:
        evidence = self.evidence
        few = chosen_frames(len(evidence), 6)
        view = view_of(evidence.gbuffer, evidence.shot.cameras, few)
        facts = facts_of(evidence.gbuffer, dict(zip(evidence.ids.tolist(), evidence.names, strict=True)))
        rows = {}
        for kind in KINDS:
            images = np.moveaxis(control_images(view, [kind], channels_of([kind]), facts), 1, -1)
            pictures = (images * 255).round().astype(np.uint8)
            rows[kind] = [np.broadcast_to(picture, (*picture.shape[:2], 3)) for picture in pictures]
        return sheet(rows, [f"frame {evidence.shot.frame_numbers[t]}" for t in few])

    def mask_sheet(self, coverage: Float32) -> Image.Image:
        pictures = [views.mask_picture(self.base(t), coverage[t]) for t in self.chosen]
        captions = [f"{caption}: {coverage[t].mean():.1%}" for caption, t in zip(self.captions, self.chosen, strict=True)]
        return sheet({"": pictures}, captions, views.swatches([(views.FRESH, "would be painted")], LEGEND))


def _told(pictures: Iterator[Picture], length: int, progress: Progress, phase: str) -> Iterator[Picture]:
    """The same pictures; says how many have been taken."""
    for index, picture in enumerate(pictures):
        progress(index / length, phase)
        yield picture

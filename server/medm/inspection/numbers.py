"""The figures of `medm inspect`, as numbers.json has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from medm.inspection.checks import Finding
from medm.inspection.evidence import Evidence
from medm.shot import Bool


def numbers(evidence: Evidence, findings: Sequence[Finding]) -> dict[str, Any]:
    """A JSON object; shares from 0 to 1, lengths in pixels, frames by their numbers on the timeline.

    `occluded_share` and `longest_motion` are those of frames that have a frame before (None if none has); `revived_share` is the share of
    codes that were out of view for a frame or more and came back.
    """
    shot, codes = evidence.shot, evidence.found.codes
    width, height = shot.size
    pixels = codes.codes.size
    occluded = evidence.found.occluded.mean(axis=(1, 2))
    revived, revived_share = _revived(evidence)
    fastest = [_fastest(evidence, t) for t in range(len(evidence))]
    joined = np.flatnonzero(evidence.joined)
    longest = max((fastest[t] for t in joined), key=lambda motion: motion["pixels"], default=None)
    return {
        "shot": shot.manifest.name,
        "frames": {"first": shot.frame_numbers[0], "last": shot.frame_numbers[-1], "count": len(shot), "fps": shot.manifest.fps},
        "width": width,
        "height": height,
        "has_beauty": shot.has_beauty,
        "cuts": [shot.frame_numbers[t] for t in range(1, len(shot)) if not evidence.joined[t]],
        "codes": codes.count,
        "codes_per_pixel": codes.count / pixels,
        "mean_frames_per_code": float(evidence.facts.frames.mean()),
        "revived_share": revived_share,
        "occluded_share": float(occluded[joined].mean()) if len(joined) else None,
        "longest_motion": longest,
        "per_frame": [
            {
                "frame": number,
                "cut": not bool(evidence.joined[t]),
                "occluded_share": float(occluded[t]),
                "revived_share": float(revived[t]),
                "surface_share": float(1 - evidence.gbuffer.background[t].mean()),
                "longest_motion": fastest[t]["pixels"] if evidence.joined[t] else None,
            }
            for t, number in enumerate(shot.frame_numbers)
        ],
        "objects": _objects(evidence),
        "warnings": [asdict(finding) for finding in findings],
    }


def _revived(evidence: Evidence) -> tuple[list[float], float]:
    """By frame, the share of pixels whose code had been away; and the share of codes that ever came back."""
    codes = evidence.found.codes
    last = np.full(codes.count, -1, np.int32)
    ever = np.zeros(codes.count, np.bool_)
    shares = []
    for t, code in enumerate(codes.codes):
        back = (last[code] >= 0) & (last[code] < t - 1)
        ever[code[back]] = True
        last[code] = t
        shares.append(float(back.mean()))
    return shares, float(ever.mean())


def _fastest(evidence: Evidence, t: int) -> dict[str, Any]:
    """The longest motion of anything that was in view in the frame before."""
    flow, sky = evidence.found.flow_to_prev[t], evidence.gbuffer.background[t]
    with np.errstate(over="ignore", invalid="ignore"):
        speed = np.linalg.norm(flow, axis=-1)
    valid: Bool = np.isfinite(speed) & ~evidence.found.occluded[t]
    speed = np.where(valid, speed, 0)
    where = int(speed.argmax())
    name = "background" if sky.flat[where] else evidence.names[int(evidence.objects(t).flat[where])]
    return {"pixels": float(speed.flat[where]), "frame": evidence.shot.frame_numbers[t], "object": name}


def _objects(evidence: Evidence) -> list[dict[str, Any]]:
    """What is in view, the largest first."""
    known = evidence.shot.objects
    share = evidence.pixels.sum(axis=0) / evidence.found.codes.codes.size
    seen = (evidence.pixels > 0).sum(axis=0)
    return [
        {
            "name": evidence.names[k],
            "id": int(evidence.ids[k]),
            "kind": known[int(evidence.ids[k])].kind if int(evidence.ids[k]) in known else None,
            "share": float(share[k]),
            "frames": int(seen[k]),
        }
        for k in np.argsort(-share, kind="stable")
    ]

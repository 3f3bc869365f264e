"""The page of `medm inspect`: one HTML file that asks for nothing from outside and runs no script. All text from the shot is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

_STYLE = """
body { background: #262628; color: #dedede; font: 16px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1700px; padding: 0 1.5em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
img, video { max-width: 100%; } p { max-width: 60em; }
.warning { background: #50340f; border-left: 6px solid #ff8a14; margin: .6em 0; padding: .7em 1em; }
.good { background: #1d3b28; border-left: 6px solid #46b573; margin: .6em 0; padding: .7em 1em; }
table { border-collapse: collapse; } td, th { padding: .2em 1.2em .2em 0; text-align: left; font-weight: normal; }
th { color: #a5a5aa; } td.n { text-align: right; font-variant-numeric: tabular-nums; } small { color: #a5a5aa; }
svg { background: #1c1c1e; }
"""

_MOST_OBJECTS = 40


def page(figures: dict[str, Any], pictures: Sequence[tuple[str, str, str]]) -> str:
    """The whole document.

    Args:
        figures: what `medm.inspection.numbers.numbers` returns.
        pictures: title, file name and what there is to see, in order; files that end in .mp4 are shown as videos.
    """
    name = escape(figures["shot"])
    body = [
        f"<h1>Shot {name}</h1>",
        _warnings(figures["warnings"]),
        _table(figures),
        _chart(figures["per_frame"]),
        _objects(figures["objects"]),
    ]
    body += [_figure(*picture) for picture in pictures]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{name}: medm inspect</title><style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _warnings(warnings: Sequence[dict[str, Any]]) -> str:
    if not warnings:
        return '<div class="good">Nothing found that would spoil a take.</div>'
    return "\n".join(f'<div class="warning">{escape(warning["message"])}</div>' for warning in warnings)


def _table(figures: dict[str, Any]) -> str:
    frames, longest = figures["frames"], figures["longest_motion"]
    motion = f"{longest['pixels']:.1f} px, {longest['object']} in frame {longest['frame']}" if longest else "no frame has one before it"
    cuts = ", ".join(map(str, figures["cuts"])) or "none"
    rows = [
        ("Frames", f"{frames['count']} ({frames['first']} to {frames['last']}) at {frames['fps']:g} fps", ""),
        ("Size", f"{figures['width']} x {figures['height']}", ""),
        ("Beauty", "yes" if figures["has_beauty"] else "no", "needed for assistive rendering only"),
        ("Cuts", cuts, "frames at which everything starts anew"),
        ("Longest motion", motion, "from one frame to the next"),
        ("Comes into view", _percent(figures["occluded_share"]), "of a frame, on average: what the frame before does not show"),
        ("Codes", f"{figures['codes']}, {figures['codes_per_pixel']:.3f} a pixel", "surface points; the fewer a pixel, the steadier"),
        ("Seen for", f"{figures['mean_frames_per_code']:.1f} frames", "a code, on average"),
        ("Came back", _percent(figures["revived_share"]), "of all codes were shown by no pixel for a while, and then again"),
    ]
    lines = [f"<tr><th>{label}</th><td>{escape(value)}</td><td><small>{note}</small></td></tr>" for label, value, note in rows]
    return f"<h2>Numbers</h2>\n<table>{''.join(lines)}</table>"


def _chart(frames: Sequence[dict[str, Any]]) -> str:
    """Bars of the share that comes into view, frame by frame; grey where there is no frame before."""
    height, step = 120, max(3, min(24, 1200 // len(frames)))
    top = max([frame["occluded_share"] for frame in frames if not frame["cut"]], default=1.0) or 1.0
    bars = []
    for index, frame in enumerate(frames):
        share = 1.0 if frame["cut"] else frame["occluded_share"] / top
        label = "no frame before" if frame["cut"] else _percent(frame["occluded_share"])
        bars.append(
            f'<rect x="{index * step}" y="{height * (1 - share):.1f}" width="{step - 1}" height="{height * share:.1f}" '
            f'fill="{"#5a5a5e" if frame["cut"] else "#ff8a14"}"><title>frame {frame["frame"]}: {label}</title></rect>'
        )
    return (
        f"<h2>What comes into view, by frame</h2>\n<p><small>Frames {frames[0]['frame']} to {frames[-1]['frame']}; the highest orange bar "
        f"is {_percent(top)} of the picture. Grey: no frame before.</small></p>\n"
        f'<svg width="{len(frames) * step}" height="{height}">{"".join(bars)}</svg>'
    )


def _objects(objects: Sequence[dict[str, Any]]) -> str:
    lines = [
        f'<tr><td>{escape(thing["name"])}</td><td>{thing["kind"] or "not told"}</td><td class="n">{_percent(thing["share"])}</td>'
        f'<td class="n">{thing["frames"]}</td></tr>'
        for thing in objects[:_MOST_OBJECTS]
    ]
    left = len(objects) - _MOST_OBJECTS
    more = f"<p><small>and {left} more, in numbers.json</small></p>" if left > 0 else ""
    head = "<tr><th>Object</th><th>Motion</th><th>Share of the picture</th><th>Frames</th></tr>"
    return f"<h2>Objects in view</h2>\n<table>{head}{''.join(lines)}</table>{more}"


def _figure(title: str, file: str, text: str) -> str:
    shown = f'<video src="{file}" controls loop muted></video>' if file.endswith(".mp4") else f'<img src="{file}" alt="{escape(title)}">'
    return f"<h2>{escape(title)}</h2>\n<p>{escape(text)}</p>\n{shown}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"

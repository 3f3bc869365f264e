"""What each lever of the temporal guidance does to consistency, sharpness and time, from the paper's setting to the defaults.

    OMP_NUM_THREADS=1 .venv/bin/python server/bench/diffusion/levers.py SHOT [SHOT ...] [--prompt TEXT] [--only WORDS ...] [-o DIR]

Every row of the table is a take of the shot, painted in this process one after another with the model loaded and the shot analysed. Each
setting of the upper half is the one above it with one change; those of the lower half are the defaults without one of their parts.

    warping, spread, sharpness   as `medm evaluate` measures them; sharpness as a share of w = 0's with the same noise
    seconds                      of painting, by part: the networks that denoise; making the frames agree; decoding and the final
                                 harmonisation. On a CPU they are the processor's, which other programs change less than the clock's: set
                                 OMP_NUM_THREADS=1, as threads that wait for each other count too
    guidance adds                the share that agreement has beside the rest of the same row

With -o the frames are kept, to be looked at: DIR/SHOT/ROW/frames.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from medm.diffusion.models import Model
from medm.diffusion.rendering import paint, plan_of
from medm.diffusion.seen import Seen, look_at
from medm.evaluate import measure
from medm.settings import RenderSettings
from medm.shot import Shot, frame_file

PAPER: dict[str, Any] = {
    "w": 0.8,
    "w_steps": 1000,
    "w_start": 0.0,
    "w_end": 1.0,
    "hold": "sample",
    "harmonisation": "global",
    "encoding": "plain",
    "final_harmonisation": "off",
    "deblur": 0.0,
    "noise": "shared",
    "coding": "rounded",
}
"""As MeDM's authors paint: rounded codes, one noise for all frames, the full round trip at every step but the last."""

CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("+ sub-pixel codes that come back", {"coding": "subpixel"}),
    ("+ noise by code", {"noise": "code"}),
    ("+ w = 1", {"w": 1.0}),
    ("+ the noise is held, not the sample", {"hold": "noise"}),
    ("+ three guided steps", {"w_steps": 3, "w_start": 0.25, "w_end": 0.85}),
    ("+ fidelity encoding", {"encoding": "fidelity"}),
    ("+ key frames", {"harmonisation": "key"}),
    ("+ final harmonisation, the mean", {"final_harmonisation": "mean"}),
    ("+ feathered", {"final_harmonisation": "feathered"}),
    ("+ frames keep their finest detail", {"final_harmonisation": "detail"}),
    ("+ deblurred: the defaults", {"deblur": None}),
]

WITHOUT: list[tuple[str, dict[str, Any]]] = [
    ("without: noise by code (shared)", {"noise": "shared"}),
    ("without: the noise held", {"hold": "sample"}),
    ("without: fidelity encoding", {"encoding": "plain"}),
    ("without: key frames (global)", {"harmonisation": "global"}),
    ("without: key frames (weighted)", {"harmonisation": "weighted"}),
    ("two guided steps", {"w_steps": 2}),
    ("five guided steps", {"w_steps": 5}),
]


def rows() -> dict[str, dict[str, Any]]:
    """The settings of every row, by its name."""
    table: dict[str, dict[str, Any]] = {
        "w = 0, independent noise": {"w": 0.0, "noise": "independent"},
        "w = 0, noise by code": {"w": 0.0},
        "the paper's setting": PAPER,
    }
    settings = dict(PAPER)
    for name, change in CHANGES:
        settings = settings | change
        table[name] = settings
    return table | dict(WITHOUT)


@dataclass
class Timer:
    """Seconds by part, from the phases that painting tells its progress."""

    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._part, self._since = "other", self.clock()

    def __call__(self, fraction: float, phase: str) -> None:
        """A progress callback."""
        now = self.clock()
        self.seconds[self._part] += now - self._since
        self._part = "networks" if phase.startswith("paint") else "agreement" if phase.startswith("align frames,") else "result"
        self._since = now


def bench(shot: Shot, prompt: str, steps: int, only: list[str], out: Path | None) -> None:
    """Prints the table of one shot."""
    print(f"\n{shot.folder.name}: {len(shot)} frames of {shot.size[0]} x {shot.size[1]}, {steps} steps, {prompt!r}\n")
    print("| | warping error | spread | sharpness | of w = 0 | networks, s | agreement, s | result, s | guidance adds |")
    print("|---|---|---|---|---|---|---|---|---|")
    base: float | None = None
    looks: dict[Any, Seen] = {}
    judge = None
    for name, options in {name: options for name, options in rows().items() if not only or any(words in name for words in only)}.items():
        settings = RenderSettings(prompt=prompt, steps=steps, **options)
        model = Model.load(settings)
        timer = Timer(time.process_time if model.device.type == "cpu" else time.perf_counter)
        look = settings.coding, settings.harmonisation if settings.w > 0 else ""
        if look not in looks:
            looks[look] = look_at(shot, settings, model.controls, model.device)
        if settings.coding == "subpixel" and judge is None:
            judge = looks[look]
        timer(0.0, "start")
        timer.seconds.clear()
        frames, _ = paint(shot, looks[look], model, settings, plan_of(shot, settings, model), timer)
        timer(1.0, "done")
        assert judge is not None, "the first row is of sub-pixel codes, with which all are measured"
        metrics = measure(frames, judge.found, judge.object_id)
        sharpness = metrics["sharpness"] or 0.0
        if name == "w = 0, noise by code":
            base = sharpness
        networks, agreement, result = (timer.seconds[part] for part in ("networks", "agreement", "result"))
        print(
            f"| {name} | {metrics['warping_error']:.5f} | {metrics['code_spread']:.5f} | {sharpness:.5f} "
            f"| {'' if base is None else f'{sharpness / base:.3f}'} | {networks:.1f} | {agreement:.1f} | {result:.1f} "
            f"| {agreement / (networks + result):.0%} |",
            flush=True,
        )
        if out is not None:
            keep(out / shot.folder.name / name.replace("/", "-") / "frames", shot.frame_numbers, frames)


def keep(folder: Path, numbers: list[int], frames: np.ndarray[Any, Any]) -> None:
    """Writes the frames."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in zip(numbers, frames, strict=True):
        Image.fromarray(frame).save(folder / frame_file(number))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="What each lever of the guidance does.")
    parser.add_argument("shots", nargs="+", type=Path, metavar="SHOT")
    parser.add_argument("--prompt", default="a porcelain sculpture")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", action="append", default=[], metavar="WORDS", help="rows whose names hold these words; may be repeated")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for folder in options.shots:
        bench(Shot.open(folder), options.prompt, options.steps, options.only, options.out)


if __name__ == "__main__":
    main()

"""Whether a take fits this machine, for the process that serves: what reckons loads torch, so it is a process of its own.

It stays for a while after an answer, for the next question comes fast then, and holds nothing of the GPU's memory but what every
process that looks at it does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medm.errors import BadInput, MedmError, Unavailable
from medm.service.documents import check_model, check_names, read_settings
from medm.service.worker import die_with_parent
from medm.settings import RenderSettings

if TYPE_CHECKING:
    from medm.diffusion.plan import Place, Plan

LARGEST = 16384
"""Pixels of the longest side that is reckoned with."""
LONGEST = 100_000
"""Frames."""
PATIENCE = 120.0
"""Seconds that an answer may take."""
IDLE = 60.0
"""Seconds after an answer in which the process waits for the next question."""


class Planner:
    """Answers one question at a time; may be asked from several threads."""

    def __init__(self, models: Path) -> None:
        self._models = models
        self._lock = threading.Lock()
        self._process: BaseProcess | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._timer: threading.Timer | None = None

    def plan(self, question: Any) -> dict[str, Any]:
        """{"fits", "needs_gb", "free_gb", "message"} to {"width", "height", "frames", "settings"}, by the memory that is free now.

        Blocks, for seconds where it is the first question for a while. Raises BadInput and Unavailable, also where a model is not there.
        """
        width, height, frames, settings = _read(question)
        check_model(settings.model, self._models)
        check_names(settings, self._models)
        with self._lock:
            self._rest()
            answer = self._ask((width, height, frames, settings.model_dump(mode="json"), self._models))
            self._timer = threading.Timer(IDLE, self._stand_down)
            self._timer.daemon = True
            self._timer.start()
        match answer:
            case ("plan", document):
                return dict(document)
            case ("refused", text):
                raise BadInput(text)
            case (_, text):
                raise Unavailable(text)
        raise AssertionError(answer)

    def close(self) -> None:
        """Ends the process, if it is there, and what it is being asked."""
        process = self._process
        if process is not None:
            process.kill()  # before the lock, which is held until there is an answer
        self._stand_down()

    def _stand_down(self) -> None:
        with self._lock:
            self._rest()
            self._end()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ask(self, question: object) -> tuple[str, Any]:
        try:
            if self._process is None or self._pipe is None or not self._process.is_alive():
                self._end()
                context = multiprocessing.get_context("spawn")
                self._pipe, theirs = context.Pipe()
                self._process = context.Process(target=_work, args=(theirs,), name="medm-planner", daemon=True)
                self._process.start()
                theirs.close()
            self._pipe.send(question)
            if self._pipe.poll(PATIENCE):
                answer: tuple[str, Any] = self._pipe.recv()
                return answer
        except (OSError, EOFError):
            pass
        self._end()
        return "unavailable", "what this take needs could not be reckoned; the server's log says more"

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _read(question: Any) -> tuple[int, int, int, RenderSettings]:
    if not isinstance(question, Mapping) or not set(question) <= {"width", "height", "frames", "settings"}:
        raise BadInput('a plan is asked for with {"width": pixels, "height": pixels, "frames": number, "settings": {...}}')
    numbers = []
    for name, most in (("width", LARGEST), ("height", LARGEST), ("frames", LONGEST)):
        number = question.get(name)
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
            raise BadInput(f"{name} must be a whole number from 1 to {most}")
        numbers.append(number)
    return numbers[0], numbers[1], numbers[2], read_settings(question.get("settings", {}))


# The process that reckons


def _work(pipe: Connection[Any, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group; the parent decides
    threading.Thread(target=die_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError):
        while True:
            width, height, frames, settings, models = pipe.recv()
            try:
                pipe.send(("plan", plan_document(width, height, frames, read_settings(settings), models)))
            except BadInput as error:
                pipe.send(("refused", str(error)))
            except MedmError as error:
                pipe.send(("unavailable", str(error)))


def plan_document(width: int, height: int, frames: int, settings: RenderSettings, models: Path) -> dict[str, Any]:
    """How a take would be made on this machine now, in short."""
    from medm.diffusion.models import best_device
    from medm.diffusion.plan import ModelFacts, plan

    device = best_device()
    return said(plan(frames, height, width, ModelFacts.wanted(settings, device, models), device, settings))


def said(planned: Plan) -> dict[str, Any]:
    """A plan in short: whether it fits, what it needs of the memory that is short (or of the device's), and a sentence about that."""
    gb = 1e9
    places: tuple[Place, ...] = ("device", "host")
    place: Place = "device" if planned.fits else max(places, key=lambda place: planned.peak(place) / max(planned.free[place], 1))
    needs, free = planned.peak(place) / gb, planned.free[place] / gb
    memory = "GPU memory" if place == "device" and planned.device == "cuda" else "memory"
    if planned.fits:
        message = f"It needs {needs:.1f} GB of {free:.1f} GB of free {memory}"
        if planned.window is not None:
            message += f"; {planned.window} frames are painted at a time, which takes longer"
    else:
        message = (
            f"It may not fit: it needs {needs:.1f} GB of {memory}, and {free:.1f} GB are free; "
            "take a smaller size, fewer frames or a smaller model, or close other programs"
        )
    return {"fits": planned.fits, "needs_gb": round(needs, 1), "free_gb": round(free, 1), "message": message}

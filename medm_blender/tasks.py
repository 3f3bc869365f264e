"""The work of a take as generators: export, upload, paint, download, place.

Every step yields (share done, phase). A modal operator steps them in the window, a plain loop in batch, so that both run the same code.
`paint_take` is the server's part and knows no Blender; it never blocks for longer than a tenth of a second between two yields.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

from .client import Client, Progress, ServerError

Result = TypeVar("Result")
Step = tuple[float, str]


class _Stopped(Exception):
    """Raised inside a transfer whose generator was closed."""


def run(steps: Generator[Step, None, Result], progress: Progress) -> Result:
    """The plain loop: runs the steps to their end, reports each, and returns their result."""
    try:
        while True:
            progress(*next(steps))
    except StopIteration as done:
        result: Result = done.value
        return result
    finally:
        steps.close()


def paint_take(client: Client, shot: Path, settings: dict[str, Any], take: Path) -> Generator[Step, None, Path]:
    """Brings the shot folder to the server, has it painted and brings the take home; returns the folder `take`.

    Closing the generator stops the transfer and cancels the job. What was uploaded stays on the server and is not sent again.
    Raises ServerError.
    """
    shot_id = yield from _part(0.0, 0.05, _in_thread(lambda progress: client.upload_shot(shot, progress)))
    job = client.submit(shot_id, settings)
    try:
        yield from _part(0.05, 0.97, client.wait(job))
    except (GeneratorExit, KeyboardInterrupt):
        with contextlib.suppress(ServerError):  # if the server went first, there is nothing left to cancel
            client.cancel(job)
        raise
    yield from _part(0.97, 1.0, _in_thread(lambda progress: client.download(job, take, progress)))
    return take


def render_take(
    scene: Any,
    client: Client,
    settings: dict[str, Any],
    folder: str | os.PathLike[str],
    *,
    frame_range: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
) -> Generator[Step, None, Path]:
    """Exports `scene` to `folder`/shot, has it painted and brings the take home as `folder`/take; returns that folder.

    The beauty is rendered only for assistive settings. Raises passes.ShotError and ServerError.
    """
    from . import passes

    root = Path(folder)
    beauty = settings.get("mode") == "assistive"
    client.health()  # before time is spent on rendering
    export = passes.export_steps(scene, root / "shot", frame_range=frame_range, size=size, beauty=beauty)
    shot = yield from _part(0.0, 0.3, export)
    return (yield from _part(0.3, 1.0, paint_take(client, shot, settings, root / "take")))


def _part(start: float, end: float, steps: Generator[Step, None, Result]) -> Generator[Step, None, Result]:
    """The same steps, as the part from `start` to `end` of longer work."""
    try:
        while True:
            fraction, phase = next(steps)
            yield start + (end - start) * fraction, phase
    except StopIteration as done:
        result: Result = done.value
        return result
    finally:
        steps.close()


def _in_thread(work: Callable[[Progress], Result]) -> Generator[Step, None, Result]:
    """Runs blocking work in a thread and yields the progress it reports; closing the generator makes its next report raise."""
    reports: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
    stopped = threading.Event()
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def report(fraction: float, phase: str) -> None:
        if stopped.is_set():
            raise _Stopped
        reports.put((fraction, phase))

    def target() -> None:
        try:
            outcome.append(work(report))
        except BaseException as error:  # handed to the thread that waits, whatever it is
            failure.append(error)
        finally:
            reports.put(None)

    thread = threading.Thread(target=target, name="medm-transfer", daemon=True)
    thread.start()
    latest: Step = (0.0, "upload")
    try:
        while True:
            try:
                item = reports.get(timeout=0.1)
            except queue.Empty:
                yield latest
                continue
            if item is None:
                break
            latest = item
            yield latest
    finally:
        stopped.set()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]

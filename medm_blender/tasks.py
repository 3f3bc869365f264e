"""The work of a take as generators: export, upload, paint, download, place.

Every step yields (share done, phase). A modal operator steps them in the window, a plain loop in batch, so that both run the same code.
`paint_take` is the server's part and knows no Blender; however slow the network, it yields every tenth of a second.
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


CLOSE_PATIENCE = 1.0
"""Seconds that closing a generator waits for its transfer to stop. One that is stuck in the network longer stops by itself later."""
_INTERVAL = 0.1


class _Stopped(Exception):
    """Raised inside a transfer whose generator was closed."""


def run(steps: Generator[Step, None, Result], progress: Progress) -> Result:
    """The plain loop: runs the steps to their end, reports each that brings news, and returns their result."""
    told: Step | None = None
    try:
        while True:
            step = next(steps)
            if step != told:  # the steps also yield while nothing happens, so that a window stays alive; a log need not hold that
                told = step
                progress(*step)
    except StopIteration as done:
        result: Result = done.value
        return result
    finally:
        steps.close()


def paint_take(client: Client, shot: Path, settings: dict[str, Any], take: Path) -> Generator[Step, None, Path]:
    """Brings the shot folder to the server, has it painted and brings the take home; returns the folder `take`.

    Closing the generator stops the transfer and cancels the job. What was uploaded stays on the server and is not sent again.
    Frames of an earlier take in the same folder are removed once the new ones are there. Raises ServerError.
    """
    jobs: list[str] = []

    def send(progress: Progress) -> None:
        shot_id = client.upload_shot(shot, progress)
        jobs.append(client.submit(shot_id, settings))
        try:
            progress(1.0, "queued")
        except _Stopped:  # closed while the job was on its way: nobody else knows of it
            client.cancel(jobs[0])
            raise

    try:
        yield from _part(0.0, 0.05, _in_thread(send, "upload"))
        yield from _part(0.05, 0.97, client.wait(jobs[0]))
    except (GeneratorExit, KeyboardInterrupt):
        with contextlib.suppress(ServerError):  # if the server went first, there is nothing left to cancel
            for job in jobs:
                client.cancel(job)
        raise
    files = yield from _part(0.97, 1.0, _in_thread(lambda progress: client.download(jobs[0], take, progress), "download"))
    _remove_other_frames(take, files)
    return take


def render_take(
    scene: Any,
    client: Client,
    settings: dict[str, Any],
    folder: str | os.PathLike[str],
    *,
    frame_range: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    data_supersampling: int = 1,
) -> Generator[Step, None, Path]:
    """Exports `scene` to `folder`/shot, has it painted and brings the take home as `folder`/take; returns that folder.

    settings: as `Client.submit` has them, but for `reference`, which is a picture of this machine and goes along with the shot.
    folder: as the user wrote it, so `//renders` is one beside the .blend. The beauty is rendered only for settings that need it.
    Raises passes.ShotError and ServerError; before anything is rendered if the server, or the model that the settings name, is not there,
    or if the settings are wrong.
    """
    from . import passes

    root = passes.absolute(folder)
    beauty = settings.get("mode") == "assistive" or settings.get("paint") is not None
    reference = settings.get("reference")
    if reference is not None:
        settings = {**settings, "reference": passes.reference_in_shot(reference)}
    yield from _part(0.0, 0.0, _in_thread(lambda _: _check_server(client, settings), "connect"))
    export = passes.export_steps(
        scene,
        root / "shot",
        frame_range=frame_range,
        size=size,
        beauty=beauty,
        data_supersampling=data_supersampling,
        references=[] if reference is None else [reference],
    )
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


def _check_server(client: Client, settings: dict[str, Any]) -> None:
    models = [str(model["id"]) for model in client.models() if model["available"]]
    wanted = settings.get("model")
    if wanted is not None and wanted not in models:
        raise ServerError(f'The server has no model "{wanted}" ready; it has: {", ".join(models) or "none"}', "unavailable")
    client.check_settings(settings)


def _remove_other_frames(take: Path, files: list[Path]) -> None:
    """What an earlier, longer take left: shown among the new frames it would look like part of them."""
    for frame in set((take / "frames").glob("*.png")) - set(files):
        if frame.stem.removeprefix("-").isdecimal():
            with contextlib.suppress(OSError):  # the take is there all the same
                frame.unlink()


def _in_thread(work: Callable[[Progress], Result], phase: str) -> Generator[Step, None, Result]:
    """Runs blocking work in a thread and yields the progress it reports; closing the generator makes its next report raise.

    phase: what is yielded at once and until the first report. The thread is a daemon: a network that hangs holds up nobody who quits.
    """
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
    latest: Step = (0.0, phase)
    try:
        yield latest
        while True:
            try:
                item = reports.get(timeout=_INTERVAL)
            except queue.Empty:
                yield latest
                continue
            if item is None:
                break
            latest = item
            yield latest
    finally:
        stopped.set()
        thread.join(CLOSE_PATIENCE)
    if failure:
        raise failure[0]
    return outcome[0]

"""The work of a take as generators: export, upload, paint, download.

Every step yields (share done, phase). The window steps them from a timer or a thread, batch in a plain loop: the same code.
`submit_take` ends when the server has all it needs, `finish_take` begins there, in another process if need be: the two halves of
`render_take`. What only talks to the server knows no Blender; however slow the network, it yields every tenth of a second.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator
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


def submit_take(
    scene: Any,
    client: Client,
    settings: dict[str, Any],
    root: str | os.PathLike[str],
    *,
    frame_range: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    data_supersampling: int = 1,
    beauty: Path | None = None,
    source: str | None = None,
) -> Generator[Step, None, str]:
    """Exports `scene` to `root`/shot, sends every file as soon as it is rendered, queues the take and returns the job's id.

    settings: as `Client.submit` has them, but for `reference`, which is a picture of this machine and goes along with the shot.
    root: as the user wrote it, so `//renders` is one beside the .blend. beauty: a folder of pictures `0001.png` to take instead of
    rendering them; either way there is a beauty only for settings that need it. source: as `passes.export_steps` has it.
    Raises passes.ShotError and ServerError; before anything is rendered if the server, or the model that the settings name, is not there,
    or if the settings are wrong. A server that is lost later costs nothing that was rendered: the shot is finished first. Closing removes
    an unfinished shot, and cancels the job.
    """
    from . import passes

    folder = passes.absolute(root) / "shot"
    first, last = frame_range or (scene.frame_start, scene.frame_end)
    sent, reference = _for_server(settings)
    yield from part(0.0, 0.0, in_thread(lambda _: _check_server(client, sent), "connect"))
    with _EarlyUpload(client) as early:
        export = passes.export_steps(
            scene,
            folder,
            frame_range=frame_range,
            size=size,
            beauty=beauty or needs_beauty(settings),
            data_supersampling=data_supersampling,
            references=[] if reference is None else [reference],
            written=early.add,
            source=source,
        )
        yield from part(0.0, 0.9, _counted(export, last - first + 1))
        yield from part(0.9, 0.95, early.rest())
    return (yield from part(0.95, 1.0, _submit(client, folder, sent)))


def submit_shot(client: Client, shot: Path, settings: dict[str, Any]) -> Generator[Step, None, str]:
    """Brings a shot folder that is there already to the server, queues a take of it and returns the job's id.

    settings: as `submit_take` has them; a `reference` has to be in the shot. Closing cancels the job. Raises ServerError.
    """
    sent, _ = _for_server(settings)
    return (yield from _submit(client, shot, sent))


def finish_take(client: Client, job: str, take: Path) -> Generator[Step, None, Path]:
    """Waits until the job is painted and brings it home into the folder `take`, which it returns.

    Frames of an earlier take in the same folder are removed once the new ones are there. Closing leaves the job to the server. Raises
    ServerError.
    """
    yield from part(0.0, 0.95, client.wait(job))
    files = yield from part(0.95, 1.0, in_thread(lambda progress: client.download(job, take, progress), "download"))
    _remove_other_frames(take, files)
    return take


def paint_take(client: Client, shot: Path, settings: dict[str, Any], take: Path) -> Generator[Step, None, Path]:
    """Brings the shot folder to the server, has it painted and brings the take home; returns the folder `take`.

    Closing the generator stops the transfer and cancels the job. What was uploaded stays on the server and is not sent again.
    Frames of an earlier take in the same folder are removed once the new ones are there. Raises ServerError.
    """
    job = yield from part(0.0, 0.05, _submit(client, shot, settings))
    with cancelled_if_closed(client, job):
        yield from part(0.05, 1.0, finish_take(client, job, take))
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

    As `submit_take` and `finish_take`, one after the other; closing cancels the job.
    """
    from . import passes

    submit = submit_take(scene, client, settings, folder, frame_range=frame_range, size=size, data_supersampling=data_supersampling)
    job = yield from part(0.0, 0.3, submit)
    take = passes.absolute(folder) / "take"
    with cancelled_if_closed(client, job):
        yield from part(0.3, 1.0, finish_take(client, job, take))
    return take


def needs_beauty(settings: dict[str, Any]) -> bool:
    """Whether a take with these settings is made from the user's own render too."""
    return settings.get("mode") == "assistive" or bool(settings.get("paint"))


# -- parts -------------------------------------------------------------------------------------------------------------


class _EarlyUpload:
    """Sends files in a thread, one after the other, while Blender renders the next.

    It is a help that nothing depends on: at the first trouble with the network it sends no more, and `Client.upload_shot` does at the end.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._files: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._enough = threading.Event()
        self._added = self._sent = 0
        self._thread = threading.Thread(target=self._work, name="medm-early-upload", daemon=True)

    def __enter__(self) -> _EarlyUpload:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._files.put(None)
        self._thread.join(CLOSE_PATIENCE)

    def add(self, file: Path) -> None:
        """Sends `file`, which is whole and stays as it is."""
        self._added += 1
        self._files.put(file)

    def rest(self) -> Generator[Step, None, None]:
        """Yields until all is sent that was added."""
        self._files.put(None)
        while self._thread.is_alive():
            yield self._sent / max(self._added, 1), "upload"
            self._thread.join(_INTERVAL)

    def _work(self) -> None:
        while not self._enough.is_set() and (file := self._files.get()) is not None:
            try:
                self._client.upload_early(file)
            except ServerError:
                return  # gone, full, or too old to take files early
            self._sent += 1


def _submit(client: Client, shot: Path, settings: dict[str, Any]) -> Generator[Step, None, str]:
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
        yield from in_thread(send, "upload")
    except (GeneratorExit, KeyboardInterrupt):
        with contextlib.suppress(ServerError):
            for job in jobs:
                client.cancel(job)
        raise
    return jobs[0]


@contextlib.contextmanager
def cancelled_if_closed(client: Client, job: str) -> Iterator[None]:
    """Cancels the job if what is done meanwhile is stopped."""
    try:
        yield
    except (GeneratorExit, KeyboardInterrupt):
        with contextlib.suppress(ServerError):  # if the server went first, there is nothing left to cancel
            client.cancel(job)
        raise


def _for_server(settings: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The settings as the server takes them, and the reference picture's path on this machine."""
    from . import passes

    reference = settings.get("reference")
    if reference is None:
        return settings, None
    return {**settings, "reference": passes.reference_in_shot(reference)}, str(reference)


def _counted(steps: Generator[Step, None, Result], frames: int) -> Generator[Step, None, Result]:
    """The same steps of one frame each; the phase says which frame of how many."""
    counts: dict[str, int] = {}
    try:
        while True:
            share, phase = next(steps)
            counts[phase] = counts.get(phase, 0) + 1
            yield share, f"{phase}, frame {counts[phase]} of {frames}"
    except StopIteration as done:
        result: Result = done.value
        return result
    finally:
        steps.close()


def part(start: float, end: float, steps: Generator[Step, None, Result]) -> Generator[Step, None, Result]:
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


def in_thread(work: Callable[[Progress], Result], phase: str) -> Generator[Step, None, Result]:
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

"""Has a Blender in the background render what a take needs, from a copy of the open file, so that the window stays the user's.

For `running.py`. The copy holds what is in the window at that moment, saved or not; the open file, its path, its dirty mark and the list of
recent files stay as they are. What the background Blender is to do stands in a file that only this user can read, token included, in a
folder that goes with the copy. It ends when the steps are closed, and by itself when this Blender is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

import bpy

from .client import Client, ServerError
from .passes import ShotError

Step = tuple[float, str]

REQUEST = "request.json"
JOB = "medm_job"
"""Begins the line in which the background Blender tells the id of the job."""
_PROGRESS = "medm_progress"
_INTERVAL = 0.1
_END_TIMEOUT = 5.0
_SERVER_ENDED = 3  # exit code of the commands: server or model not available


def submit_in_background(
    *,
    scene_name: str,
    settings: dict[str, Any],
    root: Path,
    client: Client,
    frame_range: tuple[int, int],
    size: tuple[int, int],
    data_supersampling: int = 1,
    beauty: Path | None = None,
) -> Generator[Step, None, str]:
    """What `tasks.submit_take` does, done by another Blender; returns the job's id.

    The first step saves the copy and has to be taken in the main thread; all others touch no data of Blender's and are for any thread. They
    yield at least every 0.1 s. scene_name: the full one (`name_full`), which for a linked scene names its library too.
    Closing ends the other Blender at once; what it had not finished is swept away at the next export. Raises ShotError and ServerError.
    """
    folder = Path(tempfile.mkdtemp(prefix="medm_", dir=bpy.app.tempdir or None))  # for this user alone
    process: subprocess.Popen[str] | None = None
    try:
        copy = _save_copy(folder)
        request = {
            "scene": scene_name,
            "settings": settings,
            "root": str(root),
            "frames": list(frame_range),
            "size": list(size),
            "data_supersampling": data_supersampling,
            "beauty": None if beauty is None else str(beauty),
            "url": client.url,
            "token": client.token,
            "scripts_ran": not bpy.app.autoexec_fail,
        }
        command, environment = _command(copy, folder / REQUEST)
        yield 0.0, "copy of the file"
        _write_private(folder / REQUEST, request)
        with (folder / "errors.txt").open("w", encoding="utf-8") as errors:
            process = _start(command, environment, errors)
        return (yield from _follow(process, folder / "errors.txt"))
    except OSError as error:
        raise ShotError(f"the file cannot be rendered in the background: {(error.strerror or str(error)).lower()}") from error
    finally:
        if process is not None:
            _end(process)
        _remove(folder)


def read_request(file: Path) -> dict[str, Any]:
    """What a background Blender is asked to do; see `submit_in_background`."""
    request: dict[str, Any] = json.loads(file.read_bytes())
    return request


def end_with_parent() -> None:
    """In the background Blender: leave at once when the Blender that started it is gone, however it went."""

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(sys.stdin.fileno(), 64):
                pass
        os._exit(1)

    threading.Thread(target=watch, name="medm-parent", daemon=True).start()


# -- the copy ----------------------------------------------------------------------------------------------------------


def _save_copy(folder: Path) -> Path:
    """The open file as it is in memory, under its own name in `folder`; paths in it still lead where they led."""
    original = Path(bpy.data.filepath) if bpy.data.filepath else None
    copy = folder / (original.name if original else "untitled.blend")
    try:
        with _without_preview():
            bpy.ops.wm.save_as_mainfile(filepath=str(copy), check_existing=False, copy=True, relative_remap=True, compress=False)
    except RuntimeError as error:
        lines = [line.removeprefix("Error: ").strip() for line in str(error).splitlines() if line.strip()]
        raise ShotError(f"a copy of the file cannot be written to {folder}: {lines[0] if lines else 'is the disk full?'}") from error
    if not copy.is_file():
        raise ShotError(f"a copy of the file cannot be written to {folder}: is the disk full?")
    if original is not None:
        # Blender looks for the caches of simulations that are kept on disk beside the .blend, by its name.
        cache = original.parent / f"blendcache_{original.stem}"
        if cache.is_dir():
            _link(cache, folder / cache.name)
    return copy


@contextlib.contextmanager
def _without_preview() -> Iterator[None]:
    """Files are saved without a picture of what is in them: rendering it takes most of the time, in which the window stands still."""
    preferences = bpy.context.preferences
    wanted, dirty = preferences.filepaths.file_preview_type, preferences.is_dirty
    preferences.filepaths.file_preview_type = "NONE"
    try:
        yield
    finally:
        preferences.filepaths.file_preview_type = wanted
        preferences.is_dirty = dirty


def _link(target: Path, link: Path) -> None:
    try:
        if sys.platform == "win32":
            import _winapi

            _winapi.CreateJunction(str(target), str(link))  # a link would need rights that few users have
        else:
            link.symlink_to(target, target_is_directory=True)
    except OSError as error:
        raise ShotError(f"the simulations in {target} cannot be used for rendering: {(error.strerror or str(error)).lower()}") from error


def _remove(folder: Path) -> None:
    for link in folder.glob("blendcache_*"):
        with contextlib.suppress(OSError):  # the link itself, never what it leads to
            if sys.platform == "win32":
                link.rmdir()
            else:
                link.unlink()
    shutil.rmtree(folder, ignore_errors=True)


# -- the other Blender -------------------------------------------------------------------------------------------------


def _command(copy: Path, request: Path) -> tuple[list[str], dict[str, str]]:
    """What starts it, and its environment; with the bpy module, a Python with it."""
    environment = dict(os.environ)
    task = ["render", "--request", str(request)]
    place = str(Path(__file__).resolve().parents[1])
    package = str(__package__)
    if not bpy.app.binary_path:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [place, environment.get("PYTHONPATH", "")]))
        return [sys.executable, "-m", package, str(copy), *task], environment
    # A file whose scripts were kept from running here does not run them there. Where they ran, the user's preference has the last word.
    may_run = bpy.context.preferences.filepaths.use_scripts_auto_execute and not bpy.app.autoexec_fail
    command = [bpy.app.binary_path, "-b"]
    if bpy.app.factory_startup:
        command.append("--factory-startup")
    command.append("--enable-autoexec" if may_run else "--disable-autoexec")
    if package.startswith("bl_ext."):
        command += ["--addons", package]
    else:
        code = f"import sys; sys.path.insert(0, {place!r}); import {package} as medm; medm.register()"
        command += ["--python-expr", code]
    if bpy.app.online_access:
        command.append("--online-mode")
    return [*command, str(copy), "--command", "medm", *task], environment


def _write_private(file: Path, document: dict[str, Any]) -> None:
    file.touch(0o600, exist_ok=False)
    with file.open("w", encoding="utf-8") as opened:
        json.dump(document, opened)


def _start(command: list[str], environment: dict[str, str], errors: IO[str]) -> subprocess.Popen[str]:
    options: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        options = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.BELOW_NORMAL_PRIORITY_CLASS}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment,
        text=True,
        encoding="utf-8",
        errors="replace",
        **options,
    )


def _follow(process: subprocess.Popen[str], errors: Path) -> Generator[Step, None, str]:
    """Yields the progress that it prints; returns the job that it names."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # closed while it was read
            for line in process.stdout:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="medm-background", daemon=True).start()
    latest: Step = (0.0, "open the file in the background")
    yield latest
    while True:
        try:
            line = lines.get(timeout=_INTERVAL)
        except queue.Empty:
            yield latest
            continue
        if line is None:
            break
        word, _, rest = line.strip().partition(" ")
        if word == JOB:
            return rest
        if word == _PROGRESS and (found := re.fullmatch(r"(\d\S*) (.+)", rest)):
            with contextlib.suppress(ValueError):
                latest = float(found[1]), found[2]
                yield latest
    raise _failure(process, errors)


def _failure(process: subprocess.Popen[str], errors: Path) -> ShotError | ServerError:
    """Why it ended without a job: its own last words."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_TIMEOUT)
    said = [line.strip() for line in errors.read_text("utf-8", "replace").splitlines() if line.strip()]
    ours = [line.removeprefix("medm: ") for line in said if line.startswith("medm: ")]
    code = process.returncode
    if ours:
        return ServerError(ours[-1], "unavailable") if code == _SERVER_ENDED else ShotError(ours[-1])
    if code is not None and code < 0:
        return ShotError(f"the Blender that rendered in the background was ended (signal {-code}): is there enough memory?")
    return ShotError(f"the Blender that rendered in the background failed: {said[-1] if said else f'exit code {code}'}")


def _end(process: subprocess.Popen[str]) -> None:
    """At once, with whatever it may have started."""
    if process.poll() is None:
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()

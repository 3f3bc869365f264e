"""The one take or preview that this Blender is making: stepped by a timer, so that the window stays free, and told by the panel.

All that waits runs in threads; only what touches the open file is done in the main thread, between two events. No modal operator runs
meanwhile, which would keep Blender from saving automatically. The user may go on editing, undo, even open another file: what is made
knows the scene by its name only, and a take whose file is not open when its frames arrive is offered when it is opened again.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import datetime
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import bpy
from bpy.utils import previews

from . import folders, local_server, passes, preferences, sequencer, settings, takes, tasks
from .client import Client, ServerError

Step = tuple[float, str]
Result = TypeVar("Result")
Kind = Literal["take", "preview"]
State = Literal["running", "done", "failed", "cancelled"]

REFUSALS = (ServerError, passes.ShotError, sequencer.StripError, takes.TakeError, folders.FolderError)
"""The errors whose message is for the user."""

_TICK = 0.1
_PREVIEW_EVERY = 1.5
"""Seconds between two looks at the picture that the server is painting."""
_FIRST_PREVIEW = 0.3
_PATIENCE = 30.0
"""Seconds that a finished take waits for the user to let go of what is being dragged; some add-ons never do."""
_EXPORTED, _PAINTED = 0.3, 0.97
"""Shares of the whole that are done once the job is submitted, and once it is painted."""


class WindowError(Exception):
    """What was rendered from the open file is there no longer. The message is one line."""


@dataclass(frozen=True)
class Request:
    """What is to be made, all of it taken down at the start.

    scene: its full name, which for a linked scene names its library too. session: Blender's number of it, until its file is closed;
    0 if not known. settings: as the server takes them. frames: first and last. size: in pixels.
    """

    kind: Kind
    scene: str
    blend: str
    settings: dict[str, Any]
    frames: tuple[int, int]
    size: tuple[int, int]
    fps: float
    root: Path
    data_supersampling: int = 1
    viewport: bool = False
    reuse_shot: bool = False
    session: int = 0

    def find(self) -> Any | None:
        """The scene, whatever it is called by now; None if it was deleted, or if another file is open."""
        for scene in bpy.data.scenes:
            if scene.session_uid == self.session:
                return scene
        if not self.blend or str(bpy.data.filepath) != self.blend:
            return None  # "Scene" of a file that was never saved is any file's
        return next((scene for scene in bpy.data.scenes if scene.name_full == self.scene), None)  # the file was opened again

    def where(self, number: int | None, take: Path) -> str:
        """What to tell of a take that cannot be put into an edit now."""
        if self.blend and str(bpy.data.filepath) != self.blend:
            return f"Take {number} is ready: it is offered when its file is opened again"
        return f'Take {number} is ready in {take}; its scene "{self.scene}" is not open any more'


@dataclass
class Run:
    """A take or preview, from the press of the button until the next one begins.

    Attributes:
        share: done, 0 to 1.
        phase: what is being done, in words.
        remaining: seconds left; None if not known.
        state: `running`, or how it ended.
        message: how it ended, in one line.
        picture: the latest of the middle frame as an encoded picture; None as long as there is none.
        result: what was made: the strip's take, or the preview's frame.
    """

    request: Request
    share: float = 0.0
    phase: str = "Connecting to the server"
    remaining: float | None = None
    state: State = "running"
    message: str = ""
    picture: bytes | None = None
    result: Path | None = None
    client: Client | None = None
    job: str = ""
    take: Path | None = None
    steps: Generator[Step, None, str] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.state == "running"


_current: Run | None = None


def current() -> Run | None:
    """What is being made, or was made last; None before the first time."""
    return _current


def is_running() -> bool:
    """Whether a take or a preview is being made."""
    return _current is not None and _current.is_running


def forget() -> None:
    """Let the panel say no more about how the last one ended."""
    global _current
    if not is_running():
        _current = None


def seen() -> None:
    """The user looks at the takes: that one is there need not be told any more."""
    if _current is not None and _current.state == "done":
        forget()
    _redraw()


def request_of(
    scene: Any,
    kind: Kind,
    given: dict[str, Any] | None = None,
    frames: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
) -> Request:
    """What the scene's panel asks for, or what is `given` of it. Raises FolderError and ShotError."""
    medm = scene.medm
    asked = settings.take_settings(scene) if given is None else dict(given)
    root = folders.prepare(scene)
    return Request(
        kind=kind,
        scene=str(scene.name_full),
        blend=str(bpy.data.filepath),
        settings=asked,
        frames=frames or settings.frame_range(scene),
        size=size or settings.size(scene),
        fps=scene.render.fps / scene.render.fps_base,
        root=folders.preview(scene) if kind == "preview" else root,
        data_supersampling=int(medm.data_supersampling),
        viewport=medm.beauty == "VIEWPORT" and tasks.needs_beauty(asked),
        reuse_shot=medm.reuse_shot and kind == "take",
        session=scene.session_uid,
    )


def start(request: Request) -> Run:
    """Begin, and return at once: a timer takes the steps."""
    run = _begin(request)
    bpy.app.timers.register(_tick, first_interval=0.0, persistent=True)
    return run


def work(request: Request, progress: Callable[[float, str], None]) -> Run:
    """Begin, and return when it has ended: for scripts, and for a Blender without a window. Raises REFUSALS."""
    run = _begin(request)
    told = None
    while run.is_running:
        failure = _advance(run)
        if failure is not None:
            raise failure
        if run.is_running and (run.share, run.phase) != told:
            told = run.share, run.phase
            progress(*told)
        time.sleep(0.02)
    return run


def cancel() -> None:
    """Stop at once what is being made. What was rendered stays, and a job on the server is called off."""
    run = _current
    if run is None or not run.is_running:
        return
    _end(run, "cancelled", "Cancelled")
    if run.take is not None and run.job:
        takes.fail(run.take, "cancelled", cancelled=True)
    client, job = run.client, run.job
    if client is not None and job:
        threading.Thread(target=_call_off, args=(client, job), name="medm-cancel", daemon=True).start()
    _redraw()


def let_go() -> None:
    """Blender closes: stop rendering here, and leave a job that was submitted to the server. Its take is offered at the next start."""
    run = _current
    if run is not None and run.is_running:
        _end(run, "cancelled", "")


def _call_off(client: Client, job: str) -> None:
    with contextlib.suppress(ServerError):  # it is gone, or done
        client.cancel(job)


# -- the steps ----------------------------------------------------------------------------------------------------------


def _begin(request: Request) -> Run:
    global _current
    _current = Run(request)
    _current.steps = _steps(_current)
    return _current


def _tick() -> float | None:
    run = _current
    if run is None or not run.is_running:
        return None
    before = (run.share, run.phase, run.picture, run.remaining)
    failure = _advance(run)
    if failure is not None:
        _report(run.message, "ERROR")
    elif run.state == "done":
        _report(run.message, "INFO")
        if run.request.kind == "preview" and run.result:
            _show(run.result)
    if not run.is_running or before != (run.share, run.phase, run.picture, run.remaining):
        _redraw()
    return _TICK if run.is_running else None


def _advance(run: Run) -> Exception | None:
    """Take the next step; the error, if it was the last one and failed."""
    assert run.steps is not None
    try:
        _note(run, *next(run.steps))
    except StopIteration as done:
        _end(run, "done", str(done.value))
    except ReferenceError:
        error = WindowError("The scene changed while its viewport was being captured: render the take again")
        return _fail(run, error)
    except (*REFUSALS, WindowError) as error:
        return _fail(run, error)
    except Exception as error:
        _fail(run, error)
        raise  # a defect of ours: the console tells where
    return None


def _fail(run: Run, error: Exception) -> Exception:
    message = " ".join(str(error).split()) or type(error).__name__
    _end(run, "failed", message[:1].upper() + message[1:])
    if run.take is not None and run.job:
        if isinstance(error, ServerError) and error.code == "unreachable":
            run.message += ". The take is fetched when the server is there again"  # its record says `painting`
        else:
            takes.fail(run.take, message, cancelled=isinstance(error, ServerError) and error.code == "cancelled")
    return error


def _end(run: Run, state: State, message: str) -> None:
    run.state, run.message, run.remaining = state, message, None
    steps, run.steps = run.steps, None
    if steps is not None:
        with contextlib.suppress(ValueError):  # it is itself that calls
            steps.close()
    if run.take is not None and not run.job:
        with contextlib.suppress(OSError):
            run.take.rmdir()  # nothing has come into it


def _steps(run: Run) -> Generator[Step, None, str]:
    """Everything from looking for the server to the strip in the edit; returns what to tell the user."""
    request = run.request
    client = run.client = yield from _part(0.0, 0.0, _aside(_connect(preferences.target(), request.settings)))
    if request.kind == "take":
        scene = _scene(request)
        run.take = folders.new_take(scene, takes.highest(scene))
    else:
        run.take = None
    job = yield from _part(0.0, _EXPORTED, _submit(request, client))
    run.job = job
    if run.take is not None:
        takes.write(_record(run, client.url))
    yield from _part(_EXPORTED, _PAINTED, _aside(_follow(run, client, job)))
    folder = run.take or request.root / "take"
    yield from _part(_PAINTED, 1.0, _aside(tasks.finish_take(client, job, folder)))
    if run.take is None:
        run.result = folder / "frames" / f"{request.frames[0]:04d}.png"
        return f"Frame {request.frames[0]} is painted"
    run.result = run.take
    patience = time.monotonic() + _PATIENCE
    while _user_is_busy() and time.monotonic() < patience:
        yield 1.0, "place"
    number = folders.take_number(run.take)
    there = request.find()
    if there is None:
        return request.where(number, run.take)
    takes.finish(there, run.take)
    _push_undo(f"Place Take {number}")
    return f"Take {number} is in the edit"


def _connect(target: local_server.Target, wanted: dict[str, Any]) -> Generator[Step, None, Client]:
    """For a thread: finds or starts the server, which says whether it would paint with these settings."""
    yield 0.0, "connect"
    client = local_server.connect(target)
    client.check_settings({name: value for name, value in wanted.items() if name != "reference"})
    return client


def _submit(request: Request, client: Client) -> Generator[Step, None, str]:
    """Render and send what the server paints from; returns the job's id."""
    with folders.alone(request.root):
        return (yield from _submit_alone(request, client))


def _submit_alone(request: Request, client: Client) -> Generator[Step, None, str]:
    scene = _scene(request)
    shot = request.root / "shot"
    if request.reuse_shot and (shot / "shot.json").is_file():
        return (yield from _aside(tasks.submit_shot(client, shot, request.settings)))
    beauty: Path | None = None
    if request.viewport:
        from . import viewport

        beauty = request.root / "viewport"
        first, last = request.frames
        yield from _part(0.0, 0.5, viewport.beauty_steps(scene, beauty, range(first, last + 1), request.size))
    if bpy.app.background:
        return (
            yield from tasks.submit_take(
                scene,
                client,
                request.settings,
                request.root,
                frame_range=request.frames,
                size=request.size,
                data_supersampling=request.data_supersampling,
                beauty=beauty,
            )
        )
    from . import background

    steps = background.submit_in_background(
        scene_name=scene.name_full,
        settings=request.settings,
        root=request.root,
        client=client,
        frame_range=request.frames,
        size=request.size,
        data_supersampling=request.data_supersampling,
        beauty=beauty,
    )
    yield next(steps)  # saves the copy of the file, which is for the main thread
    return (yield from _part(0.5 if request.viewport else 0.0, 1.0, _aside(steps)))


def _follow(run: Run, client: Client, job: str) -> Generator[Step, None, None]:
    """Yields what the server says of the job, and has the run know the time that is left and the picture as it now is."""
    looked = 0.0
    for share, phase in client.wait(job):
        pause = _FIRST_PREVIEW if phase.startswith("paint") and run.picture is None else _PREVIEW_EVERY
        if time.monotonic() - looked > pause:
            with contextlib.suppress(ServerError):  # `wait` will say so
                run.remaining = client.job(job).get("remaining")
                run.picture = client.preview(job) or run.picture
            looked = time.monotonic()
        yield share, phase


def _record(run: Run, server: str) -> takes.Record:
    request = run.request
    assert run.take is not None
    fresh = takes.Record(run.take, folders.take_number(run.take) or 0)
    return dataclasses.replace(
        fresh,
        scene=request.scene,
        blend=request.blend,
        frame_start=request.frames[0],
        frame_end=request.frames[1],
        fps=request.fps,
        width=request.size[0],
        height=request.size[1],
        settings=request.settings,
        server=server,
        job=run.job,
        state="painting",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _scene(request: Request) -> Any:
    scene = request.find()
    if scene is None:
        raise WindowError(f'The scene "{request.scene}" was deleted or its file closed before a copy was saved: render the take again')
    return scene


def _part(begin: float, end: float, steps: Generator[Step, None, Result]) -> Generator[Step, None, Result]:
    """The same steps, as the part from `begin` to `end` of longer work."""
    try:
        while True:
            share, phase = next(steps)
            yield begin + (end - begin) * share, phase
    except StopIteration as done:
        result: Result = done.value
        return result
    finally:
        steps.close()


def _aside(steps: Generator[Step, None, Result]) -> Generator[Step, None, Result]:
    """Runs steps in a thread, and yields the latest of theirs without ever waiting. Closing it stops them at their next one."""
    latest: Step = (0.0, "")
    outcome: list[Result] = []
    failure: list[BaseException] = []
    stopped, ended = threading.Event(), threading.Event()

    def target() -> None:
        nonlocal latest
        try:
            while not stopped.is_set():
                latest = next(steps)
        except StopIteration as done:
            outcome.append(done.value)
        except BaseException as error:  # handed to the main thread, whatever it is
            failure.append(error)
        finally:
            steps.close()
            ended.set()

    threading.Thread(target=target, name="medm-run", daemon=True).start()
    try:
        while not ended.is_set():
            yield latest
    finally:
        stopped.set()
    if failure:
        raise failure[0]
    return outcome[0]


# -- in words -----------------------------------------------------------------------------------------------------------

_WORDS = {
    "connect": "Connecting to the server",
    "copy of the file": "Saving a copy of the file",
    "open the file in the background": "Opening the copy in the background",
    "start": "Starting to paint",
    "running": "Starting to paint",
    "look": "Looking at the frames",
    "data": "Rendering passes",
    "rest": "Rendering rest passes",
    "beauty": "Rendering what is painted over",
    "viewport": "Capturing the viewport",
    "upload": "Sending to the server",
    "queued": "Waiting for its turn",
    "load model": "Loading the model",
    "compile": "Compiling the model, which takes minutes once",
    "paint": "Painting",
    "align frames": "Making the frames agree",
    "write take": "Writing the take",
    "done": "Fetching the frames",
    "download": "Fetching the frames",
    "place": "Placing the take",
}


def words(phase: str) -> str:
    """A phase as the tasks and the server call it, as an artist reads it: `paint, step 3 of 20` is "Painting, step 3 of 20"."""
    name, comma, more = phase.partition(",")
    told = _WORDS.get(name.strip(), name.strip()[:1].upper() + name.strip()[1:])
    return f"{told}{comma}{more}"


def clock(seconds: float) -> str:
    """Seconds as 0:42, 12:05 or 1:02:03."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _note(run: Run, share: float, phase: str) -> None:
    run.share = max(run.share, min(share, 1.0))
    if not phase:  # a thread has not said anything yet
        return
    run.phase = words(phase)


# -- the window ---------------------------------------------------------------------------------------------------------

_icons: Any = None
_shown: bytes | None = None
_icon_number = 0


def thumbnail() -> int:
    """Icon of the picture as it now is, for `template_icon`; 0 as long as there is none. Call it while drawing."""
    global _icons, _shown, _icon_number
    run = _current
    if run is None or not run.is_running or run.picture is None:
        return 0
    if _icons is None:
        _icons = previews.new()
    if run.picture is not _shown:
        _icon_number += 1
        file = Path(bpy.app.tempdir) / f"medm_{_icon_number % 2}{'.png' if run.picture.startswith(bytes([0x89])) else '.jpg'}"
        try:
            file.write_bytes(run.picture)
            _icons.clear()
            _ = _icons.load("picture", str(file), "IMAGE").image_size[:]  # now: it would be loaded later, and blink
        except (OSError, KeyError, RuntimeError):  # a full disk: there is no picture, and no harm
            return 0
        _shown = run.picture
    return int(_icons["picture"].icon_id) if "picture" in _icons else 0


def _redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in {"PROPERTIES", "SEQUENCE_EDITOR", "STATUSBAR"}:
                area.tag_redraw()
    if not _user_is_busy():  # whose tool tells its keys there
        for workspace in {window.workspace for window in bpy.context.window_manager.windows}:
            workspace.status_text_set(None)  # the one way to have the status bar drawn anew


def _report(message: str, level: str) -> None:
    for window in bpy.context.window_manager.windows[:1]:
        with bpy.context.temp_override(window=window), contextlib.suppress(RuntimeError):  # an error report raises what it says
            bpy.ops.medm.tell("INVOKE_DEFAULT", message=message, level=level)


def _user_is_busy() -> bool:
    """Whether something is being dragged or drawn: no moment to change the file."""
    return any(len(getattr(window, "modal_operators", ())) for window in bpy.context.window_manager.windows)


def _push_undo(message: str) -> None:
    for window in bpy.context.window_manager.windows[:1]:
        with bpy.context.temp_override(window=window), contextlib.suppress(RuntimeError):
            bpy.ops.ed.undo_push(message=message)


def _show(file: Path) -> None:
    """Show a preview in an Image Editor: one that is there, or the largest area until Escape brings back what it was."""
    name = "MeDM Preview"
    image = bpy.data.images.get(name)
    if image is None:
        image = bpy.data.images.load(str(file))
        image.name = name
        image.is_runtime_data = True  # it is not saved with the user's file
    else:
        image.filepath = str(file)
        image.reload()
    editor, opened = _image_editor(), False
    if editor is None:
        editor, opened = _open_image_editor(), True
    if editor is None:
        return
    editor.spaces.active.image = image
    editor.tag_redraw()
    if opened:
        _fit(editor)


def _image_editor() -> Any | None:
    areas = [area for window in bpy.context.window_manager.windows for area in window.screen.areas if area.ui_type == "IMAGE_EDITOR"]
    return max(areas, key=lambda area: area.width * area.height, default=None)


def _open_image_editor() -> Any | None:
    """As Blender does for a render if the preferences say "Image Editor": in the window itself. A window of its own takes long to open,
    and covers the settings that the preview is for; who wants it elsewhere has an Image Editor open there."""
    preferences = bpy.context.preferences
    wanted, dirty = preferences.view.render_display_type, preferences.is_dirty
    preferences.view.render_display_type = "AREA"
    try:
        for window in bpy.context.window_manager.windows[:1]:
            with bpy.context.temp_override(window=window, screen=window.screen), contextlib.suppress(RuntimeError):
                bpy.ops.render.view_show("INVOKE_DEFAULT")
    finally:
        preferences.view.render_display_type = wanted
        preferences.is_dirty = dirty
    return _image_editor()


def _fit(editor: Any) -> None:
    """Show the whole picture as large as the editor."""
    window = next(window for window in bpy.context.window_manager.windows if editor in window.screen.areas[:])
    region = next(region for region in editor.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, area=editor, region=region), contextlib.suppress(RuntimeError):
        bpy.ops.image.view_all(fit_view=True)


def _draw_status(header: Any, context: Any) -> None:
    """What goes on, and how it ended until that was seen: this is there whatever the window shows."""
    run = _current
    if run is None or not (run.message or run.is_running):
        return
    row = header.layout.row(align=True)
    if run.is_running:
        row.scale_x = 1.2
        row.progress(factor=run.share, text=f"MeDM  {run.phase}")
        row.operator("medm.cancel", text="", icon="X")
        return
    row.label(text=run.message, icon={"done": "CHECKMARK", "failed": "ERROR"}.get(run.state, "CANCEL"))
    if run.state == "done" and run.request.kind == "take":
        row.operator("medm.take_show", text="Show Takes")
    row.operator("medm.dismiss", text="", icon="X")


def register() -> None:
    """Have the status bar tell, and what runs end with Blender."""
    bpy.types.STATUSBAR_HT_header.append(_draw_status)
    atexit.register(let_go)


def unregister() -> None:
    """End what runs."""
    global _icons, _shown
    let_go()
    atexit.unregister(let_go)
    bpy.types.STATUSBAR_HT_header.remove(_draw_status)
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    if _icons is not None:
        previews.remove(_icons)
        _icons, _shown = None, None

"""The command line: `blender -b file.blend --command medm render`, or `python -m medm_blender file.blend render` with the bpy module.

What is not told is as the file's panel says. Exit codes: 0 done, 2 bad input (said in one line), 3 server or model not available, 1
anything else. Long work shows a line of progress on a terminal, and prints `medm_progress 0.42 data` for every step where there is none.

A command is a function that adds its sub-parser, with the function that does it as the default `run`; it stands in COMMANDS.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import bpy

from . import background, batch, folders, local_server, passes, preferences, preset_files, resuming, sequencer, takes, tasks
from . import settings as panel
from .client import Client, ServerError

DONE, FAILED, BAD_INPUT, UNAVAILABLE = 0, 1, 2, 3

REFUSALS = (
    passes.ShotError,
    sequencer.StripError,
    ServerError,
    folders.FolderError,
    takes.TakeError,
    preset_files.PresetError,
    batch.BatchError,
)
"""The errors whose message is for the user."""

_SERVER_REFUSES_INPUT = {"bad_address", "bad_input", "bad_path", "bad_shot", "local_file", "too_large"}
_SERVER_NOT_AVAILABLE = {"not_installed", "offline", "unavailable", "unreachable", "wrong_host", "wrong_token", "wrong_version"}
TOKEN = "MEDM_TOKEN"
"""Environment variable with the token of the server that `--server` names."""


def main(arguments: Sequence[str], program: str = "medm") -> int:
    """Run one command on the open file and return the exit code; errors for the user go to stderr in one line each."""
    try:
        options = parser(program).parse_args(_with_negative_frames(arguments))
        return attempt(lambda: options.run(options))
    except _UsageError as error:
        return _refuse(error, BAD_INPUT)
    except SystemExit as asked_for_help:
        return int(asked_for_help.code or 0)


def attempt(work: Callable[[], None]) -> int:
    """Do the work of a command and return the exit code; one of REFUSALS is said on stderr in one line, as is Ctrl-C."""
    _stop_on_ctrl_c()
    try:
        work()
    except REFUSALS as error:
        return _refuse(error, exit_code(error))
    except KeyboardInterrupt:
        return _refuse("stopped", FAILED)
    return DONE


_stop_asked = threading.Event()


def _stop_on_ctrl_c() -> None:
    """Have Ctrl-C raise KeyboardInterrupt, at once and in `show_progress`.

    At once is not enough: most of the time Blender is rendering, and swallows what is raised in the Python of a render engine; the frame
    may then be anything. And the application's own handler waits for a second Ctrl-C and then dies on the spot, with what was begun left.
    """
    _stop_asked.clear()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _on_ctrl_c)


def _on_ctrl_c(*_: object) -> None:
    _stop_asked.set()
    raise KeyboardInterrupt


def exit_code(error: Exception) -> int:
    """What a command that ends with one of REFUSALS returns."""
    if not isinstance(error, ServerError) or error.code in _SERVER_REFUSES_INPUT:
        return BAD_INPUT
    return UNAVAILABLE if error.code in _SERVER_NOT_AVAILABLE else FAILED


def parser(program: str = "medm") -> argparse.ArgumentParser:
    """The parser of all commands."""
    made = _Parser(prog=program, description="Paints an animation with a diffusion model, every surface point the same way in every frame.")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for add in COMMANDS:
        add(commands)
    return made


def show_progress(fraction: float, phase: str) -> None:
    """Say where long work is: `fraction` done, from 0 to 1, and the phase in one word. Raises KeyboardInterrupt after Ctrl-C."""
    if _stop_asked.is_set():
        raise KeyboardInterrupt
    if sys.stdout.isatty():
        # The cursor goes back to the start of the line, so that whatever is said next takes its place.
        print(f"{fraction:4.0%} {phase:<24}", end="\n" if fraction >= 1.0 else "\r", flush=True)
    else:
        print(f"medm_progress {fraction:.4g} {phase}", flush=True)


# -- the commands ------------------------------------------------------------------------------------------------------


def _add_export(commands: Any) -> None:
    command = commands.add_parser("export", help="render the open file's scene into a shot folder")
    command.add_argument("--out", metavar="DIR", help="the shot folder; made if it is not there; default: `shot` in the scene's own")
    _add_export_options(command)
    command.add_argument("--no-beauty", dest="beauty", action="store_false", help="only the data passes: enough for full rendering")
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    scene = _scene(options.scene)
    folder = passes.export_shot(
        scene,
        options.out or folders.prepare(scene) / "shot",
        frame_range=_frames(scene, options),
        size=_size(scene, options),
        beauty=options.beauty,
        data_supersampling=_supersampling(scene, options),
        source=resuming.source(),
        progress=show_progress,
    )
    print(f"shot: {folder}", flush=True)


def _add_render(commands: Any) -> None:
    command = commands.add_parser("render", help="have the open file's scene painted by a server; makes a shot and a take")
    command.add_argument(
        "--out", metavar="DIR", help="makes DIR/shot and DIR/take; default: `shot` and the next take in the folder of the scene's takes"
    )
    _add_export_options(command)
    _add_server_options(command)
    command.add_argument("--preset", metavar="NAME", help="settings to begin with, in place of the file's")
    command.add_argument("--prompt", help="what to paint; by frame numbers it changes on the way: `0: dawn, 40: dusk`")
    command.add_argument("--mode", choices=("full", "assistive"), help="from noise, or over the scene's own render")
    command.add_argument("--strength", type=_strength, help="of assistive rendering, above 0 and at most 1")
    command.add_argument("--consistency", dest="w", type=_share, metavar="W", help="strength of the temporal guidance, 0 to 1")
    command.add_argument(
        "--paint", metavar="NAMES", help="paint only these and keep the rest: `Figure*, collection:Set, !Lamp, background`"
    )
    command.add_argument("--reference", metavar="FILE", help="a picture whose look the take follows, if the model can")
    command.add_argument("--control", metavar="KINDS", help="control images, as in `lineart:0.8, depth`; by default the model's")
    command.add_argument("--steps", type=_count, help="of the sampler")
    command.add_argument("--seed", type=_seed, help="same seed, same frames")
    command.add_argument("--model", help="as the server calls it")
    command.add_argument(
        "--set",
        dest="others",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="any other setting of a take, called as `medm render --help` calls it; as often as there are any",
    )
    command.add_argument("--reuse-shot", action="store_true", help="paint from the shot that is in the folder already, and render nothing")
    command.add_argument(
        "--submit",
        action="store_true",
        help="end once the server has the job, which is told as `medm_job ID`; `takes --fetch` brings the take home",
    )
    command.add_argument("--request", type=Path, help=argparse.SUPPRESS)  # from a Blender with a window: see background.py
    command.set_defaults(run=_render)


SETTINGS = ("prompt", "mode", "strength", "w", "paint", "reference", "control", "steps", "seed", "model")
"""Options of `render` that go to the server; one that is not given is as the panel says, or else left to the server's default."""


def _render(options: argparse.Namespace) -> None:
    if options.request is not None:
        _render_for_window(background.read_request(options.request))
        return
    scene = _scene(options.scene)
    settings = _settings(scene, options)
    frames, size = _frames(scene, options), _size(scene, options)
    connect = _connection(options)
    client = tasks.run(tasks.part(0.0, 0.0, tasks.in_thread(lambda _: connect(), "connect")), show_progress)
    root = passes.absolute(options.out) if options.out else folders.prepare(scene)
    if options.reuse_shot:
        if not (root / "shot" / "shot.json").is_file():
            raise passes.ShotError(f"there is no shot in {root / 'shot'}: render it once without --reuse-shot")
        submit = tasks.submit_shot(client, root / "shot", settings)
    else:
        submit = tasks.submit_take(
            scene,
            client,
            settings,
            root,
            frame_range=frames,
            size=size,
            data_supersampling=_supersampling(scene, options),
            source=resuming.source(),
        )
    job = tasks.run(tasks.part(0.0, 0.3, submit), show_progress)
    take = root / "take"
    with tasks.cancelled_if_closed(client, job):
        if options.out:
            with contextlib.suppress(OSError):  # if it cannot be, neither can the record, which says so
                take.mkdir(exist_ok=True)
        else:
            take = folders.new_take(scene, takes.highest(scene))
        takes.begin(scene, take, job, client.url, settings, frame_range=frames, size=size)
        if options.submit:
            print(f"{background.JOB} {job}", flush=True)
            return
        try:
            tasks.run(tasks.part(0.3, 1.0, tasks.finish_take(client, job, take)), show_progress)
        except KeyboardInterrupt:
            takes.fail(take, "stopped", cancelled=True)
            raise
        except ServerError as error:
            if error.code == "unreachable":
                raise ServerError(f"{error}. {_how_to_go_on(options)}", error.code) from error  # the job may go on there
            takes.fail(take, str(error), cancelled=error.code == "cancelled")
            raise
    _note_ready(take)
    print(f"take: {take}", flush=True)


def _how_to_go_on(options: argparse.Namespace) -> str:
    """Nothing that was rendered is lost."""
    where = " with the same --out" if options.out else ""
    return f"The shot is whole, and `takes --fetch`{where} brings the take home when the server is there again"


def _render_for_window(request: dict[str, Any]) -> None:
    """What `background.submit_in_background` asks for."""
    background.end_with_parent()
    scene = _scene(request["scene"])
    bpy.context.view_layer.update()
    if request["scripts_ran"] and bpy.app.autoexec_fail:
        raise passes.ShotError(
            "Python drivers or scripts of this file run in your window, but not in the background: "
            "enable Auto Run Python Scripts in Preferences > Save & Load"
        )
    first, last = request["frames"]
    width, height = request["size"]
    job = tasks.run(
        tasks.submit_take(
            scene,
            Client(request["url"], request["token"]),
            request["settings"],
            request["root"],
            frame_range=(first, last),
            size=(width, height),
            data_supersampling=request["data_supersampling"],
            beauty=None if request["beauty"] is None else Path(request["beauty"]),
        ),
        show_progress,
    )
    print(f"{background.JOB} {job}", flush=True)


def _note_ready(take: Path) -> None:
    """The strip is made when the file is opened in a window: here nobody would save it."""
    record = takes.read(take)
    if record is not None:
        takes.write(dataclasses.replace(record, state="ready", error=""))


def _add_takes(commands: Any) -> None:
    command = commands.add_parser("takes", help="list the takes of the open file's scene, and bring home those that are painted")
    command.add_argument("--scene", metavar="NAME", help="default: the one that the file was saved in")
    command.add_argument("--out", metavar="DIR", help="the take that `render --out DIR` made, in place of the scene's own")
    _add_server_options(command)
    command.add_argument("--fetch", action="store_true", help="first bring home what the server has finished meanwhile")
    command.add_argument("--json", action="store_true", help="print all that is known of each, as a list of JSON objects in the last line")
    command.set_defaults(run=_takes)


def _takes(options: argparse.Namespace) -> None:
    scene = _scene(options.scene)
    if options.fetch:
        _fetch([record for record in _records(scene, options) if record.state == "painting" and record.job], options)
    records = _records(scene, options)
    if options.json:
        documents = [{**dataclasses.asdict(record), "folder": str(record.folder)} for record in records]
        print(json.dumps(documents, ensure_ascii=False, default=str), flush=True)
        return
    if not records:
        print(f'"{scene.name}" has no takes yet in {passes.absolute(options.out) if options.out else folders.root(scene)}')
    for record in records:
        frames = f"{record.frame_start}:{record.frame_end}" if record.frame_end >= record.frame_start else "-"
        words = record.error if record.state in {"failed", "cancelled"} and record.error else record.prompt
        seed = takes.notes(record)["seed"]
        print(f"{record.number:03d}  {record.state:<9}  {frames:>9}  seed {seed}  {words}".rstrip(), flush=True)


def _records(scene: Any, options: argparse.Namespace) -> list[takes.Record]:
    if not options.out:
        return takes.of(scene)
    record = takes.read(passes.absolute(options.out) / "take")
    return [record] if record else []


def _fetch(records: list[takes.Record], options: argparse.Namespace) -> None:
    if not records:
        return
    client = _connection(options)()
    for record in records:
        try:
            state = client.job(record.job)["state"]
        except ServerError as error:
            if error.code != "not_found":
                raise
            print(f"medm: take {record.number} is not known to the server at {client.url}", file=sys.stderr, flush=True)
            continue
        if state in {"queued", "running"}:
            continue
        try:
            tasks.run(tasks.finish_take(client, record.job, record.folder), show_progress)
        except ServerError as error:
            if error.code in _SERVER_NOT_AVAILABLE:
                raise
            takes.fail(record.folder, str(error), cancelled=error.code == "cancelled")
        else:
            _note_ready(record.folder)


# -- what the file says --------------------------------------------------------------------------------------------------


def _scene(name: str | None) -> Any:
    """The scene of that name, or full name; the file's own comes before linked ones. The one that the file was saved in for None."""
    if name is None:
        return bpy.context.scene
    found = bpy.data.scenes.get((name, None)) or next((scene for scene in bpy.data.scenes if name in (scene.name_full, scene.name)), None)
    if found is None:
        names = ", ".join(f'"{scene.name_full}"' for scene in bpy.data.scenes)
        raise passes.ShotError(f'there is no scene "{name}" in the file; there are: {names}')
    return found


def _settings(scene: Any, options: argparse.Namespace) -> dict[str, Any]:
    """The preset's or the panel's settings, and over them what was given.

    What `--set` gives are words, which the server reads as it reads its own command line's.
    """
    given = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    for name, value in options.others:
        if name in given:
            raise _UsageError(f"{name} is given twice")
        given[name] = value
    return {**_panel_settings(scene, options.preset), **given}


def _panel_settings(scene: Any, preset: str | None) -> dict[str, Any]:
    if not hasattr(scene, "medm"):
        if preset:
            raise passes.ShotError("presets need the extension to be enabled")
        return {}
    if preset is None:
        return panel.take_settings(scene)
    copy = scene.copy()  # the open file keeps its own settings
    try:
        preset_files.apply(copy, preset)
        return panel.take_settings(copy)
    finally:
        bpy.data.scenes.remove(copy)


def _frames(scene: Any, options: argparse.Namespace) -> tuple[int, int]:
    if options.frames is not None:
        first, last = options.frames
        return first, last
    return panel.frame_range(scene) if hasattr(scene, "medm") else (scene.frame_start, scene.frame_end)


def _size(scene: Any, options: argparse.Namespace) -> tuple[int, int] | None:
    if options.size is not None:
        width, height = options.size
        return width, height
    return panel.size(scene) if hasattr(scene, "medm") else None


def _supersampling(scene: Any, options: argparse.Namespace) -> int:
    if options.data_supersampling is not None:
        return int(options.data_supersampling)
    return int(scene.medm.data_supersampling) if hasattr(scene, "medm") else 1


def _connection(options: argparse.Namespace) -> Callable[[], Client]:
    """What connects, for a thread: to the server that is named, else to the one of the preferences, which is started if need be."""
    if options.server is None and options.token_file is None:
        target = preferences.target()
        return lambda: local_server.connect(target)
    client = _named_server(options)
    return lambda: client


def _named_server(options: argparse.Namespace) -> Client:
    url = options.server or DEFAULT_SERVER
    token = os.environ.get(TOKEN)
    if options.token_file is None and token:
        return Client(url, token)
    if options.token_file is None and url != DEFAULT_SERVER:
        raise _UsageError(f"{url} needs its own token: give it with --token-file")  # never hand ours to a stranger
    token_file = options.token_file or local_server.default_store() / "token"
    try:
        return Client(url, token_file.read_text("ascii"))
    except (OSError, UnicodeDecodeError) as error:
        where = "`medm serve` makes it" if options.token_file is None else "`medm serve` keeps it as `token` in its store"
        raise ServerError(f"the server's token cannot be read from {token_file}: {where}", "wrong_token") from error


# -- options -----------------------------------------------------------------------------------------------------------


DEFAULT_SERVER = "http://127.0.0.1:8765"
"""Where `medm serve` listens if it is told nothing."""


def _add_server_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--server", metavar="URL", help="default: as the add-on's preferences say")
    command.add_argument("--token-file", type=Path, metavar="FILE", help=f"the token of that server, else {TOKEN} in the environment")


def _add_export_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--scene", metavar="NAME", help="default: the one that the file was saved in")
    command.add_argument("--frames", type=frame_range, metavar="A:B", help="first and last frame; the panel's or the scene's if not given")
    command.add_argument(
        "--size", type=size, metavar="WxH", help="pixels, multiples of 8; else the panel's, or near the scene's and at most 768 long"
    )
    command.add_argument(
        "--data-supersampling",
        type=int,
        choices=passes.SUPERSAMPLINGS,
        help="3: render the data passes three times as wide and high, which tells better what is hidden; by default the panel's, or 1",
    )


def frame_range(text: str) -> tuple[int, int]:
    """`1:24`, or `7` for one frame."""
    found = re.fullmatch(r"(-?\d+)(?::(-?\d+))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f'"{text}" is no frame range: write it as 1:24')
    return int(found[1]), int(found[2] or found[1])


def size(text: str) -> tuple[int, int]:
    """`384x216`."""
    found = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f'"{text}" is no size: write it as 384x216')
    return int(found[1]), int(found[2])


# The server checks its settings too, but only once the shot is there: what is plainly wrong should not cost a render first.


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.0 <= float(text) <= 1.0:
            return float(text)
    raise argparse.ArgumentTypeError(f'"{text}" is no number from 0 to 1')


def _strength(text: str) -> float:
    if _share(text) > 0.0:
        return _share(text)
    raise argparse.ArgumentTypeError(f'"{text}" would leave the beauty as it is: give more than 0')


def _count(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 1000:
        return int(text)
    raise argparse.ArgumentTypeError(f'"{text}" is no whole number from 1 to 1000')


def _setting(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if not given or not name.strip():
        raise argparse.ArgumentTypeError(f'"{text}" sets nothing: write it as NAME=VALUE')
    return name.strip().removeprefix("--").replace("-", "_"), value.strip()


def _seed(text: str) -> int:
    if text.isdecimal() and int(text) < 2**63:
        return int(text)
    raise argparse.ArgumentTypeError(f'"{text}" is no whole number from 0 to {2**63 - 1}')


def _with_negative_frames(arguments: Sequence[str]) -> list[str]:
    """`--frames -10:10`, which argparse would take for two options."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--frames" and re.match(r"-\d", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


COMMANDS: list[Callable[[Any], None]] = [_add_export, _add_render, _add_takes, batch.add_command]


# -- with Blender ------------------------------------------------------------------------------------------------------

_registered: list[Any] = []


def register() -> None:
    """Make the commands available as `blender --command medm`."""
    _registered.append(bpy.utils.register_cli_command("medm", main))


def unregister() -> None:
    """Take them away again."""
    while _registered:
        bpy.utils.unregister_cli_command(_registered.pop())


# -- refusing ----------------------------------------------------------------------------------------------------------


class _UsageError(Exception):
    """The command line is wrong."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse would print its usage too and leave the process."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message} (see {self.prog} --help)")


def _refuse(error: object, exit_code: int) -> int:
    print(f"medm: {error}", file=sys.stderr, flush=True)
    return exit_code

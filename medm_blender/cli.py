"""The command line: `blender file.blend --command medm export --out DIR`, or `python -m medm_blender` with the bpy module.

Exit codes: 0 done, 2 bad input (said in one line), 3 server or model not available, 1 anything else. Long work shows a line of
progress on a terminal, and prints `medm_progress 0.42 data` for every step where there is none.

A command is a function that adds its sub-parser, with the function that does it as the default `run`; it stands in COMMANDS.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import bpy

from . import passes, sequencer, tasks
from .client import Client, ServerError
from .local_server import default_store

DONE, FAILED, BAD_INPUT, UNAVAILABLE = 0, 1, 2, 3

REFUSALS = (passes.ShotError, sequencer.StripError, ServerError)
"""The errors whose message is for the user."""

_SERVER_REFUSES_INPUT = {"bad_address", "bad_input", "bad_path", "bad_shot", "local_file", "too_large"}
_SERVER_NOT_AVAILABLE = {"unavailable", "unreachable", "wrong_host", "wrong_token"}


def main(arguments: Sequence[str], program: str = "medm") -> int:
    """Run one command on the open file and return the exit code; errors for the user go to stderr in one line each."""
    try:
        options = parser(program).parse_args(arguments)
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
    command.add_argument("--out", required=True, metavar="DIR", help="the shot folder; made if it is not there")
    _add_export_options(command)
    command.add_argument("--no-beauty", dest="beauty", action="store_false", help="only the data passes: enough for full rendering")
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    folder = passes.export_shot(
        bpy.context.scene,
        options.out,
        frame_range=options.frames,
        size=options.size,
        beauty=options.beauty,
        data_supersampling=options.data_supersampling,
        progress=show_progress,
    )
    print(f"shot: {folder}", flush=True)


def _add_render(commands: Any) -> None:
    command = commands.add_parser("render", help="have the open file's scene painted by a server; makes DIR/shot and DIR/take")
    command.add_argument("--out", required=True, metavar="DIR", help="folder of the shot and the take; made if it is not there")
    _add_export_options(command)
    command.add_argument("--server", default=DEFAULT_SERVER, metavar="URL", help="default: %(default)s")
    command.add_argument("--token-file", type=Path, metavar="FILE", help="the server's token; need not be told for the default --server")
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
    command.set_defaults(run=_render)


DEFAULT_SERVER = "http://127.0.0.1:8765"
"""Where `medm serve` listens if it is told nothing."""

SETTINGS = ("prompt", "mode", "strength", "w", "paint", "reference", "control", "steps", "seed", "model")
"""Options of `render` that go to the server; one that is not given is left to the server's default."""


def _render(options: argparse.Namespace) -> None:
    if options.token_file is None and options.server != DEFAULT_SERVER:
        raise _UsageError(f"{options.server} needs its own token: give it with --token-file")  # never hand ours to a stranger
    token_file = options.token_file or default_store() / "token"
    try:
        token = token_file.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        where = "`medm serve` makes it" if options.token_file is None else "`medm serve` keeps it as `token` in its store"
        raise ServerError(f"the server's token cannot be read from {token_file}: {where}", "wrong_token") from error
    settings = _settings(options)
    steps = tasks.render_take(
        bpy.context.scene,
        Client(options.server, token),
        settings,
        options.out,
        frame_range=options.frames,
        size=options.size,
        data_supersampling=options.data_supersampling,
    )
    print(f"take: {tasks.run(steps, show_progress)}", flush=True)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What was given of the settings; what `--set` gives as words, which the server reads as it reads its own command line's."""
    settings = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    for name, value in options.others:
        if name in settings:
            raise _UsageError(f"{name} is given twice")
        settings[name] = value
    return settings


# -- options -----------------------------------------------------------------------------------------------------------


def _add_export_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--frames", type=frame_range, metavar="A:B", help="first and last frame; the scene's if not given")
    command.add_argument("--size", type=size, metavar="WxH", help="pixels, multiples of 8; by default near the scene's, at most 768 long")
    command.add_argument(
        "--data-supersampling",
        type=int,
        choices=passes.SUPERSAMPLINGS,
        default=1,
        help="3: render the data passes three times as wide and high, which tells better what is hidden; default: %(default)s",
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


COMMANDS: list[Callable[[Any], None]] = [_add_export, _add_render]


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

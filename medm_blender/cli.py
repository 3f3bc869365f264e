"""The command line: `blender file.blend --command medm export --out DIR`, or `python -m medm_blender` with the bpy module.

Exit codes: 0 done, 2 bad input (said in one line), 3 server or model not available, 1 anything else. Long work shows a line of
progress on a terminal, and prints `medm_progress 0.42 data` for every step where there is none.

A command is a function that adds its sub-parser, with the function that does it as the default `run`; it stands in COMMANDS.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import bpy

from . import passes, sequencer, tasks
from .client import Client, ServerError

DONE, FAILED, BAD_INPUT, UNAVAILABLE = 0, 1, 2, 3

EXIT_CODES: dict[type[Exception], int] = {
    passes.ShotError: BAD_INPUT,
    sequencer.StripError: BAD_INPUT,
    ServerError: UNAVAILABLE,
}
"""The errors whose message is for the user, and the exit code of each."""


def main(arguments: Sequence[str], program: str = "medm") -> int:
    """Run one command on the open file and return the exit code; errors for the user go to stderr in one line each."""
    try:
        options = parser(program).parse_args(arguments)
        options.run(options)
    except _UsageError as error:
        return _say_refusal(error, BAD_INPUT)
    except tuple(EXIT_CODES) as error:
        return refuse(error)
    except KeyboardInterrupt:
        print("medm: stopped", file=sys.stderr)
        return FAILED
    except SystemExit as asked_for_help:
        return int(asked_for_help.code or 0)
    return DONE


def parser(program: str = "medm") -> argparse.ArgumentParser:
    """The parser of all commands."""
    made = _Parser(prog=program, description="Paints an animation with a diffusion model, every surface point the same way in every frame.")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for add in COMMANDS:
        add(commands)
    return made


def show_progress(fraction: float, phase: str) -> None:
    """Say where long work is: `fraction` done, from 0 to 1, and the phase in one word."""
    if sys.stdout.isatty():
        print(f"\r{fraction:4.0%} {phase:<24}", end="\n" if fraction >= 1.0 else "", flush=True)
    else:
        print(f"medm_progress {fraction:.4g} {phase}", flush=True)


# -- the commands ------------------------------------------------------------------------------------------------------


def _add_export(commands: Any) -> None:
    command = commands.add_parser("export", help="render the open file's scene into a shot folder")
    command.add_argument("--out", required=True, metavar="DIR", help="the shot folder; made if it is not there")
    add_shot_options(command)
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    folder = passes.export_shot(
        bpy.context.scene, options.out, frame_range=options.frames, size=options.size, beauty=options.beauty, progress=show_progress
    )
    print(f"shot: {folder}", flush=True)


def _add_render(commands: Any) -> None:
    command = commands.add_parser("render", help="have the open file's scene painted by a server; makes OUT/shot and OUT/take")
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the shot and the take; made if it is not there")
    command.add_argument("--frames", type=frame_range, metavar="A:B", help="first and last frame; the scene's if not given")
    command.add_argument("--size", type=size, metavar="WxH", help="pixels, multiples of 8; by default near the scene's, at most 768 long")
    command.add_argument("--server", default="http://127.0.0.1:8765", metavar="URL", help="default: %(default)s")
    command.add_argument("--token-file", required=True, type=Path, metavar="FILE", help="the server's token, as `medm serve` keeps it")
    command.add_argument("--prompt", help="what to paint")
    command.add_argument("--mode", choices=("full", "assistive"), help="from noise, or over the scene's own render")
    command.add_argument("--strength", type=float, help="of assistive rendering, 0 to 1")
    command.add_argument("--consistency", dest="w", type=float, metavar="W", help="strength of the temporal guidance, 0 to 1")
    command.add_argument("--steps", type=int, help="of the sampler")
    command.add_argument("--seed", type=int)
    command.add_argument("--model", help="as the server calls it")
    command.set_defaults(run=_render)


SETTINGS = ("prompt", "mode", "strength", "w", "steps", "seed", "model")
"""Options of `render` that go to the server; one that is not given is left to the server's default."""


def _render(options: argparse.Namespace) -> None:
    try:
        token = options.token_file.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f"the server's token cannot be read from {options.token_file}", "wrong_token") from error
    settings = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    steps = tasks.render_take(
        bpy.context.scene, Client(options.server, token), settings, options.out, frame_range=options.frames, size=options.size
    )
    print(f"take: {tasks.run(steps, show_progress)}", flush=True)


def add_shot_options(command: argparse.ArgumentParser) -> None:
    """Add what every command that exports a shot can be told: --frames, --size, --no-beauty."""
    command.add_argument("--frames", type=frame_range, metavar="A:B", help="first and last frame; the scene's if not given")
    command.add_argument("--size", type=size, metavar="WxH", help="pixels, multiples of 8; by default near the scene's, at most 768 long")
    command.add_argument("--no-beauty", dest="beauty", action="store_false", help="only the data passes: enough for full rendering")


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


def refuse(error: Exception) -> int:
    """Says one of EXIT_CODES' errors in one line on stderr and returns its exit code."""
    return _say_refusal(error, next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind)))


def _say_refusal(error: Exception, exit_code: int) -> int:
    print(f"medm: {error}", file=sys.stderr, flush=True)
    return exit_code

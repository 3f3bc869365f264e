"""`medm batch shots.toml`: a queue of shots, each rendered by a Blender process of its own, with retries and a report.

Knows no Blender itself. One shot's failure, crash included, stops no other; what is done is in the report at once, so that a batch that was
stopped goes on where it was. A file of shots:

    retries = 2                     # further tries of a shot that failed; 1 if not said
    blender = "/opt/blender/blender"

    [defaults]                      # of all shots; every option of `medm render`, called as there
    prompt = "a paper theatre"
    seed = 7

    [[shots]]
    file = "shots/010.blend"        # relative to this file, as are out, reference and token_file
    frames = "1:96"

    [[shots]]
    file = "shots/020.blend"
    name = "020 night"              # in the report; else the file's name
    scene = "Night"
    preset = "Ink"
    set = { negative_prompt = "text" }
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

DONE, FAILED, BAD_INPUT, UNAVAILABLE = 0, 1, 2, 3
FORMAT, FORMAT_VERSION = "medm-batch-report", 1
_PATHS = {"out", "reference", "token_file"}
_NUMBERS = {"strength": (int, float), "consistency": (int, float), "steps": (int,), "seed": (int,), "data_supersampling": (int,)}
_WORDS = ("scene", "frames", "size", "server", "preset", "prompt", "mode", "paint", "control", "model")
_SWITCHES = ("reuse_shot", "submit")
_OPTIONS = {*_WORDS, *_NUMBERS, *_PATHS, *_SWITCHES, "set"}
_OWN = {"file", "name"}
_WAITS = (5.0, 30.0, 120.0)
"""Seconds before a further try at a server that was not available: it may be restarting."""

Report = Callable[[float, str], None]


class BatchError(Exception):
    """The file of shots cannot be used. The message is one line that names file and key."""


@dataclass(frozen=True)
class Shot:
    """One entry of the queue: the .blend, and what comes after `render` on its command line."""

    name: str
    file: Path
    arguments: tuple[str, ...]

    @property
    def key(self) -> str:
        """The same as long as the entry is."""
        return hashlib.sha256(json.dumps([self.name, str(self.file), *self.arguments]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Batch:
    """What a file of shots says."""

    shots: tuple[Shot, ...]
    retries: int = 1
    blender: str = ""


@dataclass
class Result:
    """How a shot went, as it stands in the report.

    state: `waiting`, `running`, `done`, `failed`. exit_code: of the last try. take: its folder. job: where it was only submitted.
    """

    name: str
    file: str
    key: str
    state: str = "waiting"
    tries: int = 0
    exit_code: int | None = None
    seconds: float = 0.0
    error: str = ""
    take: str = ""
    job: str = ""
    log: list[str] = field(default_factory=list)


# -- the command -------------------------------------------------------------------------------------------------------


def add_command(commands: Any) -> None:
    """Add `batch` to the commands of `medm`."""
    command = commands.add_parser("batch", help="render several shots, one after the other, as a TOML file says")
    command.add_argument("shots", type=Path, metavar="SHOTS.toml", help="the queue; see docs/batch.md")
    command.add_argument("--report", type=Path, metavar="FILE", help="default: SHOTS.report.json beside the queue")
    command.add_argument("--blender", metavar="PROGRAM", help="default: what the queue names, this Blender, $BLENDER, or `blender`")
    command.add_argument("--retries", type=int, metavar="N", help="further tries of a shot that failed; default: what the queue says, or 1")
    command.add_argument("--again", action="store_true", help="render what is done already, too")
    command.set_defaults(run=_command)


def _command(options: argparse.Namespace) -> None:
    code = run(options, _tell)
    if code:
        raise SystemExit(code)


def main(arguments: Sequence[str], program: str) -> int:
    """`batch` without Blender in this process; returns the exit code."""
    parser = _Parser(prog=program)
    add_command(parser.add_subparsers(required=True, parser_class=_Parser))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Blender's own, if this is one after all, waits for a second Ctrl-C
    try:
        return run(parser.parse_args(arguments), _tell)
    except BatchError as error:
        print(f"medm: {error}", file=sys.stderr, flush=True)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("medm: stopped", file=sys.stderr, flush=True)
        return FAILED
    except SystemExit as asked_for_help:
        return int(asked_for_help.code or 0)


def run(options: argparse.Namespace, tell: Report) -> int:
    """Work through the queue and return the exit code: 0 all done, 2 or 3 if all that failed did so with it, 1 else. Raises BatchError."""
    batch = read(options.shots)
    program = _program(options.blender or batch.blender)
    retries = batch.retries if options.retries is None else max(0, options.retries)
    report = options.report or options.shots.with_suffix(".report.json")
    results = _resumed(batch, report, options.again)
    _write(report, results)
    for number, (shot, result) in enumerate(zip(batch.shots, results, strict=True)):
        if result.state == "done":
            continue

        def progress(share: float, phase: str, number: int = number, name: str = shot.name) -> None:
            tell((number + share) / len(batch.shots), f"{name}: {phase}")

        result.state, result.tries, started = "running", 0, time.monotonic()
        _write(report, results)
        try:
            while result.state == "running":
                result.tries += 1
                code = _render(program, shot, result, progress)
                if code == DONE:
                    result.state = "done"
                elif code == BAD_INPUT or result.tries > retries:  # what is wrong in the file is so the next time too
                    result.state = "failed"
                elif code == UNAVAILABLE:
                    time.sleep(_WAITS[min(result.tries, len(_WAITS)) - 1])
        except BaseException:
            result.state = "waiting"  # stopped: the next batch begins with it
            raise
        finally:
            result.seconds = round(time.monotonic() - started, 1)
            _write(report, results)
    if batch.shots:
        tell(1.0, "done")
    print(words(results, report), flush=True)
    codes = {result.exit_code or FAILED for result in results if result.state != "done"}
    return DONE if not codes else codes.pop() if len(codes) == 1 else FAILED


def words(results: Sequence[Result], report: Path) -> str:
    """The report for people: one line a shot, then how many are done."""
    lines = []
    for result in results:
        tries = f" at try {result.tries}" if result.tries > 1 else ""
        end = result.take or (f"submitted as job {result.job}" if result.job else "")
        lines.append(f"{result.state:<7}  {result.name}: {result.error if result.state == 'failed' else end}{tries}".rstrip(": "))
    done = sum(result.state == "done" for result in results)
    return "\n".join([*lines, f"{done} of {len(results)} shots are done; report: {report}"])


def _tell(share: float, phase: str) -> None:
    if sys.stdout.isatty():
        print(f"{share:4.0%} {phase:<60.60}", end="\n" if share >= 1.0 else "\r", flush=True)
    else:
        print(f"medm_progress {share:.4g} {phase}", flush=True)


# -- the file of shots -------------------------------------------------------------------------------------------------


def read(file: Path) -> Batch:
    """The queue in a TOML file. Raises BatchError, which names the file and the key."""
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise BatchError(f"{file} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise BatchError(f"{file} is no UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise BatchError(f"{file} is no TOML: {error}") from error
    _only(document, {"retries", "blender", "defaults", "shots"}, file, "")
    retries = document.get("retries", 1)
    if not isinstance(retries, int) or isinstance(retries, bool) or not 0 <= retries <= 100:
        raise BatchError(f"{file}: retries: a whole number from 0 to 100 is wanted")
    blender = _text(document.get("blender", ""), file, "blender")
    defaults = document.get("defaults", {})
    if not isinstance(defaults, dict):
        raise BatchError(f"{file}: defaults: a table [defaults] is wanted")
    _only(defaults, _OPTIONS, file, "defaults.")
    _arguments(defaults, file, "defaults.")
    entries = document.get("shots")
    if not isinstance(entries, list) or not entries:
        raise BatchError(f"{file}: shots: at least one table [[shots]] is wanted")
    shots = [_shot(entry, defaults, file, f"shots[{number}]") for number, entry in enumerate(entries, 1)]
    names = [shot.name for shot in shots]
    for number, name in enumerate(names, 1):
        if name in names[: number - 1]:
            raise BatchError(f'{file}: shots[{number}].name: "{name}" is the name of shots[{names.index(name) + 1}] too')
    return Batch(tuple(shots), retries, blender)


def _shot(entry: Any, defaults: dict[str, Any], file: Path, where: str) -> Shot:
    if not isinstance(entry, dict):
        raise BatchError(f"{file}: {where}: a table is wanted")
    _only(entry, _OWN | _OPTIONS, file, f"{where}.")
    if "file" not in entry:
        raise BatchError(f"{file}: {where}.file: the .blend is missing")
    blend = _beside(file, _text(entry["file"], file, f"{where}.file"))
    if not blend.is_file():
        raise BatchError(f"{file}: {where}.file: {blend} does not exist")
    own = {name: value for name, value in entry.items() if name not in _OWN}
    merged = {**defaults, **own}
    if isinstance(defaults.get("set"), dict) and isinstance(own.get("set"), dict):
        merged["set"] = {**defaults["set"], **own["set"]}
    scene = merged.get("scene")
    name = _text(entry.get("name", f"{blend.stem} {scene}" if scene else blend.stem), file, f"{where}.name")
    if not name.isprintable():
        raise BatchError(f"{file}: {where}.name: a text in one line is wanted")
    return Shot(name, blend, tuple(_arguments(merged, file, f"{where}.")))


def _arguments(options: dict[str, Any], file: Path, where: str) -> list[str]:
    """The options as `medm render` takes them."""
    arguments = []
    for name, value in options.items():
        key, option = f"{where}{name}", f"--{name.replace('_', '-')}"
        if name == "set":
            if not isinstance(value, dict):
                raise BatchError(f"{file}: {key}: a table is wanted, as in {{ w_steps = 2 }}")
            for setting, given in value.items():
                if not isinstance(given, str | int | float) or "\0" in f"{setting}{given}":
                    raise BatchError(f"{file}: {key}.{setting}: a text or a number is wanted")
                arguments.append(f"--set={setting}={json.dumps(given) if isinstance(given, bool) else given}")
        elif name in _SWITCHES:
            if not isinstance(value, bool):
                raise BatchError(f"{file}: {key}: true or false is wanted")
            arguments += [option] if value else []
        elif name in _NUMBERS:
            if not isinstance(value, _NUMBERS[name]) or isinstance(value, bool):
                raise BatchError(f"{file}: {key}: a {'number' if float in _NUMBERS[name] else 'whole number'} is wanted")
            arguments.append(f"{option}={value}")
        elif name in _PATHS and not str(value).startswith("//"):  # that is beside the .blend, for Blender to find
            arguments.append(f"{option}={_beside(file, _text(value, file, key))}")
        elif name == "frames" and not re.fullmatch(r"-?\d+(:-?\d+)?", str(value)):
            raise BatchError(f'{file}: {key}: "{value}" is no frame range: write it as "1:24"')
        elif name == "size" and not re.fullmatch(r"\d+[xX]\d+", str(value)):
            raise BatchError(f'{file}: {key}: "{value}" is no size: write it as "384x216"')
        else:
            arguments.append(f"{option}={_text(value, file, key) if name != 'frames' else value}")
    return arguments


def _only(table: dict[str, Any], known: set[str], file: Path, where: str) -> None:
    for key in table:
        if key not in known:
            raise BatchError(f"{file}: {where}{key}: there is no such key; there are: {', '.join(sorted(known))}")


def _text(value: Any, file: Path, key: str) -> str:
    if not isinstance(value, str):
        raise BatchError(f"{file}: {key}: a text is wanted")
    if "\0" in value:  # no command line can hold it
        raise BatchError(f"{file}: {key}: a text without the character 0 is wanted")
    return value


def _beside(file: Path, path: str) -> Path:
    return Path(os.path.normpath(file.absolute().parent / Path(path).expanduser()))


# -- the report --------------------------------------------------------------------------------------------------------


def _resumed(batch: Batch, report: Path, again: bool) -> list[Result]:
    """A result for every shot: as the last batch left it where that is done and the entry the same."""
    results = [Result(shot.name, str(shot.file), shot.key) for shot in batch.shots]
    if again:
        return results
    known: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or none of ours
        document = json.loads(report.read_bytes())
        if document["format"] == FORMAT:
            known = {entry["key"]: entry for entry in document["shots"] if entry["state"] == "done"}
    names = set(Result.__dataclass_fields__)
    return [
        Result(**{name: value for name, value in known[result.key].items() if name in names}) if result.key in known else result
        for result in results
    ]


def _write(report: Path, results: Sequence[Result]) -> None:
    """At once, so that whoever reads it finds the one before or this one."""
    document = {"format": FORMAT, "version": FORMAT_VERSION, "shots": [asdict(result) for result in results]}
    aside = report.with_name(f".{report.name}.{os.getpid()}.part")
    try:
        aside.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        aside.replace(report)
    except OSError as error:
        raise BatchError(f"the report {report} cannot be written: {(error.strerror or str(error)).lower()}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


# -- one shot ----------------------------------------------------------------------------------------------------------


def _program(named: str) -> list[str]:
    """What begins the command line of a shot: a Blender, or this Python if it has the bpy module."""
    bpy = sys.modules.get("bpy")
    for blender in (named, bpy.app.binary_path if bpy else "", os.environ.get("BLENDER", "")):
        if blender:
            found = shutil.which(blender)
            if found is None:
                raise BatchError(f"there is no Blender at {blender}")
            return [found, "-b", *_for_blender()]
    with contextlib.suppress(ImportError):
        import importlib.util

        if importlib.util.find_spec("bpy") is not None:
            return [sys.executable, "-m", str(__package__)]
    found = shutil.which("blender")
    if found is None:
        raise BatchError("there is no Blender on the PATH: name it with --blender or in BLENDER")
    return [found, "-b", *_for_blender()]


def _for_blender() -> list[str]:
    """Has an application know the extension: it does if the user enabled it there."""
    package = str(__package__)
    bpy = sys.modules.get("bpy")
    start = ["--factory-startup"] if bpy is not None and bpy.app.factory_startup else []
    if package.startswith("bl_ext."):
        return [*start, "--addons", package]
    place = str(Path(__file__).resolve().parents[1])
    code = f"import sys; sys.path.insert(0, {place!r}); import {package} as medm; medm.register()"
    return [*start, "--python-expr", code]


def _render(program: list[str], shot: Shot, result: Result, progress: Report) -> int:
    """Render one shot in a process of its own and note how it went; returns its exit code."""
    task = ["render", *shot.arguments]
    module = "-m" in program[1:2]
    command = [*program, str(shot.file), *task] if module else [*program, str(shot.file), "--command", "medm", *task]
    environment = dict(os.environ)
    if module:
        place = str(Path(__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [place, environment.get("PYTHONPATH", "")]))
    options: dict[str, Any] = {} if sys.platform == "win32" else {"start_new_session": True}  # Ctrl-C comes from here alone
    errors: list[str] = []
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        encoding="utf-8",
        errors="replace",
        **options,
    )
    assert process.stdout is not None and process.stderr is not None
    reader = threading.Thread(target=_read, args=(process.stderr, errors), daemon=True)
    reader.start()
    try:
        for line in process.stdout:
            _take_in(line.strip(), result, progress)
        process.wait()
    except BaseException:
        _interrupt(process)
        raise
    reader.join(5.0)
    said = [line for line in errors if line]
    ours = [line.removeprefix("medm: ") for line in said if line.startswith("medm: ")]
    code = process.returncode
    result.exit_code, result.error = (code if code >= 0 else FAILED), ""
    if code != 0:
        result.error = (
            f"Blender was ended (signal {-code}): is there enough memory?" if code < 0 else f"Blender ended with exit code {code}"
        )
        result.error = [result.error, *said[-1:], *ours][-1] if code > 0 else result.error
    if code == 0 and not (result.take or result.job):
        result.exit_code, result.error = FAILED, "Blender ended without a take"
    result.log = said[-20:] if result.exit_code else []
    return result.exit_code


def _take_in(line: str, result: Result, progress: Report) -> None:
    word, _, rest = line.partition(" ")
    if word == "medm_progress":
        share, _, phase = rest.partition(" ")
        with contextlib.suppress(ValueError):
            progress(float(share), phase)
    elif word == "take:":
        result.take = rest
    elif word == "medm_job":
        result.job = rest


def _read(stream: Any, lines: list[str]) -> None:
    for line in stream:
        lines.append(line.strip())
        del lines[:-200]


def _interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C for the shot too: it calls its job off, and what does not listen is ended."""
    try:
        if sys.platform != "win32":  # there it has come to the shot already
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGINT)
        process.wait(10.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BatchError(f"{message} (see {self.prog} --help)")

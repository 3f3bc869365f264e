#!/usr/bin/env python3
"""From a fresh clone to a painted animation: makes the environments that are needed, once, and then does what it is told.

    python3 bootstrap.py demo [--out DIR]   a built-in shot, exported, painted in both modes, and cut into an edit
    python3 bootstrap.py test [ARG ...]     all tests; arguments go to pytest
    python3 bootstrap.py serve [ARG ...]    the server, `medm serve`
    python3 bootstrap.py build              the extension as a zip for Blender, and as a repository to host, in dist/

Needs nothing but Python 3.11 or newer; with Python 3.13 it uses Blender 5.2's module, else Blender 4.5's. BLENDER=/path/to/blender
uses that Blender for the demo instead of the module, and tests it and its window too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent


class SetupError(Exception):
    """What keeps the command from starting, in one line."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment of the project.

    folder: in the project. pythons: versions that it can be made with, best first. packages: what pip is told to install. files: on
    which the environment depends, so that it is brought up to date when one changes. gigabytes: disk space that it takes, at most.
    """

    folder: str
    pythons: tuple[tuple[int, int], ...]
    packages: tuple[str, ...]
    files: tuple[str, ...]
    gigabytes: float

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return ROOT / self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


TEST_TOOLS = ("pytest==9.2.0", "pytest-timeout==2.4.0", "OpenEXR==3.5.3", "numpy")
SERVER = Environment(".venv", ((3, 11), (3, 12), (3, 13)), ("-e", "server[dev]"), ("server/pyproject.toml",), 8.0)
BLENDER_5_2 = Environment(".venv-bpy", ((3, 13),), ("bpy==5.2.3", *TEST_TOOLS), (), 1.5)
BLENDER_4_5 = Environment(".venv-bpy-4.5", ((3, 11),), ("bpy==4.5.15", *TEST_TOOLS), (), 1.5)


# -- environments ------------------------------------------------------------------------------------------------------


def find_python(version: tuple[int, int]) -> str | None:
    """An interpreter of exactly this version that works and can make environments: this one, one on the PATH, or one of pyenv's."""
    name = f"python{version[0]}.{version[1]}"
    candidates = [sys.executable, shutil.which(name), shutil.which("python3"), shutil.which("python")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += [str(path) for path in sorted(pyenv.glob(f"{version[0]}.{version[1]}.*/bin/python"), reverse=True)]
    if "LOCALAPPDATA" in os.environ:  # where python.org's installer puts it on Windows
        candidates += [str(path) for path in (Path(os.environ["LOCALAPPDATA"]) / "Programs/Python").glob("Python*/python.exe")]
    question = "import sys, ensurepip, venv; print(*sys.version_info[:2])"
    for candidate in dict.fromkeys(filter(None, candidates)):
        try:  # a pyenv shim is there for every version, but works only for those that are switched on
            answer = subprocess.run([candidate, "-I", "-c", question], capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if answer.returncode == 0 and answer.stdout.split() == [str(part) for part in version]:
            return candidate
    return None


def ensure(environment: Environment) -> Path:
    """Makes the environment, or brings it up to date, if that is needed, and returns its interpreter. Raises SetupError."""
    stamp = ROOT / environment.folder / "medm-environment"
    content = repr(environment.packages) + "".join((ROOT / file).read_text(encoding="utf-8") for file in environment.files)
    wanted = hashlib.sha256(content.encode()).hexdigest()
    if environment.python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return environment.python
    found = next(filter(None, map(find_python, environment.pythons)), None)
    if found is None:
        versions = " or ".join(f"{major}.{minor}" for major, minor in environment.pythons)
        raise SetupError(f"no Python {versions} was found, which {environment.folder} needs; install it from python.org and try again")
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < environment.gigabytes:
        need = f"{environment.folder} needs up to {environment.gigabytes:g} GB of disk space"
        raise SetupError(f"{need} and only {free:.1f} GB are free in {ROOT}")
    say(f"making {environment.folder} with {found}; this is done once")
    stamp.unlink(missing_ok=True)
    if not environment.python.exists():
        _run_setup([found, "-m", "venv", str(ROOT / environment.folder)], environment)
    pip = [str(environment.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *environment.packages]
    _run_setup(pip, environment)
    stamp.write_text(wanted)
    return environment.python


def _run_setup(command: list[str], environment: Environment) -> None:
    with tempfile.TemporaryFile("w+") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        log.seek(0)
        lines = [line for line in log.read().splitlines() if line.strip() and not line.startswith("WARNING")]
    if code:
        telling = [line.strip() for line in lines if "error" in line.lower() or "No space" in line] or lines or [f"exit code {code}"]
        raise SetupError(f"{environment.folder} could not be made: {telling[-1]}")


def ensure_blender() -> Environment:
    """The newest Blender module that the Pythons of this machine allow, ready to use."""
    if find_python((3, 13)) is None and not BLENDER_5_2.python.exists():
        if find_python((3, 11)) is None:
            raise SetupError("Blender's Python module needs Python 3.13 or 3.11 and neither was found; install 3.13 from python.org")
        ensure(BLENDER_4_5)
        return BLENDER_4_5
    ensure(BLENDER_5_2)
    return BLENDER_5_2


def say(text: str) -> None:
    """One line about what happens."""
    print(f"[medm] {text}", flush=True)


# -- commands ----------------------------------------------------------------------------------------------------------


def blender_command(module: str) -> list[str]:
    """What runs a module of the extension inside Blender: the one that BLENDER names, or the Python module."""
    blender = os.environ.get("BLENDER")
    if not blender:
        return [str(ensure_blender().python), "-m", module]
    if shutil.which(blender) is None:
        raise SetupError(f"BLENDER={blender} cannot be run")
    start = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[1:] = sys.argv[sys.argv.index('--') + 1:]; "
    start += f"runpy.run_module({module!r}, run_name='__main__')"
    return [blender, "-b", "--factory-startup", "--python-exit-code", "1", "--python-expr", start, "--"]


def demo(arguments: list[str]) -> int:
    """`bootstrap.py demo`; everything that is not --out goes to `medm_blender.demo`."""
    parser = argparse.ArgumentParser(prog="bootstrap.py demo")
    parser.add_argument("--out", type=Path, default=ROOT / "demo-out", metavar="DIR", help="default: demo-out in the project")
    options, others = parser.parse_known_args(arguments)
    out: Path = options.out.absolute()
    server = ensure(SERVER)
    blender = blender_command("medm_blender.demo")
    started = time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"{out} cannot be made: {error.strerror}") from error
    code = subprocess.run([*blender, "--out", str(out), "--server-python", str(server), *others], cwd=ROOT, check=False).returncode
    if code:
        return code
    say("comparing the takes: scan, contact sheet, preview, warping error over the exact flow")
    takes = {"per-frame ControlNet (w 0)": "per-frame", "full (w 1)": "full", "assistive (w 1)": "assistive"}
    command = [str(server), "-I", "-m", "medm.cli", "compare", str(out / "shot"), "-o", str(out)]
    command += [f"{label}={out / 'takes' / folder}" for label, folder in takes.items()]
    code = subprocess.run(command, check=False).returncode
    if code == 0:
        say(f"done in {time.monotonic() - started:.0f} s: preview.mp4, contact_sheet.png, scan.png and demo.blend are in {out}")
    return code


def test(arguments: list[str]) -> int:
    """`bootstrap.py test`: the add-on's tests in every Blender that there is, the window's in BLENDER, the server's and the whole chain."""
    ensure(SERVER)
    blenders = [
        environment for environment in (BLENDER_5_2, BLENDER_4_5) if environment.python.exists() or find_python(environment.pythons[0])
    ]
    if not blenders:
        ensure_blender()  # says what is missing
    pytest = ["-m", "pytest"]
    runs = [Suite(SERVER.folder, [str(SERVER.python), *pytest, "tests/server", "tests/end_to_end"])]
    runs += [Suite(environment.folder, [str(ensure(environment)), *pytest, "tests/addon"]) for environment in blenders]
    application = os.environ.get("BLENDER")
    if application:
        # A Blender for each file: what one does to its memory (5.2.2 is not proof against rigid bodies) ends there.
        inside = application_tests(application)
        files = sorted((ROOT / "tests" / "addon").glob("test_*.py"))
        runs += [Suite(f"application {file.stem}", [*inside, f"tests/addon/{file.name}"]) for file in files]
    failed = run_suites(runs, arguments)
    if application:  # on its own: what a window feels like is no test while others use the processor
        failed |= run_suites([Suite("window", [str(SERVER.python), *pytest, "tests/gui"])], arguments)
    if not application:
        say(
            "the Blender application and its window were not tested: BLENDER does not name one (BLENDER=$(.ci/blender) makes one on Debian)"
        )
    for environment in (BLENDER_5_2, BLENDER_4_5):
        if environment not in blenders:
            say(f"{environment.packages[0]} was not tested: Python {environment.pythons[0][0]}.{environment.pythons[0][1]} was not found")
    return 1 if failed else 0


NO_TESTS = 5
"""pytest's exit code where no test was chosen."""


@dataclass(frozen=True)
class Suite:
    """Tests that run in a process of their own: what they are called, and the command that runs them."""

    name: str
    command: list[str]


def run_suites(suites: list[Suite], arguments: list[str]) -> bool:
    """Runs suites, two at a time where there are two cores, and says line by line what each says; whether one failed.

    What failed is tried once more on its own, and said to have been: windows drawn in software, processes that are interrupted and time
    limits are now and then not what they are on a machine that has nothing else to do. What fails twice has failed.
    """
    at_once = min(2, os.cpu_count() or 1, len(suites))
    environment = dict(os.environ)
    if at_once > 1:  # threads of two that fight for the same cores make both many times slower
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))
    with ThreadPoolExecutor(at_once) as pool:
        codes = list(pool.map(lambda suite: _run_suite(suite, arguments, environment), suites))
    failed = [suite for suite, code in zip(suites, codes, strict=True) if code]
    for suite in failed:
        say(f"{suite.name}: what failed, once more")
    return any(_run_suite(suite, [*arguments, "--last-failed"], environment) for suite in failed)


def _run_suite(suite: Suite, arguments: list[str], environment: dict[str, str]) -> int:
    say(f"{suite.name}: {' '.join(suite.command)}")
    notes = (
        f"cache_dir=.pytest_cache/{suite.name.replace(' ', '-')}"  # of its own: two that end together would forget each other's failures
    )
    process = subprocess.Popen(
        [*suite.command, "-o", notes, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    last = ""
    with process.stdout as lines:
        for line in lines:
            print(f"{suite.name} | {line}", end="", flush=True)
            last = line.rstrip() or last
    code = process.wait()
    if code == NO_TESTS and arguments:  # what is asked for need not be in every suite
        code = 0
    say(f"{suite.name}: {'passed' if code == 0 else f'failed, exit code {code}'}")
    print(last, flush=True)  # pytest's summary, as pytest says it
    return abs(code)


def application_tests(blender: str) -> list[str]:
    """What runs pytest inside a Blender application, whose Python gets it from a folder of its own: nothing is installed into Blender."""
    try:
        start = [blender, "-b", "--factory-startup", "--python-exit-code", "1"]
        question = [*start, "--python-expr", "import sys; print('\\nmedm_python', *sys.version_info[:2])"]
        answer = subprocess.run(question, capture_output=True, text=True, timeout=300, check=True).stdout
        version = next(line.split()[1:] for line in answer.splitlines() if line.startswith("medm_python "))
    except (OSError, subprocess.SubprocessError, StopIteration) as error:
        raise SetupError(f"BLENDER={blender} cannot be run") from error
    tools = Environment(f".venv-application-{'.'.join(version)}", (), TEST_TOOLS[:-1], (), 0.1)
    stamp = ROOT / tools.folder / "medm-environment"
    if not stamp.exists() or stamp.read_text() != repr(tools.packages):
        pip = [str(SERVER.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target", tools.folder]
        pip += ["--python-version", ".".join(version), "--only-binary=:all:"]
        _run_setup([*pip, *(package for package in tools.packages if not package.startswith("OpenEXR"))], tools)
        _run_setup(
            [*pip, "--no-deps", *(package for package in tools.packages if package.startswith("OpenEXR"))], tools
        )  # NumPy is Blender's
        stamp.write_text(repr(tools.packages))
    return [*start, "--python", str(ROOT / "tests/addon/in_application.py"), "--", str(ROOT / tools.folder)]


def serve(arguments: list[str]) -> int:
    """`bootstrap.py serve`."""
    return subprocess.run([str(ensure(SERVER)), "-m", "medm.cli", "serve", *arguments], check=False).returncode


def build(arguments: list[str]) -> int:
    """`bootstrap.py build`: the extension's zip with the server's wheel in it, and the index that makes dist/ an extension repository.

    Made and checked by Blender's own builder. The same sources give the same zip, to the byte, with the same tools.
    """
    argparse.ArgumentParser(prog="bootstrap.py build").parse_args(arguments)
    python = ensure_blender().python
    package = subprocess.run(
        [str(python), "-c", "import bpy; print(bpy.utils.system_resource('SCRIPTS'))"], capture_output=True, text=True, check=True
    )
    builder = [str(python), str(Path(package.stdout.splitlines()[-1]) / "addons_core/bl_pkg/cli/blender_ext.py")]
    dist, date = ROOT / "dist", _source_date()
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(date), "TZ": "UTC", "PYTHONHASHSEED": "0"}
    dist.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        extension = _stage_extension(stage, _build_wheel(python, stage, environ), date)
        repository = stage / "repository"
        repository.mkdir()
        _run_tool([*builder, "build", "--source-dir", str(extension), "--output-dir", str(repository)], environ)
        (archive,) = repository.glob("*.zip")
        _run_tool([*builder, "validate", str(archive)], environ)
        _run_tool([*builder, "server-generate", "--repo-dir", str(repository), "--html"], environ)
        for file in (archive, repository / "index.json", repository / "index.html"):
            shutil.copyfile(file, dist / file.name)
    say(f"{dist / archive.name} installs from disk; dist/ with its index.json is an extension repository, for any web server or file://")
    return 0


def _source_date() -> int:
    """Seconds since 1970 that all files of a build carry: SOURCE_DATE_EPOCH, or the last commit's."""
    if os.environ.get("SOURCE_DATE_EPOCH", "").isdecimal():
        return int(os.environ["SOURCE_DATE_EPOCH"])
    try:
        git = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return 1_577_836_800  # no git: 2020
    return int(git.stdout) if git.stdout.strip().isdecimal() else 1_577_836_800


def _build_wheel(python: Path, stage: Path, environ: dict[str, str]) -> Path:
    """The server's wheel, from a copy of its sources: setuptools leaves things behind, and takes what it finds of them the next time."""
    source, wheels = stage / "server", stage / "wheel"
    shutil.copytree(ROOT / "server" / "medm", source / "medm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "server" / "pyproject.toml", source)
    _make_plain(source, int(environ["SOURCE_DATE_EPOCH"]))
    command = [str(python), "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir"]
    _run_tool([*command, "--wheel-dir", str(wheels), str(source)], environ)
    (wheel,) = wheels.glob("medm_server-*.whl")
    return wheel


def _stage_extension(stage: Path, wheel: Path, date: int) -> Path:
    """The folder that Blender's builder wants: the manifest beside __init__.py, where the project has it at its root."""
    extension = stage / "medm_blender"
    shutil.copytree(ROOT / "medm_blender", extension, ignore=shutil.ignore_patterns("__pycache__", "*.whl"))
    (extension / "server").mkdir(exist_ok=True)
    for file in (wheel, ROOT / "LICENSE"):
        shutil.copy(file, extension / "server" if file == wheel else extension)
    files = sorted(path.relative_to(extension).as_posix() for path in extension.rglob("*") if path.is_file())
    manifest = (ROOT / "blender_manifest.toml").read_text(encoding="utf-8")
    listing = "".join(f'    "{file}",\n' for file in files)  # else they come in the file system's order
    (extension / "blender_manifest.toml").write_text(f"{manifest}\n[build]\npaths = [\n{listing}]\n", encoding="utf-8", newline="\n")
    _make_plain(extension, date)
    return extension


def _make_plain(folder: Path, date: int) -> None:
    """Nothing of this machine's clock and umask in what is packed."""
    for path in folder.rglob("*"):
        if os.name != "nt":
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (date, date))


def _run_tool(command: list[str], environ: dict[str, str]) -> None:
    ended = subprocess.run(
        command, cwd=ROOT, env=environ, umask=0o022, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if ended.returncode:
        raise SetupError(ended.stdout.strip() or f"{command[0]} ended with exit code {ended.returncode}")


COMMANDS = {"demo": demo, "test": test, "serve": serve, "build": build}


def main(arguments: list[str]) -> int:
    """Runs one command; returns its exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 - said kindly to whoever calls it with an older one
        print(
            f"bootstrap.py: needs Python 3.11 or newer, and this is {sys.version.split()[0]}; try python3.11 bootstrap.py", file=sys.stderr
        )
        return 3
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        return COMMANDS[arguments[0]](arguments[1:])
    except SetupError as error:
        print(f"bootstrap.py: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

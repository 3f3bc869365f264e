"""Installs the MeDM server into a folder of its own, from the wheel in the extension. Standard library only; knows nothing of Blender.

Every installation is a new virtual environment, `env-1`, `env-2`..., beside the one that is in use, and `current.json` is what switches to
it in the end: cancelled, failed or cut off by a power cut, the old one stays as it was. What is long is a generator that yields (share
done from 0 to 1, words) at least ten times a second; closing it kills whatever it had started, at once.

pip downloads, with the user's own configuration (pip.conf, PIP_INDEX_URL, proxies, certificates) and its cache, so that what came whole the
last time is not fetched again. Before that, `plan` finds out what it would be and how large, and the installation is held to that.
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
import threading
import zipfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

Progress = tuple[float, str]
"""(share done from 0 to 1, words)."""

TORCH_SOURCES = ("AUTO", "PYPI", "CPU", "CU126", "CU130")
"""Where torch comes from: what suits the GPU, PyPI, or one of PyTorch's own indexes, which have it for that CUDA version only."""
TORCH_INDEX = "https://download.pytorch.org/whl"

_PIP = "25.3"  # the first whose --dry-run downloads no wheels
_PATIENCE = ("--retries", "3", "--timeout", "20")
_WHEELS_ONLY = ("--only-binary", ":all:")  # nothing is ever compiled on an artist's machine
_LONGEST_PATH = 195  # characters below an environment's folder; torch's licences are that deep
_ABOUT = 90  # packages, for the progress of finding out how many
_POLL = 0.1


class InstallError(Exception):
    """What keeps the server from being installed; `str()` is one line for the user."""


@dataclass(frozen=True)
class Package:
    """What would be installed.

    file: of its wheel. size: of that, in bytes; None if it could not be found out. source: a host, or a folder if `local`.
    """

    name: str
    version: str
    file: str
    size: int | None
    source: str
    local: bool


@dataclass(frozen=True)
class Plan:
    """What an installation would download, found out before anything of it is.

    notes: what the user should know before agreeing, one line each. torch: the address of the torch that was chosen, or None for
    whichever PyPI has. environment: made for it so far, with nothing but pip in it. torch_source: what it was asked for.
    """

    packages: tuple[Package, ...]
    folder: Path
    notes: tuple[str, ...]
    torch: str | None
    environment: Path
    torch_source: str = "AUTO"

    @property
    def bytes(self) -> int:
        """How much would be downloaded, at most (pip may have some of it in its cache), as far as the sizes are known."""
        return sum(package.size or 0 for package in self.packages if not package.local)

    @property
    def disk(self) -> int:
        """Bytes of disk space that it takes, estimated from the sizes."""
        # Measured: the CPU's torch and all it needs take 4.0 times their packed size, the CUDA libraries 1.6 times. pip has all the
        # wheels beside each other before it unpacks the first.
        return sum(int((package.size or 0) * (1.0 + (1.8 if package.name.startswith("nvidia-") else 4.2))) for package in self.packages)

    @property
    def sources(self) -> tuple[str, ...]:
        """Where it would come from, the largest part first."""
        sizes: dict[str, int] = {}
        for package in self.packages:
            if _is_ours(package):  # it came with the add-on
                continue
            sizes[package.source] = sizes.get(package.source, 0) + (package.size or 0)
        return tuple(sorted(sizes, key=lambda source: -sizes[source]))

    def words(self) -> str:
        """As in `84 packages, 1.4 GB, from files.pythonhosted.org`."""
        unknown = sum(package.size is None for package in self.packages)
        more = f" and {unknown} of unknown size" if unknown else ""
        return f"{len(self.packages)} packages, {in_words(self.bytes)} to download{more}, from {', '.join(self.sources)}"


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU: its name, its driver's major version and its compute capability."""

    name: str
    driver: int
    capability: float


class Installation:
    """A server in `folder`.

    wheel: what it is installed from; None where this copy of the add-on carries none. base_python: makes the environment; the one that
    runs this if not given.
    """

    def __init__(self, folder: Path, wheel: Path | None, base_python: Path | None = None) -> None:
        self.folder, self.wheel = folder.absolute(), wheel and wheel.absolute()
        self._base_python = base_python or Path(sys.executable)

    @property
    def python(self) -> Path | None:
        """The interpreter of the installed server; None if there is none, or it cannot run: the Blender it was made with may be gone."""
        name = self._current().get("environment")
        environment = self.folder / str(name)
        if not name or not _interpreter(environment).exists() or not (environment / "pyvenv.cfg").exists():
            return None
        for line in (environment / "pyvenv.cfg").read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "home" and not Path(value.strip()).is_dir():
                return None
        return _interpreter(environment)

    def installed_version(self) -> str | None:
        """The version of the installed server, None if there is none or it cannot run."""
        return str(self._current().get("version")) if self.python else None

    def wheel_version(self) -> str | None:
        """The version that would be installed."""
        return self.wheel.name.split("-")[1] if self.wheel else None

    def _current(self) -> dict[str, Any]:
        try:
            current = json.loads((self.folder / "current.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return current if isinstance(current, dict) else {}

    # What it would take

    def plan(self, torch_source: str = "AUTO") -> Generator[Progress, None, Plan]:
        """Find out what `install` would download; the generator's value. InstallError."""
        with self._alone():
            plan: Plan = yield from _scaled(self._plan(torch_source), 0.0, 1.0)
            return plan

    def _plan(self, torch_source: str) -> Generator[Progress, None, Plan]:
        wheel = self._wheel()
        environment = self._next_environment()
        try:
            yield from _scaled(self._make_environment(environment), 0.0, 0.4)
            index, note = choose_torch(torch_source, sys.platform, find_gpu())
            torch, notes = None, [note] if note else []
            if index:
                yield 0.4, "Asking PyTorch's index"
                try:
                    torch = (yield from self._resolve(environment, [_torch_of(wheel)], ("--no-deps", "--index-url", index)))[0][0]
                except InstallError:
                    notes.append(_without_index(index, sys.platform))
            requirements = [str(wheel), *([_requirement(torch)] if torch else [])]
            found = yield from self._resolve(environment, requirements)
            yield 0.85, "Asking how large it is"
            sizes = yield from self._sizes(environment, [url for url, _, _ in found])
            packages = tuple(_package(*entry, size=size) for entry, size in zip(found, sizes, strict=True))
            yield 1.0, "Found out what is needed"
            return Plan(packages, self.folder, tuple(notes), torch, environment, torch_source)
        except BaseException:
            _remove(environment)
            raise

    def _resolve(
        self, environment: Path, requirements: Sequence[str], options: Sequence[str] = ()
    ) -> Generator[Progress, None, list[tuple[str, str, str]]]:
        """(address, name, version) of all packages that pip would install."""
        report = environment / "report.json"
        report.unlink(missing_ok=True)
        patience = ("--retries", "1", "--timeout", "15") if options else _PATIENCE  # the extra index has a way out
        command = [*_pip(environment), "install", "--dry-run", "--ignore-installed", "--report", str(report), "--progress-bar", "off"]
        count = 0
        for line in self._run([*command, *patience, *_WHEELS_ONLY, *options, *requirements], environment):
            found = re.match(r"(?:Collecting|Processing) (\S+)", line or "")
            count += found is not None
            name = re.match(r"[\w\-]+", found[1].rpartition("/")[2]) if found else None
            yield 0.45 + 0.4 * min(count / _ABOUT, 1.0), f"Looking up {name[0]}" if name else ""
        document = json.loads(report.read_text("utf-8"))
        return [(item["download_info"]["url"], item["metadata"]["name"], item["metadata"]["version"]) for item in document["install"]]

    def _sizes(self, environment: Path, urls: list[str]) -> Generator[Progress, None, list[int | None]]:
        """Bytes of each file; pip's own session asks, since it knows the user's proxy, certificates and passwords."""
        (environment / "urls.json").write_text(json.dumps(urls), "utf-8")
        lines = []
        try:
            for line in self._run([*_python(environment), "-c", _ASK_SIZES, str(environment / "urls.json")], environment):
                lines.append(line or "")
                yield 0.85, ""
            answer = json.loads(next(line for line in lines if line.startswith("[")))
        except (InstallError, StopIteration, ValueError):
            answer = [None] * len(urls)  # said as "of unknown size"
        local = [_local_path(url) for url in urls]
        return [path.stat().st_size if path and path.exists() else size for path, size in zip(local, answer, strict=True)]

    # Doing it

    def install(self, plan: Plan | None = None, torch_source: str = "AUTO") -> Generator[Progress, None, str]:
        """Install what was planned, or plan first; the generator's value is the version. InstallError. The old one stays until the end."""
        with self._alone():
            if plan is None:
                plan = yield from _scaled(self._plan(torch_source), 0.0, 0.1)
            environment = plan.environment
            try:
                yield 0.1, "Looking at the disk"
                self._check_disk(plan.disk)
                if not _works(environment):
                    environment = self._next_environment()
                    yield from _scaled(self._make_environment(environment), 0.1, 0.12)
                yield from _scaled(self._download_and_install(environment, plan), 0.12, 0.95)
                yield 0.95, "Trying the server"
                version = yield from self._try(environment)
                self._switch(environment, version)
            except BaseException:
                _remove(environment)
                raise
        yield 1.0, f"MeDM server {version} is installed"
        return version

    def _download_and_install(self, environment: Path, plan: Plan) -> Generator[Progress, None, None]:
        """Downloading is the first 80 %, counted in bytes; unpacking the rest, counted in packages."""
        constraints = environment / "constraints.txt"
        constraints.write_text(
            "".join(f"{package.name}=={package.version}\n" for package in plan.packages if not _is_ours(package)), "utf-8"
        )
        sizes = {package.file: package.size or 0 for package in plan.packages}
        total = sum(sizes.values()) or 1
        bar = "raw" if _pip_version(environment) >= (24, 1) else "off"
        command = [*_pip(environment), "install", "--progress-bar", bar, "--constraint", str(constraints), *_PATIENCE, *_WHEELS_ONLY]
        command += [str(self._wheel()), *([_requirement(plan.torch)] if plan.torch else [])]
        done, share, file, words = 0, 0.0, "", "Downloading"
        unpacking = False
        for line in self._run(command, environment):
            if unpacking or (line or "").startswith("Installing collected packages"):
                unpacking = True
                count = min(len(list(_site_packages(environment).glob("*.dist-info"))), len(plan.packages))  # pip is one more
                yield 0.8 + 0.2 * count / len(plan.packages), f"Unpacking, {count} of {len(plan.packages)} packages"
                continue
            if found := re.match(r"\s*(?:Downloading|Using cached|Processing) (\S+\.whl)(?!\.metadata)", line or ""):
                done += sizes.pop(file, 0)
                file = unquote(found[1]).replace("\\", "/").rpartition("/")[2]
                share, words = 0.8 * done / total, f"Downloading {' '.join(file.split('-')[:2])} ({in_words(sizes.get(file, 0))})"
            elif found := re.match(r"Progress (\d+) of \d+", line or ""):
                share = 0.8 * (done + min(int(found[1]), sizes.get(file, 0))) / total
            yield share, words

    def _try(self, environment: Path) -> Generator[Progress, None, str]:
        lines = []
        for line in self._run([*_python(environment), "-c", _TRY], environment):
            lines.append(line or "")
            yield 0.95, "Trying the server"
        return next(line for line in lines if line.startswith("medm ")).split()[1]

    def _switch(self, environment: Path, version: str) -> None:
        for scrap in ("report.json", "urls.json", "constraints.txt"):
            (environment / scrap).unlink(missing_ok=True)
        shutil.rmtree(environment / "tmp", ignore_errors=True)
        new = self.folder / "current.json.new"
        new.write_text(json.dumps({"environment": environment.name, "version": version}), "utf-8")
        new.replace(self.folder / "current.json")

    # Undoing it

    def tidy(self) -> None:
        """Delete what older, cancelled and broken installations left. Not while a server runs: it may be one of them. Never raises."""
        with contextlib.suppress(InstallError, OSError), self._alone():
            current = self._current().get("environment")
            for environment in self._environments():
                if environment.name != current:
                    _remove(environment)

    def remove(self) -> None:
        """Delete the installed server. InstallError if something holds it, or another Blender is at work on it."""
        with self._alone():
            (self.folder / "current.json").unlink(missing_ok=True)
            for environment in self._environments():
                _remove(environment)
        if self._environments():
            raise InstallError(f"Some files in {self.folder} are in use and stay until the server is stopped")

    # Parts

    def _wheel(self) -> Path:
        if self.wheel is None or not self.wheel.exists():
            raise InstallError("This copy of MeDM carries no server: install the extension's zip, as `bootstrap.py build` makes it")
        return self.wheel

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else installs into this folder meanwhile, in whichever process; the system lets go of the lock when a process dies."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("a+b")
        except OSError as error:
            raise InstallError(f"{self.folder} cannot be written: {error.strerror}") from error
        with lock:
            try:
                if sys.platform == "win32":
                    import msvcrt

                    lock.seek(0)
                    msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
                else:
                    import fcntl

                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InstallError("The server is being installed by another Blender; wait until it is done") from error
            yield

    def _environments(self) -> list[Path]:
        return [path for path in self.folder.glob("env-*") if path.is_dir()]

    def _next_environment(self) -> Path:
        """A folder for the next environment, after the half-made ones of before are gone; the current one may be running, and stays."""
        current = self._current().get("environment")
        newest = max((_number(path) for path in self._environments()), default=0)
        for environment in self._environments():
            if current is None or _number(environment) > _number(Path(str(current))):
                _remove(environment)
        return self.folder / f"env-{newest + 1}"

    def _make_environment(self, environment: Path) -> Generator[Progress, None, None]:
        """A virtual environment with a pip that can tell without downloading."""
        self._check_disk(100_000_000)
        if sys.platform == "win32" and len(str(environment)) + _LONGEST_PATH >= 260 and not _long_paths_allowed():
            raise InstallError(
                f"{self.folder} is too long a path for Windows; allow long paths in Windows, or use a folder nearer to the drive"
            )
        yield 0.0, "Making an environment"
        try:
            yield from _waited(self._run([str(self._base_python), "-I", "-m", "venv", "--without-pip", str(environment)]), 0.1)
            yield from _waited(self._run([*_python(environment), "-m", "ensurepip"], environment), 0.3)
        except InstallError as error:
            if re.search(r"No module named '?(ensurepip|venv)|ensurepip is (not available|disabled)", f"{error.__cause__}"):
                raise InstallError(
                    "This Blender's Python cannot make environments: use Blender from blender.org, or install the system's python3-venv"
                ) from error
            raise
        if _pip_version(environment) < tuple(map(int, _PIP.split("."))):
            yield 0.6, "Fetching the installer (pip, 2 MB)"
            try:
                yield from _waited(
                    self._run(
                        [*_pip(environment), "install", "--quiet", "--upgrade", *_PATIENCE, *_WHEELS_ONLY, f"pip>={_PIP}"], environment
                    ),
                    0.6,
                )
            except InstallError as error:
                # An index that has no newer one will do: the old one downloads while it plans, and pip's cache keeps that.
                if "No matching distribution" not in f"{error.__cause__}":
                    raise

    def _check_disk(self, need: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < need:
            raise InstallError(f"The server needs {in_words(need)} of disk space and only {in_words(free)} are free in {self.folder}")

    def _run(self, command: Sequence[str], environment: Path | None = None) -> Generator[str | None, None, None]:
        """Yields what the command says, line by line, and None while it says nothing; InstallError in the user's words if it fails."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") and name not in _UNWANTED}
        environ |= {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_COLOR": "1", "PIP_QUIET": "0"}
        if environment is not None:  # /tmp may be small
            (environment / "tmp").mkdir(parents=True, exist_ok=True)
            environ |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(environment / "tmp"))
        said: list[str] = []
        code = 0
        try:
            process = _start(command, environ)
        except OSError as error:
            raise InstallError(f"{command[0]} cannot be run: {error.strerror}") from error
        try:
            for line in _lines(process):
                if line:
                    said.append(line)
                yield line
            code = process.wait()
        finally:
            _kill(process)
        if code:
            raise InstallError(explain("\n".join(said), self.folder)) from RuntimeError("\n".join(said[-50:]))


# -- torch -------------------------------------------------------------------------------------------------------------


def find_gpu() -> Gpu | None:
    """This machine's NVIDIA GPU, the one that its driver names first; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None and sys.platform == "win32":
        program = str(Path(os.environ.get("SYSTEMROOT", "C:\\Windows")) / "System32" / "nvidia-smi.exe")
    if program is None:
        return None
    question = [program, "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, errors="replace", timeout=20, check=False, **_quietly())
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_gpu(answer.stdout) if answer.returncode == 0 else None


def parse_gpu(answer: str) -> Gpu | None:
    """The first GPU of what `nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader` says."""
    for line in answer.splitlines():
        name, *numbers = (part.strip() for part in line.split(","))
        with contextlib.suppress(ValueError, IndexError):
            return Gpu(name, int(numbers[0].split(".")[0]), float(numbers[1]))
    return None


def choose_torch(source: str, platform: str, gpu: Gpu | None) -> tuple[str | None, str]:
    """(index that has the torch to install, or None for PyPI; what the user should know, or "").

    source: one of TORCH_SOURCES. platform: as `sys.platform`. PyPI has torch for CUDA 13.0 on Linux, and without CUDA on Windows and macOS.
    CUDA 13 needs driver 580 and compute capability 7.5, CUDA 12.6 driver 525 and capability 5.0.
    """
    if source not in TORCH_SOURCES:
        raise InstallError(f"There is no source of torch called {source}; known are {', '.join(TORCH_SOURCES)}")
    if source == "PYPI" or platform == "darwin":
        return None, ""
    if source != "AUTO":
        return f"{TORCH_INDEX}/{source.lower()}", ""
    without = f"{TORCH_INDEX}/cpu" if platform != "win32" else None
    if gpu is None:
        return without, "No NVIDIA GPU was found: takes will be painted by the processor, which is slow"
    if gpu.driver < 525 or gpu.capability < 5.0:
        why = "its driver is too old: update it and install again" if gpu.capability >= 5.0 else "it is too old"
        return without, f"{gpu.name} cannot be used, since {why}; until then the processor paints, which is slow"
    if gpu.driver < 580 or gpu.capability < 7.5:
        return f"{TORCH_INDEX}/cu126", ""
    return (f"{TORCH_INDEX}/cu130" if platform == "win32" else None), ""


def _without_index(index: str, platform: str) -> str:
    """What it means that PyTorch's own index cannot be had."""
    said = "PyTorch's own index cannot be reached, so torch comes from PyPI"
    if index.endswith("/cpu"):
        return f"{said}: larger than this computer needs"
    return f"{said}, which cannot use the GPU on Windows" if platform == "win32" else f"{said}, for another CUDA than this driver's"


# -- pip ---------------------------------------------------------------------------------------------------------------

_UNWANTED = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN", "PIP_REPORT", "PIP_NO_DEPS", "PIP_REQUIREMENT", "PIP_LOG"}
_UNWANTED |= {"PIP_PYTHON", "PIP_PLATFORM", "PIP_NO_BINARY", "PIP_PROGRESS_BAR", "PIP_VERBOSE", "PIP_UPGRADE", "PIP_REQUIRE_HASHES"}

_ASK_SIZES = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pip._internal.commands import create_command
urls = json.load(open(sys.argv[1], encoding="utf-8"))
command = create_command("download")
session = command._build_session(command.parse_args([])[0], retries=2, timeout=20)
def size(url):
    try:
        if not url.startswith("http"):
            return None
        answer = session.head(url, headers={"Accept-Encoding": "identity"}, allow_redirects=True)
        return int(answer.headers["Content-Length"]) if answer.ok else None
    except Exception:
        return None
with ThreadPoolExecutor(8) as pool:
    print(json.dumps(list(pool.map(size, urls))))
"""

_TRY = "import medm, medm.service, medm.cli, torch, diffusers; print('medm', medm.__version__)"


def explain(output: str, folder: Path) -> str:
    """One line for the user from what a failed pip, venv or ensurepip said; the cause, not what followed from it."""
    last = (
        [line for line in output.splitlines() if line.startswith("ERROR:") or "Error" in line] or output.splitlines()[-1:] or ["no reason"]
    )
    missing = re.search(r"No matching distribution found for ([\w.\-]+[^\s(;]*)", output)
    host = re.search(r"host='([^']+)'", output) or re.search(r"https?://(?:[^@/\s]*@)?([\w.\-]+)", output)
    where = host[1] if host else "the package index"
    for pattern, words in (
        (r"No space left|Errno 28\b|not enough space on the disk|Disk quota exceeded", f"The disk is full: free some space for {folder}"),
        (
            r"long path|WinError 206",
            f"{folder} is too long a path for Windows; allow long paths in Windows, or use a folder nearer to the drive",
        ),
        (
            r"ProxyError|Tunnel connection failed|\b407\b",
            f"The proxy does not let pip through to {where}: set HTTPS_PROXY, or pip's `proxy`",
        ),
        (r"CERTIFICATE_VERIFY_FAILED|SSLError", f"The certificate of {where} is not trusted: a proxy may stand between; set pip's `cert`"),
        (
            r"NameResolutionError|NewConnectionError|getaddrinfo|Name or service not known|ConnectTimeout|ReadTimeout|Read timed out"
            r"|Connection refused|Network is unreachable|No route to host|RemoteDisconnected|ConnectionResetError|IncompleteRead",
            f"{where} cannot be reached: check the network and try again; what was downloaded is kept",
        ),
        (
            r"(?:40[13] )(?:Client )?Error|HTTP error 40[13]",
            f"{where} refuses access: check the address and password in pip's configuration",
        ),
        (r"DO NOT MATCH THE HASHES", "A downloaded file is damaged: try again"),
        (r"Permission denied|Errno 13\b|Access is denied", f"{folder} cannot be written"),
    ):
        if re.search(pattern, output):
            return words
    if missing:
        python = ".".join(map(str, sys.version_info[:2]))
        return f"{missing[1]} is not to be had for this computer and Python {python} from the package index in use"
    return f"The server could not be installed: {last[-1].removeprefix('ERROR:').strip()[:200]}"


def _pip(environment: Path) -> list[str]:
    return [*_python(environment), "-m", "pip"]


def _python(environment: Path) -> list[str]:
    """Isolated: what Blender or the user set for another Python means nothing here."""
    return [str(_interpreter(environment)), "-I", "-X", "utf8"]


def _interpreter(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _site_packages(environment: Path) -> Path:
    found = [environment / "Lib" / "site-packages", *environment.glob("lib/python3*/site-packages")]
    return next(path for path in reversed(found))


def _pip_version(environment: Path) -> tuple[int, ...]:
    for folder in _site_packages(environment).glob("pip-*.dist-info"):
        return tuple(int(number) for number in re.findall(r"\d+", folder.name.removesuffix(".dist-info"))[:2])
    return (0,)


def _works(environment: Path) -> bool:
    return _interpreter(environment).exists() and _pip_version(environment) > (0,)


def _torch_of(wheel: Path) -> str:
    """The torch that the server asks for, as in `torch==2.13.0`."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode("utf-8").splitlines()
    return next(line.partition(":")[2].strip() for line in lines if re.match(r"Requires-Dist: torch\b", line))


def _requirement(torch: str) -> str:
    return f"torch @ {torch}"


def _package(url: str, name: str, version: str, *, size: int | None) -> Package:
    path = _local_path(url)
    if path is not None:
        return Package(name, version, path.name, size, str(path.parent), local=True)
    parts = urlsplit(url)
    return Package(name, version, unquote(parts.path).rpartition("/")[2], size, parts.hostname or "", local=False)


def _is_ours(package: Package) -> bool:
    return package.name.lower().replace("_", "-") == "medm-server"


def _local_path(url: str) -> Path | None:
    return Path(url2pathname(urlsplit(url).path)) if url.startswith("file:") else None


# -- processes and files -----------------------------------------------------------------------------------------------


def _quietly() -> dict[str, Any]:
    """Without a console window that flashes up on Windows."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW}
    return {}


def _start(command: Sequence[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
    apart: dict[str, Any] = {"start_new_session": True} if sys.platform != "win32" else _quietly()
    return subprocess.Popen(list(command), env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **apart)


def _lines(process: subprocess.Popen[bytes]) -> Generator[str | None, None, None]:
    """What the process says, and None at least every tenth of a second."""
    said: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        with contextlib.suppress(OSError, ValueError):  # closed under it, when the process was killed
            for line in process.stdout:
                said.put(line.decode("utf-8", "replace").rstrip())
        said.put(None)

    threading.Thread(target=read, name="medm-install", daemon=True).start()
    while True:
        try:
            line = said.get(timeout=_POLL)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all it has started."""
    if process.poll() is None:
        if sys.platform == "win32":
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False, **_quietly())
            process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _scaled(steps: Generator[Progress, None, Any], start: float, end: float) -> Generator[Progress, None, Any]:
    """The same steps as a part, from `start` to `end`, of longer work; words that are empty are the last ones again."""
    words = ""
    try:
        while True:
            try:
                share, new = next(steps)
            except StopIteration as stop:
                return stop.value
            words = new or words
            yield start + share * (end - start), words
    finally:
        steps.close()


def _waited(lines: Generator[str | None, None, None], share: float) -> Generator[Progress, None, None]:
    for _ in lines:
        yield share, ""


def _remove(folder: Path) -> None:
    """As far as it goes: on Windows a running program's files stay."""
    shutil.rmtree(folder, ignore_errors=True)


def _number(environment: Path) -> int:
    digits = environment.name.removeprefix("env-")
    return int(digits) if digits.isdecimal() else 0


def _long_paths_allowed() -> bool:
    """Whether this Windows takes paths longer than 260 characters."""
    if sys.platform == "win32":
        import winreg

        with (
            contextlib.suppress(OSError),
            winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key,
        ):
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
    return False


def in_words(size: float) -> str:
    """Bytes as `1.4 GB`, `270 MB` or `12 kB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}" if size < 10 * unit else f"{size / unit:.0f} {name}"
    return f"{size / 1e3:.0f} kB"

"""Installing the server: real environments and a real pip, on tiny packages from an index of our own; in the end once the real thing."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from extension_package import plain_python
from medm_blender import client, install, local_server
from medm_blender.install import Gpu, Installation, InstallError, choose_torch, explain, parse_gpu
from medm_blender.local_server import Target
from package_index import Index, server_wheel, wheel

ROOT = Path(__file__).resolve().parents[2]
TORCH_SIZE = 2_000_000
NEW_PIP = install._PIP


def run(steps):
    """(value, all that was said)."""
    said = []
    while True:
        try:
            said.append(next(steps))
        except StopIteration as stop:
            return stop.value, said


@pytest.fixture(scope="module", autouse=True)
def a_python_that_makes_environments():
    """Inside the application `sys.executable` only looks like a Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", plain_python())
        yield


@pytest.fixture(scope="module")
def new_pip(tmp_path_factory):
    """A folder with the wheel of a pip that plans without downloading, from wherever this machine's pip gets its packages."""
    folder = tmp_path_factory.mktemp("pip")
    command = [plain_python(), "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder), "pip>=25.3"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("there is no package index to get a pip from")
    return folder


@pytest.fixture
def index(new_pip, tmp_path, monkeypatch):
    """The only index there is, with the packages of a tiny server in it; nothing of this machine's pip configuration counts.

    The pip that Python brings will do for most of these tests: it is seconds quicker than fetching a new one.
    """
    monkeypatch.setattr(install, "_PIP", "0")
    folder = tmp_path / "index"
    folder.mkdir()
    for file in new_pip.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    wheel(folder, "torch", "2.0", size=TORCH_SIZE)
    wheel(folder, "diffusers", "1.2")
    served = Index(folder)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", served.url)
    monkeypatch.setenv("PIP_TRUSTED_HOST", urlsplit(served.url).netloc)  # else pip keeps nothing that came over http
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "cache"))
    yield served
    served.close()


@pytest.fixture
def installation(index, tmp_path):
    """In a folder as an artist may have it."""
    return Installation(tmp_path / "Anna Müller 映画" / "medm", server_wheel(tmp_path))


def plan_of(installation):
    """From PyPI, which here is the index above."""
    return run(installation.plan("PYPI"))[0]


@pytest.fixture
def installed(installed_once, installation):
    """The same, with a server of version 0.1.0 installed."""
    shutil.copytree(installed_once, installation.folder, symlinks=True)
    return installation


@pytest.fixture(scope="module")
def installed_once(new_pip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    packages = folder / "packages"
    packages.mkdir()
    wheel(packages, "torch", "2.0")
    wheel(packages, "diffusers", "1.2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(install, "_PIP", "0")
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(packages))
        run(Installation(folder / "medm", server_wheel(folder)).install(torch_source="PYPI"))
    return folder / "medm"


def test_a_plan_says_what_would_be_downloaded_and_downloads_nothing_of_it(index, installation, monkeypatch):
    monkeypatch.setattr(install, "_PIP", NEW_PIP)
    plan, said = run(installation.plan("PYPI"))
    found = {(package.name.replace("_", "-"), package.version) for package in plan.packages}
    assert found == {("medm-server", "0.1.0"), ("torch", "2.0"), ("diffusers", "1.2")}
    sizes = sum((index.folder / file).stat().st_size for file in ("torch-2.0-py3-none-any.whl", "diffusers-1.2-py3-none-any.whl"))
    assert plan.bytes == sizes
    assert plan.disk > sizes
    assert plan.words() == "3 packages, 2.0 MB to download, from 127.0.0.1"
    assert not [file for file in index.downloads() if not file.startswith("pip-")]
    assert installation.python is None
    assert all(0.0 <= share <= 1.0 and words for share, words in said)
    assert [share for share, _ in said] == sorted(share for share, _ in said)


def test_installing_what_was_planned(index, installation):
    plan = plan_of(installation)
    version, said = run(installation.install(plan))
    assert version == installation.installed_version() == "0.1.0"
    answer = subprocess.run(
        [str(installation.python), "-I", "-c", "import medm, torch; print(medm.__file__)"], capture_output=True, text=True
    )
    assert Path(answer.stdout.strip()).is_relative_to(installation.folder)
    assert {"diffusers-1.2-py3-none-any.whl", "torch-2.0-py3-none-any.whl"} == set(index.downloads())
    shares = [share for share, _ in said]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert any(words.startswith("Downloading torch 2.0 (2.0 MB)") for _, words in said)


def test_what_is_installed_is_what_was_planned_though_the_index_has_news(index, installation):
    plan = plan_of(installation)
    wheel(index.folder, "diffusers", "1.3")
    run(installation.install(plan))
    assert list(installation.folder.glob("env-*/lib/python*/site-packages/diffusers-1.2.dist-info"))


def test_without_a_plan_it_plans_itself_and_again_takes_from_the_cache(index, installation):
    assert run(installation.install(torch_source="PYPI"))[0] == "0.1.0"
    index.asked.clear()
    run(installation.install(torch_source="PYPI"))
    assert index.downloads() == []


STAGES = [
    "Making an environment",
    "Fetching the installer",
    "Looking up",
    "Looking at the disk",
    "Downloading torch",
    "Unpacking",
    "Trying",
]


def test_cancelled_at_any_stage_the_old_one_stays_and_nothing_runs_on(index, installed, tmp_path, monkeypatch):
    python = installed.python
    newer = Installation(installed.folder, server_wheel(tmp_path, "0.2.0"))
    index.delay = 0.02
    for stage in STAGES:
        monkeypatch.setattr(install, "_PIP", NEW_PIP if stage.startswith("Fetching") else "0")
        steps = newer.install(torch_source="PYPI")
        assert any(words.startswith(stage) for _, words in steps), stage
        started = time.monotonic()
        steps.close()
        assert time.monotonic() - started < 2.0
        assert processes_in(installed.folder) == []
        assert installed.python == python
        assert installed.installed_version() == "0.1.0"
        assert [path.name for path in installed.folder.glob("env-*")] == [python.parent.parent.name]
    assert run(newer.install(torch_source="PYPI"))[0] == "0.2.0" == newer.installed_version()


def processes_in(folder):
    """The command lines of all processes that mention a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in command and process.name != str(os.getpid()):
                found.append(command)
    return found


def test_an_update_leaves_the_old_environment_until_it_is_tidied(installed, tmp_path):
    """A server may be running from it."""
    old = installed.python
    newer = Installation(installed.folder, server_wheel(tmp_path, "0.2.0"))
    run(newer.install(torch_source="PYPI"))
    assert old.exists()
    assert newer.python != old
    newer.tidy()
    assert not old.exists()
    assert newer.installed_version() == "0.2.0"
    newer.remove()
    assert newer.python is None
    assert not list(installed.folder.glob("env-*"))


@pytest.mark.parametrize("damage", ["no packages", "no interpreter", "no Blender", "no pointer", "half a pointer"])
def test_a_broken_one_is_made_anew(installed, damage):
    environment = installed.python.parent.parent
    if damage == "no packages":
        for file in environment.glob("lib/python*/site-packages/medm/*.py"):
            file.unlink()
    elif damage == "no interpreter":
        installed.python.unlink()
    elif damage == "no Blender":
        configuration = environment / "pyvenv.cfg"
        configuration.write_text(re.sub(r"home = .*", "home = /opt/a blender that is gone/bin", configuration.read_text()))
    elif damage == "no pointer":
        (installed.folder / "current.json").unlink()
    else:
        (installed.folder / "current.json").write_text('{"environ')
    if damage != "no packages":  # that, the server says when it is started
        assert installed.python is None
        assert installed.installed_version() is None
    if damage not in ("no packages", "half a pointer"):  # the others are the same to the installation
        return
    run(installed.install(torch_source="PYPI"))
    assert subprocess.run([str(installed.python), "-I", "-c", "import medm.cli"], check=False).returncode == 0


def test_two_at_once(index, installation):
    index.delay = 0.05
    first = installation.install(torch_source="PYPI")
    next(first)
    other = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; from medm_blender.install import Installation\n"
    other += f"next(Installation(Path({str(installation.folder)!r}), Path({str(installation.wheel)!r})).install())"
    ended = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
    assert "is being installed by another Blender" in ended.stderr
    with pytest.raises(InstallError, match="another Blender"):
        run(Installation(installation.folder, installation.wheel).plan("PYPI"))
    index.delay = 0.0
    assert run(first)[0] == "0.1.0"


def test_pytorchs_own_index_is_asked_for_torch_alone(index, installation, tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    wheel(own, "torch", "2.0+cpu", size=1000)
    wheel(own, "diffusers", "9.9")  # never from there
    served = Index(own)
    monkeypatch.setattr(install, "choose_torch", lambda *_: (served.url, ""))
    try:
        plan, _ = run(installation.plan())
        assert plan.notes == ()
        assert {(package.name, package.version) for package in plan.packages if package.name in ("torch", "diffusers")} == {
            ("torch", "2.0+cpu"),
            ("diffusers", "1.2"),
        }
        run(installation.install(plan))
        assert list(installation.folder.glob("env-*/lib/python*/site-packages/torch-2.0+cpu.dist-info"))
    finally:
        served.close()


def test_where_pytorchs_own_index_cannot_be_reached_it_is_said(installation, monkeypatch):
    monkeypatch.setattr(install, "TORCH_INDEX", "http://127.0.0.1:9")
    plan, _ = run(installation.plan("CPU"))
    assert plan.notes == ("PyTorch's own index cannot be reached, so torch comes from PyPI: larger than this computer needs",)
    assert plan.torch is None
    assert "torch" in {package.name for package in plan.packages}


def test_no_network(index, installation, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(
        InstallError, match=r"^127\.0\.0\.1 cannot be reached: check the network and try again; what was downloaded is kept$"
    ):
        plan_of(installation)
    assert not list(installation.folder.glob("env-*"))


def test_a_package_that_is_not_to_be_had(index, installation):
    (index.folder / "diffusers-1.2-py3-none-any.whl").unlink()
    with pytest.raises(InstallError, match=r"^diffusers is not to be had for this computer and Python"):
        plan_of(installation)


def test_an_index_that_is_lost_half_way(index, installation, tmp_path, monkeypatch):
    plan = plan_of(installation)
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "empty"))  # an old pip downloads for a plan, and would need no index any more
    index.lost_at = "torch"
    with pytest.raises(InstallError, match="cannot be reached"):
        run(installation.install(plan))
    assert installation.python is None


def test_too_little_disk_space_is_said_before(index, installation, monkeypatch):
    plan = plan_of(installation)
    monkeypatch.setattr(install.shutil, "disk_usage", lambda _: install.shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    index.asked.clear()
    with pytest.raises(InstallError, match=r"^The server needs 1\d MB of disk space and only 1\.0 MB are free in "):
        run(installation.install(plan))
    assert index.asked == []


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can make a small disk")
def test_a_disk_that_fills_up_meanwhile(index, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150m", "medm", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("this machine may not mount")
    try:
        installation = Installation(disk / "medm", server_wheel(tmp_path))
        plan = plan_of(installation)
        monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "empty"))  # an old pip downloads for a plan
        index.delay = 0.2  # seconds to fill the disk in, before pip comes to unpacking
        steps = installation.install(plan)
        with pytest.raises(InstallError, match=r"^The disk is full: free some space for "):
            for _, words in steps:
                if words.startswith("Downloading"):
                    filler = disk / "filler"
                    with contextlib.suppress(OSError), filler.open("wb") as file:
                        while True:
                            file.write(bytes(1 << 16))
                    break
            run(steps)
        assert installation.python is None
        filler.unlink()
        index.delay = 0.0
        assert run(installation.install(torch_source="PYPI"))[0] == "0.1.0"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InstallError, match=r"cannot be written"):
        run(Installation(tmp_path / "file" / "medm", server_wheel(tmp_path)).plan())


def test_an_add_on_without_a_server(tmp_path):
    with pytest.raises(InstallError, match="carries no server"):
        run(Installation(tmp_path / "medm", None).plan())


def test_a_python_that_cannot_make_environments(tmp_path):
    poor = tmp_path / "python"
    poor.write_text("#!/bin/sh\necho \"/usr/bin/python: No module named 'ensurepip'\" >&2\nexit 1\n")
    poor.chmod(0o755)
    with pytest.raises(InstallError, match=r"^This Blender's Python cannot make environments: use Blender from blender.org"):
        run(Installation(tmp_path / "medm", server_wheel(tmp_path), poor).plan())


# -- without a process -------------------------------------------------------------------------------------------------

RTX, OLD_DRIVER, PASCAL, ANCIENT = Gpu("RTX 4090", 591, 8.9), Gpu("RTX 2080", 535, 7.5), Gpu("GTX 1080", 581, 6.1), Gpu("GTX 680", 470, 3.0)


@pytest.mark.parametrize(
    ("source", "platform", "gpu", "index", "said"),
    [
        ("AUTO", "linux", RTX, None, ""),
        ("AUTO", "win32", RTX, "cu130", ""),
        ("AUTO", "darwin", None, None, ""),
        ("AUTO", "linux", None, "cpu", "No NVIDIA GPU was found"),
        ("AUTO", "win32", None, None, "No NVIDIA GPU was found"),
        ("AUTO", "linux", OLD_DRIVER, "cu126", ""),
        ("AUTO", "win32", PASCAL, "cu126", ""),
        ("AUTO", "win32", ANCIENT, None, "it is too old"),
        ("AUTO", "linux", Gpu("RTX 2080", 470, 7.5), "cpu", "its driver is too old: update it"),
        ("PYPI", "win32", RTX, None, ""),
        ("CU126", "linux", RTX, "cu126", ""),
        ("CPU", "win32", RTX, "cpu", ""),
    ],
)
def test_where_torch_comes_from(source, platform, gpu, index, said):
    found, note = choose_torch(source, platform, gpu)
    assert found == (f"https://download.pytorch.org/whl/{index}" if index else None)
    assert said in note
    assert bool(said) == bool(note)


def test_reading_what_the_driver_says():
    assert parse_gpu("NVIDIA GeForce RTX 4090, 591.44, 8.9\nNVIDIA GeForce GTX 1080, 591.44, 6.1\n") == Gpu(
        "NVIDIA GeForce RTX 4090", 591, 8.9
    )
    assert parse_gpu("No devices were found\n") is None
    assert parse_gpu("") is None


RETRYING = "WARNING: Retrying (Retry(total=0)) after connection broken by "
REFUSALS = {  # what pip really said, shortened
    "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device": "The disk is full",
    RETRYING + "'ProxyError('Unable to connect to proxy', OSError('Tunnel connection failed: 407 Proxy Authentication Required'))'"
    ": /simple/torch/\nERROR: No matching distribution found for torch==2.13.0": "The proxy does not let pip through",
    RETRYING + "'SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))': /simple/torch/": "The certificate of",
    RETRYING + "'NameResolutionError(\"HTTPSConnection(host='pypi.org', port=443): Failed to resolve 'pypi.org'\")': /simple/torch/\n"
    "ERROR: No matching distribution found for torch": "pypi.org cannot be reached",
    "ERROR: HTTP error 403 while getting https://user:secret@mirror.studio/torch.whl": "mirror.studio refuses access",
    "ERROR: No matching distribution found for torch==2.13.0": "torch==2.13.0 is not to be had",
    "": "The server could not be installed",
}


@pytest.mark.parametrize("output", REFUSALS)
def test_errors_in_one_line(output):
    line = explain(output, Path("/home/anna"))
    assert line.startswith(REFUSALS[output])
    assert "\n" not in line
    assert "secret" not in line


# -- the real thing ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_server_is_installed_and_answers(server_python, built_extension, tmp_path):
    """From the zip's own wheel, with this machine's pip configuration and cache, by the Python that the server's environment has."""
    installation = Installation(tmp_path / "Anna Müller" / "medm", built_extension.wheel, server_python)
    try:
        plan, _ = run(installation.plan())
    except InstallError as error:
        pytest.skip(f"no package index: {error}")
    assert {"torch", "diffusers", "starlette", "numpy"} <= {package.name for package in plan.packages}
    assert all(package.size for package in plan.packages)
    assert run(installation.install(plan))[0] == client.VERSION
    target = Target("local", python=installation.python, store=tmp_path / "store")
    try:
        assert local_server.connect(target).health()["version"] == client.VERSION
    finally:
        local_server.release()
        local_server.stop(target.store)
    used = sum(file.stat().st_size for file in installation.folder.rglob("*") if file.is_file() and not file.is_symlink())
    packed = sum(package.size or 0 for package in plan.packages)
    assert used < plan.disk - packed * 0.9, "the disk space that it says it takes is too little"
    installation.remove()
    assert [path.name for path in installation.folder.iterdir()] == ["lock"]

"""The extension as people get it: built once for the tests, from a copy of the sources, and installed into user folders of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import bpy

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Built:
    """What `bootstrap.py build` made."""

    dist: Path

    @property
    def zip(self):
        (found,) = self.dist.glob("medm_blender-*.zip")
        return found

    @property
    def wheel(self):
        """The server's wheel in it, unpacked beside."""
        folder = self.dist.parent / "unpacked"
        if not folder.exists():
            shutil.unpack_archive(self.zip, folder)
        (found,) = (folder / "server").glob("*.whl")
        return found


def plain_python():
    """A Python that is not Blender's: inside the application `sys.executable` only looks like one."""
    if bpy.app.module:
        return sys.executable
    return str(ROOT / (".venv/Scripts/python.exe" if os.name == "nt" else ".venv/bin/python"))


def copy_sources(folder):
    """The project as git would give it, without what was made in it; the environments that bootstrap.py makes are borrowed."""
    folder.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "runs")
    for name in ("medm_blender", "server/medm"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in ("bootstrap.py", "blender_manifest.toml", "LICENSE", "server/pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for environment in ROOT.glob(".venv-bpy*"):
        (folder / environment.name).symlink_to(environment)
    return folder


def build(sources, **environ):
    """Runs `bootstrap.py build`, which wants a plain Python; the process, with what it said."""
    command = [plain_python(), str(sources / "bootstrap.py"), "build"]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)


def in_blender(user_folder, script, *arguments):
    """Runs a script in this Blender's module, with a user folder of its own; (what it said, what it said on stderr)."""
    ending = "\nimport sys, os; sys.stdout.flush(); sys.stderr.flush(); os._exit(0)  # the 4.5 module may hang at exit"
    ended = subprocess.run(
        [sys.executable, "-c", script + ending, *map(str, arguments)],
        env={**os.environ, "BLENDER_USER_RESOURCES": str(user_folder), "XDG_DATA_HOME": str(user_folder / "data")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=user_folder,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout, ended.stderr

"""Installs the MeDM server into a folder of its own. Standard library only; knows nothing of Blender.

The skeleton of the interface: filled in the next commits.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path


class InstallError(Exception):
    """What keeps the server from being installed; `str()` is one line for the user."""


@dataclass(frozen=True)
class Package:
    """One package that would be installed: `size` is in bytes, None where it could not be found out; `source` is a host or a folder."""

    name: str
    version: str
    size: int | None
    source: str


@dataclass(frozen=True)
class Plan:
    """What an installation would download: found out before anything of it is."""

    packages: tuple[Package, ...]
    folder: Path

    @property
    def bytes(self) -> int:
        """How much would be downloaded, as far as it could be found out."""
        return sum(package.size or 0 for package in self.packages)

    @property
    def sources(self) -> tuple[str, ...]:
        """Where from."""
        return tuple(sorted({package.source for package in self.packages}))


class Installation:
    """A server in `folder`, installed from `wheel` (None: this copy of the add-on carries none)."""

    def __init__(self, folder: Path, wheel: Path | None) -> None:
        self.folder, self.wheel = folder, wheel

    @property
    def python(self) -> Path | None:
        """The interpreter of the installed server; None if it is not installed."""
        return None

    def installed_version(self) -> str | None:
        """The version of the installed server; None if it is not installed, or broken."""
        return None

    def plan(self) -> Generator[tuple[float, str], None, Plan]:
        """Yields (share done, words)."""
        yield 0.0, "looking"
        raise InstallError("not written yet")

    def install(self) -> Generator[tuple[float, str], None, str]:
        """Yields (share done, words); returns the version installed."""
        yield 0.0, "looking"
        raise InstallError("not written yet")

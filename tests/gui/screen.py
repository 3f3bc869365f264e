"""A screen of its own for a test: an X server without a monitor, clicks and keys as a hand makes them, and pictures of what is seen.

Xvfb, xdotool and import (ImageMagick) are taken from beside the Blender that BLENDER names, where `.ci/blender` puts them, or from
the PATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

SIZE = (1280, 1440)
PROGRAMS = ("Xvfb", "xdotool", "import")


def program(name: str) -> str | None:
    """The path of a program that the screen needs, or None where it is missing."""
    blender = shutil.which(os.environ.get("BLENDER", ""))
    beside = shutil.which(name, path=str(Path(blender).parent)) if blender else None
    return beside or shutil.which(name)


def missing() -> str | None:
    """What this machine lacks for tests of the window, in words, or None."""
    blender = os.environ.get("BLENDER")
    if not blender:
        return "BLENDER is not set: `BLENDER=$(.ci/blender)` finds or makes a Blender with a window"
    if shutil.which(blender) is None:
        return f"BLENDER={blender} cannot be run"
    absent = [name for name in PROGRAMS if program(name) is None]
    return f"{' and '.join(absent)} cannot be found" if absent else None


class Screen:
    """An X server for as long as a `with` block lasts. Places are pixels from the top left."""

    def __init__(self, size: tuple[int, int] = SIZE) -> None:
        self.size = size
        self.display = ""

    def __enter__(self) -> Screen:
        reader, writer = os.pipe()
        command = [str(program("Xvfb")), "-displayfd", str(writer), "-screen", "0", f"{self.size[0]}x{self.size[1]}x24"]
        command += ["-nolisten", "tcp", "-noreset", "+extension", "GLX"]
        self._process = subprocess.Popen(command, pass_fds=[writer], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(writer)
        with os.fdopen(reader) as answer:
            self.display = f":{answer.readline().strip()}"
        if self.display == ":":
            raise RuntimeError("Xvfb did not start")
        self.environment = {**os.environ, "DISPLAY": self.display}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def move(self, x: float, y: float) -> None:
        self._xdotool("mousemove", round(x), round(y))

    def click(self, x: float, y: float, button: int = 1) -> None:
        """One click there. Blender wants to see the mouse arrive before the button goes down."""
        self.move(x, y)
        self._xdotool("sleep", 0.15, "mousedown", button, "sleep", 0.05, "mouseup", button, "sleep", 0.15)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.move(*start)
        self._xdotool("sleep", 0.1, "mousedown", 1, "sleep", 0.05, "mousemove", *map(round, end), "sleep", 0.1, "mouseup", 1)

    def scroll(self, x: float, y: float, clicks: int) -> None:
        """Turns the wheel there: down for positive `clicks`."""
        self.move(x, y)
        self._xdotool("click", "--repeat", abs(clicks), "--delay", 40, 5 if clicks > 0 else 4)

    def key(self, *names: str) -> None:
        """Keys as xdotool names them: "Escape", "ctrl+z"."""
        for name in names:
            self._xdotool("key", name)

    def type(self, text: str) -> None:
        self._xdotool("type", "--delay", 15, text)

    def picture(self, file: Path, region: tuple[int, int, int, int] | None = None) -> Path:
        """What is on the screen, as a PNG. region: left, top, width, height."""
        file.parent.mkdir(parents=True, exist_ok=True)
        crop = ["-crop", "{2}x{3}+{0}+{1}".format(*region), "+repage"] if region else []
        command = [str(program("import")), "-window", "root", *crop, str(file)]
        subprocess.run(command, env=self.environment, check=True, timeout=30, capture_output=True)
        return file

    def _xdotool(self, *arguments: object) -> None:
        command = [str(program("xdotool")), *map(str, arguments)]
        subprocess.run(command, env=self.environment, check=True, timeout=30, capture_output=True)

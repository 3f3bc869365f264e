"""A real Blender window under a test's hands: started with folders of its own, driven by scripts and clicks, watched, and ended in time."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import textwrap
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from screen import Screen

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = "bl_ext.user_default.medm_blender"
START_TIMEOUT = 90.0
NOT_OURS = re.compile(
    r"WARN.*(XDG|xdg|dbus|pipewire|ALSA|jack|GHOST|wayland)|libEGL|MESA|libdecor|ALSA|pa_context|AL lib|Color management|OCIO|gpu\.|"
    r"XRandR|X Error|unsupported GPU|BLF|Unable to find.*font|^$|^00:|^\s*Warning: .*GPU|Could not find.*cursor|UDisks|pulse",
)
"""Lines on stderr that a Blender on a screen without hardware prints by itself."""


_FIND = """
    window = bpy.context.window_manager.windows[{window}]
    areas = [area for area in window.screen.areas if area.type == {area!r}]
    area = max(areas, key=lambda area: area.width * area.height)
    region = next(region for region in area.regions if region.type == {region!r})
    manager, ui = bpy.context.window_manager, bpy.ops.ui
    for share in (0.8, 0.3, 0.55, 0.92, 0.1):
        x = region.x + int(region.width * share)
        for y in range(region.y + region.height - 6, region.y + 3, -11):
            window.cursor_warp(x, y)
            yield 0.05
            with bpy.context.temp_override(window=window, area=area, region=region):
                if ui.copy_python_command_button.poll():
                    ui.copy_python_command_button()
                elif ui.copy_data_path_button.poll():
                    ui.copy_data_path_button(full_path=True)
                else:
                    continue
            if {what!r} in manager.clipboard:
                return x, window.height - y
    return None
"""


class BlenderError(AssertionError):
    """A script inside Blender failed; its traceback."""


def install_tree(resources: Path) -> None:
    """Puts the extension into a user's folder as the builder would pack it, straight from the tree."""
    package = resources / "extensions/user_default/medm_blender"
    shutil.copytree(ROOT / "medm_blender", package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("blender_manifest.toml", "LICENSE"):
        shutil.copy(ROOT / file, package)


def run_blender(resources: Path, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Blender without a window, with the user's folder `resources`."""
    command = [os.environ["BLENDER"], "-b", *arguments]
    return subprocess.run(command, env=environment(resources), capture_output=True, text=True, timeout=timeout, check=False)


def environment(resources: Path) -> dict[str, str]:
    """Of a Blender whose user has nothing but `resources`: preferences, extensions and data are in it, and nobody else's are touched."""
    resources.mkdir(parents=True, exist_ok=True)
    names = {"BLENDER_USER_RESOURCES": resources, "XDG_CACHE_HOME": resources / "cache", "XDG_DATA_HOME": resources / "share"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "OMP_NUM_THREADS": "1", **{name: str(path) for name, path in names.items()}}


def prepare(resources: Path, code: str = "") -> None:
    """Saves preferences in which the extension, installed already, is enabled, the splash screen is off, and what `code` does holds."""
    script = f"""
        import addon_utils, bpy
        addon_utils.modules_refresh()
        assert addon_utils.enable({EXTENSION!r}, default_set=True, persistent=True), "the extension cannot be enabled"
        bpy.context.preferences.view.show_splash = False
        bpy.context.preferences.view.show_developer_ui = True
    """
    done = run_blender(
        resources,
        "--python-exit-code",
        "1",
        "--python-expr",
        textwrap.dedent(script) + textwrap.dedent(code) + "\nbpy.ops.wm.save_userpref()\n",
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Window:
    """A Blender in `screen` for as long as a `with` block lasts. At its end it is asked to quit, and killed if it does not.

    resources: the user's folder. blend: the file to open. folder: for what is passed between the test and Blender.
    """

    def __init__(self, screen: Screen, resources: Path, folder: Path, blend: Path | None = None, arguments: tuple[str, ...] = ()) -> None:
        self.screen, self.resources, self.folder, self.blend, self.arguments = screen, resources, folder, blend, arguments
        self._number = 0
        self.stderr = ""

    def __enter__(self) -> Window:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and self.process.poll() is None:
            self.screen.picture(self.folder / "failed.png")
            print(f"the screen as it was: {self.folder / 'failed.png'}\n{self.log()}")
        self.kill() if error is not None else self.quit()

    def start(self) -> None:
        """Starts Blender and waits until its window is drawn."""
        shutil.rmtree(self.folder / "scripts", ignore_errors=True)
        self.scripts = self.folder / "scripts"
        self.scripts.mkdir(parents=True)
        width, height = self.screen.size
        command = [os.environ["BLENDER"], "--gpu-backend", "opengl", "--window-geometry", "0", "0", str(width), str(height)]
        command += [*self.arguments, *([str(self.blend)] if self.blend else [])]
        command += ["--python", str(Path(__file__).with_name("agent.py")), "--", str(self.scripts)]
        self._log = self.folder / "blender.log"
        self._errors = self.folder / "blender.err"
        with self._log.open("w") as log, self._errors.open("w") as errors:
            variables = {**environment(self.resources), "DISPLAY": self.screen.display}
            self.process = subprocess.Popen(command, env=variables, stdout=log, stderr=errors, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT
        while not (self.scripts / "ready").exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"Blender did not start:\n{self.log()}")
            time.sleep(0.05)
        self.pid = int((self.scripts / "ready").read_text())
        self.do("yield 1.0")  # until the first drawing is done

    # -- scripts -------------------------------------------------------------------------------------------------------

    def do(self, code: str, timeout: float = 60) -> Any:
        """Runs the body of a function in Blender's main thread; what it returns, as JSON can hold it. See agent.py for what it may use."""
        return self.result(self.begin(code), timeout)

    def begin(self, code: str) -> Path:
        """Has it run, and returns at once; for `result`."""
        self._number += 1
        script = self.scripts / f"{self._number:05}.part"
        script.write_text("def main():\n" + textwrap.indent(textwrap.dedent(code), "    "), encoding="utf-8")
        script.rename(script.with_suffix(".py"))
        return script.with_suffix(".json")

    def result(self, answer: Path, timeout: float = 60) -> Any:
        """What a script that was begun returns."""
        deadline = time.monotonic() + timeout
        while not answer.exists():
            if self.process.poll() is not None:
                raise AssertionError(f"Blender ended with {self.process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"Blender did not answer within {timeout} s\n{self.log()}")
            time.sleep(0.02)
        said = json.loads(answer.read_text(encoding="utf-8"))
        if said["error"]:
            raise BlenderError(said["error"])
        return said["result"]

    def get(self, expression: str) -> Any:
        """The value of an expression in Blender."""
        return self.do(f"return {expression}")

    def wait(self, expression: str, timeout: float = 60) -> Any:
        """Waits until an expression is true in Blender, and returns its value."""
        deadline = time.monotonic() + timeout
        while not (value := self.get(expression)):
            assert time.monotonic() < deadline, f"not within {timeout} s: {expression}\n{self.log()}"
            time.sleep(0.1)
        return value

    def longest_gap(self) -> float:
        """Seconds that the window stood still at most since the last call."""
        return float(self.do("gap, beat['gap'] = beat['gap'], 0.0\nreturn gap"))

    # -- what is where -------------------------------------------------------------------------------------------------

    def show_properties(self, tab: str = "RENDER", full: bool = True) -> None:
        """Shows the Properties editor's tab; full: where the 3D view is, as large as that."""
        self.do(
            f"""
            areas = bpy.context.window_manager.windows[0].screen.areas
            if {full}:
                area = max(areas, key=lambda area: area.width * area.height)
                area.type = "PROPERTIES"
            else:
                area = next(area for area in areas if area.type == "PROPERTIES")
            yield 0.3
            area.spaces.active.context = {tab!r}
            area.tag_redraw()
            yield 0.5
            """
        )

    def find(self, what: str, area: str = "PROPERTIES", region: str = "WINDOW", window: int = -1) -> tuple[int, int]:
        """Where a button is on the screen, found as a hand finds it: the mouse goes down the region until it is over the button.

        what: part of what Blender says of the button under the mouse, the operator with its arguments ("medm.render_take(") or the path
        of the property (".medm.prompt"). Of several areas of the type the largest is searched. Raises LookupError if it is not seen.
        """
        found = self.do(_FIND.format(area=area, region=region, window=window, what=what), timeout=180)
        if found is None:
            raise LookupError(f"no button {what} is seen in {area} {region}")
        return found[0], found[1]

    def click(self, what: str, area: str = "PROPERTIES", region: str = "WINDOW", window: int = -1) -> tuple[int, int]:
        """Clicks the button that `find` finds; returns where that was."""
        place = self.find(what, area, region, window)
        self.screen.click(*place)
        return place

    def area(self, kind: str) -> tuple[int, int, int, int]:
        """Left, top, width and height of the largest area of a type on the screen."""
        x, y, width, height = self.do(
            f"""
            window = bpy.context.window_manager.windows[0]
            areas = [area for area in window.screen.areas if area.type == {kind!r}]
            area = max(areas, key=lambda area: area.width * area.height)
            return area.x, window.height - area.y - area.height, area.width, area.height
            """
        )
        return x, y, width, height

    def picture(self, file: Path, kind: str | None = None) -> Path:
        """The screen, or the largest area of a type, as a PNG."""
        return self.screen.picture(file, self.area(kind) if kind else None)

    # -- the end -------------------------------------------------------------------------------------------------------

    def quit(self, timeout: float = 30) -> int:
        """Quits as the menu does, without saving; returns the exit code."""
        if self.process.poll() is None:
            self._number += 1
            script = self.scripts / f"{self._number:05}.py"
            script.write_text("def main():\n    with override():\n        bpy.ops.wm.quit_blender()\n")
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"Blender did not quit within {timeout} s\n{self.log()}") from None
        self.stderr = self._errors.read_text(errors="replace")
        return self.process.returncode

    def kill(self) -> None:
        """Ends Blender as a crash would."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self.stderr = self._errors.read_text(errors="replace")

    def log(self) -> str:
        """What Blender printed, both streams."""
        return "".join(
            f"--- {file.name}\n{file.read_text(errors='replace')[-4000:]}\n" for file in (self._log, self._errors) if file.exists()
        )

    def complaints(self) -> list[str]:
        """Lines on stderr that are not Blender's own on such a screen."""
        return [line for line in self._errors.read_text(errors="replace").splitlines() if not NOT_OURS.search(line)]


SERVER_PRESET = f"""
    import json, os
    from pathlib import Path
    from {EXTENSION} import preferences
    from {EXTENSION}.client import VERSION
    folder = preferences.installation().folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "env-1").exists():
        os.symlink({str(ROOT / ".venv")!r}, folder / "env-1", target_is_directory=True)
    (folder / "current.json").write_text(json.dumps({{"environment": "env-1", "version": VERSION}}))
"""
"""For `prepare`: the project's own environment stands for the installed server, so that a test downloads nothing."""


def demo_blend(file: Path, frames: int = 3, size: tuple[int, int] = (192, 112)) -> Path:
    """The demo's scene as a .blend that a user might have: made by Blender without the extension."""
    script = f"""
        import sys; sys.path.insert(0, {str(ROOT)!r})
        import bpy
        from medm_blender import demo_scene
        bpy.ops.wm.read_factory_settings(use_empty=True)
        empty = bpy.context.scene
        demo_scene.build(frames={frames}, size={size})
        bpy.data.scenes.remove(empty)
        bpy.ops.wm.save_as_mainfile(filepath={str(file)!r}, check_existing=False)
    """
    done = run_blender(file.parent / "nobody", "--factory-startup", "--python-exit-code", "1", "--python-expr", textwrap.dedent(script))
    assert done.returncode == 0 and file.exists(), done.stdout + done.stderr
    return file

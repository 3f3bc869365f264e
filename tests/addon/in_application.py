"""Runs pytest inside a Blender application: `blender -b --factory-startup --python tests/addon/in_application.py -- TOOLS [ARG ...]`.

TOOLS is a folder with pytest and its company, made by `bootstrap.py test`; nothing is installed into Blender. The arguments go to pytest.

Tests that start `sys.executable` want a Python with bpy, which an application does not have. They get one: a script that runs this
file in another Blender, as `-- python -c CODE ARG ...` or `-- python -m MODULE ARG ...`.
"""

import os
import runpy
import shlex
import sys
import tempfile
from pathlib import Path

import bpy

ROOT = Path(__file__).resolve().parents[2]


def run_tests(tools, *arguments):
    sys.path.append(tools)
    sys.argv[1:] = arguments
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        if os.name == "posix":
            python = Path(folder) / "python"
            command = [
                bpy.app.binary_path,
                "-b",
                "--quiet",
                "--factory-startup",
                "--python-exit-code",
                "1",
                "--python",
                __file__,
                "--",
                "python",
            ]
            python.write_text(f'#!/bin/sh\nMEDM_TEST_TOOLS={shlex.quote(tools)} exec {shlex.join(command)} "$@"\n')
            python.chmod(0o755)
            sys.executable = str(python)

        import pytest

        return int(pytest.main(list(arguments)))


def run_as_python(option, what, *arguments):
    sys.path[:0] = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path.append(os.environ["MEDM_TEST_TOOLS"])
    sys.argv = [option, *arguments]
    try:
        if option == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


given = sys.argv[sys.argv.index("--") + 1 :]
code = run_as_python(*given[1:]) if given[0] == "python" else run_tests(*given)
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)

"""`python -m medm_blender [file.blend] COMMAND ...`: what `blender file.blend --command medm COMMAND ...` does, with the bpy module."""

from __future__ import annotations

import sys
from pathlib import Path

import bpy

from . import cli, compat


def main(arguments: list[str]) -> int:
    """Open the file, if one is given, and run the command on it; returns the exit code."""
    if arguments and arguments[0].endswith(".blend"):
        file = Path(arguments.pop(0)).absolute()
        if not file.is_file():
            print(f"medm: {file} does not exist", file=sys.stderr)
            return cli.BAD_INPUT
        try:
            bpy.ops.wm.open_mainfile(filepath=str(file))
        except RuntimeError as error:
            print(f"medm: {file} cannot be opened: {str(error).strip().splitlines()[0]}", file=sys.stderr)
            return cli.BAD_INPUT
    return cli.main(arguments, program="python -m medm_blender")


if __name__ == "__main__":
    compat.leave(main(sys.argv[1:]))

"""`python -m medm_blender [file.blend] COMMAND ...`: what `blender file.blend --command medm COMMAND ...` does, with the bpy module.

`batch` needs no bpy here: it starts a Blender for every shot.
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import batch

_PROGRAM = "python -m medm_blender"


def main(arguments: list[str]) -> int:
    """Open the file, if one is given, and run the command on it; returns the exit code."""
    from . import cli, settings

    import bpy  # isort: skip

    settings.register()  # before a file is opened: what its panel says is in it
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
    return cli.main(arguments, program=_PROGRAM)


if __name__ == "__main__":
    if sys.argv[1:2] == ["batch"]:
        sys.exit(batch.main(sys.argv[1:], _PROGRAM))
    from . import compat

    compat.leave(main(sys.argv[1:]))

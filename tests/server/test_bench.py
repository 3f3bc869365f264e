"""The benchmarks of painting run, on the smallest things that they can be run on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import synthetic

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "server/bench/diffusion"


def run(*command: object) -> list[list[str]]:
    """The rows of the tables that a script prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests/server"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("|")]


def test_levers(tmp_path):
    shot = synthetic.write_shot(tmp_path / "shot")
    rows = run(
        BENCH / "levers.py",
        shot,
        "--steps",
        4,
        "--only",
        "w = 0, noise by code",
        "--only",
        "paper",
        "--only",
        "the defaults",
        "-o",
        tmp_path,
    )
    names = [row[0] for row in rows[2:]]
    assert names == ["w = 0, noise by code", "the paper's setting", "+ deblurred: the defaults"]
    plain, _, defaults = (dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:])
    assert float(defaults["warping error"]) < 0.5 * float(plain["warping error"])
    assert plain["guidance adds"] == "0%" and plain["of w = 0"] == "1.000"
    assert len(list((tmp_path / "shot" / names[0] / "frames").glob("*.png"))) == 4


def test_speed():
    rows = run(BENCH / "speed.py", "--small")
    assert len(rows) == 8
    assert all(float(row[1]) > 0 for row in rows[2:])


def test_operations():
    tables = run(BENCH / "operations.py")
    factors = {row[0]: float(row[3]) for row in tables if len(row) == 4 and row[3][:1].isdigit()}
    assert factors["SD 1.5, 20 steps with CFG, the paper's round trip at 19 steps"] > 2
    assert factors["SD 1.5, 20 steps with CFG, defaults, tiny autoencoder"] < 1.15
    assert factors["SD 1.5, 4 steps without CFG, defaults, tiny autoencoder"] < 1.15
    assert factors["bundled, 20 steps, defaults"] < 1.25

"""bootstrap.py refuses in one line when something that it needs is missing."""

from __future__ import annotations

import shutil
import sys

import pytest

import bootstrap


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> bootstrap.Environment:
    """An environment of a project in an empty folder, that needs nothing from a registry."""
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    return bootstrap.Environment(".venv", (sys.version_info[:2],), ("pip",), (), 0.1)


def test_an_environment_is_made_once(elsewhere, capsys):
    bootstrap.ensure(elsewhere)
    assert "making .venv" in capsys.readouterr().out
    assert bootstrap.ensure(elsewhere).exists()
    assert capsys.readouterr().out == ""


def test_no_suitable_python(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "SERVER", bootstrap.Environment(".venv", ((3, 99),), ("pip",), (), 0.1))
    assert bootstrap.main(["serve"]) == 3
    assert (
        capsys.readouterr().err == "bootstrap.py: no Python 3.99 was found, which .venv needs; install it from python.org and try again\n"
    )


def test_no_disk_space(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "SERVER", elsewhere)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**7, 10**7))
    assert bootstrap.main(["serve"]) == 3
    assert "bootstrap.py: .venv needs up to 0.1 GB of disk space and only 0.0 GB are free in" in capsys.readouterr().err


def test_a_package_that_is_not_to_be_had(elsewhere, tmp_path):
    broken = bootstrap.Environment(".venv", (sys.version_info[:2],), (str(tmp_path / "absent.whl"),), (), 0.1)
    with pytest.raises(bootstrap.SetupError, match=r"\.venv could not be made: ERROR: .*absent\.whl"):
        bootstrap.ensure(broken)
    assert not (tmp_path / ".venv/medm-environment").exists()


def test_a_blender_that_is_not_there(monkeypatch):
    monkeypatch.setenv("BLENDER", "/nowhere/blender")
    with pytest.raises(bootstrap.SetupError, match="BLENDER=/nowhere/blender cannot be run"):
        bootstrap.blender_command("medm_blender.demo")

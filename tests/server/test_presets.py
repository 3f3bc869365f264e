"""What is said of a model before it is loaded: where it is, whether it is one."""

from dataclasses import replace

import pytest

from medm import presets
from medm.errors import BadInput, Unavailable
from medm.service.documents import check_model, models_there
from quick_server import write_quick_model


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """The bundled model in a folder of the test's own: whether it is installed does not matter."""
    preset = replace(presets.BUNDLED, folder=tmp_path / "bundled")
    monkeypatch.setattr(presets, "BUNDLED", preset)
    return preset


def test_the_bundled_model_is_taken_where_it_is(bundled, tmp_path):
    write_quick_model(bundled.folder)
    check_model("bundled", tmp_path / "models")
    assert presets.preset_of("bundled", tmp_path / "models") is bundled


def test_a_bundled_model_that_is_not_installed_is_unavailable_even_where_a_part_of_it_is_there(bundled, tmp_path):
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"the bundled model is missing from .*bundled; install medm-server anew") as caught:
            check_model("bundled", tmp_path / "models")
        assert "\n" not in str(caught.value)
        (bundled.folder / "tokenizer").mkdir(parents=True, exist_ok=True)


def test_a_folder_in_the_servers_models_cannot_pass_for_the_bundled_one(bundled, tmp_path):
    write_quick_model(tmp_path / "models" / "bundled")
    with pytest.raises(Unavailable, match="the bundled model is missing"):
        check_model("bundled", tmp_path / "models")


def test_names_are_folders_of_the_server_and_paths_are_none(tmp_path):
    write_quick_model(tmp_path / "models" / "mine")
    check_model("mine", tmp_path / "models")
    with pytest.raises(BadInput, match="names none"):
        check_model(str(tmp_path / "models" / "mine"), tmp_path / "models")
    assert [preset.name for preset in models_there(tmp_path / "models")] == ["bundled", "mine"]
    assert [preset.name for preset in models_there(tmp_path / "removed")] == ["bundled"]


def test_on_the_command_line_a_model_is_a_path(tmp_path):
    assert presets.preset_of(str(tmp_path / "mine")).folder == tmp_path / "mine"

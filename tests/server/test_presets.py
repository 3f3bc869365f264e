"""What is said of a model before it is loaded: where it is, whether it is one."""

import re
import typing
from dataclasses import replace

import pytest

from medm import presets
from medm.errors import BadInput, Unavailable
from medm.service.documents import check_model, check_names, model_document, models_there
from medm.settings import RenderSettings, Sampler
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


def test_a_server_offers_what_is_in_its_folder_presets_included(tmp_path):
    models = tmp_path / "models"
    write_quick_model(models / "mine")
    write_quick_model(models / "sd15")  # a preset's folder, but not its files
    (models / "loras").mkdir()
    (models / "notes.txt").write_text("not a model")
    assert [preset.name for preset in models_there(models)] == ["bundled", "mine"]
    with pytest.raises(Unavailable, match=r"sd15 is not whole; `medm models pull sd15 --models .*models` fetches it"):
        check_model("sd15", models)
    for preset in (presets.PRESETS["sd15"], presets.PRESETS["sd15-lcm"]):
        for source in preset.sources:
            for _, here in source.files:
                (models / "sd15" / here).parent.mkdir(parents=True, exist_ok=True)
                (models / "sd15" / here).write_text("{}")
    (models / "sd15/model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    check_model("sd15", models)
    assert [preset.name for preset in models_there(models)] == ["bundled", "sd15", "sd15-lcm", "mine"]
    document = model_document(presets.preset_of("sd15", models))
    assert (document["id"], document["licence"], document["size"], document["available"]) == ("sd15", "CreativeML OpenRAIL-M", 512, True)
    assert "break the law" in document["forbids"] and "depth" in document["kinds"]


def test_added_weights_are_files_of_the_server_and_paths_are_none(tmp_path):
    models = tmp_path / "models"
    for name in ("loras/look.safetensors", "embeddings/style.safetensors", "secret.safetensors"):
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).write_bytes(b"")
    check_names(RenderSettings(lora="look.safetensors:0.8, look.safetensors", embeddings="style.safetensors"), models)
    for name in (
        "../secret.safetensors",
        str(models / "secret.safetensors"),
        "..\\secret.safetensors",
        "~/look.safetensors",
        "./look.safetensors",
    ):
        for kind in ("lora", "embeddings"):
            with pytest.raises(BadInput, match="is none"):
                check_names(RenderSettings(**{kind: name}), models)
    with pytest.raises(BadInput, match=r"no \.safetensors file"):
        check_names(RenderSettings(lora="look.ckpt"), models)
    with pytest.raises(Unavailable, match=r"there is no other\.safetensors in"):
        check_names(RenderSettings(lora="other.safetensors"), models)


@pytest.mark.parametrize(
    ("text", "requests"),
    [
        ("none", []),
        ("lineart", [(("lineart",), 1.0)]),
        (" lineart@2:0.8 , normal-bae + depth : 0.5", [(("lineart@2",), 0.8), (("normal-bae", "depth"), 0.5)]),
    ],
)
def test_control_names_networks_their_images_and_weights(text, requests):
    assert [(request.kinds, request.weight) for request in presets.parse_control(text)] == requests


@pytest.mark.parametrize(
    "text", ["", "lineart,", "lineart:", "lineart:x", "lineart:3", "lineart;depth", "+depth", "none, lineart:-1", "../x"]
)
def test_control_that_is_written_otherwise_is_refused(text):
    with pytest.raises(BadInput, match="is not KIND, KIND:WEIGHT or"):
        presets.parse_control(text)


@pytest.mark.parametrize("preset", presets.PRESETS.values(), ids=lambda preset: preset.name)
def test_the_table_is_sound(preset):
    family = presets.FAMILIES[preset.family]
    targets = [here for source in (*preset.sources, *preset.reference) for _, here in source.files]
    assert len(targets) == len(set(targets))
    covered = {target.split("/")[0] for target in targets}
    assert set(family.parts) | {"model_index.json", "vae_tiny"} <= covered
    assert all(there.endswith(("*", ".json", ".safetensors", ".txt")) for source in preset.sources for there, _ in source.files)
    assert all(request.name in preset.kinds for request in presets.parse_control(preset.control))
    assert {name for name, _ in preset.loras} <= set(targets)
    assert {source.control for source in preset.sources if source.control} <= set(preset.kinds)
    assert preset.sampler in typing.get_args(Sampler)
    assert presets.PRESETS[family.companion].family == preset.family


def test_on_the_command_line_a_model_is_a_path(tmp_path):
    assert presets.preset_of(str(tmp_path / "mine")).folder == tmp_path / "mine"


def test_on_the_command_line_a_name_may_also_be_one_of_the_users_models(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDM_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    write_quick_model(tmp_path / "models" / "mine")
    assert presets.preset_of("mine").folder == tmp_path / "models" / "mine"
    write_quick_model(tmp_path / "mine")
    assert presets.preset_of("mine").folder.absolute() == tmp_path / "mine"
    assert presets.preset_of("sdxl").folder == tmp_path / "models" / "sdxl"


@pytest.mark.parametrize(
    ("name", "says"),
    [("sd51", "did you mean sd15?"), ("bundle", "did you mean bundled?"), ("flux", "give a diffusers folder")],
)
def test_a_name_that_is_nearly_a_presets_is_taken_for_a_slip(tmp_path, monkeypatch, name, says):
    monkeypatch.setenv("MEDM_MODELS", str(tmp_path))
    with pytest.raises(Unavailable, match=rf"there is no model in {name}; {re.escape(says)}"):
        presets.preset_of(name).check()

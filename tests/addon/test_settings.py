"""The scene's settings are those of the server: same names, ranges, defaults and words; there and back without loss."""

from __future__ import annotations

import json
import subprocess

import pytest

pytest.importorskip("bpy")

import bpy

import medm_blender
from medm_blender import passes, settings

pytestmark = pytest.mark.bpy


@pytest.fixture(autouse=True)
def registered(fresh):
    medm_blender.register()
    yield
    medm_blender.unregister()


@pytest.fixture
def scene(registered):
    return bpy.context.scene


@pytest.fixture(scope="session")
def schema(server_python):
    """What the server says of its settings."""
    code = "import json; from medm.settings import RenderSettings as R; print(json.dumps(R.model_json_schema()['properties']))"
    done = subprocess.run([server_python, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name: _flat(entry) for name, entry in json.loads(done.stdout).items()}


@pytest.fixture
def accepted(server_python):
    """Whether the server takes settings: what it made of them, or what it said."""

    def ask(given):
        code = "import json, sys; from medm.settings import RenderSettings as R; "
        code += "print(R.model_validate(json.loads(sys.argv[1])).model_dump_json())"
        done = subprocess.run([server_python, "-I", "-c", code, json.dumps(given)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask


def _flat(entry):
    """A setting that may be None, without that."""
    for option in entry.get("anyOf", ()):
        if option.get("type") != "null":
            return {**entry, **option}
    return entry


NULL_IS_0 = {"steps", "guidance_scale", "window"}


def test_defaults_are_the_servers(scene, schema, accepted):
    assert accepted(settings.take_settings(scene)) == accepted({})
    for name, called in settings._TO_SERVER.items():
        default = scene.medm.bl_rna.properties[name].default
        if schema[called].get("default") is not None and name not in (*settings._WORDS, "sampler"):
            assert default == pytest.approx(schema[called]["default"]), name


def test_ranges_are_the_servers(scene, schema):
    compared = 0
    for name, called in settings._TO_SERVER.items():
        prop, entry = scene.medm.bl_rna.properties[name], schema[called]
        if prop.type not in {"INT", "FLOAT"}:
            continue
        least = entry.get("minimum", entry.get("exclusiveMinimum"))
        if name in NULL_IS_0:
            assert prop.hard_min == 0
        elif "exclusiveMinimum" in entry:
            assert least < prop.hard_min <= least + 0.01
        else:
            assert prop.hard_min == pytest.approx(least), name
        if name == "seed":
            assert prop.hard_max == 2**31 - 1  # as much as Blender holds; larger ones go by `extra`
        else:
            assert prop.hard_max == pytest.approx(entry["maximum"]), name
        compared += 1
    assert compared >= 10


@pytest.mark.parametrize("name", ["mode", "harmonisation", "sampler"])
def test_the_words_to_choose_from_are_the_servers(scene, schema, name):
    items = {item.identifier.lower() for item in scene.medm.bl_rna.properties[name].enum_items} - {"model"}
    assert items == set(schema[name]["enum"])


def test_the_kinds_of_control_images_are_the_servers(server_python):
    code = "from medm.diffusion.control import KINDS; print(' '.join(KINDS))"
    done = subprocess.run([server_python, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert set(done.stdout.split()) == set(settings.CONTROL_KINDS)


ALL = {
    "prompt": "0: dawn, 40: dämmerung",
    "negative_prompt": "dust",
    "mode": "assistive",
    "strength": 0.35,
    "paint": "Figure*, !Lamp",
    "reference": "/pictures/look.png",
    "reference_scale": 0.7,
    "model": "sd15",
    "control": "lineart:0.8, depth",
    "guess": True,
    "lora": "style.safetensors:0.8",
    "embeddings": "look.safetensors",
    "sampler": "dpm++",
    "steps": 12,
    "guidance_scale": 4.5,
    "seed": 1234,
    "w": 0.8,
    "w_steps": 5,
    "w_start": 0.1,
    "w_end": 0.9,
    "harmonisation": "local",
    "window": 48,
}


def test_every_setting_there_and_back(scene, accepted):
    settings.apply(scene, ALL)
    assert settings.take_settings(scene) == ALL
    assert len(scene.medm.extra) == 0
    accepted(ALL)


def test_all_that_the_server_knows_there_and_back(scene, schema, accepted):
    """Also what only `extra` can hold, and numbers larger than Blender's."""
    given = {**accepted({}), **ALL, "seed": 2**40, "final_harmonisation": "mean", "compile": True, "local_width": 32, "local_sigma": 2.5}
    settings.apply(scene, given)
    taken = settings.take_settings(scene)
    assert accepted(taken) == given
    extra = {row.name for row in scene.medm.extra}
    assert {"seed", "final_harmonisation", "compile", "local_width"} <= extra
    assert set(given) == set(schema)


def test_what_is_not_said_gets_its_default(scene):
    settings.apply(scene, ALL)
    settings.apply(scene, {"prompt": "gold", "unheard_of": "yes"})
    assert (scene.medm.strength, scene.medm.mode, scene.medm.steps) == (0.5, "FULL", 0)
    taken = settings.take_settings(scene)
    assert taken["prompt"] == "gold" and taken["unheard_of"] == "yes" and "steps" not in taken


def test_words_for_numbers_are_read_as_the_command_line_reads_them(scene):
    settings.apply(scene, {"steps": "12", "w": "0.5", "guess": "true", "sampler": "euler-ancestral"})
    assert (scene.medm.steps, scene.medm.consistency, scene.medm.guess, scene.medm.sampler) == (12, 0.5, True, "EULER-ANCESTRAL")
    assert len(scene.medm.extra) == 0


def test_frames_and_size_start_from_the_scenes(scene):
    scene.frame_start, scene.frame_end = 10, 33
    scene.render.resolution_x, scene.render.resolution_y = 1920, 1080
    assert settings.frame_range(scene) == (10, 33)
    assert settings.size(scene) == passes.model_size(1920, 1080) == (768, 432)
    scene.medm.use_frame_range = scene.medm.use_size = True
    assert settings.frame_range(scene) == (10, 33)
    assert settings.size(scene) == (768, 432)
    scene.medm.frame_end, scene.medm.width = 20, 512
    scene.medm.use_frame_range = scene.medm.use_size = False
    scene.medm.use_frame_range = scene.medm.use_size = True
    assert settings.frame_range(scene) == (10, 20)
    assert settings.size(scene) == (512, 432)


def test_a_reference_beside_the_file_is_found_from_anywhere(scene, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    scene = bpy.context.scene
    scene.medm.reference = "//look.png"
    assert settings.take_settings(scene)["reference"] == str(tmp_path / "look.png")


def test_sliders_write_the_control_images_in_words(scene):
    medm = scene.medm
    medm.control = "lineart@2, depth:0.5"
    assert (medm.weight_lineart, medm.weight_depth, medm.weight_canny) == (1.0, 0.5, 0.0)
    medm.weight_lineart = 0.8
    medm.weight_canny = 1.0
    assert medm.control == "lineart@2:0.8, depth:0.5, canny"
    medm.weight_lineart = medm.weight_depth = medm.weight_canny = 0.0
    assert medm.control == "none"


def test_nothing_can_be_animated_and_everything_says_what_it_is(scene):
    for prop in scene.medm.bl_rna.properties:
        if prop.identifier in {"rna_type", "name"}:
            continue
        assert not prop.is_animatable or prop.type == "COLLECTION", prop.identifier
        assert prop.is_hidden or prop.type == "COLLECTION" or prop.description, prop.identifier
        assert not prop.description.endswith("."), prop.identifier
        assert prop.name == prop.name.strip() and prop.name[:1].isupper(), prop.identifier


def test_presets_change_the_look_and_leave_the_shot(scene, accepted):
    from medm_blender import preset_files

    assert {"Terracotta", "Gold", "Neon", "Porcelain", "Draft", "Over Your Render"} <= set(preset_files.names())
    scene.medm.seed, scene.medm.use_size, scene.medm.width = 7, True, 512
    for name in preset_files.names():
        settings.apply(scene, {**ALL, "seed": 7, "final_harmonisation": "mean"})
        preset_files.apply(scene, name.upper())
        assert (scene.medm.seed, scene.medm.width, scene.medm.paint) == (7, 512, "Figure*, !Lamp")
        assert len(scene.medm.extra) == 0
        accepted(settings.take_settings(scene))
    preset_files.apply(scene, "Gold")
    assert "gold" in scene.medm.prompt and scene.medm.steps == 0
    with pytest.raises(preset_files.PresetError, match="there are: "):
        preset_files.apply(scene, "Bronze")


def test_a_preset_for_another_scene_leaves_this_one(scene):
    from medm_blender import preset_files

    other = bpy.data.scenes.new("Other")
    preset_files.apply(other, "Neon")
    assert "neon" in other.medm.prompt and "neon" not in scene.medm.prompt


def test_the_users_own_preset(scene, tmp_path, monkeypatch):
    """Written by Blender, with extra settings, and read again; into a folder of the test's own."""
    from medm_blender import preset_files

    monkeypatch.setattr(bpy.utils, "user_resource", lambda *_, path="", **__: str(tmp_path / path))
    scene.medm.prompt, scene.medm.steps = 'a "blue" figure', 9
    row = scene.medm.extra.add()
    row.name, row.value = "final_harmonisation", "mean"
    (tmp_path / "presets" / "medm").mkdir(parents=True)
    assert bpy.ops.medm.preset_add(name="Mine") == {"FINISHED"}
    (file,) = (tmp_path / "presets" / "medm").glob("*.py")
    before = settings.take_settings(scene)
    settings.apply(scene, {})
    with bpy.context.temp_override(scene=scene):
        bpy.utils.execfile(str(file))
    assert settings.take_settings(scene) == before
    assert preset_files.SUBDIR in str(file)

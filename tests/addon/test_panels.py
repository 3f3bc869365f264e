"""What is registered comes and goes without a trace, can be searched for, says what it does, and why it cannot be done now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("bpy")

import bpy

import medm_blender
from medm_blender import operators, panels, preset_files, running, status
from staging import add_camera

pytestmark = pytest.mark.bpy


@pytest.fixture(autouse=True)
def registered(fresh):
    medm_blender.register()
    yield
    status.override(None)
    running._current = None
    medm_blender.unregister()


def ours():
    return {name for name in dir(bpy.types) if name.startswith("MEDM_")}


def operator_types():
    return [getattr(bpy.ops.medm, name).get_rna_type() for name in dir(bpy.ops.medm)]


def test_register_and_unregister_leave_nothing(fresh):
    there = ours()
    assert len(there) > 30
    medm_blender.unregister()
    assert not ours() and not hasattr(bpy.types.Scene, "medm") and not dir(bpy.ops.medm)
    medm_blender.register()
    assert ours() == there


def test_every_operator_can_be_found_and_says_what_it_does():
    found = operator_types()
    assert {kind.identifier for kind in found} >= {"MEDM_OT_render_take", "MEDM_OT_preview_frame", "MEDM_OT_cancel"}
    labels = [kind.name for kind in found]
    assert len(set(labels)) == len(labels), "two operators with one label cannot be told apart in the search"
    for kind in found:
        assert kind.description and not kind.description.endswith("."), kind.identifier
        assert _is_title(kind.name), kind.name
        for prop in kind.properties:
            if prop.identifier != "rna_type" and not prop.is_hidden:
                assert prop.description, f"{kind.identifier}.{prop.identifier}"


def _is_title(label):
    small = {"a", "and", "as", "by", "for", "from", "in", "its", "of", "on", "or", "the", "to", "with", "at"}
    return all(word[0].isupper() or word in small or not word[0].isalpha() for word in re.findall(r"\S+", label))


def test_panels_and_properties_are_in_title_case():
    for name in ours():
        kind = getattr(bpy.types, name)
        if issubclass(kind, bpy.types.Panel):
            assert _is_title(kind.bl_label), name
    for prop in bpy.context.scene.medm.bl_rna.properties:
        if prop.identifier not in {"rna_type", "name"}:
            assert _is_title(prop.name), prop.identifier


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ("cancel", "Nothing is being painted"),
        ("paint_selected", "Select the objects that are to be painted"),
        ("extra_remove", "No setting is active in the list"),
    ],
)
def test_polls_say_why(operator, message):
    assert not getattr(bpy.ops.medm, operator).poll()
    with pytest.raises(RuntimeError, match=message):
        getattr(bpy.ops.medm, operator)()


def test_nothing_begins_while_something_is_made():
    request = running.Request("take", "Scene", "", {}, (1, 2), (64, 40), 24.0, Path("/nowhere"))
    running._current = running.Run(request)
    for operator in (bpy.ops.medm.render_take, bpy.ops.medm.preview_frame):
        with pytest.raises(RuntimeError, match="MeDM is painting"):
            operator()
    assert bpy.ops.medm.cancel() == {"FINISHED"}
    assert running.current().state == "cancelled"
    assert bpy.ops.medm.render_take.poll()


def test_refusals_are_one_line():
    status.override(status.Status("off"))
    with pytest.raises(RuntimeError, match=r"^Error: The scene has no camera"):
        bpy.ops.medm.render_take()
    add_camera(bpy.context.scene)
    with pytest.raises(RuntimeError, match="The settings are not JSON"):
        bpy.ops.medm.render_take(settings="{prompt}")
    status.override(status.Status("not_installed"))
    with pytest.raises(RuntimeError, match="which is not installed yet"):
        bpy.ops.medm.preview_frame()


def test_only_the_selection_is_painted():
    scene = bpy.context.scene
    add_camera(scene)
    for name in ("B, and more", "!A", "C"):
        thing = bpy.data.objects.new(name, bpy.data.meshes.new(name))
        scene.collection.objects.link(thing)
        thing.select_set(name != "C")
    assert bpy.ops.medm.paint_selected() == {"FINISHED"}
    assert scene.medm.paint == "?A, B? and more"
    assert bpy.ops.medm.paint_clear() == {"FINISHED"} and scene.medm.paint == ""


def test_other_settings_come_and_go():
    medm = bpy.context.scene.medm
    bpy.ops.medm.extra_add(name="compile", value="true")
    bpy.ops.medm.extra_add(name="local_width", value="32")
    medm.extra_active = 0
    bpy.ops.medm.extra_remove()
    assert [(row.name, row.value) for row in medm.extra] == [("local_width", "32")]


def test_phases_and_times_in_words():
    assert running.words("paint, step 3 of 20") == "Painting, step 3 of 20"
    assert running.words("data") == "Rendering passes"
    assert running.words("something new") == "Something new"
    assert [running.clock(seconds) for seconds in (0.2, 42, 725, 3723)] == ["0:00", "0:42", "12:05", "1:02:03"]


class Layout:
    """Takes what panels draw where there is no window; properties, operators and what is asked of the layout must be in this Blender."""

    def __init__(self):
        self.__dict__["drawn"] = []

    def __getattr__(self, name):
        if name == "prop":
            return self._prop
        if name == "operator":
            return self._operator
        if name.startswith("template_") or name in {"label", "progress", "row", "column", "box", "split"}:
            return lambda *_, **given: self._known(name, given) or self.drawn.append(given.get("text", "")) or self
        return lambda *_, **given: self.drawn.append(given.get("text", "")) or self

    def __setattr__(self, name, value):
        pass

    def _known(self, function, given):
        assert set(given) <= set(bpy.types.UILayout.bl_rna.functions[function].parameters.keys()), (function, given)
        assert all(value is not None for value in given.values()), (function, given)

    def _prop(self, owner, name, **given):
        self._known("prop", given)
        assert name in owner.bl_rna.properties, name
        self.drawn.append(name)

    def _operator(self, name, **given):
        self._known("operator", given)
        kind = getattr(getattr(bpy.ops, name.split(".")[0]), name.split(".")[1]).get_rna_type()
        self.drawn.append(name)
        return type("Pressed", (), {prop.identifier: None for prop in kind.properties})()


class Shown:
    """A panel's `self`."""

    def __init__(self, kind):
        self.layout, self.kind = Layout(), kind

    def __getattr__(self, name):
        return getattr(self.kind, name).__get__(self)


def draw(kind, **status_of):
    status.override(status.Status(**status_of))
    shown = Shown(kind)
    area = type("Region", (), {"width": 500})()
    context = type("Context", (), {"scene": bpy.context.scene, "region": area, "window_manager": bpy.context.window_manager})()
    kind.draw(shown, context)
    return shown.layout.drawn


SD15 = {
    **{"id": "sd15", "description": "Stable Diffusion 1.5", "licence": "CreativeML OpenRAIL-M", "forbids": "to harm", "memory_gb": 6.0},
    **{"control": "lineart", "kinds": ["lineart", "depth"], "steps": 20, "guidance_scale": 7.5, "size": 512, "available": True},
}


def test_before_a_server_is_there_the_first_button_gets_one(monkeypatch):
    monkeypatch.setattr(panels, "_region_width", lambda: 500)
    drawn = draw(panels.MEDM_PT_render, state="not_installed")
    buttons = [name for name in drawn if "." in name and " " not in name]
    assert buttons[0] in {"medm.server_plan", "extensions.userpref_allow_online"}
    assert buttons.index("medm.render_take") > 0


def test_the_model_says_its_licence_and_memory(monkeypatch):
    monkeypatch.setattr(panels, "_region_width", lambda: 500)
    bpy.context.scene.medm.model = "sd15"
    drawn = " ".join(map(str, draw(panels.MEDM_PT_model, state="ready", models=[SD15], free_gb=8.0)))
    assert "CreativeML OpenRAIL-M" in drawn and "6 GB" in drawn and "8.0 GB are free" in drawn


def test_every_panel_draws_in_every_state(monkeypatch):
    monkeypatch.setattr(panels, "_region_width", lambda: 180)
    kinds = [kind for kind in panels._CLASSES if issubclass(kind, bpy.types.Panel)]
    request = running.Request("take", "Scene", "", {}, (1, 48), (64, 40), 24.0, Path("/nowhere"))
    runs = [None, running.Run(request, share=0.5), running.Run(request, state="failed", message="It went wrong"), running.Run(request)]
    runs[-1].state, runs[-1].message = "done", "Take 1 is in the edit"
    for run in runs:
        running._current = run
        for state in ("off", "starting", "ready", "unreachable", "wrong_version", "not_installed", "installing"):
            for kind in kinds:
                drawn = draw(kind, state=state, message=f"it is {state}", models=[SD15], progress=0.5)
                if kind is panels.MEDM_PT_render:
                    assert ("medm.cancel" in drawn) == (run is not None and run.state == "running")
                    assert ("medm.render_take" in drawn) == ("medm.cancel" not in drawn)


def test_a_row_of_other_settings_is_drawn():
    bpy.ops.medm.extra_add(name="compile", value="true")
    layout = Layout()
    row = bpy.context.scene.medm.extra[0]
    panels.MEDM_UL_extra.draw_item(None, bpy.context, layout, None, row, 0, None, "")
    assert layout.drawn[-2:] == ["name", "value"]


def test_presets_are_in_the_header():
    assert preset_files.MEDM_PT_presets.preset_subdir == preset_files.SUBDIR
    assert operators.MEDM_OT_render_take.bl_idname == "medm.render_take"

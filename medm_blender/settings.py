"""What a scene's takes are painted with: the properties `scene.medm`, and to and from the settings that a server takes.

The truth about names, ranges and defaults is `server/medm/settings.py`; a test compares. What an artist needs has a property of its own
here, all else goes by name through `extra`. None of them can be animated: a take has one of each.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from . import passes, status

CONTROL_KINDS = ("lineart", "depth", "normal", "normal-bae", "softedge", "canny", "segmentation")
"""What a server can draw for a ControlNet, as it calls them."""

_FRAME = {"min": -1048574, "max": 1048574}  # as Blender's own
_SAME = (
    "prompt",
    "negative_prompt",
    "strength",
    "reference_scale",
    "model",
    "guess",
    "lora",
    "embeddings",
    "seed",
    "w_steps",
    "w_start",
    "w_end",
)
_CALLED = {"consistency": "w"}
_WORDS = ("mode", "harmonisation")
"""Enumerations whose items are the server's words in capitals."""
_IF_GIVEN = ("control", "paint", "reference")
"""Texts of which an empty one is not sent."""
_IF_ABOVE_0 = ("steps", "guidance_scale", "window")
_OF_THE_MODEL = "MODEL"
_TO_SERVER = {
    **{name: name for name in (*_SAME, *_WORDS, *_IF_GIVEN, *_IF_ABOVE_0, "sampler")},
    **_CALLED,
}
"""The server's names of all properties that are its settings."""


def frame_range(scene: Any) -> tuple[int, int]:
    """First and last frame of the scene's takes: the panel's own if it has any, else the scene's."""
    medm = scene.medm
    return (medm.frame_start, medm.frame_end) if medm.use_frame_range else (scene.frame_start, scene.frame_end)


def size(scene: Any) -> tuple[int, int]:
    """Width and height in pixels of the scene's takes: the panel's own, else multiples of 8 near the scene's aspect."""
    medm = scene.medm
    return (medm.width, medm.height) if medm.use_size else _size_for(scene)


def take_settings(scene: Any) -> dict[str, Any]:
    """The scene's settings as a server takes them; what is left to the model or the server is left out.

    `reference` is an absolute path of this machine. What `extra` names wins over the panel's own; its values are words, which the server
    reads as it reads its command line's.
    """
    medm = scene.medm
    settings: dict[str, Any] = {}
    for name, called in _TO_SERVER.items():
        value = _plain(getattr(medm, name))
        if name in (*_IF_GIVEN, *_IF_ABOVE_0) and not value:
            continue
        if name in _WORDS:
            value = value.lower()
        elif name == "sampler":
            if value == _OF_THE_MODEL:
                continue
            value = value.lower()
        elif name == "reference":
            value = bpy.path.abspath(value, library=scene.library)
        settings[called] = value
    settings.update((row.name, row.value) for row in medm.extra if row.name.strip())
    return settings


def apply(scene: Any, settings: dict[str, Any]) -> None:
    """Set the scene's properties to a take's settings, as `take_settings`, a take's record or a take.json has them.

    What the settings do not say gets its default. What no property can hold goes to `extra`.
    """
    medm = scene.medm
    medm.extra.clear()
    for name in _TO_SERVER:
        medm.property_unset(name)
    given = {name: value for name, value in settings.items() if value is not None}
    for name, called in _TO_SERVER.items():
        if called in given:
            value = given[called]
            with contextlib.suppress(TypeError, ValueError, OverflowError):  # no such word, or a number too large: it is for `extra`
                setattr(medm, name, str(value).upper() if name in (*_WORDS, "sampler") else _read(medm, name, value))
    held = take_settings(scene)
    for called, value in given.items():
        if called not in _TO_SERVER.values() or _differ(held.get(called), value):
            if called in _IF_GIVEN and not value:
                continue
            row = medm.extra.add()
            row.name, row.value = called, value if isinstance(value, str) else json.dumps(value)


def _read(medm: Any, name: str, value: Any) -> Any:
    """A number or a switch that was given as a word."""
    if isinstance(value, str) and medm.bl_rna.properties[name].type != "STRING":
        return json.loads(value.lower())
    return value


def _plain(value: Any) -> Any:
    """Blender keeps 32-bit numbers: 0.6 comes back as 0.6000000238."""
    return _shortened(value) if isinstance(value, float) else value


def _differ(held: Any, given: Any) -> bool:
    if isinstance(given, str) and not isinstance(held, str):
        with contextlib.suppress(ValueError):
            given = json.loads(given.lower())
    return bool(held != _shortened(given))


def _shortened(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _size_for(scene: Any) -> tuple[int, int]:
    render = scene.render
    share = render.resolution_percentage / 100
    return passes.model_size(max(1, round(render.resolution_x * share)), max(1, round(render.resolution_y * share)))


# -- control images -----------------------------------------------------------------------------------------------------


def control_of(medm: Any) -> str:
    """The control images of a take in the server's words: the panel's, or those that the model chooses; empty if it is not known."""
    return medm.control.strip() or str(model_of(medm).get("control", ""))


def model_of(medm: Any) -> dict[str, Any]:
    """What the server says of the panel's model; empty as long as it has not."""
    return next((model for model in known_models() if model["id"] == medm.model), {})


def known_models() -> list[dict[str, Any]]:
    """What the server says of its models, as it last did; empty as long as none has."""
    return status.current().models


def _weights(medm: Any) -> dict[str, float]:
    """Weight by kind of the networks that see one kind each; empty where kinds are put side by side, which weights say nothing of."""
    weights: dict[str, float] = {}
    for entry in control_of(medm).split(","):
        found = re.fullmatch(r"([a-z-]+(?:@[0-9.]+)?)\s*(?::\s*([0-9.]+))?", entry.strip())
        if found and found[1] != "none":
            with contextlib.suppress(ValueError):
                weights[found[1]] = float(found[2] or 1.0)
    return weights


def _get_weight(kind: str) -> Any:
    return lambda medm: next((weight for name, weight in _weights(medm).items() if name.partition("@")[0] == kind), 0.0)


def _set_weight(kind: str) -> Any:
    def set_weight(medm: Any, value: float) -> None:
        weights = _weights(medm)
        name = next((name for name in weights if name.partition("@")[0] == kind), kind)
        weights[name] = round(value, 3)
        kept = [name if weight == 1.0 else f"{name}:{weight:g}" for name, weight in weights.items() if weight > 0.0]
        medm.control = ", ".join(kept) or "none"

    return set_weight


def _weight(kind: str, label: str, what: str) -> Any:
    return FloatProperty(
        name=label,
        description=f"How much the model's network for {what} counts; 0 leaves it out",
        get=_get_weight(kind),
        set=_set_weight(kind),
        min=0.0,
        max=2.0,
        soft_max=1.0,
        subtype="FACTOR",
        options=set(),
    )


# -- the properties -----------------------------------------------------------------------------------------------------


def _model_names(medm: Any, context: Any, typed: str) -> Iterator[tuple[str, str]]:
    for model in known_models():
        yield str(model["id"]), str(model["description"] if model["available"] else "not installed")


def _own_range(medm: Any, context: Any) -> None:
    """Start from the scene's own frames when the panel's are switched on for the first time."""
    if medm.use_frame_range and not (medm.is_property_set("frame_start") or medm.is_property_set("frame_end")):
        scene = medm.id_data
        medm.frame_start, medm.frame_end = scene.frame_start, scene.frame_end


def _own_size(medm: Any, context: Any) -> None:
    if medm.use_size and not (medm.is_property_set("width") or medm.is_property_set("height")):
        medm.width, medm.height = _size_for(medm.id_data)


class ExtraSetting(bpy.types.PropertyGroup):  # type: ignore[misc]
    """A setting of a take by the server's name for it."""

    name: StringProperty(name="Name", description="What the server calls the setting, such as final_harmonisation", options=set())  # type: ignore[valid-type]
    value: StringProperty(name="Value", description="What it is set to, such as mean", options=set())  # type: ignore[valid-type]


class SceneSettings(bpy.types.PropertyGroup):  # type: ignore[misc]
    """`scene.medm`: how the takes of a scene are made."""

    prompt: StringProperty(  # type: ignore[valid-type]
        name="Prompt",
        description='What to paint. By frame numbers it changes on the way, blended in between: "0: dawn, 40: dusk"',
        default="a terracotta sculpture",
        options=set(),
    )
    negative_prompt: StringProperty(  # type: ignore[valid-type]
        name="Negative", description="What not to paint. It counts only with a guidance scale above 1", options=set()
    )
    mode: EnumProperty(  # type: ignore[valid-type]
        name="Mode",
        description="What painting starts from",
        items=(
            ("FULL", "Full", "Paint from noise: shapes and motion are the scene's, materials and light the model's"),
            ("ASSISTIVE", "Assistive", "Paint over your own render, whose colours and light stay as far as Strength leaves them"),
        ),
        default="FULL",
        options=set(),
    )
    strength: FloatProperty(  # type: ignore[valid-type]
        name="Strength",
        description="How far painting goes away from your render: little keeps it, 1 repaints it all",
        default=0.5,
        min=0.01,
        max=1.0,
        subtype="FACTOR",
        options=set(),
    )
    consistency: FloatProperty(  # type: ignore[valid-type]
        name="Consistency",
        description="How strongly all frames must show every surface point alike. 0 paints each frame on its own, and flickers",
        default=1.0,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
        options=set(),
    )
    seed: IntProperty(  # type: ignore[valid-type]
        name="Seed", description="Another number, another take; the same number, the same take", default=0, min=0, options=set()
    )

    use_frame_range: BoolProperty(  # type: ignore[valid-type]
        name="Frame Range", description="Paint these frames in place of the scene's own range", update=_own_range, options=set()
    )
    frame_start: IntProperty(name="Frame Start", description="First frame of the take", default=1, **_FRAME, options=set())  # type: ignore[valid-type]
    frame_end: IntProperty(name="End", description="Last frame of the take", default=250, **_FRAME, options=set())  # type: ignore[valid-type]
    use_size: BoolProperty(  # type: ignore[valid-type]
        name="Size",
        description="Paint at this size. Otherwise it follows the scene's resolution, with at most 768 pixels on the longer side",
        update=_own_size,
        options=set(),
    )
    width: IntProperty(  # type: ignore[valid-type]
        name="Width",
        description="Width of the take, a multiple of 8",
        default=768,
        min=16,
        max=8192,
        step=8,
        subtype="PIXEL",
        options=set(),
    )
    height: IntProperty(  # type: ignore[valid-type]
        name="Height",
        description="Height of the take, a multiple of 8",
        default=432,
        min=16,
        max=8192,
        step=8,
        subtype="PIXEL",
        options=set(),
    )

    model: StringProperty(  # type: ignore[valid-type]
        name="Model",
        description="The model that paints, as the server calls it",
        default="bundled",
        search=_model_names,
        search_options={"SUGGESTION"},
        options=set(),
    )
    control: StringProperty(  # type: ignore[valid-type]
        name="Control",
        description='What the model is shown of the scene: "lineart:0.8, depth:0.5". Empty leaves it to the model; "none" shows it nothing',
        options=set(),
    )
    paint: StringProperty(  # type: ignore[valid-type]
        name="Paint Only",
        description='Paint these and keep every other pixel of your render: "Figure*, collection:Set, material:Clay, !Lamp, background"',
        options=set(),
    )
    reference: StringProperty(  # type: ignore[valid-type]
        name="Reference",
        description="A picture whose look the take follows: PNG, JPEG or WebP. For models with an IP-Adapter",
        subtype="FILE_PATH",
        options={"PATH_SUPPORTS_BLEND_RELATIVE"},
    )
    reference_scale: FloatProperty(  # type: ignore[valid-type]
        name="Influence",
        description="How much the reference counts beside the prompt",
        default=0.6,
        min=0.0,
        max=2.0,
        soft_max=1.0,
        subtype="FACTOR",
        options=set(),
    )
    steps: IntProperty(  # type: ignore[valid-type]
        name="Steps",
        description="Steps of the sampler. 0 takes the model's own number",
        default=0,
        min=0,
        max=1000,
        soft_max=50,
        options=set(),
    )
    guidance_scale: FloatProperty(  # type: ignore[valid-type]
        name="Guidance Scale",
        description="How closely the prompt is followed, from 1. 0 takes the model's own",
        default=0.0,
        min=0.0,
        max=50.0,
        soft_max=15.0,
        options=set(),
    )
    sampler: EnumProperty(  # type: ignore[valid-type]
        name="Sampler",
        description="How noise becomes a picture",
        items=(
            (_OF_THE_MODEL, "Model's Own", "What the model was made for"),
            ("DDIM", "DDIM", "Steady; what MeDM was measured with"),
            ("DDPM", "DDPM", "Adds noise at every step; wants many of them"),
            ("EULER", "Euler", "Plain and quick"),
            ("EULER-ANCESTRAL", "Euler Ancestral", "Euler with fresh noise at every step"),
            ("DPM++", "DPM++", "Good pictures in few steps"),
            ("UNIPC", "UniPC", "Good pictures in very few steps"),
            ("LCM", "LCM", "For models of few steps, by latent consistency"),
            ("FLOW-EULER", "Flow Euler", "For models of flow matching, such as Z-Image"),
        ),
        options=set(),
    )
    guess: BoolProperty(  # type: ignore[valid-type]
        name="Guess Mode", description="Take no prompt: what the model is shown of the scene says alone what is painted", options=set()
    )
    lora: StringProperty(  # type: ignore[valid-type]
        name="LoRA",
        description='LoRA weights in the server\'s folder of models, and how much each counts: "style.safetensors:0.8"',
        options=set(),
    )
    embeddings: StringProperty(  # type: ignore[valid-type]
        name="Embeddings",
        description='Textual inversions in the server\'s folder of models; "style.safetensors" is called <style> in the prompt',
        options=set(),
    )

    harmonisation: EnumProperty(  # type: ignore[valid-type]
        name="Agreement",
        description="How the frames agree on what a surface point looks like",
        items=(
            ("KEY", "Key Frame", "All frames take what a key frame shows: the sharpest"),
            ("GLOBAL", "Mean", "All frames take the mean of all"),
            ("WEIGHTED", "Weighted Mean", "The mean, by how well each frame shows the point"),
            ("LOCAL", "Local in Time", "Frames agree with those near in time, so that light can change slowly"),
        ),
        options=set(),
    )
    w_steps: IntProperty(  # type: ignore[valid-type]
        name="Guided Steps",
        description="In how many steps frames are made to agree",
        default=3,
        min=1,
        max=1000,
        soft_max=20,
        options=set(),
    )
    w_start: FloatProperty(  # type: ignore[valid-type]
        name="Guidance Start",
        description="Share of the steps after which frames begin to agree",
        default=0.25,
        min=0.0,
        max=1.0,
        subtype="FACTOR",
        options=set(),
    )
    w_end: FloatProperty(  # type: ignore[valid-type]
        name="End", description="Share of the steps after which they stop", default=0.85, min=0.0, max=1.0, subtype="FACTOR", options=set()
    )
    window: IntProperty(  # type: ignore[valid-type]
        name="Window",
        description="Frames painted together, at least 8. 0 paints as many as fit into memory",
        default=0,
        min=0,
        max=20_000,
        soft_max=500,
        options=set(),
    )

    beauty: EnumProperty(  # type: ignore[valid-type]
        name="Beauty",
        description="Where the pictures come from that are painted over",
        items=(
            ("RENDER", "Render", "Your own render engine, as it is set up, compositor included"),
            ("VIEWPORT", "Viewport", "What a viewport shows: fast, for previs. Needs a window"),
        ),
        options=set(),
    )
    data_supersampling: EnumProperty(  # type: ignore[valid-type]
        name="Data Passes",
        description="How finely motion and shapes are rendered",
        items=(
            ("1", "Normal", "One sample a pixel"),
            ("3", "Fine", "Three times as wide and high: tells better what hides what, and takes more time and disk space"),
        ),
        options=set(),
    )
    reuse_shot: BoolProperty(  # type: ignore[valid-type]
        name="Reuse Passes",
        description="Paint the passes of the last take anew in place of rendering them. Switch it off when the scene has changed",
        options=set(),
    )
    folder: StringProperty(  # type: ignore[valid-type]
        name="Output",
        description="Folder of the scene's passes and takes",
        default="//medm/",
        subtype="DIR_PATH",
        options={"PATH_SUPPORTS_BLEND_RELATIVE"},
    )
    extra: CollectionProperty(type=ExtraSetting, name="Other Settings", options=set())  # type: ignore[valid-type]
    extra_active: IntProperty(name="Active Setting", min=0, options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]

    weight_lineart: _weight("lineart", "Lines", "lines")  # type: ignore[valid-type]
    weight_depth: _weight("depth", "Depth", "depth")  # type: ignore[valid-type]
    weight_normal: _weight("normal", "Normals", "normals")  # type: ignore[valid-type]
    weight_normal_bae: _weight("normal-bae", "Normals (Estimated)", "normals as they are estimated from photographs")  # type: ignore[valid-type]
    weight_softedge: _weight("softedge", "Soft Edges", "soft edges")  # type: ignore[valid-type]
    weight_canny: _weight("canny", "Sharp Edges", "sharp edges")  # type: ignore[valid-type]
    weight_segmentation: _weight("segmentation", "Regions", "regions")  # type: ignore[valid-type]


_CLASSES = (ExtraSetting, SceneSettings)


def register() -> None:
    """Give every scene its `medm`."""
    for cls in _CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Scene.medm = PointerProperty(type=SceneSettings, name="MeDM", description="How takes of this scene are painted")


def unregister() -> None:
    """Take it away; what files hold of it stays in them."""
    del bpy.types.Scene.medm
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)

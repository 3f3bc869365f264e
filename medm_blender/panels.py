"""The panel in the Render properties: what to paint, with which model, how it goes, and what stands in the way.

It only shows: properties are in `settings.py`, what is found in `preflight.py`, what runs in `running.py`, what a server says in
`status.py`.
"""

from __future__ import annotations

from typing import Any

import bpy

from . import compat, preferences, preflight, preset_files, running, settings, status, tasks

_ICONS = {"error": "ERROR", "warning": "ERROR", "info": "INFO"}
_SHOWN_KINDS = (
    *(("lineart", "weight_lineart"), ("depth", "weight_depth"), ("normal", "weight_normal"), ("normal-bae", "weight_normal_bae")),
    *(("softedge", "weight_softedge"), ("canny", "weight_canny"), ("segmentation", "weight_segmentation")),
)


class _InRenderProperties:
    """Where all these panels are."""

    bl_space_type = "PROPERTIES"
    bl_region_type = "WINDOW"
    bl_context = "render"

    @classmethod
    def poll(cls, context: Any) -> bool:
        return context.scene is not None


class MEDM_PT_render(_InRenderProperties, bpy.types.Panel):  # type: ignore[misc]
    """Have the scene's animation painted by a diffusion model"""

    bl_label = "MeDM"

    def draw_header_preset(self, context: Any) -> None:
        """The presets' button."""
        preset_files.MEDM_PT_presets.draw_panel_header(self.layout)

    def draw(self, context: Any) -> None:
        """From the most to the least needed."""
        layout, scene = self.layout, context.scene
        layout.use_property_split = True
        layout.use_property_decorate = False
        medm = scene.medm
        run = running.current()
        findings = preflight.check(scene)
        if run is not None and run.is_running:
            _draw_run(layout, run)
        else:
            if _needs_server():
                _draw_server(layout)
                findings = [finding for finding in findings if finding.fix != "medm.server_plan"]
            _draw_buttons(layout, not (_needs_server() or preflight.errors(findings)))
            _draw_findings(layout, findings, _region_width())

        column = layout.column()
        column.prop(medm, "prompt")
        if _is_narrow(_region_width()):
            column.prop(medm, "mode")
        else:
            column.row().prop(medm, "mode", expand=True)
        if medm.mode == "ASSISTIVE":
            column.prop(medm, "strength")
        column.separator()
        column.prop(medm, "consistency")
        column.prop(medm, "seed")

        heading = layout.column(heading="Frames")
        row = heading.row(align=True)
        row.prop(medm, "use_frame_range", text="")
        sub = row.row(align=True)
        if medm.use_frame_range:
            sub.prop(medm, "frame_start", text="")
            sub.prop(medm, "frame_end", text="")
        else:
            sub.active = False
            sub.label(text="{} to {}".format(*settings.frame_range(scene)))
        row = layout.column(heading="Size").row(align=True)
        row.prop(medm, "use_size", text="")
        sub = row.row(align=True)
        if medm.use_size:
            sub.prop(medm, "width", text="")
            sub.prop(medm, "height", text="")
        else:
            sub.active = False
            sub.label(text="{} × {} px".format(*settings.size(scene)))
        layout.prop(medm, "folder")


class _InPanel(_InRenderProperties):
    bl_parent_id = "MEDM_PT_render"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: Any) -> None:
        layout = self.layout  # type: ignore[attr-defined]
        layout.use_property_split = True
        layout.use_property_decorate = False
        self.draw_split(layout, context.scene.medm, context)

    def draw_split(self, layout: Any, medm: Any, context: Any) -> None:
        raise NotImplementedError


class MEDM_PT_model(_InPanel, bpy.types.Panel):  # type: ignore[misc]
    """Which model paints, and in what way"""

    bl_label = "Model"

    def draw_split(self, layout: Any, medm: Any, context: Any) -> None:
        """The model, what it may be used for, what it needs."""
        layout.prop(medm, "model")
        model = settings.model_of(medm)
        if model:
            column = layout.column(align=True)
            column.active = False
            for text in (
                str(model.get("description", "")),
                f"Licence: {model.get('licence', 'not known')}",
                f"Not allowed: {model['forbids']}" if model.get("forbids") not in (None, "", "nothing") else "",
                f"Needs about {model.get('memory_gb', 0):g} GB of memory{_free()}",
            ):
                if text:
                    _label(column, text[:1].upper() + text[1:], "NONE", _region_width(), 1.0)
        column = layout.column()
        column.prop(medm, "sampler")
        column.prop(medm, "steps", text=f"Steps (0 = {model['steps']})" if model.get("steps") else "Steps")
        column.prop(
            medm,
            "guidance_scale",
            text=f"Guidance Scale (0 = {model['guidance_scale']:g})" if model.get("guidance_scale") else "Guidance Scale",
        )
        column.prop(medm, "negative_prompt")
        column = layout.column()
        column.prop(medm, "reference")
        sub = column.column()
        sub.active = bool(medm.reference)
        sub.prop(medm, "reference_scale")
        column = layout.column()
        column.prop(medm, "lora")
        column.prop(medm, "embeddings")


class MEDM_PT_control(_InPanel, bpy.types.Panel):  # type: ignore[misc]
    """What the model is shown of the scene"""

    bl_label = "Control Signals"

    def draw_split(self, layout: Any, medm: Any, context: Any) -> None:
        """A weight for each of the model's networks, and the whole in words."""
        model = settings.model_of(medm)
        kinds = model.get("kinds") or []
        if "+" in settings.control_of(medm):
            column = layout.column(align=True)
            column.active = False
            together = settings.control_of(medm).replace("+", ", ")
            _label(column, f"This model always sees {together} together", "NONE", _region_width(), 1.0)
        elif kinds:
            column = layout.column()
            for kind, name in _SHOWN_KINDS:
                if kind in kinds:
                    column.prop(medm, name, slider=True)
        layout.prop(medm, "control", text="In Words")
        layout.prop(medm, "guess")


class MEDM_PT_masks(_InPanel, bpy.types.Panel):  # type: ignore[misc]
    """Which part of the picture is painted"""

    bl_label = "Masks"

    def draw_split(self, layout: Any, medm: Any, context: Any) -> None:
        """By names, which the selection can fill in."""
        row = layout.row(align=True)
        row.prop(medm, "paint")
        row.operator("medm.paint_selected", text="", icon="RESTRICT_SELECT_OFF")
        if medm.paint:
            row.operator("medm.paint_clear", text="", icon="X")
        column = layout.column(align=True)
        column.active = False
        text = "The rest of the picture stays as you render it" if medm.paint.strip() else "Everything is painted"
        _label(column, text, "NONE", _region_width(), 1.0)


class MEDM_PT_advanced(_InPanel, bpy.types.Panel):  # type: ignore[misc]
    """How frames agree, and how passes are rendered"""

    bl_label = "Advanced"

    def draw_split(self, layout: Any, medm: Any, context: Any) -> None:
        """Time, passes, and all other settings by name."""
        column = layout.column()
        column.prop(medm, "harmonisation")
        column.prop(medm, "w_steps")
        column.prop(medm, "w_start")
        column.prop(medm, "w_end")
        column.prop(medm, "window")
        column = layout.column()
        sub = column.column()
        sub.active = tasks.needs_beauty({"mode": medm.mode.lower(), "paint": medm.paint.strip()})
        sub.prop(medm, "beauty")
        column.prop(medm, "data_supersampling")
        column.prop(medm, "reuse_shot")
        layout.use_property_split = False
        layout.label(text="Other Settings")
        row = layout.row()
        row.template_list("MEDM_UL_extra", "", medm, "extra", medm, "extra_active", rows=3)
        column = row.column(align=True)
        column.operator("medm.extra_add", text="", icon="ADD")
        column.operator("medm.extra_remove", text="", icon="REMOVE")


class MEDM_UL_extra(bpy.types.UIList):  # type: ignore[misc]
    """Settings by name."""

    def draw_item(self, context: Any, layout: Any, data: Any, item: Any, icon: int, active_data: Any, active_property: str) -> None:
        """Name and value."""
        row = layout.row(align=True)
        row.prop(item, "name", text="", emboss=False, placeholder="name")
        row.prop(item, "value", text="", emboss=False, placeholder="value")


# -- what goes on -------------------------------------------------------------------------------------------------------


def _draw_on_top(panel: Any, context: Any) -> None:
    """Below the choice of the render engine, where a new user looks: Blender shows a new panel far down, and most windows end before it."""
    layout, run = panel.layout, running.current()
    if run is not None and run.is_running:
        row = layout.row(align=True)
        row.progress(factor=run.share, text=run.phase)
        row.operator("medm.cancel", text="", icon="X")
        return
    if _needs_server():
        _draw_server(layout)
        return
    column = layout.column(align=True)
    column.prop(context.scene.medm, "prompt", text="", placeholder="Prompt")
    row = column if _is_narrow(_region_width()) else column.row(align=True)
    row.operator("medm.render_take", icon="RENDER_ANIMATION")
    row.operator("medm.preview_frame", icon="RENDER_STILL")
    if run is not None and run.message:
        _draw_end(layout, run)
    _draw_findings(layout, preflight.errors(preflight.check(context.scene))[:1], _region_width())


def _needs_server() -> bool:
    return status.current().state in {"not_installed", "installing", "wrong_version"}


def _draw_server(layout: Any) -> None:
    """What has to be done before anything can be painted, and the button that does it."""
    now = status.current()
    box = layout.box()
    if now.state == "not_installed":
        _label(box.column(align=True), "MeDM paints with a server of its own, which is not installed yet", "INFO", _region_width())
    elif now.state == "wrong_version":
        _label(box.column(align=True), now.message, "INFO", _region_width())
    if bpy.app.online_access or preferences.installation().python is not None or now.state == "installing":
        preferences.draw_installation(box)
        return
    _label(box.column(align=True), "It is downloaded, and Blender may not go online yet", "INTERNET_OFFLINE", _region_width())
    if compat.has_operator("extensions.userpref_allow_online"):
        box.operator("extensions.userpref_allow_online", text="Allow Online Access", icon="INTERNET")


def _draw_buttons(layout: Any, ready: bool) -> None:
    row = layout.column(align=True) if _is_narrow(_region_width()) else layout.row(align=True)
    row.scale_y = 1.5
    row.enabled = ready
    row.operator("medm.render_take", icon="RENDER_ANIMATION")
    row.operator("medm.preview_frame", icon="RENDER_STILL")


def _draw_run(layout: Any, run: running.Run) -> None:
    box = layout.box()
    column = box.column(align=True)
    icon = running.thumbnail()
    if icon:
        column.template_icon(icon, scale=8.0)
    column.progress(factor=run.share, text=f"{run.share:.0%}")
    column.separator()
    first, last = run.request.frames
    what = f"Frames {first} to {last}" if run.request.kind == "take" else f"Frame {first}"
    column.label(text=run.phase)
    row = column.row()
    row.active = False
    row.label(text=what)
    if run.remaining is not None:
        sub = row.row()
        sub.alignment = "RIGHT"
        sub.label(text=f"{running.clock(run.remaining)} left")
    row = box.row()
    row.scale_y = 1.2
    row.operator("medm.cancel", text="Cancel", icon="X")


def _draw_end(layout: Any, run: running.Run) -> None:
    box = layout.box()
    row = box.row()
    icon = {"done": "CHECKMARK", "failed": "ERROR", "cancelled": "CANCEL"}.get(run.state, "INFO")
    column = row.column(align=True)
    column.alert = run.state == "failed"
    _label(column, run.message, icon, _region_width(), 0.85)
    row.operator("medm.dismiss", text="", icon="X", emboss=False)
    if run.state == "done" and run.request.kind == "take":
        box.operator("medm.take_show", icon="SEQUENCE")


def _draw_findings(layout: Any, findings: list[preflight.Finding], width: int) -> None:
    if not findings:
        return
    narrow = _is_narrow(width)
    column = layout.column()
    for finding in findings:
        row = column.column(align=True) if narrow else column.row()
        text = row.column(align=True)
        text.alert = finding.severity == "error"
        text.active = finding.severity != "info"
        _label(text, finding.message, _ICONS[finding.severity], width, 0.62 if finding.fix and not narrow else 0.9)
        if finding.fix and compat.has_operator(finding.fix):
            button = row.row()
            button.alignment = "RIGHT"
            pressed = button.operator(finding.fix, text=finding.label)
            for name, value in finding.properties.items():
                setattr(pressed, name, value)
    layout.separator()


def _region_width() -> int:
    """Of the panel that is drawn, in pixels."""
    region = bpy.context.region
    return region.width if region else 400


def _is_narrow(width: int) -> bool:
    """Whether two things beside each other would have no room for their words."""
    return bool(width < 300 * bpy.context.preferences.system.ui_scale)


def _free() -> str:
    free = status.current().free_gb
    return "" if free is None else f", {free:.1f} GB are free"


def _label(column: Any, text: str, icon: str, width: int, share: float = 0.9) -> None:
    """A message in as many lines as it takes, with its icon at the first."""
    column.scale_y = 0.85
    for number, line in enumerate(_wrapped(text, width, share)):
        column.label(text=line, icon=icon if number == 0 or icon == "NONE" else "BLANK1")


def _wrapped(text: str, width: int, share: float) -> list[str]:
    """The text in lines that fit into `share` of a region `width` pixels wide: labels do not wrap."""
    import blf

    scale = bpy.context.preferences.system.ui_scale
    size = 11.0 * scale
    if bpy.context.preferences.ui_styles:
        size = bpy.context.preferences.ui_styles[0].widget.points * scale
    blf.size(0, size)
    room = max(60.0, (width - 60 * scale) * share)
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and blf.dimensions(0, longer)[0] > room:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line] if line else lines


_CLASSES = (MEDM_UL_extra, MEDM_PT_render, MEDM_PT_control, MEDM_PT_masks, MEDM_PT_model, MEDM_PT_advanced)


def register() -> None:
    """Show the panel."""
    preset_files.register()
    for cls in _CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.RENDER_PT_context.append(_draw_on_top)


def unregister() -> None:
    """Take it away."""
    bpy.types.RENDER_PT_context.remove(_draw_on_top)
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
    preset_files.unregister()

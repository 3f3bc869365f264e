"""The takes of a shot as a list: in the Sequencer's sidebar, tab MeDM, and below MeDM's panel in the Render properties.

The list's rows live in the window manager, are never saved, and are brought up to date by a timer, because drawing may change nothing. What
they show comes from the takes' folders and the edit at every redraw.
"""

from __future__ import annotations

import textwrap
from typing import Any

import bpy
import bpy.utils.previews

from . import compat, sequencer, take_operators, takes, waiting

_STATE_ICONS = {"ready": "BLANK1", "painting": "TIME", "failed": "ERROR", "cancelled": "CANCEL"}
_SETTINGS = (
    ("model", "Model"),
    ("mode", "Mode"),
    ("strength", "Strength"),
    ("w", "Consistency"),
    ("seed", "Seed"),
    ("steps", "Steps"),
    ("sampler", "Sampler"),
    ("guidance_scale", "Guidance"),
    ("negative_prompt", "Not"),
    ("control", "Control"),
    ("paint", "Paint Only"),
    ("lora", "LoRA"),
)
"""Settings that are shown of the selected take, with their labels; all of them are in the strip's custom properties."""

_thumbnails: Any = None


class MEDM_take_row(bpy.types.PropertyGroup):  # type: ignore[misc]
    """A row of the list."""

    number: bpy.props.IntProperty(name="Number", description="Of the take; 0 is the original")  # type: ignore[valid-type]
    scene: bpy.props.StringProperty(name="Shot", description="The scene that the take was rendered from")  # type: ignore[valid-type]


class MEDM_UL_takes(bpy.types.UIList):  # type: ignore[misc]
    """Takes with their numbers, looks and prompts; the eye shows one and mutes all others."""

    def draw_item(
        self,
        context: Any,
        layout: Any,
        data: Any,
        item: Any,
        icon: Any,
        active_data: Any,
        active_property: Any,
        index: int = 0,
        flag: int = 0,
    ) -> None:
        """One row."""
        shot = take_operators.shot_of(context)
        edit = sequencer.edit_of(shot)
        record = next((record for record in waiting.listed(shot) if record.number == item.number), None)
        strip = sequencer.strip_of(edit, item.number) if edit else None
        row = layout.row(align=True)
        if strip is not None:
            row.operator("medm.take_solo", text="", icon="HIDE_ON" if strip.mute else "HIDE_OFF", emboss=False).take = item.number
        else:
            row.label(text="", icon="BLANK1")
        picture = _thumbnail(record) if record else 0
        name = row.row()
        name.ui_units_x = 4 if item.number == sequencer.BEAUTY else 2.5
        label = "Original" if item.number == sequencer.BEAUTY else f"{item.number}"
        if picture:
            name.label(text=label, icon_value=picture)
        else:
            name.label(text=label, icon="RENDER_ANIMATION" if item.number == sequencer.BEAUTY else "IMAGE_DATA")
        if record is not None:
            words = row.row()
            words.active = record.state == "ready"
            words.label(text=_line(record.prompt) if record.state in ("ready", "painting") else record.error or record.state.capitalize())
            shown = _STATE_ICONS[record.state]
            row.label(text="", icon="IMPORT" if record.state == "ready" and strip is None else shown)

    def filter_items(self, context: Any, data: Any, name: str) -> tuple[list[int], list[int]]:
        """By what the search field holds: numbers and prompts. The newest is at the top."""
        rows = getattr(data, name)
        wanted = self.filter_name.casefold()
        prompts = {record.number: record.prompt for record in waiting.listed(take_operators.shot_of(context))}
        flags = [
            self.bitflag_filter_item if wanted in f"{row.number} {prompts.get(row.number, 'original')}".casefold() else 0 for row in rows
        ]
        return flags, [len(rows) - 1 - index for index in range(len(rows))]


class _Takes:
    """What both panels show."""

    def draw(self, context: Any) -> None:
        """The takes that wait, the list, the selected take, what can be done."""
        layout: Any = self.layout  # type: ignore[attr-defined]
        shot = take_operators.shot_of(context)
        _keep_rows(context, shot)
        _draw_waiting(layout, shot)
        manager = context.window_manager
        if not waiting.listed(shot):
            layout.label(text="No takes yet: Render Take makes one", icon="INFO")
            return
        row = layout.row()
        row.template_list("MEDM_UL_takes", "", manager, "medm_takes", manager, "medm_take_index", rows=4, sort_lock=True)
        buttons = row.column(align=True)
        buttons.operator("medm.take_rerender", text="", icon="FILE_REFRESH")
        buttons.operator("medm.take_load_settings", text="", icon="PASTEDOWN")
        buttons.operator("medm.take_reveal", text="", icon="FILE_FOLDER")
        buttons.separator()
        buttons.operator("medm.take_delete", text="", icon="TRASH")
        edit = sequencer.edit_of(shot)
        row = layout.row(align=True)
        pair = sequencer.compared(edit) if edit else None
        if pair:
            row.operator("medm.take_compare_end", text=f"End {_name(pair[0])} | {_name(pair[1])}", icon="X")
        else:
            row.operator("medm.take_compare", text="Compare", icon="MOD_MIRROR")
        row.operator("medm.take_toggle", text="Toggle", icon="ARROW_LEFTRIGHT")
        row = layout.row(align=True)
        number = take_operators.selected(context)
        chosen = next((record for record in waiting.listed(shot) if record.number == number), None)
        if chosen and takes.is_complete(chosen.folder) and (edit is None or sequencer.strip_of(edit, chosen.number) is None):
            row.operator("medm.take_place", text=f"Place Take {chosen.number}", icon="IMPORT").take = chosen.number
        if edit is not None and compat.sequencer_scene(context) == edit:
            row.operator("medm.take_show", text="Back to Shot", icon="LOOP_BACK").back = True
        else:
            row.operator("medm.take_show", icon="SEQUENCE")
        row.operator("medm.take_export", text="Export", icon="EXPORT")


class MEDM_PT_sequencer_takes(_Takes, bpy.types.Panel):  # type: ignore[misc]
    """The takes of the shot that this edit belongs to."""

    bl_space_type, bl_region_type, bl_category = "SEQUENCE_EDITOR", "UI", "MeDM"
    bl_label = "Takes"


class MEDM_PT_sequencer_take(bpy.types.Panel):  # type: ignore[misc]
    """How the selected take was painted."""

    bl_space_type, bl_region_type, bl_category = "SEQUENCE_EDITOR", "UI", "MeDM"
    bl_label = ""

    @classmethod
    def poll(cls, context: Any) -> bool:
        """Only for a take."""
        return _selected(context) is not None

    def draw_header(self, context: Any) -> None:
        """Which one."""
        record = _selected(context)
        self.layout.label(text=f"Take {record.number}" if record else "")

    def draw(self, context: Any) -> None:
        """The prompt, as long as it is, and what was set."""
        record = _selected(context)
        if record is not None:
            _draw_settings(self.layout, record, context.region.width)


class MEDM_PT_takes(_Takes, bpy.types.Panel):  # type: ignore[misc]
    """The takes of this scene."""

    bl_space_type, bl_region_type, bl_context = "PROPERTIES", "WINDOW", "render"
    bl_parent_id = "MEDM_PT_render"
    bl_label = "Takes"
    bl_options = {"DEFAULT_CLOSED"}
    bl_order = 100


def _selected(context: Any) -> takes.Record | None:
    number = take_operators.selected(context)
    return next((record for record in waiting.listed(take_operators.shot_of(context)) if record.number == number), None)


# -- drawing -----------------------------------------------------------------------------------------------------------


def _draw_waiting(layout: Any, shot: Any) -> None:
    """The takes that were painted while Blender was closed."""
    own = {record.folder for record in waiting.waiting(shot)}
    for record in (record for record in waiting.listed(shot) if record.folder in own):
        told = waiting.news(record)
        box = layout.box()
        row = box.row()
        row.label(text=told.message, icon={"finished": "CHECKMARK", "painting": "TIME"}.get(told.state, "QUESTION"))
        row = box.row(align=True)
        place = row.row(align=True)
        place.enabled = told.state in ("finished", "unknown")
        place.operator("medm.take_place", text="Place", icon="IMPORT").take = record.number
        row.operator("medm.take_forget", text="Forget", icon="X").take = record.number


def _draw_settings(layout: Any, record: takes.Record, width: int) -> None:
    noted = takes.notes(record)
    painted = noted["settings"]
    column = layout.column(align=True)
    letters = max(16, width // max(1, round(8 * bpy.context.preferences.system.ui_scale)))
    for line in textwrap.wrap(_line(noted["prompt"], 2000), letters) or ["(no prompt)"]:
        column.label(text=line)
    layout.separator()
    column = layout.column(align=True)
    shown = {name: painted.get(name) for name, _ in _SETTINGS} | {"mode": noted["mode"].capitalize(), "model": noted["model"]}
    if noted["mode"] == "full":
        shown["strength"] = None
    for name, label in _SETTINGS:
        value = shown[name]
        if value not in (None, ""):
            _draw_fact(column, label, f"{value:.3g}" if isinstance(value, float) else _line(str(value)))
    if record.frame_end >= record.frame_start:
        _draw_fact(column, "Frames", f"{record.frame_start} to {record.frame_end}")
    if record.width and record.height:
        _draw_fact(column, "Size", f"{record.width} x {record.height}")
    if record.created:
        _draw_fact(column, "Submitted", record.created[:16].replace("T", " "))
    if record.error:
        layout.label(text=record.error, icon="ERROR")


def _draw_fact(column: Any, label: str, value: str) -> None:
    parts = column.split(factor=0.4)
    left = parts.row()
    left.alignment = "RIGHT"
    left.label(text=label)
    parts.label(text=value)


def _line(text: str, longest: int = 80) -> str:
    """A text in one line, as long as a row can be."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _name(number: int) -> str:
    return "Original" if number == sequencer.BEAUTY else str(number)


def _thumbnail(record: takes.Record) -> int:
    """Blender's id of a small picture of the take's middle frame, read in the background when it is first drawn; 0 if there is none."""
    if _thumbnails is None or record.state != "ready" or record.frame_end < record.frame_start:
        return 0
    file = record.folder / "frames" / f"{(record.frame_start + record.frame_end) // 2:04d}.png"
    key = f"{file}|{record.created}"
    if key not in _thumbnails:
        if not file.is_file():
            return 0
        _thumbnails.load(key, str(file), "IMAGE")
    return int(_thumbnails[key].icon_id)


# -- the rows ----------------------------------------------------------------------------------------------------------


def _wanted_rows(shot: Any) -> list[int]:
    numbers = [record.number for record in waiting.listed(shot)]
    edit = sequencer.edit_of(shot)
    return [sequencer.BEAUTY, *numbers] if numbers and edit and sequencer.strip_of(edit, sequencer.BEAUTY) else numbers


def _keep_rows(context: Any, shot: Any) -> None:
    """Have the rows brought up to date right after this redraw, if they are not."""
    there = [(row.scene, row.number) for row in context.window_manager.medm_takes]
    if there != [(shot.name, number) for number in _wanted_rows(shot)] and not bpy.app.timers.is_registered(_update_rows):
        bpy.app.timers.register(_update_rows, first_interval=0.0)


def _update_rows() -> None:
    context = bpy.context
    if context.window is None and context.window_manager.windows:
        with context.temp_override(window=context.window_manager.windows[0]):
            fill_rows(bpy.context)
    else:
        fill_rows(context)
    waiting.redraw()


def fill_rows(context: Any) -> None:
    """Bring the list's rows up to date. A take that is new is selected; else the selection stays with its take."""
    manager = context.window_manager
    shot = take_operators.shot_of(context)
    rows = manager.medm_takes
    before = {row.number for row in rows if row.scene == shot.name}
    chosen = take_operators.selected(context)
    wanted = _wanted_rows(shot)
    new = [number for number in wanted if number not in before and number != sequencer.BEAUTY]
    rows.clear()
    for number in wanted:
        row = rows.add()
        row.name, row.number, row.scene = str(number), number, shot.name
    if new:
        chosen = new[-1]
    manager.medm_take_index = wanted.index(chosen) if chosen in wanted else len(wanted) - 1


CLASSES = (MEDM_take_row, MEDM_UL_takes, MEDM_PT_sequencer_takes, MEDM_PT_sequencer_take, MEDM_PT_takes)


def register() -> None:
    """Called when the extension is enabled, after the Render properties' panel."""
    global _thumbnails
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.WindowManager.medm_takes = bpy.props.CollectionProperty(type=MEDM_take_row, options={"HIDDEN", "SKIP_SAVE"})
    bpy.types.WindowManager.medm_take_index = bpy.props.IntProperty(
        name="Take", description="The take that is selected in the list", default=-1, options={"SKIP_SAVE"}
    )
    _thumbnails = bpy.utils.previews.new()


def unregister() -> None:
    """Called when the extension is disabled."""
    global _thumbnails
    if bpy.app.timers.is_registered(_update_rows):
        bpy.app.timers.unregister(_update_rows)
    bpy.utils.previews.remove(_thumbnails)
    _thumbnails = None
    del bpy.types.WindowManager.medm_take_index, bpy.types.WindowManager.medm_takes
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)

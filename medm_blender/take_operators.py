"""What an artist does with takes: place, compare, show, render again, load the settings of, delete, export, reveal.

Each operator works on the shot of the scene that the user is in, be it the shot itself or its edit, and on the take that the list has
selected unless it is told a number. For scripts too: `bpy.ops.medm.take_compare(left=1, right=2)`.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty

from . import compat, folders, sequencer, settings, takes, waiting
from .client import ServerError

REFUSALS = (takes.TakeError, sequencer.StripError, folders.FolderError, ServerError)
SELECTED = -1
"""Instead of a take's number: the one that is selected in the list, or if there is none, the one that is shown."""
_KNOWN_FILES = (takes.RECORD, "take.json", "preview.mp4", "scan.png")
_NUMBER: dict[str, Any] = {"default": SELECTED, "min": SELECTED, "options": {"SKIP_SAVE"}}


def shot_of(context: Any) -> Any:
    """The scene whose takes are meant: that of the edit which the sequencer or the window shows, else the window's scene itself."""
    for scene in (compat.sequencer_scene(context), context.scene):
        shot = sequencer.shot_of(scene) if scene else None
        if shot is not None:
            return shot
    return context.scene


def edit_of(context: Any) -> Any:
    """The edit of that shot. Raises TakeError if there is none yet."""
    shot = shot_of(context)
    edit = sequencer.edit_of(shot)
    if edit is None:
        raise takes.TakeError(f'no take of "{shot.name}" has been placed yet')
    return edit


def selected(context: Any) -> int | None:
    """The number of the take that is selected in the list; if none is, of the one that is shown; None if there is neither."""
    manager = context.window_manager
    listed = getattr(manager, "medm_takes", ())
    if 0 <= getattr(manager, "medm_take_index", -1) < len(listed):
        row = listed[manager.medm_take_index]
        if row.scene == shot_of(context).name:
            return int(row.number)
    edit = sequencer.edit_of(shot_of(context))
    return sequencer.shown(edit) if edit else None


def number_of(context: Any, number: int) -> int:
    """The number that an operator was given, or the selected take's. Raises TakeError if there is none."""
    found = selected(context) if number == SELECTED else number
    if found is None:
        raise takes.TakeError("select a take first")
    return found


class _TakeOperator(bpy.types.Operator):  # type: ignore[misc]
    """Says in one line what stands in the way; the work is in `_do`, which returns a line for the user."""

    bl_options = {"REGISTER", "UNDO"}
    needs_edit = False

    @classmethod
    def poll(cls, context: Any) -> bool:
        """Whether it can be done here; if not, the button says why."""
        if context.scene is None:
            return False
        if cls.needs_edit and sequencer.edit_of(shot_of(context)) is None:
            cls.poll_message_set("No take of this shot has been placed yet: render one, or place one")
            return False
        return True

    def execute(self, context: Any) -> set[str]:
        """Does it, and says what came of it."""
        try:
            said = self._do(context)
        except REFUSALS as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if said:
            self.report({"INFO"}, said)
        waiting.redraw()
        return {"FINISHED"}

    def _do(self, context: Any) -> str:
        raise NotImplementedError


class MEDM_OT_take_place(_TakeOperator):
    """Put a take into the edit: one whose frames are in its folder, or one that a server finished while Blender was closed"""

    bl_idname, bl_label = "medm.take_place", "Place Take"

    take: IntProperty(name="Take", description="Number of the take; -1: all that are not in the edit", **_NUMBER)  # type: ignore[valid-type]

    def _do(self, context: Any) -> str:
        shot = shot_of(context)
        records = [takes.find(shot, self.take)] if self.take != SELECTED else not_placed(shot)
        if not records:
            raise takes.TakeError("every take is in the edit already")
        placed, fetched = [], []
        for record in records:
            if not takes.is_complete(record.folder) and record.state == "painting":
                if not bpy.app.background:
                    waiting.fetch(shot, record)
                    fetched.append(record.number)
                    continue
                from . import preferences

                waiting.bring(record, preferences.target(), lambda *_: None)
            takes.finish(shot, record.folder)
            placed.append(record.number)
        return _said("Placed", placed) if placed else _said("Fetching", fetched)


class MEDM_OT_take_forget(_TakeOperator):
    """Offer this take no more; it is not deleted from the server"""

    bl_idname, bl_label = "medm.take_forget", "Forget Take"

    take: IntProperty(name="Take", description="Number of the take", **_NUMBER)  # type: ignore[valid-type]

    def _do(self, context: Any) -> str:
        record = takes.find(shot_of(context), number_of(context, self.take))
        if record.state != "painting":
            raise takes.TakeError(f"take {record.number} is not waited for")
        waiting.forget(record)
        return f"Take {record.number} is not offered any more"


class MEDM_OT_take_solo(_TakeOperator):
    """Show this take and mute all others"""

    bl_idname, bl_label = "medm.take_solo", "Show Only This Take"
    needs_edit = True

    take: IntProperty(name="Take", description="Number of the take; 0 is the original", **_NUMBER)  # type: ignore[valid-type]

    def _do(self, context: Any) -> str:
        sequencer.show_only(edit_of(context), number_of(context, self.take))
        return ""


class MEDM_OT_take_toggle(_TakeOperator):
    """Go back and forth between the take that is shown and the one that was shown before"""

    bl_idname, bl_label = "medm.take_toggle", "Toggle Takes"
    needs_edit = True

    def _do(self, context: Any) -> str:
        return f"Take {sequencer.toggle(edit_of(context)) or '0, the original'}"


class MEDM_OT_take_compare(_TakeOperator):
    """Show two takes side by side in one picture: the left part of one, the right part of another"""

    bl_idname, bl_label = "medm.take_compare", "Compare Takes"
    needs_edit = True

    left: IntProperty(name="Left", description="Number of the take on the left; -1: the one that is shown", **_NUMBER)  # type: ignore[valid-type]
    right: IntProperty(name="Right", description="Number of the take on the right; -1: the selected one", **_NUMBER)  # type: ignore[valid-type]
    split: FloatProperty(  # type: ignore[valid-type]
        name="Split", description="Where the picture is parted, as a share of its width", default=0.5, min=0.0, max=1.0, subtype="FACTOR"
    )

    def _do(self, context: Any) -> str:
        edit = edit_of(context)
        right = number_of(context, self.right)
        left = self.left
        if left == SELECTED:
            before = edit.get(sequencer.BEFORE)
            others = [int(strip[sequencer.TAKE]) for strip in sequencer.take_strips(edit) if strip[sequencer.TAKE] != right]
            here = sequencer.shown(edit)
            if not others:
                raise takes.TakeError("there is no other take in the edit to compare with")
            left = here if here in others else before if before in others else max((n for n in others if n < right), default=others[-1])
        sequencer.compare(edit, left, right, self.split)
        self.left, self.right = left, right  # so that moving the split in the redo panel keeps them
        return ""


class MEDM_OT_take_compare_end(_TakeOperator):
    """Show the right one of two compared takes alone again"""

    bl_idname, bl_label = "medm.take_compare_end", "End Comparison"
    needs_edit = True

    def _do(self, context: Any) -> str:
        edit = edit_of(context)
        pair = sequencer.compared(edit)
        if pair is None:
            raise takes.TakeError("no takes are compared")
        sequencer.show_only(edit, pair[1])
        return ""


class MEDM_OT_take_rerender(_TakeOperator):
    """Render a new take of the shot as it is now, with the settings of this one"""

    bl_idname, bl_label = "medm.take_rerender", "Render Take Again"
    bl_options = {"REGISTER"}

    take: IntProperty(name="Take", description="Number of the take", **_NUMBER)  # type: ignore[valid-type]
    another_seed: BoolProperty(  # type: ignore[valid-type]
        name="Another Seed", description="All settings but the seed, so that the take looks different", options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context: Any) -> bool:
        """Whether it can be done here; if not, the button says why."""
        if not hasattr(bpy.types, "MEDM_OT_render_take"):
            cls.poll_message_set("Rendering takes is not available")
            return False
        return super().poll(context)

    def _do(self, context: Any) -> str:
        shot = shot_of(context)
        record = takes.find(shot, number_of(context, self.take))
        if not record.settings:
            raise takes.TakeError(f"the settings of take {record.number} are not known")
        again = dict(record.settings)
        if self.another_seed:
            again["seed"] = max([int(other.settings.get("seed") or 0) for other in takes.of(shot)], default=0) + 1
        given: dict[str, Any] = {"settings": json.dumps(again)}
        if record.frame_end >= record.frame_start:
            given |= {"frame_start": record.frame_start, "frame_end": record.frame_end}
        if record.width and record.height:
            given |= {"width": record.width, "height": record.height}
        with context.temp_override(scene=shot):
            try:
                bpy.ops.medm.render_take("EXEC_DEFAULT" if bpy.app.background else "INVOKE_DEFAULT", **given)
            except RuntimeError as error:
                raise takes.TakeError(str(error).strip().splitlines()[-1].removeprefix("Error: ")) from error
        return ""


class MEDM_OT_take_load_settings(_TakeOperator):
    """Put the settings that this take was painted with into the shot's panel"""

    bl_idname, bl_label = "medm.take_load_settings", "Load Settings of Take"

    take: IntProperty(name="Take", description="Number of the take", **_NUMBER)  # type: ignore[valid-type]

    def _do(self, context: Any) -> str:
        shot = shot_of(context)
        record = takes.find(shot, number_of(context, self.take))
        if not record.settings:
            raise takes.TakeError(f"the settings of take {record.number} are not known")
        if shot.library is not None:
            raise takes.TakeError(f'"{shot.name}" is linked from another file: its settings cannot be changed here')
        settings.apply(shot, record.settings)
        return f'Settings of take {record.number} are in the panel of "{shot.name}"'


class MEDM_OT_take_delete(_TakeOperator):
    """Take this take out of the edit and delete its files from the disk; the files cannot be brought back"""

    bl_idname, bl_label = "medm.take_delete", "Delete Take"

    take: IntProperty(name="Take", description="Number of the take", **_NUMBER)  # type: ignore[valid-type]

    def invoke(self, context: Any, event: Any) -> set[str]:
        """From the window: asks first."""
        try:
            record = takes.find(shot_of(context), number_of(context, self.take))
        except REFUSALS as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.take = record.number
        answer: set[str] = context.window_manager.invoke_confirm(
            self,
            event,
            title=f"Delete take {record.number}?",
            message="Its files are deleted from the disk and cannot be brought back.",
            confirm_text="Delete",
            icon="WARNING",
        )
        return answer

    def _do(self, context: Any) -> str:
        shot = shot_of(context)
        record = takes.find(shot, number_of(context, self.take))
        if any(waited.folder == record.folder for waited in takes.pending(shot)) and record not in waiting.waiting(shot):
            raise takes.TakeError(f"take {record.number} is being painted: cancel it first")
        left = delete_files(record.folder)
        edit = sequencer.edit_of(shot)
        if edit is not None:
            sequencer.remove_take(edit, record.number)
        if left:
            return f"Take {record.number} deleted; other files are left in {record.folder}"
        return f"Take {record.number} deleted"


class MEDM_OT_take_reveal(_TakeOperator):
    """Open the folder of this take in the system's file browser"""

    bl_idname, bl_label = "medm.take_reveal", "Open Folder of Take"
    bl_options = {"REGISTER"}

    take: IntProperty(name="Take", description="Number of the take", **_NUMBER)  # type: ignore[valid-type]

    @classmethod
    def poll(cls, context: Any) -> bool:
        """Whether it can be done here; if not, the button says why."""
        if bpy.app.background:
            cls.poll_message_set("There is no window to open it in")
            return False
        return super().poll(context)

    def _do(self, context: Any) -> str:
        record = takes.find(shot_of(context), number_of(context, self.take))
        if not record.folder.is_dir():
            raise takes.TakeError(f"{record.folder} is there no longer")
        bpy.ops.wm.path_open(filepath=str(record.folder))
        return ""


class MEDM_OT_take_show(_TakeOperator):
    """Show the shot's edit, in the sequencer of this workspace or in the Video Editing one; in the edit, go back to the shot"""

    bl_idname, bl_label = "medm.take_show", "Show Takes"
    bl_options = {"REGISTER"}
    needs_edit = True

    back: BoolProperty(name="Back to Shot", description="Leave the edit and show the shot", options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def _do(self, context: Any) -> str:
        from . import running

        edit, shot, window = edit_of(context), shot_of(context), context.window
        if window is None:
            raise takes.TakeError("there is no window to show it in")
        if self.back:
            if window.scene == edit:
                window.scene = shot
            before = bpy.data.workspaces.get(str(context.window_manager.get(_CAME_FROM, "")))
            if before is not None:
                window.workspace = before
            return ""
        workspace = window.workspace
        if not any(area.type == "SEQUENCE_EDITOR" for area in window.screen.areas):
            context.window_manager[_CAME_FROM] = workspace.name
            workspace = _go_to_video_editing(window)
        compat.edit_in(window, workspace, edit)
        bpy.app.timers.register(_frame_takes, first_interval=0.3)  # a workspace is there only after the next event
        running.seen()
        return ""


class MEDM_OT_take_export(_TakeOperator):
    """Write the edit as it is shown, as a movie or as pictures; Escape stops it"""

    bl_idname, bl_label = "medm.take_export", "Export Edit"
    needs_edit = True

    filepath: StringProperty(name="File", description="The movie, or the folder of the pictures and how they begin", subtype="FILE_PATH")  # type: ignore[valid-type]
    kind: EnumProperty(  # type: ignore[valid-type]
        name="Format",
        description="What the edit is written as",
        items=(("MP4", "Movie", "An MP4 file (H.264) that plays everywhere"), ("PNG", "Pictures", "PNG files, as exact as the takes")),
        default="MP4",
    )
    filter_glob: StringProperty(default="*.mp4;*.png", options={"HIDDEN"})  # type: ignore[valid-type]
    check_existing: BoolProperty(default=True, options={"HIDDEN"})  # type: ignore[valid-type]

    def invoke(self, context: Any, event: Any) -> set[str]:
        """From the window: asks first."""
        if not self.filepath:
            folder = Path(bpy.data.filepath).parent if bpy.data.filepath else Path.home()
            self.filepath = str(folder / f"{_file_name(edit_of(context).name)}.mp4")
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def check(self, context: Any) -> bool:
        """The ending goes with the format."""
        path = Path(self.filepath)
        wanted = path.with_suffix(f".{self.kind.lower()}")
        if path.suffix.lower() in (".mp4", ".png") and path != wanted:
            self.filepath = str(wanted)
            return True
        return False

    def _do(self, context: Any) -> str:
        edit = edit_of(context)
        if not self.filepath:
            raise takes.TakeError("say where the edit is to be written")
        path = Path(bpy.path.abspath(self.filepath)).absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(path.parent, os.W_OK):
                raise PermissionError(0, "permission denied")
        except OSError as error:
            raise takes.TakeError(f"{path.parent} cannot be written: {(error.strerror or str(error)).lower()}") from error
        if self.kind == "MP4":
            compat.save_as_movie(edit.render)
            edit.render.filepath = str(path.with_suffix(".mp4"))
        else:
            compat.save_as_png(edit.render.image_settings)
            edit.render.filepath = str(path.with_suffix("")) + "_####.png"
        if bpy.app.background:
            bpy.ops.render.render("EXEC_DEFAULT", animation=True, scene=edit.name)
            written = f"The edit is in {path.parent}"
        else:
            _render_as_job(edit)
            written = f"The edit is being written to {path.parent}"
        early = min((compat.strip_range(strip)[0] for strip in sequencer.take_strips(edit) if not strip.mute), default=0)
        return f"{written}; Blender renders no frames before 0, they are left out" if early < 0 else written


# -- how -----------------------------------------------------------------------------------------------------------------

_CAME_FROM = "medm_came_from"
"""Custom property of the window manager, which is not saved: the workspace that Show Takes left."""


def not_placed(shot: Any) -> list[takes.Record]:
    """The takes that could be in the shot's edit and are not; those that are still painted are not among them, as far as is known."""
    edit = sequencer.edit_of(shot)
    there = {sequencer.take_folder(strip) for strip in sequencer.take_strips(edit)} if edit else set()
    own = {record.folder for record in waiting.waiting(shot)}
    found = []
    for record in takes.of(shot):
        if record.folder in there:
            continue
        if record.state == "painting":
            if record.folder in own and waiting.news(record).state in ("finished", "unknown"):
                found.append(record)
        elif takes.is_complete(record.folder):
            found.append(record)
    return found


def delete_files(take: Path) -> bool:
    """Delete what MeDM wrote into a take's folder, and the folder if it is empty then; returns whether anything else is left in it.

    Follows no links, and touches nothing that is not called as a take. Raises TakeError.
    """
    if folders.take_number(take) is None or take.is_symlink():
        raise takes.TakeError(f"{take} is not a folder that MeDM made: delete it yourself")
    frames = take / "frames"
    try:
        if frames.is_dir() and not frames.is_symlink():
            for file in frames.iterdir():
                if (file.suffix == ".png" and file.stem.removeprefix("-").isdecimal()) or _is_part(file):
                    file.unlink()
            with contextlib.suppress(OSError):  # something else is in it
                frames.rmdir()
        for file in take.iterdir() if take.is_dir() else ():
            if file.name in _KNOWN_FILES or _is_part(file):
                file.unlink()
        if take.is_dir() and not any(take.iterdir()):
            take.rmdir()
    except OSError as error:
        raise takes.TakeError(f"{error.filename or take} cannot be deleted: {(error.strerror or str(error)).lower()}") from error
    return take.is_dir()


def _is_part(file: Path) -> bool:
    """Whether a transfer that was broken off left it."""
    return file.name.startswith(".") and file.suffix == ".part" and not file.is_dir()


def _go_to_video_editing(window: Any) -> Any:
    """Show the Video Editing workspace, brought from Blender's own template if the file has none, and return it."""
    workspace = next((found for found in bpy.data.workspaces if found.name.startswith("Video Editing")), None)
    if workspace is None:
        templates = [Path(folder) / "Video_Editing" / "startup.blend" for folder in bpy.utils.app_template_paths()]
        template = next((file for file in templates if file.is_file()), None)
        if template is None:
            raise takes.TakeError("open a Video Sequencer to see the takes in")
        before = set(bpy.data.workspaces)
        with bpy.context.temp_override(window=window):
            bpy.ops.workspace.append_activate(idname="Video Editing", filepath=str(template))
        workspace = next((found for found in bpy.data.workspaces if found not in before), window.workspace)
    window.workspace = workspace
    return workspace


def _render_as_job(edit: Any) -> None:
    """Blender's own job: the window stays free, and the status bar shows how far it is. Its render view would open and show nothing."""
    preferences = bpy.context.preferences
    opened, dirty = preferences.view.render_display_type, preferences.is_dirty
    preferences.view.render_display_type = "NONE"
    try:
        bpy.ops.render.render("INVOKE_DEFAULT", animation=True, scene=edit.name)
    finally:
        preferences.view.render_display_type = opened
        preferences.is_dirty = dirty


def _frame_takes() -> None:
    """Show all strips in the sequencers, and the sidebar in the timeline, where the list is."""
    for window in bpy.context.window_manager.windows:
        for area in (area for area in window.screen.areas if area.type == "SEQUENCE_EDITOR"):
            kind = area.spaces.active.view_type
            region = next((region for region in area.regions if region.type == ("PREVIEW" if kind == "PREVIEW" else "WINDOW")), None)
            with bpy.context.temp_override(window=window, area=area, region=region), contextlib.suppress(RuntimeError):
                if kind == "PREVIEW":
                    bpy.ops.sequencer.view_all_preview()
                else:
                    area.spaces.active.show_region_ui = True
                    bpy.ops.sequencer.view_all()
    bpy.app.timers.register(_open_tab, first_interval=0.3)  # a sidebar has tabs once it was drawn


def _open_tab() -> None:
    for window in bpy.context.window_manager.windows:
        for area in (area for area in window.screen.areas if area.type == "SEQUENCE_EDITOR"):
            for region in (region for region in area.regions if region.type == "UI"):
                with contextlib.suppress(AttributeError, TypeError):  # closed, or not drawn yet: the tab stays where it was
                    region.active_panel_category = "MeDM"
                    region.tag_redraw()


def _file_name(name: str) -> str:
    return "".join("_" if letter in '<>:"/\\|?*' else letter for letter in name)


def _said(what: str, numbers: list[int]) -> str:
    return f"{what} take{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


OPERATORS = (
    MEDM_OT_take_place,
    MEDM_OT_take_forget,
    MEDM_OT_take_solo,
    MEDM_OT_take_toggle,
    MEDM_OT_take_compare,
    MEDM_OT_take_compare_end,
    MEDM_OT_take_rerender,
    MEDM_OT_take_load_settings,
    MEDM_OT_take_delete,
    MEDM_OT_take_reveal,
    MEDM_OT_take_show,
    MEDM_OT_take_export,
)


def register() -> None:
    """Called when the extension is enabled."""
    for operator in OPERATORS:
        bpy.utils.register_class(operator)
    waiting.register()


def unregister() -> None:
    """Called when the extension is disabled."""
    waiting.unregister()
    for timer in (_frame_takes, _open_tab):
        if bpy.app.timers.is_registered(timer):
            bpy.app.timers.unregister(timer)
    for operator in reversed(OPERATORS):
        bpy.utils.unregister_class(operator)

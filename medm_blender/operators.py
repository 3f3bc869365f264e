"""The operators: render a take, try a frame, cancel; and those that mend what preflight finds. Thin shells around `running.py`.

Invoked, as buttons do, a take is made while the window stays free; executed, as scripts do, the call returns when it is there. Both
refuse in one line. Whatever changes the user's data can be undone.
"""

from __future__ import annotations

import json
from typing import Any

import bpy
from bpy.props import EnumProperty, IntProperty, StringProperty

from . import passes, preflight, running, settings

_HIDDEN = {"HIDDEN", "SKIP_SAVE"}


class _Making:
    """What rendering a take and trying a frame have in common."""

    settings: StringProperty(  # type: ignore[valid-type]
        name="Settings", description="Settings as JSON, as the server takes them; empty: the panel's", options=_HIDDEN
    )
    width: IntProperty(name="Width", description="In pixels; 0: the panel's", min=0, max=8192, options=_HIDDEN)  # type: ignore[valid-type]
    height: IntProperty(name="Height", description="In pixels; 0: the panel's", min=0, max=8192, options=_HIDDEN)  # type: ignore[valid-type]

    @classmethod
    def poll(cls, context: Any) -> bool:
        if context.scene is None or not hasattr(context.scene, "medm"):
            return False
        if running.is_running():
            cls.poll_message_set("MeDM is painting: wait until it is done, or cancel it")  # type: ignore[attr-defined]
            return False
        return True

    def request(self, context: Any) -> running.Request:
        raise NotImplementedError

    def invoke(self, context: Any, event: Any) -> set[str]:
        return self._try(context, False)

    def execute(self, context: Any) -> set[str]:
        return self._try(context, True)

    def _try(self, context: Any, wait: bool) -> set[str]:
        try:
            standing = [] if self.settings else preflight.errors(preflight.check(context.scene, wait=wait))
            # A server that is merely not known to be there is asked when it is needed.
            standing = [finding for finding in standing if finding.fix != "medm.server_test"]
            if standing:
                return self._refuse(standing[0].message)
            request = self.request(context)
            if wait:
                run = running.work(request, lambda share, phase: print(f"medm_progress {share:.4g} {phase}", flush=True))
                self._say("INFO", run.message)
            else:
                running.start(request)
        except (*running.REFUSALS, running.WindowError) as error:
            return self._refuse(str(error))
        except ValueError:
            return self._refuse("The settings are not JSON")
        return {"FINISHED"}

    def _given(self) -> dict[str, Any] | None:
        if not self.settings:
            return None
        given = json.loads(self.settings)
        if not isinstance(given, dict):
            raise ValueError
        return given

    def _size(self) -> tuple[int, int] | None:
        return (self.width, self.height) if self.width and self.height else None

    def _refuse(self, message: str) -> set[str]:
        self._say("ERROR", message[:1].upper() + message[1:])
        return {"CANCELLED"}

    def _say(self, level: str, message: str) -> None:
        self.report({level}, message)  # type: ignore[attr-defined]


class MEDM_OT_render_take(_Making, bpy.types.Operator):  # type: ignore[misc]
    """Render the passes of all frames, have them painted, and put the take into the shot's edit"""

    bl_idname = "medm.render_take"
    bl_label = "Render Take"

    frame_start: IntProperty(name="Start", description="First frame; the panel's if it is after End", default=0, options=_HIDDEN)  # type: ignore[valid-type]
    frame_end: IntProperty(name="End", description="Last frame; the panel's if it is before Start", default=-1, options=_HIDDEN)  # type: ignore[valid-type]

    def request(self, context: Any) -> running.Request:
        """The take of these properties, or of the panel."""
        frames = (self.frame_start, self.frame_end) if self.frame_end >= self.frame_start else None
        return running.request_of(context.scene, "take", self._given(), frames, self._size())


class MEDM_OT_preview_frame(_Making, bpy.types.Operator):  # type: ignore[misc]
    """Paint the current frame alone, and show it in an Image Editor"""

    bl_idname = "medm.preview_frame"
    bl_label = "Preview Frame"

    frame: IntProperty(name="Frame", description="Which; if it is not set, the current one", options=_HIDDEN)  # type: ignore[valid-type]

    def request(self, context: Any) -> running.Request:
        """The preview of this frame."""
        frame = self.frame if self.properties.is_property_set("frame") else context.scene.frame_current
        return running.request_of(context.scene, "preview", self._given(), (frame, frame), self._size())


class MEDM_OT_cancel(bpy.types.Operator):  # type: ignore[misc]
    """Stop painting at once. The passes that were rendered stay"""

    bl_idname = "medm.cancel"
    bl_label = "Cancel MeDM"

    @classmethod
    def poll(cls, context: Any) -> bool:
        """Only while something is made: Escape goes on to whoever else wants it."""
        if not running.is_running():
            cls.poll_message_set("Nothing is being painted")
            return False
        return True

    def execute(self, context: Any) -> set[str]:
        """Stop."""
        running.cancel()
        self.report({"INFO"}, "Painting was cancelled")
        return {"FINISHED"}


class MEDM_OT_dismiss(bpy.types.Operator):  # type: ignore[misc]
    """Close the message on how the last take ended"""

    bl_idname = "medm.dismiss"
    bl_label = "Dismiss MeDM Message"

    @classmethod
    def poll(cls, context: Any) -> bool:
        """Only where there is one."""
        return running.current() is not None and not running.is_running()

    def execute(self, context: Any) -> set[str]:
        """Forget it."""
        running.forget()
        return {"FINISHED"}


class MEDM_OT_tell(bpy.types.Operator):  # type: ignore[misc]
    """Report a message of MeDM's"""

    bl_idname = "medm.tell"
    bl_label = "MeDM Report"
    bl_options = {"INTERNAL"}

    message: StringProperty(options=_HIDDEN)  # type: ignore[valid-type]
    level: EnumProperty(items=[(name, name.title(), "") for name in ("INFO", "WARNING", "ERROR")], options=_HIDDEN)  # type: ignore[valid-type]

    def execute(self, context: Any) -> set[str]:
        """Say it."""
        self.report({self.level}, self.message)
        return {"FINISHED"}


# -- what preflight finds -----------------------------------------------------------------------------------------------


class _Mending:
    """An operator that changes the scene so that a finding of preflight is gone."""

    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: Any) -> bool:
        if context.scene is None or not hasattr(context.scene, "medm"):
            return False
        if context.scene.library is not None:
            cls.poll_message_set("The scene is linked from another file")  # type: ignore[attr-defined]
            return False
        return True

    def execute(self, context: Any) -> set[str]:
        refusal = self.mend(context, context.scene)
        if refusal:
            self.report({"ERROR"}, refusal)  # type: ignore[attr-defined]
            return {"CANCELLED"}
        return {"FINISHED"}

    def mend(self, context: Any, scene: Any) -> str | None:
        """Do it; the reason in one line if it cannot be done."""
        raise NotImplementedError


class MEDM_OT_motion_blur_off(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Switch the scene's motion blur off. Takes are painted without it either way: vectors of blurred pixels mean nothing"""

    bl_idname = "medm.motion_blur_off"
    bl_label = "Switch Motion Blur Off"

    def mend(self, context: Any, scene: Any) -> None:
        """As the checkbox in the Render properties does."""
        scene.render.use_motion_blur = False


class MEDM_OT_sequencer_off(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Have this scene rendered, not the strips in its sequencer. Takes are painted from the scene either way"""

    bl_idname = "medm.sequencer_off"
    bl_label = "Render the Scene, Not Its Strips"

    def mend(self, context: Any, scene: Any) -> None:
        """As the checkbox in the Output properties does."""
        scene.render.use_sequencer = False


class MEDM_OT_compositor_off(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Render without the compositor, whose nodes move pixels away from the motion that is known of them"""

    bl_idname = "medm.compositor_off"
    bl_label = "Render Without Compositor"

    def mend(self, context: Any, scene: Any) -> None:
        """As the checkbox in the Output properties does."""
        scene.render.use_compositing = False


class MEDM_OT_camera_add(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Use a camera that is in the scene, or add one that sees what the 3D viewport shows"""

    bl_idname = "medm.camera_add"
    bl_label = "Add Camera for Takes"

    def mend(self, context: Any, scene: Any) -> None:
        """Takes the first by name, where there are several."""
        cameras = sorted((thing for thing in scene.objects if thing.type == "CAMERA"), key=lambda thing: thing.name)
        if cameras:
            scene.camera = cameras[0]
            return
        data = bpy.data.cameras.new("Camera")
        camera = bpy.data.objects.new("Camera", data)
        scene.collection.objects.link(camera)
        scene.camera = camera
        view = _viewport(context)
        if view is None:
            camera.location, camera.rotation_euler = (7.36, -6.93, 4.96), (1.11, 0.0, 0.815)  # where Blender's own stands
        else:
            camera.matrix_world = view.region_3d.view_matrix.inverted()
            data.lens = view.lens / 2.0  # a viewport sees with a sensor of 72 mm


class MEDM_OT_camera_perspective(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Make the scene's panoramic cameras perspective ones"""

    bl_idname = "medm.camera_perspective"
    bl_label = "Make Camera Perspective"

    def mend(self, context: Any, scene: Any) -> str | None:
        """Those that markers name too."""
        cameras = {scene.camera, *(marker.camera for marker in scene.timeline_markers)} - {None}
        for camera in cameras:
            if camera.type == "CAMERA" and camera.data.type not in {"PERSP", "ORTHO"}:
                if camera.data.library:
                    return f'The camera "{camera.name}" is linked from another file'
                camera.data.type = "PERSP"
        return None


class MEDM_OT_cycles_enable(bpy.types.Operator):  # type: ignore[misc]
    """Switch the Cycles add-on on, which renders motion and shapes. Your render engine stays the one you chose"""

    bl_idname = "medm.cycles_enable"
    bl_label = "Enable Cycles for Takes"

    def execute(self, context: Any) -> set[str]:
        """As the Preferences do."""
        return set(bpy.ops.preferences.addon_enable(module="cycles"))


class MEDM_OT_view_layer_use(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Use the view layer of this window for rendering"""

    bl_idname = "medm.view_layer_use"
    bl_label = "Use View Layer for Rendering"

    def mend(self, context: Any, scene: Any) -> None:
        """As the checkbox in the View Layer properties does."""
        context.view_layer.use = True


class MEDM_OT_frame_step_one(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Set the scene's frame step to 1: a surface is followed from every frame to the next"""

    bl_idname = "medm.frame_step_one"
    bl_label = "Render Every Frame"

    def mend(self, context: Any, scene: Any) -> None:
        """As in the Output properties."""
        scene.frame_step = 1


class MEDM_OT_frames_of_scene(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Take the scene's own frame range for takes"""

    bl_idname = "medm.frames_of_scene"
    bl_label = "Use the Scene's Frame Range"

    def mend(self, context: Any, scene: Any) -> None:
        """Forgets the panel's, too, so that it starts from the scene's again."""
        scene.medm.use_frame_range = False
        scene.medm.property_unset("frame_start")
        scene.medm.property_unset("frame_end")


class MEDM_OT_size_round(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Round the size of takes to multiples of 8"""

    bl_idname = "medm.size_round"
    bl_label = "Round Size of Takes"

    def mend(self, context: Any, scene: Any) -> None:
        """To the nearest."""
        medm = scene.medm
        medm.width, medm.height = (max(16, round(side / passes.SIZE_STEP) * passes.SIZE_STEP) for side in (medm.width, medm.height))


class MEDM_OT_size_smaller(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Paint three quarters as wide and high, in multiples of 8"""

    bl_idname = "medm.size_smaller"
    bl_label = "Paint Smaller"

    def mend(self, context: Any, scene: Any) -> str | None:
        """From whatever the size is now."""
        width, height = settings.size(scene)
        longer = max(width, height) * 3 // 4
        if longer < 64:
            return "It is as small as it can be: take fewer frames, or a smaller model"
        smaller = passes.model_size(width, height, longer)
        scene.medm.use_size = True
        scene.medm.width, scene.medm.height = smaller
        return None


class MEDM_OT_passes_normal(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Render data passes as large as the take, not three times as wide and high"""

    bl_idname = "medm.passes_normal"
    bl_label = "Render Normal Data Passes"

    def mend(self, context: Any, scene: Any) -> None:
        """One sample a pixel."""
        scene.medm.data_supersampling = "1"


class MEDM_OT_model_bundled(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Paint with the model that MeDM brings along"""

    bl_idname = "medm.model_bundled"
    bl_label = "Use the Bundled Model"

    def mend(self, context: Any, scene: Any) -> None:
        """With control images of its own."""
        scene.medm.property_unset("model")
        scene.medm.property_unset("control")


class MEDM_OT_reference_clear(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Paint without a reference picture"""

    bl_idname = "medm.reference_clear"
    bl_label = "Paint Without Reference"

    def mend(self, context: Any, scene: Any) -> None:
        """The file stays."""
        scene.medm.property_unset("reference")


class MEDM_OT_folder_choose(bpy.types.Operator):  # type: ignore[misc]
    """Choose the folder of this scene's passes and takes"""

    bl_idname = "medm.folder_choose"
    bl_label = "Choose Folder for Takes"
    bl_options = {"REGISTER", "UNDO"}

    directory: StringProperty(name="Folder", description="Where passes and takes are written", subtype="DIR_PATH")  # type: ignore[valid-type]

    def invoke(self, context: Any, event: Any) -> set[str]:
        """Ask for it."""
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: Any) -> set[str]:
        """Take it."""
        context.scene.medm.folder = self.directory
        return {"FINISHED"}


PASS_THROUGH = "MeDM Motion"
"""Name of the node group, and the modifier, that has Cycles see how an object is moved by its other modifiers."""


class MEDM_OT_vectors_mend(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Add a Geometry Nodes modifier that changes nothing: beside it, Cycles sees the motion that keyed modifiers make"""

    bl_idname = "medm.vectors_mend"
    bl_label = "Mend Motion of Modifiers"

    object: StringProperty(name="Object", description="Whose; empty: of all objects that need it", options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def mend(self, context: Any, scene: Any) -> str | None:
        """On every object that needs it, or the one named."""
        things = [thing for thing, _ in preflight.without_vectors(scene) if self.object in {"", thing.name}]
        mended = [thing for thing in things if not thing.library and not thing.data.library]
        if not mended:
            return "No object of this file needs it"
        for thing in mended:
            thing.modifiers.new(PASS_THROUGH, "NODES").node_group = _pass_through()
        return None


def _pass_through() -> Any:
    group = bpy.data.node_groups.get(PASS_THROUGH)
    if group is None or group.library:
        group = bpy.data.node_groups.new(PASS_THROUGH, "GeometryNodeTree")
        group.is_modifier = True
        for way in ("INPUT", "OUTPUT"):
            group.interface.new_socket("Geometry", in_out=way, socket_type="NodeSocketGeometry")
        begin, end = group.nodes.new("NodeGroupInput"), group.nodes.new("NodeGroupOutput")
        end.location.x = 200.0
        group.links.new(begin.outputs[0], end.inputs[0])
    return group


class MEDM_OT_simulations_bake(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Bake all simulations that are not baked yet, up to one frame after the take: motion vectors look that far ahead"""

    bl_idname = "medm.simulations_bake"
    bl_label = "Bake Simulations for Takes"

    def mend(self, context: Any, scene: Any) -> str | None:
        """What is baked already stays as it is."""
        after = settings.frame_range(scene)[1] + 1
        for _, cache in preflight.simulations(scene):
            if not cache.is_baked:
                cache.frame_end = max(cache.frame_end, after)
        last = scene.frame_end
        try:
            scene.frame_end = max(last, after)  # Blender bakes no further
            with context.temp_override(scene=scene):
                bpy.ops.ptcache.bake_all(bake=True)
        finally:
            scene.frame_end = last
        return None


# -- the panel's helpers ------------------------------------------------------------------------------------------------


class MEDM_OT_paint_selected(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Paint only the selected objects, and keep every other pixel of the render"""

    bl_idname = "medm.paint_selected"
    bl_label = "Paint Selected Objects Only"

    @classmethod
    def poll(cls, context: Any) -> bool:
        """Something must be selected."""
        if not any(thing.type not in {"CAMERA", "LIGHT", "EMPTY"} for thing in context.selected_objects):
            cls.poll_message_set("Select the objects that are to be painted")
            return False
        return bool(super().poll(context))

    def mend(self, context: Any, scene: Any) -> None:
        """By their names, in which commas and a leading ! would mean something else."""
        things = [thing for thing in context.selected_objects if thing.type not in {"CAMERA", "LIGHT", "EMPTY"}]
        names = sorted(thing.name.replace(",", "?") for thing in things)
        scene.medm.paint = ", ".join("?" + name[1:] if name.startswith("!") else name for name in names)


class MEDM_OT_paint_clear(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Paint the whole picture"""

    bl_idname = "medm.paint_clear"
    bl_label = "Paint Everything"

    def mend(self, context: Any, scene: Any) -> None:
        """Names nothing."""
        scene.medm.paint = ""


class MEDM_OT_extra_add(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Add a setting by the server's name for it, such as final_harmonisation"""

    bl_idname = "medm.extra_add"
    bl_label = "Add Other Setting"

    name: StringProperty(name="Name", description="As `medm render --help` calls it, with _ for -", options={"SKIP_SAVE"})  # type: ignore[valid-type]
    value: StringProperty(name="Value", description="What it is set to", options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def mend(self, context: Any, scene: Any) -> None:
        """At the end of the list."""
        row = scene.medm.extra.add()
        row.name, row.value = self.name, self.value
        scene.medm.extra_active = len(scene.medm.extra) - 1


class MEDM_OT_extra_remove(_Mending, bpy.types.Operator):  # type: ignore[misc]
    """Remove the setting that is active in the list"""

    bl_idname = "medm.extra_remove"
    bl_label = "Remove Other Setting"

    @classmethod
    def poll(cls, context: Any) -> bool:
        """There must be one."""
        if not super().poll(context):
            return False
        if not 0 <= context.scene.medm.extra_active < len(context.scene.medm.extra):
            cls.poll_message_set("No setting is active in the list")
            return False
        return True

    def mend(self, context: Any, scene: Any) -> None:
        """The one after it becomes active."""
        medm = scene.medm
        medm.extra.remove(medm.extra_active)
        medm.extra_active = max(0, min(medm.extra_active, len(medm.extra) - 1))


def _viewport(context: Any) -> Any | None:
    """The largest 3D viewport's space that does not look through a camera; None if there is none."""
    areas = [area for window in context.window_manager.windows for area in window.screen.areas if area.type == "VIEW_3D"]
    views = [area for area in areas if area.spaces.active.region_3d.view_perspective != "CAMERA"]
    largest = max(views, key=lambda area: area.width * area.height, default=None)
    return largest.spaces.active if largest else None


_CLASSES = (
    *(MEDM_OT_render_take, MEDM_OT_preview_frame, MEDM_OT_cancel, MEDM_OT_dismiss, MEDM_OT_tell),
    *(MEDM_OT_motion_blur_off, MEDM_OT_sequencer_off, MEDM_OT_compositor_off, MEDM_OT_camera_add, MEDM_OT_camera_perspective),
    *(MEDM_OT_cycles_enable, MEDM_OT_view_layer_use, MEDM_OT_frame_step_one, MEDM_OT_frames_of_scene),
    *(
        MEDM_OT_size_round,
        MEDM_OT_size_smaller,
        MEDM_OT_passes_normal,
        MEDM_OT_model_bundled,
        MEDM_OT_reference_clear,
        MEDM_OT_folder_choose,
    ),
    *(MEDM_OT_vectors_mend, MEDM_OT_simulations_bake, MEDM_OT_paint_selected, MEDM_OT_paint_clear, MEDM_OT_extra_add, MEDM_OT_extra_remove),
)
_keys: list[tuple[Any, Any]] = []


def _search_menu(menu: Any, context: Any) -> None:
    """In the Render menu, which is also where the search of menus finds them."""
    menu.layout.separator()
    menu.layout.operator("medm.render_take", icon="RENDER_ANIMATION")
    menu.layout.operator("medm.preview_frame", icon="RENDER_STILL")
    menu.layout.operator("medm.cancel")


def register() -> None:
    """Make the operators available, and Escape cancel what is being painted where it has nothing else to do."""
    for cls in _CLASSES:
        bpy.utils.register_class(cls)
    running.register()
    bpy.types.TOPBAR_MT_render.append(_search_menu)
    keys = bpy.context.window_manager.keyconfigs.addon
    if keys is not None:
        keymap = keys.keymaps.new("Window", space_type="EMPTY")
        _keys.append((keymap, keymap.keymap_items.new("medm.cancel", "ESC", "PRESS")))


def unregister() -> None:
    """Take them away; what is being painted ends."""
    while _keys:
        keymap, item = _keys.pop()
        keymap.keymap_items.remove(item)
    bpy.types.TOPBAR_MT_render.remove(_search_menu)
    running.unregister()
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)

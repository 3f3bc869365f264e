"""Finds out how the objects of a shot move: not at all, as a whole, or by bending; and what no one can say for sure.

For `passes.py`, which looks at every frame as the renderer is given it and writes what was found into the manifest. Whoever reads that
takes a surface point seen again for the same point, so all that is doubtful is called unknown here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import bpy
import numpy as np

from . import compat

MOST_MATRICES = 200_000
"""The manifest holds no more: objects that would take it beyond are called unknown. Some 40 MB of numbers."""

FARTHEST = 1e12
"""No object is farther away, or larger, in a manifest. Some are put there to be out of the way."""

KINDS = ("static", "rigid", "deforming", "unknown")
"""From what says most to what says nothing. static: mesh and place are the same in all frames. rigid: the mesh is, the object-to-world
matrix is not. deforming: the mesh's vertices move, and Generated texture coordinates stay where they are at rest."""

Matrix = tuple[float, ...]
"""16 numbers, row by row."""


@cache
def cryptomatte_id(name: str) -> int:
    """The bits of what Cryptomatte writes for `name`, as a signed 32-bit integer.

    MurmurHash3_x86_32 of the UTF-8 bytes with seed 0; an exponent that would make a denormal, infinity or NaN is moved by one.
    https://github.com/Psyop/Cryptomatte/blob/master/specification/cryptomatte_specification.pdf
    """
    value = _murmur3(name.encode("utf-8", "surrogateescape"))
    if value >> 23 & 255 in (0, 255):
        value ^= 1 << 23
    return value - (1 << 32) if value >> 31 else value


def _murmur3(data: bytes) -> int:
    mask, tail = 0xFFFFFFFF, len(data) % 4
    state = 0

    def mixed(block: int) -> int:
        block = block * 0xCC9E2D51 & mask
        return (block << 15 | block >> 17) * 0x1B873593 & mask

    for (block,) in struct.iter_unpack("<I", data[: len(data) - tail]):
        state ^= mixed(block)
        state = ((state << 13 | state >> 19) * 5 + 0xE6546B64) & mask
    if tail:
        state ^= mixed(int.from_bytes(data[-tail:], "little"))
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & mask
    state = (state ^ state >> 13) * 0xC2B2AE35 & mask
    return state ^ state >> 16


@dataclass(frozen=True)
class _Part:
    """One instance in one frame. geometry: a digest, None for what cannot be compared. identity: None for what may not be the same one
    in another frame. restful: whether Generated coordinates stay at rest when its vertices move."""

    geometry: bytes | None
    vertices: int
    matrix: bytes
    identity: object
    restful: bool


@dataclass
class _Track:
    """All that carries one id, through the frames."""

    name: str
    first: _Part
    digest: bytes
    kind: str = "static"
    matrices: dict[int, bytes] = field(default_factory=dict)

    def update(self, parts: list[_Part], digest: bytes, frame: int) -> None:
        self.matrices[frame] = parts[0].matrix
        found = self._kind_of(parts, digest)
        self.kind = max(self.kind, found, key=KINDS.index)

    def _kind_of(self, parts: list[_Part], digest: bytes) -> str:
        part = parts[0]
        if any(part.geometry is None for part in parts):
            return "unknown"
        if digest == self.digest:
            return "static"
        if len(parts) > 1 or part.identity is None or part.identity != self.first.identity:
            return "unknown"
        if part.geometry == self.first.geometry:
            return "rigid"
        return "deforming" if part.restful and part.vertices == self.first.vertices else "unknown"


class ObjectMotions:
    """Looks at one frame after the other and knows at the end how every object moved."""

    def __init__(self) -> None:
        self._tracks: dict[int, _Track] = {}
        self._frames: list[int] = []

    def look(self, depsgraph: Any, frame: int) -> None:
        """Take in one frame, evaluated as it is rendered."""
        self._frames.append(frame)
        seen: dict[int, list[_Part]] = {}
        names: dict[int, str] = {}
        unknown = {track.name for track in self._tracks.values() if track.kind == "unknown"}
        for name, part in _parts(depsgraph, unknown):
            number = cryptomatte_id(name)
            names[number] = name
            seen.setdefault(number, []).append(part)
        for number, parts in seen.items():
            digest = _digest_of(parts)
            if number not in self._tracks:
                self._tracks[number] = _Track(names[number], parts[0], digest)
            self._tracks[number].update(parts, digest, frame)

    @property
    def any_deforms(self) -> bool:
        """Whether there is something that rest coordinates are needed for."""
        return any(track.kind == "deforming" for track in self._tracks.values())

    def entries(self) -> list[dict[str, Any]]:
        """The manifest's `objects`: id, name, kind; of what is rigid also a matrix, or None if it is nowhere, for each frame looked at."""
        entries: list[dict[str, Any]] = []
        room = MOST_MATRICES
        for number, track in self._tracks.items():
            entry: dict[str, Any] = {"id": number, "name": track.name, "kind": track.kind}
            if track.kind == "rigid":
                room -= len(self._frames)
                if room >= 0:
                    entry["matrices"] = [_numbers(track.matrices.get(frame)) for frame in self._frames]
                else:
                    entry["kind"] = "unknown"
            entries.append(entry)
        return entries


def _numbers(matrix: bytes | None) -> list[float] | None:
    """The matrix with as many digits as single precision has; None of an object that is not there, or beyond the server's bounds."""
    numbers = struct.unpack("16f", matrix) if matrix is not None else ()
    if numbers[12:] != (0, 0, 0, 1) or not all(abs(number) <= FARTHEST for number in numbers):
        return None
    return [float(f"{number:.9g}") for number in numbers]


def _digest_of(parts: list[_Part]) -> bytes:
    """The same for the same geometry in the same places, in whatever order."""
    return _hash(*sorted((part.geometry or b"") + part.matrix for part in parts))


def _hash(*pieces: Any) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        state.update(piece)
    return state.digest()


# -- what the renderer is given ----------------------------------------------------------------------------------------

_NEVER_MESHES = {"CURVES", "POINTCLOUD", "VOLUME", "GREASEPENCIL"}
_MADE_INTO_MESHES = {"CURVE", "FONT", "META", "SURFACE"}


def _parts(depsgraph: Any, passed_over: set[str]) -> Iterator[tuple[str, _Part]]:
    """(name, part) of every instance with a surface, but for some names. There may be a million: what they share is looked up once."""
    shapes: dict[tuple[str, int], tuple[bytes | None, int]] = {}
    places: dict[int, bytes | None] = {}
    met: set[str] = set()
    for instance in depsgraph.object_instances:
        thing = instance.object
        name = thing.name
        if name in passed_over:
            continue
        if not instance.show_self:
            if instance.show_particles and _has_hair(thing):
                yield name, _part(instance, None, 0, name in met)
                met.add(name)
            continue
        data = thing.data
        if not isinstance(data, bpy.types.Mesh):
            # What curves, texts and metaballs are rendered as comes as an instance of its own, with their name.
            if thing.type in _NEVER_MESHES:
                yield name, _part(instance, None, 0, name in met)
                met.add(name)
            continue
        key = name, data.as_pointer()
        if key not in shapes:
            if key[1] not in places:
                places[key[1]] = _places(data)
            shapes[key] = _shape(thing, places[key[1]])
        geometry, vertices = shapes[key]
        if vertices:
            yield name, _part(instance, geometry, vertices, name in met)
            met.add(name)


def _part(instance: Any, geometry: bytes | None, vertices: int, one_of_several: bool) -> _Part:
    rows = instance.matrix_world
    matrix = struct.pack("16f", *rows[0], *rows[1], *rows[2], *rows[3])
    if one_of_several:
        return _Part(geometry, vertices, matrix, None, False)
    thing, parent = instance.object, instance.parent
    if not instance.is_instance:
        return _Part(geometry, vertices, matrix, thing.original.name_full, _is_restful(thing))
    # An instance's number says which one it is only where nothing but a collection, or the object's own curve, makes instances.
    one_level = all(number == _NO_LEVEL for number in list(instance.persistent_id)[1:])
    from_collection = parent.instance_type == "COLLECTION" and instance.particle_system is None
    from_curve = parent.type in _MADE_INTO_MESHES and not any(modifier.type == "NODES" for modifier in parent.modifiers)
    identity = None
    if one_level and (from_collection or from_curve):
        identity = parent.original.name_full, thing.original.name_full, instance.persistent_id[0]
    return _Part(geometry, vertices, matrix, identity, from_collection and _is_restful(thing))


_NO_LEVEL = 2**31 - 1


def _places(mesh: Any) -> bytes | None:
    """A digest of where the vertices are, and of how many there are; None if Blender does not say."""
    count = len(mesh.vertices)
    positions = mesh.attributes.get("position")
    if positions is None or len(positions.data) != count:
        return None
    places = np.empty(count * 3, np.float32)
    positions.data.foreach_get("vector", places)
    return _hash(places, struct.pack("<3q", count, len(mesh.loops), len(mesh.polygons)))


def _shape(thing: Any, places: bytes | None) -> tuple[bytes | None, int]:
    """A digest of an object's shape, None if its vertices do not tell what is seen; and how many vertices there are."""
    count = len(thing.data.vertices)
    if places is None or _has_hair(thing) or any(_displaces(slot.material) for slot in thing.material_slots):
        return None, count
    levels = [(modifier.show_render, getattr(modifier, "render_levels", 0)) for modifier in thing.modifiers]
    return _hash(places, repr(levels).encode()), count


def _has_hair(thing: Any) -> bool:
    return any(
        system.settings.type == "HAIR" and system.settings.render_type == "PATH"
        for system in getattr(thing, "particle_systems", None) or ()
    )


def _displaces(material: Any) -> bool:
    """Whether the renderer moves the surface away from the mesh, by a texture that may change."""
    if material is None or material.node_tree is None or material.displacement_method == "BUMP":
        return False
    outputs = [node for node in material.node_tree.nodes if node.bl_idname == "ShaderNodeOutputMaterial"]
    return any(node.inputs["Displacement"].is_linked for node in outputs)


# -- which deformations leave Generated coordinates at rest ------------------------------------------------------------

_MOVES_VERTICES = {
    *("ARMATURE", "CAST", "CLOTH", "CORRECTIVE_SMOOTH", "CURVE", "DISPLACE", "HOOK", "LAPLACIANDEFORM", "LAPLACIANSMOOTH", "LATTICE"),
    *("MESH_CACHE", "MESH_DEFORM", "MESH_SEQUENCE_CACHE", "SHRINKWRAP", "SIMPLE_DEFORM", "SMOOTH", "SOFT_BODY", "SURFACE_DEFORM", "WARP"),
    "WAVE",
}
"""Modifiers that only move vertices: Blender keeps the places they had before for Generated."""
_NO_SHAPE = {
    *("COLLISION", "DATA_TRANSFER", "NORMAL_EDIT", "PARTICLE_SYSTEM", "SURFACE", "UV_PROJECT", "UV_WARP", "WEIGHTED_NORMAL"),
    *("VERTEX_WEIGHT_EDIT", "VERTEX_WEIGHT_MIX", "VERTEX_WEIGHT_PROXIMITY"),
}
_ADDS_VERTICES = {"EDGE_SPLIT", "MIRROR", "MULTIRES", "SOLIDIFY", "SUBSURF", "TRIANGULATE"}
"""Modifiers that make a mesh of a mesh and treat the places at rest alike: the same in all frames, unless they are animated."""
_NODES_WITHOUT_SHAPE = {
    *("GeometryNodeGroup", "GeometryNodeRemoveAttribute", "GeometryNodeSetID", "GeometryNodeSetMaterial", "GeometryNodeSetMaterialIndex"),
    *("GeometryNodeSetMeshNormal", "GeometryNodeSetShadeSmooth", "GeometryNodeStoreNamedAttribute", "NodeGroupInput", "NodeReroute"),
}


def _is_restful(thing: Any) -> bool:
    animated = None
    for modifier in thing.modifiers:
        if not modifier.show_render or modifier.type in _MOVES_VERTICES or _has_no_shape(modifier):
            continue
        if modifier.type not in _ADDS_VERTICES or getattr(modifier, "mirror_object", None) is not None:
            return False
        animated = compat.animated_paths(thing.original) if animated is None else animated
        if any(path.startswith(f'modifiers["{bpy.utils.escape_identifier(modifier.name)}"]') for path in animated):
            return False
    return True


def _has_no_shape(modifier: Any) -> bool:
    """Whether a modifier leaves all vertices as they are, as the nodes of Smooth by Angle do."""
    return modifier.type in _NO_SHAPE or (modifier.type == "NODES" and _keeps_shape(modifier.node_group))


def _keeps_shape(group: Any) -> bool:
    if group is None:
        return True
    passing = [node for node in group.nodes if any(socket.type == "GEOMETRY" for socket in node.outputs)]
    inner = [node.node_tree for node in passing if node.bl_idname == "GeometryNodeGroup"]
    return all(node.bl_idname in _NODES_WITHOUT_SHAPE for node in passing) and all(map(_keeps_shape, inner))


def cage_tells() -> bool:
    """Whether the meshes before subdivision tell all: no object of the file changes its shape after being subdivided.

    Where they do, frames can be looked at without subdividing anything, which is what takes time.
    """
    return all(_cage_tells(thing.modifiers) for thing in bpy.data.objects)


def _cage_tells(modifiers: Any) -> bool:
    types = [(modifier, modifier.type) for modifier in modifiers if modifier.show_render]
    first = next((number for number, (_, kind) in enumerate(types) if kind in {"SUBSURF", "MULTIRES"}), len(types))
    return all(kind in _ADDS_VERTICES or _has_no_shape(modifier) for modifier, kind in types[first:])

"""What of a shot is painted, and the painted pixels put into the user's own render. For the setting `paint`.

A selection is a list of names with commas, taken in order, of which the last that fits an object counts:

    Figure*                 objects by name; * stands for any letters, ? for one
    collection:Set          objects by a collection that holds them, itself or one inside it
    material:Clay           whatever shows a material
    background, sky         where no object is
    !Lamp                   all but this; a list that begins so begins with everything

Objects that the shot has no name for are called as `medm inspect` calls them, `object 1a2b3c4d`.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medm.errors import BadInput
from medm.manifest import Manifest
from medm.progress import Progress, silent
from medm.shot import Shot

BACKGROUND = ("background", "sky")
"""What a selection calls the background."""

Ids = npt.NDArray[np.int32]

_COLLECTION = "collection:"
_MATERIAL = "material:"
_UNNAMED = re.compile(r"object ([0-9a-f]{8})")


@dataclass(frozen=True)
class Selection:
    """Which pixels are painted, by what they show.

    `rules`: taken in order; each says whether what has one of its ids, of an object or of a material, is painted. Id 0 is the background.
    What no rule is about is painted if the first rule leaves something away.
    """

    rules: tuple[_Rule, ...]

    @property
    def needs_materials(self) -> bool:
        """Whether materials are asked for."""
        return any(rule.of_material for rule in self.rules)

    def holds(self, object_id: Ids, material_id: Ids | None = None) -> npt.NDArray[np.bool_]:
        """What is painted of pixels of any shape; `material_id` may be left out if not `needs_materials`."""
        result = np.full(object_id.shape, not self.rules[0].paints)
        for rule in self.rules:
            shown = material_id if rule.of_material else object_id
            assert shown is not None, "a selection by material needs the materials"
            result[np.isin(shown, np.array(sorted(rule.ids), np.int32))] = rule.paints
        return result


@dataclass(frozen=True)
class _Rule:
    ids: frozenset[int]
    paints: bool
    of_material: bool


def select(manifest: Manifest, selection: str) -> Selection:
    """Find out which objects and materials of a shot a selection means.

    Raises:
        BadInput: the shot has no beauty to keep the rest of; a part of the selection fits nothing; the shot tells no collections or no
            materials.
    """
    if any(entry.beauty is None for entry in manifest.frames):
        raise BadInput(f"{manifest.name} was exported without its beauty, which is kept where nothing is painted; export it with it")
    patterns = [part.strip() for part in selection.split(",") if part.strip()]
    if not patterns:
        raise BadInput("nothing is selected to be painted: name objects, collection:NAME or background, or leave paint away")
    return Selection(tuple(_rule(manifest, pattern.removeprefix("!").strip(), not pattern.startswith("!")) for pattern in patterns))


def painted(shot: Shot, object_id: Ids, selection: str, progress: Progress = silent) -> npt.NDArray[np.float32]:
    """How much of every pixel is painted: (T, H, W) float32, 0 where the beauty is kept to the bit, 1 where all is painted.

    Without finer data a pixel is what its centre shows, so the values are 0 and 1; with data three times as fine they are ninths.

    Args:
        shot: whose objects are meant.
        object_id: (T, H, W) of its G-buffer.
        selection: see the module's first lines.
        progress: told for every frame.

    Raises:
        BadInput: as `select`; nothing that is selected is in view; finer data or materials cannot be read.
    """
    chosen = select(shot.manifest, selection)
    height, width = object_id.shape[1:]
    coverage = np.empty(object_id.shape, np.float32)
    for t in range(len(shot)):
        progress(t / len(shot), "find what to paint")
        fine = shot.fine(t)
        inside = chosen.holds(object_id[t] if fine is None else fine.object_id, shot.material_ids(t) if chosen.needs_materials else None)
        scale = 1 if fine is None else fine.scale
        coverage[t] = inside.reshape(height, scale, width, scale).mean(axis=(1, 3), dtype=np.float64)
    if not coverage.any():
        raise BadInput(f"nothing of {selection!r} is in view in this shot, so nothing would be painted")
    progress(1.0, "find what to paint")
    return coverage


def composite(paint: npt.NDArray[np.uint8], beauty: npt.NDArray[np.uint8], coverage: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The painted frames where they are wanted, over the beauty: beauty + coverage (paint - beauty), rounded.

    Exactly the beauty where coverage is 0, exactly the paint where it is 1. In between the values of the pictures are blended as they are,
    display-referred: what the view transform did to the beauty cannot be undone from 8 bits, and the model painted no light at all.

    Args:
        paint: (T, H, W, 3).
        beauty: (T, H, W, 3).
        coverage: (T, H, W), 0 to 1.
    """
    result = np.where((coverage == 1.0)[..., None], paint, beauty)
    mixed = (coverage > 0.0) & (coverage < 1.0)
    over, under = paint[mixed].astype(np.float32), beauty[mixed].astype(np.float32)
    result[mixed] = np.rint(under + coverage[mixed][:, None] * (over - under)).astype(np.uint8)
    return result


# -- names -------------------------------------------------------------------------------------------------------------


def _rule(manifest: Manifest, pattern: str, paints: bool) -> _Rule:
    if pattern.startswith(_MATERIAL):
        return _Rule(_of_materials(manifest, pattern.removeprefix(_MATERIAL).strip()), paints, True)
    if pattern.startswith(_COLLECTION):
        return _Rule(_in_collections(manifest, pattern.removeprefix(_COLLECTION).strip()), paints, False)
    return _Rule(_objects(manifest, pattern), paints, False)


def _objects(manifest: Manifest, pattern: str) -> frozenset[int]:
    fits = _fitting(pattern)
    found = frozenset(thing.id for thing in manifest.objects if fits(thing.name))
    if pattern in BACKGROUND:
        return found | {0}
    unnamed = _UNNAMED.fullmatch(pattern)
    if unnamed and not found:
        number = int(unnamed[1], 16)
        return frozenset({number - 2**32 if number >> 31 else number})
    if not found:
        names = {thing.name for thing in manifest.objects}
        if not names:
            raise BadInput(f"this shot does not say what its objects are called, so {pattern!r} cannot be found; export it again")
        raise BadInput(f"no object of the shot is called {pattern!r}{_instead(pattern, {*names, *BACKGROUND})}")
    return found


def _of_materials(manifest: Manifest, pattern: str) -> frozenset[int]:
    if not manifest.materials:
        raise BadInput("this shot was exported by an older add-on, which did not note materials: export it again, or name objects")
    fits = _fitting(pattern)
    found = frozenset(material.id for material in manifest.materials if fits(material.name))
    if not found:
        raise BadInput(f"no material is called {pattern!r}{_instead(pattern, {material.name for material in manifest.materials})}")
    return found


def _in_collections(manifest: Manifest, pattern: str) -> frozenset[int]:
    if all(thing.collections is None for thing in manifest.objects):
        raise BadInput("this shot was exported by an older add-on, which did not note collections: export it again, or name objects")
    fits = _fitting(pattern)
    found = frozenset(thing.id for thing in manifest.objects if any(map(fits, thing.collections or ())))
    if not found:
        names = {name for thing in manifest.objects for name in thing.collections or ()}
        raise BadInput(f"no collection with objects of the shot is called {pattern!r}{_instead(pattern, names)}")
    return found


def _fitting(pattern: str) -> Callable[[str], bool]:
    """Only * and ? are special: names in Blender hold brackets often enough."""
    expression = re.compile(fnmatch.translate(pattern.replace("[", "[[]")))
    return lambda name: expression.match(name) is not None


def _instead(pattern: str, names: Iterable[str]) -> str:
    """`; did you mean 'Lamp'?`, or a few of the names that there are."""
    by_lower = {name.lower(): name for name in sorted(names, reverse=True)}
    close = difflib.get_close_matches(pattern.lower().strip("*?"), list(by_lower), n=3)
    if close:
        return f"; did you mean {' or '.join(repr(by_lower[name]) for name in close)}?"
    some = [repr(name) for name in sorted(names)[:5]]
    more = f" and {len(by_lower) - 5} more" if len(by_lower) > 5 else ""
    return f"; there are {', '.join(some)}{more}" if some else "; there is none"

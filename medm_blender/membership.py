"""Finds out in which collections the objects of a shot are, so that a part of it can be named by a collection.

For `passes.py`, which looks at every frame as the renderer is given it and writes what was found into the manifest.
"""

from __future__ import annotations

from typing import Any

import bpy


class Memberships:
    """Looks at one frame after the other and knows at the end which collections hold what was there.

    As the Outliner shows it, an object is in its collections and in all around them. What is instanced is also where its instancer is: all
    instances of an object have one id in the picture, so nothing finer can be said.
    """

    def __init__(self) -> None:
        self._held: dict[int, list[Any]] = {}
        self._around: dict[int, list[Any]] = {}
        for collection in bpy.data.collections:  # the Scene Collections, which hold everything, are not among them
            for child in collection.children:
                self._around.setdefault(child.as_pointer(), []).append(collection)
            for thing in collection.objects:
                self._held.setdefault(thing.as_pointer(), []).append(collection)
        for thing in bpy.data.objects:
            if thing.instance_type == "COLLECTION" and thing.instance_collection is not None:
                self._around.setdefault(thing.instance_collection.as_pointer(), []).extend(self._held.get(thing.as_pointer(), []))
        self._names: dict[str, set[str]] = {}
        self._known: set[tuple[str, str | None]] = set()

    def look(self, depsgraph: Any) -> None:
        """Take in one frame, evaluated as it is rendered."""
        for instance in depsgraph.object_instances:
            thing, parent = instance.object, instance.parent
            key = thing.name, parent.name if parent else None
            if key in self._known:
                continue
            self._known.add(key)
            names = self._names.setdefault(thing.name, set())
            for one in (thing, parent):
                if one is not None:
                    names.update(self._of(one.original))

    def collections(self, name: str) -> list[str]:
        """The names of all collections that hold the object of that name; none for what is in the Scene Collection alone."""
        return sorted(self._names.get(name, ()))

    def _of(self, thing: Any) -> set[str]:
        found: dict[int, str] = {}
        left = list(self._held.get(thing.as_pointer(), []))
        while left:
            collection = left.pop()
            if collection.as_pointer() not in found:
                found[collection.as_pointer()] = collection.name
                left.extend(self._around.get(collection.as_pointer(), []))
        return set(found.values())

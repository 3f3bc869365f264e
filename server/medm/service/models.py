"""Which models the server offers, for the API and `medm models`; light: reads no weights and loads no torch."""

from __future__ import annotations

from typing import TypedDict

from medm.presets import BUNDLED


class ModelCard(TypedDict):
    """What an artist wants to know before choosing a model."""

    id: str
    description: str
    licence: str
    memory_gb: float
    available: bool


def models() -> list[ModelCard]:
    """The models that `RenderSettings.model` may name without a path."""
    return [
        {
            "id": preset.name,
            "description": preset.description,
            "licence": preset.licence,
            "memory_gb": preset.memory_gb,
            "available": preset.available,
        }
        for preset in (BUNDLED,)
    ]

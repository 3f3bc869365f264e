"""Which models the server offers, for the API and `medm models`; light: reads no weights and loads no torch."""

from __future__ import annotations

from importlib import resources
from typing import TypedDict


class ModelCard(TypedDict):
    """What an artist wants to know before choosing a model."""

    id: str
    description: str
    licence: str
    available: bool


def models() -> list[ModelCard]:
    """The models that `RenderSettings.model` may name without a path."""
    bundled = resources.files("medm") / "bundled" / "model_index.json"
    return [
        {
            "id": "bundled",
            "description": "small model that ships with MeDM; looks: terracotta, gold, neon, porcelain",
            "licence": "CC0-1.0",
            "available": bundled.is_file(),
        }
    ]

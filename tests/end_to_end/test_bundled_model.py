"""The bundled model on a shot that it never saw: a stock folder, four looks, shapes and shading that follow the control."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from medm.diffusion.control import View, lineart_image
from medm.diffusion.rendering import render_take
from medm.evaluate import read_take
from medm.presets import BUNDLED
from medm.settings import RenderSettings
from medm.shot import Shot

LOOKS = ("terracotta", "gold", "neon", "porcelain")


@pytest.fixture(scope="module")
def shot(demo) -> Shot:
    return Shot.open(demo / "shot")


@pytest.fixture(scope="module")
def view(shot) -> View:
    gbuffer = shot.gbuffer()
    normals = np.stack([camera.camera_normals(n) for camera, n in zip(shot.cameras, gbuffer.normal, strict=True)])
    return View(normals, gbuffer.depth, gbuffer.object_id)


@pytest.fixture(scope="module")
def looks(shot, tmp_path_factory) -> dict[str, np.ndarray]:
    """The shot in every look, float32 (T, H, W, 3), 0 to 1."""
    out = tmp_path_factory.mktemp("looks")
    for look in LOOKS:
        render_take(shot, RenderSettings(prompt=f"a {look} sculpture", seed=3), out / look)
    return {look: read_take(shot, out / look).astype(np.float32) / 255 for look in LOOKS}


def test_it_is_a_small_stock_folder():
    files = [file for file in BUNDLED.folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 25_000_000
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".md"}
    index = json.loads((BUNDLED.folder / "model_index.json").read_text())
    classes = {part: value[1] for part, value in index.items() if isinstance(value, list) and value[0]}
    assert classes == {
        "vae": "AutoencoderTiny",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "controlnet": "ControlNetModel",
        "scheduler": "DDIMScheduler",
    }
    assert "CC0" in (BUNDLED.folder / "README.md").read_text()


def test_the_looks_are_clearly_different(looks, view):
    surface = ~view.background
    means = {look: frames[surface].mean(axis=0) for look, frames in looks.items()}
    for a, b in combinations(LOOKS, 2):
        assert np.abs(means[a] - means[b]).max() > 0.12, (a, b)
    assert means["terracotta"][0] > means["terracotta"][2] + 0.1  # red over blue
    assert means["gold"][0] > means["gold"][2] + 0.1
    assert means["porcelain"].min() > means["neon"].max()


@pytest.mark.parametrize("look", LOOKS)
def test_outlines_of_the_scene_are_edges_of_the_picture(looks, view, look):
    grey = looks[look].mean(axis=-1)
    slope = np.hypot(np.diff(grey, axis=1, prepend=grey[:, :1]), np.diff(grey, axis=2, prepend=grey[:, :, :1]))
    line = lineart_image(view)[:, 0] > 0.5
    near = line | np.roll(line, 1, 1) | np.roll(line, 1, 2)
    assert slope[near].mean() > 2.5 * slope[~near].mean()


def test_shading_follows_the_normals(looks, view):
    """The sun of its training stands to the upper left: what faces it is brighter than what faces away, on the things, not the ground."""
    towards = view.normals @ np.array([-0.6, 0.6, 0.5], np.float32)
    upright = ~view.background & (np.abs(view.normals[..., 1]) < 0.5)
    light = looks["terracotta"].mean(axis=-1)
    assert light[upright & (towards > 0.6)].mean() > 1.15 * light[upright & (towards < 0.0)].mean()


def test_another_seed_paints_another_pattern(shot, looks, tmp_path):
    render_take(shot, RenderSettings(prompt="a porcelain sculpture", seed=4), tmp_path / "take")
    other = read_take(shot, tmp_path / "take").astype(np.float32) / 255
    assert np.abs(other - looks["porcelain"]).mean() > 0.02


def test_sizes_other_than_its_own(tmp_path):
    """A model of convolutions paints any multiple of 8, also one that its halvings do not divide."""
    import synthetic

    folder = synthetic.write_shot(tmp_path / "shot")
    render_take(Shot.open(folder), RenderSettings(steps=2), tmp_path / "take")
    assert (tmp_path / "take/take.json").exists()


def test_nothing_is_fetched(shot, tmp_path, monkeypatch):
    import socket

    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    render_take(shot, RenderSettings(steps=1, w=0.0), tmp_path / "take")
    assert Path(tmp_path / "take/take.json").exists()

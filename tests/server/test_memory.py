"""Memory: chunks that shrink until they fit, and the plan of a render."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medm import machine
from medm.diffusion.memory import Chunk, free_memory, in_chunks, out_of_memory
from medm.diffusion.models import Model
from medm.diffusion.plan import ModelFacts, plan
from medm.errors import Cancelled, Unavailable
from medm.presets import BUNDLED, FAMILIES
from medm.settings import RenderSettings

LATENTS = torch.randn(11, 4, 6, 5, generator=torch.Generator().manual_seed(0))


class Network:
    """A real layer that has memory for so many frames, and says what torch says when it has not."""

    def __init__(self, room: int, error: type[Exception] = torch.OutOfMemoryError, message: str = "CUDA out of memory.") -> None:
        torch.manual_seed(1)
        self.room, self.error, self.message = room, error, message
        self.layer = torch.nn.Conv2d(4, 8, 3, padding=1)
        self.calls: list[tuple[int, int]] = []

    @torch.no_grad()
    def __call__(self, first: int, last: int) -> torch.Tensor:
        self.calls.append((first, last))
        if last - first > self.room:
            raise self.error(self.message)
        return self.layer(LATENTS[first:last])


def test_chunks_make_up_the_clip_in_order():
    network, chunk = Network(room=4), Chunk(4)
    torch.testing.assert_close(torch.cat(list(in_chunks(network, 11, chunk))), network.layer(LATENTS))
    assert network.calls == [(0, 4), (4, 8), (8, 11)]
    assert chunk.frames == 4


def test_what_is_too_much_is_halved_and_the_size_that_worked_is_remembered():
    network, chunk = Network(room=3), Chunk(9)
    assert torch.allclose(torch.cat(list(in_chunks(network, 11, chunk))), network.layer(LATENTS), atol=1e-6)
    assert network.calls == [(0, 9), (0, 4), (0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 11)]
    assert chunk.frames == 2
    network.calls.clear()
    list(in_chunks(network, 4, chunk))
    assert network.calls == [(0, 2), (2, 4)]


def test_a_chunk_longer_than_the_clip_halves_the_clip():
    network, chunk = Network(room=6), Chunk(100)
    list(in_chunks(network, 11, chunk))
    assert network.calls[:2] == [(0, 11), (0, 5)]


def test_memory_may_run_out_later_on():
    network, chunk = Network(room=4), Chunk(4)
    results = in_chunks(network, 11, chunk)
    next(results)
    network.room = 1
    assert [len(result) for result in results] == [1] * 7


@pytest.mark.parametrize("size", [1, 2, 3, 5, 11])
def test_results_do_not_depend_on_the_size_beyond_rounding(size):
    network = Network(room=11)
    torch.testing.assert_close(torch.cat(list(in_chunks(network, 11, Chunk(size)))), network.layer(LATENTS), atol=1e-6, rtol=0)


def test_one_frame_that_does_not_fit_is_told_in_one_line():
    chunk = Chunk(8)
    with pytest.raises(Unavailable, match=r"^not even one frame fits into memory[^\n]*$"):
        list(in_chunks(Network(room=0), 11, chunk))


@pytest.mark.parametrize(
    "message",
    ["MPS backend out of memory (MPS allocated: 9 GB)", "CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"],
)
def test_every_way_to_say_it_is_understood(message):
    chunk = Chunk(8)
    list(in_chunks(Network(3, RuntimeError, message), 11, chunk))
    assert chunk.frames == 2


def test_torch_and_numpy_say_it_so_on_a_cpu():
    with pytest.raises(RuntimeError) as said:
        torch.empty(2**52, dtype=torch.uint8)
    assert out_of_memory(said.value)
    with pytest.raises(MemoryError) as said_too:
        np.empty(2**52, np.uint8)
    assert out_of_memory(said_too.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError("out of memory"), Cancelled("stop")])
def test_other_errors_are_handed_on(error):
    def function(first: int, last: int) -> None:
        raise error

    with pytest.raises(type(error)):
        list(in_chunks(function, 3, Chunk(2)))


def test_what_failed_is_let_go_before_it_is_tried_again():
    class Held:
        pass

    kept: list[weakref.ref[object]] = []

    def function(first: int, last: int) -> int:
        assert all(reference() is None for reference in kept)
        held = Held()
        kept.append(weakref.ref(held))
        if last - first > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return last - first

    assert list(in_chunks(function, 8, Chunk(8))) == [2, 2, 2, 2]


def test_progress_is_told():
    told: list[tuple[float, str]] = []
    list(in_chunks(Network(4), 8, Chunk(4), lambda share, phase: told.append((share, phase)), "paint"))
    assert told == [(0.0, "paint"), (0.5, "paint")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_survives_a_gpu_that_is_really_full():
    free, _ = torch.cuda.mem_get_info()

    def function(first: int, last: int) -> int:
        values = torch.ones((last - first) * free // 5, dtype=torch.uint8, device="cuda")
        return int(values[::4096].float().mean()) * (last - first)

    chunk = Chunk(16)
    assert sum(in_chunks(function, 16, chunk)) == 16
    assert chunk.frames in (2, 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_free_memory_of_a_gpu_counts_what_is_held_and_not_what_is_cached() -> None:
    size, others = 2**29, 2**27  # a screen may be drawn by the same GPU meanwhile
    torch.ones(1, device="cuda")  # the context itself takes memory
    before = free_memory("cuda")
    assert 0 < before <= torch.cuda.get_device_properties(0).total_memory
    held = torch.ones(size, dtype=torch.uint8, device="cuda")
    during = free_memory("cuda")
    assert abs(before - during - size) < others
    del held
    assert torch.cuda.memory_reserved() >= size  # PyTorch keeps it
    assert abs(free_memory("cuda") - before) < others
    assert torch.cuda.memory_reserved() < size


def test_free_memory_is_that_of_the_machine_or_of_its_container(tmp_path: Path) -> None:
    assert 2**20 < free_memory("cpu") < 2**44
    for name, text in (("memory.max", "1000000"), ("memory.current", "600000"), ("memory.stat", "anon 5\ninactive_file 50000\n")):
        (tmp_path / name).write_text(text)
    assert machine.free_of_container(tmp_path) == 450_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_of_container(tmp_path) == sys.maxsize


GIGABYTES_24 = {"free_device": 24 * 10**9, "free_host": 24 * 10**9}


def model(family: str, **options: Any) -> ModelFacts:
    """A model of a family, that is not there."""
    known = FAMILIES[family]
    row = replace(BUNDLED, name=f"some {family}", folder=Path("nowhere"), family=family, guidance_scale=known.guidance_scale)
    return ModelFacts.of(replace(row, memory_gb=known.memory_gb), **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_500_frames_of_1024_x_576_fit_into_24_gigabytes(family: str) -> None:
    found = plan(500, 576, 1024, model(family), "cuda", **GIGABYTES_24)
    assert found.fits
    assert max(found.peak("device"), found.peak("host")) <= 0.9 * 24e9
    assert found.window == (375 if family == "z-image" else None)  # whose weights leave little of a GPU


def test_the_bundled_model_paints_500_frames_of_1024_x_576_in_24_gigabytes_without_a_gpu() -> None:
    found = plan(500, 576, 1024, ModelFacts.of(BUNDLED, bytes_per_number=4, control_channels=5), "cpu", **GIGABYTES_24)
    assert found.fits
    assert found.window is None
    assert found.read == 64
    assert found.peak("device") == found.peak("host") <= 24e9


def test_with_less_memory_less_is_held() -> None:
    facts = model("stable-diffusion")
    plans = [
        plan(500, 576, 1024, facts, "cuda", free_device=gpu * 10**9, free_host=main * 10**9)
        for gpu, main in ((80, 128), (18, 20), (12, 12), (10, 8))
    ]
    assert all(found.fits for found in plans)
    assert [found.read for found in plans] == [None, 64, 64, 16]
    assert [found.clip for found in plans] == ["device", "device", "host", "host"]
    assert [found.flows for found in plans] == [True, True, False, False]
    assert [found.window is None for found in plans] == [True, True, False, False]
    assert sorted((found.networks for found in plans), reverse=True) == [found.networks for found in plans]
    for found, free in zip(plans, (128, 20, 12, 8), strict=True):
        assert found.peak("host") <= 0.9 * free * 1e9


def test_a_plan_that_cannot_be_says_so() -> None:
    found = plan(100, 1080, 1920, model("sdxl"), "cuda", free_device=4 * 10**9, free_host=4 * 10**9)
    assert not found.fits
    assert "may not fit" in str(found)


def test_a_window_that_is_wished_for_is_kept() -> None:
    assert plan(500, 576, 1024, model("sdxl"), "cuda", RenderSettings(window=120), **GIGABYTES_24).window == 120


@pytest.mark.parametrize("settings", [RenderSettings(), RenderSettings(control="depth"), RenderSettings(control="none", precision="fp16")])
def test_what_is_planned_before_a_model_is_loaded_is_what_is_planned_with_it(settings: RenderSettings) -> None:
    device = torch.device("cpu")
    wanted = ModelFacts.wanted(settings, device)
    if settings.control != "depth":  # which the bundled network does not take
        assert replace(wanted, weights=0) == ModelFacts.loaded(Model.load(settings))
    assert wanted.control_channels == {None: 5, "depth": 3, "none": 0}[settings.control]


def test_settings_want_memory() -> None:
    def host(**wanted: Any) -> int:
        return plan(200, 288, 512, model("sdxl"), "cuda", RenderSettings(**wanted), **GIGABYTES_24).peak("host")

    def size(name: str, **wanted: Any) -> float:
        found = plan(200, 288, 512, model("sdxl"), "cuda", RenderSettings(**wanted), **GIGABYTES_24)
        return sum(part.size for part in found.parts if part.name == name) / (200 * 288 * 512)

    assert host(w=0.0) == host(harmonisation="global") < host() == host(harmonisation="local")
    assert size("codes and repository", harmonisation="weighted") == size("codes and repository", harmonisation="local") == 14
    assert [size("decoded frames, harmonised at the end", harmonisation=kind) for kind in ("key", "local")] == [16, 32]
    assert (size("the beauty"), size("the beauty", mode="assistive"), size("the beauty", paint="Figure*")) == (0, 3, 3)


def test_a_plan_is_a_table() -> None:
    text = str(plan(500, 576, 1024, model("sdxl"), "cuda", **GIGABYTES_24))
    assert "500 frames of 1024 x 576, some sdxl on cuda" in text
    assert re.search(r"the model's weights +GPU +11\.20 GB", text)
    assert re.search(r"codes, occlusion, flows +main +6\.19 GB", text)
    assert re.search(r"GPU memory at most +\d+\.\d\d GB  of 24\.0 GB free", text)
    page = (Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")
    assert textwrap.indent(text, "    ").replace("some sdxl", "an SDXL model") in page, "what the page shows is not the plan"


def test_weights_are_those_of_the_files() -> None:
    facts = ModelFacts.of(BUNDLED, control_channels=5)
    assert facts.weights == sum(file.stat().st_size for file in BUNDLED.folder.rglob("*.safetensors")) > 10**6
    assert (facts.latent_scale, facts.latent_channels) == (4, 4)


def test_a_loaded_model_tells_more_of_itself() -> None:
    facts = ModelFacts.loaded(Model.load(RenderSettings(precision="fp32")))
    assert facts == ModelFacts.of(BUNDLED, 0, bytes_per_number=4, control_channels=5)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone says what a process of its own held at most")
def test_the_figures_of_the_bundled_model_hold() -> None:
    """What a step of its networks takes, measured in a process of its own, is at most what is planned with."""
    code = """
import re, torch
from diffusers import StableDiffusionControlNetPipeline as Pipeline
from medm.presets import BUNDLED
torch.set_num_threads(1)
own = Pipeline.from_pretrained(BUNDLED.folder, safety_checker=None)
def held_after(n):
    with torch.no_grad():
        latents, text = torch.randn(n, 4, 54, 96), torch.randn(n, 77, own.unet.config.cross_attention_dim)
        down, middle = own.controlnet(latents, 500, text, torch.rand(n, 5, 216, 384), return_dict=False)
        own.unet(latents, 500, text, down_block_additional_residuals=down, mid_block_additional_residual=middle)
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
one = held_after(1)
print((held_after(12) - one) / 11 / 216 / 384)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    planned = ModelFacts.of(BUNDLED, bytes_per_number=4).networks
    assert 0.3 * planned < float(run.stdout.split()[-1]) <= planned

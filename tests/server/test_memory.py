"""Memory: chunks that shrink until they fit, and the plan of a render."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from medm.diffusion.memory import Chunk, in_chunks, out_of_memory
from medm.errors import Cancelled, Unavailable

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

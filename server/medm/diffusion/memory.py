"""Memory: how much is free, and work on as many frames at once as it allows. What a whole render takes is in plan.py."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from medm import machine
from medm.errors import Unavailable
from medm.progress import Progress, silent

Result = TypeVar("Result")

_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "_STATUS_ALLOC_FAILED")
"""In messages of the CPU's allocator, of CUDA and Metal, and of cuDNN and cuBLAS."""


@dataclass
class Chunk:
    """How many frames something is given at once, at least 1; `in_chunks` makes it smaller where that was too many."""

    frames: int


def in_chunks(
    function: Callable[[int, int], Result], length: int, chunk: Chunk, progress: Progress = silent, phase: str = ""
) -> Iterator[Result]:
    """Calls function(first, last) for ranges that make up the frames 0 to `length`, in order; yields the results as they come.

    Where memory runs out the chunk is halved, for now and for the next time, and that range is begun again: so `function` must not have
    changed anything by then. A result that depends on its own frames alone depends on the chunk's size by rounding only.

    Args:
        function: is given a range of frames, without `last`.
        length: how many there are.
        chunk: how many at once; set to what worked.
        progress: told before each call, of `phase`.
        phase: what is being done.

    Raises:
        Unavailable: memory runs out for a single frame.
    """
    first = 0
    while first < length:
        progress(first / length, phase)
        last = min(first + chunk.frames, length)
        result = _unless_too_much(function, first, last)
        if result is None:
            if last - first == 1:
                raise Unavailable("not even one frame fits into memory: take a smaller model or smaller pictures, or free memory")
            chunk.frames = (last - first) // 2
            _give_back()  # not before: what had failed was held by the error
            continue
        yield result[0]
        first = last


def _unless_too_much(function: Callable[[int, int], Result], first: int, last: int) -> tuple[Result] | None:
    """What the function returns, or None if memory ran out."""
    try:
        return (function(first, last),)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: only CUDA's allocator has a class of its own for that."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _give_back() -> None:
    """Give cached memory back, which may lie in pieces that are too small."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def free_memory(device: str | torch.device) -> int:
    """Bytes that can be had on a device now: of a GPU's own memory, or of main memory, as far as this process is allowed to."""
    device = torch.device(device)
    if device.type != "cpu":
        _give_back()  # of an earlier take in this process: what is cached does not count as free
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return machine.free_memory()

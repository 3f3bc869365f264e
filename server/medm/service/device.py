"""What this machine paints on, for the process that serves: it must not load torch, so another process asks once and ends."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import subprocess
import sys
import threading
from typing import Any

from medm import machine

GB = 1e9
_TIMEOUT = 300.0
_log = logging.getLogger(__name__)


class Device:
    """The device that takes are painted on. Its kind is asked for when somebody first wants to know."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self._facts: dict[str, Any] | None = None

    def document(self) -> dict[str, Any] | None:
        """{"kind": "cuda" | "mps" | "cpu", "name", "memory_gb", "free_gb"}, at once; None until it is known."""
        with self._lock:
            if self._asking is None:
                self._asking = threading.Thread(target=self._ask, name="medm-device", daemon=True)
                self._asking.start()
            facts = self._facts
        if facts is None:
            return None
        free = _free_of_gpu(facts["uuid"]) if facts["uuid"] else None
        if free is None:
            free = facts["free"] if facts["kind"] == "cuda" else machine.free_memory()
        sizes = {"memory_gb": round(facts["memory"] / GB, 1), "free_gb": round(min(free, facts["memory"]) / GB, 1)}
        return {"kind": facts["kind"], "name": facts["name"], **sizes}

    def _ask(self) -> None:
        command = [sys.executable, "-I", "-m", __name__]
        try:
            answer = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_TIMEOUT, check=True)
            facts = json.loads(answer.stdout)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            _log.error("the device that paints cannot be told: %s", error)
            return
        with self._lock:
            self._facts = facts


def facts() -> dict[str, Any]:
    """Kind and name of the device, its memory and what is free of it in bytes, and the id that its driver knows a GPU by."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info(0)
        uuid = f"GPU-{properties.uuid}" if hasattr(properties, "uuid") else ""
        return {"kind": "cuda", "name": properties.name, "memory": total, "free": free, "uuid": uuid}
    kind, name = ("mps", "Apple GPU") if torch.backends.mps.is_available() else ("cpu", "CPU")
    return {"kind": kind, "name": name, "memory": machine.total_memory(), "free": machine.free_memory(), "uuid": ""}


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _free_of_gpu(uuid: str) -> int | None:
    """Bytes that are free on a GPU of NVIDIA's, from its driver; None if that does not tell."""
    with contextlib.suppress(OSError, AttributeError):
        driver = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        if driver.nvmlInit_v2() != 0:
            return None
        try:
            handle, memory = ctypes.c_void_p(), _Memory()
            found = driver.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle))
            if found == 0 and driver.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0:
                return int(memory.free)
        finally:
            driver.nvmlShutdown()
    return None


if __name__ == "__main__":
    print(json.dumps(facts()))

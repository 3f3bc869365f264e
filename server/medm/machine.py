"""Main memory of this machine, as far as a process is allowed to use it. Without torch: the process that serves asks too."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def free_memory() -> int:
    """Bytes of main memory that can be had now."""
    return min(_of_machine()[1], free_of_container())


def total_memory() -> int:
    """Bytes of main memory that there are."""
    return min(_of_machine()[0], _limit_of_container())


def free_of_container(group: Path = Path("/sys/fs/cgroup")) -> int:
    """What is left of the limit that a container or a batch system has set."""
    limit = _limit_of_container(group)
    if limit == sys.maxsize:
        return limit
    try:
        used = int((group / "memory.current").read_text())
        fields = dict(line.split(" ", 1) for line in (group / "memory.stat").read_text().splitlines())
        return limit - used + int(fields["inactive_file"])  # files' pages are given up when they are needed
    except (OSError, KeyError, ValueError):
        return sys.maxsize


def _limit_of_container(group: Path = Path("/sys/fs/cgroup")) -> int:
    try:
        return int((group / "memory.max").read_text())
    except (OSError, ValueError):  # there is none, or it is `max`
        return sys.maxsize


def _of_machine() -> tuple[int, int]:
    """Bytes that there are, and that are free."""
    if sys.platform == "win32":
        return _on_windows()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return total, int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux: macOS says how much there is, and uses what is free for files
        return total, total * 3 // 4


def _on_windows() -> tuple[int, int]:
    import ctypes

    class Status(ctypes.Structure):
        """MEMORYSTATUSEX."""

        _fields_ = (
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            *(
                (name, ctypes.c_uint64)
                for name in ("total", "free", "total_page", "free_page", "total_virtual", "free_virtual", "extended")
            ),
        )

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status.total), int(status.free)

"""Cores and memory that this process may use, under the limits of a container too.

::

    cores     machine → CPU affinity → CPU quota of every control group around the process
    memory    machine → memory limit of every control group around the process

Control groups (cgroups) are how Linux limits containers and services. Version 2 has one tree of them,
version 1 a tree for each controller. A limit counts for all groups below it, so the tightest one is valid.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgereason.core.checks import refusal, require_int

MAX_THREADS: Final = 512
"""Most CPU threads that the native library takes."""

_ROOT: Final = Path("/")


def require_threads(threads: int | None) -> None:
    """Refuses a number of CPU threads that the native library can't take; None is one that was left open.

    Raises:
        RequestError: it is below 1 or above `MAX_THREADS`.
    """
    if threads is None:
        return
    require_int("threads", threads, least=1)
    if threads > MAX_THREADS:
        raise refusal("threads", f"must be at most {MAX_THREADS}", threads)


def usable_cores(root: Path = _ROOT) -> int:
    """Cores that this process may use, at least 1.

    A quota of 1.5 cores counts as 2.

    Args:
        root: folder in which `proc` and `sys` are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups(root, "cpu"):
        for limit in (
            _integers(group / "cpu.max"),
            _integers(group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us"),
        ):
            if len(limit) == 2 and min(limit) > 0:
                quota_us, period_us = limit
                cores = min(cores, -(-quota_us // period_us))
    return cores


def memory_bytes(root: Path = _ROOT) -> int | None:
    """Memory that this process may use, in bytes; None where the system does not tell.

    Args:
        root: folder in which `proc` and `sys` are.
    """
    known = [_physical_bytes()]
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _integers(group / name)
            known += limit if len(limit) == 1 else []
    return min((size for size in known if size and size > 0), default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that limit this process, each one before its parent.

    Inside a container the path of a group may be the host's, of which the container sees no folder. Its own
    limits then stand where the tree begins.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return
    trees = root / "sys/fs/cgroup"
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2
            tops = [trees]
        elif controller in controllers.split(","):
            tops = [trees / name for name in dict.fromkeys((controller, controllers))]
        else:
            continue
        inside = [part for part in path.split("/") if part]
        for top in tops:
            for depth in range(len(inside), -1, -1):
                yield top.joinpath(*inside[:depth])


def _integers(*files: Path) -> list[int]:
    """The integers that the files hold; none if a file is missing or holds something else, such as `max`."""
    try:
        return [int(word) for file in files for word in file.read_text("utf-8").split()]
    except (OSError, ValueError):
        return []


def _physical_bytes() -> int | None:
    if hasattr(os, "sysconf"):
        try:
            pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            return None
        return pages * page_bytes if min(pages, page_bytes) > 0 else None
    windll = getattr(ctypes, "windll", None)
    if windll is None:
        return None
    status = _MemoryStatus(num_bytes=ctypes.sizeof(_MemoryStatus))
    return int(status.total_bytes) if windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = (
        ("num_bytes", ctypes.c_uint32),
        ("load_percent", ctypes.c_uint32),
        ("total_bytes", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 6),
    )

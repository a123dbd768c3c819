"""Cores and memory that this process may use, under the limits of a container too.

::

    cores     machine → CPU affinity → CPU quota of every control group around the process
    memory    machine → memory limit of every control group around the process
    free      machine's available memory → what each limit leaves beside the group's use

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


def available_bytes(root: Path = _ROOT) -> int | None:
    """Memory that this process may still take, in bytes; None where the system does not tell.

    What the system can drop, such as files that it keeps in memory, counts as available.

    Args:
        root: folder in which `proc` and `sys` are.
    """
    known = [_available_bytes(root)]
    for group in _groups(root, "memory"):
        for limit_name, used_name, cached_key in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _integers(group / limit_name), _integers(group / used_name)
            if len(limit) == len(used) == 1:
                cached = _table(group / "memory.stat", " ").get(cached_key, 0)
                known.append(max(0, limit[0] - used[0] + cached))
    return min((size for size in known if size is not None), default=None)


def processor_flags(root: Path = _ROOT) -> frozenset[str]:
    """What the processor can do, in Linux's words, such as "avx2" or "asimddp"; empty on other systems.

    Args:
        root: folder in which `proc` is.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    pairs = (line.partition(":") for line in lines)
    return frozenset(
        flag for key, _, flags in pairs if key.strip() in ("flags", "Features") for flag in flags.split()
    )


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


def _table(file: Path, separator: str) -> dict[str, int]:
    """The integers of a file with a key in each line; none if it is missing or is something else."""
    try:
        pairs = [line.partition(separator) for line in file.read_text("utf-8").splitlines()]
        return {key: int(value.split()[0]) for key, _, value in pairs if value.strip()}
    except (OSError, ValueError):
        return {}


def _available_bytes(root: Path) -> int | None:
    if kilobytes := _table(root / "proc/meminfo", ":").get("MemAvailable"):
        return kilobytes * 1024
    status = _windows_memory()
    return None if status is None else int(status.available_bytes)


def _physical_bytes() -> int | None:
    if hasattr(os, "sysconf"):
        try:
            pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            return None
        return pages * page_bytes if min(pages, page_bytes) > 0 else None
    status = _windows_memory()
    return None if status is None else int(status.total_bytes)


def _windows_memory() -> _MemoryStatus | None:
    windll = getattr(ctypes, "windll", None)
    if windll is None:
        return None
    status = _MemoryStatus(num_bytes=ctypes.sizeof(_MemoryStatus))
    return status if windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = (
        ("num_bytes", ctypes.c_uint32),
        ("load_percent", ctypes.c_uint32),
        ("total_bytes", ctypes.c_uint64),
        ("available_bytes", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 5),
    )

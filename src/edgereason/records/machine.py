"""What a benchmark's figures were measured on, and the ceiling that this machine sets.

Records describe a machine by its parts; they hold no host name and no path.
"""

from __future__ import annotations

import os
import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np

from edgereason.core.machine import memory_bytes, usable_cores
from edgereason.engine.native import C, has_kernels, kernels
from edgereason.records.measure import interleave, timed

_BANDWIDTH_BYTES: Final = 512 * 2**20
"""Many times any cache."""


def describe(threads: int) -> dict[str, object]:
    """The machine, for a record."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": threads,
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "llama_cpp_features": features(),
        "kernels": kernels(),
        # How long OpenMP's threads spin at a barrier: set by engine.native, and worth tens of per cent.
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),
    }


def versions() -> dict[str, str | None]:
    """What the figures depend on; the commit is None where the package is not run from its repository."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("edgereason", "llama-cpp-python", "numpy", "gguf"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    found["commit"] = commit()
    return found


def commit() -> str | None:
    """The commit that this package is run from, with `+` behind it if files differ from it."""
    repository = Path(__file__).resolve().parents[3]
    if not (repository / ".git").exists():  # an installed package may lie in somebody else's repository
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", "src") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def read_bandwidth(threads: int, rounds: int = 7) -> float:
    """Bytes a second that `threads` threads read from memory together, the best of some rounds.

    A bitwise reduction is what numpy reads fastest: it does the least with what it read.
    """
    parts = np.array_split(np.ones(_BANDWIDTH_BYTES // 8, np.uint64), threads)
    with ThreadPoolExecutor(threads) as pool:
        case = timed(lambda: list(pool.map(np.bitwise_or.reduce, parts)))
        return _BANDWIDTH_BYTES / interleave({"read": case}, rounds).best("read")


def kernels_note() -> str:
    """Which of edgereason's kernels run, or why none do, in a few words."""
    if name := kernels():
        return name
    if has_kernels():
        return "none: EDGEREASON_KERNELS=0 switches them off"
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"none: they are for x86, and this is {platform.machine()}; llama.cpp's own run"
    return "none: this llama-cpp-python was built without them; llama.cpp's own run"


def features() -> list[str]:
    """What llama.cpp was built with and found, such as AVX512 or REPACK."""
    pairs = (part.split("=") for part in C.llama_print_system_info().decode().split("|") if "=" in part)
    return [name.rpartition(":")[2].strip() for name, value in pairs if value.strip() == "1"]


def cpu_name() -> str:
    """The processor, in its maker's words."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Hardware"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

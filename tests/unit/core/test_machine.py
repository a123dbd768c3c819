"""Limits of control groups, from made trees of `/proc` and `/sys`; expected values are worked out by hand."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from edgereason.core import machine
from edgereason.core.machine import memory_bytes, usable_cores

GB = 2**30
CORES = 8
MEMORY_BYTES = 16 * GB


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores, all of them this process's, in pages of 4 kB that make 16 GB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(CORES)), raising=False)
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": MEMORY_BYTES // 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__, raising=False)


def tree(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A root whose process is in `groups`, with files below `/sys/fs/cgroup`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "150000 50000\n"}, 3),
        ("0::/\n", {"cpu.max": "max 100000\n"}, CORES),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, CORES),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 100000", "a/cpu.max": "300000 100000"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "500000 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a\n", {"cpu.max": "400000 100000", "other/cpu.max": "100000 100000"}, 4),
        ("0::/../../x\n", {"cpu.max": "400000 100000"}, 4),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "250000", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu/docker/cpu.cfs_quota_us": "100000", "cpu/docker/cpu.cfs_period_us": "50000"}, 2),
        (V1, {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "400000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 4),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, CORES),
        (V1, {"cpu/cpu.cfs_quota_us": "400000"}, CORES),
        ("5:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, CORES),
    ],
    ids=[
        "v2", "v2 rounds up", "v2 at least one", "v2 other period", "v2 max", "v2 more than there are",
        "v2 parent", "v2 child", "v2 parent is tighter", "v2 sibling does not count",
        "v2 outside of the namespace", "v1", "v1 parent", "v1 root", "v1 folder of both controllers",
        "v1 none", "v1 no period", "v1 another controller",
    ],
)  # fmt: skip
def test_cores_are_those_that_the_tightest_quota_pays_for(tmp_path, groups, files, cores):
    assert usable_cores(tree(tmp_path, groups, files)) == cores


def test_an_affinity_below_the_quota_is_what_counts(tmp_path, monkeypatch):
    root = tree(tmp_path, "0::/\n", {"cpu.max": "400000 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5})
    assert usable_cores(root) == 2


def test_cores_without_affinity_are_the_machines(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


@pytest.mark.parametrize(
    ("groups", "files", "expected_bytes"),
    [
        ("0::/\n", {"memory.max": "2147483648\n"}, 2 * GB),
        ("0::/\n", {"memory.max": "max\n"}, MEMORY_BYTES),
        ("0::/\n", {"memory.max": str(64 * GB)}, MEMORY_BYTES),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": str(3 * GB)}, 3 * GB),
        ("0::/a/b\n", {"a/b/memory.max": str(GB), "a/memory.max": str(3 * GB)}, GB),
        ("0::/a\n", {"a/memory.max": "0"}, MEMORY_BYTES),
        (V1, {"memory/docker/abc/memory.limit_in_bytes": str(5 * GB)}, 5 * GB),
        (V1, {"memory/docker/memory.limit_in_bytes": str(5 * GB)}, 5 * GB),
        (V1, {"memory/memory.limit_in_bytes": str(5 * GB)}, 5 * GB),
        (V1, {"memory/memory.limit_in_bytes": "9223372036854771712"}, MEMORY_BYTES),
    ],
    ids=[
        "v2", "v2 max", "v2 more than there is", "v2 parent", "v2 child", "v2 nothing",
        "v1", "v1 parent", "v1 root", "v1 none",
    ],
)  # fmt: skip
def test_memory_is_what_the_tightest_limit_leaves(tmp_path, groups, files, expected_bytes):
    assert memory_bytes(tree(tmp_path, groups, files)) == expected_bytes


@pytest.mark.parametrize("groups", ["", "0::/\n", "garbage\n0::\n:\n::\n", "\x00\xff", "0::/" + "a" * 300])
@pytest.mark.parametrize("text", ["", "\n", "many", "1 2 3", "1.5 2", "-5 100000", "-5", "5 0", "\x00"])
def test_what_is_not_a_limit_limits_nothing(tmp_path, groups, text):
    files = dict.fromkeys(["cpu.max", "memory.max"], text)
    root = tree(tmp_path, groups, files)
    (root / "proc/self/cgroup").write_bytes(groups.encode("latin-1"))
    assert (usable_cores(root), memory_bytes(root)) == (CORES, MEMORY_BYTES)


def test_a_system_without_control_groups_has_no_limits(tmp_path):
    assert (usable_cores(tmp_path), memory_bytes(tmp_path)) == (CORES, MEMORY_BYTES)


@pytest.mark.parametrize("sysconf", [{"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": -1}.__getitem__, int, None])
def test_memory_that_the_system_does_not_tell_is_unknown(tmp_path, monkeypatch, sysconf):
    # -1 for a figure that it has not; int("SC_PAGE_SIZE") raises the ValueError of an unknown name
    if sysconf is None:
        monkeypatch.delattr(os, "sysconf")
    else:
        monkeypatch.setattr(os, "sysconf", sysconf)
    assert memory_bytes(tmp_path) is None


def test_windows_tells_its_memory(tmp_path, monkeypatch):
    # GIVEN the one call of kernel32 that is used, which fills in MEMORYSTATUSEX (64 bytes, total at byte 8)
    class Kernel:
        is_refusing = False

        @classmethod
        def GlobalMemoryStatusEx(cls, reference) -> int:
            status = reference._obj
            assert ctypes.sizeof(status) == 64
            assert int.from_bytes(bytes(status)[:4], "little") == 64
            ctypes.memmove(ctypes.addressof(status) + 8, (12 * GB).to_bytes(8, "little"), 8)
            return 0 if cls.is_refusing else 1

    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(machine.ctypes, "windll", type("Windll", (), {"kernel32": Kernel}), raising=False)
    # THEN
    assert memory_bytes(tmp_path) == 12 * GB
    Kernel.is_refusing = True
    assert memory_bytes(tmp_path) is None


MEMINFO = "MemTotal: 16777216 kB\nMemFree:   1000000 kB\nMemAvailable:  8388608 kB\nHugePages_Total:   0\n"


@pytest.mark.parametrize(
    ("groups", "files", "available"),
    [
        ("0::/\n", {}, 8 * GB),
        ("0::/\n", {"memory.max": "max\n", "memory.current": f"{GB}\n"}, 8 * GB),
        ("0::/\n", {"memory.max": f"{4 * GB}\n", "memory.current": f"{GB}\n"}, 3 * GB),
        (
            "0::/\n",
            {
                "memory.max": f"{4 * GB}\n",
                "memory.current": f"{3 * GB}\n",
                "memory.stat": f"anon {GB}\ninactive_file {GB}\n",
            },
            2 * GB,
        ),
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": f"{6 * GB}\n",
                "a/b/memory.current": f"{GB}\n",
                "a/memory.max": f"{6 * GB}\n",
                "a/memory.current": f"{5 * GB}\n",
            },
            GB,
        ),
        ("0::/\n", {"memory.max": f"{GB}\n", "memory.current": f"{2 * GB}\n"}, 0),
        ("0::/\n", {"memory.max": f"{GB}\n"}, 8 * GB),
        (
            V1,
            {
                "memory/docker/abc/memory.limit_in_bytes": f"{4 * GB}",
                "memory/docker/abc/memory.usage_in_bytes": f"{3 * GB}",
                "memory/docker/abc/memory.stat": f"total_inactive_file {GB}\n",
            },
            2 * GB,
        ),
    ],
    ids=[
        "the machine's", "no limit", "beside the group's use", "cached files can be dropped",
        "parent is tighter", "above its limit", "use not known", "v1",
    ],
)  # fmt: skip
def test_available_memory_is_what_the_tightest_limit_leaves(tmp_path, groups, files, available):
    root = tree(tmp_path, groups, files)
    (root / "proc/meminfo").write_text(MEMINFO)
    assert machine.available_bytes(root) == available


def test_available_memory_is_unknown_where_the_system_does_not_tell(tmp_path):
    assert machine.available_bytes(tmp_path) is None


def test_flags_are_the_processors_on_x86_and_on_arm(tmp_path):
    (tmp_path / "proc").mkdir()
    cpuinfo = tmp_path / "proc/cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel name\t: X flags: no\nflags\t\t: fpu avx2 fma\nbugs\t\t: sysret\n"
    )
    assert machine.processor_flags(tmp_path) == {"fpu", "avx2", "fma"}
    cpuinfo.write_text(
        "processor\t: 0\nFeatures\t: fp asimd asimddp\n\nprocessor\t: 1\nFeatures\t: fp i8mm\n"
    )
    assert machine.processor_flags(tmp_path) == {"fp", "asimd", "asimddp", "i8mm"}
    assert machine.processor_flags(tmp_path / "elsewhere") == frozenset()

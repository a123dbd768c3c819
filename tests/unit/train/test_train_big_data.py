"""Data that does not fit in memory: read, decontaminated, tokenized and trained on, its memory watched.

`EDGEREASON_BIG_ROWS=2000000` is more than the largest public sets of traces have; that takes some ten minutes
of two cores and 3 GB of disk.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tiny_bundle import write_base

from edgereason.core.bundle import file_sha256
from tool_scripts import load_tool

pytestmark = pytest.mark.slow

NUM_ROWS = int(os.environ.get("EDGEREASON_BIG_ROWS", "40000"))
GIGABYTE = 10**9
made = load_tool("data/openthoughts_rows.py")


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:
                continue
    return found


def peak_bytes(pid: int) -> int:
    """Most memory that a process has had resident; 0 if it is gone."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def run_watched(*command: str | Path, cache: Path) -> dict[str, int]:
    """Runs a command; the most memory that it had itself, and that any process had that it started."""
    env = os.environ | {"EDGEREASON_CACHE": str(cache)}
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env
    )
    peaks = {"itself": 0, "others": 0}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.3):
            first, *others = map(peak_bytes, family(process.pid))
            peaks["itself"] = max(peaks["itself"], first)
            peaks["others"] = max([peaks["others"], *others])

    watching = threading.Thread(target=watch)
    watching.start()
    _, said = process.communicate()
    over.set()
    watching.join()
    assert process.returncode == 0, said[-2000:]
    return peaks


def read_and_train(folder: Path, num_rows: int) -> dict[str, dict[str, int]]:
    """Both commands on so many rows; their peaks."""
    folder.mkdir()
    base, cache = write_base(folder / "tiny.gguf"), folder / "cache"
    made.write(folder / "data", num_rows)
    out = folder / "traces"
    reading = run_watched(
        *("-m", "edgereason", "train", "traces", "--from", folder / "data", "--format", "openthoughts3"),
        *(
            "--against",
            folder / "data" / "eval" / "questions.jsonl",
            "--model",
            base,
            "-o",
            out,
            "--threads",
            "2",
        ),
        cache=cache,
    )
    (found,) = json.loads((out / "record.json").read_text())["yield"].values()
    left_out = made.expected(num_rows)
    assert {name: found.get(name, 0) for name in left_out} == left_out
    assert (found["rows"], found["traces"]) == (num_rows, num_rows - sum(left_out.values()))
    program = Path(__file__).with_name("ten_updates.py")
    training = run_watched(program, base, out / "traces.jsonl", folder / "sft", cache=cache)
    assert len((folder / "sft" / "metrics.jsonl").read_text().splitlines()) >= 10
    return {"reading": reading, "training": training}


@pytest.mark.timeout(7200)
def test_memory_does_not_grow_with_the_rows_that_are_read_and_trained_on(tmp_path: Path) -> None:
    peaks = {
        num_rows: read_and_train(tmp_path / str(num_rows), num_rows)
        for num_rows in (NUM_ROWS // 10, NUM_ROWS)
    }
    (tmp_path / "peaks.json").write_text(json.dumps(peaks))
    few, many = peaks.values()
    for stage, of_many in many.items():
        for process, peak in of_many.items():
            assert peak < 2 * GIGABYTE, (stage, process)
            # Of each row stay its hash (twice 16 to 32 bytes, and as much again while a table doubles), its
            # length and its place.
            assert peak < few[stage][process] + 100e6 + 150 * NUM_ROWS, (stage, process)


def test_the_same_rows_come_to_the_same_traces_by_one_process_and_by_several(tmp_path: Path) -> None:
    base = write_base(tmp_path / "tiny.gguf")
    made.write(tmp_path / "data", 5000)
    for threads in ("1", "2"):
        run_watched(
            *("-m", "edgereason", "train", "traces", "--from", tmp_path / "data", "--format", "sharegpt"),
            *("--model", base, "-o", tmp_path / threads, "--threads", threads),
            cache=tmp_path / "cache",
        )
    assert file_sha256(tmp_path / "1" / "traces.jsonl") == file_sha256(tmp_path / "2" / "traces.jsonl")

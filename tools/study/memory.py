"""Where the memory of an answer goes, by part: the weights loaded in four ways, each in a process of its own.

::

    python tools/study/memory.py --rounds 3 -o RECORD.json
    python tools/study/memory.py --model qwen2.5-coder-0.5b

    now            weights are copied into the order that the kernels read; their file's pages are given back
    pages kept     the same, but the mapped file stays resident beside the copy: as before that was done
    not mapped     the file is read instead of mapped
    not repacked   weights are used as they lie in the mapped file, by slower kernels

For each: resident memory after each stage, the peak, llama.cpp's own sizes, and seconds of loading (the least
of the rounds, which take turns). `--kv` is a type of the KV cache. The record holds bytes. Linux.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

WAYS: Final = ("now", "pages kept", "not mapped", "not repacked")
PROMPT_TOKENS: Final = 512
STEPS: Final = 8
_NOT_MAPPED: Final = 0
_SIZE: Final = re.compile(r"(\w+) (model|KV|output|compute) buffer size = +([\d.]+) MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-w4", help="a name of the catalogue, or a file")
    parser.add_argument("--kv", default="f16", choices=("f16", "q8_0"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(run(asked.model, asked.way, asked.kv)))
        return
    rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(asked.rounds):
        for way in WAYS:
            given = ["--model", asked.model, "--kv", asked.kv, "--way", way]
            done = subprocess.run(
                [sys.executable, __file__, *given], capture_output=True, text=True, check=True
            )
            rounds[way].append(json.loads(done.stdout))
    from edgereason.records.machine import describe, versions

    ways = {way: found[-1] | {"load_s": min(one["load_s"] for one in found)} for way, found in rounds.items()}
    record = {"model": Path(asked.model).name, "kv": asked.kv, "rounds": asked.rounds, "ways": ways}
    text = json.dumps(record | {"machine": describe(threads=2), "versions": versions()}, indent=1)
    if asked.output:
        asked.output.write_text(text + "\n", "utf-8")
    print(text)


class KeptPages:
    """Gives nothing back."""

    def __init__(self, _path: Path) -> None:
        from edgereason.engine.native import C

        self.callback = C.llama_progress_callback(lambda _share, _data: True)


def run(model: str, way: str, kv: Any) -> dict[str, Any]:
    """One way, in this process."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    from edgereason.core.types import Sampling
    from edgereason.engine import handles
    from edgereason.engine.llama import LlamaEngine
    from edgereason.engine.native import C
    from edgereason.hub.pull import resolve

    path, logged, default = resolve(model), [], C.llama_model_default_params

    def log(_level: int, text: bytes | None, _data: ctypes.c_void_p) -> None:
        logged.append((text or b"").decode("utf-8", "replace"))

    def params() -> Any:
        changed = default()
        if way == "not mapped":
            changed.load_mode = _NOT_MAPPED
        changed.use_extra_bufts = way != "not repacked"
        return changed

    listener = C.llama_log_callback(log)
    C.llama_log_set(listener, None)
    C.llama_model_default_params = params
    if way != "now":
        handles.MappedPages = KeptPages
    stages = {"imports": resident_bytes()}
    start = time.perf_counter()
    with LlamaEngine(path, threads=2, kv=kv) as engine:
        load_s = time.perf_counter() - start
        stages["weights and vocabulary"] = resident_bytes()
        with engine.reserve(cells=PROMPT_TOKENS + STEPS, sequences=6):
            stages["context"] = resident_bytes()
            sequence, sampler = engine.new_sequence(), engine.sampler(Sampling(), 0)
            ids = engine.tokenize("The bakery on Mill Road opens at six. " * 100)[:PROMPT_TOKENS]
            engine.encode(sequence, ids)
            stages["a prompt"] = resident_bytes()
            for _ in range(STEPS):
                engine.encode(sequence, [engine.sample(sequence, sampler).token])
            stages["steps"] = resident_bytes()
    sizes = {f"{of} {what}": round(float(mib) * 2**20) for of, what, mib in _SIZE.findall("".join(logged))}
    return {
        "resident_bytes": stages,
        "peak_bytes": status_bytes("VmHWM"),
        "load_s": load_s,
        "llama_cpp_bytes": sizes,
    }


def resident_bytes() -> dict[str, int]:
    """What is resident now: anonymous memory, and pages of files."""
    return {"anonymous": status_bytes("RssAnon"), "files": status_bytes("RssFile")}


def status_bytes(key: str) -> int:
    found = re.search(rf"^{key}:\s*(\d+) kB", Path("/proc/self/status").read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()

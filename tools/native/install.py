"""Installs llama-cpp-python built for this processor, with progress, trimmed to what edgereason uses.

usage: python tools/native/install.py REQUIREMENT      (run by the Makefile with the venv's Python)

The build compiles llama.cpp: about 3 minutes on 2 cores, where the package's default takes 10. Two things
are left out, the multimodal library and the helpers of llama.cpp's own command-line tools. pip keeps the
wheel, so it is built once a machine. Knows pip and its output; does not know edgereason.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]")


def main(requirement: str) -> int:
    trim = Path(__file__).with_name("trim.cmake")
    flags = f'-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF "-DCMAKE_PROJECT_INCLUDE={trim.resolve()}"'
    environment = {**os.environ, "CMAKE_ARGS": f"{flags} {os.environ.get('CMAKE_ARGS', '')}".strip()}
    command = [sys.executable, "-m", "pip", "install", "-v", "--disable-pip-version-check", requirement]
    print(
        f"{requirement}: fetching, and building unless pip has kept a wheel (about 3 minutes on 2 cores)",
        flush=True,
    )
    started, shown, tail = time.monotonic(), -1, deque[str](maxlen=40)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            tail.append(line)
            if found := STEP.match(line):
                done, total = int(found[1]), int(found[2])
                shown = show(done, total, started, shown)
    if pip.returncode:
        print("".join(tail), file=sys.stderr)
        print("the build failed; it needs a C++ compiler (g++ or clang++) on the PATH", file=sys.stderr)
    else:
        print(f"{requirement}: installed after {time.monotonic() - started:.0f} s", flush=True)
    return pip.returncode


def show(done: int, total: int, started: float, shown: int) -> int:
    """One line, rewritten in a terminal; elsewhere a line for every tenth of the way."""
    text = f"  compiling llama.cpp {done}/{total}, {time.monotonic() - started:.0f} s"
    if sys.stdout.isatty():
        print(f"\r{text} ", end="\n" if done == total else "", flush=True)
    elif done * 10 // total > shown:
        shown = done * 10 // total
        print(text, flush=True)
    return shown


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))

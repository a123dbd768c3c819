"""Seconds from the start of `edgereason ask` to the first word of thinking in a terminal.

::

    python tools/study/first_token.py --rounds 7 -o RECORD.json
    python tools/study/first_token.py --beside OTHER/src -o RECORD.json     # another version, in turns

The other version is a source tree, used with the same environment: its Python differs, llama.cpp does not.
Runs take turns, so that both meet the same machine. The record has all seconds and the least ones. Linux and
macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import sys
import time
from pathlib import Path

import edgereason
from edgereason.records.machine import describe, versions

QUESTION = "A baker makes 24 rolls and sells a third of them. How many are left?"
ASK = ("-P", "-m", "edgereason", "ask", QUESTION, "--mode", "think", "--budget", "200", "--temperature", "0")
# Thinking is dim. So is the line that says what the command waits for, which ends in an ellipsis.
THOUGHT = re.compile(r"\x1b\[2m\w+[ .,\r]")
STATUS = re.compile(r"\x1b\[2m[^\x1b]*…\x1b")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--beside", type=Path, help="the source tree of another version")
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    trees = {"this": Path(edgereason.__file__).parents[1]}
    if asked.beside:
        trees["other"] = asked.beside.resolve()
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in trees}
    for _ in range(asked.rounds):
        for name, tree in trees.items():
            runs[name].append(first_and_whole_s(tree))
    record = {
        name: {
            "first_token_s": min(first for first, _ in found),
            "whole_s": min(whole for _, whole in found),
            "rounds": found,
        }
        for name, found in runs.items()
    }
    text = json.dumps(record | {"machine": describe(threads=2), "versions": versions()}, indent=1)
    if asked.output:
        asked.output.write_text(text + "\n", "utf-8")
    print(text)


def first_and_whole_s(tree: Path) -> tuple[float, float]:
    """Seconds to the first word of thinking, and to the end."""
    env = os.environ | {"PYTHONPATH": str(tree), "TERM": "xterm", "COLUMNS": "200"}
    started = time.monotonic()
    process, terminal = pty.fork()
    if process == 0:
        os.execve(sys.executable, [sys.executable, *ASK], env)
    seen, first_s = "", 0.0
    while chunk := _read(terminal):
        seen += chunk.decode(errors="replace")
        if not first_s and THOUGHT.search(STATUS.sub("", seen)):
            first_s = time.monotonic() - started
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code or not first_s:
        raise SystemExit(f"edgereason ask ended with {code} and showed no thinking:\n{seen}")
    return round(first_s, 3), round(time.monotonic() - started, 3)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux's way to say that the process is gone
        return b""


if __name__ == "__main__":
    main()

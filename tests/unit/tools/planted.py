"""Lets the attack loose on programs with planted faults, and prints what it says of each, as JSON.

python planted.py FOLDER
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import tools.attack  # noqa: F401  (puts the tests' modules on the path)
from tools.attack import verdict
from tools.attack.kills import Subject, attack_subject
from tools.attack.processes import run_forked
from tools.attack.tally import Tally

ROWS = 20


def sound() -> None:
    """Writes rows one by one, goes on where it was, and its result whole."""
    journal = Path("rows.jsonl")
    there = journal.read_text().split("\n")[:-1] if journal.is_file() else []
    journal.write_text("".join(f"{line}\n" for line in there))
    with journal.open("a", buffering=1) as file:
        for row in range(len(there), ROWS):
            file.write(f"{row}\n")
            time.sleep(0.002)
    Path(".result.new").write_text(str(ROWS))
    Path(".result.new").replace("result")


def torn() -> None:
    """Takes a result that is there, even if a kill left it empty, for done."""
    if not Path("result").exists():
        time.sleep(0.02)
        Path("result").write_text("right")


def left_behind() -> None:
    """Never clears up after one that was killed."""
    temporary = Path(f".result.{os.getpid():08x}")
    temporary.write_text("right")
    time.sleep(0.02)
    temporary.replace("result")


def forgetful() -> None:
    """Begins again, and loses the rows that were there."""
    with Path("rows.jsonl").open("w", buffering=1) as file:
        for _ in range(ROWS):
            file.write(f"{os.getpid()}\n")
            time.sleep(0.002)
    Path("result").write_text("right")


def stubborn() -> None:
    """Doesn't go on with what a kill left."""
    if Path("begun").exists() and not Path("result").exists():
        sys.stderr.write("edgereason: the folder holds something else\n")
        raise SystemExit(1)
    Path("begun").touch()
    time.sleep(0.02)
    Path("result").touch()


def killed(act: Callable[[], None], folder: Path) -> list[str]:
    """What the attack says of a program that it kills."""
    tally = Tally("planted", 12)
    subject = Subject(
        name="planted",
        act=act,
        share=1,
        results=lambda work: {p.name: p.read_text() for p in work.glob("result")},
        journal="rows.jsonl",
        is_done=lambda work: act is stubborn and (work / "result").exists(),
    )
    attack_subject(subject, tally.planned, tally, folder, random.Random(1))
    assert tally.done == 12
    return tally.violations


def ended(act: Callable[[], object], folder: Path) -> list[str]:
    """What the verdict is on a command."""
    return verdict.faults(run_forked(act, folder / "work", limit_s=2.0))


def say(text: str, code: int) -> Callable[[], None]:
    def act() -> None:
        sys.stderr.write(text)
        raise SystemExit(code)

    return act


def large(folder: Path) -> list[str]:
    ending = run_forked(lambda: None, folder / "work")
    return verdict.faults(replace(ending, peak_bytes=5 << 30))


def main(folder: Path) -> None:
    programs = (sound, torn, left_behind, forgetful, stubborn)
    commands: dict[str, Callable[[], object]] = {
        "well": lambda: None,
        "refused": say("edgereason: no such file\n", 1),
        "traceback": lambda: 1 / 0,
        "signal": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "endless": lambda: time.sleep(60),
        "silent": say("", 1),
        "two lines": say("edgereason: one\nedgereason: two\n", 2),
        "escape": say("edgereason: \x1b[31mred\n", 1),
        "odd code": say("edgereason: what?\n", 7),
    }
    said = {act.__name__: killed(act, folder / act.__name__) for act in programs}
    said |= {name: ended(act, folder / name) for name, act in commands.items()}
    said["large"] = large(folder / "large")
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

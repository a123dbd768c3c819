"""How commands refuse bad input and stop, for tests of what they print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def assert_refused(ran: Any, code: int, says: str) -> None:
    """Nothing on stdout, one line on stderr that holds `says`, and the exit code."""
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1), ran.err
    assert says in ran.err, ran.err


def assert_stopped(ran: Any, folder: Path) -> None:
    """Nothing on stdout, how to go on with `folder` on stderr, and the exit code of an interruption."""
    assert (ran.code, ran.out) == (INTERRUPTED, ""), ran.err
    assert ran.err.endswith(f"the same command with -o {folder} goes on\n"), ran.err
    assert "interrupted" not in ran.err, ran.err
    assert "Traceback" not in ran.err, ran.err

"""Whether a command line ended as it may: well, or in one line and an exit code."""

from __future__ import annotations

import re
from typing import Final

from tools.attack.processes import LIMIT_S, Ending

_GOOD, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_CHECK: Final = re.compile("^wrong  ", re.MULTILINE)
"""`bundle verify` says on stdout what is wrong, line by line."""
_NAME: Final = "edgereason: "


def faults(ended: Ending, *, limit_s: float = LIMIT_S) -> list[str]:
    """What was wrong with the ending of a command that was given something bad."""
    found = ended.faults(limit_s=limit_s)
    if found:
        return found
    if ended.code not in (_GOOD, _FAILED, _USAGE, _INTERRUPTED):
        found.append(f"exit code {ended.code}")
    said = [line for line in ended.err.splitlines() if line.startswith(_NAME)]
    is_told = ended.code == _FAILED and _CHECK.search(ended.out) and not said
    if ended.code in (_FAILED, _USAGE) and len(said) != 1 and not is_told:
        found.append(f"code {ended.code} with {len(said)} lines of error: {ended.err.strip()[-300:]!r}")
    if ended.code in (_FAILED, _USAGE) and said and len(said[0]) > 6000:
        found.append(f"an error of {len(said[0])} characters")
    if strange := _CONTROL.search(ended.err + ended.out):
        found.append(f"{strange[0]!r} reaches the terminal")
    return found


def word(ended: Ending) -> str:
    """How it ended, in a word."""
    if ended.code is None:
        return ended.signal or "signal"
    return {_GOOD: "well", _FAILED: "typed error", _USAGE: "usage error"}.get(
        ended.code, f"code {ended.code}"
    )

"""Figures as text in Markdown: tables, shares, bytes, differences, and a dash for what isn't known.

Pure functions from values to text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from edgereason.core.printable import on_one_line

DASH: Final = "—"
_SPECIAL: Final = re.compile(r"([\\`*\[\]|])")


def cell(text: str) -> str:
    """A text as it is, on one line: what Markdown would read as its own is escaped, and
    control characters are left out.
    """
    return _SPECIAL.sub(r"\\\1", on_one_line(text)).replace("<", "&lt;")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = True) -> str:
    """A table; its first column is left-aligned, and the others right-aligned unless `right` is off."""
    lines = [header, ["---", *(["---:" if right else "---"] * (len(header) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float | None, decimals: int) -> str:
    """0.621 → 62.1 %."""
    return DASH if share is None else f"{100 * share:.{decimals}f} %"


def interval_text(ends: tuple[float, float] | None) -> str:
    """What to say behind a share of its interval: (58.3–65.8), in per cent; nothing without one."""
    return "" if ends is None else f" ({100 * ends[0]:.1f}–{100 * ends[1]:.1f})"


def number(value: float | None, decimals: int) -> str:
    return DASH if value is None else f"{value:,.{decimals}f}"


def bytes_text(num_bytes: float | None) -> str:
    """Millions of bytes, or thousands where there are few: 491.4 MB, 12.3 kB."""
    if num_bytes is None:
        return DASH
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:,.1f} kB"


def points(now: float | None, before: float | None, ci95: tuple[float, float]) -> str:
    """A difference of shares and its interval in percentage points; nothing if a share isn't known."""
    if now is None or before is None:
        return ""
    low, high = (_signed(100 * end, 1) for end in ci95)
    return f"{_signed(100 * (now - before), 1)} points ({low} to {high})"


def relative(now: float | None, before: float | None, unit: str) -> str:
    """A change in per cent of what was before; nothing if one isn't known or there was nothing."""
    return "" if now is None or not before else f"{_signed(100 * (now / before - 1), 0)} % {unit}"


def _signed(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    return text.replace("-", "−") if float(text) else "±" + text[1:]

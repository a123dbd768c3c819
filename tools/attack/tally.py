"""What a part of the attack counts: cases by kind, how they ended, violations, slowest and largest."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from typing import Any, Final

from tools.attack.processes import Ending

_SHOWN: Final = 40
"""Violations that a record lists in full; the others are counted."""
_EVERY_S: Final = 5.0


class Tally:
    """Counts the cases of one part, and says on stderr how far it is.

    Args:
        part: what the part is called.
        planned: number of cases.
    """

    def __init__(self, part: str, planned: int) -> None:
        self.part = part
        self.planned = planned
        self.done = 0
        self.violations: list[str] = []
        self.figures: dict[str, Any] = {}
        self._endings: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._slowest: tuple[float, str] = (0.0, "")
        self._crowding = 1.0
        self._largest: tuple[int, str] = (0, "")
        self._start_s = self._shown_s = time.monotonic()

    def count(self, kind: str, how: str, case: str, ending: Ending | None = None) -> None:
        """Counts a case.

        Args:
            kind: of what was attacked.
            how: it ended, in a word.
            case: names it so that it can be found again.
            ending: of its process, if it had one.
        """
        self.done += 1
        self._endings[kind][how] += 1
        if ending is not None:
            self._seconds[kind] += ending.seconds
            self._slowest = max(self._slowest, (ending.seconds, case))
            self._crowding = max(self._crowding, ending.crowding)
            self._largest = max(self._largest, (ending.peak_bytes, case))
        self._show()

    def violated(self, case: str, what: str) -> None:
        """Notes what must not happen."""
        self.violations.append(f"{case}: {what}")
        sys.stderr.write(f"{self.part}: VIOLATION {case}: {what}\n")

    def to_json(self) -> dict[str, Any]:
        """The part for the record."""
        found: dict[str, Any] = {
            "cases": self.done,
            "planned": self.planned,
            "seconds": round(time.monotonic() - self._start_s, 1),
            "kinds": {kind: dict(sorted(ways.items())) for kind, ways in sorted(self._endings.items())},
        }
        if self._slowest[1]:
            found["seconds_by_kind"] = {kind: round(s, 1) for kind, s in sorted(self._seconds.items())}
            found["slowest"] = {"seconds": round(self._slowest[0], 2), "case": self._slowest[1]}
            found["most_crowding"] = round(self._crowding, 1)
            found["largest"] = {"bytes": self._largest[0], "case": self._largest[1]}
        found |= self.figures
        return found | {
            "num_violations": len(self.violations),
            "violations": self.violations[:_SHOWN],
        }

    def _show(self) -> None:
        now_s = time.monotonic()
        is_last = self.done == self.planned
        if now_s - self._shown_s < _EVERY_S and not is_last:
            return
        self._shown_s = now_s
        left_s = round((now_s - self._start_s) / self.done * max(0, self.planned - self.done))
        sys.stderr.write(
            f"{self.part}: {self.done} of {self.planned}, {len(self.violations)} violations, "
            f"{left_s // 60}:{left_s % 60:02d} left\n"
        )

"""How far a benchmark is, in shares of the time that it is expected to take.

Knows expected seconds; does not know what is measured or how progress is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BenchProgress:
    """How far a run is; `done` in [0, 1] is of the expected time."""

    file: str
    measure: str
    done: float


Report = Callable[[BenchProgress], None]


class Meter:
    """Turns shares of measures into the share of the whole run."""

    def __init__(self, report: Report, total_s: float) -> None:
        self._report = report
        self._total_s = total_s
        self._before_s = 0.0
        self._measure_s = 0.0
        self._share = 0.0
        self._at = ("", "")

    def enter(self, file: str, measure: str, expected_s: float) -> None:
        """A measure begins; the one before it is done."""
        self._before_s += self._measure_s
        self._measure_s, self._share, self._at = expected_s, 0.0, (file, measure)
        self._tell()

    def advance(self, share: float) -> None:
        """A further share of the measure is done."""
        self._share = min(1.0, self._share + share)
        self._tell()

    def _tell(self) -> None:
        done_s = self._before_s + self._share * self._measure_s
        self._report(BenchProgress(*self._at, done_s / self._total_s))

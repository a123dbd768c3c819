"""How long, how much memory and how much disk a recipe takes, from what a run of it with few rows took.

::

    seconds of a stage = before its first row + seconds of a row × rows

Rows are what the stage counts: tokens, samples, updates. Memory is that of the short run, which has the same
batches. A stage that was never run has no estimate.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from edgereason.core.fields import Fields
from edgereason.recipe.stages import Stage
from edgereason.records.context import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a stage took.

    Attributes:
        seconds: in all.
        row_s: seconds of what its longest part did over and over; 0 if it did nothing so.
        amount: of the stage, as it counts; None for next to nothing.
        peak_bytes: most memory; None where the system does not tell.
        disk_bytes: of its folder.
    """

    seconds: float
    row_s: float = 0.0
    amount: float | None = None
    peak_bytes: int | None = None
    disk_bytes: int = 0

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self | None:
        """From the record of a finished stage."""
        made = entry.get("made")
        if not isinstance(made, Mapping):
            return None
        values = Fields(made, "made")
        seconds = values.number("seconds")
        peak = values.number("peak_bytes")
        return (
            None
            if seconds is None
            else cls(
                seconds=seconds,
                row_s=values.number("row_s") or 0.0,
                amount=values.number("amount"),
                peak_bytes=None if peak is None else int(peak),
                disk_bytes=int(values.number("disk_bytes") or 0),
            )
        )

    def seconds_for(self, amount: float | None) -> float:
        """What the stage takes for another amount."""
        if not self.amount or amount is None:
            return self.seconds
        if not self.row_s:
            return self.seconds * max(1.0, amount / self.amount)
        rows_s = min(self.seconds, self.row_s * self.amount)
        return self.seconds - rows_s + self.row_s * amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a stage will take.

    Attributes:
        amount: how much there is to do, in `unit`; None for next to nothing.
        pace: that it is judged by; None if nothing was measured.
    """

    stage: str
    amount: float | None
    unit: str
    pace: Pace | None

    @property
    def seconds(self) -> float | None:
        """Of the whole stage."""
        return None if self.pace is None else self.pace.seconds_for(self.amount)


def estimates(
    stages: Sequence[Stage], paces: Mapping[str, Pace], counts: Mapping[str, int]
) -> list[Estimate]:
    """What every stage will take.

    Args:
        stages: of the recipe.
        paces: by stage.
        counts: rows of every data set.
    """
    return [_estimate(stage, paces.get(stage.name), counts) for stage in stages]


def _estimate(stage: Stage, pace: Pace | None, counts: Mapping[str, int]) -> Estimate:
    amount = None
    try:
        if stage.amount is not None:
            amount = stage.amount(counts)
    except KeyError:  # data that are not here yet
        pace = None
    return Estimate(stage=stage.name, amount=amount, unit=stage.unit, pace=pace)


@dataclass(slots=True)
class _Span:
    """When a part was first and last heard of, and how far it was."""

    first_s: float
    first: float
    last_s: float
    last: float
    total: float


@dataclass(slots=True)
class Stopwatch:
    """Takes the time of a stage: passes its progress on, and notes how fast it is.

    Args:
        progress: told everything.
    """

    progress: Progress
    _start_s: float = field(default_factory=lambda: time.monotonic())
    _spans: dict[str, _Span] = field(default_factory=dict)

    def __call__(
        self, stage: str, done: float, total: float, note: str = "", details: Sequence[str] = ()
    ) -> None:
        """Takes a report, as `Progress` does."""
        now_s = time.monotonic()
        span = self._spans.setdefault(stage, _Span(now_s, done, now_s, done, total))
        span.last_s, span.last, span.total = now_s, done, total
        self.progress(stage, done, total, note, details)

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start_s

    def row_s(self, amount: float | None) -> float:
        """Seconds of one unit of the stage, by its longest part; 0 if that made no progress."""
        longest = max(self._spans.values(), key=lambda one: one.last_s - one.first_s, default=None)
        if longest is None or not amount or longest.last <= longest.first:
            return 0.0
        share = (longest.last - longest.first) / max(longest.total, 1e-9)
        return (longest.last_s - longest.first_s) / (share * amount)

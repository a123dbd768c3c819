"""How anything is timed here: cases take turns, and minima are compared.

::

    round 1   A B      round 2   A B      …      best(A) / best(B)

A shared or virtual machine only ever *adds* time, for seconds on end, and to whoever runs just then. Turns
spread that over all cases, and a minimum over the rounds is the round that it spared. How noisy a run was
stands beside its figures: each case's spread, the time that the hypervisor stole, the time others took.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MIN_ROUNDS: Final = 7
"""Fewer rounds than this are a trial, and the record says so."""

Clock = Callable[[], float]
Case = Callable[[], float]
"""Does something once and says how many seconds of it count."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of every case, in the order of the rounds."""

    seconds: Mapping[str, Sequence[float]]

    def best(self, case: str) -> float:
        """The least."""
        return min(self.seconds[case])

    def mean(self, case: str) -> float:
        return statistics.fmean(self.seconds[case])

    def ratio(self, case: str, against: str) -> float:
        """Ratio of minima."""
        return self.best(case) / self.best(against)

    def spread(self, case: str) -> float:
        """Median over minimum: 1 on a machine that nobody else uses."""
        return statistics.median(self.seconds[case]) / self.best(case)

    def summary(self) -> dict[str, dict[str, float]]:
        """Minimum and spread of every case, for the record."""
        return {case: {"min_s": self.best(case), "spread": self.spread(case)} for case in self.seconds}


def timed(action: Callable[[], object], clock: Clock = time.perf_counter) -> Case:
    """An action, all of which counts, as a case."""

    def case() -> float:
        start = clock()
        action()
        return clock() - start

    return case


def interleave(
    cases: Mapping[str, Case], rounds: int, after_round: Callable[[], None] = lambda: None
) -> Timings:
    """Runs every case once a round, in the order given; never all rounds of one case in a row."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            seconds[name].append(case())
        after_round()
    return Timings(seconds)


@dataclass(slots=True)
class CpuWatch:
    """Who had the CPUs since it was made: the hypervisor, other processes.

    A process that this one started counts as its own once it has ended.

    Args:
        stat: Linux's counters; where there are none, both shares are unknown.
    """

    stat: Path = Path("/proc/stat")
    _start: tuple[float, float, float] | None = field(init=False)
    _own_start_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._start = self._read()
        self._own_start_s = _own_s()

    def shares(self) -> dict[str, float | None]:
        """Shares of all CPU time: `steal_share` the hypervisor took, `others_share` other processes used."""
        now = self._read()
        if now is None or self._start is None or now[0] <= self._start[0]:
            return {"steal_share": None, "others_share": None}
        total_s, busy_s, steal_s = (b - a for a, b in zip(self._start, now, strict=True))
        others_s = max(0.0, busy_s - (_own_s() - self._own_start_s))
        return {"steal_share": steal_s / total_s, "others_share": others_s / total_s}

    def _read(self) -> tuple[float, float, float] | None:
        """Seconds since boot, summed over CPUs: all, busy for a process, stolen."""
        try:
            counters = [int(n) for n in self.stat.read_text().splitlines()[0].split()[1:9]]
        except (OSError, ValueError, IndexError):
            return None
        user, nice, system, _idle, _iowait, irq, softirq, steal = counters
        ticks_s = os.sysconf("SC_CLK_TCK")
        return sum(counters) / ticks_s, (user + nice + system + irq + softirq) / ticks_s, steal / ticks_s


def _own_s() -> float:
    """CPU seconds of this process and of those that it started and that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system

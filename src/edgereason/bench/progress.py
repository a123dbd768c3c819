"""Rounds of turns, and how far a benchmark is, in shares of the time that it is expected to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from edgereason.bench.files import Notice


@dataclass(frozen=True, slots=True)
class BenchProgress:
    """How far a benchmark is; `done` in [0, 1] is the share of the expected time."""

    file: str
    measure: str
    done: float


def _silent(_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom a benchmark tells what it does; by default nobody.

    Attributes:
        report: told after every turn how far it is.
        notice: told in a line what is fetched, made or loaded first, and what fails.
    """

    report: Callable[[BenchProgress], None] = _silent
    notice: Notice = _silent


SILENT: Final = Listener()


class Meter:
    """Turns shares of measures into the share of the whole benchmark."""

    def __init__(self, listener: Listener, total_s: float) -> None:
        self._report = listener.report
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


@dataclass(frozen=True, slots=True)
class BenchTurn:
    """One case of a round; `expected_s` is rough, for the time left."""

    file: str
    expected_s: float
    measure: Callable[[], None]


def take_turns(rounds: Sequence[Sequence[BenchTurn]], listener: Listener) -> None:
    """Measures every turn of every round, in this order, and reports after each."""
    meter = Meter(listener, sum(turn.expected_s for turns in rounds for turn in turns))
    for number, turns in enumerate(rounds, 1):
        for turn in turns:
            meter.enter(turn.file, f"round {number} of {len(rounds)}", turn.expected_s)
            turn.measure()
            meter.advance(1.0)

"""What a long run is given: when to stop, whom to tell, how many threads, where models come from.

Every long run takes one `RunContext`; its defaults run to the end in silence, which suits a script.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edgereason.core.machine import require_threads, usable_cores
from edgereason.hub.pull import resolve
from edgereason.records.folder import about, peak_rss_bytes


class Progress(Protocol):
    """Is told how far a run is."""

    def __call__(
        self, stage: str, done: float, total: float, note: str = "", details: Sequence[str] = ()
    ) -> None:
        """Takes a report.

        Args:
            stage: what is being done.
            done: how much of it is, of `total`.
            total: of the same unit.
            note: a short text, such as the speed.
            details: more short texts, of runs whose every step is worth a look; an alarm begins with "!".
        """


def _silent(stage: str, done: float, total: float, note: str = "", details: Sequence[str] = ()) -> None:
    pass


def _unheard(line: str) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What a long run is given.

    Attributes:
        should_stop: asked between steps; once true, the run leaves what it has and returns None.
        progress: told how far the run is.
        notice: told in a line what a person should know.
        threads: CPU threads; None for as many as the process may use.
        fetch: the file of a model, by its name or path.
        command: the command line that started the run, for its record; see `command_given`.

    Raises:
        RequestError: `threads` is out of range.
    """

    should_stop: Callable[[], bool] = _never
    progress: Progress = _silent
    notice: Callable[[str], None] = _unheard
    threads: int | None = None
    fetch: Callable[[str], Path] = resolve
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_threads(self.threads)

    @property
    def num_threads(self) -> int:
        """CPU threads to use."""
        return self.threads or usable_cores()

    def titled(self, title: str) -> RunContext:
        """The same, told of one part's work under its title."""

        def progress(
            stage: str, done: float, total: float, note: str = "", details: Sequence[str] = ()
        ) -> None:
            self.progress(", ".join(filter(None, (title, stage))), done, total, note, details)

        return replace(self, progress=progress)

    def about(self) -> dict[str, Any]:
        """What a record says of its making: date, machine, versions, peak memory so far, command."""
        command = {"command": list(self.command)} if self.command else {}
        return about(self.threads) | {"peak_rss_bytes": peak_rss_bytes()} | command

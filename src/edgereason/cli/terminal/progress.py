"""How far a long run is, on stderr: a bar in a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from edgereason.cli.terminal.echo import echo
from edgereason.core.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgereason.records.context import Progress

_LINE_S: Final = 60.0
_COLUMNS: Final = 3


class _Show(Protocol):
    """Takes what is done, of how much, what else there is to say, and details of every step."""

    def __call__(self, done: float, total: float, text: str, details: Sequence[str]) -> None: ...


@contextmanager
def progress_display() -> Iterator[Progress]:
    """Something to report progress to; every stage has its own time left."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield _with_time_left(_lines())
        return
    from rich import progress as bars
    from rich.console import Group
    from rich.live import Live

    columns = (
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.description}", markup=False),
    )
    bar = bars.Progress(*columns, console=console)
    number = bar.add_task("starting", total=None)
    with Live(bar, console=console, refresh_per_second=4) as live:

        def show(done: float, total: float, text: str, details: Sequence[str]) -> None:
            bar.update(number, completed=done, total=total, description=printable(text))
            if details:
                live.update(Group(bar, details_panel([printable(one) for one in details])))

        yield _with_time_left(show)


def details_panel(details: Sequence[str]) -> RenderableType:
    """Details in columns, alarms below."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    cells = [text for text in details if not text.startswith("!")]
    table = Table.grid(padding=(0, 3))
    for at in range(0, len(cells), _COLUMNS):
        table.add_row(*cells[at : at + _COLUMNS])
    alarms = [Text(text, style="bold red") for text in details if text.startswith("!")]
    return Panel(Group(table, *alarms))


def minutes(seconds: float) -> str:
    """Minutes and seconds, as in 1:05."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"


def _with_time_left(show: _Show) -> Progress:
    """Adds the time left, judged by what was done since the first report of a stage."""
    starts: dict[str, tuple[float, float]] = {}

    def report(stage: str, done: float, total: float, note: str = "", details: Sequence[str] = ()) -> None:
        now_s = time.monotonic()
        start_s, before = starts.setdefault(stage, (now_s, done))
        fresh = done - before
        left = f"{minutes((now_s - start_s) / fresh * (total - done))} left" if fresh > 0 else "…"
        show(done, total, ", ".join(filter(None, (stage, note, left))), details)

    return report


def _lines() -> _Show:
    """A line a minute, and one for every step that has details."""
    last_s = 0.0

    def show(done: float, total: float, text: str, details: Sequence[str]) -> None:
        nonlocal last_s
        if not details and time.monotonic() - last_s < _LINE_S and done != total:
            return
        last_s = time.monotonic()
        figures = [text for text in details if not text.startswith("!")]
        echo(", ".join([f"{done:g} of {total:g} done", *figures, text]), err=True)
        for alarm in (text for text in details if text.startswith("!")):
            echo(f"  {alarm}", err=True)

    return show

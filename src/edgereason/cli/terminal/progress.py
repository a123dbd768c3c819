"""How far an evaluation is, on stderr: a bar in a terminal, a line a minute elsewhere.

Knows shares and counts; does not know what is evaluated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:
    from edgereason.evals.evaluate import Progress

_LINE_S: Final = 60.0

Show = Callable[[int, int, str], None]
"""Takes what is done, of how much, and what else there is to say."""


@contextmanager
def progress_display() -> Iterator[Show]:
    """Something to show progress with."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield _lines()
        return
    from rich import progress as bars

    columns = (
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.description}", markup=False),
    )
    with bars.Progress(*columns, console=console) as bar:
        number = bar.add_task("starting", total=None)
        yield lambda done, total, text: bar.update(number, completed=done, total=total, description=text)


def timed(show: Show) -> Callable[[int, int], None]:
    """Shows counts with the time left, judged by what was done since the first of them."""
    start: tuple[float, int] | None = None

    def report(done: int, total: int) -> None:
        nonlocal start
        now_s = time.monotonic()
        start = start or (now_s, done)
        fresh = done - start[1]
        left_s = (now_s - start[0]) / fresh * (total - done) if fresh else None
        show(done, total, _left(left_s))

    return report


def figures(state: Progress) -> str:
    """What an evaluation has come to so far."""
    accuracy = "" if state.accuracy is None else f"{state.accuracy:.1%} right, "
    speed = "" if not state.tokens_per_s else f"{state.tokens_per_s:.0f} tok/s, "
    return accuracy + speed + _left(state.left_s)


def minutes(seconds: float) -> str:
    """Minutes and seconds, as in 1:05."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"


def _left(left_s: float | None) -> str:
    return "…" if left_s is None else f"{minutes(left_s)} left"


def _lines() -> Show:
    last_s = 0.0

    def show(done: int, total: int, text: str) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _LINE_S or done == total:
            last_s = time.monotonic()
            typer.echo(f"{done} of {total} done, {text}", err=True)

    return show

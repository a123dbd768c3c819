"""The panel of a training by reinforcement: what the policy does now, and whether it looks like collapsing.

Updates take minutes, so that elsewhere than in a terminal each is a line. Knows figures; does not know
training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING

import typer

from edgereason.cli.terminal.progress import minutes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgereason.train.grpo.metrics import UpdateFigures

Report = Callable[["UpdateFigures", list[str]], None]


@contextmanager
def update_panel() -> Iterator[Report]:
    """Something to report updates to."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False)
    spent_s: list[float] = []

    def left(update: UpdateFigures) -> str:
        spent_s.append(update.seconds)
        return f"{minutes(fmean(spent_s) * (update.steps - update.step))} left"

    if not console.is_terminal:

        def say(update: UpdateFigures, alarms: list[str]) -> None:
            words = ", ".join(f"{name} {value}" for name, value in rows(update).items())
            typer.echo(f"{update.step} of {update.steps} done, {words}, {left(update)}", err=True)
            for alarm in alarms:
                typer.echo(f"  ! {alarm}", err=True)

        yield say
        return
    from rich.live import Live

    with Live(console=console, refresh_per_second=2) as live:

        def show(update: UpdateFigures, alarms: list[str]) -> None:
            live.update(panel(update, left(update), alarms))

        yield show


def rows(update: UpdateFigures) -> dict[str, str]:
    """What there is to say of an update, by name."""
    rollouts = update.rollouts
    by_bucket = ", ".join(f"{tokens:.0f} of {bucket}" for bucket, tokens in rollouts.tokens_by_bucket.items())
    return {
        "reward": f"{rollouts.reward:.3f}",
        "right": f"{rollouts.accuracy:.0%}",
        "tokens": f"{rollouts.mean_tokens:.0f} ({by_bucket})",
        "behind the closing": f"{rollouts.mean_answer_tokens:.0f}",
        "within (1+m)B": f"{rollouts.share_within:.0%}",
        "KL": _known(update.kl, ".4f"),
        "entropy": _known(update.entropy, ".3f"),
        "engine/torch gap": _known(update.mismatch, ".4f"),
        "clipped": _known(update.clipped, ".1%"),
        "groups dropped": f"{rollouts.dropped} of {rollouts.groups}",
        "drawn": f"{rollouts.tokens_per_s:.0f} tok/s",
        "learned": f"{update.trained_tokens_per_s:.0f} tok/s",
    }


def _known(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def panel(update: UpdateFigures, left: str, alarms: list[str]) -> RenderableType:
    """All of it in a frame, alarms below."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 3))
    cells = [f"{name}  {value}" for name, value in rows(update).items()]
    for at in range(0, len(cells), 3):
        table.add_row(*cells[at : at + 3])
    lines = [Text(f"! {alarm}", style="bold red") for alarm in alarms]
    return Panel(Group(table, *lines), title=f"update {update.step} of {update.steps}, {left}")

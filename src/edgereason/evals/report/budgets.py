"""Accuracy against a hard budget, as a sweep drew it by cutting recorded traces.

::

    budgets[run] ─ a point a budget ─→ accuracy ± interval; below, the share of traces that were cut
                └─ untruncated ──────→ a line across

Knows the sweep's shape; does not know how a trace is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from edgereason.errors import ConfigError
from edgereason.evals.report import style
from edgereason.evals.report.fields import Fields
from edgereason.evals.report.labels import End, label_ends
from edgereason.evals.report.records import Record, Records
from edgereason.evals.report.style import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Budgets:
    """What a run comes to at every hard budget, budgets ascending.

    Attributes:
        ci95: intervals of the accuracies, None where there are none.
        share_cut: of the traces at each budget, None where unknown.
        untruncated: the accuracy of the traces as they were; None if unknown.
    """

    run: str
    budgets: tuple[float, ...]
    accuracy: tuple[float, ...]
    ci95: tuple[tuple[float, float] | None, ...]
    share_cut: tuple[float | None, ...]
    untruncated: float | None

    @property
    def whiskers(self) -> list[list[float]]:
        """How far the intervals reach below, and above; 0 where there is none."""
        ends = [interval or (y, y) for interval, y in zip(self.ci95, self.accuracy, strict=True)]
        return [
            [max(0.0, y - low) for (low, _), y in zip(ends, self.accuracy, strict=True)],
            [max(0.0, high - y) for (_, high), y in zip(ends, self.accuracy, strict=True)],
        ]


def budget_curves(sweep: Record) -> list[Budgets]:
    """The curve of every run.

    Raises:
        ConfigError: lists of a run differ in length.
    """
    runs = sweep.values.section("budgets")
    return [_curve(run, runs.section(run)) for run in runs]


def _curve(run: str, values: Fields) -> Budgets:
    budgets = values.need("budgets", values.numbers)
    columns = {key: values.numbers(key) for key in ("accuracy", "share_truncated")}
    intervals = values.pairs("ci95")
    for key, column in {**columns, "ci95": intervals}.items():
        if column and len(column) != len(budgets):
            raise ConfigError(f"{values.where}: {key} has {len(column)} entries for {len(budgets)} budgets")
    nothing = (None,) * len(budgets)
    rows = zip(
        budgets,
        values.need("accuracy", lambda key: columns[key]),
        intervals or nothing,
        columns["share_truncated"] or nothing,
        strict=True,
    )
    known = [
        (budget, accuracy, interval, share)
        for budget, accuracy, interval, share in rows
        if budget is not None and accuracy is not None
    ]
    known.sort(key=lambda row: row[0])
    if not known:
        raise ConfigError(f"{values.where} has no budget with an accuracy")
    return Budgets(
        run,
        tuple(row[0] for row in known),
        tuple(row[1] for row in known),
        tuple(row[2] for row in known),
        tuple(row[3] for row in known),
        values.section("untruncated").number("accuracy"),
    )


def budget_blocks(records: Records) -> list[str | Plot]:
    """A figure for every sweep over budgets."""
    blocks: list[str | Plot] = []
    for sweep in records.sweeps:
        series = budget_curves(sweep)
        if not series:
            continue
        blocks.append(
            Plot(
                name=f"budgets-{style.slug(sweep.source.name)}",
                alt="Accuracy against the hard budget, a line for every run",
                caption="Accuracy under a hard budget: at the limit, thinking is cut and the answer is "
                "forced. Whiskers are 95 % intervals, clustered by question; dashed, the run as it was. "
                "Below, the share of traces that the budget cut.",
                sources=(sweep.source,),
                draw=partial(draw_budgets, series),
                height_in=4.4,
            )
        )
    return blocks


def draw_budgets(series: Sequence[Budgets], figure: Figure) -> None:
    """Accuracy above, share cut below, one axis of budgets."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.set_xscale("log", base=2)
    for index, one in enumerate(series):
        look, marker = style.look(index), style.marker(index)
        # A little beside each other, so that whiskers of the same budget don't cover each other.
        x = [budget * 1.025 ** (index - (len(series) - 1) / 2) for budget in one.budgets]
        above.errorbar(x, one.accuracy, yerr=one.whiskers, marker=marker, elinewidth=1.2, **look)
        if one.untruncated is not None:
            above.axhline(one.untruncated, color=look["color"], linestyle="--", linewidth=1.0, alpha=0.8)
        shares = [float("nan") if share is None else share for share in one.share_cut]
        below.plot(x, shares, marker=marker, markersize=4, **look)
    style.number_ticks(below.xaxis, sorted({budget for one in series for budget in one.budgets}))
    for axes in (above, below):
        style.percent_axis(axes.yaxis)
    above.set(title="accuracy")
    below.set(title="cut by the budget", xlabel="hard budget, tokens", ylim=(0, 1.05))
    ends = [
        End(one.accuracy[-1], style.short(one.run), style.look(index)) for index, one in enumerate(series)
    ]
    label_ends(above, ends)

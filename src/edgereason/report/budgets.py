"""Accuracy against a hard budget: of traces that a sweep cut, and of runs that had each budget to live with.

::

    sweep: budgets[run] ─ a point a budget ─→ accuracy ± interval; below, the share of traces that were cut
                       └─ untruncated ──────→ a line across
    runs alike in all but their budget ─────→ a line of points, beside the cut traces of the same data

Knows the sweep's shape and runs' settings; does not know how a trace is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

from edgereason.core.fields import Fields
from edgereason.errors import ConfigError
from edgereason.report import style
from edgereason.report.labels import End, label_ends
from edgereason.report.markdown import cell
from edgereason.report.records import Record, Records, Run
from edgereason.report.style import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Budgets:
    """What a run, or several that differ in nothing else, comes to at every hard budget; budgets ascending.

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


def run_curves(runs: Sequence[Run]) -> list[tuple[Budgets, list[Run]]]:
    """A curve, and what it is of, for every two runs or more that differ in their hard budget and no more."""
    alike: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run.setting.budget_tokens is not None and run.accuracy is not None:
            alike.setdefault(run.setting.others, {}).setdefault(run.setting.budget_tokens, run)
    curves = [[of_budget[budget] for budget in sorted(of_budget)] for of_budget in alike.values()]
    return [(_of_runs(curve), curve) for curve in curves if len(curve) > 1]


def _of_runs(runs: Sequence[Run]) -> Budgets:
    words = zip(*(run.label.split() for run in runs), strict=False)
    common = " ".join(one[0] for one in takewhile(lambda one: len(set(one)) == 1, words))
    return Budgets(
        common.rstrip(",;:") or runs[0].label,
        tuple(float(run.setting.budget_tokens or 0) for run in runs),
        tuple(run.accuracy or 0.0 for run in runs),
        tuple(run.ci95 for run in runs),
        tuple(run.share_cut for run in runs),
        None,
    )


def _run_blocks(records: Records) -> list[str | Plot]:
    """A figure for every task with such runs."""
    blocks: list[str | Plot] = []
    for task, runs in records.tasks().items():
        curves = run_curves(runs)
        if not curves:
            continue
        data = {run.setting.data_sha256 for _, of_curve in curves for run in of_curve} - {None}
        cut = [
            (replace(curve, run=f"{curve.run}, cut"), sweep.source)
            for sweep in records.sweeps
            for curve in budget_curves(sweep)
            if sweep.values.section("runs").section(curve.run).section("data").text("sha256") in data
        ]
        blocks.append(
            Plot(
                name=f"live-budgets-{style.slug(task)}",
                alt=f"Accuracy on {task} under each hard budget, a line for every set of runs",
                caption=f"Runs on {cell(task)} that differ in their hard budget and no more: each had it "
                "from the start; what is called *cut* was closed afterwards. Whiskers are 95 % intervals, "
                "clustered by question. Below, the share of traces that the budget cut.",
                sources=(
                    *dict.fromkeys(source for _, source in cut),
                    *(run.source for _, of_curve in curves for run in of_curve),
                ),
                draw=partial(draw_budgets, [*(curve for curve, _ in cut), *(curve for curve, _ in curves)]),
                height_in=4.4,
            )
        )
    return blocks


def budget_blocks(records: Records) -> list[str | Plot]:
    """A figure for every sweep over budgets, and for every task with runs under several."""
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
    return blocks + _run_blocks(records)


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

"""Curves that sweeps drew: the switcher's threshold, hard budgets, and votes over streams.

::

    threshold          accuracy over the share routed to think, and over mean tokens; beside it, at random
    budgets[run]       accuracy ± interval at every budget; below, the share of traces that were cut
    runs alike in all but their budget ─→ a line of points, beside the cut traces of the same data
    votes[run]         accuracy ± std over draws, a line a vote, a panel a run; oracle: any of the n is right
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from edgereason.core.fields import Fields
from edgereason.report import style
from edgereason.report.labels import End, label_ends, label_lines
from edgereason.report.markdown import cell
from edgereason.report.records import Record, Records, RecordSource, Run
from edgereason.report.style import Block, Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# ── the switcher ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Threshold:
    """What routing came to at every threshold, in order of the share routed to think.

    `random_tokens` and `random_accuracy` are what routing as many at random would have come to.
    """

    share_think: tuple[float, ...]
    mean_tokens: tuple[float, ...]
    accuracy: tuple[float, ...]
    ci95: tuple[tuple[float, float], ...]
    random_tokens: tuple[float, ...]
    random_accuracy: tuple[float, ...]


def threshold_curve(sweep: Record) -> Threshold | None:
    """The switcher's curve; None if the sweep has none."""
    # The higher the threshold, the fewer think: from chat to think is against the record's order.
    points = sweep.values.section("threshold").rows("points")[::-1]
    if not points:
        return None

    def column(key: str) -> tuple[float, ...]:
        return tuple(point.need(key, point.number) for point in points)

    return Threshold(
        share_think=column("share_think"),
        mean_tokens=column("mean_tokens"),
        accuracy=column("accuracy"),
        ci95=tuple(point.need("ci95", point.pair) for point in points),
        random_tokens=column("random_tokens"),
        random_accuracy=column("random_accuracy"),
    )


def threshold_blocks(sweep: Record) -> list[Block]:
    """A figure of a sweep over thresholds."""
    series = threshold_curve(sweep)
    if series is None:
        return []
    curve = sweep.values.section("threshold")
    area, interval = curve.number("area"), curve.pair("area_ci95")
    advantage = ""
    if area is not None and interval is not None:
        advantage = (
            f" Between curve and line lie {100 * area:.1f} points of accuracy on average "
            f"(95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f})."
        )
    return [
        Plot(
            name=f"switcher-{style.slug(sweep.source.name)}",
            alt="Accuracy against the share routed to think and against tokens, over the threshold",
            caption="The switcher's threshold, from all chat to all think: accuracy against the share of "
            "questions routed to think, and against mean tokens. The band is the 95 % interval, "
            "a bootstrap over questions; the dashed line is routing as many at random." + advantage,
            sources=(sweep.source,),
            draw=partial(_draw_threshold, series),
        )
    ]


def _draw_threshold(series: Threshold, figure: Figure) -> None:
    """Accuracy against share routed at the left, against tokens at the right."""
    low, high = zip(*series.ci95, strict=True)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, x, random_x in (
        (left, series.share_think, series.share_think),
        (right, series.mean_tokens, series.random_tokens),
    ):
        ends = [(random_x[end], series.random_accuracy[end]) for end in (0, -1)]
        axes.plot(*zip(*ends, strict=True), color=style.GREY, linestyle="--", linewidth=1.2)
        axes.plot(x, series.accuracy, **style.look(0))
        axes.fill_between(x, low, high, color=style.COLOURS[0], alpha=0.15, linewidth=0)
        for end, name in zip(ends, ("chat", "think"), strict=True):
            axes.plot(*end, "o", color="#404040")
            up, side = (8, "bottom") if name == "think" else (-8, "top")
            axes.annotate(name, end, (0, up), textcoords="offset points", fontsize=9, ha="center", va=side)
        style.percent_axis(axes.yaxis)
        axes.margins(x=0.08)
    left.set(title="accuracy", xlabel="questions routed to think")
    style.percent_axis(left.xaxis)
    right.set(title="accuracy", xlabel="mean tokens of a response")


# ── hard budgets ───────────────────────────────────────────────────────────────────────────────────


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
            raise values.error(f"{values.where}: {key} has {len(column)} entries for {len(budgets)} budgets")
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
        raise values.error(f"{values.where} has no budget with an accuracy")
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


def budget_blocks(records: Records) -> list[Block]:
    """A figure for every sweep over budgets, and for every task with runs under several."""
    blocks: list[Block] = []
    for sweep in records.sweeps:
        if series := budget_curves(sweep):
            caption = (
                "Accuracy under a hard budget: at the limit, thinking is cut and the answer is "
                "forced. Whiskers are 95 % intervals, clustered by question; dashed, the run as it was. "
                "Below, the share of traces that the budget cut."
            )
            alt = "Accuracy against the hard budget, a line for every run"
            name = f"budgets-{style.slug(sweep.source.name)}"
            blocks.append(_budget_plot(name, alt, caption, (sweep.source,), series))
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
        caption = (
            f"Runs on {cell(task)} that differ in their hard budget and no more: each had it "
            "from the start; what is called *cut* was closed afterwards. Whiskers are 95 % intervals, "
            "clustered by question. Below, the share of traces that the budget cut."
        )
        sources = (
            *dict.fromkeys(source for _, source in cut),
            *(run.source for _, of_curve in curves for run in of_curve),
        )
        alt = f"Accuracy on {task} under each hard budget, a line for every set of runs"
        series = [curve for curve, _ in (*cut, *curves)]
        blocks.append(_budget_plot(f"live-budgets-{style.slug(task)}", alt, caption, sources, series))
    return blocks


def _budget_plot(
    name: str, alt: str, caption: str, sources: tuple[RecordSource, ...], series: Sequence[Budgets]
) -> Plot:
    draw = partial(_draw_budgets, series)
    return Plot(name=name, alt=alt, caption=caption, sources=sources, draw=draw, height_in=4.4)


def _draw_budgets(series: Sequence[Budgets], figure: Figure) -> None:
    """Accuracy above, share cut below, one axis of budgets."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.set_xscale("log", base=2)
    for index, one in enumerate(series):
        look = style.look(index)
        # A little beside each other, so that whiskers of the same budget don't cover each other.
        x = [budget * 1.025 ** (index - (len(series) - 1) / 2) for budget in one.budgets]
        style.line(above, index, x, one.accuracy, one.ci95)
        if one.untruncated is not None:
            above.axhline(one.untruncated, color=look["color"], linestyle="--", linewidth=1.0, alpha=0.8)
        shares = [float("nan") if share is None else share for share in one.share_cut]
        below.plot(x, shares, marker=style.marker(index), markersize=4, **look)
    style.number_ticks(below.xaxis, sorted({budget for one in series for budget in one.budgets}))
    for axes in (above, below):
        style.percent_axis(axes.yaxis)
    above.set(title="accuracy")
    below.set(title="cut by the budget", xlabel="hard budget, tokens", ylim=(0, 1.05))
    label_lines(above, [(one.accuracy[-1], style.short(one.run)) for one in series])


# ── votes ──────────────────────────────────────────────────────────────────────────────────────────

_VOTES: Final = ("majority", "weighted", "best")
_PANELS_A_ROW: Final = 2
_ORACLE: Final[dict[str, Any]] = {"color": style.GREY, "linestyle": ":"}


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy over x, and how far to show doubt below and above it."""

    name: str
    x: tuple[float, ...]
    accuracy: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Votes:
    """Vote curves of a run; `oracle` is the chance that any of the streams is right."""

    run: str
    curves: tuple[Curve, ...]
    oracle: Curve


def vote_curves(sweep: Record) -> list[Votes]:
    """The vote curves of every run that has at least two points."""
    found = []
    votes = sweep.values.section("votes")
    for run in votes:
        points = votes.section(run).rows("points")
        if len(points) < 2:
            continue
        ns = tuple(point.need("n", point.number) for point in points)
        there = [vote for vote in _VOTES if all(vote in point.section("votes") for point in points)]
        oracle = tuple(point.need("oracle", point.number) for point in points)
        curves = [
            _vote(vote, ns, [point.section("votes").section(vote) for point in points]) for vote in there
        ]
        found.append(Votes(run, tuple(curves), Curve("any right", ns, oracle, oracle, oracle)))
    return found


def _vote(name: str, ns: tuple[float, ...], points: Sequence[Fields]) -> Curve:
    accuracy = tuple(point.need("accuracy", point.number) for point in points)
    std = tuple(point.need("std", point.number) for point in points)
    low = tuple(a - s for a, s in zip(accuracy, std, strict=True))
    high = tuple(a + s for a, s in zip(accuracy, std, strict=True))
    return Curve(name, ns, accuracy, low, high)


def vote_blocks(sweep: Record) -> list[Block]:
    """A figure of a sweep with vote curves."""
    series = vote_curves(sweep)
    if not series:
        return []
    draws = sweep.values.section("votes").section(series[0].run).number("num_draws")
    return [
        Plot(
            name=f"votes-{style.slug(sweep.source.name)}",
            alt="Accuracy against the number of streams, a line for every vote",
            caption="Accuracy against the streams that vote. Bands are ± one standard deviation over "
            + (f"{draws:.0f} draws" if draws else "the draws")
            + " of so many of the recorded traces; they narrow where nearly all of these are "
            "drawn. *Any right*: the chance that one of them is right "
            "(pass@N), which no vote can pass.",
            sources=(sweep.source,),
            draw=partial(_draw_votes, series),
            height_in=2.9 * math.ceil(len(series) / _PANELS_A_ROW),
        )
    ]


def _draw_votes(series: Sequence[Votes], figure: Figure) -> None:
    """A panel for every run, all with the same accuracies."""
    columns = min(len(series), _PANELS_A_ROW)
    rows = math.ceil(len(series) / columns)
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for votes, axes in zip(series, panels, strict=False):
        axes.set_xscale("log", base=2)
        for index, curve in enumerate(votes.curves):
            colours = style.look(_VOTES.index(curve.name))
            axes.plot(curve.x, curve.accuracy, marker=style.marker(index), **colours)
            axes.fill_between(curve.x, curve.low, curve.high, color=colours["color"], alpha=0.15, linewidth=0)
        axes.plot(votes.oracle.x, votes.oracle.accuracy, **_ORACLE)
        style.number_ticks(axes.xaxis, votes.oracle.x)
        style.percent_axis(axes.yaxis)
        axes.set(title=style.short(votes.run, 44), xlabel="streams")
    for axes in panels[len(series) :]:
        axes.remove()
    figure.supylabel("accuracy", fontsize=10)
    for votes, axes in zip(series, panels, strict=False):
        ends = [End(one.accuracy[-1], one.name, style.look(_VOTES.index(one.name))) for one in votes.curves]
        label_ends(axes, [*ends, End(votes.oracle.accuracy[-1], votes.oracle.name, _ORACLE)])

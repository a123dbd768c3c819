"""Accuracy against the number of streams that vote, as a sweep drew it from recorded traces.

::

    votes[run] ─ points of n ─→ accuracy ± std over draws, a line a vote, a panel a run
                             └→ oracle: the chance that any of the n is right

Knows the sweep's shape; does not know how a vote goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from edgereason.core.fields import Fields
from edgereason.report import style
from edgereason.report.labels import End, label_ends
from edgereason.report.records import Record, Records
from edgereason.report.style import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VOTES: Final = ("majority", "weighted", "best")
_PANELS_A_ROW: Final = 2
_ORACLE: Final[dict[str, Any]] = {"color": "#606060", "linestyle": ":"}


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


def vote_blocks(records: Records) -> list[str | Plot]:
    """A figure for every sweep with vote curves."""
    blocks: list[str | Plot] = []
    for sweep in records.sweeps:
        series = vote_curves(sweep)
        if not series:
            continue
        first = sweep.values.section("votes").section(series[0].run)
        draws = first.number("num_draws")
        blocks.append(
            Plot(
                name=f"votes-{style.slug(sweep.source.name)}",
                alt="Accuracy against the number of streams, a line for every vote",
                caption="Accuracy against the streams that vote. Bands are ± one standard deviation over "
                + (f"{draws:.0f} draws" if draws else "the draws")
                + " of so many of the recorded traces; they narrow where nearly all of these are "
                "drawn. *Any right*: the chance that one of them is right "
                "(pass@N), which no vote can pass.",
                sources=(sweep.source,),
                draw=partial(draw_votes, series),
                height_in=2.9 * math.ceil(len(series) / _PANELS_A_ROW),
            )
        )
    return blocks


def draw_votes(series: Sequence[Votes], figure: Figure) -> None:
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

"""How long responses are: their distribution, and what happened to each question's between two runs.

::

    runs of one task ─┬─ shares per bin, cumulative shares ───────────→ lengths
                      └─ reference, other: mean length a question ─→ ratio of each question, sorted

A length is the winning stream's, thinking and answer together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import fmean, median
from typing import TYPE_CHECKING, Final

from edgereason.evals.samples import Sample
from edgereason.report import style
from edgereason.report.labels import End, label_ends
from edgereason.report.markdown import cell, percent
from edgereason.report.records import Run
from edgereason.report.style import Block, Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_BINS: Final = 40
_MOST_INSIDE: Final = 5
"""Runs that a legend has room for inside its panel."""
_LEAST_RATIO: Final = 1 / 64
"""Drawn no lower: a response of nothing has no place on a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class LengthSeries:
    """Lengths of a run's responses, in tokens and ascending."""

    label: str
    tokens: tuple[int, ...]

    @property
    def cdf(self) -> tuple[list[int], list[float]]:
        """Every length there is, and the share of responses that are at most so long."""
        values = sorted(set(self.tokens))
        counts = {value: number for number, value in enumerate(self.tokens, 1)}  # the last of equals
        return values, [counts[value] / len(self.tokens) for value in values]

    def shares(self, edges: Sequence[int]) -> list[float]:
        """Share of the responses in each bin from one edge to below the next."""
        return [
            sum(low <= value < high for value in self.tokens) / len(self.tokens)
            for low, high in pairwise(edges)
        ]


@dataclass(frozen=True, slots=True)
class Reduction:
    """What became of each question's length from a reference run to another.

    Attributes:
        ratios: other over reference, one a question, ascending.
        mean_ratio: other over reference, of the mean lengths.
        place: of the run among its task's, for its colour.
        num_unmeasured: questions whose length was 0 in the reference, which have no ratio.
    """

    reference: str
    label: str
    ratios: tuple[float, ...]
    mean_ratio: float
    place: int
    num_unmeasured: int = 0

    @property
    def share_shorter(self) -> float:
        """Share of the questions whose response got shorter."""
        return sum(ratio < 1 for ratio in self.ratios) / len(self.ratios)


def lengths(runs: Sequence[Run]) -> list[LengthSeries]:
    """The lengths of every run, repetitions each for itself."""
    return [
        LengthSeries(run.label, tuple(sorted(sample.num_tokens for sample in run.samples))) for run in runs
    ]


def bin_edges(longest_tokens: int) -> list[int]:
    """Edges of bins of one width, 1, 2 or 5 times a power of ten, that hold 0 to `longest_tokens`.

    The last edge lies above the longest, so that what a budget cut fills a bin of its own side.
    """
    width, factors = 1, (2, 2.5, 2)
    step = 0
    while (longest_tokens // width) + 1 > _MOST_BINS:
        width = int(width * factors[step % 3])
        step += 1
    return list(range(0, (longest_tokens // width + 2) * width, width))


def reductions(runs: Sequence[Run]) -> list[Reduction]:
    """Every later run that asked the same questions as the first, against the first."""
    if not runs:
        return []
    reference, *others = runs
    before = mean_lengths(reference.samples)
    found = []
    for place, run in enumerate(others, 1):
        after = mean_lengths(run.samples)
        if after.keys() != before.keys():
            continue
        ratios = sorted(after[question] / before[question] for question in before if before[question])
        if not ratios:
            continue
        found.append(
            Reduction(
                reference.label,
                run.label,
                tuple(ratios),
                fmean(after.values()) / fmean(before.values()),
                place,
                len(before) - len(ratios),
            )
        )
    return found


def mean_lengths(samples: Sequence[Sample]) -> dict[str, float]:
    """Mean length of each question over its repetitions."""
    by_question: dict[str, list[int]] = {}
    for sample in samples:
        by_question.setdefault(sample.id, []).append(sample.num_tokens)
    return {question: fmean(tokens) for question, tokens in by_question.items()}


def length_blocks(task: str, runs: Sequence[Run]) -> list[Block]:
    """A figure of a task."""
    series = lengths(runs)
    return [
        Plot(
            name=f"lengths-{style.slug(task)}",
            alt=f"Distribution of response lengths on {task}",
            caption=f"Response lengths on {cell(task)}: tokens of the winning stream, thinking and "
            "answer. Left, the share of responses in each bin; right, the share at most so long. "
            "The legend gives each run's median.",
            sources=tuple(run.source for run in runs),
            draw=partial(draw_lengths, series),
            height_in=3.4 if len(series) <= _MOST_INSIDE else 3.8 + 0.07 * len(series),
        )
    ]


def reduction_blocks(task: str, runs: Sequence[Run]) -> list[Block]:
    """A figure of a task with two runs or more over the same questions."""
    series = reductions(runs)
    if not series:
        return []
    drawn = {series[0].reference, *(one.label for one in series)}
    number = max(one.num_unmeasured for one in series)
    unmeasured = f" Without those that had no token in the reference ({number})." if number else ""
    return [
        Plot(
            name=f"reduction-{style.slug(task)}",
            alt=f"Length of each question's response on {task}, relative to {series[0].reference}",
            caption=f"Each question of {cell(task)}: its response length (mean over repetitions) over "
            f"that of {cell(series[0].reference)}, sorted. Below the line, shorter. Labels give "
            "the share that got shorter, and the ratio of the mean lengths." + unmeasured,
            sources=tuple(run.source for run in runs if run.label in drawn),
            draw=partial(draw_reductions, series),
        )
    ]


def draw_lengths(series: Sequence[LengthSeries], figure: Figure) -> None:
    """Distribution at the left, cumulative at the right."""
    left, right = figure.subplots(1, 2)
    longest = max(one.tokens[-1] for one in series)
    edges = bin_edges(longest)
    for index, one in enumerate(series):
        line = style.look(index)
        left.stairs(one.shares(edges), edges, linewidth=1.8, **line)
        values, shares = one.cdf
        name = f"{style.short(one.label)} ({median(one.tokens):,.0f})"
        right.step([values[0], *values, edges[-1]], [0.0, *shares, 1.0], where="post", label=name, **line)
    for axes, title in ((left, "share of responses"), (right, "share of responses at most so long")):
        axes.set(title=title, xlabel="tokens", xlim=(0, edges[-1]))
        axes.set_ylim(bottom=0)
        style.percent_axis(axes.yaxis)
    right.set_ylim(top=1.02)
    if len(series) <= _MOST_INSIDE:
        right.legend(loc="lower right", title="median", alignment="right")
    else:
        figure.legend(loc="outside upper center", ncols=3, title="median")


def draw_reductions(series: Sequence[Reduction], figure: Figure) -> None:
    """Sorted ratios on a logarithmic axis, the reference's length as a line at 1."""
    axes = figure.subplots()
    axes.set_yscale("log", base=2)
    axes.axhline(1.0, color=style.GREY, linewidth=1.0)
    for one in series:
        shares = [(place + 0.5) / len(one.ratios) for place in range(len(one.ratios))]
        axes.plot(shares, [max(ratio, _LEAST_RATIO) for ratio in one.ratios], **style.look(one.place))
    style.ratio_axis(axes.yaxis)
    style.percent_axis(axes.xaxis)
    axes.set(
        title=f"length over that of {style.short(series[0].reference)}",
        xlabel="questions, from the most shortened on",
        xlim=(0, 1),
    )
    label_ends(axes, [_end(one) for one in series], num_lines=2)


def _end(one: Reduction) -> End:
    name = f"{style.short(one.label)}\n{percent(one.share_shorter, 0)} shorter, mean {one.mean_ratio:.2f}×"
    return End(max(one.ratios[-1], _LEAST_RATIO), name, style.look(one.place))

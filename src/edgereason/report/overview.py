"""Runs beside each other: accuracy against tokens, and the whole system in one table.

::

    runs, in the order given ─┬─ (mean tokens, accuracy ± interval) ─→ a point each
                              └─ a row each, and what changed since the row above

A row's change is stated only against a run of the same questions. Knows runs' figures; does not know rows'
texts or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from edgereason.evals.compare import compare
from edgereason.evals.metrics import scores_by_question
from edgereason.report import style
from edgereason.report.labels import Spot, label_points
from edgereason.report.markdown import (
    DASH,
    bytes_text,
    cell,
    interval_text,
    percent,
    points,
    relative,
    table,
)
from edgereason.report.records import Records, Run
from edgereason.report.style import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Point:
    """A run as a point: mean tokens of its winning streams against accuracy.

    `place` is the run's among its task's, for its colour.
    """

    place: int
    label: str
    mean_tokens: float
    accuracy: float
    ci95: tuple[float, float] | None

    @property
    def whiskers(self) -> tuple[float, float]:
        """How far the interval reaches below and above; nothing without one, and never less."""
        low, high = self.ci95 or (self.accuracy, self.accuracy)
        return max(0.0, self.accuracy - low), max(0.0, high - self.accuracy)


def run_points(runs: Sequence[Run]) -> list[Point]:
    """The runs that have both figures."""
    return [
        Point(place, run.label, run.mean_tokens, run.accuracy, run.ci95)
        for place, run in enumerate(runs)
        if run.mean_tokens is not None and run.accuracy is not None
    ]


def overview_blocks(records: Records) -> list[str | Plot]:
    """A figure for every task with two runs or more."""
    blocks: list[str | Plot] = []
    for task, runs in records.tasks().items():
        series = run_points(runs)
        if len(series) < 2:
            continue
        drawn = {point.label for point in series}
        blocks.append(
            Plot(
                name=f"accuracy-tokens-{style.slug(task)}",
                alt=f"Accuracy against mean tokens on {task}, a point for every run",
                caption=f"Every run on {cell(task)}: accuracy against the mean tokens of the winning stream. "
                "Whiskers are 95 % intervals, clustered by question. Up and to the left is better.",
                sources=tuple(run.source for run in runs if run.label in drawn),
                draw=partial(draw_points, series),
            )
        )
    return blocks


def draw_points(series: Sequence[Point], figure: Figure) -> None:
    """A point with whiskers and its name for every run."""
    axes = figure.subplots()
    for point in series:
        below, above = point.whiskers
        axes.errorbar(
            point.mean_tokens,
            point.accuracy,
            yerr=[[below], [above]],
            fmt=style.marker(point.place),
            color=style.look(point.place)["color"],
            markersize=7,
            elinewidth=1.2,
        )
    style.percent_axis(axes.yaxis)
    axes.set(title="accuracy", xlabel="mean tokens of a response")
    axes.margins(x=0.12, y=0.08)
    axes.set_xlim(left=0)
    label_points(
        axes,
        [
            Spot(
                point.mean_tokens,
                point.accuracy,
                point.accuracy - point.whiskers[0],
                point.accuracy + point.whiskers[1],
                point.label,
            )
            for point in series
        ],
    )


def system_blocks(records: Records) -> list[str | Plot]:
    """One table of all runs."""
    if not records.runs:
        return []
    rows = [system_row(run, before) for run, before in zip(records.runs, [None, *records.runs], strict=False)]
    header = ["", "accuracy", "mean tokens", "cut", "s a question", "tok/s", "bytes", "against the row above"]
    if len(records.tasks()) > 1:
        header.insert(1, "task")
        for row, run in zip(rows, records.runs, strict=True):
            row.insert(1, cell(run.task))
    return [
        table(header, rows),
        "Accuracy with its 95 % interval, clustered by question. *Mean tokens* of the winning stream, those "
        "of all streams in brackets where there are several. *Cut*: share of responses that the budget "
        "or a cap ended. *S a question*: median seconds from acceptance to answer, in the batch that the run "
        "used. *Tok/s*: all streams, over the whole run. *Bytes*: model file and bundle. Changes "
        "in points have their 95 % interval, paired by question.",
    ]


def system_row(run: Run, before: Run | None) -> list[str]:
    """The cells of a run, and what changed since the one before it."""
    return [
        cell(run.label),
        accuracy_text(run),
        _tokens(run),
        percent(run.share_cut, 0),
        DASH if run.latency_s is None else f"{run.latency_s:.2f}",
        DASH if run.tokens_per_s is None else f"{run.tokens_per_s:,.1f}",
        bytes_text(run.num_bytes),
        DASH if before is None else changes(run, before),
    ]


def changes(run: Run, before: Run) -> str:
    """What changed from one run to the next: accuracy in points, tokens, seconds, bytes."""
    if run.task != before.task or run.questions != before.questions:
        return "other questions"
    paired = compare(scores_by_question(before.samples), scores_by_question(run.samples))
    parts = [
        points(run.accuracy, before.accuracy, paired.ci95),
        relative(run.mean_tokens, before.mean_tokens, "tokens"),
        relative(run.latency_s, before.latency_s, "s"),
    ]
    if run.num_bytes is not None and before.num_bytes is not None and run.num_bytes != before.num_bytes:
        sign = "+" if run.num_bytes > before.num_bytes else "−"
        parts.append(f"{sign}{bytes_text(abs(run.num_bytes - before.num_bytes))}")
    return ", ".join(part for part in parts if part) or DASH


def accuracy_text(run: Run) -> str:
    """Accuracy and how far its interval reaches: 62.1 % (58.3–65.8)."""
    return percent(run.accuracy, 1) + interval_text(run.ci95)


def _tokens(run: Run) -> str:
    if run.mean_tokens is None:
        return DASH
    total = run.mean_all_streams_tokens
    in_all = "" if total is None or round(total) == round(run.mean_tokens) else f" ({total:,.0f})"
    return f"{run.mean_tokens:,.0f}{in_all}"

"""What runs and model files come to beside each other: accuracy against tokens, and two tables.

::

    runs, in the order given ─┬─ (mean tokens, accuracy ± interval) ─→ a point each
                              └─ a row each, and what changed since the row above

    model file ─┬─ perplexity records   → a column for every text, window and stride: others can't be compared
    (SHA-256)   ├─ likelihoods          → a column for every task
                └─ runs on the file     → a column for every task

A row's change is stated only against a run of the same questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

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
from edgereason.report.records import (
    ModelFile,
    Record,
    Records,
    RecordSource,
    Run,
    kv_setting,
    likelihood_setting,
)
from edgereason.report.style import Block, Plot

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


def run_points(runs: Sequence[Run]) -> list[Point]:
    """The runs that have both figures."""
    return [
        Point(place, run.label, run.mean_tokens, run.accuracy, run.ci95)
        for place, run in enumerate(runs)
        if run.mean_tokens is not None and run.accuracy is not None
    ]


def overview_blocks(task: str, runs: Sequence[Run]) -> list[Block]:
    """A figure of a task with two runs or more."""
    series = run_points(runs)
    if len(series) < 2:
        return []
    drawn = {point.label for point in series}
    return [
        Plot(
            name=f"accuracy-tokens-{style.slug(task)}",
            alt=f"Accuracy against mean tokens on {task}, a point for every run",
            caption=f"Every run on {cell(task)}: accuracy against the mean tokens of the winning stream. "
            "Whiskers are 95 % intervals, clustered by question. Up and to the left is better.",
            sources=tuple(run.source for run in runs if run.label in drawn),
            draw=partial(draw_points, series),
        )
    ]


def draw_points(series: Sequence[Point], figure: Figure) -> None:
    """A point with whiskers and its name for every run."""
    axes = figure.subplots()
    spots = []
    for point in series:
        (below,), (above,) = whiskers = style.whiskers([point.accuracy], [point.ci95])
        axes.errorbar(
            point.mean_tokens,
            point.accuracy,
            yerr=whiskers,
            fmt=style.marker(point.place),
            color=style.look(point.place)["color"],
            markersize=7,
            elinewidth=1.2,
        )
        low, high = point.accuracy - below, point.accuracy + above
        spots.append(Spot(point.mean_tokens, point.accuracy, low, high, point.label))
    style.percent_axis(axes.yaxis)
    axes.set(title="accuracy", xlabel="mean tokens of a response")
    axes.margins(x=0.12, y=0.08)
    axes.set_xlim(left=0)
    label_points(axes, spots)


def system_blocks(records: Records) -> list[Block]:
    """One table of all runs."""
    if not records.runs:
        return []
    rows = [
        _system_row(run, before) for run, before in zip(records.runs, [None, *records.runs], strict=False)
    ]
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


def _system_row(run: Run, before: Run | None) -> list[str]:
    """The cells of a run, and what changed since the one before it."""
    return [
        cell(run.label),
        _accuracy_text(run),
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


def _accuracy_text(run: Run) -> str:
    """Accuracy and how far its interval reaches: 62.1 % (58.3–65.8)."""
    return percent(run.accuracy, 1) + interval_text(run.ci95)


def _tokens(run: Run) -> str:
    if run.mean_tokens is None:
        return DASH
    total = run.mean_all_streams_tokens
    in_all = "" if total is None or round(total) == round(run.mean_tokens) else f" ({total:,.0f})"
    return f"{run.mean_tokens:,.0f}{in_all}"


# ── quantization ─────────────────────────────────────────────────────────────────────────────────

_SETTINGS: Final = {
    "window_tokens": "windows of {}",
    "stride_tokens": "{} apart",
    "limit_tokens": "only the first {}",
}


@dataclass(slots=True)
class TableRow:
    """A model file: its entries by column, and the records that they are from."""

    model: ModelFile
    entries: dict[str, list[str]] = field(default_factory=dict)
    sources: dict[RecordSource, None] = field(default_factory=dict)

    def add(self, column: str, text: str, source: RecordSource) -> None:
        """Puts an entry into a column, below those that are there."""
        self.entries.setdefault(column, []).append(text)
        self.sources[source] = None


def quantization_blocks(records: Records) -> list[Block]:
    """One table; nothing without a perplexity or a likelihood."""
    columns, rows = _quantization_rows(records)
    if not rows:
        return []
    cells = [
        [
            cell(row.model.name or DASH),
            bytes_text(row.model.size_bytes),
            *("<br>".join(row.entries.get(column, [DASH])) for column in columns),
            cell(", ".join(map(str, row.sources))),
        ]
        for row in rows
    ]
    return [
        table(["model", "bytes", *columns, "records"], cells),
        "Intervals are of 95 %. *×*: over the first perplexity in the column, which means something only "
        "between models of one vocabulary. *By likelihood*: whether the likeliest option is the right one, "
        "lengths not evened out, or the only one is what the model would say. Other accuracies are of runs "
        "on the same model file, with whatever was added to it.",
    ]


def _quantization_rows(records: Records) -> tuple[list[str], list[TableRow]]:
    """Columns, and the models that were weighed in the order given; runs are told apart by label."""
    columns: dict[str, None] = {}
    rows: dict[str | None, TableRow] = {}
    first_ppl: dict[str, float] = {}

    def row_of(model: ModelFile) -> TableRow:
        return rows.setdefault(model.sha256 or model.name, TableRow(model))

    for record in records.perplexities:
        ppl, column = record.values.need("ppl", record.values.number), _setting(record)
        interval = record.values.pair("ppl_ci95")
        text = f"{ppl:.3f}" + ("" if interval is None else f" ({interval[0]:.3f}–{interval[1]:.3f})")
        against = f", ×{ppl / first_ppl[column]:.3f}" if first_ppl.get(column) else ""
        first_ppl.setdefault(column, ppl)
        columns[column] = None
        kv = "".join(f", {one}" for one in kv_setting(record.values))
        row_of(record.model).add(column, text + against + kv, record.source)
    for record in records.likelihoods:
        task = record.values.need("task", record.values.text)
        config = record.values.section("config")
        column = ", ".join((f"{cell(task)}, by likelihood", *likelihood_setting(config)))
        text = percent(record.values.number("acc"), 1) + interval_text(record.values.pair("acc_ci95"))
        columns[column] = None
        kv = "".join(f", {one}" for one in kv_setting(config))
        row_of(record.model).add(column, text + kv, record.source)
    for run in records.runs:
        if run.model.sha256 is not None and run.model.sha256 in rows:
            columns[cell(run.task)] = None
            text = f"{cell(run.label)}: {_accuracy_text(run)}"
            rows[run.model.sha256].add(cell(run.task), text, run.source)
    return list(columns), list(rows.values())


def _setting(record: Record) -> str:
    """What a perplexity can be compared within: text, window, stride, and how much of the text."""
    data = record.values.section("data")
    sha256 = data.text("sha256")
    parts = [cell(data.text("name") or "a text") + ("" if sha256 is None else f" ({sha256[:7]})")]
    for key, what in _SETTINGS.items():
        if (size := record.values.number(key)) is not None:
            parts.append(what.format(f"{size:,.0f}"))
    return f"perplexity of {', '.join(parts)}"

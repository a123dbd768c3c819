"""The quantization table: what every model file weighs, its perplexities, and the accuracies beside them.

::

    model file ─┬─ perplexity records   → a column for every text, window and stride: others can't be compared
    (SHA-256)   ├─ likelihoods          → a column for every task
                └─ runs on the file     → a column for every task

Knows records; does not know formats of weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from edgereason.report.markdown import DASH, bytes_text, cell, interval_text, percent, table
from edgereason.report.overview import accuracy_text
from edgereason.report.records import ModelFile, Record, Records, Source, kv_setting, likelihood_setting
from edgereason.report.style import Plot

_SETTINGS: Final = {
    "window_tokens": "windows of {}",
    "stride_tokens": "{} apart",
    "limit_tokens": "only the first {}",
}


@dataclass(slots=True)
class Row:
    """A model file: its entries by column, and the records that they are from."""

    model: ModelFile
    entries: dict[str, list[str]] = field(default_factory=dict)
    sources: dict[Source, None] = field(default_factory=dict)

    def add(self, column: str, text: str, source: Source) -> None:
        """Puts an entry into a column, below those that are there."""
        self.entries.setdefault(column, []).append(text)
        self.sources[source] = None


def quantization_blocks(records: Records) -> list[str | Plot]:
    """One table; nothing without a perplexity or a likelihood."""
    columns, rows = quantization_rows(records)
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


def quantization_rows(records: Records) -> tuple[list[str], list[Row]]:
    """Columns, and the models that were weighed in the order given; runs are told apart by label."""
    columns: dict[str, None] = {}
    rows: dict[str | None, Row] = {}
    first_ppl: dict[str, float] = {}

    def row_of(model: ModelFile) -> Row:
        return rows.setdefault(model.sha256 or model.name, Row(model))

    for record in records.perplexities:
        ppl, column = record.values.need("ppl", record.values.number), _setting(record)
        interval = record.values.pair("ppl_ci95")
        kv = "".join(f", {one}" for one in kv_setting(record.values))
        text = f"{ppl:.3f}" + ("" if interval is None else f" ({interval[0]:.3f}–{interval[1]:.3f})")
        against = f", ×{ppl / first_ppl[column]:.3f}" if first_ppl.get(column) else ""
        first_ppl.setdefault(column, ppl)
        columns[column] = None
        row_of(record.model).add(column, text + against + kv, record.source)
    for record in records.likelihoods:
        task = record.values.need("task", record.values.text)
        config = record.values.section("config")
        column = ", ".join((f"{cell(task)}, by likelihood", *likelihood_setting(config)))
        kv = "".join(f", {one}" for one in kv_setting(config))
        text = percent(record.values.number("acc"), 1) + interval_text(record.values.pair("acc_ci95"))
        columns[column] = None
        row_of(record.model).add(column, text + kv, record.source)
    for run in records.runs:
        if run.model.sha256 is not None and run.model.sha256 in rows:
            columns[cell(run.task)] = None
            text = f"{cell(run.label)}: {accuracy_text(run)}"
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

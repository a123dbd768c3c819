"""The table of `bench engine`: what was measured on the Q4_0 and the default file, and what was asked for.

Knows that record's shape; does not know what its figures mean.
"""

from __future__ import annotations

from edgereason.core.fields import Fields
from edgereason.report.markdown import DASH, cell, table
from edgereason.report.records import Record, Records
from edgereason.report.style import Plot

_NO_FIGURES = ("rounds", "total_s", "model_bytes", "read_per_token_bytes", "steal_share", "others_share")


def engine_blocks(records: Records) -> list[str | Plot]:
    """A table for every record of `bench engine`."""
    blocks: list[str | Plot] = []
    for record in records.benches["edgereason-bench-engine"]:
        name = record.values.section("source").text("name") or "a model"
        rounds = record.values.number("rounds")
        measured = "" if rounds is None else f", minima over {rounds:.0f} rounds"
        blocks.append(table(["figure", "Q4_0", "target", "default file"], engine_rows(record)))
        blocks.append(
            f"On {cell(name)} and a plain Q4_0 of it{measured}. Record: {cell(str(record.source))}."
        )
        blocks += record.notes
    return blocks


def engine_rows(record: Record) -> list[list[str]]:
    """A row for every figure, in the record's order; what failed or has no target is a dash."""
    values, default = record.values, record.values.section("default_file")
    targets = values.section("targets")
    names = [name for name in values if name not in _NO_FIGURES and values.is_number(name)]
    names += [name for name in targets if name not in names]  # asked for and failed
    return [
        [f"`{name}`", _figure(values, name), _target(targets, name), _figure(default, name)] for name in names
    ]


def _figure(values: Fields, name: str) -> str:
    value = values.number(name)
    return DASH if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _target(targets: Fields, name: str) -> str:
    if name not in targets:
        return DASH
    target = targets.section(name)
    limit = target.need("limit", target.number)
    sign = "≥" if target.flag("at_least") else "≤"
    return f"{sign} {limit:g} {'✓' if target.flag('is_met') else '✗'}"

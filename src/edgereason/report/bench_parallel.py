"""What N streams over one prompt cost: the figure of `bench parallel`.

::

    cases ─ by depth ─→ step time over one stream's, against N      (1: free, N: nothing gained)
                     └→ tokens a second of all streams, against N

Knows that record's shape; does not know how anything was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from edgereason.report import style
from edgereason.report.labels import End, label_ends
from edgereason.report.records import Record, Records
from edgereason.report.style import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Depth:
    """The cases over one prompt length, streams ascending; rates of the best round and the median one."""

    depth: float
    streams: tuple[float, ...]
    latency_ratio: tuple[float, ...]
    tokens_per_s: tuple[float, ...]
    median_tokens_per_s: tuple[float, ...]


def parallel_depths(record: Record) -> list[Depth]:
    """The cases by depth, in the record's order."""
    rows: dict[float, list[tuple[float, float, float, float]]] = {}
    for case in record.values.rows("cases"):
        keys = ("streams", "latency_ratio", "tokens_per_s", "median_tokens_per_s")
        streams, ratio, best, median = (case.need(key, case.number) for key in keys)
        rows.setdefault(case.need("depth", case.number), []).append((streams, ratio, best, median))
    columns = {depth: tuple(zip(*sorted(cases), strict=True)) for depth, cases in rows.items()}
    return [Depth(depth, *of_depth) for depth, of_depth in columns.items()]


def parallel_blocks(records: Records) -> list[str | Plot]:
    """A figure for every record of `bench parallel`."""
    blocks: list[str | Plot] = []
    for record in records.benches["edgereason-bench-parallel"]:
        series = parallel_depths(record)
        if not series:
            continue
        blocks.append(
            Plot(
                name=f"parallel-{style.slug(record.source.name)}",
                alt="Step time and tokens a second against the number of streams, a line for every depth",
                caption=f"N streams over one prompt on {record.subject}. Left, a step's time over that of "
                "one stream: 1× would be free streams, the dotted line none gained. Right, tokens a second "
                "of all streams together. Lines are the best of the rounds; whiskers reach to the median.",
                sources=(record.source,),
                draw=partial(draw_parallel, series),
            )
        )
        blocks += record.notes
    return blocks


def draw_parallel(series: Sequence[Depth], figure: Figure) -> None:
    """Cost at the left, yield at the right."""
    left, right = figure.subplots(1, 2)
    ticks = sorted({n for one in series for n in one.streams})
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        style.number_ticks(axes.xaxis, ticks)
        axes.set_xlabel("streams")
    most = max(ratio for one in series for ratio in one.latency_ratio)
    left.plot(ticks, ticks, color="#606060", linestyle=":")
    for index, one in enumerate(series):
        look, marker = style.look(index), style.marker(index)
        left.plot(one.streams, one.latency_ratio, marker=marker, **look)
        rates = zip(one.tokens_per_s, one.median_tokens_per_s, strict=True)
        below = [max(0.0, best - median) for best, median in rates]
        whiskers = [below, [0.0] * len(below)]
        right.errorbar(one.streams, one.tokens_per_s, yerr=whiskers, marker=marker, elinewidth=1.2, **look)
    left.set(title="time of a step, one stream = 1×", ylim=(0, 1.15 * most))
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    right.set(title="tokens a second, all streams")
    right.set_ylim(bottom=0)
    ends = [
        End(one.tokens_per_s[-1], f"{one.depth:,.0f} tokens deep", style.look(index))
        for index, one in enumerate(series)
    ]
    label_ends(right, ends)

"""Time to the first token by route and prompt length: the figure and table of `bench switch`.

::

    lengths ─ by case ─→ seconds against prompt tokens      chat, with features, think on shared cells,
           └─ ratios ──→ a table                            think with the prompt encoded again

Knows that record's shape; does not know how anything was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from edgereason.report import style
from edgereason.report.labels import End, label_ends
from edgereason.report.markdown import number, table
from edgereason.report.records import Record, Records
from edgereason.report.style import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RATIOS: Final = {
    "shared_over_chat": "think shared over chat",
    "reencoded_over_shared": "think reencoded over shared",
    "features_over_chat": "chat with features over chat",
}


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Seconds to the first token on one route, prompts ascending; best and median of the rounds."""

    case: str
    prompt_tokens: tuple[float, ...]
    min_s: tuple[float, ...]
    median_s: tuple[float, ...]


def first_tokens(record: Record) -> list[FirstToken]:
    """The cases that every length has, in the record's order."""
    rows = record.values.rows("lengths")
    lengths = [(row.need("prompt_tokens", row.number), row.section("ttft")) for row in rows]
    lengths.sort(key=lambda row: row[0])
    if not lengths:
        return []
    prompts = tuple(prompt for prompt, _ in lengths)
    found = []
    for case in lengths[0][1]:
        if all(case in ttft for _, ttft in lengths):
            times = [ttft.section(case) for _, ttft in lengths]
            columns = (tuple(time.need(key, time.number) for time in times) for key in ("min_s", "median_s"))
            found.append(FirstToken(case, prompts, *columns))
    return found


def switch_blocks(records: Records) -> list[str | Plot]:
    """A figure and a table for every record of `bench switch`."""
    blocks: list[str | Plot] = []
    for record in records.benches["edgereason-bench-switch"]:
        series = first_tokens(record)
        if not series:
            continue
        plot = Plot(
            name=f"switch-{style.slug(record.source.name)}",
            alt="Seconds to the first token against prompt length, a line for every route",
            caption=f"Time to the first token on {record.subject}. *Think shared*: on the cells that chat "
            "encoded, what the switch costs once the prompt is there; *think reencoded*: the prompt encoded "
            "again under the adapter; *chat with features*: chat with the switcher's features taken. Lines "
            "are the best of the rounds; whiskers reach to the median.",
            sources=(record.source,),
            draw=partial(draw_switch, series),
        )
        blocks += [plot, switch_table(record), *record.notes]
    return blocks


def switch_table(record: Record) -> str:
    """The ratios of minima at every prompt length."""
    rows = [
        [number(row.number("prompt_tokens"), 0), *(number(row.number(key), 3) for key in _RATIOS)]
        for row in record.values.rows("lengths")
    ]
    return table(["prompt tokens", *_RATIOS.values()], rows)


def draw_switch(series: Sequence[FirstToken], figure: Figure) -> None:
    """A line for every case, both axes logarithmic."""
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for index, one in enumerate(series):
        above = [max(0.0, median - best) for best, median in zip(one.min_s, one.median_s, strict=True)]
        whiskers = [[0.0] * len(above), above]
        axes.errorbar(
            one.prompt_tokens,
            one.min_s,
            yerr=whiskers,
            marker=style.marker(index),
            elinewidth=1.2,
            **style.look(index),
        )
    style.number_ticks(axes.xaxis, series[0].prompt_tokens)
    style.seconds_axis(axes.yaxis)
    axes.set(title="seconds to the first token", xlabel="prompt tokens")
    label_ends(axes, [_end(index, one) for index, one in enumerate(series)])


def _end(index: int, one: FirstToken) -> End:
    return End(one.min_s[-1], one.case.replace("_", " "), style.look(index))

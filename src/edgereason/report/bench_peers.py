"""Ours beside other runtimes: the figure and table of `benchmarks.peers`.

::

    cases ─→ a panel each: a bar for every contender, tokens a second, or seconds to a voted answer
    peers ─→ a table: version, how it took part, seconds over ours in every case

A case that only ours can do, a vote that stops early, is a mark on ours in the panel of the same vote. Knows
that record's shape; does not know the contenders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from edgereason.core.fields import Fields
from edgereason.report import style
from edgereason.report.markdown import DASH, cell, number, table
from edgereason.report.records import Record, Records
from edgereason.report.style import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS: Final = "edgereason"
_EARLY: Final = "_early"
_COLUMNS: Final = 3
_REST: Final = "#A0A0A0"


@dataclass(frozen=True, slots=True)
class Panel:
    """A case: what each contender reached in the best round and in the median one; None where it has none.

    Attributes:
        values: tokens a second, or seconds if `is_seconds`, in the order of the contenders.
        early: seconds of ours if votes stop early; None where that was not measured.
    """

    title: str
    is_seconds: bool
    values: tuple[float | None, ...]
    medians: tuple[float | None, ...]
    early: float | None


def contenders(record: Record) -> tuple[str, ...]:
    """Those that were measured in any case, in the record's order."""
    cases = record.values.section("cases")
    there = {name for case in cases for name in cases.section(case).section("contenders")}
    return tuple(name for name in record.values.section("peers") if name in there)


def peer_panels(record: Record) -> list[Panel]:
    """The cases that peers took part in, or might have."""
    cases = record.values.section("cases")
    names = contenders(record)
    return [
        _panel(cases.section(case), names, cases.section(f"{case}{_EARLY}").section("contenders"))
        for case in cases
        if not case.endswith(_EARLY)
    ]


def _panel(case: Fields, names: Sequence[str], early: Fields) -> Panel:
    entries = [case.section("contenders").section(name) for name in names]
    completions, limit, prompt = (
        case.number(key) for key in ("completions", "limit_tokens", "prompt_tokens")
    )
    is_vote = any("num_answers" in entry for entry in entries)
    if is_vote:
        title = f"vote of {number(completions, 0)}: seconds"
    elif limit == 1:
        title = f"prompt of {number(prompt, 0)}: tokens/s"
    else:
        title = f"{number(completions, 0)} × {number(limit, 0)} tokens: tokens/s"
    return Panel(
        title,
        is_vote,
        tuple(entry.number("min_s" if is_vote else "tokens_per_s") for entry in entries),
        tuple(_median(entry, is_seconds=is_vote) for entry in entries),
        early.section(_OURS).number("min_s"),
    )


def _median(entry: Fields, *, is_seconds: bool) -> float | None:
    """The median round's figure: the record has its seconds, and a rate goes with their inverse."""
    best_s, median_s, rate = (entry.number(key) for key in ("min_s", "median_s", "tokens_per_s"))
    if is_seconds or not median_s:
        return median_s
    return None if best_s is None or rate is None else rate * best_s / median_s


def peer_blocks(records: Records) -> list[str | Plot]:
    """A figure, a table and the notes of every record of `benchmarks.peers`."""
    blocks: list[str | Plot] = []
    for record in records.benches["edgereason-bench-peers"]:
        names, panels = contenders(record), peer_panels(record)
        if not names:
            continue
        plot = Plot(
            name=f"peers-{style.slug(record.source.name)}",
            alt="Tokens a second of every runtime, and seconds to a voted answer",
            caption=f"Runtimes on {record.subject}, same threads, prompts and draws. Seconds are of a whole "
            "call, its prompt included. Tokens a second: more is better; seconds to a voted answer: fewer. "
            "Bars are the best of the rounds, whiskers reach to the median; the diamond is ours where a vote "
            "that is certain stops the other streams.",
            sources=(record.source,),
            draw=partial(draw_peers, names, panels),
            height_in=(0.7 + 0.24 * len(names)) * math.ceil(len(panels) / _COLUMNS),
        )
        blocks += [
            plot,
            peer_table(record),
            "Over ours: seconds over ours, of minima; above 1, ours is faster.",
        ]
        blocks += record.notes
    return blocks


def peer_table(record: Record) -> str:
    """A row for every contender, those that did not take part among them."""
    peers, cases = record.values.section("peers"), record.values.section("cases")
    shown = [case for case in cases if not case.endswith(_EARLY)]
    rows = []
    for name in peers:
        peer = peers.section(name)
        versions = peer.section("versions")
        entries = [cases.section(case).section("contenders").section(name) for case in shown]
        state = peer.text("error") or peer.text("state") or DASH
        rows.append(
            [
                cell(name),
                cell(", ".join(f"{package} {versions.text(package)}" for package in versions)) or DASH,
                cell(state) + (", one after another" if peer.flag("is_sequential") else ""),
                *(number(entry.number("over_ours"), 2) for entry in entries),
            ]
        )
    return table(["", "versions", "", *(f"{case.replace('_', ' ')} over ours" for case in shown)], rows)


def draw_peers(names: Sequence[str], panels: Sequence[Panel], figure: Figure) -> None:
    """A panel for every case, contenders from top to bottom, ours in colour."""
    rows = math.ceil(len(panels) / _COLUMNS)
    grid = figure.subplots(rows, min(_COLUMNS, len(panels)), sharey=True, squeeze=False)
    places = list(grid.flat)
    for panel, axes in zip(panels, places, strict=False):
        _draw_panel(axes, names, panel)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
    places[0].invert_yaxis()
    for axes in places[len(panels) :]:
        axes.remove()


def _draw_panel(axes: Axes, names: Sequence[str], panel: Panel) -> None:
    known = [value for value in (*panel.values, *panel.medians) if value is not None]
    most = max(known, default=1.0)
    for place, (name, value, median) in enumerate(zip(names, panel.values, panel.medians, strict=True)):
        if value is None:
            axes.text(0.01 * most, place, DASH, va="center")
            continue
        ends = sorted((value, value if median is None else median))
        axes.barh(place, value, height=0.62, color=style.COLOURS[0] if name == _OURS else _REST)
        axes.plot(ends, (place, place), color="#202020", linewidth=1.2)
        early = ""
        if name == _OURS and panel.early is not None:
            axes.plot(panel.early, place, "D", color="white", markeredgecolor="#202020", markersize=4.5)
            early = f" ({number(panel.early, 1)})"
        axes.text(ends[1] + 0.02 * most, place, f"{number(value, 1)}{early}", va="center", fontsize=9)
    axes.set(title=panel.title, xlim=(0, 1.3 * most))

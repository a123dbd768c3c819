"""What records of benchmarks show: `bench engine`, `bench parallel`, `bench switch` and `benchmarks.peers`.

::

    engine     a table: every figure on the Q4_0, its target, and on the default file
    parallel   step time over one stream's, and tokens a second of all streams, against N; a line a depth
    switch     seconds to the first token against prompt tokens, a line a route; a table of ratios
    peers      a panel a case with a bar for every runtime; a table of versions and seconds over ours
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from edgereason.core.fields import Fields
from edgereason.report import style
from edgereason.report.labels import label_lines
from edgereason.report.markdown import DASH, cell, number, table
from edgereason.report.records import Record
from edgereason.report.style import Block, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# ── the engine ───────────────────────────────────────────────────────────────────────────────────

_NO_FIGURES: Final = (
    "rounds", "total_s", "model_bytes", "read_per_token_bytes", "steal_share", "others_share",
)  # fmt: skip


def engine_blocks(record: Record) -> list[Block]:
    """A table of a record of `bench engine`."""
    name = record.values.section("source").text("name") or "a model"
    rounds = record.values.number("rounds")
    measured = "" if rounds is None else f", minima over {rounds:.0f} rounds"
    return [
        table(["figure", "Q4_0", "target", "default file"], _engine_rows(record)),
        f"On {cell(name)} and a plain Q4_0 of it{measured}. Record: {cell(str(record.source))}.",
        *record.notes,
    ]


def _engine_rows(record: Record) -> list[list[str]]:
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


# ── parallel streams ─────────────────────────────────────────────────────────────────────────────


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


def parallel_blocks(record: Record) -> list[Block]:
    """A figure of a record of `bench parallel`."""
    series = parallel_depths(record)
    if not series:
        return []
    plot = Plot(
        name=f"parallel-{style.slug(record.source.name)}",
        alt="Step time and tokens a second against the number of streams, a line for every depth",
        caption=f"N streams over one prompt on {record.subject}. Left, a step's time over that of "
        "one stream: 1× would be free streams, the dotted line none gained. Right, tokens a second "
        "of all streams together. Lines are the best of the rounds; whiskers reach to the median.",
        sources=(record.source,),
        draw=partial(_draw_parallel, series),
    )
    return [plot, *record.notes]


def _draw_parallel(series: Sequence[Depth], figure: Figure) -> None:
    """Cost at the left, yield at the right."""
    left, right = figure.subplots(1, 2)
    ticks = sorted({n for one in series for n in one.streams})
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        style.number_ticks(axes.xaxis, ticks)
        axes.set_xlabel("streams")
    most = max(ratio for one in series for ratio in one.latency_ratio)
    left.plot(ticks, ticks, color=style.GREY, linestyle=":")
    for index, one in enumerate(series):
        left.plot(one.streams, one.latency_ratio, marker=style.marker(index), **style.look(index))
        ends = list(zip(one.median_tokens_per_s, one.tokens_per_s, strict=True))
        style.line(right, index, one.streams, one.tokens_per_s, ends)
    left.set(title="time of a step, one stream = 1×", ylim=(0, 1.15 * most))
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    right.set(title="tokens a second, all streams")
    right.set_ylim(bottom=0)
    label_lines(right, [(one.tokens_per_s[-1], f"{one.depth:,.0f} tokens deep") for one in series])


# ── switching ────────────────────────────────────────────────────────────────────────────────────

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


def switch_blocks(record: Record) -> list[Block]:
    """A figure and a table of a record of `bench switch`."""
    series = first_tokens(record)
    if not series:
        return []
    plot = Plot(
        name=f"switch-{style.slug(record.source.name)}",
        alt="Seconds to the first token against prompt length, a line for every route",
        caption=f"Time to the first token on {record.subject}. *Think shared*: on the cells that chat "
        "encoded, what the switch costs once the prompt is there; *think reencoded*: the prompt encoded "
        "again under the adapter; *chat with features*: chat with the switcher's features taken. Lines "
        "are the best of the rounds; whiskers reach to the median.",
        sources=(record.source,),
        draw=partial(_draw_switch, series),
    )
    rows = [
        [number(row.number("prompt_tokens"), 0), *(number(row.number(key), 3) for key in _RATIOS)]
        for row in record.values.rows("lengths")
    ]
    return [plot, table(["prompt tokens", *_RATIOS.values()], rows), *record.notes]


def _draw_switch(series: Sequence[FirstToken], figure: Figure) -> None:
    """A line for every case, both axes logarithmic."""
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for index, one in enumerate(series):
        style.line(axes, index, one.prompt_tokens, one.min_s, list(zip(one.min_s, one.median_s, strict=True)))
    style.number_ticks(axes.xaxis, series[0].prompt_tokens)
    style.seconds_axis(axes.yaxis)
    axes.set(title="seconds to the first token", xlabel="prompt tokens")
    label_lines(axes, [(one.min_s[-1], one.case.replace("_", " ")) for one in series])


# ── peers ────────────────────────────────────────────────────────────────────────────────────────

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


def peer_blocks(record: Record) -> list[Block]:
    """A figure, a table and the notes of a record of `benchmarks.peers`."""
    names, panels = contenders(record), peer_panels(record)
    if not names:
        return []
    plot = Plot(
        name=f"peers-{style.slug(record.source.name)}",
        alt="Tokens a second of every runtime, and seconds to a voted answer",
        caption=f"Runtimes on {record.subject}, same threads, prompts and draws. Seconds are of a whole "
        "call, its prompt included. Tokens a second: more is better; seconds to a voted answer: fewer. "
        "Bars are the best of the rounds, whiskers reach to the median; the diamond is ours where a vote "
        "that is certain stops the other streams.",
        sources=(record.source,),
        draw=partial(_draw_peers, names, panels),
        height_in=(0.7 + 0.24 * len(names)) * math.ceil(len(panels) / _COLUMNS),
    )
    said = "Over ours: seconds over ours, of minima; above 1, ours is faster."
    return [plot, _peer_table(record), said, *record.notes]


def _peer_table(record: Record) -> str:
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


def _draw_peers(names: Sequence[str], panels: Sequence[Panel], figure: Figure) -> None:
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

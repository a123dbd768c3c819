"""What a person sees while a question is answered, and what is left on the screen afterwards.

::

    headline ─┬─ one stream:   its text, as it is said ─────────────────────────┬─ figures
              └─ N streams:    the board, then: results, tally, thinking, answer ┘

Owns the order of things and how often the board is drawn. It is drawn from the loop over the events: a
thread that refreshes in the background would take the interpreter away from the engine's callback in the
middle of a native step. Knows events; does not know engines, options or files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edgereason.cli.terminal.panels import Board, spent, tally_line, verdict
from edgereason.cli.terminal.text import Prose, Transcript, printable
from edgereason.core.types import Response, Route, Stop, Timing
from edgereason.reasoning.events import Answered, Event, Notice, Routed
from edgereason.reasoning.events import Text as Said

_LEAST_PAUSE_S: Final = 1 / 12
_PAUSES_PER_DRAWING: Final = 30
"""Drawing stops the decoding, so it gets a thirtieth of the time, however slow the machine is."""
_ANSWER_CELLS: Final = 40


def watch(
    events: Iterator[Event], console: Console, *, model: str, clock: Callable[[], float] = time.monotonic
) -> Response:
    """Shows events until the response is there, and then the response."""
    routed = _until_routed(events, console)
    console.print(_headline(routed, model))
    console.print()
    if routed.num_streams == 1:
        response = _follow(events, console, routed)
    else:
        response = _race(events, console, routed, clock)
    console.print()
    console.print(_figures(response, console.width))
    return response


def _until_routed(events: Iterator[Event], console: Console) -> Routed:
    """What comes while the prompt is read, which on a device may take seconds."""
    waiting = Text("reading the prompt …", "dim")
    with Live(waiting, console=console, auto_refresh=False, transient=True):
        for event in events:
            if isinstance(event, Routed):
                return event
            if isinstance(event, Notice):
                _note(event, console)
    raise AssertionError("a run always says which route it takes")


def _follow(events: Iterator[Event], console: Console, routed: Routed) -> Response:
    transcript = Transcript(console, thinks=routed.route is Route.THINK)
    for event in events:
        match event:
            case Said():
                transcript.push(event.text)
            case Notice():
                _note(event, console)
            case Answered(response):
                transcript.finish()
                return response
    raise AssertionError("a run always ends with an answer")


def _race(events: Iterator[Event], console: Console, routed: Routed, clock: Callable[[], float]) -> Response:
    board, response = Board(routed), None
    due_s = clock()
    with Live(board, console=console, auto_refresh=False, transient=True) as live:
        for event in events:
            board.take(event)
            if isinstance(event, Answered):
                response = event.response
            elif isinstance(event, Notice):
                _note(event, console)
            elif (start_s := clock()) >= due_s:
                live.refresh()
                end_s = clock()
                due_s = end_s + max(_LEAST_PAUSE_S, _PAUSES_PER_DRAWING * (end_s - start_s))
    assert response is not None
    console.print(_results(response, routed))
    if board.tally:
        console.print(tally_line(board.tally))
    for text, style in ((response.thinking, "dim"), (response.text, "")):
        if text and text.strip():
            console.print()
            prose = Prose(console)
            prose.write(text.strip("\n"), style)
            prose.finish(style)
    return response


def _headline(routed: Routed, model: str) -> Text:
    line = Text()
    line.append(routed.route.value, "bold")
    if routed.p_think is not None:
        line.append(f" · p(think) {routed.p_think:.2f}")
    line.append(f" · {printable(model)}")
    streams = f" · {routed.num_streams} streams" if routed.num_streams > 1 else ""
    if routed.limit_s is not None:
        line.append(f"{streams} · within {routed.limit_s:g} s")
    else:
        line.append(f"{streams} of at most" if streams else " · at most")
        line.append(f" {routed.limit_tokens} tokens")
    return line


def _results(response: Response, routed: Routed) -> Table:
    """A line for each stream, the winner marked."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, overflow="ellipsis")
    for _ in range(3):
        table.add_column(no_wrap=True, justify="right")
    for candidate in response.candidates:
        trace = candidate.trace
        state, color = verdict(candidate, _ANSWER_CELLS)
        won = trace.index == response.winner and trace.stop is not Stop.CANCELLED
        table.add_row(
            Text("▸" if won else " ", "bold green"),
            Text(str(trace.index + 1)),
            Text(state, color),
            Text("" if candidate.score is None else f"score {candidate.score:.2f}"),
            Text(spent(trace.num_tokens, routed), "dim"),
            Text("" if state == trace.stop.value else trace.stop.value, "dim"),
        )
    return table


def _figures(response: Response, width: int) -> Text:
    usage, timing = response.usage, response.timing
    parts = []
    if response.thinking is not None:
        parts.append(f"thinking {usage.thinking_tokens} + answer {usage.answer_tokens} tokens")
    else:
        parts.append(f"answer {usage.answer_tokens} tokens")
    if len(response.candidates) > 1:
        parts.append(f"all streams {usage.all_streams_tokens}")
    parts += [
        f"{timing.tokens_per_s:.1f} tok/s",
        f"first token {timing.ttft_s:.2f} s",
        f"total {timing.total_s:.1f} s" + _of_budget(timing),
        f"KV {response.kv_bytes / 1e6:.1f} MB",
        f"stop {response.stop.value}",
    ]
    lines = [parts[0]]
    for part in parts[1:]:  # broken between figures only
        joined = f"{lines[-1]} · {part}"
        if len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    return Text("\n".join(lines), "dim")


def _of_budget(timing: Timing) -> str:
    if timing.budget_s is None:
        return ""
    over = f", {timing.overshoot_s:.1f} s over" if timing.overshoot_s and timing.overshoot_s >= 0.05 else ""
    return f" of {timing.budget_s:g} s{over}"


def _note(notice: Notice, console: Console) -> None:
    console.print(Text(f"note: {notice.text}", "dim italic"))

"""What a person sees while a question is answered, and what is left on the screen afterwards.

::

    headline ─┬─ one stream:   its text, as it is said ──────────────────────────┬─ figures
              └─ N streams:    panels, then: results, tally, thinking, answer ───┘

    ╭ 1 thinking ─────╮ ╭ 2 ✓ 391 ────────╮
    │ tail of its text│ │ …               │
    ╰──────── 134/200 ╯ ╰──────── 120/200 ╯
    tally  391 ×1 · 1 running

Panels are drawn from the loop over the events. A thread that refreshes in the background would take the
interpreter away from the engine's callback in the middle of a native step. Elsewhere than in a terminal
only the answer is printed (`follow`, `print_answer`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edgereason.cli.terminal import text as prose
from edgereason.cli.terminal.echo import echo
from edgereason.cli.terminal.text import Prose, Transcript, printable
from edgereason.core.chat import NATIVE_OPENING, closing_in, split_thinking
from edgereason.core.types import Candidate, Response, Route, Stop, Timing
from edgereason.reasoning.control import Phase
from edgereason.reasoning.events import Answered, Ended, Event, Notice, Routed, Tallied
from edgereason.reasoning.events import Text as Said

if TYPE_CHECKING:
    from edgereason.core.types import Response
    from edgereason.reasoning.events import Event


_MOST_PANELS: Final = 8
_LEAST_PANEL_WIDTH: Final = 30
_LEAST_PANEL_HEIGHT: Final = 4
_MOST_PANEL_HEIGHT: Final = 10
_ANSWER_CELLS: Final = 24


@dataclass(slots=True)
class Pane:
    """What is known of one stream."""

    index: int
    thinks: bool
    phase: Phase
    text: str = ""
    num_tokens: int = 0
    candidate: Candidate | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it has not begun."""
        return self.candidate is None and self.num_tokens == 0

    @property
    def runs(self) -> bool:
        """Whether it has begun and not ended."""
        return self.candidate is None and self.num_tokens > 0

    def panel(self, routed: Routed, width: int, height: int) -> Panel:
        """Its end, as much of it as fits."""
        state, color = self._state(width - 8)
        return Panel(
            self._tail(width - 4, height - 2),
            title=Text.assemble((f"{self.index + 1} ", "bold"), (state, color)),
            title_align="left",
            subtitle=Text(spent(self.num_tokens, routed)),
            subtitle_align="right",
            border_style="dim" if self.candidate else "",
            height=height,
            padding=(0, 1),
        )

    def _state(self, cells: int) -> tuple[str, str]:
        if self.is_waiting:
            return "waiting", "dim"
        if self.candidate is None:
            return ("thinking", "yellow") if self.phase is Phase.THINKING else ("answering", "cyan")
        return verdict(self.candidate, cells)

    def _tail(self, width: int, height: int) -> Text:
        # Only what can be seen is wrapped: this is drawn several times a second, beside the decoding.
        thinking, answer = (
            split_thinking(self.text, closing_in(self.text)) if self.thinks else ("", self.text)
        )
        seen = width * height
        text = Text()
        thinking = NATIVE_OPENING.sub("", thinking, count=1)
        text.append(prose.printable(thinking.lstrip("\n")[-seen:]), "dim")
        if answer:
            text.append("\n\n" if thinking else "")
            text.append(prose.printable(answer.lstrip("\n")[-seen:]))
        lines = text.wrap(_MEASURE, width)
        while lines and not lines[-1].plain.strip():
            lines.pop()
        tail = Text("\n").join(lines[-height:])
        tail.no_wrap = True
        return tail


_MEASURE: Final = Console(width=80, legacy_windows=False)
"""Wrapping asks a console for its tab size only."""


class Board:
    """The streams of a race, as a renderable."""

    def __init__(self, routed: Routed) -> None:
        thinks = routed.route is Route.THINK
        phase = Phase.THINKING if thinks else Phase.ANSWER
        self._routed = routed
        self._panes = [Pane(index, thinks, phase) for index in range(routed.num_streams)]
        self.tally: Tallied | None = None

    def take(self, event: Event) -> None:
        """Takes in what happened."""
        match event:
            case Said():
                pane = self._panes[event.stream]
                pane.text += event.text
                pane.phase = event.phase
                pane.thinks = pane.thinks or event.phase is Phase.THINKING  # natively, on the chat route
                pane.num_tokens = event.num_tokens
            case Ended(candidate):
                pane = self._panes[candidate.trace.index]
                pane.candidate = candidate
                pane.num_tokens = candidate.trace.num_tokens
            case Tallied():
                self.tally = event

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws into the width there is; five lines stay free: for what is above, tally and cursor."""
        width, height = options.max_width, console.height - 5
        most_columns = max(1, width // _LEAST_PANEL_WIDTH)
        most_rows = max(1, height // _LEAST_PANEL_HEIGHT)
        shown = self._shown(min(_MOST_PANELS, most_columns * most_rows))
        num_rows = math.ceil(len(shown) / most_columns)
        num_columns = math.ceil(len(shown) / num_rows)
        panel_height = min(_MOST_PANEL_HEIGHT, max(_LEAST_PANEL_HEIGHT, height // num_rows))
        grid = Table.grid(expand=True)
        for _ in range(num_columns):
            grid.add_column(ratio=1)
        for start in range(0, len(shown), num_columns):
            row = shown[start : start + num_columns]
            grid.add_row(
                *(p.panel(self._routed, width // num_columns, panel_height) for p in row),
                *[""] * (num_columns - len(row)),
            )
        yield grid
        yield self._standing(len(shown))

    def _shown(self, most: int) -> list[Pane]:
        """Those that run before those that ended and those that wait, then in their order."""
        first = sorted(self._panes, key=lambda pane: (not pane.runs, pane.is_waiting, pane.index))[:most]
        return sorted(first, key=lambda pane: pane.index)

    def _standing(self, num_shown: int) -> Text:
        num_running = sum(pane.runs for pane in self._panes)
        line = tally_line(self.tally) if self.tally else Text("tally  nobody has finished yet", "dim")
        line.append(f" · {num_running} running", "dim")
        if num_waiting := sum(pane.is_waiting for pane in self._panes):
            line.append(f" · {num_waiting} waiting", "dim")
        if hidden := len(self._panes) - num_shown:
            line.append(f" · {hidden} not shown", "dim")
        line.no_wrap, line.overflow = True, "ellipsis"
        return line


def tally_line(tally: Tallied) -> Text:
    """The vote on one line, strongest first: ``×2`` counts votes, ``1.62`` adds up scores."""
    line = Text("tally  ", "dim")
    for place, (answer, strength) in enumerate(tally.standing):
        line.append(" · " if place else "", "dim")
        line.append(prose.one_line(answer, _ANSWER_CELLS), "bold" if place == 0 else "")
        line.append(f" ×{strength:.0f}" if strength == int(strength) else f" {strength:.2f}", "dim")
    if not tally.standing:
        line.append("no answers", "dim")
    return line


def spent(num_tokens: int, routed: Routed) -> str:
    """Tokens of a stream, beside the most that it may spend; seconds leave that open."""
    return f"{num_tokens} tokens" if routed.limit_s is not None else f"{num_tokens}/{routed.limit_tokens}"


def verdict(candidate: Candidate, max_cells: int) -> tuple[str, str]:
    """How a stream ended, and in which colour."""
    if candidate.trace.stop is Stop.CANCELLED:
        return ("cancelled" if candidate.trace.has_begun else "not begun"), "dim"
    if candidate.answer is None:
        return "no answer", "red"
    return prose.one_line(f"✓ {candidate.answer}", max_cells), "green"


_LEAST_PAUSE_S: Final = 1 / 12
_PAUSES_PER_DRAWING: Final = 30
"""Drawing stops the decoding, so it gets a thirtieth of the time, however slow the machine is."""
_TALLY_ANSWER_CELLS: Final = 40


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
    transcript = None
    for event in events:
        match event:
            case Said():
                if transcript is None:  # a natively reasoning model thinks on the chat route as well
                    thinks = routed.route is Route.THINK or event.phase is Phase.THINKING
                    transcript = Transcript(console, thinks=thinks)
                transcript.push(event.text)
            case Notice():
                _note(event, console)
            case Answered(response):
                if transcript is not None:
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
        state, color = verdict(candidate, _TALLY_ANSWER_CELLS)
        won = trace.index == response.winner and trace.stop is not Stop.CANCELLED
        table.add_row(
            Text("▸" if won else " ", "bold green"),
            Text(str(trace.index + 1)),
            Text(state, color),
            Text("" if candidate.score is None else f"score {candidate.score:.2f}"),
            Text(spent(trace.num_tokens, routed), "dim"),
            Text("" if trace.stop is Stop.CANCELLED else trace.stop.value, "dim"),
        )
    return table


def _figures(response: Response, width: int) -> Text:
    usage, timing = response.usage, response.timing
    parts = []
    if response.route is Route.THINK:
        parts.append(f"thinking {usage.thinking_tokens} + answer {usage.answer_tokens} tokens")
    else:
        parts.append(f"answer {usage.answer_tokens} tokens")
    if len(response.candidates) > 1:
        parts.append(f"all streams {usage.all_streams_tokens}")
    if response.streams_not_begun:
        parts.append(f"{response.streams_not_begun} not begun, about {response.tokens_saved} tokens saved")
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
    console.print(Text(f"note: {printable(notice.text)}", "dim italic"))


def follow(events: Iterator[Event]) -> tuple[Response, int]:
    """Lets the events happen; returns the response, and the most tokens that a stream might spend."""
    from edgereason.reasoning.events import Answered, Notice, Routed

    limit_tokens = 0
    response = None
    for event in events:
        match event:
            case Notice(text):
                echo(f"note: {text}", err=True)
            case Routed():
                limit_tokens = event.limit_tokens
            case Answered():
                response = event.response
    assert response is not None
    return response, limit_tokens


def print_answer(response: Response) -> None:
    """The answer's text, if there is any."""
    if response.text or response.answer:
        echo(response.text or response.answer)

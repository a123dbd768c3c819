"""N streams side by side, and the vote as it forms.

::

    ╭ 1 thinking ─────╮ ╭ 2 ✓ 391 ────────╮
    │ tail of its text│ │ …               │
    ╰──────── 134/200 ╯ ╰──────── 120/200 ╯
    tally  391 ×1 · 1 running

Owns what is known of each stream and how it is drawn at any size of terminal. Does not know when it is
drawn, nor how streams or votes work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edgereason.cli.terminal import text as prose
from edgereason.core.chat import split_thinking
from edgereason.core.types import Candidate, Route, Stop
from edgereason.reasoning.control import Phase
from edgereason.reasoning.events import Ended, Event, Routed, Tallied
from edgereason.reasoning.events import Text as Said

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
        if self.candidate is None:
            return ("thinking", "yellow") if self.phase is Phase.THINKING else ("answering", "cyan")
        return verdict(self.candidate, cells)

    def _tail(self, width: int, height: int) -> Text:
        # Only what can be seen is wrapped: this is drawn several times a second, beside the decoding.
        thinking, answer = split_thinking(self.text) if self.thinks else ("", self.text)
        seen = width * height
        text = Text()
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
        """Those that still run before those that ended, then in their order."""
        first = sorted(self._panes, key=lambda pane: (pane.candidate is not None, pane.index))[:most]
        return sorted(first, key=lambda pane: pane.index)

    def _standing(self, num_shown: int) -> Text:
        num_running = sum(pane.candidate is None for pane in self._panes)
        line = tally_line(self.tally) if self.tally else Text("tally  nobody has finished yet", "dim")
        line.append(f" · {num_running} running", "dim")
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
        return "cancelled", "dim"
    if candidate.answer is None:
        return "no answer", "red"
    return prose.one_line(f"✓ {candidate.answer}", max_cells), "green"

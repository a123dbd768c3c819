"""Draws the picture of README: four streams that race in a terminal, as an animated SVG, dark and light.

::

    python tools/docs/race.py      asks the package's bundle, and writes docs/images/race-*.svg

    events of one real run ─┬─ Board, every few tokens ─→ frames of the race ─┐
                            └─ watch ───────────────────→ the last frame ─────┴─→ one SVG, a frame at a time

What is on it is what the model said, and what `edgereason ask` shows. The pace lets one read along.
"""

from __future__ import annotations

import argparse
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.terminal_theme import SVG_EXPORT_THEME, TerminalTheme
from rich.text import Text

import edgereason
from edgereason.cli.terminal.live import Board, watch
from edgereason.core.bundle import write_atomically
from edgereason.hub.catalog import DEFAULT_BUNDLE
from edgereason.reasoning.events import Answered, Event, Routed
from edgereason.reasoning.events import Text as Said

FOLDER: Final = Path(__file__).parents[2] / "docs/images"
QUESTION: Final = (
    "Sara reads 15 pages a day for 6 days and then 20 pages a day for 3 days. How many pages did she read?"
)
WIDTH: Final = 92
HEIGHT: Final = 19
FRAME_TOKENS: Final = 6
"""Of the longest stream, from one frame of the race to the next."""
FRAME_S: Final = 0.3
LAST_S: Final = 6.0
"""For the last one."""
LIGHT_THEME: Final = TerminalTheme(
    (255, 255, 255),
    (36, 41, 47),
    [
        (36, 41, 47),
        (207, 34, 46),
        (17, 99, 41),
        (154, 103, 0),
        (9, 105, 218),
        (130, 80, 223),
        (27, 124, 131),
        (110, 119, 129),
    ],
)
# rich's own frame without the web font that it loads: a picture must not fetch anything.
FRAME: Final = """<svg class="frame {unique_id}-frame" viewBox="0 0 {width} {height}">
<style>.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g></svg>"""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the terminal shows.

    Attributes:
        seconds: for how long.
    """

    content: RenderableType
    seconds: float


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--budget", type=int, default=320)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    options = {"budget": arguments.budget, "streams": arguments.streams, "seed": arguments.seed}
    with edgereason.load() as model:
        name = DEFAULT_BUNDLE.name
        events = list(model.stream(arguments.question, **options))
    command = Text.assemble(
        ("$ ", "green"), f'edgereason ask "{arguments.question}" --streams {arguments.streams}'
    )
    frames = [*race(events, command), ending(events, command, name)]
    for scheme, theme in (("dark", SVG_EXPORT_THEME), ("light", LIGHT_THEME)):
        path = arguments.folder / f"race-{scheme}.svg"
        write_atomically(path, animation(frames, theme))
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {len(frames)} frames")


def race(events: Sequence[Event], command: Text) -> Iterator[Frame]:
    """The panels as they were, every few tokens."""
    board: Board | None = None
    due_tokens = 0
    for event in events:
        if isinstance(event, Routed):
            board = Board(event)
        if board is None or isinstance(event, Answered):
            continue
        board.take(event)
        if isinstance(event, Said) and event.num_tokens > due_tokens:
            yield Frame(Group(command, Text(), drawn(board)), FRAME_S)
            due_tokens = event.num_tokens + FRAME_TOKENS


def ending(events: Sequence[Event], command: Text, name: str) -> Frame:
    """What stays on the screen."""
    console = terminal()
    watch(iter(events), console, model=name)
    return Frame(Group(command, Text(), Text.from_ansi(console.export_text(styles=True))), LAST_S)


def drawn(board: Board) -> Text:
    """The board as it is now; it goes on changing."""
    console = terminal()
    console.print(board)
    return Text.from_ansi(console.export_text(styles=True))


def terminal() -> Console:
    """A terminal that is recorded, and that nobody sees."""
    return Console(
        record=True,
        file=io.StringIO(),
        width=WIDTH,
        height=HEIGHT,
        color_system="truecolor",
        legacy_windows=False,
    )


def animation(frames: Sequence[Frame], theme: TerminalTheme) -> str:
    """One SVG that shows the frames in turns, for ever; the last one alone where motion is unwanted."""
    total_s = sum(frame.seconds for frame in frames)
    starts = list(itertools.accumulate((frame.seconds for frame in frames), initial=0.0))
    drawings, rules, viewbox = [], [], ""
    for number, frame in enumerate(frames):
        console = terminal()
        console.print(frame.content)
        lines = console.export_text(clear=False).count("\n")
        console.print("\n" * max(0, HEIGHT + 3 - lines), end="")
        mark = f"f{number}"
        svg = console.export_svg(title="edgereason", theme=theme, code_format=FRAME, unique_id=mark)
        svg = svg.replace("rgba(255,255,255,0.35)", "rgba(128,128,128,0.35)")  # an edge on white, too
        viewbox = viewbox or svg.split('viewBox="')[1].split('"')[0]
        drawings.append(svg)
        begin, end = (100 * at / total_s for at in starts[number : number + 2])
        rules.append(
            f"@keyframes {mark} {{ 0% {{ visibility: hidden }} {begin:.3f}% {{ visibility: visible }} "
            f"{end:.3f}% {{ visibility: hidden }} }}\n"
            f".{mark}-frame {{ animation: {mark} {total_s:.2f}s step-end infinite }}"
        )
    last = f".f{len(frames) - 1}-frame"
    still = f".frame {{ animation: none }} {last} {{ visibility: visible }}"
    style = "\n".join(
        [".frame { visibility: hidden }", *rules, f"@media (prefers-reduced-motion: reduce) {{ {still} }}"]
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{viewbox}" role="img" '
        f'aria-label="Four streams answer a question in a terminal">\n<style>\n{style}\n</style>\n'
        + "\n".join(drawings)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    main()

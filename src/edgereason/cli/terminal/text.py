"""Text of a model, written to a terminal while it is still being said."""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from edgereason.core.chat import NATIVE_OPENING, closing_in
from edgereason.core.families import TAGS
from edgereason.core.printable import printable as without_controls

_THINKING: Final = "dim"
_ANSWER: Final = ""


def printable(text: str) -> str:
    """`text` without control characters, escape sequences thereby defused, and without tabs."""
    return without_controls(text).expandtabs(4)


def one_line(text: str, max_cells: int) -> str:
    """`text` on one line of at most `max_cells` cells."""
    line = Text(" ".join(printable(text).split()))
    line.truncate(max_cells, overflow="ellipsis")
    return line.plain


class Prose:
    """Writes text as it comes, breaking lines between words.

    A word is held back until it is complete; `finish` writes what is left.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._column = 0
        self._word = ""

    def write(self, text: str, style: str) -> None:
        """Writes `text`; never change the style inside a word."""
        out: list[str] = []
        for char in printable(text):
            if char.isspace():
                out += self._take_word()
                out += self._break() if char == "\n" or self._column >= self._width else self._place(char)
            else:
                self._word += char
                if cell_len(char) > 1:  # scripts that are written without spaces
                    out += self._take_word()
        self._print(out, style)

    def finish(self, style: str) -> None:
        """Writes the held word and ends the line."""
        self._print([*self._take_word(), *(self._break() if self._column else [])], style)

    @property
    def _width(self) -> int:
        return self._console.width - 2  # the terminal's own ^C, unseen from here, takes two cells

    def _take_word(self) -> list[str]:
        word, self._word = self._word, ""
        if not word:
            return []
        fits = self._column + cell_len(word) <= self._width
        return (self._break() if self._column and not fits else []) + self._place(word)

    def _place(self, text: str) -> list[str]:
        cells = self._column + cell_len(text)
        self._column = cells if cells <= self._console.width else cells % self._console.width
        return [text]

    def _break(self) -> list[str]:
        self._column = 0
        return ["\n"]

    def _print(self, parts: list[str], style: str) -> None:
        if parts:
            self._console.print(Text("".join(parts), style), end="", soft_wrap=True)


class Transcript:
    """Everything that one stream says: thinking dimmed, then the answer, without the tag between them.

    Args:
        console: where to.
        thinks: whether the stream begins by thinking.
    """

    def __init__(self, console: Console, *, thinks: bool) -> None:
        self._prose = Prose(console)
        self._thinks = thinks
        self._style = _THINKING if thinks else _ANSWER
        self._started = False
        self._held = ""

    def push(self, text: str) -> None:
        """Takes in what comes next."""
        self._held += text
        if self._thinks:
            if not self._started:
                self._held = NATIVE_OPENING.sub("", self._held, count=1)
            thinking, tag, answer = self._held.partition(closing_in(self._held))
            if tag:
                self._emit(thinking.rstrip())
                self._prose.finish(self._style)
                if self._started:
                    self._prose.write("\n", self._style)
                self._thinks, self._started = False, False
                self._style, self._held = _ANSWER, answer
        settled = _settled(self._held, tag_may_come=self._thinks)
        self._held = self._held[len(settled) :]
        self._emit(settled)

    def finish(self) -> None:
        """The stream has ended."""
        self._emit(self._held.rstrip())
        self._held = ""
        self._prose.finish(self._style)

    def _emit(self, text: str) -> None:
        if not self._started:
            text = text.lstrip("\n")
        if text:
            self._started = True
            self._prose.write(text, self._style)


_CLOSING_TAGS: Final = tuple(tags.closing_tag for tags in TAGS)


def _settled(text: str, *, tag_may_come: bool) -> str:
    """`text` up to where it may still turn out to be the closing tag, or white space at the very end."""
    if tag_may_come:
        begun = [n for tag in _CLOSING_TAGS for n in range(1, len(tag)) if text.endswith(tag[:n])]
        text = text[: len(text) - max(begun, default=0)]
    return text.rstrip()

r"""Exact arithmetic in what a stream says: where it begins to write a result, the exact one is written.

::

    "… 3 shirts * $1,250 = $" │ drawn "3"        → forced "3,750" in its place
    "… 3 shirts * $1,250 ="   │ drawn " about"   → as drawn: it writes no number

Whether a result follows on the equals sign, and what stands before its first digit (blanks, a sign of money,
a minus) is the model's own, and so is all that follows on the number, but for more digits: the first of them
becomes a blank, or the exact 125 would begin the wrong 1250 that the model has in mind. A drawn token that
holds more than that and first digits is left alone. So is what the model likely means otherwise: a result
below 0 that it begins without a minus is a difference, and one below 1 that it begins with another digit than
0 is in percent, in cents or a fraction. And a model may compute in steps: behind 4 * 125 - 2 = it may write
the 500 of 500 - 2. Its number becomes the result with the first digit that no such step has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from edgereason.core.arithmetic import MAX_CHARACTERS, Result, exact_result
from edgereason.core.chat import CLOSING_TAG, Tokenize

MOST_REPEATS: Final = 2
"""How often one expression is computed in a thought: from then on it is a loop, which results keep alive."""

_FIRST_DIGITS: Final = re.compile(r"(\D*)(\d+)")
_LEAD: Final = re.compile(
    r"[ \t]{0,4}(?:\*\*|\\boxed\{|\\[(\[])?[ \t]?[-−]?[ \t]?(?:\\?\$|[£€¥₹])?[ \t]?[-−]?(\d[\d,]*)?"
)
"""What may stand between the equals sign and a digit of a result: its first digits among it."""
_CENTS: Final = re.compile(r"\d(?:¢|cents?)")
_TAIL_CHARACTERS: Final = 2 * MAX_CHARACTERS
"""Of what was said that are kept: an expression, and what may stand before its result."""


class Number(NamedTuple):
    """What is forced in the place of a drawn token: a result, or the blank that ends one."""

    ids: tuple[int, ...]
    text: str


class Calculator:
    """Follows what one stream thinks, and knows results better.

    Args:
        tokenize: of the model's vocabulary.
    """

    def __init__(self, tokenize: Tokenize) -> None:
        self._tokenize = tokenize
        self._line = ""
        self._has_closed = self._is_behind_result = False
        self._num_computed: Counter[str] = Counter()

    def instead_of(self, drawn: str) -> Number | None:
        """The exact result, where the drawn text begins to write one; None where it is to be left alone."""
        if self._has_closed or (begun := _FIRST_DIGITS.fullmatch(drawn)) is None:
            return None
        if self._is_behind_result and not begun[1]:
            return self._number(" ")
        before, equals, rest = (self._line + begun[1]).rpartition("=")
        if not equals or (lead := _LEAD.fullmatch(rest)) is None or (result := exact_result(before)) is None:
            return None
        kept = lead[1] or ""
        self._num_computed[result.expression] += not kept
        if self._num_computed[result.expression] > MOST_REPEATS or not _is_meant(
            result, rest, kept + begun[2]
        ):
            return None
        if kept and not (result.digits.startswith(kept) and any(map(partial(_begins, kept), result.leading))):
            return None
        return self._number((begun[1] + result.digits[len(kept) :]) or " ")

    def _number(self, text: str) -> Number:
        return Number(tuple(self._tokenize(text)), text)

    def hear(self, text: str, *, is_forced: bool = False) -> None:
        """Takes in what was said."""
        if text:  # a token in the middle of a character says nothing yet
            self._is_behind_result = is_forced and text[-1].isdigit()
        self._line += text
        self._has_closed = self._has_closed or CLOSING_TAG in self._line[-len(text) - len(CLOSING_TAG) :]
        self._line = self._line.rpartition("\n")[2][-_TAIL_CHARACTERS:]


def _is_meant(result: Result, lead: str, number: str) -> bool:
    """Whether a number that begins so is to be the result, and nothing else that may follow.

    Args:
        result: of the expression.
        lead: what stands before the digit that was drawn, up to the equals sign.
        number: the number's digits so far.
    """
    is_negative, is_small = "-" in lead or "−" in lead, number[0] == "0"
    if is_negative != (result.value < 0):
        return False
    if (0 < abs(result.value) < 1 and not is_small) or (result.is_percent and is_small):
        return False
    if "$" in lead and _CENTS.search(result.expression):
        return False
    return not any(map(partial(_begins, number), result.leading))


def _begins(number: str, whole: str) -> bool:
    return whole.startswith(number.replace(",", ""))


def number_instead_of(
    calculator: Calculator | None, drawn: str, fits: Callable[[int], bool]
) -> Number | None:
    """An exact result in the place of the drawn text, if there is one and it fits; what is said is heard."""
    if calculator is None:
        return None
    number = calculator.instead_of(drawn)
    if number is not None and not fits(len(number.ids)):
        number = None
    calculator.hear(drawn if number is None else number.text, is_forced=number is not None)
    return number

r"""Exact arithmetic in what a stream says: where it begins to write a result, the exact one is written.

::

    "… 3 shirts * $1,250 = $" │ drawn "3"        → forced "3,750" in its place
    "… 3 shirts * $1,250 ="   │ drawn " about"   → as drawn: it writes no number

Whether a result follows on the equals sign, and what stands before its first digit (blanks, a sign of money,
a minus) is the model's own, and so is all that follows on the number. A drawn token that holds more than
that and first digits is left alone. So is what the model likely means otherwise: a result below 0 that it
begins without a minus is a difference, and one below 1 that it begins with another digit than 0 is in
percent, in cents or a fraction.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from edgereason.core.arithmetic import MAX_CHARACTERS, exact_result
from edgereason.core.chat import CLOSING_TAG, Tokenize

MOST_REPEATS: Final = 2
"""How often one expression is computed in a thought: from then on it is a loop, which results keep alive."""

_FIRST_DIGITS: Final = re.compile(r"(\D*)(\d+)")
_LEAD: Final = re.compile(
    r"[ \t]{0,4}(?:\*\*|\\boxed\{|\\[(\[])?[ \t]?[-−]?[ \t]?(?:\\?\$|[£€¥₹])?[ \t]?[-−]?"
)
"""What may stand between the equals sign and the first digit of a result."""
_CENTS: Final = re.compile(r"\d(?:¢|cents?)")
_TAIL_CHARACTERS: Final = 2 * MAX_CHARACTERS
"""Of what was said that are kept: an expression, and what may stand before its result."""


class Number(NamedTuple):
    """What is forced in the place of a drawn token."""

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
        self._has_closed = False
        self._num_computed: Counter[str] = Counter()

    def instead_of(self, drawn: str) -> Number | None:
        """The exact result, where the drawn text begins to write one; None where it is to be left alone."""
        if self._has_closed or (begun := _FIRST_DIGITS.fullmatch(drawn)) is None:
            return None
        before, equals, lead = (self._line + begun[1]).rpartition("=")
        if not equals or not _LEAD.fullmatch(lead) or (result := exact_result(before)) is None:
            return None
        self._num_computed[result.expression] += 1
        if self._num_computed[result.expression] > MOST_REPEATS:
            return None
        is_negative, is_small = "-" in lead or "−" in lead, begun[2][0] == "0"
        if is_negative != (result.value < 0):
            return None
        if (0 < abs(result.value) < 1 and not is_small) or (result.is_percent and is_small):
            return None
        if "$" in lead and _CENTS.search(result.expression):
            return None
        text = begun[1] + result.digits
        return Number(tuple(self._tokenize(text)), text)

    def hear(self, text: str) -> None:
        """Takes in what was said, drawn or forced."""
        self._line += text
        self._has_closed = self._has_closed or CLOSING_TAG in self._line[-len(text) - len(CLOSING_TAG) :]
        self._line = self._line.rpartition("\n")[2][-_TAIL_CHARACTERS:]


def number_instead_of(
    calculator: Calculator | None, drawn: str, fits: Callable[[int], bool]
) -> Number | None:
    """An exact result in the place of the drawn text, if there is one and it fits; what is said is heard."""
    if calculator is None:
        return None
    number = calculator.instead_of(drawn)
    if number is not None and not fits(len(number.ids)):
        number = None
    calculator.hear(drawn if number is None else number.text)
    return number

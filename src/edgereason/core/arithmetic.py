r"""What the arithmetic expression that a text ends with comes to, exactly.

::

    "… so he pays 3 shirts * $1,250"   →  3,750
    "\[ \frac{48}{2} + 20\% \times 50" →  34
    "Step 2 - 3", "2x + 3", "10:30"    →  nothing

Units may stand behind numbers and are not calculated with. Whatever is not for certain an expression of
numbers alone is left alone: variables, labels, dates, ranges, ratios, sums of different measures, percents of
which it is not clear what they are percents of. Only the end of the current line is read, so that a text of
any length costs the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

MAX_CHARACTERS: Final = 200
"""Of a line's end that are read."""

_PLACES: Final = 4
"""A result that needs more decimals is left alone."""
_MAX_DIGITS: Final = 15
_MAX_DEPTH: Final = 12
_MAX_UNIT_WORDS: Final = 6

_LETTER: Final = r"[^\W\d_]"
_TOKEN: Final = re.compile(
    rf"""(?P<blank>(?:\s|\\[,;!\ ]|\\q?quad(?![a-zA-Z]))+)
    | (?P<label>\d+(?:-{_LETTER}[\w-]*|(?::\d+)+|(?:st|nd|rd|th)\b))
    | (?P<number>(?:(?:\\?\$|[£€¥₹])[ ]?)?(?:\d(?:[\d.,]|\{{,\}})*(?<![.,}}])|(?<![\w.,])\.\d+))
      (?P<suffix>\\?%|[€£¢]|\\?\$(?!\d))?
    | (?P<fraction>\\[dt]?frac(?=\{{))
    | (?P<text>\\(?:text|mathrm|mbox)\{{[^{{}}\d]*\}})
    | (?P<times>\\times(?![a-zA-Z])|\\cdot(?![a-zA-Z])|[×·⋅∗]|\*(?!\*))
    | (?P<over>\\div(?![a-zA-Z])|÷|/(?!\s?{_LETTER}))
    | (?P<plus>\+)
    | (?P<minus>[-−–])
    | (?P<word>/?\s?{_LETTER}+(?:['’/-]{_LETTER}+)*)
    | (?P<open>\((?!\s*{_LETTER}[^()\d]*\)))
    | (?P<note>\(\s*{_LETTER}[^()\d]*\))
    | (?P<close>\))
    | (?P<begin>\{{)
    | (?P<end>\}})
    | (?P<stop>(?<!\d)\*\*|\\[\[(]|\\\\|\$+|<<|[,;:.!?"'“”‘’\[|→⇒&`•=])
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_SIZING: Final = re.compile(r"\\(?:left|right)(?![a-zA-Z])")
_NUMBER: Final = re.compile(r"(?:\d+|\d{1,3}(?:,\d{3})+|\d{1,3}(?:\{,\}\d{3})+)(?:\.\d+)?|\.\d+")
_LIST_MARK: Final = re.compile(r"\s*(?:\d+[.)]|[-*•])\s+")
_DATE: Final = re.compile(r"\d{1,2}([/-])\d{1,2}\1\d{4}|\d{4}([/-])\d{2}\2\d{2}")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LABELS: Final = _words(
    """
    step part case problem question chapter page section figure table equation room level grade no
    number item option exercise example version method line row column phase stage round day week
    month year age lesson steps parts chapters pages sections lines rows days weeks months years
    ages aged questions between
    """
)
"""Words that make a number behind them a name, or a range."""
_CALCULATING: Final = _words(
    """
    minus plus times than twice half double triple thrice less per over divided squared cubed root
    log sqrt negative percent sin cos tan
    """
)
"""Words that do something to a number behind them."""
_JOINING: Final = frozenset({"of", "and", "to", "or", "by"})
"""Words that belong to the number before them, where there is one."""
_SHARE: Final = re.compile(
    r".*(?:half|halves|thirds?|fourths?|fifths?|sixths?|eighths?|tenths?|quarters?|percent|percentage|"
    r"fraction|product|multiple|double|triple|divided|multiplied|out)"
)
"""Words that make a word of `_JOINING` behind them calculate."""
_NO_UNITS: Final = _CALCULATING - {"per"} | _words(
    """
    and or then so is are was were be has have had equals equal multiplied more fewer to which that
    if when since because thus therefore hence but not he she they we you it i dozen dozens hundred
    hundreds thousand thousands million millions billion billions trillion trillions x
    """
)
"""Words that are no unit, or one that must be calculated with."""
_TIGHT_UNITS: Final = _words(
    """
    cm mm km kg mg lb lbs oz ml hr hrs min sec ft mph gb mb kb cents
    """
)
"""Units that may follow a number without a blank; other letters there are variables."""
_MEASURES: Final = _words(
    """
    second sec minute min hour hr day week month year decade inch foot feet yard mile cm mm km meter
    metre centimeter kilometer gram kilogram kg g lb pound ounce oz ton liter litre ml milliliter
    cup pint quart gallon dollar cent penny pennies nickel dime quarter $ pair
    """
)
"""Units of which different ones can't be added up as they stand."""


@dataclass(frozen=True, slots=True)
class Result:
    """What an expression comes to.

    Attributes:
        expression: as it was written, without blanks.
        value: of it; of percents, in percent.
        digits: its absolute value, in the style of the expression's numbers.
        is_percent: whether a percent sign is to follow.
        leading: numbers that a partly computed form would begin with, as 500 in 4 * 125 - 2 = 500 - 2; plain.
    """

    expression: str
    value: Fraction
    digits: str
    is_percent: bool
    leading: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Operand:
    """A part of an expression; `measure` where it is a number with a unit that others can't be added to."""

    value: Fraction
    is_percent: bool = False
    measure: str | None = None


class _NoExpressionError(Exception):
    """The tokens are not for certain an expression of numbers."""


def exact_result(text: str) -> Result | None:
    """What the expression at the end of `text` comes to; None unless it is one for certain.

    It must have an operator, and a value with at most four decimals.
    """
    line = text[-MAX_CHARACTERS - 1 :].rpartition("\n")[2].rpartition("=")[2]
    is_cut = len(line) > MAX_CHARACTERS
    if not is_cut and (mark := _LIST_MARK.match(line)):
        line = line[mark.end() :]
    line = _SIZING.sub("", line)
    tokens = _tokens(line)
    if is_cut:  # what the first token is, nobody knows
        tokens = tokens[1:]
    for first, token in enumerate(tokens):
        if not _may_begin(tokens, first, is_cut=is_cut):
            continue
        try:
            parser = _Parser(line, tokens[first:])
            operand = parser.whole()
        except (_NoExpressionError, ZeroDivisionError):
            continue
        written = line[token.start :].strip()
        if not parser.num_operators or _DATE.match(written):
            return None
        result = _result(re.sub(r"\s+", "", written), operand, parser.separator)
        return None if result is None else replace(result, leading=parser.leading(operand.value))
    return None


def _tokens(line: str) -> list[_Token]:
    """The line's tokens, without blanks; a text between braces is its words."""
    tokens = []
    for found in _TOKEN.finditer(line):
        kind = found.lastgroup or ""
        kind = "number" if kind == "suffix" else kind
        if kind != "blank":
            tokens.append(_Token(kind, found[0], found.start(), found.end()))
    return tokens


def _may_begin(tokens: Sequence[_Token], at: int, *, is_cut: bool) -> bool:
    """Whether an expression may begin here, by what stands before."""
    token = tokens[at]
    if token.kind not in {"number", "open", "fraction", "minus"}:
        return False
    if not at:
        return not is_cut
    before = tokens[at - 1]
    is_tight = before.end == token.start
    if before.kind == "word":
        word, earlier = before.text.lower(), tokens[at - 2] if at > 1 else None
        if is_tight or token.kind == "minus" or word in _LABELS or word in _CALCULATING or _is_variable(word):
            return False
        if word in _JOINING and earlier is not None:
            return earlier.kind == "word" and not _SHARE.fullmatch(earlier.text.lower())
        return True
    if before.kind == "stop":
        # "6 : 2" is a ratio, "1,2" a list or another country's decimal
        is_after_number = at > 1 and tokens[at - 2].kind in {"number", "label"}
        is_joined = is_tight or tokens[at - 2].end != before.start
        return not (is_after_number and before.text in {":", "!", "'", ",", "."} and is_joined) or (
            before.text in {",", "."} and not is_tight
        )
    return before.kind in {"text", "note"} or (before.kind in {"open", "begin"} and token.kind != "minus")


def _result(expression: str, operand: _Operand, separator: str) -> Result | None:
    scaled = operand.value * 10**_PLACES
    if scaled.denominator != 1 or abs(operand.value) >= 10**_MAX_DIGITS:
        return None
    digits = _digits(operand.value, separator)
    return Result(expression, operand.value, digits, operand.is_percent)


def _digits(value: Fraction, separator: str = "") -> str:
    """An absolute value as it is written, without the decimals beyond the fourth."""
    whole, decimals = divmod(abs(int(value * 10**_PLACES)), 10**_PLACES)
    digits = f"{whole:,}".replace(",", separator)
    return digits + ("." + f"{decimals:0{_PLACES}}".rstrip("0") if decimals else "")


class _Parser:
    r"""Reads tokens to their end, or fails.

    ::

        sum      = product (("+" | "-") product)*
        product  = factor (("×" | "÷") factor | group)*         "2(3 + 4)" is a product
        factor   = "-"? (number | group | \frac{sum}{sum}) unit?
        group    = "(" sum ")"
    """

    def __init__(self, line: str, tokens: Sequence[_Token]) -> None:
        self._line = line
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._styles: set[str] = set()
        self._leading: list[Fraction] = []
        self._has_percent = False
        self.num_operators = 0

    @property
    def separator(self) -> str:
        """Between thousands, as the expression's own large numbers have it."""
        return self._styles.pop() if len(self._styles) == 1 else ""

    def leading(self, value: Fraction) -> frozenset[str]:
        """What partly computed forms begin with; an expression of one sign has none."""
        if self.num_operators == 1 and not self._has_percent:
            return frozenset()
        return frozenset(map(_digits, self._leading)) - {_digits(value)}

    def whole(self) -> _Operand:
        """All of the tokens."""
        operand = self._sum()
        if self._at < len(self._tokens):
            raise _NoExpressionError
        return operand

    def _peek(self, ahead: int = 0) -> _Token | None:
        return self._tokens[self._at + ahead] if self._at + ahead < len(self._tokens) else None

    def _take(self, *kinds: str) -> _Token | None:
        token = self._peek()
        if token is None or token.kind not in kinds:
            return None
        self._at += 1
        return token

    def _need(self, kind: str) -> None:
        if self._take(kind) is None:
            raise _NoExpressionError

    def _sum(self) -> _Operand:
        operands = [self._product(is_leading=not self._depth)]
        total = operands[0].value
        while sign := self._take("plus", "minus"):
            self._require_apart(sign)
            self.num_operators += 1
            operand = self._product()
            operands.append(operand if sign.kind == "plus" else replace(operand, value=-operand.value))
            total += operands[-1].value
            self._leading += [] if self._depth else [total]
        if len(operands) == 1:
            return operands[0]
        measures = {operand.measure for operand in operands if operand.measure}
        if len(measures) > 1 or len({operand.is_percent for operand in operands}) > 1:
            raise _NoExpressionError
        return replace(operands[0], value=total)

    def _require_apart(self, sign: _Token) -> None:
        """Refuses a dash between two numbers that it may make a range."""
        if sign.text == "–" and not self._line[sign.start - 1 : sign.end + 1].strip() == "–":
            raise _NoExpressionError

    def _product(self, *, is_leading: bool = False) -> _Operand:
        first = self._factor()
        value, percents, num_factors, slashes = first.value, int(first.is_percent), 1, set[bool]()
        above = value
        if is_leading:
            self._leading += [value, value / 100] if first.is_percent else [value]
        while True:
            sign = self._times() or self._take("over")
            if sign is None and not self._is_group_behind():
                break
            factor = self._factor()
            self.num_operators += 1
            num_factors += 1
            percents += factor.is_percent
            if factor.is_percent:
                factor = replace(factor, value=factor.value / 100)
            if sign is not None and sign.kind == "over":
                # "12 / 3/4": some mean a fraction by that
                slashes.add(self._line[sign.start - 1 : sign.end + 1].strip() == sign.text)
                value /= factor.value
            else:
                value, above = value * factor.value, above * factor.value
            if is_leading:
                scale = 100 if first.is_percent else 1
                self._leading += [value / scale, above / scale]
        if num_factors == 1:
            return first
        if percents > 1 or len(slashes) > 1 or (first.is_percent and slashes):
            raise _NoExpressionError
        return _Operand(value / 100 if first.is_percent else value)

    def _times(self) -> _Token | None:
        """A sign of multiplication; an x is one between two numbers, blanks around it or none."""
        if sign := self._take("times"):
            return sign
        sign, behind = self._peek(), self._peek(1)
        if sign is None or behind is None or sign.kind != "word" or sign.text.strip() not in {"x", "X"}:
            return None
        if behind.kind not in {"number", "open", "fraction"}:
            return None
        before = self._tokens[self._at - 1]
        is_tight = before.end == sign.start and sign.text[0] != " "
        if is_tight != (sign.end == behind.start) or (is_tight and before.text == "0"):  # 0x10
            return None
        self._at += 1
        return sign

    def _is_group_behind(self) -> bool:
        """Whether a group stands right behind a number or a group."""
        token, before = self._peek(), self._tokens[self._at - 1]
        return (
            token is not None
            and token.kind == "open"
            and before.end == token.start
            and before.kind in {"number", "close"}
        )

    def _factor(self) -> _Operand:
        is_negative = self._take("minus") is not None
        token = self._peek()
        if is_negative and (token is None or self._tokens[self._at - 1].end != token.start):
            raise _NoExpressionError
        if number := self._take("number"):
            operand = self._number(number)
        elif self._take("open"):
            operand = self._inner("close")
        elif self._take("fraction"):
            self.num_operators += 1
            self._need("begin")
            above = self._inner("end")
            self._need("begin")
            below = self._inner("end")
            if above.is_percent or below.is_percent:
                raise _NoExpressionError
            operand = _Operand(above.value / below.value)
        else:
            raise _NoExpressionError
        if measure := self._unit(operand):
            operand = replace(operand, measure=measure)
        return replace(operand, value=-operand.value) if is_negative else operand

    def _inner(self, end: str) -> _Operand:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _NoExpressionError
        operand = self._sum()
        self._need(end)
        self._depth -= 1
        return operand

    def _number(self, token: _Token) -> _Operand:
        currency, suffix = re.match(r"[^\d.]*", token.text), re.search(r"[^\d.,{}]*$", token.text)
        assert currency is not None and suffix is not None
        written = token.text[currency.end() : suffix.start()]
        is_padded = len(written) > 1 and written[0] == "0" and written[1] != "."
        if not _NUMBER.fullmatch(written) or is_padded or len(written) > _MAX_DIGITS:
            raise _NoExpressionError
        plain = written.replace("{,}", "").replace(",", "")
        if len(plain.partition(".")[0]) > 3:
            self._styles.add("{,}" if "{,}" in written else "," if "," in written else "")
        is_percent, is_cents = suffix[0].endswith("%"), suffix[0] == "¢"
        self._has_percent = self._has_percent or is_percent
        has_currency = bool(currency[0].strip("\\ ")) or suffix[0] in {"€", "£"}
        measure = "$" if has_currency else "cent" if is_cents else None
        return _Operand(Fraction(plain), is_percent, measure)

    def _unit(self, operand: _Operand) -> str | None:
        """Takes the words behind a number; the measure that they or the number name.

        Raises:
            _NoExpressionError: they may be something other than a unit.
        """
        words: list[str] = []
        measure = operand.measure
        while (token := self._peek()) is not None and token.kind in {"word", "text", "note", "label"}:
            if token.kind == "word" and token.text.strip() in {"x", "X"} and self._is_times():
                break
            is_tight = self._tokens[self._at - 1].end == token.start
            if token.kind == "label" and (is_tight or not re.search(r"-\D", token.text)):
                raise _NoExpressionError
            if token.kind == "word":
                word = token.text.strip().lower()
                is_first, behind = not words, self._peek(1)
                if word == "times" and is_first and behind is not None and behind.kind in {"times", "over"}:
                    word = "time"  # what happens several times
                if is_tight and not word.startswith("/") and word not in _TIGHT_UNITS:
                    raise _NoExpressionError
                names = [name.strip() for name in word.split("/") if name]
                if _is_variable(names[0]) or _NO_UNITS & set(names) or (is_first and word == "of"):
                    raise _NoExpressionError
                words.append(word)
                if is_first and not operand.is_percent and _singular(names[0]) in _MEASURES:
                    measure = measure or _singular(names[0])
            elif token.kind == "text":
                inner = token.text.partition("{")[2].strip("} ").lower().split()
                words += inner
                if _NO_UNITS & set(inner):
                    raise _NoExpressionError
            self._at += 1
        if len(words) > _MAX_UNIT_WORDS:
            raise _NoExpressionError
        return measure

    def _is_times(self) -> bool:
        at = self._at
        is_times = self._times() is not None
        self._at = at
        return is_times


def _is_variable(word: str) -> bool:
    return len(word) == 1 and word != "a"


def _singular(word: str) -> str:
    """Dollars and $ are one measure."""
    word = (
        word
        if word in _MEASURES
        else word.removesuffix("s")
        if word[:-1] in _MEASURES
        else word.removesuffix("es")
    )
    return {"dollar": "$", "feet": "foot", "hr": "hour", "min": "minute", "sec": "second"}.get(word, word)

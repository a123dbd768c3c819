"""What one short answer means: its kind, its canonical key, its exact value.

Owns `Kind`, `Answer` and `canonical`, and the text clean-up that they and extraction share. It knows one
answer at a time: neither the question, nor the response it was cut from, nor any other answer.

Decisions that a reader of figures should know:

* A percent sign is a unit: ``50%`` is the answer 50 and not 1/2, as in GSM8K and MATH.
* Units and currencies are shown and never compared: ``18``, ``$18``, ``18 eggs`` and ``18 dollars`` are one
  answer, and so are ``5 km`` and ``5 miles``. Nothing is converted: ``50 cents`` is 50, not 1/2. The
  exception is one sum of money in two units, ``5 dollars and 50 cents``, which is 11/2.
* ``hundred`` to ``trillion`` right after the number multiply it. ``dozen`` is a unit (``3 dozen`` is 3),
  because questions that ask "how many dozen" expect the bare 3.
* A number is exact: ``0.33`` is not 1/3. A ratio ``3:4`` is 3/4.
* A letter right after a number is a factor (``2s``, ``5m``); a unit stands apart (``5 m``) or is longer.
* A comma before three digits parts thousands, before any other number of digits it is decimal: ``12,50 €`` is
  25/2, and so is ``1.234,50`` 2469/2. ``3,5`` alone is a list and the number 7/2 alike. A comma that fits
  neither (``1,23,456``) gives no number.
* Digits of all scripts are digits. ``万``, ``億`` and their like multiply and add: ``3万5千`` is 35,000.
* ``1,000`` is a thousand and ``1, 000`` a list. A bare list is a set or, against one in brackets, a tuple
  in its order; ``(1, 2)``, ``[1, 2]`` and ``{1, 2}`` are three things.
* A digit string with a base (``40_9``) is an expression and not the number 40.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from functools import lru_cache, partial
from math import prod


class Kind(Enum):
    """How an answer is compared."""

    NUMBER = "number"  # by exact rational value
    CHOICE = "choice"  # by letter, A to E
    YES_NO = "yes/no"
    EXPRESSION = "expression"  # by key, then by math-verify
    PROSE = "prose"  # by case-folded words


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, as shown and as compared.

    Args:
        text: as extracted and trimmed: what a person is shown.
        kind: how it is compared.
        key: canonical form; two answers of one kind with equal keys are the same answer.
        value: exact value of a NUMBER, and of an EXPRESSION like ``x = 5`` that gives one; else None.
    """

    text: str
    kind: Kind
    key: str
    value: Fraction | None = None


# A number or formula beyond this is not an answer that anybody compares, and converting digits to an
# integer costs their square.
_LIMIT_NUMBER_CHARS = 200
_LIMIT_EXPRESSION_CHARS = 400
# Beyond this a text is prose, unread: some patterns below cost the square of the length.
_LIMIT_ANSWER_CHARS = 1000

# Han, Kana and Hangul stand beside digits without a blank.
CJK = "々㐀-䶿一-鿿豈-﫿぀-ヿㇰ-ㇿ가-힣\U00020000-\U000323af"


class _Spellings(dict[int, str]):
    """One character in ASCII or LaTeX: as listed, else its digit, its fraction, or its narrow form."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        tag, *parts = unicodedata.decomposition(character).split() or [""]
        if (digit := unicodedata.decimal(character, None)) is not None:
            spelling = str(digit)
        elif tag == "<fraction>":
            spelling = " " + "".join(chr(int(part, 16)) for part in parts).replace("⁄", "/")
        elif tag in ("<super>", "<sub>", "<circle>"):
            spelling = character  # a footnote or a bullet; exponents and bases are written before
        else:
            spelling = unicodedata.normalize("NFKC", character)
            spelling = spelling if spelling == character else spelling.translate(self)
        self[code] = spelling
        return spelling


_UNICODE = _Spellings(
    str.maketrans(
        {
            **dict.fromkeys("−‐‑‒–—―﹘﹣－˗➖⁻₋", "-"),
            "×": r"\times ", "✕": r"\times ", "✖": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ",
            "∙": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "∶": ":", "➕": "+", "٫": ".", "٬": ",", "٪": "%",
            "،": ", ", "π": r"\pi ", "√": r"\sqrt ", "∞": r"\infty ", "±": r"\pm ", "∪": r"\cup ",
            "∩": r"\cap ", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "≈": r"\approx ", "∈": r"\in ",
            "θ": r"\theta ", "°": r"^\circ ", "\u200b": "", "\ufe0f": "", "\u200e": "", "\u200f": "",
            "\u00a0": "\u00a0", "\u2009": "\u2009", "\u202f": "\u202f",  # may part thousands: see below
            "’": "'", "‘": "'", "“": '"', "”": '"',
        }
    )
)  # fmt: skip
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_LOWERED = "₀₁₂₃₄₅₆₇₈₉"
_PLACED = (
    (re.compile(rf"(?<![{_RAISED}])([{_RAISED}]+)[⁄/]([{_LOWERED}]+)"), " {}/{}"),
    (re.compile(rf"(?<=[\w)\]}}])(?<![{_RAISED}⁺⁻⁽⁾ⁿⁱ])([{_RAISED}⁺⁻⁽⁾ⁿⁱ]+)"), "^{{{}}}"),
    (re.compile(rf"(?<=\d)([{_LOWERED}]+)"), "_{{{}}}"),
)

# 3万5千, 1億2000万: Han and Hangul powers of ten, each with its digits.
_POWERS = {
    **dict.fromkeys("百백", 100), **dict.fromkeys("千천", 1000), **dict.fromkeys("万萬만", 10**4),
    **dict.fromkeys("亿億억", 10**8),
}  # fmt: skip
_GROUPED = re.compile(
    rf"(?<![\d.,])(?:\d[\d,]*(?:\.\d+)?\s?[{''.join(_POWERS)}]+)+(?!\s?[\d兆조{''.join(_POWERS)}])"
)


def _grouped(match: re.Match[str]) -> str:
    total, last = Fraction(0), 0
    for digits, powers in re.findall(rf"([\d,.]+)\s?([{''.join(_POWERS)}]+)", match[0]):
        size = prod(_POWERS[power] for power in powers)
        if last and size >= last:
            return match[0]
        total, last = total + _fraction(digits) * size, size
    return str(total) if total.denominator == 1 else match[0]


# Between the braces of \text: a letter that is no unit, or any before a letter or behind an operator.
_VARIABLE = (
    r"([eijknpqrvwxyz])|([a-zA-Z])(?=\s*\}[a-zA-Z])"
    r"|(?:(?<=[-+*/=(,<>^{]\\text\{)|(?<=[-+*/=] \\text\{))([a-zA-Z])"
)
# Spellings of one thing in LaTeX. Order matters: thousands spaces go before other spaces become blanks.
_LATEX: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\$", "$"),
        (r"\\%", "%"),
        (r"\{,\}", ","),
        (r"(?<=\d)(?:\\[,;:]\s*|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))", ""),
        (r"(?<!\\)\\!\s*", ""),
        (r"(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])|(?<=\S)~(?=\S)", " "),  # ~A is a negation
        (r"\\(?:left|right|displaystyle)(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (
            r"\\(?:mbox|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|operatorname)\s*(?=\{)",
            r"\\text",
        ),
        (r"\\text\s+\{", r"\\text{"),
        # Upright constants, variables and functions are not units: 2+\mathrm{i}, \mathrm{d}x, \mathrm{ln}(3).
        (rf"(?<=[a-zA-Z])\s?\\text\{{\s*(?:{_VARIABLE})\s*\}}", r" \1\2\3"),
        (rf"\s?\\text\{{\s*(?:{_VARIABLE})\s*\}}", r"\1\2\3"),
        (r"\\text\{\s*(min|max|sec)\s*\}(?=\s*[({\\a-zA-Z\d])", r"\\\1 "),
        (
            r"\\text\{\s*(sin|cos|tan|cot|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|gcd|lcm|det)\s*\}",
            r"\\\1 ",
        ),
    )
)

# Pairs of ** around words; between digits they are Python's power.
BOLD = re.compile(r"(?<![\w)])(\*\*|__)(?=\S)([^\n]{1,300}?)(?<=\S)\1(?![\w(])")
_WRAPPERS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"\$\$(.+)\$\$",
        r"\$([^$]+)(?<!\\)\$",
        r"\\\((.+)\\\)",
        r"\\\[(.+)\\\]",
        r"\\(?:boxed|fbox|text|mbox|textbf|mathrm)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}",
        r"\*\*(.+)\*\*",
        r"__(.+)__",
        r"`([^`]+)`",
        r'"([^"]+)"',
        r"'([^']+)'",
        r"“([^”]+)”",
    )
)


def trim(text: str) -> str:
    """Cut what stands around an answer: blanks, Markdown, quotes, math delimiters, closing punctuation."""
    text = BOLD.sub(r"\2", text)
    while True:
        before = text
        text = text.strip().strip("`").lstrip("#")
        # Odd ends of emphasis whose partner was cut away.
        text = text.removeprefix("**").removesuffix("**").strip()
        for wrapper in _WRAPPERS:
            if (match := wrapper.fullmatch(text)) and not re.search(r"\\[\])]", match[1]):
                text = match[1]
        text = re.sub(r"(?<!\\)[.,;:。．，、；：！？｡]+$|(?<=[a-zA-Z])!+$", "", text)
        if text == before:
            return text


def flatten(text: str) -> str:
    """Write LaTeX and Unicode spellings of one thing in one way; a meaning is never changed."""
    if not text.isascii():
        for placed, form in _PLACED:
            text = placed.sub(partial(_on_the_line, form), text)
        text = text.translate(_UNICODE)
        text = re.sub(r"(?<!\d)(\d+)\s?(?:分之|分の|분의)\s?(\d+)", r"\2/\1", text)
        text = _GROUPED.sub(_grouped, text)
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return re.sub(r"\s+", " ", text).strip()


def _on_the_line(form: str, match: re.Match[str]) -> str:
    """Superscripts and subscripts as ordinary digits in a form."""
    return form.format(*(unicodedata.normalize("NFKC", group).replace("−", "-") for group in match.groups()))


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────

# A comma before three digits parts thousands (12,500), before any other number of them it is a decimal
# comma (12,50), as in 0,500 and 1.234,500; a second comma makes it neither.
_DECIMAL_COMMA = r"(?:[1-9]\d{0,2}(?:\.\d{3})+,\d+|0+,\d+|\d+,(?:\d{1,2}(?!\d)|\d{4,}))(?!\d|[.,]\d)"
DIGITS = rf"(?:{_DECIMAL_COMMA}|(?:[1-9]\d{{0,2}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
# Alone it may be a list as well, of two whole numbers.
_LIST_OR_DECIMAL = re.compile(rf"[-+]?(?=\d+,\d+$){_DECIMAL_COMMA}")
CURRENCY = r"(?:US\$|[$€£¥₹]|\b(?:USD|EUR|GBP|Rs\.?)(?=[\s\d]))"
_SIGNED = rf"[-+]?\s*{DIGITS}"
_FRAC = (
    rf"\\frac\s*(?:\{{\s*(?P<top>{_SIGNED})\s*\}}|(?P<top1>\d))\s*"
    rf"(?:\{{\s*(?P<bottom>{_SIGNED})\s*\}}|(?P<bottom1>\d))"
)
_NUMBER = re.compile(
    rf"(?:(?:about|approximately|around|roughly|exactly|only|just|nearly|almost|\\approx|~|=)\s*)*"
    rf"(?P<sign>[-+]?)\s*(?:{CURRENCY}\s*)?(?P<sign2>[-+]?)\s*"
    rf"(?:(?P<whole>\d+)\s*(?:{_FRAC}|(?<=\s)(?P<over>\d+)\s*/\s*(?P<under>\d+))"
    rf"|{_FRAC.replace('<top', '<a').replace('<bottom', '<b')}"
    rf"|(?P<head>\d*\.\d*)\\overline\s*\{{(?P<period>\d+)\}}"
    rf"|(?P<power>10\s*\^\s*\{{?\s*(?P<exponent>-?\d{{1,2}})\s*\}}?)"
    rf"|(?P<number>{DIGITS})"
    rf"(?:[eE](?P<e>[-+]?\d{{1,3}})(?![\w.])"
    rf"|\s*(?:\\times|\\cdot|x|\*)\s*10\s*\^\s*\{{?\s*(?P<ten>-?\d{{1,3}})\s*\}}?"
    rf"|\s*/\s*(?P<denominator>{DIGITS}))?)"
    r"(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_SPACED_THOUSANDS = re.compile(rf"^[-+]?\s*(?:{CURRENCY}\s*)?\d{{1,3}}(?: \d{{3}})+(?!\d|\s*/)")
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_DOLLARS_AND_CENTS = re.compile(
    rf"(?:\$\s*)?(?P<dollars>{DIGITS})\s*(?:dollars?|euros?|pounds?)?,?\s+and\s+(?P<cents>\d{{1,2}})\s*"
    r"(?:cents?|pence|¢)",
    re.IGNORECASE,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SHORT_UNITS = _words(
    "km cm mm kg mg ml ft lb lbs oz hr hrs min mins sec mph kph kmh hz kb mb gb st nd rd th"
)
_ONE_LETTER_UNITS = _words("m g s h L l C F K W V J N a")
# Words after a number that make it something other than a number with its unit.
_NOT_UNITS = _words(
    "and or to through plus minus over half halves squared cubed point is are was were has have had not but "
    "because since so am pm a.m p.m mod pi sqrt sin cos tan cot sec csc log ln exp if when which that who "
    "hundredth hundredths tenth tenths thousandth thousandths factorial january february march april may "
    "june july august september october november december divided multiplied"
)

# A half, a month, a clock's hour, to, and, or; a power of ten that is not understood.
_CJK_NOT_UNIT = re.compile(
    rf".?半|[月시時点點시兆조{''.join(_POWERS)}]|[和与與或到至跟]|から|まで|と|や|부터|까지|와|과"
)


def _fraction(digits: str) -> Fraction:
    digits = re.sub(r"\s", "", digits)
    if re.fullmatch(rf"[-+]?{_DECIMAL_COMMA}", digits):
        return Fraction(digits.replace(".", "").replace(",", "."))
    return Fraction(digits.replace(",", ""))


def _is_unit(rest: str, *, attached: bool) -> bool:
    """Whether what follows a number names a thing that it counts and nothing more."""
    rest = re.sub(r"\^\s*(?:\{\s*)?\\circ(?:\s*\})?|\\degree\b", " degrees ", rest)
    attached = attached and not rest.startswith(" ")
    # "4-way" and "5 /hour" name a thing; "4 - x", "3-i" and "2/n" are formulas.
    joined = re.match(r"\s*(?:[-/]|\\cdot)\s*([^\W\d_]*)", rest)
    if " - " in rest or (joined and len(joined[1]) < 3 and joined[1].casefold() not in _SHORT_UNITS):
        return False
    rest = re.sub(r"(?<=[a-zA-Z} ])\^\s*\{?[23]\}?|(?<=[a-zA-Z])[23](?![\w.])", " ", rest)
    rest = re.sub(r"[(){}]", " ", rest)
    words = re.split(r"[\s/\-]+|\\cdot\s*", rest.strip())
    if words == [""]:
        return True
    first, lowered = words[0], [word.casefold().rstrip(".") for word in words]
    if len(words) > 8 or any(word in _NOT_UNITS for word in lowered):
        return False
    if not all(re.fullmatch(r"[^\W\d_][^\W\d_'.]*|[¢%]|", word) for word in words):
        return False
    if re.match(rf"[{CJK}]", first):
        return _CJK_NOT_UNIT.match(first) is None
    if attached and first:
        return first.casefold() in _SHORT_UNITS or len(first) >= 3 or first in "¢%"
    return all(len(word) != 1 or word in _ONE_LETTER_UNITS for word in words)


def _number(body: str) -> Fraction | None:
    """Exact value of a flattened text that is one number, its currency and its unit; else None."""
    if money := _DOLLARS_AND_CENTS.fullmatch(body):
        return _fraction(money["dollars"]) + Fraction(int(money["cents"]), 100)
    declared = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", body).strip()
    if alone := re.fullmatch(r"\(([^(),]+)\)", declared):
        declared = alone[1].strip()
    declared = _SPACED_THOUSANDS.sub(lambda match: match[0].replace(" ", ""), declared)
    match = _NUMBER.fullmatch(declared)
    if match is None or match.start("rest") > _LIMIT_NUMBER_CHARS or (match["sign"] and match["sign2"]):
        return None
    part = match.groupdict()
    try:
        if part["whole"]:
            top = part["top"] or part["top1"] or part["over"]
            bottom = part["bottom"] or part["bottom1"] or part["under"]
            value = int(part["whole"]) + _fraction(top) / _fraction(bottom)
        elif part["a"] or part["a1"]:
            value = _fraction(part["a"] or part["a1"]) / _fraction(part["b"] or part["b1"])
        elif part["power"]:
            value = Fraction(10) ** int(part["exponent"])
        elif part["period"]:
            repeated = Fraction(int(part["period"]), 10 ** len(part["period"]) - 1)
            value = _fraction("0" + part["head"]) + repeated / 10 ** len(part["head"].partition(".")[2])
        else:
            value = _fraction(part["number"]) * Fraction(10) ** int(part["e"] or part["ten"] or 0)
            value /= _fraction(part["denominator"] or "1")
    except ZeroDivisionError:
        return None
    rest = match["rest"]
    while scale := re.match(rf"\s*({'|'.join(_SCALES)})\b", rest, re.IGNORECASE):
        value *= _SCALES[scale[1].lower()]
        rest = rest[scale.end() :]
    rest = re.sub(r"^\s*(?:%|percent\b|per\s?cent\b|[$€£])", " ", rest, flags=re.IGNORECASE)
    if not _is_unit(rest, attached=not rest.startswith(" ")):
        return None
    return -value if "-" in (match["sign"], match["sign2"]) else value


# ── letters and yes/no ───────────────────────────────────────────────────────────────────────────

# "(B)", "B", "B.", "B) Paris", "B. Paris", "option B"; never "D. H. Lawrence", "(A) and (B)" or a bare "b".
_CHOICE = re.compile(
    r"(?:(?:option|choice|answer)\s+)?"
    r"(?:\((?P<lettered>[A-Ea-e])\)(?P<tail>.*)"
    r"|(?P<bare>[A-E])(?:(?P<stop>[).:])\s*(?P<after>.*))?)",
    re.DOTALL,
)
_WORDED_CHOICE = re.compile(r"(?:option|choice)\s+\(?(?P<letter>[A-Ea-e])\)?\.?(?:\s*[-:,].*)?", re.I | re.S)
_ANOTHER_LETTER = re.compile(r"\s*(?:,|/|&|and\b|or\b)\s*\(?[A-Ea-e]\b", re.IGNORECASE)
_YES_NO = re.compile(
    r"(?P<word>yes|no)(?:\s*$|\s*[,.;:!]|\s+-\s|\s+(?:it|they|he|she|we|you|i|there|this|that|these|those)\b)",
    re.IGNORECASE,
)


def _choice(body: str) -> str | None:
    body = re.sub(r"\\text\{([^{}]*)\}", r"\1", body).strip()
    if worded := _WORDED_CHOICE.fullmatch(body):
        return worded["letter"].upper()
    match = _CHOICE.fullmatch(body)
    if match is None:
        return None
    letter, tail = match["lettered"] or match["bare"], match["tail"] or match["after"] or ""
    if _ANOTHER_LETTER.match(tail):
        return None
    if match["stop"] == "." and re.match(r"[A-Z]\.", tail):  # initials of a name
        return None
    if match["lettered"] and re.match(r"\s*[-+*/^=(\d]", tail) and not tail.startswith(" "):
        return None  # a formula such as (a)(b) or (b)^2
    return str(letter).upper()


# ── expressions and prose ────────────────────────────────────────────────────────────────────────

_CONSTANTS = _words("pi theta alpha beta infinity infty")
_FUNCTIONS = _CONSTANTS | _words(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp sqrt inf max min mod gcd lcm det"
)
_BARE_FUNCTION = re.compile(rf"(?<![\\a-zA-Z])({'|'.join(sorted(_FUNCTIONS))})(?![a-zA-Z])")
_APPLIED_FUNCTION = re.compile(rf"(?<![a-zA-Z])(?:{'|'.join(sorted(_FUNCTIONS))})\s*[a-zA-Z(](?![a-zA-Z])")
# A unit at the end of a formula: any \text that follows something, or one of the common words.
_UNIT = re.compile(
    r"(?<=[\w})\]])(?:\s*\\text\{(?!\s*(?:and|or)\s*\})[^{}]*\}"
    r"|\s+(?:(?:square|cubic|sq\.?)\s+)?(?:(?:unit|foot|yard|mile|(?:kilo|centi|milli)?met(?:er|re)|inche|degree"
    r"|radian|second|minute|hour|dollar)s?|inch|feet|[kcm]m|in|ft))(?:\s*\^\s*\{?\d\}?)?\s*$"
)
_LETTER = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]")
# Several options: "A, C", "(B) and (A)".
_LETTERS = re.compile(r"\(?[a-z]\)?(?:(?:, (?:and )?| and | & )\(?[a-z]\)?)+")
_TIME_OF_DAY = re.compile(r"(?<=\d)\s*([ap])\.?m\b\.?", re.IGNORECASE)
_SMALL_WORDS = _words("a an as at be by do he if in is it me my no of on so to up us we am ft lb oz cm km")
_KEY_SPELLINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\text\{\s*(?:,?\s*(?:and|or)\s*)\}|(?<![a-zA-Z]),?\s*(?:and|or)(?![a-zA-Z])", ","),
        (r"\^\s*(?:\{\s*)?\\circ(?:\s*\})?|[$%]", ""),
        (r"\*\*", "^"),
        (r"\\(?:times|cdot)(?![a-zA-Z])", "*"),
        (r"\\le(?![a-zA-Z])|<=", r"\\leq "),
        (r"\\ge(?![a-zA-Z])|>=", r"\\geq "),
        (r"\\ne(?![a-zA-Z])|!=", r"\\neq "),
        (r"\\(?:infinity|inf)(?![a-zA-Z])", r"\\infty "),
        (r"\\varnothing(?![a-zA-Z])", r"\\emptyset "),
        (r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
        (r";", ","),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*(\d+(?:\.\d+)?|[a-zA-Z])", r"\\sqrt{\1}"),
        (r"\\frac\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9a-zA-Z])\s*(?=\{)", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}"),
        (r"([\^_])\s*\{\s*([0-9a-zA-Z])\s*\}", r"\1\2"),
    )
)


def _is_expression(body: str) -> bool:
    """Whether a flattened text is a formula: it has a mathematical sign and no words."""
    bare = re.sub(r"\\(?:begin|end)\s*\{[a-z*]+\}|\\text\{\s*(?:and|or)\s*\}", " \\\\ ", body)
    bare = re.sub(r"(?<=[\w})\]])\s*\\text\{[^{}]*\}", " ", _UNIT.sub("", bare))  # units
    if "\\text" in bare or len(body) > _LIMIT_EXPRESSION_CHARS or _TIME_OF_DAY.search(body):
        return False
    has_sign = re.search(r"\\[a-zA-Z\\]|[\d^_=<>+*/(){}\[\]]|(?<![^\W_])-|\s-\s|\b[a-zA-Z]-[a-zA-Z]\b", bare)
    if not (has_sign or bare in _CONSTANTS or _APPLIED_FUNCTION.search(bare)):
        return False
    bare = re.sub(r"\\[a-zA-Z]+", " ", bare)
    if re.search(r"[^\x00-\x7f]|[?\"&#@]", bare.replace("&", " ") if "\\" in body else bare):
        return False
    # "3abc" is a product, "abc" and "3 abc" are words.
    words = re.findall(r"(?<!\d)[a-zA-Z]{2,}|(?<=\d)[a-zA-Z]{4,}", bare)
    return not any(
        word not in _FUNCTIONS
        and word not in ("and", "or")
        and (len(word) > 2 or word.lower() in _SMALL_WORDS)
        for word in words
    )


def _expression_key(body: str) -> str:
    """One spelling of a formula, without blanks, that is still LaTeX; its commas separate."""
    key = _UNIT.sub("", body)
    if not re.search(r"[(\[]|\\\{", key):  # in (100,200) the comma is no thousands'
        key = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", lambda m: m[0].replace(",", ""), key)
    key = _BARE_FUNCTION.sub(r"\\\1 ", key)
    for pattern, replacement in _KEY_SPELLINGS:
        key = pattern.sub(replacement, key)
    return re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])|\s", lambda m: f"{m[1]} " if m[1] else "", key)


def _prose_key(body: str) -> str:
    words = re.sub(r"\\text\{([^{}]*)\}", r"\1", body).casefold()
    words = _TIME_OF_DAY.sub(r" \1m", words)
    words = re.sub(r"\s+", " ", words).strip(" \t.,;:!?\"'`*_()")
    words = re.sub(r"\s*([,;])\s*", r"\1 ", words)
    if _LETTERS.fullmatch(words):
        return ", ".join(sorted(re.findall(r"\b[a-z]\b", words)))
    return re.sub(r"^(?:a|an|the) (?=\S)", "", words) or body.casefold()


@lru_cache(maxsize=8192)
def canonical(text: str) -> Answer:
    """Read a short answer, such as a reference or what a response gives as its answer.

    Args:
        text: the answer alone, in plain text or LaTeX; anything at all is read, if need be as prose.
    """
    if len(text) > _LIMIT_ANSWER_CHARS:
        return Answer(text.strip(), Kind.PROSE, _prose_key(text.strip()))
    shown = trim(text)
    body = flatten(shown)
    if letter := _choice(body):
        return Answer(shown, Kind.CHOICE, letter)
    if match := _YES_NO.match(body):
        return Answer(shown, Kind.YES_NO, match["word"].lower())
    if (value := _number(body)) is not None:
        if _LIST_OR_DECIMAL.fullmatch(body):
            return Answer(shown, Kind.EXPRESSION, _expression_key(body), value)
        return Answer(shown, Kind.NUMBER, str(value), value)
    if _is_expression(body):
        left, equals, right = body.rpartition("=")
        is_equation = bool(equals and right.strip()) and left[-1:] not in tuple("<>!=")
        value = _number(right.strip()) if is_equation else None
        if is_equation and not _LETTER.search(left):
            # "9 * 2 = 18" is a calculation whose result is the answer; "x = 18" is an equation.
            if value is not None or not _LETTER.search(right):
                return canonical(right)
            value = _number(left.strip()) if len(right.strip()) == 1 else None  # 18 = x
        return Answer(shown, Kind.EXPRESSION, _expression_key(body), value)
    return Answer(shown, Kind.PROSE, _prose_key(body))

r"""Where in a response the answer stands.

Owns the rules that find it; what it then means is `answer_forms`' business. It knows one text and perhaps
the question, and neither a reference nor other responses.

In this order, the first that gives something:

1. the last complete ``\boxed{…}``;
2. what follows the last marker ("the answer is", "**Answer:**", "#### 18") up to the end of its statement;
3. the whole text, or its last line, where that alone is an answer;
4. a letter, where the question lists options or the text speaks of one option;
5. yes or no, where the text begins with it;
6. the number or formula that a worked answer ends in, for a question after a quantity;
7. the whole text, as prose.
"""

from __future__ import annotations

import re
from enum import Enum

from edgereason.core.answer_forms import BOLD, CJK, CURRENCY, DIGITS, Answer, Kind, canonical, flatten, trim

# Where an answer, as opposed to an essay, ends.
_LIMIT_LINE_CHARS = 160
_LIMIT_TEXT_CHARS = 100_000
_LIMIT_BOXES = 20

# Anything but blanks and what only surrounds answers.
_SAYS = re.compile(r"[^\s*_#`.,;:\"'$。、，：；]")

# Tags of thinking and answers, whole or cut off at the end, and control tokens that a model spelled out.
_TAG = re.compile(
    r"<\s?\\?/?\s?(?:think|thinking|thoughts?|reason|reasoning|reflection|scratchpad|answer|solution|output)\s?/?>"
    r"|<\|[\w/-]{1,40}\|>|<(?:/s|s|eos|bos|pad|unk|(?:start|end)_of_turn)>|\[/?INST\]"
    r"|</?(?:t(?:h(?:i(?:n(?:k(?:ing?)?)?)?)?)?)?(?=[\s*_`.]*\Z)",
    re.IGNORECASE,
)
_EMPTY_BOX = re.compile(r"\\(?:boxed|fbox)\s?\{\s{0,9}\}")


class _Wants(Enum):
    """Whether the question asks for a quantity."""

    QUANTITY = "quantity"
    OTHER = "other"  # a person, a place, a reason
    UNKNOWN = "unknown"  # there is no question, and the text must look worked out
    UNCLEAR = "unclear"  # there is one, and it does not say: the text must calculate


def extract(text: str, *, question: str | None = None) -> Answer | None:
    """Find the answer in a response.

    Args:
        text: what was said after thinking; of a very long text only the end is read.
        question: the prompt's question with its options, if it is known. It decides whether a number in
            running prose is the answer ("She sells 18 eggs.") or not ("France has 68 million people.").

    Returns:
        None if there is nothing but blanks and punctuation that stands around answers.
    """
    text = BOLD.sub(r"\2", _EMPTY_BOX.sub(" ", _TAG.sub("\n", text[-_LIMIT_TEXT_CHARS:])))
    if not _SAYS.search(text):
        return None
    wants, options = _wanted(question), _options(question or "")
    if (boxed := _last_boxed(text)) is not None:
        return _read(boxed, wants, options)
    marked, text = _marked(text)
    if marked is not None:
        # An option may hold several sentences, and more than one statement gives of it.
        line = _as_option(canonical(text.strip().partition("\n")[0]), options)
        read = line if line.kind is Kind.CHOICE else _as_option(canonical(marked), options)
        if read.kind is not Kind.CHOICE:  # an option may itself hold a "because"
            read = _read(_reason_cut(marked), wants, options)
        # "Answer: Let's think step by step. …" opens a solution; its end is what to look at.
        is_opening = read.kind is Kind.PROSE and len(marked.split()) >= 5 and len(text) > 2 * len(marked)
        if is_opening and _is_worked(text, wants) and (concluded := _conclusion(text)):
            return _as_option(concluded, options)
        return read
    if not _SAYS.search(text):
        return None  # nothing but an answer prefix
    lines = [line for line in text.splitlines() if _SAYS.search(line)]
    if len(lines[-1]) <= _LIMIT_LINE_CHARS and (answer := _alone(lines[-1], wants, len(lines) == 1)):
        return _as_option(answer, options)
    if answer := _lettered(text, options):
        return answer
    whole = _as_option(canonical(text), options)
    if whole.kind is Kind.CHOICE or (whole.kind is Kind.YES_NO and wants is not _Wants.QUANTITY):
        return whole
    if _is_worked(text, wants) and (answer := _conclusion(text)):
        return _as_option(answer, options)
    return whole


# ── the question ─────────────────────────────────────────────────────────────────────────────────

_QUANTITY_CUE = re.compile(
    r"\bhow\s+(?:many|much|far|long|old|tall|fast|big|high|deep|wide|heavy|often|large|late)\b"
    r"|\bwhat(?:'s|\s+is|\s+are|\s+was|\s+were|\s+will\s+be)\s+(?:the\s+|his\s+|her\s+|their\s+|its\s+)?"
    r"(?:\w+\s+){0,2}(?:value|total|sum|difference|product|quotient|number|average|mean|median|mode|"
    r"probability|area|perimeter|volume|cost|price|profit|amount|percent|percentage|ratio|remainder|"
    r"distance|speed|length|width|height|age|weight|degree|coefficient)s?\b"
    r"|\bwhat\s+(?:number|percent|percentage|fraction)\b"
    r"|\b(?:calculate|compute|evaluate|find|solve|determine|simplify)\b"
    r"|多少|[几幾][^何乎]|求|计算|計算|いくつ|いくら|何[個人本枚円匹冊回歳年日時分秒台杯]|몇|얼마|구하|계산",
    re.IGNORECASE,
)
_DIGIT_STRING = re.compile(r"\d+(?:[.,]\d+)*")
_OTHER_CUE = re.compile(
    r"(?:^|[.!?\n])\s*(?:who|whom|whose|where|why|name|explain|describe)\b", re.IGNORECASE
)
# Each option at the start of a line, or in one line: "A) 3 B) 4", "(A) 3 (B) 4", "A. 3  B. 4".
_OPTION = re.compile(r"(?:^|\s)(?:\(([A-E])\)|([A-E])[).:])[ \t]*(?=\S)")


def _wanted(question: str | None) -> _Wants:
    if question is None:
        return _Wants.UNKNOWN
    if _QUANTITY_CUE.search(question):
        return _Wants.QUANTITY
    if _OTHER_CUE.search(question):
        return _Wants.OTHER
    return _Wants.QUANTITY if len(_DIGIT_STRING.findall(question)) >= 2 else _Wants.UNCLEAR


def _options(question: str) -> dict[str, Answer]:
    """Letter → canonical option; empty unless the question lists at least A and B, in order."""
    options: dict[str, Answer] = {}
    found = list(_OPTION.finditer(question))
    for match, end in zip(
        found, [following.start() for following in found[1:]] + [len(question)], strict=False
    ):
        letter = match[1] or match[2]
        if letter != "ABCDE"[len(options) % 5] or len(options) == 5:
            continue
        options[letter] = canonical(question[match.end() : end].strip().partition("\n")[0])
    return options if len(options) >= 2 else {}


# ── boxes and markers ────────────────────────────────────────────────────────────────────────────


def _last_boxed(text: str) -> str | None:
    """Content of the last complete, non-empty box; a box that was cut off is not an answer."""
    for match in list(re.finditer(r"\\(?:boxed|fbox)\s*(?:\{|(?=\d))", text))[: -_LIMIT_BOXES - 1 : -1]:
        if not match[0].endswith("{"):
            return text[match.end()]
        depth = 1
        for position in range(match.end(), min(len(text), match.end() + 2000)):
            # An escaped brace is a set's and not a group's; those come in pairs too.
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                content = text[match.end() : position]
                if _SAYS.search(content):
                    return content
                break
    return None


_MARKER = re.compile(
    r"""
    (?:\b(?:so|therefore|thus|hence),?\s+)?
    (?:\b(?:the|my|our)\s+)?
    (?:\b(?:final|correct|right|best)\s+){0,2}
    (?: \banswers?\b | (?<=correct\s)(?:option|choice)\b | (?<=best\s)(?:option|choice)\b
      | (?<=right\s)(?:option|choice)\b )
    [*_`"]{0,3}
    (?:\s*\([^()\n]{0,40}\))?
    (?:\s+(?:to|for|of)\b[^.\n:=]{0,100}?)?
    \s*
    (?:(?:\b(?:is|are|was|equals|would\ be|should\ be|must\ be)\b|=|:)[*_\s]*)+
    | ^[\#*_ \t]*(?:the\s+)?(?:final\s+)?answer[*_ \t]*$
    | (?:\bthe\s+)?\b(?:final\s+)?answer\s*\Z
    | ^[ \t]*\#{4}(?!\#)
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)


# "So the answer is correct." looks back at an answer and gives none.
_VERDICT = re.compile(
    r"(?:indeed |also |not )?(?:correct|incorrect|wrong|reasonable|verified)", re.IGNORECASE
)


def _marked(text: str) -> tuple[str | None, str]:
    """The last marker's statement and the text from there; or None and the text, empty markers cut off."""
    end = len(text)
    for match in reversed(list(_MARKER.finditer(text))):
        following = text[match.end() : end]
        statement = _first_statement(following)
        if match[0].lstrip().startswith("####"):
            # GSM8K's mark is Markdown's fourth heading as well: only a bare answer counts.
            if statement and canonical(statement).kind is not Kind.PROSE:
                return statement, following
            continue
        if statement and not _VERDICT.fullmatch(statement):
            return statement, following
        end = match.start()  # an empty one, at the end of a text that was cut or before another marker
    return None, text[:end]


_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|st|vs|no|jr|sr|e\.g|i\.e|a\.m|p\.m|u\.s|approx|inc)|\b[A-Z])$",
    re.IGNORECASE,
)
_MATH = re.compile(
    r"\\\[(.{1,500}?)\\\]|\$\$(.{1,500}?)\$\$|\\\((.{1,500}?)\\\)|(?<![\\\d$])\$([^$\n]{1,500}?)\$(?![\d$])",
    re.DOTALL,
)


def _first_statement(text: str) -> str:
    """The text's first sentence, or the display formula that it begins with."""
    text = re.sub(r"^[\s*_#:`>]+", "", text)
    if display := re.match(r"\\\[(.+?)\\\]|\$\$(.+?)\$\$", text, re.DOTALL):
        return trim(display[0])
    line = text.partition("\n")[0]
    formulas = [match.span() for match in _MATH.finditer(line)]
    for stop in re.finditer(r"[.!?](?=[\"'*_`)\]]*(?:\s|$))|[。！？]", line):
        before = line[: stop.start()]
        if any(start < stop.start() < end - 1 for start, end in formulas):
            continue
        if stop[0] == "." and stop.end() < len(line) and (last := _ABBREVIATION.search(before)):
            # A capital is an initial or an option's letter ("B. Paris"), unless it stands for the answer's
            # last word ("is vitamin C. It …").
            is_word = len(last[0]) == 1 and before != last[0] and not re.search(r"\b[A-Z]\.\s*[A-Z]$", before)
            if not is_word:
                continue
        if stop[0] == "!" and re.search(r"\d$", before):
            continue  # a factorial
        line = line[: stop.end()]
        break
    return trim(line)


def _reason_cut(statement: str) -> str:
    """Drop a reason given in the same sentence: "B, because …"."""
    return trim(re.split(r",?\s+(?:because|since)\b", statement, maxsplit=1, flags=re.IGNORECASE)[0])


# ── reading a piece ──────────────────────────────────────────────────────────────────────────────

_TOKEN = re.compile(
    rf"(?<![^\W{CJK}])(?<![\^.{{\\])(?<!\d[:,])(?<!\^[-+])(?<!\^\{{[-+])(?<!\\sqrt )"
    rf"(?:[-+]\s?)?(?:{CURRENCY}\s*)?-?"
    r"(?:(?<=[$€£])\d{1,3}(?: \d{3})+(?!\d)"
    rf"|\d+\s*\\frac\s*(?:\d\d|\{{[^{{}}]*\}}\{{[^{{}}]*\}})|\\frac\s*(?:\d\d|\{{[^{{}}]*\}}\{{[^{{}}]*\}})"
    rf"|\d+ \d+/\d+|(?:{DIGITS}\s*(?:\\times|\\cdot|\*|x)\s*)?10\s*\^\s*(?:-?\d+|\{{\s*-?\d+\s*\}})"
    rf"|{DIGITS}(?:\s*/\s*{DIGITS}|[eE][-+]?\d+)?)"
    # whole, not a time, not an ordinal, not a factor: "72Mb" gives 72; "2nd" and "5x" give nothing
    r"(?!\d|[.,:]\d|\^(?!\\circ)|[a-zA-Z](?![a-zA-Z])|(?:st|nd|rd|th)\b)"
    r"(?:\s*%|\s+(?:thousand|million|billion|trillion|percent)\b)?",
    re.IGNORECASE,
)
# "Apollo 11", "World War 2": a name that ends in a number.
_NAME = re.compile(r"(?:[A-Z][\w.'-]*\s+){1,4}\d+")
# "2 hours and 30 minutes", "5 ft 3 in": one quantity that we can't add up; "5 to 7 days": a range.
_COMPOUND = re.compile(r"\S*\d\S*\s+(?:[a-z]+,?\s+(?:and\s+)?\d\S*\s+[a-z]+$|to\s+\S*\d)", re.IGNORECASE)


def _numbers(text: str) -> list[tuple[int, Answer]]:
    """Each number in running text with where it begins, in the flattened text."""
    found = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        start = match.start()
        # A sign between two things is an operator: "9 - 3", "9-3", but not "is -3".
        is_apart = text[start - 1 : start] in ("", " ") and token[1:2] != " "
        if token[0] in "-+" and not is_apart and re.search(r"[\w)\]}$]\s?$", text[max(0, start - 2) : start]):
            token = token[1:].strip()
        answer = canonical(token)
        if answer.kind is Kind.EXPRESSION and answer.value is not None and not _is_pair(text, match):
            answer = Answer(answer.text, Kind.NUMBER, str(answer.value), answer.value)  # 3,5 in running text
        if answer.kind is Kind.NUMBER:
            found.append((start, answer))
    return found


def _is_pair(text: str, match: re.Match[str]) -> bool:
    """Whether the text's match is all that stands in a pair of brackets, as in the point (3,5)."""
    before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    return before in ("(", "[", "{") and after in (")", "]", "}", "\\")


def _number_in(sentence: str, *, result: Answer | None = None) -> Answer | None:
    """The number that a sentence gives.

    That is the one after its last "=", else the one that repeats `result`, else the one that it begins
    with, else its last.
    """
    sentence = flatten(sentence)
    numbers = _numbers(sentence)
    if not numbers:
        return None
    equals = sentence.rfind("=")
    candidates = [answer for start, answer in numbers if start > equals >= 0]
    candidates += [answer for _, answer in numbers if result is not None and answer.value == result.value]
    candidates += [answer for start, answer in numbers[:1] if start == 0]
    return candidates[0] if candidates else numbers[-1][1]


def _read(piece: str, wants: _Wants, options: dict[str, Answer]) -> Answer:
    """What a marked piece gives: as it stands, or the one number of its sentence."""
    shown = trim(piece)
    answer = _as_option(canonical(shown), options)
    is_name = _NAME.fullmatch(shown) is not None
    is_compound = _COMPOUND.match(shown) is not None
    if answer.kind is Kind.PROSE and wants is not _Wants.OTHER and not is_name and not is_compound:
        found = _in_formula(shown) or _number_in(shown)
        if found is not None:
            return _as_option(found, options)
    return answer


def _as_option(answer: Answer, options: dict[str, Answer]) -> Answer:
    """The letter of the option that the answer quotes, if it quotes exactly one."""
    if answer.kind is Kind.CHOICE:
        return answer
    # Word for word ("25 meters" beside "25 feet", "Rr" beside "rr"); else a small letter; else by meaning.
    letters = [letter for letter, option in options.items() if option.text == answer.text]
    letters = letters or [letter for letter in options if letter == answer.text.upper()]
    letters = letters or [
        letter for letter, option in options.items() if (option.kind, option.key) == (answer.kind, answer.key)
    ]
    return Answer(answer.text, Kind.CHOICE, letters[0]) if len(letters) == 1 else answer


def _alone(line: str, wants: _Wants, is_all: bool) -> Answer | None:
    """The line's answer, if the line is nothing but an answer."""
    answer = canonical(line)
    if answer.kind is Kind.PROSE:
        return None
    if is_all or answer.kind is Kind.CHOICE:
        return answer
    return answer if wants is not _Wants.OTHER and answer.kind is not Kind.YES_NO else None


def _lettered(text: str, options: dict[str, Answer]) -> Answer | None:
    """The option that the text names, if it names just one (or, the question listing them, the last)."""
    if options:
        if first := re.match(r"\(?([A-E])[).:]\s", trim(text)):
            return Answer(first[0].strip(), Kind.CHOICE, first[1])
        found = re.findall(r"\(([A-E])\)|\b(?i:option|choice)\s+\(?([A-E])\b|(?:^|\s)([B-E])[).:]\s", text)
        letters = ["".join(groups) for groups in found]
    else:
        letters = list(dict.fromkeys(re.findall(r"\b(?i:option|choice)\s+\(?([A-E])\b", text)))
        if len(letters) != 1:
            return None
    return Answer(letters[-1], Kind.CHOICE, letters[-1]) if letters else None


_WORKED = re.compile(
    r"=|[$€£]|\b(?:so|therefore|thus|hence|total|altogether|in all|left|remains?|remaining|each|per|"
    r"there are|there is|gives|makes?|equals?|costs?|needs?)\b"
    r"|一共|共有|总共|總共|所以|因此|答案|合計|全部で|よって|したがって|答え|따라서|모두|정답|답은",
    re.IGNORECASE,
)


def _is_worked(text: str, wants: _Wants) -> bool:
    """Whether a number in the text's last words is what was asked for."""
    match wants:
        case _Wants.QUANTITY:
            return True
        case _Wants.UNKNOWN:
            return _WORKED.search(text) is not None or len(_DIGIT_STRING.findall(text)) >= 3
        case _Wants.UNCLEAR:
            return re.search(r"=\s*[$€£]?\s*-?\d", text) is not None
        case _Wants.OTHER:
            return False


def _in_formula(sentence: str) -> Answer | None:
    """What the sentence's last formula gives, unless a number follows the formula."""
    formulas = [
        match
        for match in _MATH.finditer(sentence)
        if re.search(r"\d|\\[a-zA-Z]|=", "".join(match.groups("")))
    ]
    if not formulas:
        return None
    last = formulas[-1]
    if _numbers(flatten(sentence[last.end() :])):
        return None
    content = "".join(last.groups(""))
    answer = canonical(content.rpartition("=")[2] if content.count("=") else content)
    return answer if answer.kind in (Kind.NUMBER, Kind.EXPRESSION) else None


def _conclusion(text: str) -> Answer | None:
    """The number or formula of the last sentence that has one.

    A conclusion often repeats the last calculation's result among other numbers ("So 12 muffins need 132
    spoons", "132 spoons are enough for 12 muffins"): then it is that one.
    """
    sentences = re.split(r"(?<=[.!?])\s+|(?<=[。！？])|\n+", text)
    for index in range(len(sentences) - 1, -1, -1):
        if not re.search(r"\d|\\|=|[^\x00-\x7f]", sentences[index]):
            continue
        earlier = next((line for line in reversed(sentences[:index]) if "=" in line), None)
        result = _number_in(earlier) if earlier else None
        if answer := _in_formula(sentences[index]) or _number_in(sentences[index], result=result):
            return answer
        if re.search(r"\d[.,]\d", sentences[index]):
            return None  # a number or a list that can't be read; an earlier sentence's is not the answer
    return None

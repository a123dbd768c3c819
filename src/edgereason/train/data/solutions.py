r"""What a teacher said becomes a trace: its words are the thinking, its answer is said as a forced end is.

::

    "… so it is $12 + 6 = 18$.     │  thinking: "… so it is $12 + 6 = 18$.
     The total is \boxed{18}."     │             The total is 18."
                                   │  answer:   "The final answer is 18."

Nothing is added to the thinking and nothing of it is reworded: boxes are taken off, and last lines that hold
nothing but the answer are left out, since the answer follows. A teacher that thinks between tags keeps what
stands there.

**The rule.** Of a question's right samples (ended by themselves, graded right, no longer than the limit, no
duplicates) at most `keep` become traces: those nearest in length to the median of all of them, ties by the
number of the sample. That leaves out guesses and rambling alike, and prefers no length of its own.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from edgereason.core.answers import extract, grade
from edgereason.core.chat import ANSWER_PREFIX, CLOSING_TAG, split_thinking
from edgereason.core.types import Message, Stop
from edgereason.records.journal import JournalRow
from edgereason.train.data.decontaminate import normalised
from edgereason.train.data.questions import Question
from edgereason.train.data.traces import Drop, Lengths, TraceRow, trace_or_drop, without_opening


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow(JournalRow):
    """One solution.

    Attributes:
        id: of the question; `number` tells its samples apart, from 0.
        question_sha256: of the question's text and right answer.
        text: all that the teacher said.
        num_tokens: that it spent, in its own vocabulary.
    """

    id: str
    number: int
    question_sha256: str
    seed: int
    text: str
    num_tokens: int
    stop: Stop

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the row in its run."""
        return self.id, self.number


RULE: Final = (
    "of a question's right samples that ended by themselves, fit and are no duplicates, those nearest in "
    "length to the median of these, ties by the number of the sample"
)
_BOX: Final = re.compile(r"\\(?:boxed|fbox)\s*\{")
_FENCE: Final = "```"
_OFF, _ON = "\ue000", "\ue001"
_ALONE: Final = re.compile(
    rf"(?:\\\[|\\\(|\$\$?)\s*{_OFF}([^\\^_{{}}{_ON}]*){_ON}(\s*[.,])?\s*(?:\\\]|\\\)|\$\$?)"
)
"""A box with plain content that is all there is between the delimiters of a formula."""
_HEADING: Final = re.compile(r"^(?:the )?(?:final )?answer(?: is)?(?: |$)")


def num_steps(solution: str) -> int:
    """Lines of a GSM8K solution, without the one that repeats the answer."""
    return sum(bool(line.strip()) and not line.startswith("####") for line in solution.splitlines())


def choose(
    question: Question,
    samples: Sequence[SampleRow],
    lengths: Lengths,
    *,
    max_tokens: int,
    keep: int,
    counts: Counter[str],
) -> list[TraceRow]:
    """A question's traces, by the rule.

    Args:
        question: with the right answer.
        samples: of the question, by number.
        lengths: counts tokens.
        max_tokens: longest trace, as the budget counts.
        keep: most traces.
        counts: gets what became of the samples added.
    """
    right: list[TraceRow] = []
    said: set[str] = set()
    for sample in samples:
        trace: TraceRow | Drop = Drop.CUT
        if sample.stop is Stop.NATURAL:
            trace = solution_trace(question, sample.number, sample.text)
        if isinstance(trace, TraceRow):
            counts["right"] += 1
            trace = _fitting(trace, lengths, max_tokens)
        if isinstance(trace, TraceRow):
            text = normalised(trace.thinking)
            if text in said:
                trace = Drop.DUPLICATE
            said.add(text)
        if isinstance(trace, TraceRow):
            right.append(trace)
        else:
            counts[trace.value] += 1
    kept = nearest_the_median(right, keep)
    counts["samples"] += len(samples)
    counts["not_chosen"] += len(right) - len(kept)
    counts["traces"] += len(kept)
    counts["questions_with_traces"] += bool(kept)
    return kept


def nearest_the_median(traces: Sequence[TraceRow], keep: int) -> list[TraceRow]:
    """At most `keep` traces, those whose length is nearest to the median of all; ties by order."""
    lengths = [trace.num_tokens or 0 for trace in traces]
    if not lengths:
        return []
    median = statistics.median(lengths)
    order = sorted(range(len(traces)), key=lambda i: (abs(lengths[i] - median), i))
    return [traces[i] for i in sorted(order[:keep])]


def solution_trace(question: Question, number: int, text: str) -> TraceRow | Drop:
    """The trace of a solution that ended by itself.

    Args:
        question: with the right answer.
        number: of the sample, for the id.
        text: what the teacher said.

    Returns:
        The trace, its tokens not counted; or why there is none.
    """
    thinking, said = text, text
    if CLOSING_TAG in text:
        thinking, closed = split_thinking(without_opening(text))
        said = closed or ""
    answer = extract(said, question=question.text)
    if answer is None:
        return Drop.NO_ANSWER
    if not grade(answer, question.reference):
        return Drop.WRONG
    if _FENCE in thinking:
        return Drop.CODE
    statement = f"{ANSWER_PREFIX}{' '.join(answer.text.split())}."
    if not grade(extract(statement, question=question.text), question.reference):
        return Drop.UNSTATED
    return trace_or_drop(
        f"{question.id}/{number}",
        without_bare_end(without_boxes(thinking), answer.text),
        statement,
        messages=(Message(role="user", content=question.text),),
        source=question.source,
        reference=question.reference,
    )


def without_boxes(text: str) -> str:
    r"""The text as one would write it without boxes: ``\[\boxed{18}\]`` and ``$\boxed{18}$`` become 18."""
    parts, end = [], 0
    while match := _BOX.search(text, end):
        close = _closing_brace(text, match.end())
        if close is None:
            break
        content = re.sub(r"\\([$%])", r"\1", text[match.end() : close].strip())
        parts += [text[end : match.start()], f"{_OFF}{content}{_ON}"]
        end = close + 1
    marked = "".join(parts) + text[end:]
    return _ALONE.sub(r"\1\2", marked).replace(_OFF, "").replace(_ON, "")


def without_bare_end(text: str, answer: str) -> str:
    """The text without last lines that give the answer and nothing else, or announce it."""
    bare = ("", normalised(answer))
    lines = text.split("\n")
    while lines and _HEADING.sub("", normalised(lines[-1]), count=1) in bare:
        lines.pop()
    return "\n".join(lines).strip()


def _closing_brace(text: str, start: int) -> int | None:
    """Where the group that is open at `start` ends; escaped braces are a set's and come in pairs."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return None


def _fitting(trace: TraceRow, lengths: Lengths, max_tokens: int) -> TraceRow | Drop:
    num_tokens = lengths.budgeted(trace)
    if num_tokens > max_tokens or not lengths.fits(trace, num_tokens):
        return Drop.TOO_LONG
    return replace(trace, num_tokens=num_tokens)

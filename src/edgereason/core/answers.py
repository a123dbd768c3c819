"""Answers compared: the one place where vote, reward and benchmark decide what is the same and right.

Owns sameness (`same`), its classes (`classes`) and correctness (`grade`), and hands on `extract`,
`canonical`, `Answer` and `Kind` from the two modules below it, so that callers need this one only::

    answer_forms ── answer_extraction ──┐
         │                              ├── answers
         └────────── answer_math ───────┘

It knows neither questions nor scores, nor who voted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from edgereason.core.answer_extraction import extract
from edgereason.core.answer_forms import Answer, Kind, canonical
from edgereason.core.answer_math import are_equal, comparison_s, is_known

__all__ = ["Answer", "Kind", "MayCompare", "canonical", "classes", "extract", "grade", "read_trace", "same"]


MayCompare = Callable[[float], bool]
"""Asked before work that may take so many seconds: whether there is time for it."""


def same(a: Answer, b: Answer, may_compare: MayCompare | None = None) -> bool:
    """Whether two answers are one answer. Symmetric.

    Numbers are the same by exact value; choices, yes/no and prose by key. Only an expression is ever put
    to math-verify, against an expression or a number. It is no equivalence there: an ``x = 5`` is the same
    as 5, and so is a ``y = 5``, and they are not the same as each other. `classes` makes a partition of it.

    Args:
        a: an answer.
        b: another.
        may_compare: asked before math-verify has to work; where it says no, the two are not the same.
    """
    if a.kind is b.kind and a.key == b.key:
        return True
    if {a.kind, b.kind} == {Kind.EXPRESSION, Kind.NUMBER} and a.value is not None and b.value is not None:
        return a.value == b.value
    if Kind.EXPRESSION not in (a.kind, b.kind):
        return False
    left, right = _latex(a), _latex(b)
    if left is None or right is None:
        return False
    # "z = 2^{4950}" names the formula beside it; that costs no comparison, and some are too large for one.
    if left == _NAMED.sub("", right) or right == _NAMED.sub("", left):
        return True
    if may_compare is not None and not (is_known(left, right) or may_compare(comparison_s())):
        return False
    return are_equal(left, right)


_NAMED = re.compile(r"^[a-zA-Z]=")


def _latex(answer: Answer) -> str | None:
    if answer.kind is Kind.PROSE and re.fullmatch(r"[a-zA-Z]{1,3}", answer.text):
        return answer.text  # a product such as xy, which looks like a word where it stands alone
    if answer.kind is Kind.EXPRESSION:
        return answer.key.replace(",", ", ")  # math-verify would read 1,234 as one number
    if answer.value is None:
        return None
    # A fraction and not a decimal: math-verify rounds what it compares with a decimal.
    top, bottom = answer.value.as_integer_ratio()
    return str(top) if bottom == 1 else rf"{'-' if top < 0 else ''}\frac{{{abs(top)}}}{{{bottom}}}"


def classes(answers: Sequence[Answer | None], may_compare: MayCompare | None = None) -> list[int | None]:
    """Number the answers by what they say: equal numbers are one class of `same` answers.

    Invariants, on which exact early stopping of votes stands:

    * **Prefix-stable**: ``classes(answers[:k]) == classes(answers)[:k]``. An answer that comes later joins
      one class or opens one; it never merges two, though it be the same as members of both. So a stream
      still running is worth one vote to one class, and never more.
    * **One anchor**: a class holds at most one number, choice, yes/no or prose answer (by kind and key),
      however many expressions. Two different numbers never meet through a chain of expressions.
    * Answers with equal kind and key are always in one class.
    * Where no expression is involved, or `same` is transitive on these answers, the partition does not
      depend on their order.

    Args:
        answers: in the order in which they came; None where a trace gave no answer.
        may_compare: as for `same`; formulas for which there was no time stay apart.

    Returns:
        For each answer its class, numbered from 0 in order of first appearance; None for None.
    """
    numbered: list[int | None] = []
    members: list[list[Answer]] = []  # per class, one answer of each kind and key
    known: dict[tuple[Kind, str], int] = {}
    anchored: set[int] = set()
    for answer in answers:
        if answer is None:
            numbered.append(None)
            continue
        identity = (answer.kind, answer.key)
        if identity not in known:
            is_anchor = answer.kind is not Kind.EXPRESSION
            joined = next(
                (
                    index
                    for index, others in enumerate(members)
                    if not (is_anchor and index in anchored)
                    and any(same(answer, other, may_compare) for other in others)
                ),
                len(members),
            )
            if joined == len(members):
                members.append([])
            members[joined].append(answer)
            if is_anchor:
                anchored.add(joined)
            known[identity] = joined
        numbered.append(known[identity])
    return numbered


def read_trace(text: str, thinking: str | None, question: str) -> Answer | None:
    """The answer of a trace: from what follows the closing, else from the thinking itself."""
    return extract(text, question=question) or extract(thinking or "", question=question)


def grade(prediction: str | Answer | None, reference: str) -> bool:
    """Whether a prediction gives the reference's answer.

    Args:
        prediction: a response, whose answer is extracted without knowledge of the question, or an answer
            extracted with it, or None if there was none (which is wrong).
        reference: the short answer that a data set gives, in plain text or LaTeX.
    """
    answer = extract(prediction) if isinstance(prediction, str) else prediction
    wanted = canonical(reference)
    if answer is not None and answer.kind is Kind.CHOICE and wanted.kind is not Kind.CHOICE:
        answer = canonical(answer.text)  # the question has options, and the data set gives one's words
    return answer is not None and same(answer, wanted)

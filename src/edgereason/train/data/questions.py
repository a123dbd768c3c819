"""Questions to make traces of, each with its right answer: from files, or made by reasoning-gym.

::

    gsm8k.jsonl: {question, answer}  ─┐
    MATH: {problem, solution}        ─┼→ Question
    reasoning-gym:chain_sum:200      ─┘

A row of another shape is an error that names file and line, and so is one with options to choose among, which
would be asked without them. A row without an answer is left out and counted, since nothing could be graded
against it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgereason.core.answers import extract
from edgereason.data.questions import (
    answer_field,
    make_questions,
    question_of,
    reference_of,
    without_thousands,
)
from edgereason.data.rows import Row, read_file
from edgereason.errors import ConfigError
from edgereason.train.data.decontaminate import Evaluations, normalised
from edgereason.train.data.traces import row_id

LEFT_OUT: Final = ("questions", "without_answer", "contaminated", "duplicate_questions")
"""What `usable` counts: all that there are, and why some are not used."""

_GYM: Final = "reasoning-gym:"
_GYM_QUESTIONS: Final = 100
GYM_APART: Final = 1_000_000
"""Between training's seeds of a generator. It counts up from its seed, so that neighbours have nearly all
questions in common; the first million is for evaluations."""
_OPTIONS: Final = ("choices", "options", "Incorrect Answer 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with its right answer; `place` is where it stands, for messages."""

    id: str
    text: str
    reference: str
    source: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Questions of one source.

    Attributes:
        entry: what the record says of the source.
        questions: those that have an answer.
        num_without_answer: those that have none, and so could not be graded.
    """

    entry: Mapping[str, Any]
    questions: tuple[Question, ...]
    num_without_answer: int


def read_questions(source: str, *, limit: int | None = None, seed: int = 0) -> Questions:
    """Questions of a local file, or made by a generator of reasoning-gym.

    Args:
        source: a path, or ``reasoning-gym:NAME`` or ``reasoning-gym:NAME:COUNT`` (100 by default).
        limit: only the first so many.
        seed: of the generator; makes other questions than an evaluation's of a seed below a million, but for
            those that are short enough to come again by chance.

    Raises:
        ConfigError: it can't be read or made, or a row has no question, or options.
    """
    if source.startswith(_GYM):
        return _from_gym(source.removeprefix(_GYM), limit, seed)
    rows = read_file(Path(source))
    entry = {"name": rows.name, "sha256": rows.sha256, "rows": len(rows.rows), "limit": limit}
    found = [answered(row) for row in rows.rows[:limit]]
    questions = tuple(question for question in found if question is not None)
    return Questions(entry=entry, questions=questions, num_without_answer=len(found) - len(questions))


def answered(row: Row) -> Question | None:
    """The question of a row, with its right answer; None if it has none.

    Raises:
        ConfigError: the row has no question, or options to choose among.
    """
    reference = _reference(row)
    if reference is None:
        return None
    return Question(
        id=row_id(row), text=question_of(row), reference=reference, source=row.source, place=row.place
    )


def usable(
    sources: Sequence[Questions], against: Evaluations
) -> tuple[list[Question], dict[str, Counter[str]]]:
    """Questions that no evaluation asks, each once.

    Returns:
        The questions; and, by the name of their source, how many there were and why others were left out.
    """
    chosen: list[Question] = []
    counts: dict[str, Counter[str]] = {}
    said: set[str] = set()
    for source in sources:
        of_source = counts.setdefault(source.entry["name"], Counter(dict.fromkeys(LEFT_OUT, 0)))
        of_source["without_answer"] += source.num_without_answer
        of_source["questions"] += len(source.questions) + source.num_without_answer
        for question in source.questions:
            if against.know(question.text):
                of_source["contaminated"] += 1
            elif (text := normalised(question.text)) in said:
                of_source["duplicate_questions"] += 1
            else:
                said.add(text)
                chosen.append(question)
    return chosen, counts


def require_unique_ids(questions: Iterable[Question]) -> None:
    """Refuses two questions with one id.

    Raises:
        ConfigError: it names both places.
    """
    places: dict[str, str] = {}
    for question in questions:
        if question.id in places:
            raise ConfigError(
                f"{question.place}: id is {question.id!r}, as at {places[question.id]}; expected unique ids"
            )
        places[question.id] = question.place


def _reference(row: Row) -> str | None:
    """The right answer of a row in any of the forms of GSM8K and MATH."""
    if options := next((field for field in _OPTIONS if row.has(field)), None):
        row.fail(options, "are options, without which the question would be asked; expected an open question")
    field = answer_field(row)
    if field is None:  # MATH's own files: the solution boxes it
        answer = extract(row.text("solution")) if row.has("solution") else None
        if answer is None and "solution" not in row.values:
            row.fail("answer", f"is missing, and so is solution; fields here: {', '.join(row.values)}")
        return None if answer is None else answer.text
    return without_thousands(reference_of(row, field)) or None if row.has(field) else None


def _from_gym(spec: str, limit: int | None, seed: int) -> Questions:
    name, _, count_text = spec.partition(":")
    if count_text and not re.fullmatch(r"[1-9]\d*", count_text):
        raise ConfigError(f"{_GYM}{spec}: {count_text!r} is not a count; expected {_GYM}NAME:COUNT")
    count = min(int(count_text or _GYM_QUESTIONS), limit or 10**9)
    made = make_questions(name, size=count, seed=(seed + 1) * GYM_APART, called=f"{_GYM}{name}")
    questions = tuple(
        Question(
            id=f"{name}-{seed}-{index:05d}",
            text=entry["question"].strip(),
            reference=str(entry["answer"]),
            source=made.name,
            place=f"{made.name}, number {index}",
        )
        for index, entry in enumerate(made.entries, 1)
        if entry["answer"] is not None  # puzzles with many solutions name none
    )
    entry = {
        "name": made.name,
        "sha256": made.sha256,
        "version": made.version,
        "rows": count,
        "seed": seed,
    }
    return Questions(entry=entry, questions=questions, num_without_answer=count - len(questions))

"""Rows of the known data sets as items: open questions and questions with options.

::

    {problem, answer, unique_id}             ─┐
    {question, answer: "… #### 18"}           ├─ open_item ───→ Item, right if the vote's answer is the same
    {Body, Question, Answer}                 ─┘
    {question, choices: […], answer: 2 │ "C"} ─┐
    {question, choices: {text, label}, answerKey} ├─ choice_item → Item, right if that option was meant
    {Question, Correct Answer, Incorrect …}  ─┘

A schema is known by its fields, never by a file's name. `data.questions` reads questions and references, and
`core.answers` decides what is the same answer.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from edgereason.core.answer_forms import trim
from edgereason.core.answers import Kind, canonical, extract, grade
from edgereason.data.questions import answer_field, id_of, question_of, reference_of
from edgereason.data.rows import Row
from edgereason.evals.tasks.base import Item, Output

_IDS: Final = ("id", "unique_id", "task_id", "ID", "Record ID")
# As many as answers are read as: see `Kind.CHOICE`.
_LETTERS: Final = "ABCDE"
_GPQA_WRONG: Final = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


@dataclass(frozen=True, slots=True)
class OpenScore:
    """1 if the answer is the reference, else 0."""

    reference: str

    def __call__(self, output: Output) -> float:
        return float(output.answer is not None and grade(canonical(output.answer), self.reference))


@dataclass(frozen=True, slots=True)
class ChoiceScore:
    """1 if the answer is the letter, or states that option's text and no other's, else 0.

    Attributes:
        letter: the right option's.
        options: as asked, from A on.
    """

    letter: str
    options: tuple[str, ...]

    def __call__(self, output: Output) -> float:
        return float(output.answer is not None and self._meant(output.answer) == self.letter)

    def _meant(self, answer: str) -> str | None:
        """The letter of the option that the answer means, if it means one."""
        # Word for word first: to the vote "25 metres" and "25 kilometres" are one number. A letter alone is
        # the letter, even where an option's text is "B".
        text = trim(answer)
        stated = [letter for letter, option in self._lettered() if trim(option) == text]
        if len(stated) == 1 and len(text) > 1:
            return stated[0]
        # The options and not the whole question, which may itself speak of a "vitamin A. Which …".
        read = extract(answer, question=self.lines())
        return read.key if read is not None and read.kind is Kind.CHOICE else None

    def lines(self) -> str:
        """One line an option, so that what is on a line after its letter is that option."""
        return "\n".join(f"{letter}. {option}" for letter, option in self._lettered())

    def _lettered(self) -> list[tuple[str, str]]:
        return list(zip(_LETTERS, self.options, strict=False))


def open_item(task: str, row: Row) -> Item:
    """A question with a short answer of any form.

    Raises:
        ConfigError: a field is missing, empty or of the wrong type.
    """
    field = answer_field(row) or "answer"
    question, reference = question_of(row), reference_of(row, field)
    if not reference:
        row.fail(field, "ends with '####' and nothing after it; expected the answer there")
    return Item(id=item_id(task, row), question=question, reference=reference, score=OpenScore(reference))


def numeric_item(task: str, row: Row) -> Item:
    """A question whose answer is a number, as in GSM8K, SVAMP, AIME and AMC.

    Raises:
        ConfigError: as `open_item`, or the answer is not a number.
    """
    item = open_item(task, row)
    if canonical(item.reference).kind is not Kind.NUMBER:
        row.fail(
            answer_field(row) or "answer",
            f"is {item.reference[:40]!r}; expected a number, or a solution that ends with '#### ' and one",
        )
    return item


def choice_item(task: str, row: Row) -> Item:
    """A question with two to five options, asked for by letter.

    Raises:
        ConfigError: a field is missing, empty or of the wrong type, or no option has the answer's letter.
    """
    id_ = item_id(task, row)
    if "Correct Answer" in row.values:
        question, (options, right) = row.text("Question"), _gpqa(row, id_)
    else:
        question, (options, right) = row.text("question"), options_and_gold(row)
    lined = tuple(re.sub(r"\s*\n\s*", " ", option.strip()) for option in options)
    score = ChoiceScore(_LETTERS[right], lined)
    asked = f"{question.strip()}\n\n{score.lines()}\n\nAnswer with the letter of the right option."
    return Item(id=id_, question=asked, reference=score.letter, score=score)


def item_id(task: str, row: Row) -> str:
    """The row's own id, or one from its number: ``gsm8k-0017``.

    Raises:
        ConfigError: the id is neither a text nor a whole number.
    """
    field = id_field(row)
    return f"{task}-{row.number:04d}" if field is None else id_of(row, field)


def id_field(row: Row) -> str | None:
    """The field that holds the row's id, if there is one."""
    return next((field for field in _IDS if field in row.values), None)


def options_and_gold(row: Row) -> tuple[list[str], int]:
    """Options and the index of the right one, of MMLU's, ARC's or our own schema."""
    choices = row.value("choices")
    if isinstance(choices, dict):  # ARC: {text: […], label: ["A", …] or ["1", …]}
        inner = Row(row.source, row.number, {f"choices.{key}": value for key, value in choices.items()})
        options, labels = inner.texts("choices.text"), inner.texts("choices.label")
        if len(options) != len(labels) or len(set(labels)) != len(labels):
            row.fail("choices.label", f"is {labels} for {len(options)} options; expected one label each")
        field = "answerKey"
    else:
        options = row.texts("choices")
        labels, field = list(_LETTERS[: len(options)]), "answer"
    if not 2 <= len(options) <= len(_LETTERS):
        row.fail("choices", f"has {len(options)} options; expected 2 to {len(_LETTERS)}")
    answer = row.value(field)
    if field == "answer" and isinstance(answer, int) and not isinstance(answer, bool):  # MMLU: from 0
        if not 0 <= answer < len(options):
            row.fail(
                field, f"is {answer}; expected 0 to {len(options) - 1}, as there are {len(options)} options"
            )
        return options, answer
    label = row.text(field).strip()
    if label not in labels:
        row.fail(field, f"is {label!r}; expected one of {', '.join(labels)}, the options' labels")
    return options, labels.index(label)


def _gpqa(row: Row, id_: str) -> tuple[list[str], int]:
    """GPQA's four answers in an order that depends on the item's id and on their texts alone."""
    right = row.text("Correct Answer")
    options = [right, *(row.text(field) for field in _GPQA_WRONG)]
    options.sort(key=lambda option: hashlib.sha256(f"{id_}\n{option}".encode()).digest())
    return options, options.index(right)

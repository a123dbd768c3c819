"""Questions made by reasoning-gym's generators, scored by their own scorers.

Some of those scorers hand the answer to Python's or sympy's evaluator, and so run what a model wrote: a task
of theirs says so, as the code tasks do. Scores are the generator's own and may lie between 0 and 1.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any, Final

from edgereason.core.answers import Kind, canonical, grade
from edgereason.data.gym import GymQuestions, make_questions
from edgereason.evals.tasks.base import Item, Output

NUM_ITEMS: Final = 100
"""How many questions are made where nobody says how many."""

# Evaluating the entry's own answer is harmless.
_EVALUATES: Final = re.compile(r"\b(?:eval|exec|parse_expr|sympify)\((?!entry\[)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """Items of one generator.

    Attributes:
        made: the questions as the generator made them, with name, version and hash.
        items: one a question.
        runs_code: whether the generator's scorer evaluates what a model wrote.
    """

    made: GymQuestions
    items: tuple[Item, ...]
    runs_code: bool


@dataclass(frozen=True, slots=True)
class GymScore:
    """What the generator's own scorer gives for the answer.

    Attributes:
        dataset: the generator; has `score_answer`.
        entry: the question that it made, with its answer.
    """

    dataset: Any
    entry: dict[str, Any]

    def __call__(self, output: Output) -> float:
        answer, right = output.answer or output.text, self.entry["answer"]
        # The scorers compare characters, and the vote reads "292 legs" as 292: a number is passed bare.
        if (
            isinstance(right, str)
            and canonical(right).kind is Kind.NUMBER
            and grade(canonical(answer), right)
        ):
            answer = right
        try:
            return float(self.dataset.score_answer(answer=answer, entry=self.entry))
        # Some scorers raise on what they can't read, such as prime_factorization on words.
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            SyntaxError,
            TypeError,
            ValueError,
        ):
            return 0.0


def generate(generator: str, *, size: int, seed: int) -> Generated:
    """Make questions; the same size or more, and the same seed, begin with the same ones.

    Raises:
        ConfigError: the package is missing, or has no such generator, or it needs settings of its own.
    """
    made = make_questions(generator, size=size, seed=seed, called=f"gym:{generator}")
    return Generated(
        made=made,
        items=tuple(
            _item(generator, made.dataset, number, entry) for number, entry in enumerate(made.entries, 1)
        ),
        runs_code=_EVALUATES.search(inspect.getsource(type(made.dataset).score_answer)) is not None,
    )


def _item(generator: str, dataset: Any, number: int, entry: dict[str, Any]) -> Item:
    right = entry["answer"]
    return Item(
        id=f"{generator}-{number:04d}",
        question=entry["question"],
        # Puzzles with many solutions name none.
        reference=str(right) if right is not None else f"whatever {generator}'s scorer accepts",
        score=GymScore(dataset, entry),
    )

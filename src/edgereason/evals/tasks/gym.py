"""Questions made by reasoning-gym's generators, scored by their own scorers.

Some of those scorers hand the answer to Python's or sympy's evaluator, and so run what a model wrote: a task
of theirs says so, as the code tasks do. Scores are the generator's own and may lie between 0 and 1.
Knows that package; does not know data sets.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import inspect
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from edgereason.core.answers import Kind, canonical, grade
from edgereason.data.rows import import_optional
from edgereason.errors import ConfigError
from edgereason.evals.tasks.base import Item, Output

NUM_ITEMS: Final = 100
"""How many questions are made where nobody says how many."""

# Evaluating the entry's own answer is harmless.
_EVALUATES: Final = re.compile(r"\b(?:eval|exec|parse_expr|sympify)\((?!entry\[)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """Items of one generator.

    Attributes:
        name: ``reasoning-gym leg_counting``.
        sha256: of the questions and answers, in order.
        version: of the package.
        runs_code: whether its scorer evaluates what a model wrote.
    """

    name: str
    items: tuple[Item, ...]
    sha256: str
    version: str
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
    gym = import_optional("reasoning_gym", f"gym:{generator} makes its questions")
    names = sorted(import_optional("reasoning_gym.factory", f"gym:{generator} makes its questions").DATASETS)
    if generator not in names:
        near = difflib.get_close_matches(generator.lower(), names, n=3, cutoff=0.4)
        nearest = f"; the nearest are {', '.join(near)}" if near else f"; there are {', '.join(names)}"
        raise ConfigError(f"reasoning-gym has no generator {generator!r}{nearest}")
    try:
        dataset = gym.create_dataset(generator, size=size, seed=seed)
        entries = [dataset[index] for index in range(size)]
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(f"gym:{generator} can't be made with its default settings ({error})") from error
    return Generated(
        name=f"reasoning-gym {generator}",
        items=tuple(_item(generator, index, dataset, entry) for index, entry in enumerate(entries)),
        sha256=_sha256(entries),
        version=importlib.metadata.version("reasoning-gym"),
        runs_code=_EVALUATES.search(inspect.getsource(type(dataset).score_answer)) is not None,
    )


def _item(generator: str, index: int, dataset: Any, entry: dict[str, Any]) -> Item:
    right = entry["answer"]
    return Item(
        id=f"{generator}-{index + 1:04d}",
        question=entry["question"],
        # Puzzles with many solutions name none.
        reference=str(right) if right is not None else f"whatever {generator}'s scorer accepts",
        score=GymScore(dataset, entry),
    )


def _sha256(entries: list[dict[str, Any]]) -> str:
    said = json.dumps([[entry["question"], entry["answer"]] for entry in entries], ensure_ascii=False)
    return hashlib.sha256(said.encode()).hexdigest()

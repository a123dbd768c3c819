"""Sums with worked solutions, short and long: a task for the smallest model.

::

    57 + 87 - 70 =       steps       57 + 87 = 144
                                     144 - 70 = 74
                         sentences   I begin with 57 and add 87: 57 + 87 = 144. Then I take away 70: …
                         checked     … and back again: 74 + 70 = 144, and 144 - 87 = 57, as it should be.

The questions are those of reasoning-gym's chain_sum, which `edgereason eval gym:chain_sum` asks, too. It
counts up from its seed, so that neighbouring seeds have nearly all questions in common: ours lie a million
apart, and the first million is the evaluation's. The three ways differ in length, so that there is something
that a budget can decide. The same arguments give the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from edgereason.data.questions import make_questions
from edgereason.train.data.questions import GYM_APART

Step = tuple[int, str, int, int]
"""Before, the sign, the number, and behind."""


def steps_of(expression: str) -> list[Step]:
    """The steps of a chain such as ``57 + 87 - 70``, from left to right."""
    first, *rest = expression.split()
    steps: list[Step] = []
    value = int(first)
    for sign, text in zip(rest[::2], rest[1::2], strict=True):
        number = int(text)
        after = value + number if sign == "+" else value - number
        steps.append((value, sign, number, after))
        value = after
    return steps


def as_steps(steps: list[Step]) -> str:
    """A line a step."""
    return "\n".join(f"{before} {sign} {number} = {after}" for before, sign, number, after in steps)


def as_sentences(steps: list[Step]) -> str:
    """The same, said."""
    verbs = {"+": "add", "-": "take away"}
    said = [
        f"{verbs[sign]} {number}: {before} {sign} {number} = {after}."
        for before, sign, number, after in steps
    ]
    return f"I begin with {steps[0][0]} and " + " Then I ".join(said)


def as_checked(steps: list[Step]) -> str:
    """The same, and back again."""
    undone = {"+": "-", "-": "+"}
    back = [f"{after} {undone[sign]} {number} = {before}" for before, sign, number, after in reversed(steps)]
    return f"{as_sentences(steps)}\nNow back again: {', and '.join(back)}, as it should be."


def rows(count: int, seed: int, most_terms: int | None = None) -> Iterator[dict[str, Any]]:
    """Questions with a solution in one of the three ways; of the first `count`, those that are no longer.

    Args:
        count: of questions that are made.
        seed: 1 or more.
        most_terms: of a sum; longer ones are left out.

    Raises:
        ConfigError: reasoning-gym is not installed.
    """
    random_way = random.Random(seed)
    first = seed * GYM_APART
    made = make_questions("chain_sum", size=count, seed=first, called="worked sums")
    for number, entry in enumerate(made.entries):
        steps = steps_of(entry["metadata"]["expression"])
        if str(steps[-1][3]) != entry["answer"]:
            raise ValueError(f"{entry['question']!r}: {steps[-1][3]} here, {entry['answer']} there")
        way = random_way.choice((as_steps, as_sentences, as_checked))
        if most_terms is not None and len(steps) >= most_terms:
            continue
        yield {
            "id": f"chain-sum-{seed}-{number:05d}",
            "question": entry["question"],
            "answer": entry["answer"],
            "solution": f"{way(steps)}\n#### {entry['answer']}",
            "source": "reasoning-gym chain_sum",
        }

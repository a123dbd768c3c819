"""What a task is: items to ask, and a way to score what comes back.

::

    rows of a data set ─ Task.items ─→ Item (question, reference) ─ asked ─→ Output ─ Item.score ─→ 0 … 1
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What one trace said, as scorers see it.

    Attributes:
        text: what follows the closing; on the chat route, everything.
        answer: what the vote reads as its answer; None if nothing can be read as one.
    """

    text: str
    answer: str | None


Score = Callable[[Output], float]
"""How right an output is, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question of a task.

    Attributes:
        id: unique in its task, and the same from run to run.
        question: the user's message, options and instructions included.
        reference: what counts as right, for the record.
        score: scores an output; pure, except for code tasks, which run it.
    """

    id: str
    question: str
    reference: str
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How the paper samples a task; what a caller says himself goes before it.

    Source: paper section 2, evaluation: temperature 0.6, top-p 0.95; AIME and AMC 10 runs, GPQA 4.
    """

    repeats: int = 1
    temperature: float = 0.6
    top_p: float = 0.95

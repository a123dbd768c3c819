"""The table of tasks, and a task by its name with its items: from the hub, a local file or a generator.

::

    "gsm8k"            ─ TASKS ─→ rows ─→ every row an item ─→ the first `limit` ─→ Task
    "gym:leg_counting" ─ reasoning-gym ──────────────────────────────────────────→ Task

Every row is checked before the first question is asked. A local file is read by the same functions as the
hub's data set.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgereason.config import nearest
from edgereason.core.answers import Kind, canonical, grade
from edgereason.data.questions import GymQuestions, make_questions
from edgereason.data.rows import Row, Rows, read_file, read_hub
from edgereason.errors import ConfigError
from edgereason.evals.tasks.base import Item, Output, Preset
from edgereason.evals.tasks.code import humaneval_item, mbpp_item
from edgereason.evals.tasks.questions import choice_item, id_field, numeric_item, open_item

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
        # A reading trims what a scorer wants: the rows of a grid, a '#', a final period.
        return (
            1.0 if any(self._score(said) == 1 for said in _statements(output.text)) else self._score(answer)
        )

    def _score(self, answer: str) -> float:
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


_SAID: Final = re.compile(r"\banswer[*_]*\s*(?:is|:)[*_:]*[ \t]*|^####(?!#)", re.IGNORECASE | re.MULTILINE)
_WRAPPED: Final = re.compile(
    r"\s*(?:```[^\n]*\n(.*?)\n[ \t]*```|\*\*([^*]+)\*\*|\\boxed\{([^{}]*)\})\s*",
    re.DOTALL,
)


def _statements(text: str) -> list[str]:
    """What a response gives as its answer, whole: all behind its last marker, or all there is."""
    marks = list(_SAID.finditer(text))
    said = text[marks[-1].end() :] if marks else text
    found: list[str] = []
    for spelling in (said, said.strip(), said.strip().removesuffix(".")):
        wrapped = _WRAPPED.fullmatch(spelling)
        inner = [group for group in wrapped.groups() if group is not None] if wrapped else []
        found += [spelling.strip("\n"), *inner, *(piece.strip() for piece in inner)]
    return list(dict.fromkeys(piece for piece in found if piece.strip()))


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


_GYM: Final = "gym:"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTask:
    """One task that has a name.

    Attributes:
        dataset: on the Hugging Face hub.
        config: its subset; None where there is only one.
        split: the rows that count.
        item: makes an item of a row; the task's name goes into ids that a row lacks.
        preset: how it is sampled.
        runs_code: whether scoring runs what a model wrote.
        counts: whether a row belongs to the split; a local file may hold the others too.
    """

    dataset: str
    config: str | None = None
    split: str = "test"
    item: Callable[[str, Row], Item]
    preset: Preset = field(default_factory=Preset)
    runs_code: bool = False
    counts: Callable[[Row], bool] = lambda _row: True


def _is_mbpp_test(row: Row) -> bool:
    """MBPP's one file holds all splits: 1–10 are prompts, 11–510 the test, the rest for training."""
    if "split" in row.values:
        return row.text("split") == "test"
    number = row.values.get("task_id")
    return not isinstance(number, int) or 11 <= number <= 510


_CONTEST: Final = Preset(repeats=10)

TASKS: Final[dict[str, KnownTask]] = {
    "gsm8k": KnownTask(dataset="openai/gsm8k", config="main", item=numeric_item),
    "math500": KnownTask(dataset="HuggingFaceH4/MATH-500", item=open_item),
    "aime24": KnownTask(dataset="HuggingFaceH4/aime_2024", split="train", item=numeric_item, preset=_CONTEST),
    "aime25": KnownTask(dataset="math-ai/aime25", item=numeric_item, preset=_CONTEST),
    "amc23": KnownTask(dataset="math-ai/amc23", item=numeric_item, preset=_CONTEST),
    # SVAMP is one set of 1,000; this copy cuts it in two.
    "svamp": KnownTask(dataset="ChilleD/SVAMP", split="train+test", item=numeric_item),
    "gpqa-diamond": KnownTask(
        dataset="Idavidrein/gpqa",
        config="gpqa_diamond",
        split="train",
        item=choice_item,
        preset=Preset(repeats=4),
    ),
    "mmlu": KnownTask(dataset="cais/mmlu", config="all", item=choice_item),
    "arc-challenge": KnownTask(dataset="allenai/ai2_arc", config="ARC-Challenge", item=choice_item),
    "arc-easy": KnownTask(dataset="allenai/ai2_arc", config="ARC-Easy", item=choice_item),
    "humaneval": KnownTask(
        dataset="openai/openai_humaneval", item=lambda _task, row: humaneval_item(row), runs_code=True
    ),
    "mbpp": KnownTask(
        dataset="google-research-datasets/mbpp",
        config="full",
        item=lambda _task, row: mbpp_item(row),
        runs_code=True,
        counts=_is_mbpp_test,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task that is ready to be asked.

    Attributes:
        name: as it was called for.
        items: at least one, each with its own id.
        preset: how the paper samples it.
        data_name: file, hub data set or generator that the items came from.
        data_sha256: of the file, or of a generator's questions and answers; None for the hub's.
        data_revision: the hub's commit, or the generator's version; None for a file.
        runs_code: whether scoring runs what a model wrote.
    """

    name: str
    items: tuple[Item, ...]
    preset: Preset
    data_name: str
    data_sha256: str | None
    data_revision: str | None
    runs_code: bool


def load_task(name: str, *, data: Path | None = None, limit: int | None = None, seed: int = 0) -> Task:
    """Read a task's data and make items of it.

    Args:
        name: one of `TASKS`, or ``gym:`` and the name of a reasoning-gym generator.
        data: a local .jsonl, .jsonl.gz or .parquet file; without it the hub is asked.
        limit: number of items, >= 1, from the first; all of them without it, 100 of a generator.
        seed: a generator's; data sets don't use it.

    Raises:
        ConfigError: there is no such task, its data can't be had, or any row of it is broken.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"the limit is {limit} items; expected at least 1")
    if name.startswith(_GYM):
        return _gym_task(name, data, limit, seed)
    known = TASKS.get(name)
    if known is None:
        raise ConfigError(f"there is no task {name!r}: {nearest(name, [*TASKS, f'{_GYM}NAME'])}")
    rows = (
        read_hub(known.dataset, config=known.config, split=known.split) if data is None else read_file(data)
    )
    return Task(
        name=name,
        items=_items(name, known, rows)[:limit],
        preset=known.preset,
        data_name=rows.name,
        data_sha256=rows.sha256,
        data_revision=rows.revision,
        runs_code=known.runs_code,
    )


def _items(name: str, known: KnownTask, rows: Rows) -> tuple[Item, ...]:
    items: list[Item] = []
    firsts: dict[str, Row] = {}
    for row in rows.rows:
        item = known.item(name, row)
        if (first := firsts.setdefault(item.id, row)) is not row:
            row.fail(id_field(row) or "id", f"is {item.id!r}, as in {first.place}; expected every id once")
        if known.counts(row):
            items.append(item)
    if not items:
        raise ConfigError(f"{rows.name} holds no row of the split {known.split!r} of {name}")
    return tuple(items)


def _gym_task(name: str, data: Path | None, limit: int | None, seed: int) -> Task:
    if data is not None:
        raise ConfigError(f"{name} makes its own questions and takes no data; got {data.name}: leave it out")
    generated = generate(name.removeprefix(_GYM), size=limit or NUM_ITEMS, seed=seed)
    if generated.runs_code:
        raise ConfigError(
            f"the scorer of {name} evaluates what the model wrote inside this process, without limits: "
            "choose another generator"
        )
    return Task(
        name=name,
        items=generated.items,
        preset=Preset(),
        data_name=generated.made.name,
        data_sha256=generated.made.sha256,
        data_revision=generated.made.version,
        runs_code=False,
    )

"""The table of known tasks: where each one's data is, how a row becomes an item, how the paper samples it.

A local file is read by the same functions as the hub's data set. Knows names and presets; reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from edgereason.data.rows import Row
from edgereason.evals.tasks.base import Item, Preset
from edgereason.evals.tasks.code import humaneval_item, mbpp_item
from edgereason.evals.tasks.questions import choice_item, numeric_item, open_item


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

r"""Rows of the known data sets as texts to be scored: a context, and what may come after it.

::

    ARC, PIQA    Question: Which …?\nAnswer:            │ Gravity.  │ Heat. …     whichever is likeliest
    MMLU         … about SUBJECT.\n\n…A. …\nAnswer:     │ A │ B │ C │ D
    HellaSwag    Cutting grass: A man … He              │ starts the mower. │ …
    WinoGrande   The cup didn't fit because the cup     │ was too big.          same ending, other contexts
                 The cup didn't fit because the case    │ was too big.
    LAMBADA      …and at last she opened the            │ door                  the one word, drawn greedily?

Texts are those of lm-evaluation-harness 0.4, by its task files. Where a figure may differ from its:

* No examples before the question. The harness's own default too, but leaderboards and papers often give five
  for MMLU and 25 for ARC.
* `acc_norm` divides by UTF-8 bytes, as the harness's paper says (arXiv:2405.14782); its code counts
  characters, the same for ASCII. Where all options are equally long, as MMLU's and WinoGrande's, it is `acc`.
* How a text becomes tokens: see `evals.loglik`.

Knows fields and wordings; does not know tokens, engines or what is likely.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgereason.config import nearest
from edgereason.errors import ConfigError
from edgereason.evals.tasks.questions import id_field, item_id, options_and_gold
from edgereason.hub.rows import Row, read_file, read_hub

_LETTERS: Final = "ABCDE"


@dataclass(frozen=True, slots=True)
class Option:
    """A text to be scored, and what stands before it.

    Attributes:
        context: may be the same for all options of an item, which is then encoded once.
        text: what is scored; its leading space, if it has one, counts as part of it.
    """

    context: str
    text: str

    @property
    def num_bytes(self) -> int:
        """Length in UTF-8, the leading space not counted."""
        return len(self.text.removeprefix(" ").encode())


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """One question by likelihood: which option is the likeliest, or, of a single one, is it drawn greedily.

    Attributes:
        id: unique in its task, and the same from run to run.
        options: at least one.
        gold: index of the right one.
    """

    id: str
    options: tuple[Option, ...]
    gold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoglikTask:
    """One task that has a name: where its data is on the hub, and how a row becomes an item."""

    dataset: str
    config: str | None = None
    split: str
    item: Callable[[str, Row], ChoiceItem]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedLoglikTask:
    """A task that is ready to be scored; `data_…` as for `tasks.catalog.Task`."""

    name: str
    items: tuple[ChoiceItem, ...]
    data_name: str
    data_sha256: str | None
    data_revision: str | None


def load_loglik_task(name: str, *, data: Path | None = None, limit: int | None = None) -> LoadedLoglikTask:
    """Reads a task's data and makes items of it.

    Args:
        name: one of `LOGLIK_TASKS`.
        data: a local .jsonl, .jsonl.gz or .parquet file; without it the hub is asked.
        limit: number of items, >= 1, from the first; all of them without it.

    Raises:
        ConfigError: there is no such task, its data can't be had, or any row of it is broken.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"the limit is {limit} items; expected at least 1")
    task = LOGLIK_TASKS.get(name)
    if task is None:
        raise ConfigError(f"there is no task {name!r} to score by likelihood: {nearest(name, LOGLIK_TASKS)}")
    rows = read_file(data) if data else read_hub(task.dataset, config=task.config, split=task.split)
    items: list[ChoiceItem] = []
    first_rows: dict[str, int] = {}
    for row in rows.rows:
        item = task.item(name, row)
        if (first := first_rows.setdefault(item.id, row.number)) != row.number:
            row.fail(id_field(row) or "id", f"is {item.id!r}, as in {first}; expected every id once")
        items.append(item)
    return LoadedLoglikTask(
        name=name,
        items=tuple(items[:limit]),
        data_name=rows.name,
        data_sha256=rows.sha256,
        data_revision=rows.revision,
    )


# ── items ────────────────────────────────────────────────────────────────────────────────────────


def arc_item(task: str, row: Row) -> ChoiceItem:
    """ARC: the options' texts after the question. ARC's schema, or {question, choices, answer}."""
    options, gold = options_and_gold(row)
    return _choices(item_id(task, row), f"Question: {row.text('question')}\nAnswer:", options, gold)


def mmlu_item(task: str, row: Row) -> ChoiceItem:
    """MMLU: the letters, after the question and its lettered options; says the subject if the row does."""
    options, gold = options_and_gold(row)
    letters = _LETTERS[: len(options)]
    subject = f" about {row.text('subject').replace('_', ' ').strip()}" if row.has("subject") else ""
    lines = "".join(f"{letter}. {option}\n" for letter, option in zip(letters, options, strict=True))
    context = (
        f"The following are multiple choice questions (with answers){subject}.\n\n"
        f"{row.text('question').strip()}\n{lines}Answer:"
    )
    return _choices(item_id(task, row), context, list(letters), gold)


def hellaswag_item(task: str, row: Row) -> ChoiceItem:
    """HellaSwag: endings after the activity and the scene, WikiHow's marks cleaned away."""
    start = row.text("ctx_b").capitalize() if row.has("ctx_b") else ""
    context = _without_marks(f"{row.text('activity_label')}: {row.text('ctx_a')} {start}")
    endings = [_without_marks(ending) for ending in row.texts("endings")]
    for index, ending in enumerate(endings):
        if not ending:
            row.fail(f"endings[{index}]", "is nothing but marks in brackets; expected a text")
    return _choices(item_id(task, row), context, endings, _index(row, "label", range(len(endings))))


def piqa_item(task: str, row: Row) -> ChoiceItem:
    """PIQA: two ways to reach a goal."""
    ways = [row.text("sol1"), row.text("sol2")]
    context = f"Question: {row.text('goal')}\nAnswer:"
    return _choices(item_id(task, row), context, ways, _index(row, "label", range(2)))


def winogrande_item(task: str, row: Row) -> ChoiceItem:
    """WinoGrande: how likely the sentence's ending is after either filling of its blank.

    Source: "partial evaluation" of Trinh and Le 2018, arXiv:1806.02847. Deviation: none.
    """
    before, blank, after = row.text("sentence").partition("_")
    if not blank or not after.strip():
        row.fail("sentence", "has no blank (_) with an ending behind it; expected one")
    options = tuple(Option(before + row.text(field), f" {after.strip()}") for field in ("option1", "option2"))
    return ChoiceItem(item_id(task, row), options, _index(row, "answer", range(1, 3)))


def lambada_item(task: str, row: Row) -> ChoiceItem:
    """LAMBADA: the last word of a passage."""
    context, space, word = row.text("text").strip().rpartition(" ")
    if not space:
        row.fail("text", "is one word; expected a passage and its last word")
    return ChoiceItem(item_id(task, row), (Option(context, f" {word}"),), 0)


LOGLIK_TASKS: Final[dict[str, LoglikTask]] = {
    "arc-challenge": LoglikTask(
        dataset="allenai/ai2_arc", config="ARC-Challenge", split="test", item=arc_item
    ),
    "arc-easy": LoglikTask(dataset="allenai/ai2_arc", config="ARC-Easy", split="test", item=arc_item),
    "mmlu": LoglikTask(dataset="cais/mmlu", config="all", split="test", item=mmlu_item),
    "hellaswag": LoglikTask(dataset="Rowan/hellaswag", split="validation", item=hellaswag_item),
    # A copy of ybisk/piqa, which is a loading script that `datasets` 4 no longer runs.
    "piqa": LoglikTask(dataset="baber/piqa", split="validation", item=piqa_item),
    "winogrande": LoglikTask(
        dataset="allenai/winogrande", config="winogrande_xl", split="validation", item=winogrande_item
    ),
    "lambada": LoglikTask(
        dataset="EleutherAI/lambada_openai", config="default", split="test", item=lambada_item
    ),
}


def _choices(id_: str, context: str, texts: list[str], gold: int) -> ChoiceItem:
    return ChoiceItem(id_, tuple(Option(context, f" {text}") for text in texts), gold)


def _without_marks(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _index(row: Row, field: str, labels: range) -> int:
    """Which of the labels the field holds, as a number or spelled."""
    value = row.value(field)
    for index, label in enumerate(labels):
        if str(value).strip() == str(label):
            return index
    # The test splits of these sets are published without their answers.
    row.fail(field, f"is {value!r}; expected {' or '.join(map(str, labels))}; is it a split with answers?")

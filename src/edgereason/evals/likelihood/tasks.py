r"""Rows of the known data sets as texts to be scored: a context, and what may come after it.

::

    ARC, PIQA    Question: Which …?\nAnswer:            │ Gravity.  │ Heat. …     whichever is likeliest
    MMLU         … about SUBJECT.\n\n…A. …\nAnswer:     │ A │ B │ C │ D           options with letters
    ARC-letters  Question: …\nA. …\nAnswer:             │ A │ B │ C │ D           the same
    HellaSwag    Cutting grass: A man … He              │ starts the mower. │ …
    WinoGrande   The cup didn't fit because the cup     │ was too big.          same ending, other contexts
                 The cup didn't fit because the case    │ was too big.
    LAMBADA      …and at last she opened the            │ door                  the one word, drawn greedily?

Texts are those of lm-evaluation-harness 0.4, by its task files; it has no ARC with letters. Where a figure
may differ from its:

* Small models prefer one letter whatever stands there, so options with letters are asked in all their cyclic
  orders: with four options, four prompts, in which each option stands once at each letter. The harness asks
  in the given order only, as `orders="given"` does.
* No examples before the question by default. The harness's own default too, but leaderboards and papers often
  give five for MMLU and 25 for ARC. `shots` takes them from the file itself: its first rows, or those of the
  question's subject, which are then not evaluated.
* `acc_norm` divides by UTF-8 bytes, as the harness's paper says (arXiv:2405.14782); its code counts
  characters, the same for ASCII. Where all options are equally long, as MMLU's and WinoGrande's, it is `acc`.
* How a text becomes tokens: see `evals.loglik`.

Fields and wordings only: tokens and probabilities are the business of `evals.loglik`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgereason.config import nearest
from edgereason.data.rows import Row, read_file, read_hub
from edgereason.errors import ConfigError
from edgereason.evals.tasks.questions import id_field, item_id, options_and_gold

LETTERS: Final = "ABCDE"

Orders = Literal["cyclic", "given"]
"""In which orders options with letters are asked: in all cyclic ones, or in the file's alone."""


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
        turned: the same options in further prompts, where they stand at other letters; empty where the given
            order is the only one.
        has_letters: whether the texts are letters of options that stand in the context.
    """

    id: str
    options: tuple[Option, ...]
    gold: int
    turned: tuple[tuple[Option, ...], ...] = ()
    has_letters: bool = False

    @property
    def prompts(self) -> tuple[tuple[Option, ...], ...]:
        """The options as each prompt asks for them, the given order first."""
        return (self.options, *self.turned)


@dataclass(frozen=True, slots=True, kw_only=True)
class LetteredQuestion:
    """A question whose options have letters, of which one is asked for.

    Attributes:
        id: as an item's.
        subject: whose questions may be examples for this one; None where the file has no subjects.
        heading: stands before everything, examples included.
        question: as it is asked, without options.
        options: 2 to 5, in the given order.
        gold: index of the right one.
    """

    id: str
    subject: str | None
    heading: str
    question: str
    options: tuple[str, ...]
    gold: int

    def prompt(self, shift: int = 0) -> str:
        """The question up to its answer; option i stands at letter (i + `shift`) mod their number."""
        at = [self.options[(place - shift) % len(self.options)] for place in range(len(self.options))]
        lines = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, at, strict=False))
        return f"{self.question}\n{lines}Answer:"

    def item(self, orders: Orders, examples: Sequence[LetteredQuestion] = ()) -> ChoiceItem:
        """The question to be scored.

        Args:
            orders: in which its options are asked; examples keep theirs.
            examples: questions that stand before it with their right letters.
        """
        solved = "".join(f"{one.prompt()} {LETTERS[one.gold]}\n\n" for one in examples)
        count = len(self.options)
        given, *turned = (
            tuple(
                Option(f"{self.heading}{solved}{self.prompt(shift)}", f" {LETTERS[(i + shift) % count]}")
                for i in range(count)
            )
            for shift in range(count if orders == "cyclic" else 1)
        )
        return ChoiceItem(self.id, given, self.gold, tuple(turned), has_letters=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoglikTask:
    """One task that has a name: where its data is on the hub, and how a row becomes an item.

    Attributes:
        read: makes of a row an item, or a question whose options have letters if `has_letters`.
    """

    dataset: str
    config: str | None = None
    split: str
    read: Callable[[str, Row], ChoiceItem | LetteredQuestion]
    has_letters: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedLoglikTask:
    """A task that is ready to be scored; `data_…` as for `tasks.catalog.Task`."""

    name: str
    items: tuple[ChoiceItem, ...]
    data_name: str
    data_sha256: str | None
    data_revision: str | None


def resolved_orders(name: str, orders: Orders | None, shots: int) -> Orders | None:
    """The orders in which a task's options are asked; None where options have no letters.

    Args:
        name: one of `LOGLIK_TASKS`.
        orders: those asked for; None for cyclic ones.
        shots: examples before each question.

    Raises:
        ConfigError: there is no such task, or its options have no letters and it was asked for cyclic orders
            or examples.
    """
    if _task(name).has_letters:
        return orders or "cyclic"
    if orders == "cyclic" or shots:
        setting = "shots" if shots else "orders"
        lettered = ", ".join(name for name, task in LOGLIK_TASKS.items() if task.has_letters)
        raise ConfigError(
            f"{name} shows no options before the answer, so {setting} can't be set: leave it out, or take a "
            f"task whose options have letters ({lettered})"
        )
    return None


def load_loglik_task(
    name: str,
    *,
    data: Path | None = None,
    limit: int | None = None,
    orders: Orders | None = None,
    shots: int = 0,
) -> LoadedLoglikTask:
    """Reads a task's data and makes items of it.

    Args:
        name: one of `LOGLIK_TASKS`.
        data: a local .jsonl, .jsonl.gz or .parquet file; without it the hub is asked.
        limit: number of items, >= 1, from the first; all of them without it. Examples do not count.
        orders: as for `resolved_orders`.
        shots: examples before each question, >= 0: the file's first rows, or the first of the question's
            subject where rows have one. No example is an item.

    Raises:
        ConfigError: there is no such task, its data can't be had, any row of it is broken, a setting does not
            go with the task, or no rows are left beside the examples.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"the limit is {limit} items; expected at least 1")
    orders, task = resolved_orders(name, orders, shots), _task(name)
    rows = read_file(data) if data else read_hub(task.dataset, config=task.config, split=task.split)
    items: list[ChoiceItem] = []
    first_rows: dict[str, int] = {}
    examples: dict[str | None, list[LetteredQuestion]] = {}
    for row in rows.rows:
        made = task.read(name, row)
        if (first := first_rows.setdefault(made.id, row.number)) != row.number:
            row.fail(id_field(row) or "id", f"is {made.id!r}, as in {first}; expected every id once")
        if isinstance(made, LetteredQuestion):
            shown = examples.setdefault(made.subject, [])
            if len(shown) < shots:
                shown.append(made)
            else:
                items.append(made.item(orders or "cyclic", shown))
        else:
            items.append(made)
    if not items:
        raise ConfigError(
            f"{rows.name} has no row left beside {shots} examples of each subject: give fewer (--shots)"
        )
    return LoadedLoglikTask(
        name=name,
        items=tuple(items[:limit]),
        data_name=rows.name,
        data_sha256=rows.sha256,
        data_revision=rows.revision,
    )


def _task(name: str) -> LoglikTask:
    task = LOGLIK_TASKS.get(name)
    if task is None:
        raise ConfigError(f"there is no task {name!r} to score by likelihood: {nearest(name, LOGLIK_TASKS)}")
    return task


# ── items ────────────────────────────────────────────────────────────────────────────────────────


def arc_item(task: str, row: Row) -> ChoiceItem:
    """ARC: the options' texts after the question. ARC's schema, or {question, choices, answer}."""
    options, gold = options_and_gold(row)
    return _choices(item_id(task, row), f"Question: {row.text('question')}\nAnswer:", options, gold)


def arc_question(task: str, row: Row) -> LetteredQuestion:
    """ARC with letters: the question and its options, of which the letter is asked for."""
    options, gold = options_and_gold(row)
    return LetteredQuestion(
        id=item_id(task, row),
        subject=None,
        heading="",
        question=f"Question: {row.text('question').strip()}",
        options=tuple(options),
        gold=gold,
    )


def mmlu_question(task: str, row: Row) -> LetteredQuestion:
    """MMLU: the letters, after the question and its lettered options; says the subject if the row does."""
    options, gold = options_and_gold(row)
    subject = row.text("subject").replace("_", " ").strip() if row.has("subject") else None
    about = "" if subject is None else f" about {subject}"
    return LetteredQuestion(
        id=item_id(task, row),
        subject=subject,
        heading=f"The following are multiple choice questions (with answers){about}.\n\n",
        question=row.text("question").strip(),
        options=tuple(options),
        gold=gold,
    )


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
        dataset="allenai/ai2_arc", config="ARC-Challenge", split="test", read=arc_item
    ),
    "arc-easy": LoglikTask(dataset="allenai/ai2_arc", config="ARC-Easy", split="test", read=arc_item),
    "arc-challenge-letters": LoglikTask(
        dataset="allenai/ai2_arc", config="ARC-Challenge", split="test", read=arc_question, has_letters=True
    ),
    "arc-easy-letters": LoglikTask(
        dataset="allenai/ai2_arc", config="ARC-Easy", split="test", read=arc_question, has_letters=True
    ),
    "mmlu": LoglikTask(dataset="cais/mmlu", config="all", split="test", read=mmlu_question, has_letters=True),
    "hellaswag": LoglikTask(dataset="Rowan/hellaswag", split="validation", read=hellaswag_item),
    # A copy of ybisk/piqa, which is a loading script that `datasets` 4 no longer runs.
    "piqa": LoglikTask(dataset="baber/piqa", split="validation", read=piqa_item),
    "winogrande": LoglikTask(
        dataset="allenai/winogrande", config="winogrande_xl", split="validation", read=winogrande_item
    ),
    "lambada": LoglikTask(
        dataset="EleutherAI/lambada_openai", config="default", split="test", read=lambada_item
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

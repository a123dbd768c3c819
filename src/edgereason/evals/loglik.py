"""Which of several texts a model finds the likeliest: accuracy without sampling.

::

    context ─ encoded once ─┬─ fork ─ " Gravity."   Σ log p = −4.1   ÷ 8 bytes = −0.51
                            ├─ fork ─ " Heat."                −5.0   ÷ 5       = −1.00
                            └─ fork ─ " Sound."               −6.2   ÷ 6       = −1.03

The likeliest is the answer: of `acc` by the sum, of `acc_norm` by the sum over the text's bytes. No chat
template and no adapter: the base model is asked how it goes on. A beginning-of-text token stands in front
where the model wants one.

Context and continuation are tokenized apart, as at every seam here. lm-evaluation-harness tokenizes them in
one go and cuts. Vocabularies that split words in front of their space, as GPT-2's, Qwen's and Llama 3's do,
give the same ids either way where the continuation begins with a space, and all of ours do.

Knows engines and items; does not know data sets, files or terminals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, NamedTuple, Self

from edgereason.engine.base import Engine, Scored
from edgereason.errors import ConfigError, ContextOverflow
from edgereason.evals.loglik_tasks import ChoiceItem
from edgereason.evals.metrics import clustered_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRow:
    """What became of one item; every tuple has an entry an option.

    Attributes:
        logprobs: natural logarithm of each option's probability, its tokens' summed up.
        num_bytes: of each option's text, the leading space not counted.
        is_greedy: whether a greedy decode would have said the option.
        pred: index of the likeliest option; the first of equals.
        pred_norm: the same by `logprobs / num_bytes`.
    """

    id: str
    gold: int
    logprobs: tuple[float, ...]
    num_bytes: tuple[int, ...]
    num_tokens: tuple[int, ...]
    is_greedy: tuple[bool, ...]
    pred: int
    pred_norm: int

    @property
    def key(self) -> str:
        """What identifies the row in its run."""
        return self.id

    @property
    def is_choice(self) -> bool:
        """Whether there was something to choose from."""
        return len(self.logprobs) > 1

    @property
    def is_right(self) -> bool:
        """Whether the likeliest option is the right one; of a single option, whether it is said greedily."""
        return self.pred == self.gold if self.is_choice else self.is_greedy[self.gold]

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """The row that `to_json` made."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoglikSummary:
    """The figures of a task; intervals of 95 %.

    Attributes:
        acc_norm: None, as its interval, where there was nothing to choose from.
        ppl: exp of the mean negative log-probability of the right text, a whole text being one; None where
            there was something to choose from.
    """

    task: str
    n: int
    acc: float
    acc_ci95: tuple[float, float]
    acc_norm: float | None
    acc_norm_ci95: tuple[float, float] | None
    ppl: float | None

    def to_json(self) -> dict[str, Any]:
        """The summary as plain values."""
        return asdict(self)


def run_loglik(
    engine: Engine,
    items: Sequence[ChoiceItem],
    *,
    task: str,
    on_done: Callable[[ChoiceRow], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[list[ChoiceRow], LoglikSummary | None]:
    """Scores every item.

    Args:
        engine: with nothing else running; the context is made once, for the largest item.
        items: at least one; those that have a row already are for the caller to leave out.
        task: what the summary is called.
        on_done: gets each row as it comes.
        should_stop: asked before each item.

    Returns:
        Rows in the order of `items`, and their summary; fewer rows and None if it was stopped.

    Raises:
        ContextOverflow: an item is longer than the context; said before any is scored.
        ConfigError: there are no items, or one has no tokens to go by.
    """
    if not items:
        raise ConfigError("there is nothing to score: give at least one item")
    encoded = [_Encoded.of(engine, item) for item in items]
    for one in encoded:
        if one.longest > engine.context_tokens:
            raise ContextOverflow(one.longest, engine.context_tokens, f"item {one.item.id}")
    rows: list[ChoiceRow] = []
    with engine.reserve(
        cells=max(one.cells for one in encoded), sequences=max(one.sequences for one in encoded)
    ):
        for one in encoded:
            if should_stop():
                return rows, None
            rows.append(_row(one, one.score(engine)))
            on_done(rows[-1])
    return rows, summarise(task, rows)


def summarise(task: str, rows: Sequence[ChoiceRow]) -> LoglikSummary:
    """The figures of rows, which are all of one task.

    Raises:
        ConfigError: there are none, or some had options to choose from and others not.
    """
    if len({row.is_choice for row in rows}) != 1:
        raise ConfigError(f"{task} has no rows, or rows of different tasks: summarise one task's")
    right = {row.id: [float(row.is_right)] for row in rows}
    acc, acc_ci95 = fmean(scores[0] for scores in right.values()), clustered_interval(right)
    if not rows[0].is_choice:
        ppl = math.exp(-fmean(row.logprobs[0] for row in rows))
        return LoglikSummary(
            task=task, n=len(rows), acc=acc, acc_ci95=acc_ci95, acc_norm=None, acc_norm_ci95=None, ppl=ppl
        )
    right_norm = {row.id: [float(row.pred_norm == row.gold)] for row in rows}
    return LoglikSummary(
        task=task,
        n=len(rows),
        acc=acc,
        acc_ci95=acc_ci95,
        acc_norm=fmean(scores[0] for scores in right_norm.values()),
        acc_norm_ci95=clustered_interval(right_norm),
        ppl=None,
    )


class _Group(NamedTuple):
    """A context's ids, and those of the options that follow it, with their numbers in the item."""

    context: tuple[int, ...]
    options: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """An item as ids: a group for each different context."""

    item: ChoiceItem
    groups: tuple[_Group, ...]

    @classmethod
    def of(cls, engine: Engine, item: ChoiceItem) -> Self:
        bos = engine.tokenize(engine.info.bos_text, special=True) if engine.info.add_bos else []
        by_context: dict[str, list[tuple[int, tuple[int, ...]]]] = {}
        for index, option in enumerate(item.options):
            tokens = tuple(engine.tokenize(option.text))
            if not tokens:
                raise ConfigError(f"item {item.id} has an empty option {index}: expected a text")
            by_context.setdefault(option.context, []).append((index, tokens))
        groups = []
        for context, options in by_context.items():
            ids = (*bos, *engine.tokenize(context))
            if not ids:
                raise ConfigError(f"item {item.id} has an empty context: nothing precedes what is scored")
            groups.append(_Group(ids, tuple(options)))
        return cls(item, tuple(groups))

    @property
    def cells(self) -> int:
        """Most that are held at a time: a context and all that follows it."""
        return max(len(g.context) + sum(len(tokens) for _, tokens in g.options) for g in self.groups)

    @property
    def sequences(self) -> int:
        """The same of sequences."""
        return max(len(g.options) for g in self.groups) + 1

    @property
    def longest(self) -> int:
        """Tokens of the longest context with an option."""
        return max(len(g.context) + len(tokens) for g in self.groups for _, tokens in g.options)

    def score(self, engine: Engine) -> list[Scored]:
        """The options' scores, in their order."""
        scored: dict[int, Scored] = {}
        for context, options in self.groups:
            with ExitStack() as live:
                parent = engine.new_sequence()
                live.callback(engine.release, parent)
                engine.encode(parent, context)
                feeds = []
                for _, tokens in options:
                    fork = engine.fork(parent)
                    live.callback(engine.release, fork)
                    feeds.append((fork, tokens))
                scored.update(zip((index for index, _ in options), engine.score(feeds), strict=True))
        return [scored[index] for index in range(len(scored))]


def _row(encoded: _Encoded, scored: Sequence[Scored]) -> ChoiceRow:
    item = encoded.item
    logprobs = tuple(float(one.logprobs.sum()) for one in scored)
    num_bytes = tuple(option.num_bytes for option in item.options)
    return ChoiceRow(
        id=item.id,
        gold=item.gold,
        logprobs=logprobs,
        num_bytes=num_bytes,
        num_tokens=tuple(len(one.logprobs) for one in scored),
        is_greedy=tuple(bool(one.is_top.all()) for one in scored),
        pred=_likeliest(logprobs),
        pred_norm=_likeliest([total / length for total, length in zip(logprobs, num_bytes, strict=True)]),
    )


def _likeliest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)

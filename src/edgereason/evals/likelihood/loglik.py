"""Which of several texts a model finds the likeliest: accuracy without sampling.

::

    context ─ encoded once ─┬─ fork ─ " Gravity."   Σ log p = −4.1   ÷ 8 bytes = −0.51
                            ├─ fork ─ " Heat."                −5.0   ÷ 5       = −1.00
                            └─ fork ─ " Sound."               −6.2   ÷ 6       = −1.03

The likeliest is the answer: of `acc` by the sum, of `acc_norm` by the sum over the text's bytes. No chat
template and no adapter: the base model is asked how it goes on. A beginning-of-text token stands in front
where the model wants one.

Options with letters are asked in several prompts, in which each option stands once at each letter. With
l_p(i) the logarithm of the probability of option i's letter in prompt p, of P prompts::

    score(i) = 1/P Σ_p ( l_p(i) − log Σ_j exp l_p(j) )

A preference for a letter adds the same to all scores. Source: the cyclic permutations of Zheng et al. 2023,
"Large Language Models Are Not Robust Multiple Choice Selectors", arXiv:2309.03882; deviation: logarithms are
averaged, not probabilities.

Context and continuation are tokenized apart, as at every seam here. lm-evaluation-harness tokenizes them in
one go and cuts. Vocabularies that split words in front of their space, as GPT-2's, Qwen's and Llama 3's do,
give the same ids either way where the continuation begins with a space, and all of ours do.

Data sets, files and terminals are the business of callers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, NamedTuple, Self

import numpy as np

from edgereason.engine.base import Engine, Scored
from edgereason.errors import ConfigError, ContextOverflow
from edgereason.evals.likelihood.tasks import LETTERS, ChoiceItem
from edgereason.evals.metrics import clustered_interval
from edgereason.records.journal import JournalRow


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRow(JournalRow):
    """What became of one item; every tuple has an entry an option.

    Attributes:
        logprobs: natural logarithm of each option's probability, its tokens' summed up; of several prompts,
            the score above.
        num_bytes: of each option's text, the leading space not counted.
        is_greedy: whether a greedy decode would have said the option.
        pred: index of the likeliest option; the first of equals.
        pred_norm: the same by `logprobs / num_bytes`.
        prompt_logprobs: where options have letters, each prompt's logarithms of the letters' probabilities,
            by option, the given order's prompt first; empty without letters, and in records of versions that
            asked in the given order only.
    """

    id: str
    gold: int
    logprobs: tuple[float, ...]
    num_bytes: tuple[int, ...]
    num_tokens: tuple[int, ...]
    is_greedy: tuple[bool, ...]
    pred: int
    pred_norm: int
    prompt_logprobs: tuple[tuple[float, ...], ...] = ()

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

    @property
    def letter(self) -> int:
        """Index of the likeliest letter where options stand as given."""
        return _likeliest(self.prompt_logprobs[0]) if self.prompt_logprobs else self.pred


@dataclass(frozen=True, slots=True, kw_only=True)
class LoglikSummary:
    """The figures of a task; intervals of 95 %.

    Attributes:
        acc_norm: None, as its interval, where there was nothing to choose from.
        ppl: exp of the mean negative log-probability of the right text, a whole text being one; None where
            there was something to choose from.
        letters: share of the items in which a letter is the likeliest, options standing as given; a model
            that prefers a letter shows here. None where options have no letters.
    """

    task: str
    n: int
    acc: float
    acc_ci95: tuple[float, float]
    acc_norm: float | None
    acc_norm_ci95: tuple[float, float] | None
    ppl: float | None
    letters: dict[str, float] | None = None

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
    return rows, summarise(task, rows, has_letters=items[0].has_letters)


def summarise(task: str, rows: Sequence[ChoiceRow], *, has_letters: bool = False) -> LoglikSummary:
    """The figures of rows, which are all of one task.

    Args:
        task: what the summary is called.
        rows: at least one.
        has_letters: whether the task's options have letters, whose shares are then counted.

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
        letters=_letters(rows) if has_letters else None,
    )


def _letters(rows: Sequence[ChoiceRow]) -> dict[str, float]:
    chosen = Counter(row.letter for row in rows)
    most = max(len(row.logprobs) for row in rows)
    return {letter: chosen[index] / len(rows) for index, letter in enumerate(LETTERS[:most])}


class _Group(NamedTuple):
    """A context's ids, and those of the options that follow it, with their numbers in the item's prompts."""

    context: tuple[int, ...]
    options: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """An item as ids: a group for each different context.

    Attributes:
        groups: options are numbered through all prompts.
        trunk: ids that all contexts of several prompts begin with, encoded once; at least one id of each is
            left.
    """

    item: ChoiceItem
    groups: tuple[_Group, ...]
    trunk: tuple[int, ...]

    @classmethod
    def of(cls, engine: Engine, item: ChoiceItem) -> Self:
        bos = engine.tokenize(engine.info.bos_text, special=True) if engine.info.add_bos else []
        by_context: dict[str, list[tuple[int, tuple[int, ...]]]] = {}
        for number, option in enumerate(option for prompt in item.prompts for option in prompt):
            tokens = tuple(engine.tokenize(option.text))
            if not tokens:
                raise ConfigError(f"item {item.id} has an empty option {number}: expected a text")
            by_context.setdefault(option.context, []).append((number, tokens))
        groups = []
        for context, options in by_context.items():
            ids = (*bos, *engine.tokenize(context))
            if not ids:
                raise ConfigError(f"item {item.id} has an empty context: nothing precedes what is scored")
            groups.append(_Group(ids, tuple(options)))
        contexts = [group.context for group in groups]
        return cls(item, tuple(groups), _common(contexts) if item.turned and len(contexts) > 1 else ())

    @property
    def cells(self) -> int:
        """Most that are held at a time: a context and all that follows it."""
        return max(len(g.context) + sum(len(tokens) for _, tokens in g.options) for g in self.groups)

    @property
    def sequences(self) -> int:
        """The same of sequences."""
        return max(len(g.options) for g in self.groups) + 1 + bool(self.trunk)

    @property
    def longest(self) -> int:
        """Tokens of the longest context with an option."""
        return max(len(g.context) + len(tokens) for g in self.groups for _, tokens in g.options)

    def score(self, engine: Engine) -> list[list[Scored]]:
        """Each prompt's scores of the options, in their order."""
        scored: dict[int, Scored] = {}
        with ExitStack() as item:
            trunk = None
            if self.trunk:
                trunk = engine.new_sequence()
                item.callback(engine.release, trunk)
                engine.encode(trunk, self.trunk)
            for context, options in self.groups:
                with ExitStack() as live:
                    parent = engine.new_sequence() if trunk is None else engine.fork(trunk)
                    live.callback(engine.release, parent)
                    engine.encode(parent, context[len(self.trunk) :])
                    feeds = []
                    for _, tokens in options:
                        fork = engine.fork(parent)
                        live.callback(engine.release, fork)
                        feeds.append((fork, tokens))
                    scored.update(zip((number for number, _ in options), engine.score(feeds), strict=True))
        count = len(self.item.options)
        return [[scored[start + i] for i in range(count)] for start in range(0, len(scored), count)]


def _common(contexts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all begin with, short of any one's end."""
    length = 0
    while all(length + 1 < len(one) and one[length] == contexts[0][length] for one in contexts):
        length += 1
    return contexts[0][:length]


def _row(encoded: _Encoded, scored: Sequence[Sequence[Scored]]) -> ChoiceRow:
    item, given = encoded.item, scored[0]
    sums = tuple(tuple(float(one.logprobs.sum()) for one in prompt) for prompt in scored)
    logprobs = sums[0] if len(sums) == 1 else _mean_over_prompts(sums)
    num_bytes = tuple(option.num_bytes for option in item.options)
    return ChoiceRow(
        id=item.id,
        gold=item.gold,
        logprobs=logprobs,
        num_bytes=num_bytes,
        num_tokens=tuple(len(one.logprobs) for one in given),
        is_greedy=tuple(bool(one.is_top.all()) for one in given),
        pred=_likeliest(logprobs),
        pred_norm=_likeliest([total / length for total, length in zip(logprobs, num_bytes, strict=True)]),
        prompt_logprobs=sums if item.has_letters else (),
    )


def _mean_over_prompts(sums: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Each option's mean over prompts, in each of which the options' probabilities are made to sum to 1."""
    logs = np.array(sums)
    normalised = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
    # Summed without rounding, so that options between which nothing but letters decides come out equal.
    return tuple(math.fsum(column) / len(sums) for column in normalised.T.tolist())


def _likeliest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)

"""How good a way to train a switcher is, by prompts of kinds that it has not seen.

::

    fold     learned from            left out, and judged
    1        squad mmlu │ math bbh   trivia │ gsm8k
    2        trivia mmlu │ gsm8k bbh squad │ math            … till every source was left out

A switcher that knows its sources by their looks ranks prompts of the same sources well, and others badly. So
each fold leaves out one source of easy prompts and one of hard ones; where there are not two of each, folds
are parts of the prompts. A way is worth the mean of its mean and its worst AUROC over folds, and trains as
many epochs as are worth the most.

Knows arrays and names; does not know prompts, engines or files.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from edgereason.errors import ConfigError
from edgereason.heads.base import Array
from edgereason.heads.reliability import auroc
from edgereason.train.heads.linear import Doubles, Labels
from edgereason.train.heads.mlp import MlpConfig, by_epoch, one_thread
from edgereason.train.heads.splits import Indices, grouped

NUM_PARTS: Final = 5


class Fold(NamedTuple):
    """Rows that a fold learns from and is judged by; `left_out` names the sources, or is () for a part."""

    left_out: tuple[str, ...]
    learned: Indices
    judged: Indices


def folds_of(labels: Labels, sources: Sequence[str], groups: Sequence[Hashable], seed: int) -> list[Fold]:
    """Folds that leave sources out, or parts in whole groups where sources are too few.

    Raises:
        ConfigError: there are too few rows for either.
    """
    names = np.array(sources)
    easy, hard = (sorted(set(names[labels == label].tolist())) for label in (False, True))
    pairs = [
        tuple(dict.fromkeys((easy[k % len(easy)], hard[k % len(hard)])))
        for k in range(max(len(easy), len(hard)))
    ]
    folds = [_fold(pair, np.isin(names, pair), labels) for pair in pairs]
    if len(easy) < 2 or len(hard) < 2 or None in folds:
        parts = grouped(groups, NUM_PARTS, seed)
        folds = [_fold((), parts == number, labels) for number in range(NUM_PARTS)]
    found = [fold for fold in folds if fold is not None]
    if not found:
        raise ConfigError(
            f"{len(labels)} prompts to learn from can't be cut into parts of both labels: add prompts"
        )
    return found


class Measured(NamedTuple):
    """What folds say of a way to train.

    Attributes:
        num_epochs: that are worth the most.
        aurocs: of each fold, after these.
        rows: that were left out, fold by fold; of a source that several folds leave out, as often.
        logits: of these rows, by the fold's own head.
    """

    num_epochs: int
    aurocs: tuple[float, ...]
    rows: Indices
    logits: Doubles

    @property
    def worth(self) -> float:
        """Between the mean and the worst AUROC."""
        return (float(np.mean(self.aurocs)) + min(self.aurocs)) / 2

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {
            "epochs": self.num_epochs,
            "mean_auroc": float(np.mean(self.aurocs)),
            "worst_auroc": min(self.aurocs),
            "aurocs": list(self.aurocs),
        }


def measure(
    rows: Array,
    labels: Labels,
    folds: Sequence[Fold],
    config: MlpConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> Measured | None:
    """Trains a head without what each fold leaves out; None if stopped.

    Args:
        rows: (N, F) features, as they come.
        labels: (N,), whether to think.
        folds: of these rows.
        config: its `max_epochs` are the most that may be chosen.
    """
    logits: list[list[Array]] = []
    with one_thread():
        for fold in folds:
            logits.append([])
            for head in by_epoch(rows[fold.learned], labels[fold.learned], config):
                if should_stop():
                    return None
                logits[-1].append(head.logits(rows[fold.judged]))
    aurocs = np.array(
        [
            [auroc(of_epoch, labels[fold.judged]) for of_epoch in of_fold]
            for fold, of_fold in zip(folds, logits, strict=True)
        ]
    )  # (folds, epochs)
    best = int(np.argmax(aurocs.mean(axis=0) + aurocs.min(axis=0)))
    return Measured(
        num_epochs=best + 1,
        aurocs=tuple(aurocs[:, best].tolist()),
        rows=np.concatenate([fold.judged for fold in folds]),
        logits=np.concatenate([of_fold[best] for of_fold in logits]).astype(np.float64),
    )


def _fold(left_out: tuple[str, ...], is_judged: Labels, labels: Labels) -> Fold | None:
    """A fold; None if it would learn or judge one label only."""
    if any(len(set(labels[rows].tolist())) < 2 for rows in (is_judged, ~is_judged)):
        return None
    return Fold(left_out, np.flatnonzero(~is_judged), np.flatnonzero(is_judged))

"""Splits of prompts, and how well a way to train a switcher does on kinds of prompts that it has not seen.

::

    fold     learned from            left out, and judged
    1        squad mmlu │ math bbh   trivia │ gsm8k
    2        trivia mmlu │ gsm8k bbh squad │ math            … until every source was left out

A switcher that recognises its sources ranks prompts of the same sources well, and others badly. So each
fold leaves out one source of easy prompts and one of hard ones. Where there are not two of each, folds are
parts of the prompts. A way is worth the mean of its mean and its worst AUROC over folds, and trains for as
many epochs as are worth the most.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgereason.errors import ConfigError
from edgereason.heads.base import Array
from edgereason.heads.reliability import auroc
from edgereason.train.data.decontaminate import ngrams_of, words
from edgereason.train.heads.linear import Doubles, Labels
from edgereason.train.heads.mlp import MlpConfig, by_epoch, one_thread

Indices = npt.NDArray[np.int64]

_FORMAT_ROWS: Final = 20
_FORMAT_SHARE: Final = 0.1


def stratified(
    strata: Sequence[Hashable],
    shares: Sequence[float],
    seed: int,
    groups: Sequence[Hashable] | None = None,
) -> list[Indices]:
    """Cuts rows into parts that hold the same share of every stratum.

    Args:
        strata: of each row.
        shares: of each part but the first, which takes the rest; what rounding leaves over goes to the next
            stratum, so that many small ones give a part its share, too.
        seed: of the shuffle.
        groups: of each row; rows of one stratum and group stay together.

    Returns:
        Row numbers of each part, in ascending order.
    """
    rng = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    owed = [0.0] * len(shares)
    for rows in _members(strata).values():
        together = list(_members([row if groups is None else groups[row] for row in rows]).values())
        shuffled = [[rows[i] for i in together[number]] for number in rng.permutation(len(together))]
        owed = [left + share * len(rows) for left, share in zip(owed, shares, strict=True)]
        for group in shuffled:
            number = next((n for n, left in enumerate(owed) if left > len(group) - 1e-6), None)
            if number is None:
                parts[0] += group
            else:
                parts[number + 1] += group
                owed[number] -= len(group)
    return [np.sort(np.array(part, np.int64)) for part in parts]


def grouped(groups: Sequence[Hashable], num_parts: int, seed: int) -> Indices:
    """The part of each row, 0 … num_parts − 1; rows of a group share theirs, parts get groups in turn."""
    members = _members(groups)
    order = np.random.default_rng(seed).permutation(len(members))
    parts = np.empty(len(groups), np.int64)
    for rows, place in zip(members.values(), order, strict=True):
        parts[rows] = place % num_parts
    return parts


def passages(texts: Sequence[str], strata: Sequence[Hashable]) -> list[int]:
    """A number for each text: the same for texts of one stratum that are connected by common 13 words.

    Words that more than a tenth of a stratum has in common (and more than 20 texts) are its format, and
    connect nothing.
    """
    root = list(range(len(texts)))

    def find(row: int) -> int:
        while root[row] != row:
            root[row] = row = root[root[row]]
        return row

    for rows in _members(strata).values():
        sharing: dict[str, list[int]] = {}
        for row in rows:
            for ngram in set(ngrams_of(words(texts[row]))):
                sharing.setdefault(ngram, []).append(row)
        most = max(_FORMAT_ROWS, _FORMAT_SHARE * len(rows))
        for first, *others in (found for found in sharing.values() if len(found) <= most):
            for other in others:
                root[find(other)] = find(first)
    return [find(row) for row in range(len(texts))]


def _members(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    members: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        members.setdefault(key, []).append(row)
    return members


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


class FoldResults(NamedTuple):
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
) -> FoldResults | None:
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
    return FoldResults(
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

"""How good probabilities are: whether they rank well, and whether they mean what they say.

::

    AUROC     chance that a right one scores above a wrong one      ranking: 0.5 is none, 1 is perfect
    ECE       Σ_b n_b / n · |share right − mean p| over bins of p   meaning: 0 is perfect
    Brier     mean of (p − y)²                                      both at once
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgereason.errors import ConfigError

NUM_BINS: Final = 10

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Probabilities from `low` up to `high`, which belongs to the next bin (to this one if it is 1).

    `mean_p` and `share_true` are None of an empty bin.
    """

    low: float
    high: float
    num: int
    mean_p: float | None
    share_true: float | None


def auroc(scores: Floats, labels: Labels) -> float:
    """Chance that a true one, drawn at random, scores above a false one; a tie counts half.

    The Mann-Whitney statistic over the number of pairs, by ranks: (R − n₁(n₁ + 1)/2) / (n₁ n₀), with R the
    sum of the true ones' ranks, ties at their mean rank.

    Source: Hanley and McNeil 1982. Deviation: none.

    Args:
        scores: (N,), on any scale.
        labels: (N,).

    Raises:
        ConfigError: all labels are alike, so that there is no pair.
    """
    scores, labels = _checked(scores, labels)
    num_true = int(labels.sum())
    num_false = len(labels) - num_true
    if not num_true or not num_false:
        raise ConfigError(f"AUROC compares both labels, got {num_true} true and {num_false} false")
    above = float(_ranks(scores)[labels].sum()) - num_true * (num_true + 1) / 2
    return above / (num_true * num_false)


def auroc_standard_error(scores: Floats, labels: Labels) -> float | None:
    """Standard error of `auroc`, were independent rows drawn anew; None with fewer than two of a label.

    √(var(a) / n₁ + var(b) / n₀), with a the share of false ones below each true one, b the share of true ones
    above each false one, ties counted half, and var over n − 1.

    Source: DeLong, DeLong and Clarke-Pearson 1988. Deviation: none.

    Args:
        scores: (N,), on any scale.
        labels: (N,).
    """
    scores, labels = _checked(scores, labels)
    true, false = scores[labels], scores[~labels]
    if min(len(true), len(false)) < 2:
        return None
    ranks = _ranks(scores)
    of_true = (ranks[labels] - _ranks(true)) / len(false)
    of_false = 1 - (ranks[~labels] - _ranks(false)) / len(true)
    return float(np.sqrt(of_true.var(ddof=1) / len(true) + of_false.var(ddof=1) / len(false)))


def auroc_within(scores: Floats, labels: Labels, groups: Sequence[Hashable]) -> float | None:
    """AUROC over pairs of the same group only, each pair alike; None if no group has both labels.

    What decides a weighted vote: whether a question's right traces score above its wrong ones.
    """
    scores, labels = _checked(scores, labels)
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    above, pairs = 0.0, 0
    for indices in members.values():
        of_group = labels[indices]
        num_pairs = int(of_group.sum()) * int((~of_group).sum())
        if num_pairs:
            above += auroc(scores[indices], of_group) * num_pairs
            pairs += num_pairs
    return above / pairs if pairs else None


def reliability_curve(p: Floats, labels: Labels, num_bins: int = NUM_BINS) -> list[Bin]:
    """The bins of [0, 1], of equal width, in order; p: (N,) in [0, 1]."""
    p, labels = _checked(p, labels, are_probabilities=True)
    index = np.minimum((p * num_bins).astype(np.int64), num_bins - 1)
    bins = []
    for number in range(num_bins):
        inside = index == number
        num = int(inside.sum())
        bins.append(
            Bin(
                low=number / num_bins,
                high=(number + 1) / num_bins,
                num=num,
                mean_p=float(p[inside].mean()) if num else None,
                share_true=float(labels[inside].mean()) if num else None,
            )
        )
    return bins


def ece(p: Floats, labels: Labels, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error over bins of equal width, in [0, 1].

    Source: Guo et al. 2017, arXiv:1706.04599, Eq. (3), of the probability of one class instead of the
    winning one's.
    """
    gaps = (
        bin_.num * abs(bin_.mean_p - bin_.share_true)
        for bin_ in reliability_curve(p, labels, num_bins)
        if bin_.mean_p is not None and bin_.share_true is not None
    )
    return sum(gaps) / len(p)


def brier(p: Floats, labels: Labels) -> float:
    """Mean squared distance between probability and label, in [0, 1]."""
    p, labels = _checked(p, labels, are_probabilities=True)
    return float(np.mean((p - labels) ** 2))


def summary(p: Floats, labels: Labels) -> dict[str, Any]:
    """All of it as plain values, for records; `auroc` is None where all labels are alike."""
    labels = np.asarray(labels, np.bool_)
    return {
        "n": len(p),
        "share_true": float(labels.mean()),
        "auroc": auroc(p, labels) if 0 < labels.sum() < len(labels) else None,
        "ece": ece(p, labels),
        "brier": brier(p, labels),
        "curve": [asdict(bin_) for bin_ in reliability_curve(p, labels)],
    }


def _ranks(scores: Floats) -> Floats:
    """Ranks from 1, ties at their mean rank."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _checked(scores: Floats, labels: Labels, *, are_probabilities: bool = False) -> tuple[Floats, Labels]:
    """Both as arrays, in double precision."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.bool_)
    if scores.shape != labels.shape or scores.ndim != 1 or not len(scores):
        raise ConfigError(f"one score a label is needed, got {scores.shape} scores and {labels.shape} labels")
    if not np.isfinite(scores).all() or (are_probabilities and not ((scores >= 0) & (scores <= 1)).all()):
        raise ConfigError(f"scores must be {'in [0, 1]' if are_probabilities else 'numbers'}")
    return scores, labels

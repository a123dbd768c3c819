"""Two evaluations of the same questions, question by question.

::

    rows of A ─┐                       ┌─ won, lost ─→ sign test
               ├─ by question, paired ─┤
    rows of B ─┘                       └─ B − A ─────→ mean, with an interval by bootstrap

Questions differ far more from each other than models do, so the difference on the same questions is known
much better than either accuracy. A is an evaluation, or a sweep that cut one at hard budgets: then each B
meets the traces that were cut at its own budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np

from edgereason.config import load_json, read_bounded, read_toml
from edgereason.errors import ConfigError
from edgereason.evals.likelihood.loglik import ChoiceRow
from edgereason.evals.metrics import bootstrap_intervals, scores_by_question
from edgereason.evals.record import BEFORE_NAMED, FORMAT, RUN, SUMMARY
from edgereason.evals.samples import read_samples
from edgereason.records.journal import read_rows

_SAME: Final = "compare evaluations of one task on one data set"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What one evaluation has over another, on the questions of both.

    Attributes:
        num_questions: that both were asked.
        accuracy: on those, of this one; `base_accuracy` of the other.
        difference: `accuracy − base_accuracy`.
        ci95: of the difference; questions are drawn anew, each with both its scores. One question says
            nothing about others: (−1, 1).
        won: questions that this one scores higher on, `lost` lower.
        p_value: two-sided, of so uneven a split of `won + lost` by coin flips: the exact sign test, which for
            0/1 scores is McNemar's.
    """

    num_questions: int
    accuracy: float
    base_accuracy: float
    difference: float
    ci95: tuple[float, float]
    won: int
    lost: int
    p_value: float


def compare(
    base: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]], *, seed: int = 0
) -> Difference:
    """Pairs the scores of two evaluations by question.

    Args:
        base: scores of each question's repetitions, in [0, 1].
        other: the same, of what is compared with it.
        seed: of the bootstrap.

    Raises:
        ConfigError: no question is in both.
    """
    common = [question for question in base if question in other]
    if not common:
        raise ConfigError(f"the evaluations have no question in common: {_SAME}")
    before = np.array([fmean(base[question]) for question in common])
    after = np.array([fmean(other[question]) for question in common])
    gains = after - before
    won, lost = int(np.sum(gains > 0)), int(np.sum(gains < 0))
    low, high = bootstrap_intervals(gains[:, None], seed=seed)[0] if len(gains) > 1 else (-1.0, 1.0)
    return Difference(
        num_questions=len(common),
        accuracy=float(after.mean()),
        base_accuracy=float(before.mean()),
        difference=float(gains.mean()),
        ci95=(float(low), float(high)),
        won=won,
        lost=lost,
        p_value=sign_test(won, lost),
    )


def sign_test(won: int, lost: int) -> float:
    """Two-sided p-value of `won` against `lost` under fair coin flips; 1 where there was nothing to flip."""
    flips, fewer = won + lost, min(won, lost)
    ways, tail = 1, 1  # of none to come up heads; of at most so many
    for k in range(fewer):
        ways = ways * (flips - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << flips))  # whole numbers to the end: thousands of flips pass any float


def compare_folders(base: Path, others: Sequence[Path], *, seed: int = 0) -> list[Difference]:
    """Compares finished evaluations with one, or with the traces that a sweep cut at the hard budget of each.

    Raises:
        ConfigError: a folder holds no finished evaluation, or one of another task or data set; the sweep did
            not cut at a folder's budget.
    """
    whole = None if base.is_file() else _read(base)
    differences = []
    for other in others:
        expected, scores = whole or _read_cut(base, _budget_tokens(other))
        found, other_scores = _read(other)
        for key, value in expected.items():
            if found[key] != value:
                raise ConfigError(
                    f"{other} differs from {base} in its {key}, {found[key]!r} for {value!r}: {_SAME}"
                )
        differences.append(compare(scores, other_scores, seed=seed))
    return differences


def _budget_tokens(folder: Path) -> int:
    """The hard budget of an evaluation."""
    budget = read_toml(folder / RUN).get("eval", {}).get("budget")
    if not isinstance(budget, int):
        raise ConfigError(
            f"{folder} had no hard budget in tokens, but {budget!r}: compare it with an evaluation"
        )
    return budget


def _read_cut(sweep: Path, limit_tokens: int) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """What must be the same, and the scores by question, of traces that a sweep cut."""
    try:
        record = load_json(read_bounded(sweep).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{sweep} can't be read: give the record of a sweep over hard budgets") from error
    curves = (record.get("budgets") if isinstance(record, dict) else None) or {}
    if not isinstance(curves, dict) or len(curves) != 1:
        count = len(curves) if isinstance(curves, dict) else "no"
        raise ConfigError(
            f"{sweep} cuts the traces of {count} evaluations: compare with a sweep that cuts one"
        )
    ((run, curve),) = curves.items()
    scores: dict[str, list[float]] = {}
    try:
        data_set = _data_set(record["runs"][run]["data"])
        for row in curve["rows"]:
            if row["limit_tokens"] == limit_tokens:
                scores.setdefault(row["id"], []).append(row["score"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{sweep} is not of this version: it lacks {error}") from error
    if not scores:
        raise ConfigError(f"{sweep} did not cut at {limit_tokens} tokens, but at {curve['budgets']}")
    return {"data set": data_set}, scores


def _data_set(entry: Mapping[str, Any]) -> Any:
    """What a data set is known by: its hash where it was a file, else name and revision on the hub."""
    return entry.get("sha256") or (entry.get("name"), entry.get("revision"))


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """What must be the same, and the scores by question."""
    path = folder / SUMMARY
    try:
        summary = load_json(read_bounded(path).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} holds no readable {SUMMARY}: give the folder of a finished evaluation"
        ) from error
    if not isinstance(summary, dict) or summary.get("format") != FORMAT:
        raise ConfigError(f"{path} is not an evaluation's summary: give the folder of a finished evaluation")
    same = {
        "task": summary.get("task"),
        "kind": "likelihoods" if "acc" in summary else "answers",
        "data set": _data_set(summary.get("data") or {}),
    }
    if "acc" in summary:
        config = {**BEFORE_NAMED, **(summary.get("config") or {})}
        same |= {"orders": config["orders"], "shots": config["shots"]}
        return same, {row.id: [float(row.is_right)] for row in read_rows(folder, ChoiceRow)}
    return same, scores_by_question(read_samples(folder))

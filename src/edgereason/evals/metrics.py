"""Figures from rows: accuracy and how sure it is, pass@k, lengths.

::

    rows ─ by question ─→ mean of each question ─→ accuracy, with an interval clustered by question
                      └─→ finished traces ───────→ pass@k

A question asked several times is one question: its answers are alike, so a hundred repetitions of thirty
questions say less than three thousand questions would, and every interval here takes the question as what
was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import NormalDist, fmean
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgereason.core.types import Route, Stop
from edgereason.errors import ConfigError
from edgereason.evals.samples import RecordedTrace, Sample

CORRECT_SCORE: Final = 0.5
"""A trace with at least this score counts as correct where only right or wrong is asked for."""

IN_TIME_MARGIN: Final = 0.1
"""A request that ends later than its budget by this share of it is still in time."""

LEVEL: Final = 0.95
NUM_RESAMPLES: Final = 2000

Floats = NDArray[np.float64]

_BLOCK_FLOATS: Final = 2**20
"""Most resampling weights that are held at a time."""


# ── rows by question ─────────────────────────────────────────────────────────────────────────────


def scores_by_question(samples: Iterable[Sample]) -> dict[str, list[float]]:
    """The scores of every question's repetitions, questions in order of first appearance."""
    scores: dict[str, list[float]] = {}
    for sample in samples:
        scores.setdefault(sample.id, []).append(sample.score)
    return scores


def finished_traces(samples: Iterable[Sample]) -> dict[str, list[RecordedTrace]]:
    """Every question's traces over its repetitions, in order of (repeat, index); cancelled ones left out."""
    pools: dict[str, list[RecordedTrace]] = {}
    for sample in sorted(samples, key=lambda sample: sample.repeat):
        finished = (trace for trace in sample.traces if trace.stop is not Stop.CANCELLED)
        pools.setdefault(sample.id, []).extend(sorted(finished, key=lambda trace: trace.index))
    return pools


def num_correct(traces: Iterable[RecordedTrace]) -> int:
    """How many traces are correct."""
    return sum(trace.score >= CORRECT_SCORE for trace in traces)


# ── accuracy ─────────────────────────────────────────────────────────────────────────────────────


def accuracy(samples: Sequence[Sample]) -> float:
    """Mean over questions of the question's mean score.

    Raises:
        ConfigError: there are no samples.
    """
    return fmean(fmean(scores) for scores in scores_by_question(_require_rows(samples)).values())


def clustered_error(scores_by_question: Mapping[str, Sequence[float]]) -> float:
    """Cluster-robust standard error of the mean over questions of the question's mean.

    With Q questions, s̄_q the mean of question q and s̄ the mean of those::

        SE² = 1/Q² Σ_q (s̄_q − s̄)²

    Source: Miller 2024, "Adding Error Bars to Evals", arXiv:2411.00640, clustered standard error with the
    question as the cluster: Σ_c Σ_i Σ_j (s_ic − s̄)(s_jc − s̄) / n², which is the above where every question
    was asked equally often. Deviation: where not, questions and not rows weigh the same, as in `accuracy`.
    """
    means = np.array([fmean(scores) for scores in scores_by_question.values()])
    return float(np.sqrt(np.sum((means - means.mean()) ** 2)) / len(means))


def clustered_interval(
    scores_by_question: Mapping[str, Sequence[float]], level: float = LEVEL
) -> tuple[float, float]:
    """Interval of the accuracy, clustered by question: Wilson's, for an effective number of coin flips.

    With p the accuracy and SE its clustered error, the scores are worth as much as ñ = p(1 − p)/SE²
    independent ones of 0 or 1, and the interval is Wilson's for p and ñ. For one 0/1 score a question this is
    exactly Wilson's interval; for many questions and p away from 0 and 1 it nears p ± z·SE. Unlike that, it
    stays within [0, 1] and does not shrink to nothing where all are right or wrong. Simulated for 30
    questions × 10 answers whose chances spread as Beta(0.1, 1), it covers in 91 % of runs (p ± z·SE: 88 %).

    SE is never taken below that of as many independent answers: answers to one question are alike or, at
    best, independent, and only chance makes them look opposed. Where no score differs from another, ñ is the
    number of questions. One question says nothing about others: (0, 1).

    Source: Wilson 1927 with the effective sample size of Korn and Graubard 1998; SE as in `clustered_error`.

    Args:
        scores_by_question: each in [0, 1].
        level: share of such intervals that hold the true accuracy, between 0 and 1.

    Raises:
        ConfigError: there are no scores.
    """
    if not scores_by_question:
        raise ConfigError("an interval needs scores and there are none: evaluate at least one question")
    num_questions = len(scores_by_question)
    if num_questions == 1:
        return 0.0, 1.0
    p = fmean(fmean(scores) for scores in scores_by_question.values())
    spread = fmean(fmean((s - p) ** 2 for s in scores) for scores in scores_by_question.values())
    independent = spread * sum(1 / len(scores) for scores in scores_by_question.values()) / num_questions**2
    variance = max(clustered_error(scores_by_question) ** 2, independent)
    num_flips = p * (1 - p) / variance if variance > 0 else float(num_questions)
    return _wilson(p, num_flips, level)


def _wilson(p: float, n: float, level: float) -> tuple[float, float]:
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


# ── resampling ───────────────────────────────────────────────────────────────────────────────────


def resampling_weights(num_questions: int, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Bootstrap resamples of questions, as weights.

    Yields:
        (R, Q) blocks that add up to `num_resamples` rows; how often each question was drawn, over Q, so that
        a row sums to 1. The same seed draws the same questions, which pairs whatever is compared.
    """
    rng = np.random.default_rng(seed)
    chances = np.full(num_questions, 1 / num_questions)
    rows = max(1, _BLOCK_FLOATS // num_questions)
    for start in range(0, num_resamples, rows):
        drawn = rng.multinomial(num_questions, chances, size=min(rows, num_resamples - start))
        yield drawn / num_questions


def bootstrap_intervals(
    values: Floats, *, seed: int, num_resamples: int = NUM_RESAMPLES, level: float = LEVEL
) -> Floats:
    """Percentile intervals of means over questions, all columns on the same resamples.

    Args:
        values: (Q, C), a row for each question; differences, where a comparison is to be paired.
        seed: of the resamples.
        num_resamples: how often the questions are drawn anew.
        level: share of the resampled means within the interval.

    Returns:
        (C, 2), lower and upper ends.
    """
    means = np.concatenate([w @ values for w in resampling_weights(len(values), num_resamples, seed)])
    return percentile_intervals(means, level)


def percentile_intervals(resampled: Floats, level: float = LEVEL) -> Floats:
    """(R, C) resampled figures → (C, 2) ends between which the middle `level` of them lies."""
    outside = 100 * (1 - level) / 2
    ends: Floats = np.percentile(resampled, [outside, 100 - outside], axis=0)
    return ends.T


# ── pass@k ───────────────────────────────────────────────────────────────────────────────────────


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that at least one of k samples is correct, drawn without replacement from those there are.

    Unbiased for the chance of k fresh samples: 1 − C(n − c, k) / C(n, k).

    Source: Chen et al. 2021, arXiv:2107.03374, Eq. (1). Deviation: none.

    Raises:
        ConfigError: there are fewer than k samples, or not so many correct ones.
    """
    if not 1 <= k <= num_samples or not 0 <= num_correct <= num_samples:
        raise ConfigError(
            f"pass@{k} of {num_samples} samples, {num_correct} of them correct, is not defined: "
            "k must be between 1 and the number of samples"
        )
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def mean_pass_at_k(samples: Iterable[Sample], k: int) -> float:
    """Mean pass@k over the questions that have at least k finished traces.

    Raises:
        ConfigError: no question has as many.
    """
    pools = [pool for pool in finished_traces(samples).values() if len(pool) >= k]
    if not pools:
        raise ConfigError(f"pass@{k} needs {k} finished traces of a question: repeat, or use more streams")
    return fmean(pass_at_k(len(pool), num_correct(pool), k) for pool in pools)


# ── summary ──────────────────────────────────────────────────────────────────────────────────────


def token_statistics(lengths: Sequence[int]) -> dict[str, float]:
    """Mean, median and 90th percentile (linear between neighbours) of lengths in tokens."""
    median, p90 = np.percentile(lengths, [50, 90])
    return {"mean_tokens": fmean(lengths), "median_tokens": float(median), "p90_tokens": float(p90)}


def _verify_share(samples: Sequence[Sample]) -> float | None:
    spent_s = [sample.verify_s for sample in samples if sample.verify_s is not None]
    return sum(spent_s) / sum(sample.total_s for sample in samples) if len(spent_s) == len(samples) else None


def summarise(samples: Sequence[Sample], *, budget_s: float | None = None) -> dict[str, Any]:
    """The figures of a run, as plain values.

    Lengths are the winning streams', `mean_all_streams_tokens` what all streams of a row spent together;
    `mean_streams_begun` are fewer than a row has where they begin in stages.
    `verify_share` is the rows' seconds in the verifier over all of theirs, None where they were not counted;
    it is a request's cost only where requests ran one at a time, since each waits for the others' steps.
    `share_cut` is the rows whose winning stream was ended by its budget or by `max_tokens`;
    `share_answered` those with an answer at all. Times are medians over rows, in seconds. `pass_at_k` goes
    through powers of two (as strings, for JSON) up to the traces that every question has.

    Args:
        samples: of one run.
        budget_s: the run's, if it was in seconds: `share_in_time` is then the rows that ended within it and a
            tenth more, `max_overshoot_s` the seconds by which the worst ended behind it.

    Raises:
        ConfigError: there are no samples.
    """
    scores = scores_by_question(_require_rows(samples))
    least_traces = min(len(pool) for pool in finished_traces(samples).values())
    figures: dict[str, Any] = {
        "n": len(samples),
        "num_questions": len(scores),
        "accuracy": accuracy(samples),
        "ci95": list(clustered_interval(scores, 0.95)),
        **token_statistics([sample.num_tokens for sample in samples]),
        "mean_all_streams_tokens": fmean(sample.all_streams_tokens for sample in samples),
        "mean_streams_begun": fmean(sum(trace.has_begun for trace in sample.traces) for sample in samples),
        "share_cut": fmean(sample.stop in (Stop.BUDGET, Stop.LENGTH) for sample in samples),
        "share_think": fmean(sample.route is Route.THINK for sample in samples),
        "share_answered": fmean(sample.winner is not None for sample in samples),
        "ttft_s": float(np.median([sample.ttft_s for sample in samples])),
        "latency_s": float(np.median([sample.total_s for sample in samples])),
        "verify_share": _verify_share(samples),
        "pass_at_k": {
            str(2**power): mean_pass_at_k(samples, 2**power) for power in range(least_traces.bit_length())
        },
    }
    if budget_s is not None:
        spent_s = [sample.total_s for sample in samples]
        figures["share_in_time"] = fmean(one <= (1 + IN_TIME_MARGIN) * budget_s for one in spent_s)
        figures["max_overshoot_s"] = max(0.0, max(spent_s) - budget_s)
    return figures


def _require_rows(samples: Sequence[Sample]) -> Sequence[Sample]:
    if not samples:
        raise ConfigError("an evaluation without samples has no figures: evaluate at least one question")
    return samples

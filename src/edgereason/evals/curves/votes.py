"""Accuracy against the number of streams, from traces that are there: nothing is generated again.

::

    a question's finished traces          20 times for every N              over questions
    ● ● ● ● ● ● ● ●          ──→   N of them, not put back ─ vote ─→   mean ± std, against one trace

All traces of a question, over its repetitions and streams, are one pool of draws from one distribution, and
any N of them are what N streams might have said. Votes are settled by `reasoning.vote`, as at run time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any, Final

import numpy as np

from edgereason.core.answers import canonical
from edgereason.core.types import Stop, Vote
from edgereason.errors import ConfigError
from edgereason.evals.metrics import (
    NUM_RESAMPLES,
    Floats,
    bootstrap_intervals,
    finished_traces,
    num_correct,
    pass_at_k,
)
from edgereason.evals.samples import RecordedTrace, Sample
from edgereason.heads.reliability import auroc, auroc_within
from edgereason.reasoning.vote import Ballot, winner

NUM_DRAWS: Final = 20
"""As many as the paper takes (section 6)."""


def vote_curve(
    samples: Sequence[Sample], ns: Sequence[int] | None = None, draws: int = NUM_DRAWS, seed: int = 0
) -> dict[str, Any]:
    """What N streams and a vote would have come to, for every N that the pools allow.

    For each draw a question's pool is shuffled and the first N of it are drawn: any N of a pool are equally
    likely, and the N of a draw hold its smaller Ns, so that points are compared on the same traces. Shuffles
    and ties depend on the seed and the question's id, and the same traces always end the same way. Where
    nobody drawn has an answer the score is 0, as in an evaluation.

    Answers are read again from what was recorded, which gives what they were: rows hold the letter of an
    option that was quoted in its words.

    Args:
        samples: of one run; several repetitions, several streams, or both.
        ns: numbers of streams; if None, all up to 8 and the even ones beyond. Those beyond the least pool are
            left out.
        draws: how often N are drawn from every pool; at least 2.
        seed: of shuffles, ties and the bootstrap.

    Returns:
        The curve as plain values. `points` holds for every `n`:

        * `votes`: for each vote `accuracy` and its `std` over the draws, and the `difference` to a single
          trace with `difference_ci95`, from a bootstrap over questions, paired. *weighted* and *best* are
          there if every trace has a verifier score, and hold `over_majority` with its `over_majority_se` and
          `over_majority_ci95`, paired likewise. At n = 1 the accuracy is that of all traces, exactly.
        * `oracle`: unbiased pass@n.
        * `mean_all_streams_tokens`, `mean_longest_tokens`: what n streams spend together, and the longest of
          them, which stands for latency; expected values over all draws that there could be.

        `verifier` says how well its scores tell right traces from wrong ones: AUROC over all pairs, and over
        those of one question; it is None without scores, or without both kinds.

    Raises:
        ConfigError: a question has no finished trace, or a setting is out of range.
    """
    if draws < 2:
        raise ConfigError(f"a vote curve needs at least 2 draws to have a spread, got {draws}")
    pools = [_Pool(id_, traces, draws, seed) for id_, traces in sorted(finished_traces(samples).items())]
    if not pools:
        raise ConfigError("a vote curve needs samples and there are none: evaluate at least one question")
    least = min(pools, key=lambda pool: len(pool.traces))
    if not least.traces:
        raise ConfigError(f"question {least.id!r} has no finished trace to draw: evaluate it to its end")
    chosen = _chosen(ns, len(least.traces))
    has_scores = all(trace.verifier_score is not None for pool in pools for trace in pool.traces)
    votes = list(Vote) if has_scores else [Vote.MAJORITY]
    columns = [(n, vote) for n in chosen for vote in votes]
    voted = np.array([[pool.vote(vote, n) for n, vote in columns] for pool in pools])
    figures = iter(_figures(voted, columns, pools, seed))
    return {
        "num_questions": len(pools),
        "num_traces": sum(len(pool.traces) for pool in pools),
        "least_pool": len(least.traces),
        "num_draws": draws,
        "seed": seed,
        "num_resamples": NUM_RESAMPLES,
        "points": [
            {
                "n": n,
                "votes": {vote.value: next(figures) for vote in votes},
                "oracle": fmean(pool.oracle(n) for pool in pools),
                "mean_all_streams_tokens": n * fmean(fmean(pool.lengths) for pool in pools),
                "mean_longest_tokens": fmean(_expected_longest(pool.lengths, n) for pool in pools),
            }
            for n in chosen
        ],
        "verifier": _told_apart(pools) if has_scores else None,
        "notes": [*_notes(samples, pools, has_scores=has_scores), *_beyond(ns, least)],
    }


class _Pool:
    """A question's finished traces, and the orders in which they are drawn.

    Every draw's ballots go through `winner` as they are. Classes made once of the whole pool would be quicker
    and not always the same, since sameness of expressions is not transitive. What is slow, math-verify, is
    asked once for a pair of expressions: `core.answers` remembers the last few thousand pairs, and all votes
    of a question are settled before the next question's.
    """

    def __init__(self, id_: str, traces: list[RecordedTrace], draws: int, seed: int) -> None:
        self.id = id_
        self.traces = traces
        self.answers = [None if trace.answer is None else canonical(trace.answer) for trace in traces]
        self.scores = [0.0 if trace.answer is None else trace.score for trace in traces]
        self.lengths = [trace.num_tokens for trace in traces]
        self._seed = seed
        shuffled = random.Random(f"{seed}/{id_}")
        self._orders = [shuffled.sample(range(len(traces)), len(traces)) for _ in range(draws)]

    def vote(self, vote: Vote, n: int) -> list[float]:
        """Score of the winner of each draw's first n, who vote in the order of their streams."""
        settled: dict[tuple[int, ...], float] = {}
        scores = []
        for order in self._orders:
            drawn = tuple(sorted(order[:n]))
            if drawn not in settled:
                settled[drawn] = self._settle(vote, drawn)
            scores.append(settled[drawn])
        return scores

    def _settle(self, vote: Vote, drawn: tuple[int, ...]) -> float:
        ballots = [Ballot(self.answers[i], self.traces[i].verifier_score) for i in drawn]
        tie_seed = random.Random(f"{self._seed}/{self.id}/{drawn}").getrandbits(31)
        won = winner(ballots, vote, tie_seed)
        return 0.0 if won is None else self.scores[drawn[won]]

    def oracle(self, n: int) -> float:
        """Unbiased pass@n."""
        return pass_at_k(len(self.traces), num_correct(self.traces), n)


def _figures(
    voted: Floats, columns: Sequence[tuple[int, Vote]], pools: Sequence[_Pool], seed: int
) -> list[dict[str, Any]]:
    """Figures of every column of `voted`: (Q, C, D) scores, D draws of C combinations of N and vote."""
    singles = np.array([fmean(pool.scores) for pool in pools])[:, None]
    # The mean over draws of one trace is known without drawing.
    means = np.where(np.array([n for n, _ in columns]) == 1, singles, voted.mean(axis=2))
    majority = means[:, [columns.index((n, Vote.MAJORITY)) for n, _ in columns]]
    over_one, over_majority = means - singles, means - majority
    of_one, of_majority = (
        bootstrap_intervals(over, seed=seed).tolist() for over in (over_one, over_majority)
    )
    found = []
    for column, (_, vote) in enumerate(columns):
        figures = {
            "accuracy": fmean(means[:, column]),
            "std": stdev(voted[:, column].mean(axis=0).tolist()),
            "difference": fmean(over_one[:, column]),
            "difference_ci95": of_one[column],
        }
        if vote is not Vote.MAJORITY:
            figures |= {
                "over_majority": fmean(over_majority[:, column]),
                "over_majority_se": float(over_majority[:, column].std()) / math.sqrt(len(pools)),
                "over_majority_ci95": of_majority[column],
            }
        found.append(figures)
    return found


def _chosen(ns: Sequence[int] | None, least: int) -> list[int]:
    if ns is None:
        return [*range(1, min(least, 8) + 1), *range(10, least + 1, 2)]
    chosen = sorted({n for n in ns if n <= least})
    if not chosen or chosen[0] < 1:
        raise ConfigError(
            f"a vote curve can't be drawn at {', '.join(map(str, ns)) or 'no N'}: "
            f"give numbers of streams from 1 to {least}, the fewest finished traces of a question"
        )
    return chosen


def _expected_longest(lengths: Sequence[int], n: int) -> float:
    """Expected maximum of n lengths drawn without replacement: Σ x₍ᵢ₎ C(i − 1, n − 1) / C(m, n)."""
    longest = sum(math.comb(below, n - 1) * length for below, length in enumerate(sorted(lengths)))
    return longest / math.comb(len(lengths), n)


def _told_apart(pools: Sequence[_Pool]) -> dict[str, float | None] | None:
    """How well the verifier's scores tell traces that are right from others; None if all are alike."""
    traces = [
        (trace.verifier_score, pool.scores[i] == 1) for pool in pools for i, trace in enumerate(pool.traces)
    ]
    scores, right = np.array([score for score, _ in traces]), np.array([one for _, one in traces])
    if right.all() or not right.any():
        return None
    questions = [pool.id for pool in pools for _ in pool.traces]
    return {"auroc": auroc(scores, right), "auroc_within_questions": auroc_within(scores, right, questions)}


def _notes(samples: Sequence[Sample], pools: Sequence[_Pool], *, has_scores: bool) -> list[str]:
    """What a reader of the curve must know."""
    notes = []
    traces = [trace for sample in samples for trace in sample.traces]
    if num_cancelled := sum(trace.stop is Stop.CANCELLED for trace in traces):
        notes.append(
            f"{num_cancelled} of {len(traces)} traces were cancelled and left out, which favours short ones: "
            "evaluate with stop_early off"
        )
    if not has_scores:
        notes.append("no weighted and no best vote: not every trace has a verifier score")
    return notes


def _beyond(ns: Sequence[int] | None, least: _Pool) -> list[str]:
    beyond = sorted({n for n in ns or () if n > len(least.traces)})
    if not beyond:
        return []
    return [
        f"nothing at N = {', '.join(map(str, beyond))}: question {least.id!r} has only "
        f"{len(least.traces)} finished traces"
    ]

"""Accuracy and length against the switcher's threshold, from a run that never thinks and one that must.

::

    p_think ≥ threshold ─ yes ─→ the think run's outcome ─┐
                        └ no ──→ the chat run's outcome ──┴─→ share, accuracy, length
    accuracy │     ╭── switcher
             │  ╭──╯ ╱
             │╭─╯ ╱   routing at random: a straight line from all chat to all think
             └────────── share routed to think

Both routes' outcomes are recorded for every question, so any threshold is a matter of picking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from edgereason.core.types import Route
from edgereason.errors import ConfigError
from edgereason.evals.metrics import NUM_RESAMPLES, Floats, percentile_intervals, resampling_weights
from edgereason.evals.samples import Sample
from edgereason.heads.base import NEVER_THINK


def p_think_of(samples: Iterable[Sample]) -> dict[str, float]:
    """What the switcher said of each question that it was asked, in the mean over repetitions."""
    said: dict[str, list[float]] = {}
    for sample in samples:
        if sample.p_think is not None:
            said.setdefault(sample.id, []).append(sample.p_think)
    return {id_: fmean(values) for id_, values in said.items()}


def threshold_curve(
    chat: Sequence[Sample],
    think: Sequence[Sample],
    p_think: Mapping[str, float],
    thresholds: Sequence[float] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What routing at each threshold would have come to.

    A question thinks iff its p_think is at least the threshold. Outcomes are means over a question's
    repetitions; lengths are the winning streams'.

    Args:
        chat: rows of a run on the chat route.
        think: rows of a run on the think route, of the same questions.
        p_think: the switcher's probability for each of these questions, in [0, 1].
        thresholds: where to look; every distinct p_think, 0 and `NEVER_THINK` if None.
        seed: of the bootstrap.

    Returns:
        The curve as plain values. `points` holds for every `threshold`, in rising order, the `share_think`,
        the `accuracy` with `ci95`, `mean_tokens`, and `random_accuracy` and `random_tokens`, which routing as
        many questions at random would come to. `area` is between the curve and that line, over the share from
        0 to 1, in accuracy, with `area_ci95`; it is over all distinct p_think, whatever `thresholds` says.
        Intervals are percentiles of a bootstrap over questions.

    Raises:
        ConfigError: the questions differ, there are none, or a probability is none.
    """
    ids = _common_ids(chat, think, p_think)
    p = np.array([p_think[id_] for id_ in ids])
    if bad := [id_ for id_ in ids if not 0 <= p_think[id_] <= 1]:
        raise ConfigError(f"p_think of question {bad[0]!r} is {p_think[bad[0]]:g}: expected 0 to 1")
    distinct = sorted({0.0, *p.tolist(), NEVER_THINK})
    chosen = distinct if thresholds is None else sorted(set(thresholds))
    scores = _outcomes(chat, think, ids, lambda sample: sample.score)
    tokens = _outcomes(chat, think, ids, lambda sample: sample.num_tokens)

    def at_thresholds(outcomes: Floats) -> list[float]:
        routed: list[float] = _routed(_once(len(ids)), outcomes, p, chosen)[0].tolist()
        return routed

    share, accuracy, mean_tokens = map(at_thresholds, (_share(len(ids)), scores, tokens))
    resampled, areas = [], []
    for weights in resampling_weights(len(ids), NUM_RESAMPLES, seed):
        resampled.append(_routed(weights, scores, p, chosen))
        areas.append(_area(weights, scores, p, distinct))
    intervals = percentile_intervals(np.concatenate(resampled)).tolist()
    return {
        "num_questions": len(ids),
        "seed": seed,
        "num_resamples": NUM_RESAMPLES,
        "area": float(_area(_once(len(ids)), scores, p, distinct)[0]),
        "area_ci95": percentile_intervals(np.concatenate(areas)[:, None])[0].tolist(),
        "points": [
            {
                "threshold": threshold,
                "share_think": share[i],
                "accuracy": accuracy[i],
                "ci95": intervals[i],
                "mean_tokens": mean_tokens[i],
                "random_accuracy": _mixed(scores, share[i]),
                "random_tokens": _mixed(tokens, share[i]),
            }
            for i, threshold in enumerate(chosen)
        ],
    }


def _routed(weights: Floats, outcomes: Floats, p: Floats, thresholds: Sequence[float]) -> Floats:
    """Weighted mean outcome at every threshold.

    Args:
        weights: (R, Q), rows that sum to 1.
        outcomes: (2, Q), chat's and think's.
        p: (Q,) p_think.
        thresholds: T of them.

    Returns:
        (R, T).
    """
    order = np.argsort(p, kind="stable")
    num_chat = np.searchsorted(p[order], thresholds, side="left")
    weights, (chat, think) = weights[:, order], outcomes[:, order]
    nothing = np.zeros((len(weights), 1))
    chat_sums = np.hstack([nothing, np.cumsum(weights * chat, axis=1)])
    think_sums = np.hstack([np.cumsum((weights * think)[:, ::-1], axis=1)[:, ::-1], nothing])
    both: Floats = chat_sums[:, num_chat] + think_sums[:, num_chat]
    return both


def _area(weights: Floats, scores: Floats, p: Floats, distinct: Sequence[float]) -> Floats:
    """(R,) area between the switcher's curve and the straight line between its ends, over the share.

    Between neighbouring points the curve is straight: questions of one p_think are told apart by chance.
    """
    share = _routed(weights, _share(len(p)), p, distinct)
    accuracy = _routed(weights, scores, p, distinct)
    under_curve = np.sum((share[:, :-1] - share[:, 1:]) * (accuracy[:, :-1] + accuracy[:, 1:]) / 2, axis=1)
    under_line = (accuracy[:, 0] + accuracy[:, -1]) / 2
    between: Floats = under_curve - under_line
    return between


def _once(num_questions: int) -> Floats:
    """(1, Q) weights of the questions as they are."""
    return np.full((1, num_questions), 1 / num_questions)


def _share(num_questions: int) -> Floats:
    """(2, Q) outcomes whose mean is the share that thinks."""
    return np.repeat([[0.0], [1.0]], num_questions, axis=1)


def _mixed(outcomes: Floats, share_think: float) -> float:
    """What routing a share at random comes to, on average."""
    chat, think = fmean(outcomes[0]), fmean(outcomes[1])
    return (1 - share_think) * chat + share_think * think


def _outcomes(
    chat: Sequence[Sample], think: Sequence[Sample], ids: Sequence[str], outcome: Callable[[Sample], float]
) -> Floats:
    """(2, Q) means over repetitions, on the chat and on the think route."""
    rows = []
    for samples in (chat, think):
        by_question: dict[str, list[float]] = {}
        for sample in samples:
            by_question.setdefault(sample.id, []).append(outcome(sample))
        rows.append([fmean(by_question[id_]) for id_ in ids])
    return np.array(rows)


def _common_ids(chat: Sequence[Sample], think: Sequence[Sample], p_think: Mapping[str, float]) -> list[str]:
    for samples, route in ((chat, Route.CHAT), (think, Route.THINK)):
        if astray := [sample.id for sample in samples if sample.route is not route]:
            raise ConfigError(
                f"{len(astray)} rows of the {route} run are not on the {route} route, e.g. {astray[0]!r}: "
                f"evaluate with --mode {route}"
            )
    found = {
        "the chat run": {sample.id for sample in chat},
        "the think run": {sample.id for sample in think},
        "p_think": set(p_think),
    }
    ids = set[str]().union(*found.values())
    if differing := sorted(id_ for id_ in ids if not all(id_ in there for there in found.values())):
        lacking = next(name for name, there in found.items() if differing[0] not in there)
        raise ConfigError(
            f"the chat run, the think run and p_think differ in {len(differing)} of {len(ids)} questions, "
            f"e.g. {lacking} lacks {differing[0]!r}: evaluate all on the same questions"
        )
    if not ids:
        raise ConfigError(
            "a threshold curve needs samples and there are none: evaluate at least one question"
        )
    return sorted(ids)

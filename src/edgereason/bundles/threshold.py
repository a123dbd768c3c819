"""Which threshold a switcher should have, by the probabilities that it gives.

    share      so large a share of the prompts thinks
    cost       the prompts that go the wrong way cost the least
    accuracy   the fewest tokens, at so high an accuracy of questions that were evaluated on both routes

A prompt that thinks without need costs seconds, and what chat says better; one that chats where thinking is
needed costs an answer. With C for the first and 1 for the second, the cost is C · (share of those labelled
chat that think) + (share of those labelled think that chat).

A threshold lies in the middle between the last prompt that chats and the first that thinks, so that the
rounding of another machine turns none of them over. The best of many cuts looks better than it is, so the
accuracy to expect is judged on questions that had no say.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from edgereason.errors import ConfigError
from edgereason.evals.curves.threshold import threshold_curve
from edgereason.evals.metrics import clustered_interval
from edgereason.evals.samples import Sample

_ALL_THE_SAME: Final = (
    "the switcher says the same of all {} prompts, so that no threshold tells them apart: "
    "give more prompts, or train another switcher"
)
_HALVES_SEED: Final = 0
"""Of the halves that choose for each other: always the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdPoint:
    """What a threshold comes to; accuracy and tokens where they were measured.

    Attributes:
        share_think: of the prompts that it was set on.
        chat_right: share of those labelled chat that chat; `think_right` of those labelled think that think.
        num_prompts: these.
        accuracy: on the questions that the threshold was chosen on, which is more than others will see.
        held_out_accuracy: expected of others: each half of the questions chose a threshold for the other
            half. None for fewer than two questions.
        mean_tokens: of a response.
        chat_accuracy, chat_tokens: if all of them chatted.
        think_accuracy, think_tokens: if all of them thought.
    """

    threshold: float
    share_think: float
    num_prompts: int
    chat_right: float | None = None
    think_right: float | None = None
    accuracy: float | None = None
    held_out_accuracy: float | None = None
    held_out_ci95: tuple[float, float] | None = None
    mean_tokens: float | None = None
    chat_accuracy: float | None = None
    chat_tokens: float | None = None
    think_accuracy: float | None = None
    think_tokens: float | None = None


def require_think_rate(share: float) -> None:
    """Refuses what is not a share of prompts.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ConfigError(
            f"a think rate must lie between 0 and 1, as 0.3, got {share:g}; --mode chat and --mode think are "
            "its ends"
        )


def require_needless_cost(cost: float) -> None:
    """Refuses what can't be the cost of a needless thought, next to 1 for a missing one.

    Raises:
        ConfigError: it is not above 0 and finite.
    """
    if not 0 < cost < float("inf"):
        raise ConfigError(
            f"the cost of a needless thought must be above 0, as 1 for as much as a missing one, got {cost:g}"
        )


def require_accuracy(accuracy: float) -> None:
    """Refuses an accuracy that nothing can have.

    Raises:
        ConfigError: it is not above 0 and up to 1.
    """
    if not 0 < accuracy <= 1:
        raise ConfigError(f"an accuracy must be above 0 and at most 1, as 0.6, got {accuracy:g}")


def threshold_for_share(p_think: Sequence[float], share: float) -> ThresholdPoint:
    """The threshold that lets a share of prompts think, as nearly as their probabilities can be told apart.

    Args:
        p_think: of each prompt.
        share: between 0 and 1, both left out.

    Raises:
        ConfigError: all probabilities are the same.
    """
    ranked, num = sorted(p_think, reverse=True), len(p_think)
    cuts = [count for count in range(1, num) if ranked[count - 1] > ranked[count]]
    if not cuts:
        raise ConfigError(_ALL_THE_SAME.format(num))
    count = min(cuts, key=lambda count: abs(count - share * num))
    return ThresholdPoint(
        threshold=_between(ranked[count], ranked[count - 1]), share_think=count / num, num_prompts=num
    )


def threshold_for_cost(said: Sequence[tuple[float, bool]], needless_cost: float) -> ThresholdPoint:
    """The threshold of least cost; see the module. Of several, the one with the widest gap around it.

    Args:
        said: of each prompt, the probability and whether it needs thinking.
        needless_cost: of a prompt that thinks without need, in costs of one that chats where it should think.

    Raises:
        ConfigError: all probabilities are the same, or those that count have one label only.
    """
    num, num_think = len(said), sum(needs for _, needs in said)
    if not 0 < num_think < num:
        raise ConfigError(
            f"{num_think} of the {num} prompts that fit in the context are labelled think; both labels are "
            "needed: give more prompts"
        )
    ranked = sorted(said, reverse=True)
    thinks, found = 0, list[tuple[float, float, int, int]]()
    for count in range(1, num):
        (above, needs), below = ranked[count - 1], ranked[count][0]
        thinks += needs
        if above > below:
            needless, missing = (count - thinks) / (num - num_think), (num_think - thinks) / num_think
            found.append((needless_cost * needless + missing, below - above, count, thinks))
    if not found:
        raise ConfigError(_ALL_THE_SAME.format(num))
    _, _, count, thinks = min(found)
    return ThresholdPoint(
        threshold=_between(ranked[count][0], ranked[count - 1][0]),
        share_think=count / num,
        num_prompts=num,
        chat_right=1 - (count - thinks) / (num - num_think),
        think_right=thinks / num_think,
    )


def threshold_for_accuracy(
    chat: Sequence[Sample], think: Sequence[Sample], p_think: Mapping[str, float], min_accuracy: float
) -> ThresholdPoint:
    """The threshold of fewest tokens that is accurate enough; thinking may be the longer route or not.

    Args:
        chat: rows of a run on the chat route.
        think: rows of a run on the think route, of the same questions.
        p_think: of each question.
        min_accuracy: above 0, at most 1.

    Raises:
        ConfigError: it is out of reach, or the runs don't go together.
    """
    curve = threshold_curve(chat, think, p_think)
    points: list[dict[str, Any]] = curve["points"]
    index = _cheapest(points, min_accuracy)
    if index is None:
        best = points[_best(points)]
        raise ConfigError(
            f"no threshold reaches an accuracy of {min_accuracy:.1%} on these {curve['num_questions']} "
            f"questions: the best is {best['accuracy']:.1%}, with {best['share_think']:.0%} of them thinking"
        )
    chosen, all_think, all_chat = points[index], points[0], points[-1]
    held_out, interval = _held_out(chat, think, p_think, min_accuracy)
    return ThresholdPoint(
        threshold=_threshold_at(points, index),
        share_think=chosen["share_think"],
        num_prompts=curve["num_questions"],
        accuracy=chosen["accuracy"],
        held_out_accuracy=held_out,
        held_out_ci95=interval,
        mean_tokens=chosen["mean_tokens"],
        chat_accuracy=all_chat["accuracy"],
        chat_tokens=all_chat["mean_tokens"],
        think_accuracy=all_think["accuracy"],
        think_tokens=all_think["mean_tokens"],
    )


def _cheapest(points: Sequence[Mapping[str, Any]], min_accuracy: float) -> int | None:
    """The point of fewest tokens among those that are accurate enough; of several, the fewest that think."""
    enough = (i for i, point in enumerate(points) if point["accuracy"] >= min_accuracy)
    return min(enough, key=lambda i: (points[i]["mean_tokens"], -i), default=None)


def _best(points: Sequence[Mapping[str, Any]]) -> int:
    """The most accurate point; of several, that of fewest questions that think."""
    return max(range(len(points)), key=lambda i: (points[i]["accuracy"], i))


def _threshold_at(points: Sequence[Mapping[str, Any]], index: int) -> float:
    threshold: float = points[index]["threshold"]
    at_end = index in (0, len(points) - 1)
    return threshold if at_end else _between(points[index - 1]["threshold"], threshold)


def _held_out(
    chat: Sequence[Sample], think: Sequence[Sample], p_think: Mapping[str, float], min_accuracy: float
) -> tuple[float | None, tuple[float, float] | None]:
    """Accuracy, with its interval, of questions that had no say in their threshold.

    A half that falls short of the accuracy chooses the best that it has.
    """
    ids = sorted(p_think)
    random.Random(_HALVES_SEED).shuffle(ids)
    halves = frozenset(ids[::2]), frozenset(ids[1::2])
    if not halves[1]:
        return None, None
    scores: dict[str, list[float]] = {}
    for own, other in (halves, halves[::-1]):
        chats, thinks = ([row for row in route if row.id in own] for route in (chat, think))
        points = threshold_curve(chats, thinks, {id_: p_think[id_] for id_ in own})["points"]
        index = _cheapest(points, min_accuracy)
        threshold = _threshold_at(points, _best(points) if index is None else index)
        for id_ in other:
            route = think if p_think[id_] >= threshold else chat
            scores[id_] = [row.score for row in route if row.id == id_]
    return fmean(map(fmean, scores.values())), clustered_interval(scores)


def _between(low: float, high: float) -> float:
    """A number above `low` and up to `high`, in their middle where floats allow."""
    middle = (low + high) / 2
    return middle if low < middle else high

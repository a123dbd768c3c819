"""What an update of GRPO did, in figures, and when it looks as if the policy were collapsing.

Figures are of every group that was drawn, those without spread too: what the policy does, not what it learns
from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Final, Self

from edgereason.train.grpo.groups import Groups
from edgereason.train.grpo.reward import Outcome

_WINDOW: Final = 5
"""Updates that are averaged before one is held against another."""
_LEAST_TOKENS: Final = 8.0
_MOST_KL: Final = 0.25
_LEAST_APART: Final = 1.1
"""Mean length under the largest budget, over that under the smallest."""
_MOST_MISMATCH: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFigures:
    """What the policy's responses were like.

    Attributes:
        mean_tokens: thinking and answer, as the budget counts.
        mean_answer_tokens: behind the closing: where thinking would hide from a penalty on thinking alone.
        tokens_by_bucket: the mean for each budget.
        accuracy_by_bucket: the share that was right.
        share_within: that ended by themselves within (1+m)B.
        groups: that were drawn; `dropped` of them had no spread.
        tokens_per_s: sampled, over the whole drawing.
    """

    reward: float
    accuracy: float
    mean_tokens: float
    mean_answer_tokens: float
    tokens_by_bucket: dict[int, float]
    accuracy_by_bucket: dict[int, float]
    share_within: float
    groups: int
    dropped: int
    tokens_per_s: float

    @classmethod
    def of(cls, groups: Groups, seconds: float) -> RolloutFigures:
        """The figures of a drawing that took so many seconds."""
        responses = [one for group in groups.drawn for one in group.responses]
        by_bucket: dict[int, list[Outcome]] = {}
        for group in groups.drawn:
            by_bucket.setdefault(group.bucket, []).extend(one.outcome for one in group.responses)
        buckets = sorted(by_bucket)
        return cls(
            reward=fmean(one.reward for one in responses),
            accuracy=fmean(one.outcome.is_right for one in responses),
            mean_tokens=fmean(one.outcome.num_tokens for one in responses),
            mean_answer_tokens=fmean(one.outcome.answer_tokens for one in responses),
            tokens_by_bucket={b: fmean(one.num_tokens for one in by_bucket[b]) for b in buckets},
            accuracy_by_bucket={b: fmean(one.is_right for one in by_bucket[b]) for b in buckets},
            share_within=fmean(one.is_within for one in responses),
            groups=len(groups.drawn),
            dropped=len(groups.dropped),
            tokens_per_s=sum(len(one.drawn.ids) for one in responses) / max(seconds, 1e-9),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateFigures:
    """An update.

    Attributes:
        seconds: that it took, drawing and learning.
        loss: of TRL, with the KL's share.
        kl: to the adapter that the run began with, in nats a token, as entropies are; None, as all figures of
            tokens, where no group had spread and nothing was learned.
        mismatch: mean |log p| between the engine that drew and torch, on the same adapter.
        clipped: share of tokens whose ratio was clipped.
        trained_tokens_per_s: tokens that were learned from, over the update without its drawing.
    """

    step: int
    steps: int
    seconds: float
    loss: float
    learning_rate: float
    grad_norm: float
    kl: float | None
    entropy: float | None
    mismatch: float | None
    clipped: float | None
    trained_tokens_per_s: float
    rollouts: RolloutFigures

    def to_json(self) -> dict[str, Any]:
        """As a line of the metrics."""
        return asdict(self)

    def texts(self) -> list[str]:
        """What there is to say of it, a figure each."""
        rollouts = self.rollouts
        by_bucket = ", ".join(
            f"{tokens:.0f} of {bucket}" for bucket, tokens in rollouts.tokens_by_bucket.items()
        )
        return [
            f"reward {rollouts.reward:.3f}",
            f"right {rollouts.accuracy:.0%}",
            f"tokens {rollouts.mean_tokens:.0f} ({by_bucket})",
            f"after the closing {rollouts.mean_answer_tokens:.0f}",
            f"within (1+m)B {rollouts.share_within:.0%}",
            f"KL {_known(self.kl, '.4f')}",
            f"entropy {_known(self.entropy, '.3f')}",
            f"engine/torch gap {_known(self.mismatch, '.4f')}",
            f"clipped {_known(self.clipped, '.1%')}",
            f"groups dropped {rollouts.dropped} of {rollouts.groups}",
            f"drawn {rollouts.tokens_per_s:.0f} tok/s",
            f"learned {self.trained_tokens_per_s:.0f} tok/s",
        ]

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Self:
        """The update that `to_json` made."""
        rollouts = dict(line["rollouts"])
        for name in ("tokens_by_bucket", "accuracy_by_bucket"):
            rollouts[name] = {int(bucket): value for bucket, value in rollouts[name].items()}
        return cls(**line | {"rollouts": RolloutFigures(**rollouts)})


def _known(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def alarms(updates: Sequence[UpdateFigures]) -> list[str]:
    """What looks wrong in the latest updates, against the first ones where there are enough."""
    found: list[str] = []
    if not updates:
        return found
    last = updates[-_WINDOW:]
    if (kl := _mean(one.kl for one in last)) is not None and kl > _MOST_KL:
        found.append(f"the KL is {kl:.2f} nats a token: raise beta, or lower the learning rate")
    if (gap := _mean(one.mismatch for one in last)) is not None and gap > _MOST_MISMATCH:
        found.append(f"engine and torch differ by {gap:.3f} nats a token: the ratios mean little")
    if (tokens := fmean(one.rollouts.mean_tokens for one in last)) < _LEAST_TOKENS:
        found.append(f"responses have {tokens:.0f} tokens: the policy has stopped thinking")
    if all(one.rollouts.dropped == one.rollouts.groups for one in last):
        found.append("no group has any spread: nothing is learned")
    if len(updates) >= 2 * _WINDOW:
        first = updates[:_WINDOW]
        if (apart := _apart(last)) is not None and apart < _LEAST_APART <= (_apart(first) or 0):
            found.append(
                f"the longest budget uses only {apart:.2f} × the tokens of the shortest: "
                "budgets have collapsed"
            )
        figures: dict[str, Callable[[UpdateFigures], float | None]] = {
            "accuracy": lambda one: one.rollouts.accuracy,
            "entropy": lambda one: one.entropy,
        }
        for name, figure in figures.items():
            before, now = _mean(map(figure, first)), _mean(map(figure, last))
            if before is not None and now is not None and now < 0.5 * before:
                found.append(f"the {name} fell from {before:.3f} to {now:.3f}")
    return found


def _apart(updates: Sequence[UpdateFigures]) -> float | None:
    """Mean length under the largest budget, over that under the smallest; None unless both were drawn."""
    lengths: dict[int, list[float]] = {}
    for one in updates:
        for bucket, tokens in one.rollouts.tokens_by_bucket.items():
            lengths.setdefault(bucket, []).append(tokens)
    if len(lengths) < 2:
        return None
    return fmean(lengths[max(lengths)]) / max(1e-9, fmean(lengths[min(lengths)]))


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None

"""What a response is worth: right, and within its budget.

::

    R_budget
       1 ─────────╮
                   ╲            R = R_acc · R_budget(L)
       p            ╰──────     L = all tokens: thinking, closing and answer
           (1−m)B  (1+m)B  L

A wrong answer is worth nothing however short, so brevity is only ever bought with right answers. `additive`
and `thinking` are there to be compared with, and each has the flaw that the paper names: one pays for being
short and wrong, the other for thinking aloud behind the closing.

Source: paper section 3 (soft barrier, floor p, margin m). Deviation: none in `barrier`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from edgereason.errors import ConfigError


class RewardKind(StrEnum):
    """How accuracy and budget go together."""

    BARRIER = "barrier"
    """R_acc · R_budget(L)."""
    ADDITIVE = "additive"
    """R_acc − w · (1 − R_budget(L)): being long costs the same whether right or wrong."""
    THINKING = "thinking"
    """R_acc · R_budget(L_thinking): what stands behind the closing is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """How responses are rewarded.

    Attributes:
        kind: of the reward.
        margin: m, from 0 (a step at B) to 1 (a slope from 0 to 2B). Another than `HINT_MARGIN` is for
            studies: the runtime knows that one alone.
        floor: p, what a right answer beyond (1+m)B is worth.
        weight: w of the additive penalty.
    """

    kind: RewardKind = RewardKind.BARRIER
    margin: float = 0.25
    floor: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1:
            raise ConfigError(f"[reward] margin must be from 0 to 1, got {self.margin:g}")
        if not self.floor < 1:
            raise ConfigError(f"[reward] floor must be below 1, got {self.floor:g}")
        if self.weight < 0:
            raise ConfigError(f"[reward] weight must be 0 or more, got {self.weight:g}")

    def most_tokens(self, bucket_tokens: int) -> int:
        """The longest response within the budget: (1+m)B, rounded down."""
        return int((1 + self.margin) * bucket_tokens + 1e-9)  # 1.15 · 100 is 114.99… in floats

    def cap_tokens(self, bucket_tokens: int) -> int:
        """How far a response is drawn: to where it is worth nothing any more.

        That is (1+m)B under a barrier that ends in nothing; what has come so far is cut. Where a right answer
        behind it is worth a floor, or where not all tokens count alike, twice as far.
        """
        is_plain = self.kind is RewardKind.BARRIER and self.floor == 0
        return self.most_tokens(bucket_tokens) * (1 if is_plain else 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a response came to, counted as the budget counts: without opening, hint and end of turn."""

    is_right: bool
    thinking_tokens: int
    answer_tokens: int

    @property
    def num_tokens(self) -> int:
        """L: thinking, closing and answer."""
        return self.thinking_tokens + self.answer_tokens


def soft_barrier(num_tokens: int, bucket_tokens: int, *, margin: float, floor: float) -> float:
    """R_budget(L): 1 up to (1−m)B, the floor p beyond (1+m)B, a straight line between.

    Args:
        num_tokens: L.
        bucket_tokens: B.
        margin: m, in [0, 1].
        floor: p, below 1.

    Source: paper section 3: 1 if L ≤ L_low; p if L > L_high; else 1 − (1−p)(L − L_low)/(L_high − L_low).
    """
    low, high = (1 - margin) * bucket_tokens, (1 + margin) * bucket_tokens
    if num_tokens <= low:
        return 1.0
    if num_tokens > high:
        return floor
    return 1 - (1 - floor) * (num_tokens - low) / (high - low)


def reward(outcome: Outcome, bucket_tokens: int, config: RewardConfig) -> float:
    """What a response to a request with this budget is worth."""
    counted = outcome.thinking_tokens if config.kind is RewardKind.THINKING else outcome.num_tokens
    barrier = soft_barrier(counted, bucket_tokens, margin=config.margin, floor=config.floor)
    if config.kind is RewardKind.ADDITIVE:
        return float(outcome.is_right) - config.weight * (1 - barrier)
    return barrier if outcome.is_right else 0.0

"""Figures of an update of GRPO, for tests of what is said of them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from edgereason.train.grpo.metrics import RolloutFigures, UpdateFigures

STEADY = UpdateFigures(
    step=0,
    steps=20,
    seconds=1.0,
    loss=0.0,
    learning_rate=1e-4,
    grad_norm=1.0,
    kl=0.01,
    entropy=0.6,
    mismatch=0.01,
    clipped=0.0,
    trained_tokens_per_s=1.0,
    rollouts=RolloutFigures(
        reward=0.5,
        accuracy=0.5,
        mean_tokens=100.0,
        mean_answer_tokens=10.0,
        tokens_by_bucket={64: 60.0, 128: 90.0},
        accuracy_by_bucket={},
        share_within=1.0,
        groups=4,
        dropped=0,
        tokens_per_s=1.0,
    ),
)


def update_figures(step: int = 0, **changes: Any) -> UpdateFigures:
    """A steady update but for `changes`, by the names of its figures or of its rollouts'."""
    of_rollouts = {one.name: changes.pop(one.name) for one in fields(RolloutFigures) if one.name in changes}
    return replace(STEADY, step=step, rollouts=replace(STEADY.rollouts, **of_rollouts), **changes)

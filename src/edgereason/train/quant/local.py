"""Local pre-optimisation: transforms that make weights even, before any data is seen.

    minimise  Σ over matrices (mean |W_merged|⁴)^¼

A few large weights set a grid's range for all others; the fourth power counts them most. Every step looks at
some layers and some rows of embedding and head, which leaves the sum's expectation as it is.

Source: paper section 5 and FPTQuant (AdamW 1e-2, 200 steps, p = 4). Deviation: layers and rows are sampled,
since merging a whole model takes half a minute a step on two cores; the union of all transforms is optimised,
where the public code leaves T_k out as soon as T_r is used.

Knows transforms and weights; does not know grids or texts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from edgereason.errors import ConfigError
from edgereason.train.quant.student import Student

_POWER: Final = 4
_ROWS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConfig:
    """How long to pre-optimise.

    Attributes:
        steps: 0 for not at all.
        learning_rate: of AdamW.
        layers: looked at in each step.
    """

    steps: int = 0
    learning_rate: float = 1e-2
    layers: int = 4

    def __post_init__(self) -> None:
        if self.steps < 0 or self.learning_rate <= 0 or self.layers < 1:
            raise ConfigError(f"[local] needs steps ≥ 0, learning_rate > 0 and layers ≥ 1, got {self}")


def unevenness(weight: Tensor) -> Tensor:
    """(mean |W|⁴)^¼."""
    return weight.pow(_POWER).mean().pow(1 / _POWER)


def pre_optimise(
    student: Student,
    config: LocalConfig,
    seed: int,
    report: Callable[[int, float], None],
    should_stop: Callable[[], bool],
) -> None:
    """Moves the student's transforms to where its weights are evenest.

    Args:
        report: told (steps done, loss) after each.
        should_stop: leaves the transforms where they are.
    """
    parameters = list(student.transforms.parameters())
    if not parameters or not config.steps:
        return
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    random = torch.Generator().manual_seed(seed)
    for step in range(config.steps):
        if should_stop():
            return
        loss = student.unevenness(unevenness, config.layers, _ROWS, random)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        report(step + 1, loss.item())

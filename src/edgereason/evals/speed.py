"""How fast an evaluation went, and how much of its time the engine did not have.

::

    wall time  ≈  prompt tokens / prefill speed  +  generated tokens / decode speed of the full batch
                        └────────────────── the ideal ──────────────────┘

What the ratio of the two adds to 1 is the batch draining at the end, grading, and writing. Prefill speed is
over the seconds from each request's acceptance to its first token, while nothing else runs; decode speed
over the steps in which the batch was full.

Knows seconds, steps and tokens; does not know questions or answers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from edgereason.engine.base import Engine
from edgereason.reasoning.batch import Batch

_FULL: Final = 0.9
"""A step counts as one of the full batch from this share of the most streams on."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the batch."""

    num_streams: int
    seconds: float


class TimedBatch(Batch):
    """A batch that notes what each step took."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.steps: list[Step] = []

    def step(self) -> None:
        num_streams, start_s = self.num_running, time.perf_counter()
        super().step()
        self.steps.append(Step(num_streams, time.perf_counter() - start_s))


def full_batch_rate(steps: list[Step]) -> float | None:
    """Tokens a second over the steps in which the batch was full; None without steps."""
    most = max((step.num_streams for step in steps), default=0)
    full = [step for step in steps if step.num_streams >= _FULL * most]
    seconds = sum(step.seconds for step in full)
    return sum(step.num_streams for step in full) / seconds if seconds else None


@dataclass(slots=True)
class Speed:
    """What one sitting of an evaluation took; adds up as samples come in."""

    steps: list[Step] = field(default_factory=list)
    num_samples: int = 0
    prompt_tokens: int = 0
    prefill_s: float = 0.0
    generated_tokens: int = 0

    def add(self, *, prompt_tokens: int, prefill_s: float, generated_tokens: int) -> None:
        """Counts a finished sample in."""
        self.num_samples += 1
        self.prompt_tokens += prompt_tokens
        self.prefill_s += prefill_s
        self.generated_tokens += generated_tokens

    def summary(self, wall_s: float) -> dict[str, float | int | None]:
        """The figures of a sitting that took `wall_s`; rates in tokens a second."""
        decode_rate = full_batch_rate(self.steps)
        ideal_s = self.prefill_s + (self.generated_tokens / decode_rate if decode_rate else 0.0)
        return {
            "timed_samples": self.num_samples,
            "wall_s": wall_s,
            "wall_ratio": wall_s / ideal_s if ideal_s else None,
            "prefill_tokens_per_s": self.prompt_tokens / self.prefill_s if self.prefill_s else None,
            "decode_tokens_per_s": decode_rate,
            "tokens_per_s": self.generated_tokens / wall_s if wall_s else None,
            "mean_streams": _mean_streams(self.steps),
        }


def _mean_streams(steps: list[Step]) -> float | None:
    """Streams that ran in a step on average, weighted by time."""
    seconds = sum(step.seconds for step in steps)
    return sum(step.num_streams * step.seconds for step in steps) / seconds if seconds else None

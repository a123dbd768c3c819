"""How fast this machine goes, as far as it has been seen, and what that leaves until a deadline.

::

    accepted ── prefill ── step step step … ──┬─ verification ─┤ deadline
                            └─ each timed ────┘
                               left = ⌊(deadline − now − verification) ÷ seconds of a step⌋

A step's seconds depend on how many streams it carries, and drift: they are the median of the last steps with
as many streams, which a hiccup leaves as it is. What has not been seen is put together from what has.

Knows seconds and counts; does not know tokens' text, engines or what the time is spent on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Final

_LAST_STEPS: Final = 8
"""Steps that an estimate is over: few enough to follow a drift."""

_SHORTEST_S: Final = 1e-6
"""No step takes less, whatever a clock says."""

_SURE_TOKENS: Final = 32
"""From so many tokens on, encoding is bound by arithmetic, and its time by their number."""

_MARGIN: Final = 1.5
"""Steps may get so much faster while a request runs."""

_FASTEST_BYTES_PER_S: Final = 50e9
"""Before anything was measured: weights are read no faster than this, which a good phone's memory can do."""


class Pace:
    """What steps and prefill have taken, over all requests of a pipeline.

    Args:
        weights_bytes: size of the model, whose weights every step reads.
    """

    def __init__(self, weights_bytes: int) -> None:
        self._unseen_s = max(weights_bytes / _FASTEST_BYTES_PER_S, _SHORTEST_S)
        self._steps: dict[int, deque[float]] = {}
        self._encode_s_per_token: float | None = None

    def note_step(self, num_streams: int, seconds: float) -> None:
        """A step with so many streams took so long."""
        self._steps.setdefault(num_streams, deque(maxlen=_LAST_STEPS)).append(max(seconds, _SHORTEST_S))

    def note_encoding(self, num_tokens: int, seconds: float) -> None:
        """A prompt, or the rest of one, took so long to encode; of short ones only the first counts."""
        if num_tokens >= _SURE_TOKENS or (num_tokens and self._encode_s_per_token is None):
            self._encode_s_per_token = seconds / num_tokens

    def step_s(self, num_streams: int) -> float:
        """Seconds of a step with so many streams.

        Of a number not seen yet: that of the nearest number seen, which can't cost less with fewer streams
        and not more than in proportion with more; before anything was seen, what the machine could do at
        best.
        """
        if num_streams in self._steps:
            return median(self._steps[num_streams])
        if not self._steps:
            return self._unseen_s
        nearest = min(self._steps, key=lambda seen: (abs(seen - num_streams), seen))
        return median(self._steps[nearest]) * max(1.0, num_streams / nearest)

    def most_steps(self, num_streams: int, seconds: float) -> int:
        """So many steps at the most, to set cells aside for: a step costs no less with more streams."""
        seen = [number for number in self._steps if number <= num_streams]
        best_s = median(self._steps[max(seen)]) / _MARGIN if seen else self._unseen_s
        return int(seconds / best_s) + 1

    def least_s(self, num_streams: int, num_prompt_tokens: int, num_steps: int) -> float:
        """Seconds that a request takes at the least, by what was seen; 0 before anything was."""
        seen = [number for number in self._steps if number <= num_streams]
        step_s = median(self._steps[max(seen)]) if seen else 0.0
        return self.encode_s(num_prompt_tokens) + num_steps * step_s

    @property
    def has_seen_steps(self) -> bool:
        """Whether any step was timed yet."""
        return bool(self._steps)

    def encode_s(self, num_tokens: int) -> float:
        """Seconds to encode so many tokens; 0 before any encoding was seen."""
        return num_tokens * (self._encode_s_per_token or 0.0)


class Deadline:
    """When a request must have ended, told in steps.

    Args:
        ends_s: on the clock.
        pace: of the machine.
        num_streams: that run; whoever watches them keeps it true.
        verifying_tokens: of a stream's verification, which follows its last step; 0 without a verifier.
        clock: seconds.
    """

    def __init__(
        self,
        ends_s: float,
        pace: Pace,
        *,
        num_streams: int,
        verifying_tokens: int = 0,
        clock: Callable[[], float],
    ) -> None:
        self.num_streams = num_streams
        self._ends_s = ends_s
        self._pace = pace
        self._verifying_tokens = verifying_tokens
        self._clock = clock

    def left_steps(self, forced_tokens: int = 0) -> int:
        """Steps for which there is time, beside `forced_tokens` of every stream; 0 once there is none.

        All streams have the same deadline, so that what is forced is forced on all of them at once.
        """
        owed_s = self._pace.encode_s(self.num_streams * (self._verifying_tokens + forced_tokens))
        left_s = self._ends_s - self._clock() - owed_s
        return max(0, int(left_s / self._pace.step_s(self.num_streams)))

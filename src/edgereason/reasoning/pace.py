"""How fast this machine goes, as far as it has been seen, and what that leaves until a deadline.

::

    accepted ── prefill ── step step step … ──┬─ verification ─┤ deadline
                            └─ each timed ────┘
                               left = ⌊(deadline − now − verification) ÷ seconds of a step⌋

A step's seconds depend on how many streams it carries, whoever asked for them, and drift: they are the median
of the last steps with as many streams, which a hiccup leaves as it is. What has not been seen is put together
from what has. Whether a request is possible at all is judged by the fastest that was seen: a slow minute must
not shut out what comes after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Final

_LAST: Final = 8
"""Steps and encodings that an estimate is over: few enough to follow a drift."""

_SHORTEST_S: Final = 1e-6
"""No step takes less, whatever a clock says."""

_SURE_TOKENS: Final = 32
"""From so many tokens on, encoding is bound by arithmetic, and its time by their number."""

_MARGIN: Final = 4.0
"""Steps may get so much faster than what was seen of them: it may have been a slow hour."""

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
        self._latest_streams = 0
        self._stand_in: tuple[int, float] | None = None
        self._encodings: deque[float] = deque(maxlen=_LAST)
        self._are_sure = False
        self.slowdown = 1.0
        """How much longer it is from step to step than a step takes: 2 while a prompt is read in between."""

    def note_step(self, num_streams: int, seconds: float) -> None:
        """A step with so many streams took so long."""
        if self._latest_streams > num_streams:  # a stream ended; what was seen of so few may be old
            bound = median(self._steps[self._latest_streams])
            if self.step_s(num_streams) >= bound:
                self._steps[num_streams] = deque([bound] * _LAST, maxlen=_LAST)
        self._steps.setdefault(num_streams, deque(maxlen=_LAST)).append(max(seconds, _SHORTEST_S))
        self._latest_streams = num_streams

    def note_stand_in(self, num_tokens: int, seconds: float) -> None:
        """So many tokens of one stream took so long: what a step costs, until one was seen."""
        self._stand_in = num_tokens, max(seconds, _SHORTEST_S)

    def note_encoding(self, num_tokens: int, seconds: float) -> None:
        """A prompt, or the rest of one, took so long to encode; short ones count until a long one comes."""
        is_sure = num_tokens >= _SURE_TOKENS
        if num_tokens == 0 or (self._are_sure and not is_sure):
            return
        if is_sure and not self._are_sure:
            self._encodings.clear()
            self._are_sure = True
        self._encodings.append(seconds / num_tokens)

    @property
    def has_seen_steps(self) -> bool:
        """Whether any step was timed yet."""
        return bool(self._steps)

    def step_s(self, num_streams: int) -> float:
        """Seconds of a step with so many streams.

        Of a number not seen yet: that of the nearest number seen, which can't cost less with fewer streams
        and not more than in proportion with more; before anything was seen, what the machine could do at
        best. Never more than a step with more streams that was seen just now.
        """
        if not self._steps:
            if self._stand_in is None:
                return self._unseen_s
            num_tokens, seconds = self._stand_in
            return seconds * max(1.0, num_streams / num_tokens)
        nearest = min([*self._steps], key=lambda seen: (abs(seen - num_streams), seen))
        seconds = median(self._steps[nearest]) * max(1.0, num_streams / nearest)
        if self._latest_streams > num_streams:
            seconds = min(seconds, median(self._steps[self._latest_streams]))
        return seconds

    def encode_s(self, num_tokens: int) -> float:
        """Seconds to encode so many tokens; 0 before any encoding was seen."""
        return num_tokens * median(self._encodings) if self._encodings else 0.0

    def most_steps(self, num_streams: int, seconds: float) -> int:
        """So many steps fit, to set cells aside for: a step costs no less with more streams."""
        seen = self._fewer_or_equal(num_streams)
        return int(seconds / (median(seen) / _MARGIN if seen else self._unseen_s)) + 1

    def least_s(self, num_streams: int, num_prompt_tokens: int, num_steps: int) -> float:
        """Seconds that a request takes on the best terms that were seen; 0 before anything was."""
        steps_s = num_steps * min(self._fewer_or_equal(num_streams), default=0.0)
        return steps_s + num_prompt_tokens * min(self._encodings, default=0.0)

    def _fewer_or_equal(self, num_streams: int) -> deque[float]:
        """The last steps with as many streams, or the most below that."""
        seen = [number for number in [*self._steps] if number <= num_streams]
        return self._steps[max(seen)] if seen else deque()


class Deadline:
    """When a request must have ended, told in steps.

    Args:
        ends_s: on the clock.
        pace: of the machine.
        num_streams: of the request that run; whoever watches them keeps it true.
        verifying_tokens: of a stream's verification, which follows its last step; 0 without a verifier.
        in_step: how many streams a step carries, those of others among them; by default the request's.
        clock: seconds.
    """

    def __init__(
        self,
        ends_s: float,
        pace: Pace,
        *,
        num_streams: int,
        verifying_tokens: int = 0,
        in_step: Callable[[], int] = lambda: 0,
        clock: Callable[[], float],
    ) -> None:
        self.num_streams = num_streams
        self._ends_s = ends_s
        self._pace = pace
        self._verifying_tokens = verifying_tokens
        self._in_step = in_step
        self._clock = clock

    @property
    def is_over(self) -> bool:
        """Whether it has passed."""
        return self._clock() >= self._ends_s

    def left_steps(self, forced_tokens: int = 0) -> int:
        """Steps for which there is time, beside `forced_tokens` of every stream; 0 once there is none.

        All streams have the same deadline, so that what is forced is forced on all of them at once.
        """
        owed_s = self._pace.encode_s(self.num_streams * (self._verifying_tokens + forced_tokens))
        left_s = self._ends_s - self._clock() - owed_s
        return max(0, int(left_s / self._step_s(max(self.num_streams, self._in_step()))))

    @property
    def left_s(self) -> float:
        """Seconds until then; below 0 once it has passed."""
        return self._ends_s - self._clock()

    def has_time_for(self, seconds: float) -> bool:
        """Whether so much is left."""
        return self.left_s > seconds

    def _step_s(self, num_streams: int) -> float:
        return self._pace.step_s(num_streams) * self._pace.slowdown

    def most_closings(self, num_thinking: int, forced_tokens: int, answer_tokens: int) -> int:
        """How many of the streams that still think can be closed in time and then say so many tokens.

        What would be forced on the others, their verification and their part of a step is saved.
        """
        left_s, others = self._ends_s - self._clock(), self.num_streams - num_thinking
        for number in range(num_thinking, 0, -1):
            num_given_up = num_thinking - number
            forced = number * forced_tokens + (others + number) * self._verifying_tokens
            steps_s = self._step_s(max(others + number, self._in_step() - num_given_up))
            if self._pace.encode_s(forced) + answer_tokens * steps_s <= left_s:
                return number
        return 0

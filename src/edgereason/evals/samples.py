"""One row of a run: what was asked, what every stream said, whether it was right, what it took.

Rows are identified by (id, repeat) and kept in a journal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgereason.core.types import Route, Stop
from edgereason.records.journal import JournalRow, read_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTrace:
    """One stream of a sample; counts as the budget counts them, `token_ids` without the end of turn.

    `score` is the task's, in [0, 1]; `verifier_score` the verifier's, None without one. A cancelled stream
    has no answer and scores 0.
    """

    index: int
    stop: Stop
    thinking_tokens: int
    answer_tokens: int
    answer: str | None
    score: float
    verifier_score: float | None
    thinking: str | None
    text: str
    token_ids: tuple[int, ...]
    forced: tuple[int, ...] = ()
    """Positions in `token_ids` that were forced, not sampled."""

    @property
    def num_tokens(self) -> int:
        """Tokens spent, as the budget counts them."""
        return self.thinking_tokens + self.answer_tokens

    @property
    def has_begun(self) -> bool:
        """As `Trace.has_begun`: whether the stream ran at all."""
        return self.num_tokens > 0 or self.stop is not Stop.CANCELLED


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(JournalRow):
    """One question asked once.

    Attributes:
        id: the question's; `repeat` tells its repetitions apart.
        score: of the answer that won the vote, in [0, 1].
        thinking_tokens: of the winning stream, as `answer_tokens`.
        all_streams_tokens: what all streams spent together.
        winner: index of the winning trace; None if no trace had an answer.
        traces: every stream, by index.
        verify_s: of `total_s`, in the verifier; None of rows that were written before it was counted.
    """

    id: str
    repeat: int
    seed: int
    route: Route
    p_think: float | None
    reference: str
    answer: str
    score: float
    stop: Stop
    winner: int | None
    prompt_tokens: int
    thinking_tokens: int
    answer_tokens: int
    all_streams_tokens: int
    kv_bytes: int
    ttft_s: float
    total_s: float
    traces: tuple[RecordedTrace, ...]
    verify_s: float | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the row in its run."""
        return self.id, self.repeat

    @property
    def num_tokens(self) -> int:
        """Length of the response: tokens of the winning stream."""
        return self.thinking_tokens + self.answer_tokens


def read_samples(folder: Path) -> list[Sample]:
    """All whole rows of a run, in the order in which they were written.

    Raises:
        ConfigError: there are none, or one can't be read.
    """
    return read_rows(folder, Sample)

"""What happens while a request is answered, in the order in which a person wants to see it.

A run yields these; the last one is `Answered`. `Queued` comes from whoever starts runs. `STEP` is for the
driver alone: the run can't go on before the batch has taken a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgereason.core.types import Candidate, Response, Route
from edgereason.reasoning.control import Phase


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the caller should know: a vote that fell back, a route that could not be chosen."""

    text: str


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits for others to end; `place` 1 is the next one to begin."""

    place: int


@dataclass(frozen=True, slots=True)
class Reading:
    """The prompt is being encoded, a chunk at a time.

    Attributes:
        done_tokens: of the prompt, that are there by now; `cached_tokens` of them were there before.
    """

    done_tokens: int
    total_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Routed:
    """The prompt is encoded and the route is chosen.

    Attributes:
        limit_tokens: most tokens of a stream.
        limit_s: seconds for it all, if the budget names some; which of the two runs out first is open.
    """

    route: Route
    p_think: float | None
    prompt_tokens: int
    num_streams: int
    limit_tokens: int
    limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A stream said something; `num_tokens` is what it has spent so far.

    All texts of the phase *answer* are the trace's `text`; the closing goes with the thinking.
    """

    stream: int
    phase: Phase
    text: str
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A stream came to its end, or was cancelled."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Tallied:
    """The vote as it stands: (answer, strength), strongest first."""

    standing: tuple[tuple[str, float], ...]
    num_running: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The end."""

    response: Response


class Step:
    """The type of `STEP`."""


STEP: Final = Step()

Event = Queued | Reading | Notice | Routed | Text | Ended | Tallied | Answered

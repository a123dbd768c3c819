"""The values that travel through edgereason: what is asked, what may be spent, what came out.

Plain frozen dataclasses. They know nothing of tokens' text, of engines or of files; ranges are checked
where a value is made, so that whoever holds one may trust it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal, get_args

from edgereason.core.checks import (
    MAX_INT32,
    member,
    refusal,
    refusing_unknown_fields,
    require,
    require_int,
    require_one_of,
    require_text,
    shown,
    whole_number,
)
from edgereason.errors import RequestError

MAX_STREAMS: Final = 64
"""Most streams of one request."""

MAX_SECONDS: Final = 3600.0
"""Longest budget in seconds."""

_BUDGET: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s?)\s*", re.ASCII)

DEFAULT_CHAT_TOKENS: Final = 1024
"""Cap on a chat answer when the caller names none: a small model that rambles must end somewhere."""


FinishReason = Literal["stop", "length"]
"""Why an answer ended, in the words of OpenAI's protocol; see `Stop.finish_reason`."""


class Mode(StrEnum):
    """What the caller asks for; `AUTO` lets the switcher decide."""

    CHAT = "chat"
    THINK = "think"
    AUTO = "auto"


class Route(StrEnum):
    """What a request got."""

    CHAT = "chat"
    THINK = "think"


class Vote(StrEnum):
    """How candidates become one answer."""

    MAJORITY = "majority"
    WEIGHTED = "weighted"
    BEST = "best"


class Stop(StrEnum):
    """Why a stream ended."""

    NATURAL = "natural"
    """The model ended its turn."""
    EMPTY = "empty"
    """The model ended its turn at once: it said nothing."""
    BUDGET = "budget"
    """The budget closed the stream by force."""
    LENGTH = "length"
    """`max_tokens` or the context ended it."""
    STOP_STRING = "stop_string"
    """A stop string ended the answer, which ends before it."""
    CANCELLED = "cancelled"
    """The caller ended it, a vote that was decided, or a deadline that left time for other streams only."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """The same in the words of OpenAI's protocol; None for *cancelled*, which never finished."""
        if self is Stop.CANCELLED:
            return None
        return "length" if self in (Stop.BUDGET, Stop.LENGTH) else "stop"


class Effort(StrEnum):
    """A budget by name, in the words that servers use; see `EFFORT_TOKENS`."""

    NONE = "none"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"
    MAX = "max"


EFFORT_TOKENS: Final[dict[Effort, int | None]] = {
    Effort.NONE: None,
    Effort.MINIMAL: 128,
    Effort.LOW: 256,
    Effort.MEDIUM: 512,
    Effort.HIGH: 1024,
    Effort.XHIGH: 2048,
    Effort.MAX: 4096,
}
"""Tokens a stream may spend at each effort; `None` means no thinking at all (the chat route)."""

HINT_MARGIN: Final = 0.25
"""By how much of it a hint's budget may be exceeded; m of the paper's soft barrier (section 5)."""


def effort_tokens(effort: Effort, buckets: Sequence[int] = ()) -> int | None:
    """Tokens a stream may spend at an effort, of an adapter that keeps to the budgets of its hints.

    The lower efforts are those budgets in rising order, each with its margin: at 32, 64 and 128 tokens
    *minimal* is 40, *low* 80 and *medium* 160. Efforts beyond them are as without hints, and never less.

    Args:
        effort: by name.
        buckets: budgets that hints were trained with, in tokens.

    Returns:
        None of *none*, which means no thinking at all.
    """
    limit_tokens = EFFORT_TOKENS[effort]
    if limit_tokens is None or not buckets:
        return limit_tokens
    least = Budget.MIN_LIMIT_TOKENS
    limits = [max(least, math.ceil((1 + HINT_MARGIN) * bucket)) for bucket in sorted(buckets)]
    place = [*EFFORT_TOKENS].index(effort) - 1
    return limits[place] if place < len(limits) else max(limit_tokens, limits[-1])


Role = Literal["system", "user", "assistant"]


@refusing_unknown_fields
@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Raises:
        RequestError: the role is not one of the three, or the content is not a text.
    """

    role: Role
    content: str

    def __post_init__(self) -> None:
        require_one_of("a message's role", self.role, get_args(Role))
        require_text("a message's content", self.content)


@refusing_unknown_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one stream may spend, in tokens, in seconds, or in both; the first to run out counts.

    A limit in tokens is hard and counts every token that the stream produces, sampled or forced, up to but
    not including its end of turn. Seconds count from the request's acceptance, prefill and verification
    included. What must be held back so that there is always an answer follows from the limit.

    Source: DESIGN, Seams/Budgets. The limit plays the part of the paper's hard budget (section 5.3).
    """

    limit_tokens: int | None = None
    limit_s: float | None = None

    MIN_LIMIT_TOKENS = 32
    """Smallest limit of thinking: it leaves 8 tokens beside the reserve. With less, auto chats."""

    def __post_init__(self) -> None:
        if self.limit_tokens is None and self.limit_s is None:
            raise RequestError("a budget needs a limit: give tokens, as 400, or seconds, as 5s")
        if self.limit_tokens is not None:
            require_int("a budget's limit_tokens", self.limit_tokens, least=1)
        if self.limit_s is not None:
            require("a budget's limit_s", self.limit_s, float)
        if self.limit_s is not None and not 0.0 < self.limit_s <= MAX_SECONDS:
            raise RequestError(
                f"a budget must be above 0 s and at most an hour, got {_number(self.limit_s)} s"
            )

    def require_room_to_think(self) -> None:
        """Refuses a limit that leaves nothing to think in.

        Raises:
            RequestError: it is below `MIN_LIMIT_TOKENS`.
        """
        if self.limit_tokens is not None and self.limit_tokens < self.MIN_LIMIT_TOKENS:
            raise RequestError(
                f"a budget of {shown(self.limit_tokens)} tokens is too small: the closing and the answer "
                f"need {reserve_tokens(self.limit_tokens)} of them; the minimum is {self.MIN_LIMIT_TOKENS}, "
                "except in chat and auto"
            )

    @classmethod
    def parse(cls, text: str) -> Budget:
        """A budget as people write it: "400" for tokens, "5s" or "0.5 s" for seconds.

        Raises:
            RequestError: it is neither, or out of range.
        """
        if not isinstance(text, str) or (found := _BUDGET.fullmatch(text)) is None:
            raise RequestError(f"a budget must be tokens, as 400, or seconds, as 5s; got {shown(text)}")
        number, seconds = found.groups()
        if seconds:
            return cls(limit_s=float(number))
        if not number.isdigit():
            raise RequestError(
                f"a budget in tokens must be a whole number, got {shown(text)}; seconds end in s"
            )
        return cls(limit_tokens=whole_number("a budget in tokens", number))

    @classmethod
    def of(cls, value: int | str | Budget) -> Budget:
        """A budget as callers give it: tokens, seconds as "5s", or one that is made already.

        Raises:
            RequestError: it is not one of these, or out of range.
        """
        if isinstance(value, Budget):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise refusal("budget", "must be tokens, as 400, seconds, as '5s', or a Budget", value)
        return cls(limit_tokens=value)


def _number(value: float) -> str:
    """A number in a message; Python's whole numbers may be too large to be formatted."""
    return f"{value:g}" if isinstance(value, float) or abs(value) <= MAX_INT32 else shown(value)


def reserve_tokens(limit_tokens: int) -> int:
    """An eighth of the limit, at least 24 and at most 64."""
    return min(64, max(24, limit_tokens // 8))


@refusing_unknown_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn, in this order: `top_k`, `temperature`, `top_p`, `min_p`.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 turn a filter off.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.0

    def __post_init__(self) -> None:
        require("top_k", self.top_k, int)
        if self.top_k < 0:
            raise RequestError(f"top_k must be 0 (off) or more, got {shown(self.top_k)}")
        require_int("top_k", self.top_k, least=0)
        for name in ("temperature", "top_p", "min_p"):
            require(name, getattr(self, name), float)
        if not 0.0 <= self.temperature <= 5.0:
            raise RequestError(f"temperature must be between 0 and 5, got {_number(self.temperature)}")
        if not 0.0 < self.top_p <= 1.0:
            raise RequestError(f"top_p must be above 0 and at most 1, got {_number(self.top_p)}")
        if not 0.0 <= self.min_p < 1.0:
            raise RequestError(f"min_p must be at least 0 and below 1, got {_number(self.min_p)}")

    @property
    def is_whole(self) -> bool:
        """Whether every token may be drawn, each as likely as the model has it at this temperature."""
        return self.temperature > 0 and not self.top_k and self.top_p == 1 and not self.min_p


@refusing_unknown_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a caller asks.

    An explicit `budget` wins over `effort`; effort `none` is the chat route whatever the mode. Stream i draws
    with seed `seed + i`. `max_tokens` caps a chat answer, and a thinking stream too where it is lower than
    the budget. `vote` None is weighted where a verifier head is loaded, else majority. An answer ends before
    the first of its `stop` strings. `stage` (5,) of 8 streams begins with 5, and with the others only while
    the vote is open; `stop_early` False begins and ends them all. `calculator` forces the exact results of
    arithmetic in what is thought; None leaves that to the bundle. Chat has it where both it and mode chat are
    asked for. `enable_thinking` goes to the templates of natively reasoning models, which ask for it; with
    None they think on the think route alone.

    Plain values are taken for enumerations, budgets and stages: "think" for `Mode.THINK`, 200 or "5s" for a
    `Budget`, 5 or "5,6" for stages.

    Raises:
        RequestError: a value is of another type, out of range, or not among those allowed.
    """

    messages: tuple[Message, ...]
    mode: Mode = Mode.AUTO
    effort: Effort = Effort.MEDIUM
    budget: Budget | None = None
    streams: int = 1
    vote: Vote | None = None
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_early: bool = True
    stage: tuple[int, ...] = ()
    want_logprobs: bool = False
    calculator: bool | None = None
    enable_thinking: bool | None = None

    def __post_init__(self) -> None:
        self._become("messages", as_messages("messages", self.messages))
        if not self.messages or self.messages[-1].role != "user":
            raise RequestError("a request needs messages, the last of them from the user")
        if not self.messages[-1].content.strip():
            raise RequestError("the question is empty")
        self._become("mode", member(Mode, "mode", self.mode))
        self._become("effort", member(Effort, "effort", self.effort))
        if self.budget is not None:
            self._become("budget", Budget.of(self.budget))
            if self.mode is Mode.THINK:
                self.budget.require_room_to_think()
        if self.vote is not None:
            self._become("vote", member(Vote, "vote", self.vote))
        require("sampling", self.sampling, Sampling)
        require_int("streams", self.streams, least=1, most=MAX_STREAMS)
        require_int("seed", self.seed, least=0, most=2**31 - 1)
        if self.max_tokens is not None:
            require_int("max_tokens", self.max_tokens, least=1)
        self._become("stop", _as_stop_strings(self.stop))
        require("stop_early", self.stop_early, bool)
        self._become("stage", _as_stages(self.stage))
        require("want_logprobs", self.want_logprobs, bool)
        for name in ("calculator", "enable_thinking"):
            if getattr(self, name) is not None:
                require(name, getattr(self, name), bool)

    def _become(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def think_budget(self, buckets: Sequence[int] = ()) -> Budget | None:
        """The budget of one thinking stream; `None` when the effort asks for no thinking.

        Args:
            buckets: budgets that the adapter's hints were trained with, in tokens.
        """
        if self.budget is not None:
            return self.budget
        limit_tokens = effort_tokens(self.effort, buckets)
        return None if limit_tokens is None else Budget(limit_tokens=limit_tokens)

    @property
    def question(self) -> str:
        """The last user message."""
        return self.messages[-1].content


def as_messages(name: str, value: object, expected: str = "a sequence of Message") -> tuple[Message, ...]:
    """A conversation that a caller gave, in order.

    Args:
        name: what it is called in the error.
        value: what was given.
        expected: what it may be, for the error.

    Raises:
        RequestError: it is not a sequence of messages.
    """
    if isinstance(value, Iterable) and not isinstance(value, str):
        messages = tuple(value)
        if all(isinstance(message, Message) for message in messages):
            return messages
    raise refusal(name, f"must be {expected}", value)


def _as_stop_strings(value: Any) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, Sequence) or isinstance(strings, bytes):
        raise refusal("stop", "must be one text or several", value)
    for string in strings:
        require_text("a stop string", string)
        if not string:
            raise RequestError("a stop string must not be empty")
    return tuple(strings)


def _as_stages(value: Any) -> tuple[int, ...]:
    """How many streams have begun with each stage; a number from the streams on is all of them."""
    expected = "must be numbers of streams in rising order, as 5 or '2,4,8'"
    if isinstance(value, str):
        numbers: list[Any] = [whole_number("stage", part, expected) for part in value.split(",")]
    elif isinstance(value, Iterable):
        numbers = [*value]
    else:
        numbers = [value]
    for number in numbers:
        require_int("stage", number, least=1, most=MAX_STREAMS)
    if numbers != sorted(set(numbers)):
        raise refusal("stage", expected, value)
    return tuple(numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What one stream produced.

    `thinking` excludes opening, hint, lead-in and closing; `text` is what follows the closing, the forced
    answer prefix included, up to a stop string. On the chat route it is the whole output, without what a
    natively reasoning model thought first: that is `thinking`, and counts as answer. Token counts follow
    the budget's: the closing counts as thinking, answer prefix and stop string as answer, the end of turn
    as neither. `ended` says whether the answer ended by itself, with the model's turn or at a stop string:
    it does even where `stop` is the budget, if that only closed the thinking.
    """

    index: int
    seed: int
    thinking: str | None
    text: str
    thinking_tokens: int
    answer_tokens: int
    stop: Stop
    token_ids: tuple[int, ...] = ()
    forced: tuple[bool, ...] = ()
    logprobs: tuple[float, ...] | None = None
    ended: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens spent, as the budget counts them."""
        return self.thinking_tokens + self.answer_tokens

    @property
    def has_begun(self) -> bool:
        """Whether the stream ran at all; one is cancelled before, where the vote was settled without it."""
        return self.num_tokens > 0 or self.stop is not Stop.CANCELLED


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A trace with its answer (`None`: nothing readable as one) and its verifier score in [0, 1]."""

    trace: Trace
    answer: str | None
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of the winning stream; `all_streams_tokens` adds up what every stream produced.

    `cached_tokens` are those of the prompt that were not encoded for this request: they were there already.
    """

    prompt_tokens: int
    thinking_tokens: int
    answer_tokens: int
    all_streams_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and output of the winning stream."""
        return self.prompt_tokens + self.thinking_tokens + self.answer_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds since the request was accepted. `ttft_s` is the first token of any stream, thinking
    included; `tokens_per_s` counts all streams over the time since the prompt was encoded; `budget_s` is
    what there was to spend, where it was in seconds; `verify_s` went into scoring traces.
    """

    ttft_s: float
    total_s: float
    tokens_per_s: float
    budget_s: float | None = None
    verify_s: float = 0.0

    @property
    def overshoot_s(self) -> float | None:
        """Seconds spent beyond the budget; None without a budget in seconds."""
        return None if self.budget_s is None else max(0.0, self.total_s - self.budget_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a request got.

    `winner` is the index of the stream that won the vote; None if nobody had an answer, and what is shown
    is then the first stream that finished, or as far as it got. `ended` is that stream's: whether the answer
    ended by itself, rather than being cut.
    """

    route: Route
    p_think: float | None
    answer: str
    text: str
    thinking: str | None
    stop: Stop
    seed: int
    usage: Usage
    timing: Timing
    kv_bytes: int
    candidates: tuple[Candidate, ...]
    winner: int | None
    notices: tuple[str, ...] = ()
    ended: bool = False

    @property
    def streams_not_begun(self) -> int:
        """Streams of later stages that the vote did not need."""
        return sum(not candidate.trace.has_begun for candidate in self.candidates)

    @property
    def tokens_saved(self) -> int:
        """About how many tokens those would have drawn: each the mean of the streams that finished."""
        finished = [c.trace.num_tokens for c in self.candidates if c.trace.stop is not Stop.CANCELLED]
        return round(self.streams_not_begun * sum(finished) / len(finished)) if finished else 0

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended, in the words of OpenAI's protocol; see `Stop.finish_reason`.

        "stop": the model ended, or a stop string did. "length": the budget closed thinking or answer, or
        `max_tokens` or the context ended it. None: the caller stopped it.
        """
        return self.stop.finish_reason

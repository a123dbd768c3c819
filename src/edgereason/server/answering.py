"""What the protocols' answers have in common: thinking without its tags, usage, our extension. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from edgereason.core.chat import CLOSING_TAG, NATIVE_OPENING, ClosingFinder, closing_of
from edgereason.core.json_output import to_json
from edgereason.core.types import Budget, Response, Route, Trace
from edgereason.reasoning.events import Event, Routed, Tallied
from edgereason.reasoning.harder import harder
from edgereason.server import limits
from edgereason.server.asking import Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What there is to know of the model that answers.

    Attributes:
        base: name of the base model.
        is_bundle: whether a bundle was loaded.
        context_tokens: that a conversation with its answer may have.
        buckets: budgets of the adapter's hints, in tokens.
        threshold: from which p(think) on `auto` thinks; None without a switcher.
        has_verifier: whether votes are weighted.
        closing_tag: what ends the model's thinking.
    """

    base: str
    is_bundle: bool
    context_tokens: int
    buckets: tuple[int, ...] = ()
    threshold: float | None = None
    has_verifier: bool = False
    closing_tag: str = CLOSING_TAG


class Collected:
    """What a request's events told, for whoever only wants its end.

    Args:
        ask: what was asked.
        facts: of the model.

    Attributes:
        tally: the vote as it stood last: answer and strength, strongest first.
    """

    def __init__(self, ask: Ask, facts: Facts) -> None:
        self.ask = ask
        self.facts = facts
        self.tally: list[list[Any]] = []
        self.routed: Routed | None = None

    def take(self, event: Event) -> None:
        """Notes one event."""
        if isinstance(event, Routed):
            self.routed = event
        elif isinstance(event, Tallied):
            self.tally = [list(standing) for standing in event.standing]

    @property
    def is_chat(self) -> bool:
        """Whether the route is known to be chat."""
        return self.routed is not None and self.routed.route is Route.CHAT

    def thought(self) -> ThoughtText:
        """What a stream's thinking is shown through."""
        return ThoughtText(is_chat=self.is_chat, closing_tag=self.facts.closing_tag)

    @property
    def harder(self) -> dict[str, Any] | None:
        """Options of the next, harder try; None where there is none, or a request may not take so long."""
        if self.routed is None:
            return None
        options = harder(self.ask.request, self.routed, self.facts.buckets)
        if options is None or options.get("budget") is None:
            return options
        seconds = Budget.of(options["budget"]).limit_s or 0.0
        return options if seconds <= limits.REQUEST_S else None

    def extension(self, response: Response) -> dict[str, Any]:
        """The object `edgereason` of an answer."""
        limit_tokens = self.routed.limit_tokens if self.routed else 0
        told = to_json(response, model=self.ask.model, limit_tokens=limit_tokens)
        wanted = ("route", "p_think", "stop", "winner", "streams", "seed", "budget", "timing", "kv_bytes")
        usage = told["usage"]
        return {
            **{name: told[name] for name in wanted},
            "answer": response.answer,
            "tally": self.tally,
            "all_streams_tokens": usage["all_streams_tokens"],
            "tokens_saved": usage["tokens_saved"],
            "notices": [*self.ask.notices, *response.notices],
            "harder": self.harder,
        }


FinishReason = Literal["stop", "length"]


def finish_reason(told: Trace | Response) -> FinishReason:
    """Why an answer ended: "length" only where the answer itself was cut, not where its thinking was."""
    return "stop" if told.ended else told.stop.finish_reason or "length"


def tokens_of(ask: Ask, response: Response) -> tuple[int, int]:
    """Tokens of the output and, among them, of thinking: the winner's, or those of all choices."""
    if ask.num_choices == 1:
        usage = response.usage
        return usage.thinking_tokens + usage.answer_tokens, usage.thinking_tokens
    traces = [candidate.trace for candidate in response.candidates]
    return sum(trace.num_tokens for trace in traces), sum(trace.thinking_tokens for trace in traces)


class ThoughtText:
    """Thinking as a client should see it, piece by piece: without the tags and the line breaks around it.

    What comes out is, all in all, the trace's `thinking`. Whatever may turn out to be the closing is held.

    Args:
        is_chat: whether the model thinks by itself on the chat route, behind an opening tag of its own.
        closing_tag: what ends thinking that has no opening tag here.
    """

    def __init__(self, *, is_chat: bool = False, closing_tag: str = CLOSING_TAG) -> None:
        self._is_chat = is_chat
        self._text = ""
        self._shown = 0
        self._finder: ClosingFinder | None = None
        self._fed = 0
        self._closing = closing_tag
        self._start = 0
        self._end: int | None = None

    def push(self, text: str) -> str:
        """What the next piece of thinking lets through."""
        if self._end is not None or not text:
            return ""
        self._text += text
        if self._finder is None:
            self._begin()
        assert self._finder is not None
        self._find()
        end = len(self._text) - self._held() if self._end is None else self._end
        return self._until(self._text[:end].rstrip("\n"))

    def flush(self) -> str:
        """What was held back, now that nothing closes it any more."""
        if self._end is not None:
            return ""
        return self._until(self._text.rstrip("\n"))

    def _begin(self) -> None:
        # The runtime gives the opening tag whole, in the first piece of thinking.
        opening = NATIVE_OPENING.match(self._text) if self._is_chat else None
        if opening is not None:
            self._start, self._closing = opening.end(), closing_of(opening[0])
        self._finder = ClosingFinder(self._closing)
        self._fed = self._start

    def _find(self) -> None:
        if self._is_chat:
            assert self._finder is not None
            found = self._finder.push(self._text[self._fed :])
            self._fed = len(self._text)
            self._end = None if found is None else self._start + found
        else:
            place = self._text.find(self._closing, max(self._start, self._fed - len(self._closing)))
            self._fed = len(self._text)
            self._end = place if place >= 0 else None

    def _held(self) -> int:
        most = min(len(self._text) - self._start, len(self._closing) - 1)
        return next((n for n in range(most, 0, -1) if self._text.endswith(self._closing[:n])), 0)

    def _until(self, text: str) -> str:
        start = max(self._shown, self._start)
        if not self._shown and self._is_chat:  # line breaks behind the opening are no thought
            start += len(text[start:]) - len(text[start:].lstrip("\n"))
        if len(text) <= start:
            return ""
        self._shown = len(text)
        return text[start:]

"""The page's own protocol: everything that happens, stream by stream. Pure.

::

    accepted · queued* · reading* · routed · (texts | ended | tally | notice)* · answered        or error
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from edgereason.core.types import MAX_STREAMS, Effort, Mode, Response, Vote, effort_tokens
from edgereason.reasoning.events import (
    Answered,
    Ended,
    Event,
    Notice,
    Queued,
    Reading,
    Routed,
    Tallied,
    Text,
)
from edgereason.server import limits
from edgereason.server.answering import Collected, Facts
from edgereason.server.asking import (
    Ask,
    Common,
    Served,
    conversation,
    request_of,
    require_budget,
    sampling_of,
)
from edgereason.server.fields import CONTROL, OWN, Refused, blamed, typed


class _Body(Common, kw_only=True):
    messages: list[Any]
    id: str | None = None
    mode: str | None = None
    effort: str | None = None
    budget: int | str | None = None
    streams: int | None = None
    vote: str | None = None
    stage: int | list[int] | str | None = None
    system: str | None = None
    max_tokens: int | None = None


class Control(msgspec.Struct, kw_only=True):
    """What is to happen to a request that is being answered."""

    id: str
    action: str


def read(values: Mapping[str, Any], served: Served, drawn_seed: int) -> tuple[Ask, str | None]:
    """What the page asks, and the id that it gave to it; arguments as those of `chat.read`.

    Raises:
        Refused: a field can't be honoured.
    """
    OWN.check(values)
    body = typed(values, _Body)
    if body.id is not None and not 0 < len(body.id) <= limits.MAX_ID_CHARS:
        raise Refused(
            f"id must have 1 to {limits.MAX_ID_CHARS} characters, got {len(body.id)}", "id", "invalid_value"
        )
    options: dict[str, Any] = {"mode": body.mode or served.mode, **sampling_of(body, drawn_seed)}
    options |= {
        name: value
        for name in ("effort", "budget", "streams", "vote", "stage", "max_tokens")
        if (value := getattr(body, name)) is not None
    }
    request = request_of(conversation(body.messages, "messages", body.system or ""), options)
    if body.budget is not None:
        with blamed("budget"):
            require_budget(body.budget, request.mode)
    return Ask(request=request, model=served.name, is_stream=True), body.id


def read_control(values: Mapping[str, Any], action: str) -> str:
    """The id of the request that is to answer now.

    Raises:
        Refused: it is another action, or none.
    """
    CONTROL.check(values)
    control = typed(values, Control)
    if control.action != action:
        raise Refused(f"action must be {action!r}, got {control.action[:100]!r}", "action", "invalid_value")
    return control.id


class Frames:
    """Translates the events of one request into the page's.

    Args:
        collected: told of every event.
        request_id: the page's own, or one that was made.
    """

    def __init__(self, collected: Collected, request_id: str) -> None:
        self._collected = collected
        self._id = request_id

    def first(self) -> list[dict[str, Any]]:
        """What says that the request was accepted, and how it would be the same again."""
        ask = self._collected.ask
        notices = [{"type": "notice", "text": text} for text in ask.notices]
        return [{"type": "accepted", "id": self._id, "seed": ask.request.seed}, *notices]

    def take(self, events: Iterable[Event]) -> list[dict[str, Any]]:
        """The frames of some events, texts of a stream in a row in one item."""
        frames: list[dict[str, Any]] = []
        for event in events:
            self._collected.take(event)
            if isinstance(event, Text):
                _add(frames, event)
            else:
                frames.append(self._frame(event))
        return frames

    def failed(self, error: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What ends a stream that can't go on."""
        return [{"type": "error", "message": error["message"], "code": error["code"]}]

    def _frame(self, event: Event) -> dict[str, Any]:
        match event:
            case Queued():
                return {"type": "queued", "place": event.place}
            case Reading():
                return {
                    "type": "reading",
                    "done": event.done_tokens,
                    "total": event.total_tokens,
                    "cached": event.cached_tokens,
                }
            case Routed():
                return self._routed(event)
            case Notice():
                return {"type": "notice", "text": event.text}
            case Ended():
                trace, score = event.candidate.trace, event.candidate.score
                return {
                    "type": "ended",
                    "stream": trace.index,
                    "answer": event.candidate.answer,
                    "score": score,
                    "stop": str(trace.stop),
                    "tokens": trace.num_tokens,
                }
            case Tallied():
                return {"type": "tally", "standing": self._collected.tally, "running": event.num_running}
            case Answered():
                return self._answered(event.response)
        raise AssertionError(f"no frame for {type(event).__name__}")

    def _routed(self, event: Routed) -> dict[str, Any]:
        return {
            "type": "routed",
            "route": str(event.route),
            "p_think": event.p_think,
            "threshold": self._collected.facts.threshold,
            "prompt_tokens": event.prompt_tokens,
            "streams": event.num_streams,
            "limit_tokens": event.limit_tokens,
            "limit_s": event.limit_s,
        }

    def _answered(self, response: Response) -> dict[str, Any]:
        extension, usage = self._collected.extension(response), response.usage
        harder = extension.pop("harder")
        return {
            "type": "answered",
            **extension,
            "text": response.text,
            "thinking": response.thinking,
            "finish_reason": response.finish_reason,
            "usage": {
                "prompt": usage.prompt_tokens,
                "cached": usage.cached_tokens,
                "thinking": usage.thinking_tokens,
                "answer": usage.answer_tokens,
                "all_streams": usage.all_streams_tokens,
            },
            "harder": None if harder is None else {"options": harder},
        }


def _add(frames: list[dict[str, Any]], event: Text) -> None:
    """Adds a text to the frame of texts at the end, and there to what its stream said last."""
    if not frames or frames[-1]["type"] != "texts":
        frames.append({"type": "texts", "items": []})
    items, phase = frames[-1]["items"], str(event.phase)
    said = [item for item in items if item["stream"] == event.stream]
    if said and said[-1]["phase"] == phase:
        said[-1]["text"] += event.text
        said[-1]["tokens"] = event.num_tokens
    else:
        items.append({"stream": event.stream, "phase": phase, "text": event.text, "tokens": event.num_tokens})


def info(served: Served, facts: Facts, *, version: str, needs_key: bool) -> dict[str, Any]:
    """What the page has to know before it asks: the model, and what may be chosen."""
    return {
        "name": "edgereason",
        "version": version,
        "model": {
            "name": served.name,
            "base": facts.base,
            "bundle": facts.is_bundle,
            "context_tokens": facts.context_tokens,
        },
        "mode": str(served.mode),
        "modes": [str(mode) for mode in (Mode.AUTO, Mode.CHAT, Mode.THINK)],
        "efforts": {
            str(effort): {"tokens": tokens}
            for effort in Effort
            if (tokens := effort_tokens(effort, facts.buckets)) is not None
        },
        "votes": [str(vote) for vote in Vote],
        "heads": {
            "switcher": facts.threshold is not None,
            "threshold": facts.threshold,
            "verifier": facts.has_verifier,
        },
        "limits": {
            "streams": MAX_STREAMS,
            "budget_tokens": facts.context_tokens,
            "budget_s": limits.REQUEST_S,
            "messages": limits.MAX_MESSAGES,
            "body_bytes": limits.MAX_BODY_BYTES,
        },
        "needs_key": needs_key,
    }

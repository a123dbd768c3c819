"""OpenAI's chat completions: a body becomes an `Ask`, events become chunks, a response a completion. Pure.

::

    read  body ─→ Ask                          Chunks.first   role chunk, "" as content
                                               Chunks.take    events ─→ chunks
    whole response ─→ chat.completion          the last: finish_reason, then usage where it was asked for

A single stream goes out as it speaks. Where several vote, nothing does until the vote is certain: what a
client has shown can't be taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from edgereason import __version__
from edgereason.core.checks import require_int
from edgereason.core.types import Mode, Response, Trace
from edgereason.reasoning.control import Phase
from edgereason.reasoning.events import Answered, Event, Text
from edgereason.server import limits
from edgereason.server.answering import Collected, ThoughtText, finish_reason, tokens_of
from edgereason.server.asking import (
    EXTENSION_PARAMS,
    Ask,
    Common,
    Served,
    conversation,
    request_of,
    sampling_of,
    thinking_options,
)
from edgereason.server.fields import CHAT, EXTENSION, STREAM_TABLE, Refused, blamed, typed

FINGERPRINT: Final = f"edgereason-{__version__}"


class _Body(Common, kw_only=True):
    messages: list[Any]
    n: int | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None


def read(values: Mapping[str, Any], served: Served, drawn_seed: int) -> Ask:
    """What a chat completion's body asks.

    Args:
        values: the body's object.
        served: what the server offers.
        drawn_seed: for a request that names no seed.

    Raises:
        Refused: a field can't be honoured.
    """
    CHAT.check(values)
    body = typed(values, _Body)
    options = thinking_options(
        body, body.reasoning_effort, "reasoning_effort", served.options(body.model), served
    )
    options |= sampling_of(body, drawn_seed)
    if (max_tokens := _max_tokens(body)) is not None:
        options["max_tokens"] = max_tokens
    num_choices, notices = _choices(body, options)
    return Ask(
        request=request_of(conversation(body.messages, "messages"), options, EXTENSION_PARAMS),
        model=body.model or served.name,
        num_choices=num_choices,
        is_stream=bool(body.stream),
        with_usage=_with_usage(body),
        with_reasoning=body.include_reasoning is not False,
        notices=notices,
    )


def _max_tokens(body: _Body) -> int | None:
    newer, older = body.max_completion_tokens, body.max_tokens
    if newer is not None and older is not None and newer != older:
        raise Refused(
            f"max_completion_tokens is {newer} and max_tokens is {older}: give one of them",
            "max_tokens",
            "contradiction",
        )
    for name in ("max_completion_tokens", "max_tokens"):
        if (value := getattr(body, name)) is not None:
            with blamed(name):
                require_int(name, value, least=1)
    return older if newer is None else newer


def _choices(body: _Body, options: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    """How many candidates are wanted as they are; their streams go into the options."""
    if body.n is None or body.n == 1:
        return 1, ()
    with blamed("n"):
        require_int("n", body.n, least=1, most=limits.MAX_CHOICES)
    if "streams" in options or "vote" in options:
        raise Refused(
            "n gives candidates as they are, and streams vote for one answer: leave one of them out",
            "n",
            "contradiction",
        )
    options["streams"] = body.n
    # Nothing stops early, for there is no vote: each candidate is an answer of its own.
    options["stop_early"] = False
    if options["mode"] is not Mode.AUTO:
        return body.n, ()
    options["mode"] = Mode.THINK
    return body.n, ("n asks for several candidates, and auto chats in one stream only: so all of them think",)


def _with_usage(body: _Body) -> bool:
    values = body.stream_options or {}
    STREAM_TABLE.check(values)
    wanted = values.get("include_usage")
    if wanted is not None and not isinstance(wanted, bool):
        raise Refused(
            "stream_options.include_usage must be true or false",
            "stream_options.include_usage",
            "invalid_type",
        )
    return bool(wanted)


class Chunks:
    """Translates the events of one request into `chat.completion.chunk` objects.

    Args:
        collected: told of every event.
        identity: the completion's id, its time and its model.
        reasoning_fields: where thinking is given.
    """

    def __init__(
        self, collected: Collected, identity: Mapping[str, Any], reasoning_fields: tuple[str, ...]
    ) -> None:
        self._collected = collected
        self._ask = collected.ask
        self._identity = identity
        self._fields = reasoning_fields if self._ask.with_reasoning else ()
        self._is_live = self._ask.request.streams == self._ask.num_choices
        self._thoughts: dict[int, ThoughtText] = {}
        self._deltas: list[tuple[int, dict[str, str]]] = []

    def first(self) -> list[dict[str, Any]]:
        """What says that the request was accepted, before there is anything to say."""
        return [
            self._chunk([_choice(index, {"role": "assistant", "content": ""})])
            for index in range(self._ask.num_choices)
        ]

    def take(self, events: Iterable[Event]) -> list[dict[str, Any]]:
        """The chunks of some events, what a stream says in a row in one."""
        for event in events:
            self._collected.take(event)
            if isinstance(event, Text) and self._is_live:
                self._say(event)
            elif isinstance(event, Answered):
                return self._end(event.response)
        return self._said()

    def failed(self, error: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What ends a stream that can't go on."""
        return [{"error": error}]

    def _say(self, event: Text) -> None:
        index = event.stream
        if event.phase is Phase.ANSWER:
            self._add(index, {"content": event.text})
            return
        thought = self._thoughts.setdefault(index, self._collected.thought())
        self._add(index, dict.fromkeys(self._fields, thought.push(event.text)))

    def _add(self, index: int, delta: dict[str, str]) -> None:
        if not any(delta.values()):
            return
        places = [place for place, (stream, _) in enumerate(self._deltas) if stream == index]
        if places and (said := self._deltas[places[-1]][1]).keys() == delta.keys():
            self._deltas[places[-1]] = index, {name: said[name] + text for name, text in delta.items()}
        else:
            self._deltas.append((index, delta))

    def _said(self) -> list[dict[str, Any]]:
        chunks = [self._chunk([_choice(index, delta)]) for index, delta in self._deltas]
        self._deltas.clear()
        return chunks

    def _end(self, response: Response) -> list[dict[str, Any]]:
        if self._is_live:
            for index, thought in self._thoughts.items():
                self._add(index, dict.fromkeys(self._fields, thought.flush()))
        else:
            self._add(0, dict.fromkeys(self._fields, response.thinking or ""))
            self._add(0, {"content": response.text})
        chunks = self._said()
        reasons = _reasons(self._ask, response)
        for index, reason in enumerate(reasons):
            is_last = index == len(reasons) - 1
            told = {EXTENSION: self._collected.extension(response)} if is_last else {}
            chunks.append(self._chunk([_choice(index, {}, reason)], **told))
        if self._ask.with_usage:
            chunks.append(self._chunk([], usage=usage_of(self._ask, response)))
        return chunks

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        usage = {"usage": None} if self._ask.with_usage else {}
        return {
            **self._identity,
            "object": "chat.completion.chunk",
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
            **usage,
            **more,
        }


def _choice(index: int, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def _reasons(ask: Ask, response: Response) -> list[str]:
    if ask.num_choices == 1:
        return [finish_reason(response)]
    return [finish_reason(candidate.trace) for candidate in response.candidates]


def whole(
    collected: Collected,
    response: Response,
    identity: Mapping[str, Any],
    reasoning_fields: tuple[str, ...],
) -> dict[str, Any]:
    """The `chat.completion` of a response."""
    ask = collected.ask
    told: list[Response | Trace] = [response]
    if ask.num_choices > 1:
        told = [candidate.trace for candidate in response.candidates]
    fields = reasoning_fields if ask.with_reasoning else ()
    choices = []
    for index, one in enumerate(told):
        thought = dict.fromkeys(fields, one.thinking) if one.thinking else {}
        message = {"role": "assistant", "content": one.text, "refusal": None, **thought}
        choices.append(
            {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason(one)}
        )
    return {
        **identity,
        "object": "chat.completion",
        "system_fingerprint": FINGERPRINT,
        "choices": choices,
        "usage": usage_of(ask, response),
        EXTENSION: collected.extension(response),
    }


def usage_of(ask: Ask, response: Response) -> dict[str, Any]:
    """Tokens in the words of chat completions."""
    output_tokens, thinking_tokens = tokens_of(ask, response)
    prompt_tokens = response.usage.prompt_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": response.usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": thinking_tokens},
    }

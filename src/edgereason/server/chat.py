"""OpenAI's chat completions: a body becomes an `Ask`, events become chunks, a response a completion. Pure.

::

    read  body ─→ Ask                          Chunks.first   role chunk, "" as content
                                               Chunks.take    events ─→ chunks
    whole response ─→ chat.completion          the last: finish_reason, then usage where it was asked for

A single stream goes out as it speaks. Where several vote, nothing does until the vote is certain: what a client
has shown can't be taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from edgereason import __version__
from edgereason.core.checks import require_int
from edgereason.core.types import Mode, Response, Trace
from edgereason.reasoning.control import Phase
from edgereason.reasoning.events import Answered, Ended, Event, Text
from edgereason.server import limits
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
from edgereason.server.telling import Collected, ThoughtText, extension, is_cut, usage_of

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
            "n gives candidates as they are, and streams vote for one answer: leave one of them out", "n", "contradiction"
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
        raise Refused("stream_options.include_usage must be true or false", "stream_options.include_usage", "invalid_type")
    return bool(wanted)


class Chunks:
    """Translates the events of one request into `chat.completion.chunk` objects.

    Args:
        ask: what was asked.
        identity: the completion's id, its time and its model.
        reasoning_fields: where thinking is given.
    """

    def __init__(self, ask: Ask, identity: Mapping[str, Any], reasoning_fields: tuple[str, ...]) -> None:
        self._ask = ask
        self._identity = identity
        self._fields = reasoning_fields if ask.with_reasoning else ()
        self._is_live = ask.request.streams == ask.num_choices
        self._thoughts: dict[int, ThoughtText] = {}
        self._finished: set[int] = set()
        self.collected = Collected(ask)

    def first(self) -> list[dict[str, Any]]:
        """What says that the request was accepted, before there is anything to say."""
        return [
            self._chunk([_choice(index, {"role": "assistant", "content": ""})])
            for index in range(self._ask.num_choices)
        ]

    def take(self, events: Iterable[Event]) -> list[dict[str, Any]]:
        """The chunks of some events, neighbouring texts of a stream in one."""
        deltas: list[tuple[int, dict[str, str]]] = []
        chunks: list[dict[str, Any]] = []
        for event in events:
            self.collected.take(event)
            if isinstance(event, Text) and self._is_live:
                self._say(deltas, event.stream, event.phase, event.text)
            elif isinstance(event, Ended) and self._is_live and self._ask.num_choices > 1:
                chunks += self._flushed(deltas)
                chunks.append(self._finish(event.candidate.trace))
            elif isinstance(event, Answered):
                chunks += self._flushed(deltas) + self._end(event.response)
        return chunks + self._flushed(deltas)

    def _say(self, deltas: list[tuple[int, dict[str, str]]], index: int, phase: Phase, text: str) -> None:
        thought = self._thoughts.setdefault(index, ThoughtText(is_chat=self.collected.is_chat))
        if phase is Phase.THINKING:
            self._add(deltas, index, dict.fromkeys(self._fields, thought.push(text)))
        else:
            self._add(deltas, index, dict.fromkeys(self._fields, thought.end()))
            self._add(deltas, index, {"content": text})

    @staticmethod
    def _add(deltas: list[tuple[int, dict[str, str]]], index: int, delta: dict[str, str]) -> None:
        if not any(delta.values()):
            return
        last = next((i for i in range(len(deltas) - 1, -1, -1) if deltas[i][0] == index), None)
        if last is not None and deltas[last][1].keys() == delta.keys():
            deltas[last] = index, {name: deltas[last][1][name] + text for name, text in delta.items()}
        else:
            deltas.append((index, delta))

    def _flushed(self, deltas: list[tuple[int, dict[str, str]]]) -> list[dict[str, Any]]:
        chunks = [self._chunk([_choice(index, delta)]) for index, delta in deltas]
        deltas.clear()
        return chunks

    def _finish(self, trace: Trace, **more: Any) -> dict[str, Any]:
        self._finished.add(trace.index)
        return self._chunk([_choice(trace.index, {}, finish_reason(trace))], **more)

    def _end(self, response: Response) -> list[dict[str, Any]]:
        chunks: list[dict[str, Any]] = []
        told = {EXTENSION: extension(self.collected, response)}
        if not self._is_live:
            deltas: list[tuple[int, dict[str, str]]] = []
            self._add(deltas, 0, dict.fromkeys(self._fields, response.thinking or ""))
            self._add(deltas, 0, {"content": response.text})
            chunks += self._flushed(deltas)
        if self._ask.num_choices == 1:
            chunks.append(self._chunk([_choice(0, {}, self.collected.finish_reason(response))], **told))
        else:
            chunks += [
                self._finish(candidate.trace)
                for candidate in response.candidates
                if candidate.trace.index not in self._finished
            ]
            chunks.append(self._chunk([], **told))
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


def finish_reason(trace: Trace) -> Literal["stop", "length"]:
    """Why an answer ended: "length" only where the answer itself was cut, not where its thinking was."""
    return "length" if is_cut(trace) else "stop"


def whole(
    collected: Collected, response: Response, identity: Mapping[str, Any], reasoning_fields: tuple[str, ...]
) -> dict[str, Any]:
    """The `chat.completion` of a response."""
    ask = collected.ask
    fields = reasoning_fields if ask.with_reasoning else ()
    if ask.num_choices == 1:
        choices = [_whole_choice(0, response.text, response.thinking, fields, collected.finish_reason(response))]
    else:
        traces = [candidate.trace for candidate in response.candidates]
        choices = [
            _whole_choice(trace.index, trace.text, trace.thinking, fields, finish_reason(trace)) for trace in traces
        ]
    return {
        **identity,
        "object": "chat.completion",
        "system_fingerprint": FINGERPRINT,
        "choices": choices,
        "usage": usage_of(ask, response),
        EXTENSION: extension(collected, response),
    }


def _whole_choice(
    index: int, text: str, thinking: str | None, fields: tuple[str, ...], reason: str
) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "index": index,
        "message": message | (dict.fromkeys(fields, thinking) if thinking else {}),
        "logprobs": None,
        "finish_reason": reason,
    }

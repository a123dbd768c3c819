"""Anthropic's messages: a body becomes an `Ask`, events become theirs, a response a message. Pure.

::

    message_start
    ├─ thinking block   content_block_start · thinking_delta … · signature_delta "" · content_block_stop
    └─ text block       content_block_start · text_delta …     · content_block_stop
    message_delta (stop_reason, usage) · message_stop

Thinking carries an empty signature: nothing needs it here, and none is ever checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from edgereason.core.checks import require_int, require_one_of
from edgereason.core.types import Response, Stop
from edgereason.reasoning.control import Phase
from edgereason.reasoning.events import Answered, Event, Text
from edgereason.server.answering import Collected, ThoughtText, finish_reason, tokens_of
from edgereason.server.asking import (
    EXTENSION_PARAMS,
    Ask,
    Common,
    Served,
    conversation,
    request_of,
    sampling_of,
    text_of,
    thinking_options,
)
from edgereason.server.fields import EXTENSION, MESSAGES, OUTPUT_TABLE, THINKING_TABLE, Refused, blamed, typed

Told = tuple[str, dict[str, Any]]
"""An event's type, and its object."""

_KINDS: Final = ("enabled", "adaptive", "disabled")
_OWN_NAMES: Final = {
    "think": "thinking.type",
    "thinking_budget_tokens": "thinking.budget_tokens",
    "stop": "stop_sequences",
}
"""What the fields that are shared with other protocols are called here."""
_THOUGHT_BLOCKS: Final = ("thinking", "redacted_thinking")


class _Body(Common, kw_only=True):
    messages: list[Any]
    max_tokens: int | None = None
    system: str | list[Any] | None = None
    stop_sequences: list[str] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None


class _Thinking(msgspec.Struct, kw_only=True):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class _Output(msgspec.Struct, kw_only=True):
    effort: str | None = None


def read(values: Mapping[str, Any], served: Served, drawn_seed: int) -> Ask:
    """What a body of the messages protocol asks; arguments as those of `chat.read`.

    Raises:
        Refused: a field can't be honoured.
    """
    MESSAGES.check(values)
    try:
        return _read(typed(values, _Body), served, drawn_seed)
    except Refused as error:
        param = _OWN_NAMES.get(error.param or "", error.param)
        if param == error.param:
            raise
        words = str(error).replace(error.param or "", param or "")
        raise type(error)(words, param, error.code) from error


def _read(body: _Body, served: Served, drawn_seed: int) -> Ask:
    OUTPUT_TABLE.check(body.output_config or {})
    effort = typed(body.output_config or {}, _Output, "output_config").effort
    body = _with_thinking(msgspec.structs.replace(body, stop=body.stop_sequences))
    options = thinking_options(body, effort, "output_config.effort", served.options(body.model), served)
    options |= sampling_of(body, drawn_seed)
    if body.max_tokens is not None:
        with blamed("max_tokens"):
            require_int("max_tokens", body.max_tokens, least=1)
        options["max_tokens"] = body.max_tokens
    instructions = text_of(body.system or "", "system")
    messages = conversation(list(map(_without_thoughts, body.messages)), "messages", instructions)
    return Ask(
        request=request_of(messages, options, EXTENSION_PARAMS),
        model=body.model or served.name,
        is_stream=bool(body.stream),
    )


def _with_thinking(body: _Body) -> _Body:
    """The body, what it says of thinking in the fields that are shared with other protocols."""
    if body.thinking is None:
        return body
    THINKING_TABLE.check(body.thinking)
    thinking = typed(body.thinking, _Thinking, "thinking")
    with blamed("thinking.type"):
        require_one_of("thinking.type", thinking.type, _KINDS)
    if thinking.type == "adaptive":
        return body
    is_on = thinking.type == "enabled"
    return msgspec.structs.replace(
        body, think=is_on, thinking_budget_tokens=thinking.budget_tokens if is_on else None
    )


def _without_thoughts(turn: Any) -> Any:
    """A turn without thinking, which never goes into a prompt again, and without marks for caches."""
    if not isinstance(turn, dict) or not isinstance(turn.get("content"), list):
        return turn
    kept = [
        block
        for block in turn["content"]
        if not (isinstance(block, dict) and block.get("type") in _THOUGHT_BLOCKS)
    ]
    return {**turn, "content": kept}


class MessageEvents:
    """Translates the events of one request into those of the messages protocol.

    Args:
        collected: told of every event.
        message_id: begins with ``msg_``.
    """

    def __init__(self, collected: Collected, message_id: str) -> None:
        self._collected = collected
        self._ask = collected.ask
        self._id = message_id
        self._is_live = self._ask.request.streams == 1
        self._thought: ThoughtText | None = None
        self._phase: Phase | None = None
        self._index = -1

    def first(self) -> list[Told]:
        """What says that the request was accepted."""
        message = _message(self._ask, self._id, [], None, {"input_tokens": 0, "output_tokens": 0})
        return [_told("message_start", message=message)]

    def take(self, events: Iterable[Event]) -> list[Told]:
        """The events that follow on some of ours."""
        told: list[Told] = []
        for event in events:
            self._collected.take(event)
            if isinstance(event, Text) and self._is_live:
                told += self._say(event.phase, self._shown(event))
            elif isinstance(event, Answered):
                told += self._end(event.response)
        return told

    def failed(self, error: Mapping[str, Any]) -> list[Told]:
        """What ends a stream that can't go on."""
        return [_told("error", error={"type": error["type"], "message": error["message"]})]

    def _shown(self, event: Text) -> str:
        if event.phase is Phase.ANSWER:
            return event.text
        self._thought = self._thought or self._collected.thought()
        return self._thought.push(event.text)

    def _say(self, phase: Phase, text: str) -> list[Told]:
        if not text:
            return []
        told = [] if phase is self._phase else [*self._stop_block(), *self._start_block(phase)]
        kind = "thinking" if phase is Phase.THINKING else "text"
        delta = {"type": f"{kind}_delta", kind: text}
        return [*told, _told("content_block_delta", index=self._index, delta=delta)]

    def _start_block(self, phase: Phase) -> list[Told]:
        self._phase, self._index = phase, self._index + 1
        return [_told("content_block_start", index=self._index, content_block=_block(phase, ""))]

    def _stop_block(self) -> list[Told]:
        if self._phase is None:
            return []
        told = [_told("content_block_stop", index=self._index)]
        if self._phase is Phase.THINKING:
            delta = {"type": "signature_delta", "signature": ""}
            told.insert(0, _told("content_block_delta", index=self._index, delta=delta))
        return told

    def _end(self, response: Response) -> list[Told]:
        told: list[Told] = []
        if self._is_live:
            told += self._say(Phase.THINKING, self._thought.flush() if self._thought else "")
        else:
            told += self._say(Phase.THINKING, response.thinking or "")
            told += self._say(Phase.ANSWER, response.text)
        if self._phase is not Phase.ANSWER:
            told += [*self._stop_block(), *self._start_block(Phase.ANSWER)]
        delta = {"stop_reason": _stop_reason(response), "stop_sequence": None}
        extension = {EXTENSION: self._collected.extension(response)}
        usage = usage_of(self._ask, response)
        return [
            *told,
            *self._stop_block(),
            _told("message_delta", delta=delta, usage=usage, **extension),
            _told("message_stop"),
        ]


def _told(kind: str, **values: Any) -> Told:
    return kind, {"type": kind, **values}


def _block(phase: Phase, text: str) -> dict[str, Any]:
    if phase is Phase.THINKING:
        return {"type": "thinking", "thinking": text, "signature": ""}
    return {"type": "text", "text": text}


def _message(
    ask: Ask, message_id: str, content: list[dict[str, Any]], reason: str | None, usage: Mapping[str, int]
) -> dict[str, Any]:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _stop_reason(response: Response) -> str:
    if response.stop is Stop.STOP_STRING:
        return "stop_sequence"
    return "end_turn" if finish_reason(response) == "stop" else "max_tokens"


def whole(collected: Collected, response: Response, message_id: str) -> dict[str, Any]:
    """The message of a response."""
    content = [_block(Phase.THINKING, response.thinking)] if response.thinking else []
    content.append(_block(Phase.ANSWER, response.text))
    usage = usage_of(collected.ask, response)
    message = _message(collected.ask, message_id, content, _stop_reason(response), usage)
    return {**message, EXTENSION: collected.extension(response)}


def usage_of(ask: Ask, response: Response) -> dict[str, int]:
    """Tokens in the words of the messages protocol, whose input is what was not there already."""
    cached_tokens = response.usage.cached_tokens
    return {
        "input_tokens": response.usage.prompt_tokens - cached_tokens,
        "cache_read_input_tokens": cached_tokens,
        "output_tokens": tokens_of(ask, response)[0],
    }

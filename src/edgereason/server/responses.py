"""OpenAI's Responses: a body becomes an `Ask`, events become response events, a response its object. Pure.

::

    created · in_progress
    ├─ reasoning item   output_item.added · content_part.added · reasoning_text.delta … .done · … .done
    └─ message item     output_item.added · content_part.added · output_text.delta … .done · … .done
    completed | incomplete

Asked for a summary, thinking goes into `reasoning_summary_text` instead: some clients look nowhere else. It
is the thinking itself; nothing is summarised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from edgereason.core.checks import require_int, shown
from edgereason.core.types import Response
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
    thinking_options,
)
from edgereason.server.fields import EXTENSION, REASONING_TABLE, RESPONSES, Refused, blamed, typed

Told = tuple[str, dict[str, Any]]
"""An event's type, and its object."""

_SUMMARIES: Final = ("auto", "concise", "detailed")


class _Body(Common, kw_only=True):
    input: str | list[Any]
    instructions: str | None = None
    max_output_tokens: int | None = None
    reasoning: dict[str, Any] | None = None


class _Reasoning(msgspec.Struct, kw_only=True):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


def read(values: Mapping[str, Any], served: Served, drawn_seed: int) -> Ask:
    """What a body of the Responses protocol asks; arguments as those of `chat.read`.

    Raises:
        Refused: a field can't be honoured.
    """
    RESPONSES.check(values)
    body = typed(values, _Body)
    REASONING_TABLE.check(body.reasoning or {})
    reasoning = typed(body.reasoning or {}, _Reasoning, "reasoning")
    options = thinking_options(body, reasoning.effort, "reasoning.effort", served.options(body.model), served)
    options |= sampling_of(body, drawn_seed)
    if body.max_output_tokens is not None:
        with blamed("max_output_tokens"):
            require_int("max_output_tokens", body.max_output_tokens, least=1)
        options["max_tokens"] = body.max_output_tokens
    return Ask(
        request=request_of(_messages(body), options, EXTENSION_PARAMS),
        model=body.model or served.name,
        is_stream=bool(body.stream),
        with_summary=_wants_summary(reasoning),
    )


def _messages(body: _Body) -> Any:
    items: list[Any] = (
        [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    )
    turns = []
    for index, item in enumerate(items):
        kind = item.get("type", "message") if isinstance(item, dict) else "message"
        if kind == "reasoning":  # thinking of earlier turns never goes into a prompt again
            continue
        if kind != "message":
            raise Refused(
                f"input[{index}]: items of type {shown(kind)} are not supported: this version calls no tools",
                f"input[{index}].type",
                "unsupported_content",
            )
        turns.append(item)
    return conversation(turns, "input", body.instructions or "")


def _wants_summary(reasoning: _Reasoning) -> bool:
    for name in ("summary", "generate_summary"):
        value = getattr(reasoning, name)
        if value is not None and value not in _SUMMARIES:
            param = f"reasoning.{name}"
            raise Refused(
                f"{param} must be one of {', '.join(_SUMMARIES)}; got {shown(value)}", param, "invalid_value"
            )
    return reasoning.summary is not None or reasoning.generate_summary is not None


class ResponseEvents:
    """Translates the events of one request into those of the Responses protocol.

    Args:
        collected: told of every event.
        response_id: begins with ``resp_``.
        created: seconds since 1970.
    """

    def __init__(self, collected: Collected, response_id: str, created: int) -> None:
        self._collected = collected
        self._ask = collected.ask
        self._object = _Object(self._ask, response_id, created)
        self._is_live = self._ask.request.streams == 1
        self._thought: ThoughtText | None = None
        self._items: list[_Item] = []
        self._number = 0

    def first(self) -> list[Told]:
        """What says that the request was accepted."""
        whole = self._object.made("in_progress", [])
        return [
            self._told("response.created", response=whole),
            self._told("response.in_progress", response=whole),
        ]

    def take(self, events: Iterable[Event]) -> list[Told]:
        """The events that follow on some of ours, what is said in a row in one."""
        told: list[Told] = []
        said: list[tuple[Phase, str]] = []
        for event in events:
            self._collected.take(event)
            if isinstance(event, Text) and self._is_live:
                self._thought = self._thought or self._collected.thought()  # by now the route is known
                text = self._thought.push(event.text) if event.phase is Phase.THINKING else event.text
                if said and said[-1][0] is event.phase:
                    said[-1] = event.phase, said[-1][1] + text
                else:
                    said.append((event.phase, text))
            elif isinstance(event, Answered):
                return told + self._said(said) + self._end(event.response)
        return told + self._said(said)

    def failed(self, error: Mapping[str, Any]) -> list[Told]:
        """What ends a stream that can't go on."""
        return [
            self._told(
                "error", error=error, message=error["message"], code=error["code"], param=error["param"]
            )
        ]

    def _said(self, said: list[tuple[Phase, str]]) -> list[Told]:
        told: list[Told] = []
        for phase, text in said:
            if text:
                told += self._say(phase, text)
        said.clear()
        return told

    def _say(self, phase: Phase, text: str) -> list[Told]:
        told: list[Told] = []
        if not self._items or self._items[-1].phase is not phase:
            told += self._close_last() + self._open(phase)
        item = self._items[-1]
        item.text += text
        return [*told, self._told(f"response.{item.event}.delta", **item.place, **item.delta(text))]

    def _open(self, phase: Phase) -> list[Told]:
        item = _Item(phase, len(self._items), self._object.response_id, as_summary=self._ask.with_summary)
        self._items.append(item)
        added = {"output_index": item.index, "item": item.made("in_progress", is_empty=True)}
        return [
            self._told("response.output_item.added", **added),
            self._told(f"response.{item.part_event}.added", **item.place, part=item.part("")),
        ]

    def _close_last(self, status: str = "completed") -> list[Told]:
        if not self._items:
            return []
        item = self._items[-1]
        return [
            self._told(f"response.{item.event}.done", **item.place, **item.done()),
            self._told(f"response.{item.part_event}.done", **item.place, part=item.part(item.text)),
            self._told("response.output_item.done", output_index=item.index, item=item.made(status)),
        ]

    def _end(self, response: Response) -> list[Told]:
        told: list[Told] = []
        if self._is_live:
            told += self._said([(Phase.THINKING, self._thought.flush() if self._thought else "")])
        else:
            told += self._said([(Phase.THINKING, response.thinking or ""), (Phase.ANSWER, response.text)])
        if not self._items or self._items[-1].phase is not Phase.ANSWER:  # there is always a message
            told += self._close_last() + self._open(Phase.ANSWER)
        status = _status(response)
        told += self._close_last(status)
        whole = self._object.made(
            status, [item.made(status) for item in self._items], self._collected, response
        )
        return [*told, self._told(f"response.{status}", response=whole)]

    def _told(self, kind: str, **values: Any) -> Told:
        self._number += 1
        return kind, {"type": kind, "sequence_number": self._number - 1, **values}


class _Item:
    """One item of the output as it grows: thinking, or the message."""

    def __init__(self, phase: Phase, index: int, response_id: str, *, as_summary: bool) -> None:
        self.phase = phase
        self.index = index
        self.text = ""
        self._as_summary = as_summary and phase is Phase.THINKING
        prefix = "rs" if phase is Phase.THINKING else "msg"
        self._id = f"{prefix}_{response_id.removeprefix('resp_')}"

    @property
    def event(self) -> str:
        """What its texts' events are called."""
        if self.phase is Phase.ANSWER:
            return "output_text"
        return "reasoning_summary_text" if self._as_summary else "reasoning_text"

    @property
    def part_event(self) -> str:
        """What its part's events are called."""
        return "reasoning_summary_part" if self._as_summary else "content_part"

    @property
    def place(self) -> dict[str, Any]:
        """Where its text stands."""
        part = "summary_index" if self._as_summary else "content_index"
        return {"item_id": self._id, "output_index": self.index, part: 0}

    def part(self, text: str) -> dict[str, Any]:
        """Its one part."""
        if self.phase is Phase.ANSWER:
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "summary_text" if self._as_summary else "reasoning_text", "text": text}

    def delta(self, text: str) -> dict[str, Any]:
        """A piece of text."""
        return {"delta": text} | ({"logprobs": []} if self.phase is Phase.ANSWER else {})

    def done(self) -> dict[str, Any]:
        """All of the text."""
        return {"text": self.text} | ({"logprobs": []} if self.phase is Phase.ANSWER else {})

    def made(self, status: str, *, is_empty: bool = False) -> dict[str, Any]:
        """The item itself."""
        parts = [] if is_empty else [self.part(self.text)]
        if self.phase is Phase.ANSWER:
            return {
                "type": "message",
                "id": self._id,
                "role": "assistant",
                "status": status,
                "content": parts,
            }
        within = {"summary": parts} if self._as_summary else {"summary": [], "content": parts}
        # Thinking is whole once an answer follows it, whatever becomes of that.
        return {"type": "reasoning", "id": self._id, "status": status if is_empty else "completed", **within}


class _Object:
    """The response object as it stands at some time."""

    def __init__(self, ask: Ask, response_id: str, created: int) -> None:
        self._ask = ask
        self.response_id = response_id
        self._created = created

    def made(
        self,
        status: str,
        output: list[dict[str, Any]],
        collected: Collected | None = None,
        response: Response | None = None,
    ) -> dict[str, Any]:
        """The object; with its end once there is a response."""
        request = self._ask.request
        end: dict[str, Any] = {"usage": None}
        if collected is not None and response is not None:
            end = {"usage": usage_of(self._ask, response), EXTENSION: collected.extension(response)}
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": None,
            "max_output_tokens": request.max_tokens,
            "metadata": {},
            "model": self._ask.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": {
                "effort": str(request.effort),
                "summary": "auto" if self._ask.with_summary else None,
            },
            "store": False,
            "temperature": request.sampling.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": request.sampling.top_p,
            "truncation": "disabled",
            "user": None,
            **end,
        }


def _status(response: Response) -> str:
    return "completed" if finish_reason(response) == "stop" else "incomplete"


def whole(collected: Collected, response: Response, response_id: str, created: int) -> dict[str, Any]:
    """The `response` object of a response."""
    ask, status = collected.ask, _status(response)
    items: list[_Item] = []
    for phase, text in ((Phase.THINKING, response.thinking), (Phase.ANSWER, response.text)):
        if text or phase is Phase.ANSWER:
            items.append(_Item(phase, len(items), response_id, as_summary=ask.with_summary))
            items[-1].text = text or ""
    output = [item.made(status) for item in items]
    return _Object(ask, response_id, created).made(status, output, collected, response)


def usage_of(ask: Ask, response: Response) -> dict[str, Any]:
    """Tokens in the words of the Responses protocol."""
    output_tokens, thinking_tokens = tokens_of(ask, response)
    input_tokens = response.usage.prompt_tokens
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": response.usage.cached_tokens},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": thinking_tokens},
        "total_tokens": input_tokens + output_tokens,
    }

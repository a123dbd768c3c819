"""Fields of the wire protocols as data: honoured, known to have no effect, or refused by name. Pure.

::

    body ─ parse ─→ JSON object ─ Table.check ─→ only known fields ─ typed ─→ struct with checked types
                                      └─ Refused(param, …)             └─ Refused(param, …)

A field that a server accepts and ignores is a promise that it breaks, so nothing is ignored in silence: a
value that would change the answer is refused, and a name that nobody knows is refused with the nearest one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from edgereason.config import closest
from edgereason.core.checks import shown
from edgereason.errors import ContextOverflow, RequestError

T = TypeVar("T")

EXTENSION: Final = "edgereason"
"""The field that carries what no protocol has a name for, in requests and in answers."""


class Refused(RequestError):
    """A request that can't be served because of one field.

    Args:
        message: what was got, what was expected, what to do.
        param: the field, as a path from the body; None where it is not about one.
        code: a word for programs; None where the type says all.
    """

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


@dataclass(frozen=True, slots=True)
class Limited:
    """A field that is accepted only with values that change nothing.

    Attributes:
        accepts: whether a value, never null, changes nothing.
        why: why other values are refused.
    """

    accepts: Callable[[Any], bool]
    why: str


def _anything(_value: Any) -> bool:
    return True


def _never(_value: Any) -> bool:
    return False


def _is_empty(value: Any) -> bool:
    return not value


def _equals(*allowed: Any) -> Callable[[Any], bool]:
    return lambda value: any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed
    )


def _text_format(value: Any) -> bool:
    return isinstance(value, dict) and value == {"type": "text"}


NO_EFFECT: Final = Limited(_anything, "")
_TOOLS: Final = "this version calls no tools: leave the field out"
_PENALTY: Final = "penalties are not built in: use temperature, top_p, top_k or min_p"
_STORED: Final = "this server stores nothing: send the whole conversation with every request"
_FORMAT: Final = "the answer can't be forced into a format: ask for it in words"
_TEXT_ONLY: Final = "this model reads and writes text only"

_SHARED: Final[Mapping[str, Limited]] = {
    "user": NO_EFFECT,
    "metadata": NO_EFFECT,
    "service_tier": NO_EFFECT,
    "prompt_cache_key": NO_EFFECT,
    "prompt_cache_retention": NO_EFFECT,
    "safety_identifier": NO_EFFECT,
    "parallel_tool_calls": NO_EFFECT,
    "cache_prompt": Limited(_equals(True), "prompts are always kept"),
    "store": Limited(_equals(False), _STORED),
    "tools": Limited(_is_empty, _TOOLS),
    "tool_choice": Limited(_equals("none", "auto"), _TOOLS),
    "logprobs": Limited(_equals(False), "log-probabilities are not given"),
    "top_logprobs": Limited(_equals(0), "log-probabilities are not given"),
    "frequency_penalty": Limited(_equals(0), _PENALTY),
    "presence_penalty": Limited(_equals(0), _PENALTY),
    "repetition_penalty": Limited(_equals(1), _PENALTY),
    "repeat_penalty": Limited(_equals(1), _PENALTY),
    "logit_bias": Limited(_is_empty, "single tokens can't be made more or less likely"),
    "lora": Limited(_is_empty, "the adapter belongs to the bundle that the server loaded"),
    "extra_body": Limited(
        _is_empty, "extra_body is a word of the client library: on the wire its fields stand at the top level"
    ),
}

_SAMPLING: Final = ("temperature", "top_p", "top_k", "min_p", "seed", "stop")
_BUDGETS: Final = ("thinking_budget_tokens", "reasoning_budget_tokens", "thinking_token_budget")
BUDGET_NAMES: Final = _BUDGETS
"""What other servers call the budget of thinking."""
_THINKING: Final = (*_BUDGETS, "think", "chat_template_kwargs", EXTENSION)


@dataclass(frozen=True, slots=True)
class Table:
    """What one endpoint does with each field.

    Attributes:
        honoured: fields that do what they say.
        limited: fields that are accepted only where they change nothing; null is always accepted.
        elsewhere: names that are known, but belong to another place, and that place.
        inside: the path of the object that has these fields; "" for the body itself.
    """

    honoured: tuple[str, ...]
    limited: Mapping[str, Limited] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    inside: str = ""

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuses the first field that can't be honoured.

        Raises:
            Refused: it is unknown, or its value would need what is not built in.
        """
        for name, value in values.items():
            param = f"{self.inside}.{name}" if self.inside else name
            if name in self.honoured:
                continue
            limited = self.limited.get(name)
            if limited is None:
                raise Refused(self._unknown(name), param[:200], "unknown_parameter")
            if value is not None and not limited.accepts(value):
                raise Refused(f"{param} is not supported: {limited.why}", param, "unsupported_parameter")

    def _unknown(self, name: str) -> str:
        message = f"unknown field {shown(name)}" + (f" in {self.inside}" if self.inside else "")
        if place := self.elsewhere.get(name):
            return f"{message}: it belongs {place}"
        near = closest(name, [*self.honoured, *self.limited])
        return f"{message}: did you mean {near!r}?" if near else f"{message}: leave it out"


_TO_EXTENSION: Final = f"into the object {EXTENSION!r}"
_TO_TOP: Final = "to the top level of the body"
_EXTENSION_FIELDS: Final = ("mode", "effort", "budget", "streams", "vote", "stage")
_OTHER_BUDGETS: Final = ("thinking_budget", "reasoning_budget", "budget_tokens")
_MISPLACED: Final = dict.fromkeys(_EXTENSION_FIELDS, _TO_EXTENSION)

CHAT: Final = Table(
    honoured=(
        *("model", "messages", "stream", "stream_options", "n", "reasoning_effort", "include_reasoning"),
        *("max_completion_tokens", "max_tokens"),
        *_SAMPLING,
        *_THINKING,
    ),
    limited={
        **_SHARED,
        "functions": Limited(_is_empty, _TOOLS),
        "function_call": Limited(_equals("none", "auto"), _TOOLS),
        "response_format": Limited(_text_format, _FORMAT),
        "modalities": Limited(_equals(["text"]), _TEXT_ONLY),
        "audio": Limited(_never, _TEXT_ONLY),
        "prediction": Limited(_never, "an answer can't be predicted for this server"),
        "verbosity": Limited(_equals("medium"), "ask for a short or a long answer in words"),
        "web_search_options": Limited(_never, "this server searches nothing"),
        "reasoning_budget_message": Limited(_never, "what closes thinking belongs to the bundle"),
    },
    elsewhere={
        **_MISPLACED,
        "enable_thinking": "into chat_template_kwargs",
        **dict.fromkeys(_OTHER_BUDGETS, f"here as {_BUDGETS[0]}"),
    },
)

RESPONSES: Final = Table(
    honoured=(
        *("model", "input", "instructions", "max_output_tokens", "reasoning", "stream", "stream_options"),
        *_SAMPLING,
        *_THINKING,
    ),
    limited={
        **_SHARED,
        "text": Limited(
            lambda value: (
                isinstance(value, dict)
                and set(value) <= {"format", "verbosity"}
                and value.get("format") in (None, {"type": "text"})
                and value.get("verbosity") in (None, "medium")
            ),
            _FORMAT,
        ),
        # The thinking itself is in the answer; what is asked for here is meant for servers that hide it.
        "include": Limited(
            lambda value: isinstance(value, list) and set(map(str, value)) <= {"reasoning.encrypted_content"},
            "none of these is made here",
        ),
        "truncation": Limited(_equals("disabled"), "a conversation that is too long is refused, never cut"),
        "previous_response_id": Limited(_never, _STORED),
        "conversation": Limited(_never, _STORED),
        "background": Limited(_equals(False), "an answer is made while the client waits"),
        "prompt": Limited(_never, _STORED),
        "max_tool_calls": Limited(_never, _TOOLS),
    },
    elsewhere={
        **_MISPLACED,
        "reasoning_effort": "into reasoning, as effort",
        "enable_thinking": "into chat_template_kwargs",
        **dict.fromkeys(("max_tokens", "max_completion_tokens"), "here as max_output_tokens"),
        **dict.fromkeys(_OTHER_BUDGETS, f"here as {_BUDGETS[0]}"),
    },
)

MESSAGES: Final = Table(
    honoured=(
        *(
            "model",
            "messages",
            "max_tokens",
            "system",
            "stop_sequences",
            "stream",
            "thinking",
            "output_config",
        ),
        *("temperature", "top_p", "top_k", "min_p", "seed", EXTENSION),
    ),
    limited={
        "metadata": NO_EFFECT,
        "service_tier": NO_EFFECT,
        "tools": Limited(_is_empty, _TOOLS),
        "tool_choice": Limited(lambda value: value in ({"type": "auto"}, {"type": "none"}), _TOOLS),
        "mcp_servers": Limited(_is_empty, _TOOLS),
        "container": Limited(_never, _TOOLS),
    },
    elsewhere={
        **_MISPLACED,
        "budget_tokens": "into thinking",
        "reasoning_effort": "into output_config, as effort",
        "stop": "here as stop_sequences",
        **dict.fromkeys(_BUDGETS, "into thinking, as budget_tokens"),
    },
)

OWN: Final = Table(
    honoured=(
        *("id", "messages", "mode", "effort", "budget", "streams", "vote", "stage", "system", "max_tokens"),
        *_SAMPLING,
    ),
    elsewhere=dict.fromkeys(_BUDGETS, "here as budget"),
)

CONTROL: Final = Table(honoured=("id", "action"))

EXTENSION_TABLE: Final = Table(
    honoured=_EXTENSION_FIELDS,
    elsewhere=dict.fromkeys((*_SAMPLING, *_BUDGETS, "max_tokens", "max_completion_tokens"), _TO_TOP),
    inside=EXTENSION,
)
TEMPLATE_TABLE: Final = Table(
    honoured=("enable_thinking",),
    elsewhere={
        **dict.fromkeys((*_BUDGETS, "reasoning_effort"), _TO_TOP),
        **dict.fromkeys(_OTHER_BUDGETS, f"{_TO_TOP}, as {_BUDGETS[0]}"),
    },
    inside="chat_template_kwargs",
)
STREAM_TABLE: Final = Table(
    honoured=("include_usage",),
    limited={"include_obfuscation": Limited(_equals(False), "no padding is added")},
    inside="stream_options",
)
THINKING_TABLE: Final = Table(
    honoured=("type", "budget_tokens"),
    limited={"display": NO_EFFECT},
    elsewhere={"effort": "into output_config"},
    inside="thinking",
)
OUTPUT_TABLE: Final = Table(
    honoured=("effort",), limited={"format": Limited(_never, _FORMAT)}, inside="output_config"
)
REASONING_TABLE: Final = Table(
    honoured=("effort", "summary", "generate_summary"),
    elsewhere={"max_tokens": f"{_TO_TOP}, as {_BUDGETS[0]}"},
    inside="reasoning",
)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        Refused: it is not JSON, or not an object.
    """
    try:
        values = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise Refused(f"the body is not JSON: {error}", None, "invalid_json") from error
    if not isinstance(values, dict):
        raise Refused("the body must be a JSON object", None, "invalid_json")
    return values


_PLACE: Final = re.compile(r"^(.*?)(?: - at `\$\.?([^`]*)`)?$", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}


def typed(values: Any, kind: type[T], inside: str = "") -> T:
    """Plain values as a struct, their types checked strictly.

    Args:
        values: of JSON.
        kind: a struct of msgspec.
        inside: path of the object within the body.

    Raises:
        Refused: a field is missing or of another type.
    """
    try:
        return msgspec.convert(values, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        what, place = _place(str(error))
        if missing := _MISSING.match(what):
            param = ".".join(part for part in (inside, place, missing[1]) if part)
            raise Refused(f"{param} is missing", param, "missing_parameter") from error
        param = ".".join(part for part in (inside, place) if part)
        raise Refused(f"{param or 'the body'}: {_in_words(what)}", param or None, "invalid_type") from error


def _place(message: str) -> tuple[str, str]:
    """What msgspec says is wrong, and where."""
    found = _PLACE.match(message)
    return (found[1], found[2] or "") if found else (message, "")


def _in_words(what: str) -> str:
    """The types of a message as people call them; that null would do goes without saying."""

    def words(found: re.Match[str]) -> str:
        kinds = [kind for kind in found[1].split(" | ") if kind != "null" or found[1] == "null"]
        return " or ".join(_WORDS.get(kind, kind) for kind in kinds)

    text = re.sub(r"`([^`]*)`", words, what)
    return text[:1].lower() + text[1:]


@contextmanager
def blamed(param: str) -> Iterator[None]:
    """Says of which field a refusal of the values' own checks is."""
    try:
        yield
    except (Refused, ContextOverflow):
        raise
    except RequestError as error:
        raise Refused(str(error), param, "invalid_value") from error

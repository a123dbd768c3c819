"""From what the wire protocols have in common to a `Request`: messages, thinking, sampling, seeds. Pure.

::

    model NAME:think ─┐
    reasoning_effort ─┤
    think, enable_thinking, thinking_budget_tokens, … ─┼→ mode, effort, budget   what contradicts is refused
    edgereason {mode, budget, streams, vote} ─┘

The protocols themselves are in `chat.py`, `responses.py` and `native.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import msgspec

from edgereason.core.checks import member, require_one_of, shown
from edgereason.core.types import Budget, Effort, Message, Mode, Request, Sampling
from edgereason.errors import RequestError
from edgereason.reasoning.request import make_request
from edgereason.server import limits
from edgereason.server.fields import (
    BUDGET_NAMES,
    EXTENSION,
    EXTENSION_TABLE,
    NO_EFFECT,
    TEMPLATE_TABLE,
    Limited,
    Refused,
    Table,
    blamed,
    typed,
)

_SEED_BITS: Final = 31
AUTO: Final = "auto"
"""An effort that lets the switcher decide."""


class UnknownModel(Refused):
    """The server has no model of this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server offers.

    Attributes:
        name: of its model; NAME:chat, NAME:think and NAME:vote are the same one, told what to do.
        mode: what is done where a request does not say whether to think.
        reasoning_fields: in which fields of a chat message thinking is given.
    """

    name: str
    mode: Mode = Mode.AUTO
    reasoning_fields: tuple[str, ...] = ("reasoning_content",)

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """Names of the model, and the options that each stands for."""
        return {
            self.name: {},
            f"{self.name}:chat": {"mode": Mode.CHAT},
            f"{self.name}:think": {"mode": Mode.THINK},
            f"{self.name}:vote": {"mode": Mode.THINK, "streams": limits.VOTE_STREAMS},
        }

    def options(self, model: str | None) -> dict[str, Any]:
        """What a model's name asks for; no name is the server's one model.

        Raises:
            UnknownModel: it is not served here.
        """
        names = self.models
        if model is not None and model not in names:
            raise UnknownModel(
                f"there is no model {shown(model)} here: use one of {', '.join(names)}",
                "model",
                "model_not_found",
            )
        return names[model or self.name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a client asked, and how it wants to be answered.

    Attributes:
        model: as the client calls it.
        num_choices: candidates that are given as they are; 1 where a vote gives one answer.
        is_stream: whether events are wanted.
        with_usage: whether the stream's last event counts tokens.
        with_reasoning: whether thinking is wanted.
        with_summary: whether it is wanted as a summary, the only place where some clients look.
        notices: what was decided for the client.
    """

    request: Request
    model: str
    num_choices: int = 1
    is_stream: bool = False
    with_usage: bool = False
    with_reasoning: bool = True
    with_summary: bool = False
    notices: tuple[str, ...] = ()


class Common(msgspec.Struct, kw_only=True):
    """Fields that OpenAI's protocols share here, with their types."""

    model: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    think: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    thinking_budget_tokens: int | None = None
    reasoning_budget_tokens: int | None = None
    thinking_token_budget: int | None = None
    edgereason: dict[str, Any] | None = None


class Extension(msgspec.Struct, kw_only=True):
    """The object `edgereason` of a request."""

    mode: str | None = None
    effort: str | None = None
    budget: int | str | None = None
    streams: int | None = None
    vote: str | None = None
    stage: int | list[int] | str | None = None


class _TemplateArguments(msgspec.Struct):
    enable_thinking: bool | None = None


def extension_of(body: Common) -> Extension:
    """What `edgereason` holds."""
    values = body.edgereason or {}
    EXTENSION_TABLE.check(values)
    return typed(values, Extension, EXTENSION)


def thinking_options(
    body: Common, effort: str | None, effort_param: str, named: Mapping[str, Any], served: Served
) -> dict[str, Any]:
    """Mode, effort, budget, streams and vote of a request, from all places that speak of them.

    Args:
        body: the request.
        effort: its reasoning effort, if it has one.
        effort_param: what that field is called.
        named: what the model's name asks for; the request's own fields win over it.
        served: what holds where nobody says.

    Raises:
        Refused: two places contradict each other, or a value is out of range.
    """
    extension = extension_of(body)
    options = {name: value for name, value in named.items() if name != "mode"}
    options |= {
        name: value
        for name in ("budget", "streams", "vote", "stage")
        if (value := getattr(extension, name)) is not None
    }
    claims: list[tuple[str, Mode]] = []
    if extension.mode is not None:
        with blamed(f"{EXTENSION}.mode"):
            claims.append((f"{EXTENSION}.mode", member(Mode, "mode", extension.mode)))
    for param, value in ((effort_param, effort), (f"{EXTENSION}.effort", extension.effort)):
        if value is not None:
            claims += _effort_claims(options, param, value, extension.mode)
    claims += [(param, Mode.THINK if value else Mode.CHAT) for param, value in _switches(body).items()]
    budget_param, budget = _budget(body, extension)
    if budget == 0:
        claims.append((budget_param, Mode.CHAT))
    elif budget is not None:
        options["budget"] = budget
    for (first, mode), (other, other_mode) in pairwise(claims):
        if mode is not other_mode:
            raise Refused(
                f"{first} asks for {mode} and {other} for {other_mode}: leave one of them out",
                other,
                "contradiction",
            )
    if claims:
        options["mode"] = claims[0][1]
        if options["mode"] is Mode.CHAT:
            options["enable_thinking"] = False  # a natively reasoning model should not think by itself
    elif "mode" in named:
        options["mode"] = named["mode"]
    else:
        wants_thinking = budget is not None and served.mode is Mode.CHAT
        options["mode"] = Mode.THINK if wants_thinking else served.mode
    if "budget" in options:
        with blamed(budget_param):
            require_budget(options["budget"], options["mode"])
    return options


def require_budget(value: int | str, mode: Mode) -> None:
    """Refuses a budget that no request may have.

    Raises:
        RequestError: it is not one, too small to think in, or longer than a request may take.
    """
    budget = Budget.of(value)
    if mode is Mode.THINK:
        budget.require_room_to_think()
    if (budget.limit_s or 0.0) > limits.REQUEST_S:
        raise RequestError(f"a budget may be at most {limits.REQUEST_S:g} s, got {budget.limit_s:g} s")


def _effort_claims(
    options: dict[str, Any], param: str, effort: str, mode: str | None
) -> list[tuple[str, Mode]]:
    """What an effort says of the mode; a level goes into the options, and leaves `auto` what it is."""
    with blamed(param):
        require_one_of(param, effort, [AUTO, *Effort])
    if effort == AUTO:
        return [(param, Mode.AUTO)]
    if effort == Effort.NONE:
        return [(param, Mode.CHAT)]
    if options.get("effort", effort) != effort:
        raise Refused(f"there are two efforts: leave {param} out", param, "contradiction")
    options["effort"] = effort
    return [] if mode == Mode.AUTO else [(param, Mode.THINK)]


def _switches(body: Common) -> dict[str, bool]:
    """Fields that turn thinking on or off."""
    arguments = body.chat_template_kwargs or {}
    TEMPLATE_TABLE.check(arguments)
    template = typed(arguments, _TemplateArguments, TEMPLATE_TABLE.inside)
    switches = {"think": body.think, f"{TEMPLATE_TABLE.inside}.enable_thinking": template.enable_thinking}
    return {param: value for param, value in switches.items() if value is not None}


def _budget(body: Common, extension: Extension) -> tuple[str, int | str | None]:
    """The field that names a budget, and the budget."""
    given: dict[str, Any] = {
        name: value for name in BUDGET_NAMES if (value := getattr(body, name)) is not None
    }
    for name, value in given.items():
        if value < 0:
            raise Refused(
                f"{name} must be 0 (no thinking) or more, got {shown(value)}; left out, the effort has a "
                "budget of its own",
                name,
                "invalid_value",
            )
    if extension.budget is not None:
        given[f"{EXTENSION}.budget"] = extension.budget
    if not given:
        return "", None
    (param, budget), *others = given.items()
    for other, value in others:
        if value != budget:
            raise Refused(
                f"{param} is {shown(budget)} and {other} is {shown(value)}: give one budget",
                other,
                "contradiction",
            )
    return param, budget


def sampling_of(body: Common, drawn_seed: int) -> dict[str, Any]:
    """How tokens are drawn, and where an answer ends.

    Args:
        body: the request.
        drawn_seed: the seed of a request that names none.

    Raises:
        Refused: a value is out of range.
    """
    options: dict[str, Any] = {"seed": drawn_seed if body.seed is None else folded(body.seed)}
    for name in ("temperature", "top_p", "top_k", "min_p"):
        if (value := getattr(body, name)) is not None:
            with blamed(name):
                Sampling(**{name: value})
            options[name] = value
    if body.stop:
        strings = [body.stop] if isinstance(body.stop, str) else body.stop
        if len(strings) > limits.MAX_STOP_STRINGS:
            raise Refused(
                f"stop takes at most {limits.MAX_STOP_STRINGS} texts, got {len(strings)}",
                "stop",
                "invalid_value",
            )
        options["stop"] = tuple(strings)
    return options


def folded(seed: int) -> int:
    """A seed of 64 bits as one of 31; below 2³¹ it is the same.

    Raises:
        Refused: it has more than 64 bits.
    """
    if not -(1 << 63) <= seed < 1 << 64:
        raise Refused(f"seed must have at most 64 bits, got {shown(seed)}", "seed", "invalid_value")
    mask, rest, found = (1 << _SEED_BITS) - 1, seed & ((1 << 64) - 1), 0
    while rest:
        found, rest = found ^ (rest & mask), rest >> _SEED_BITS
    return found


def request_of(
    messages: Sequence[Message], options: Mapping[str, Any], params: Mapping[str, str] | None = None
) -> Request:
    """The request of messages and options, each refused under the name of its field.

    Args:
        messages: the conversation.
        options: of `AskOptions`.
        params: what an option is called on the wire, where that differs.
    """
    for name in (name for name in _ALONE if name in options):
        with blamed((params or {}).get(name, name)):
            Request(messages=(Message("user", "?"),), **{name: options[name]})
    given = dict(options)
    stop_early = given.pop("stop_early", True)
    with blamed("messages"):
        return replace(make_request(messages, **given), stop_early=stop_early)


_ALONE: Final = ("mode", "streams", "vote", "stage", "effort", "max_tokens", "stop")
"""Options that are right or wrong whatever the others are."""
EXTENSION_PARAMS: Final = {name: f"{EXTENSION}.{name}" for name in ("streams", "vote", "stage")}
"""What options of the extension are called on the wire."""

_IN_HISTORY: Final = Limited(lambda value: not value, "this version calls no tools: leave such turns out")
MESSAGE_TABLE: Final = Table(
    honoured=("role", "content"),
    limited={
        # Thinking of earlier turns comes back from clients; it never goes into a prompt again.
        **dict.fromkeys(("reasoning_content", "reasoning", "reasoning_details", "thinking"), NO_EFFECT),
        **dict.fromkeys(("name", "refusal", "annotations", "id", "type", "status", "phase"), NO_EFFECT),
        **dict.fromkeys(("tool_calls", "function_call", "tool_call_id"), _IN_HISTORY),
        "audio": Limited(lambda value: not value, "this model reads and writes text only"),
        EXTENSION: NO_EFFECT,
    },
)
_SYSTEM: Final = ("system", "developer")
_TOOL_ROLES: Final = ("tool", "function")
_TEXT_PARTS: Final = ("text", "input_text", "output_text")


def conversation(values: Sequence[Any], param: str, system: str = "") -> tuple[Message, ...]:
    """Messages of the wire: instructions first, wherever they stood, then the turns.

    Args:
        values: objects with role and content.
        param: the field that they are from.
        system: instructions that come before theirs.

    Raises:
        Refused: a turn can't be used, or the last one is not the user's.
    """
    if len(values) > limits.MAX_MESSAGES:
        raise Refused(
            f"{param}: at most {limits.MAX_MESSAGES} messages, got {len(values)}", param, "too_many_messages"
        )
    instructions, turns = [system], []
    for index, value in enumerate(values):
        place = f"{param}[{index}]"
        role, text = _turn(value, place)
        with blamed(f"{place}.content"):
            message = Message("system" if role in _SYSTEM else role, text)  # type: ignore[arg-type]
        if message.role == "system":
            instructions.append(text)
        else:
            turns.append(message)
    if not turns or turns[-1].role != "user":
        raise Refused(
            f"{param} must end with a message of the user: an answer that was begun can't be continued"
            if turns
            else f"{param} has no message of the user",
            param,
            "invalid_value",
        )
    whole = "\n\n".join(text for text in instructions if text.strip())
    return (*([Message("system", whole)] if whole else []), *turns)


def _turn(value: Any, place: str) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise Refused(
            f"{place} must be an object with role and content, got {shown(value)}", place, "invalid_type"
        )
    Table(MESSAGE_TABLE.honoured, MESSAGE_TABLE.limited, inside=place).check(value)
    role = value.get("role")
    if role in _TOOL_ROLES:
        raise Refused(
            f"{place}: turns of tools are not supported: this version calls no tools", f"{place}.role"
        )
    with blamed(f"{place}.role"):
        require_one_of("role", role, [*_SYSTEM, "user", "assistant"])
    content = value.get("content")
    if content is None and role == "assistant":  # what a client keeps of an answer that it stopped
        content = ""
    return str(role), text_of(content, f"{place}.content")


def text_of(content: Any, place: str) -> str:
    """A content's text: it is one, or parts of text.

    Raises:
        Refused: it is something else, or a part is.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refused(
            f"{place} must be a text or a list of parts, got {shown(content)}", place, "invalid_type"
        )
    texts = []
    for index, part in enumerate(content):
        at = f"{place}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text", part.get("refusal")) if isinstance(part, dict) else None
        if kind not in (*_TEXT_PARTS, "refusal"):
            raise Refused(
                f"{at}: this model reads text only, got a part of type {shown(kind)}",
                at,
                "unsupported_content",
            )
        if not isinstance(text, str):
            raise Refused(f"{at}.text must be a text, got {shown(text)}", f"{at}.text", "invalid_type")
        texts.append(text)
    return "\n".join(texts)

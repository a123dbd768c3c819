"""From the plain values that callers give to a `Request`.

    make_request("What is 17 × 23?", mode="think", budget=200)

What each value may be is checked by the values themselves (`core/types.py`), so that every entrance refuses
the same in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, TypedDict, Unpack

from edgereason.core.checks import require, require_known
from edgereason.core.types import Budget, Effort, Message, Mode, Request, Sampling, Vote, as_messages

SAMPLING_OPTIONS: Final = ("temperature", "top_k", "top_p", "min_p")
"""Options that stand for one value of `sampling`."""


class AskOptions(TypedDict, total=False):
    """How a question is to be answered; an option that is left out, or None, has its default.

    Attributes:
        mode: "chat", "think" or "auto" (the switcher decides; without one, it thinks).
        budget: most tokens that a stream may spend, seconds for it all as "5s", or a `Budget`; wins over
            `effort`.
        effort: a budget by name; "none" is chat.
        streams: how many streams think in parallel, 1 to 64.
        vote: "majority", "weighted" or "best"; by default weighted if a verifier is loaded.
        stage: how many streams begin, as 5 of 8; the others begin only while the vote is open. Several
            numbers, as (5, 6), are several stages. By default all begin at once.
        sampling: how tokens are drawn; the next four replace single values of it.
        temperature: 0 (greedy) to 5; by default 0.7.
        top_k: only the k most likely tokens are drawn, 0 for all; by default 40.
        top_p: only the most likely tokens with this share of the probability, above 0 to 1; by default 0.95.
        min_p: only tokens with this share of the likeliest one's probability, 0 to 1; by default 0.
        seed: stream i draws with seed + i, and ties are broken by it; by default 0.
        max_tokens: caps a chat answer, and a thinking stream where it is below the budget.
        stop: text or texts before the first of which the answer ends; they are never looked for in thinking.
        calculator: whether the exact results of arithmetic are forced in what is thought; by default as the
            bundle has it. Chat has it where mode chat and this are both asked for.
        system: a system message put before the conversation.
        enable_thinking: what the templates of natively reasoning models are told; by default, not to think
            in chat.
    """

    mode: Mode | str | None
    budget: int | str | Budget | None
    effort: Effort | str | None
    streams: int | None
    vote: Vote | str | None
    stage: int | str | Sequence[int] | None
    sampling: Sampling | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int | None
    max_tokens: int | None
    stop: str | Sequence[str] | None
    calculator: bool | None
    system: str | None
    enable_thinking: bool | None


def make_request(question: str | Iterable[Message], **options: Unpack[AskOptions]) -> Request:
    """A request from plain values.

    Args:
        question: a text, or a conversation whose last message is the user's.
        options: see `AskOptions`.

    Raises:
        RequestError: an option does not exist, is of another type, out of range or not among those allowed.
    """
    require_known(options, AskOptions.__annotations__)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if isinstance(question, str):
        messages: tuple[Message, ...] = (Message("user", question),)
    else:
        messages = as_messages("the question", question, "a text or a sequence of Message")
    if (system := given.pop("system", "")) != "":
        messages = (Message("system", system), *messages)
    sampling = given.pop("sampling", Sampling())
    require("sampling", sampling, Sampling)
    single = {name: given.pop(name) for name in SAMPLING_OPTIONS if name in given}
    return Request(messages=messages, sampling=replace(sampling, **single), **given)

"""What Python callers hand in by mistake is refused by an error of ours, before anything is encoded."""

from __future__ import annotations

from typing import Any

import pytest

from edgereason.core.types import Message, Request
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import RequestError
from edgereason.reasoning.model import Model

NO_CONVERSATION: list[Any] = [
    b"What is 2+2?",
    5,
    1.5,
    {"role": "user", "content": "Hi"},
    [{"role": "user", "content": "Hi"}],
    [{"role": "tool", "content": "Hi"}],
    ["Hi", {"role": "user", "content": "Hi"}],
    [Message],
    [("user", "Hi")],
    "half a character: \ud800",
    "\udfff",
    "  ",
    [],
]


@pytest.mark.parametrize("asked", NO_CONVERSATION, ids=repr)
def test_what_is_not_a_question_is_refused_by_every_entrance(asked: Any) -> None:
    with Model(ScriptedEngine()) as model:
        for call in (model.ask, lambda said: list(model.stream(said)), model.session().ask):
            with pytest.raises(RequestError):
                call(asked)
        with pytest.raises(RequestError):
            Request(messages=asked)
        assert model.ask("2+2?", mode="think", budget=64).answer == "4"  # nothing was left behind


@pytest.mark.parametrize(
    ("role", "content"),
    [
        ("tool", "x"), ("function", "x"), ("User", "x"), ("", "x"), (None, "x"), (5, "x"),
        ("user", "\ud800"), ("assistant", "a\udc00b"), ("user", None), ("user", b"x"), ("user", ["x"]),
    ],
)  # fmt: skip
def test_a_turn_is_one_of_three_roles_and_a_text(role: Any, content: Any) -> None:
    with pytest.raises(RequestError, match="a message's"):
        Message(role, content)

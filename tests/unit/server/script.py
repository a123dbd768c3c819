"""What the tests of the server share: questions to a scripted engine, without HTTP."""

from __future__ import annotations

from typing import Any

from edgereason.core.types import Response
from edgereason.engine.scripted import ScriptedEngine
from edgereason.reasoning.events import Answered, Event
from edgereason.reasoning.model import Model
from edgereason.server import chat
from edgereason.server.answering import Facts
from edgereason.server.asking import Ask, Served

FACTS = Facts(base="scripted", is_bundle=False, context_tokens=32_768)


class Script:
    """Asks a scripted engine through the protocol of chat completions, and keeps what happened."""

    def __init__(self, replies: list[str], **fields: Any) -> None:
        body = {"messages": [{"role": "user", "content": "2+2?"}], "seed": 0, **fields}
        self.ask: Ask = chat.read(body, Served(name="small"), 0)
        self.events: list[Event] = list(Model(ScriptedEngine(replies)).run(self.ask.request))

    @property
    def response(self) -> Response:
        assert isinstance(self.events[-1], Answered)
        return self.events[-1].response

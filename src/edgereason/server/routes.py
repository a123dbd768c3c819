"""The endpoints: each reads a body, asks the service, and translates what happens.

::

    body ─ read ─→ Ask ─ service.ask ─→ Asked ─┬─ whole response ─→ one JSON object
     400 ←┘          4xx, 429, 503 ←┘          └─ batches of events ─ frames ─→ server-sent events
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Final, Protocol, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from edgereason import __version__
from edgereason.core.types import Response as Answer
from edgereason.reasoning.events import Event
from edgereason.server import chat, limits, messages, native, responses
from edgereason.server.asking import Ask
from edgereason.server.fields import parse
from edgereason.server.guard import CLIENT
from edgereason.server.metrics import CONTENT_TYPE
from edgereason.server.pages import INDEX, Page
from edgereason.server.problems import Problem, problem_of
from edgereason.server.service import Asked, Service
from edgereason.server.sse import DONE, EventStream, Gone, frame, json_bytes, unless_gone

ENDPOINTS: Final = (
    "POST /v1/chat/completions, /v1/responses or /v1/messages, "
    "GET /v1/models, /health or /metrics, or the page at /"
)
T = TypeVar("T", covariant=True)
Respond = Callable[[Request], Awaitable[Any]]


class Nothing:
    """The response to a client that is not there any more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        return


class Routes:
    """The endpoints of one service.

    Args:
        service: answers.
        needs_key: whether the page has to ask for a key.
    """

    def __init__(self, service: Service, *, needs_key: bool) -> None:
        self._service = service
        self._needs_key = needs_key
        self._created = int(time.time())
        self._page = Page()

    def app(self) -> Starlette:
        """The application of these endpoints."""
        post, get = ["POST"], ["GET"]
        app = Starlette(
            routes=[
                Route("/v1/chat/completions", _told(self.chat), methods=post),
                Route("/v1/chat/completions/input_tokens", _told(self.chat_tokens), methods=post),
                Route("/v1/chat/completions/control", _told(self.chat_control), methods=post),
                Route("/v1/responses", _told(self.responses), methods=post),
                Route("/v1/responses/input_tokens", _told(self.response_tokens), methods=post),
                Route("/v1/messages", _told(self.messages), methods=post),
                Route("/v1/messages/count_tokens", _told(self.message_tokens), methods=post),
                Route("/v1/models", _told(self.models), methods=get),
                Route("/v1/models/{name:path}", _told(self.model), methods=get),
                Route("/api/chat", _told(self.own), methods=post),
                Route("/api/control", _told(self.own_control), methods=post),
                Route("/api/info", _told(self.info), methods=get),
                Route("/health", _told(self.health), methods=get),
                Route("/metrics", _told(self.metrics), methods=get),
                Route("/", _told(self.page), methods=get),
                Route("/page/{name:path}", _told(self.page), methods=get),
            ],
            exception_handlers={HTTPException: _not_there},
        )
        app.router.redirect_slashes = False
        return app

    async def chat(self, request: Request) -> Any:
        """Chat completions."""
        ask = chat.read(parse(await request.body()), self._service.served, drawn_seed())
        request_id = new_id("chatcmpl-")
        identity = {"id": request_id, "created": int(time.time()), "model": ask.model}
        fields = self._service.served.reasoning_fields
        asked = await self._ask(ask, request_id, request)
        if not ask.is_stream:
            answer = await self._answer(asked, request)
            return json_response(chat.whole(asked.collected, answer, identity, fields))
        chunks = chat.Chunks(asked.collected, identity, fields)
        return _stream(asked, chunks, frame, ping_s=limits.PING_S, end=DONE)

    async def responses(self, request: Request) -> Any:
        """The Responses protocol."""
        ask = responses.read(parse(await request.body()), self._service.served, drawn_seed())
        request_id, created = new_id("resp_"), int(time.time())
        asked = await self._ask(ask, request_id, request)
        if not ask.is_stream:
            answer = await self._answer(asked, request)
            return json_response(responses.whole(asked.collected, answer, request_id, created))
        events = responses.ResponseEvents(asked.collected, request_id, created)
        return _stream(asked, events, named_frame, ping_s=limits.PING_S)

    async def messages(self, request: Request) -> Any:
        """Anthropic's messages."""
        ask = messages.read(parse(await request.body()), self._service.served, drawn_seed())
        message_id = new_id("msg_")
        asked = await self._ask(ask, message_id, request)
        if not ask.is_stream:
            answer = await self._answer(asked, request)
            return json_response(messages.whole(asked.collected, answer, message_id))
        events = messages.MessageEvents(asked.collected, message_id)
        return _stream(asked, events, named_frame, ping_s=limits.PING_S)

    async def own(self, request: Request) -> Any:
        """The page's protocol."""
        ask, given_id = native.read(parse(await request.body()), self._service.served, drawn_seed())
        request_id = given_id or new_id("ask-")
        asked = await self._ask(ask, request_id, request)
        frames = native.Frames(asked.collected, request_id)
        return _stream(asked, frames, frame, ping_s=limits.PAGE_PING_S)

    async def chat_tokens(self, request: Request) -> Any:
        """How many tokens a chat completion's prompt has."""
        ask = chat.read(parse(await request.body()), self._service.served, 0)
        return json_response({"input_tokens": await self._service.prompt_tokens(ask)})

    async def response_tokens(self, request: Request) -> Any:
        """How many tokens the prompt of a response has."""
        ask = responses.read(parse(await request.body()), self._service.served, 0)
        tokens = await self._service.prompt_tokens(ask)
        return json_response({"object": "response.input_tokens", "input_tokens": tokens})

    async def message_tokens(self, request: Request) -> Any:
        """How many tokens the prompt of a message has."""
        ask = messages.read(parse(await request.body()), self._service.served, 0)
        return json_response({"input_tokens": await self._service.prompt_tokens(ask)})

    async def chat_control(self, request: Request) -> Any:
        """Ends the thinking of a chat completion that is under way."""
        return await self._control(request, "reasoning_end", {"success": True})

    async def own_control(self, request: Request) -> Any:
        """Makes a request of the page answer now."""
        return await self._control(request, "answer_now", None)

    async def _control(self, request: Request, action: str, done: Any) -> Any:
        request_id = native.read_control(parse(await request.body()), action)
        if not self._service.answer_now(request_id):
            return problem_response(
                Problem(404, "no request of this id is being answered", "not_found", "id")
            )
        return Response(status_code=204) if done is None else json_response(done)

    async def models(self, request: Request) -> Any:
        """The names of the one model."""
        names = self._service.served.models
        return json_response({"object": "list", "data": [self._model(name) for name in names]})

    async def model(self, request: Request) -> Any:
        """One name of the model."""
        name = request.path_params["name"]
        self._service.served.options(name)
        return json_response(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "edgereason",
            "max_model_len": self._service.facts.context_tokens,
        }

    async def info(self, request: Request) -> Any:
        """What the page has to know."""
        service = self._service
        return json_response(
            native.info(service.served, service.facts, version=__version__, needs_key=self._needs_key)
        )

    async def health(self, request: Request) -> Any:
        """Whether requests are answered."""
        state = self._service.state
        if state == "ready":
            return json_response({"status": "ok"})
        return json_response({"status": state}, 503)

    async def metrics(self, request: Request) -> Any:
        """Figures for Prometheus."""
        return Response(self._service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def page(self, request: Request) -> Any:
        """A file of the page."""
        response = self._page.response(request.path_params.get("name", INDEX), request)
        return response or _nothing_at(request)

    async def _ask(self, ask: Ask, request_id: str, request: Request) -> Asked:
        return await self._service.ask(ask, request_id, request.scope.get(CLIENT, ""))

    async def _answer(self, asked: Asked, request: Request) -> Answer:
        try:
            return await unless_gone(request.receive, asked.response())
        finally:
            await asked.aclose()


class Translator(Protocol[T]):
    """A request's events in the words of a protocol."""

    def first(self) -> Iterable[T]:
        """What says that the request was accepted."""
        ...

    def take(self, events: Iterable[Event]) -> Iterable[T]:
        """What some events are."""
        ...

    def failed(self, error: Mapping[str, Any]) -> Iterable[T]:
        """What ends a stream that can't go on."""
        ...


def named_frame(told: tuple[str, dict[str, Any]]) -> bytes:
    """An event with its type."""
    kind, value = told
    return frame(value, kind)


def _stream(
    asked: Asked,
    told: Translator[T],
    write: Callable[[T], bytes],
    *,
    ping_s: float,
    end: bytes = b"",
) -> EventStream:
    return EventStream(frames_of(asked, told, write, end), ping_s=ping_s, on_close=asked.aclose)


def _told(respond: Respond) -> Respond:
    """The same endpoint, which tells what goes wrong before the first byte."""

    @wraps(respond)
    async def told(request: Request) -> Any:
        try:
            return await respond(request)
        except Gone:
            return Nothing()
        except Exception as error:
            return problem_response(problem_of(error))

    return told


async def frames_of(
    asked: Asked, told: Translator[T], write: Callable[[T], bytes], end: bytes = b""
) -> AsyncGenerator[bytes, None]:
    """What is sent of a request, from its acceptance to its end.

    Args:
        asked: the request.
        told: translates its events.
        write: makes a frame of what is told.
        end: sent after the last frame of an answer.
    """
    yield b"".join(map(write, told.first()))
    try:
        async for batch in asked.batches(paced=True):
            if frames := b"".join(map(write, told.take(batch))):
                yield frames
    except Exception as error:
        yield b"".join(map(write, told.failed(problem_of(error).error)))
        return
    if end:
        yield end


def json_response(value: Any, status: int = 200) -> Response:
    """A JSON object."""
    return Response(
        json_bytes(value), status, headers={"content-type": "application/json", "cache-control": "no-store"}
    )


def problem_response(problem: Problem) -> Response:
    """What went wrong."""
    return Response(problem.body, problem.status, headers=problem.headers)


async def _not_there(request: Request, error: Exception) -> Response:
    """What the router has no endpoint for."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        message = f"{request.url.path[:100]} takes another method than {request.method}"
        return problem_response(Problem(405, message, "method_not_allowed"))
    return _nothing_at(request)


def _nothing_at(request: Request) -> Response:
    message = f"there is nothing at {request.url.path[:100]}: use {ENDPOINTS}"
    return problem_response(Problem(404, message, "not_found"))


def drawn_seed() -> int:
    """A seed for a request that names none; it is reported, so that the answer can be had again."""
    return secrets.randbelow(1 << 31)


def new_id(prefix: str) -> str:
    """An id that nobody guesses: whoever knows it may end the request's thinking."""
    return prefix + uuid.uuid4().hex

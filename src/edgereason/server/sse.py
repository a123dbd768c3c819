"""Server-sent events: frames, pings, clients that leave, clients that do not read.

::

    frames ─→ send ─→ client        silence → ": ping"        send takes too long → the connection is cut
       ↑ closed as soon as the client is gone, so that what it asked for ends

A response that is not streamed watches for its client in the same way (`unless_gone`): Starlette itself goes
on computing for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from starlette.types import Message, Receive, Scope, Send

from edgereason.server import limits

T = TypeVar("T")

PING: Final = b": ping\n\n"
DONE: Final = b"data: [DONE]\n\n"
HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # a proxy that collects a stream makes it useless
}
# Readers that split a stream by str.splitlines() would end a line at these.
_LINE_ENDS: Final = (("\u2028", rb"\u2028"), ("\u2029", rb"\u2029"), ("\x85", rb"\u0085"))


class Gone(Exception):
    """The client left, or does not read."""


def json_bytes(value: Any) -> bytes:
    """JSON in one line, whatever a reader takes for the end of one."""
    text = msgspec.json.encode(value)
    for end, escape in _LINE_ENDS:
        text = text.replace(end.encode(), escape)
    return text


def frame(value: Any, event: str | None = None) -> bytes:
    """An event of a JSON value."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    return head + b"data: " + json_bytes(value) + b"\n\n"


class EventStream:
    """A response of server-sent events; closes its frames when the client is gone.

    Args:
        frames: bytes of one or more events; what goes wrong is theirs to tell.
        ping_s: silence after which a comment is sent.
        on_close: ends what the frames tell of, also where none was ever asked for.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        ping_s: float,
        on_close: Callable[[], Awaitable[None]],
    ) -> None:
        self._frames = frames
        self._ping_s = ping_s
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._send_all(_Patient(scope, send)))
        except Gone:
            pass
        finally:
            await self._frames.aclose()
            await self._on_close()

    async def _send_all(self, send: _Patient) -> None:
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        upcoming = asyncio.ensure_future(self._next())
        try:
            while True:
                await asyncio.wait({upcoming}, timeout=self._ping_s)
                body: bytes | None = PING
                if upcoming.done():
                    if (body := upcoming.result()) is None:
                        break
                    upcoming = asyncio.ensure_future(self._next())
                await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            await _cancelled(upcoming)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self) -> bytes | None:
        return await anext(self._frames, None)


class _Patient:
    """Sends, but gives up a client that does not read, and cuts its connection."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._abort: Callable[[], None] | None = scope.get("state", {}).get("abort")

    async def __call__(self, message: Message) -> None:
        try:
            async with asyncio.timeout(limits.STALLED_S):
                await self._send(message)
        except TimeoutError:
            if self._abort is not None:  # an orderly end would wait for what is not read
                self._abort()
                await asyncio.sleep(0)
            raise Gone from None


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The outcome of some work, which is cancelled when the client leaves.

    Args:
        receive: of a request whose body has been read.
        work: what is done for the client.

    Raises:
        Gone: the client left first.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Gone
    finally:
        await _cancelled(working)
        await _cancelled(leaving)


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """Cancels a task and waits for its end; what it came to is of no interest any more."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""Who may ask, from where, and how much: checked before anything of a request is understood. Plain ASGI.

::

    connections ─ Host ─ Origin ─ preflight ─ key ─ type ─ size, time ─→ the application
        503        403     403      204       401    415    413, 408

A page of another site that a browser shows can reach 127.0.0.1, by name (rebinding) or by form: so names must
be known, other origins are refused unless they are allowed, and bodies must be JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgereason.server import limits
from edgereason.server.problems import Problem

CLIENT: Final = "edgereason.client"
"""Under which a request's scope says who asks, for turns among clients: its key and its address."""
_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_OPEN_PATHS: Final = ("/", "/health", "/favicon.ico")
_PAGE_PATH: Final = "/page/"


class Keys:
    """API keys, kept as their hashes; without any, everyone may ask."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def place(self, given: str) -> int | None:
        """Which key was given; None if it is none of them. Takes the same time whichever it is."""
        digest = hashlib.sha256(given.encode(errors="replace")).digest()
        found = None
        for place, known in enumerate(self._hashes):
            if hmac.compare_digest(digest, known):
                found = place
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask.

    Attributes:
        hosts: names under which the server may be addressed, beside those of this machine.
        takes_addresses: whether any address will do as a name, as of a server for other machines: what a
            browser was led to by a name can't have one.
        origins: of pages on other sites that may ask; "*" for all.
    """

    keys: Keys = field(default_factory=Keys)
    hosts: frozenset[str] = frozenset()
    takes_addresses: bool = False
    origins: frozenset[str] = frozenset()

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name = _host_name(host)
        if name in _LOCAL_NAMES or name in self.hosts:
            return True
        return self.takes_addresses and _is_address(name)

    def allows(self, origin: str, host: str) -> bool:
        """Whether a page may ask: this server's own, or one of an origin that was named."""
        if origin in self.origins or "*" in self.origins:
            return True
        try:
            return urlsplit(origin).netloc.lower() == host.lower() != ""
        except ValueError:
            return False


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """The outermost layer of the application.

    Args:
        app: what is guarded.
        access: who may ask.
        num_connections: that are open now.
        note_status: told of every answer's status.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        *,
        num_connections: Callable[[], int],
        note_status: Callable[[int], None],
    ) -> None:
        self._app = app
        self._access = access
        self._num_connections = num_connections
        self._note_status = note_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin")
        shared = self._shared_headers(origin, headers)
        send = self._with_headers(send, shared)
        if (problem := self._problem(scope, headers)) is not None:
            await tell(problem, send)
            return
        if origin is not None and scope["method"] == "OPTIONS":
            await _empty(204, send)
            return
        if (problem := self._key_problem(scope, headers)) is not None:
            await tell(problem, send)
            return
        if scope["method"] == "POST":
            body = await _body(headers, receive)
            if isinstance(body, Problem):
                await tell(body, send)
                return
            receive = _replayed(body, receive)
        await self._app(scope, receive, send)

    def _problem(self, scope: Scope, headers: Mapping[str, str]) -> Problem | None:
        if self._num_connections() > limits.MAX_CONNECTIONS:
            return Problem(
                503, "too many connections", "too_many_connections", retry_after_s=limits.RETRY_S, closes=True
            )
        host = headers.get("host", "")
        if not self._access.knows(host):
            return Problem(
                403,
                f"the server is not known as {host[:100]!r}: address it as 127.0.0.1 or localhost, or start "
                "it with --allowed-host",
                "host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and not self._access.allows(origin, host):
            return Problem(
                403,
                f"pages of {origin[:100]!r} may not ask here: start the server with --cors-origin",
                "origin_not_allowed",
            )
        return None

    def _key_problem(self, scope: Scope, headers: Mapping[str, str]) -> Problem | None:
        address = (scope.get("client") or ("", 0))[0]
        scope[CLIENT] = address
        path = scope["path"]
        if not self._access.keys or path in _OPEN_PATHS or path.startswith(_PAGE_PATH):
            return None
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        place = self._access.keys.place(given)
        if place is None:
            wrong = "the API key is wrong" if given else "an API key is needed"
            return Problem(401, f"{wrong}: send it as Authorization: Bearer KEY", "invalid_api_key")
        scope[CLIENT] = f"{place} {address}"
        return None

    def _shared_headers(self, origin: str | None, headers: Mapping[str, str]) -> dict[str, str]:
        """What lets a page of another site read the answer, where that is allowed."""
        shared = {"x-content-type-options": "nosniff"}
        if origin is None or not (origin in self._access.origins or "*" in self._access.origins):
            return shared
        shared |= {"access-control-allow-origin": origin, "vary": "Origin"}
        if (wanted := headers.get("access-control-request-headers")) is not None:
            shared |= {
                "access-control-allow-methods": "GET, POST",
                "access-control-allow-headers": wanted[:1000],
                "access-control-max-age": "600",
            }
        return shared

    def _with_headers(self, send: Send, headers: Mapping[str, str]) -> Send:
        more = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note_status(message["status"])
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        return sent


async def _body(headers: Mapping[str, str], receive: Receive) -> bytes | Problem:
    """All of a request's body, if it is JSON, short, and here in time."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return Problem(
            415,
            f"the body must be application/json, got {kind[:100] or 'no content-type'!r}",
            "not_json",
            closes=True,
        )
    if headers.get("content-encoding", "identity").lower() != "identity":
        return Problem(415, "the body must not be compressed", "compressed", closes=True)
    chunks, num_bytes = [], 0
    try:
        async with asyncio.timeout(limits.BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return Problem(
                        408, "the client left before its body was here", "disconnected", closes=True
                    )
                chunk = message.get("body", b"")
                num_bytes += len(chunk)
                if num_bytes <= limits.MAX_BODY_BYTES:
                    chunks.append(chunk)
                if not message.get("more_body", False) or num_bytes > limits.MAX_DISCARDED_BYTES:
                    break
    except TimeoutError:
        if num_bytes <= limits.MAX_BODY_BYTES:
            return Problem(
                408, f"the body did not come in within {limits.BODY_S:g} s", "body_too_slow", closes=True
            )
    if num_bytes > limits.MAX_BODY_BYTES:
        return Problem(
            413, f"the body must have at most {limits.MAX_BODY_BYTES:,} bytes", "body_too_long", closes=True
        )
    return b"".join(chunks)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body in one piece, then what comes after it."""
    is_read = False

    async def read() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


async def tell(problem: Problem, send: Send) -> None:
    """Answers with a problem."""
    body = problem.body
    headers = {**problem.headers, "content-length": str(len(body))}
    await send(
        {
            "type": "http.response.start",
            "status": problem.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _empty(status: int, send: Send) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})

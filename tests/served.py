"""A server in a thread of the tests' process, and clients that behave badly."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from edgereason.engine.base import Engine
from edgereason.reasoning.async_model import AsyncModel
from edgereason.reasoning.model import Model
from edgereason.server.app import Server, ServerConfig, listening
from edgereason.server.asking import Served
from edgereason.server.service import Service

USER = [{"role": "user", "content": "2+2?"}]


@dataclass
class Reply:
    """What one request got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """Data of the stream's events, in order; comments and the end left out."""
        lines = [line for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]

    @property
    def code(self) -> str:
        return self.json["error"]["code"]

    def said(self, key: str = "content") -> str:
        """A chat's text, streamed or not."""
        if not self.body.startswith(b"data:"):
            return self.json["choices"][0]["message"].get(key) or ""
        choices = [choice for event in self.events for choice in event["choices"]]
        return "".join(choice["delta"].get(key) or "" for choice in choices)


class Site:
    """A server that runs."""

    def __init__(self, port: int, service: Service, server: Server) -> None:
        self.port = port
        self.service = service
        self.server = server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        path: str = "/v1/chat/completions",
        body: Any = None,
        *,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 60,
    ) -> Reply:
        """One request, to its end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        given = {"content-type": "application/json"} if content is not None else {}
        try:
            connection.request(
                method or ("GET" if content is None else "POST"), path, content, {**given, **(headers or {})}
            )
            response = connection.getresponse()
            got = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, got, response.read())
        finally:
            connection.close()

    def chat(self, **fields: Any) -> Reply:
        """A chat completion."""
        return self.ask(body={"messages": USER, "seed": 0, **fields})

    def open(self, body: Any, path: str = "/v1/chat/completions", *, receive_bytes: int | None = None) -> Raw:
        """A request that was sent, and nothing of its answer read."""
        return Raw(self.port, path, json.dumps(body).encode(), receive_bytes=receive_bytes)


class Raw:
    """A connection to read from as slowly as one likes, and to break off."""

    def __init__(self, port: int, path: str, body: bytes, *, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", port))
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self.socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.heard = b""

    def read_until(self, text: bytes) -> bytes:
        """Reads on until something was heard."""
        while text not in self.heard:
            chunk = self.socket.recv(65536)
            if not chunk:
                raise AssertionError(f"the connection ended before {text!r}: {self.heard[-300:]!r}")
            self.heard += chunk
        return self.heard

    def read_all(self) -> bytes:
        """Reads to the connection's end."""
        while chunk := self.socket.recv(65536):
            self.heard += chunk
        return self.heard

    def said(self) -> str:
        """A chat's answer, as far as it was heard."""
        return Reply(200, {}, self.heard[self.heard.index(b"data:") :]).said()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def served(
    engine: Engine, config: ServerConfig | None = None, served: Served | None = None, **options: Any
) -> Iterator[Site]:
    """A server on an engine, ready to answer; `options` are those of `AsyncModel`."""
    ready: list[Site] = []
    has_begun, failures = threading.Event(), []

    async def load() -> AsyncModel:
        return AsyncModel(Model(engine), **{"max_waiting": 32, **options})

    async def run(listener: socket.socket, settings: ServerConfig) -> None:
        service = Service(served or Served(name="small"), load)
        server = Server(service, settings, listener)
        running = asyncio.create_task(server.run())
        while service.state == "loading" and not running.done():
            await asyncio.sleep(0.005)
        ready.append(Site(listener.getsockname()[1], service, server))
        has_begun.set()
        await running

    def work() -> None:
        settings = config or ServerConfig(port=0, drain_s=0.0)
        try:
            with listening(settings) as listener:
                asyncio.run(run(listener, settings))
        except BaseException as error:
            failures.append(error)
        finally:
            has_begun.set()

    thread = threading.Thread(target=work, name="server")
    thread.start()
    assert has_begun.wait(60)
    if failures:
        raise failures[0]
    try:
        yield ready[0]
    finally:
        ready[0].server.stop()
        thread.join(60)
    if failures:
        raise failures[0]

"""The server as a process: it listens, loads the model beside that, and ends in order.

::

    listen ─→ /health: loading ─→ the model is there ─→ SIGTERM: nothing new is taken, what runs is made
       │                                                to answer ─→ the listener closes ─→ exit 0
       └─ a public address without a key: refused

uvicorn does HTTP. It is told to leave signals alone, since draining comes before it closes its listeners.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgereason.errors import ConfigError, EdgeReasonError
from edgereason.server import limits
from edgereason.server.asking import Served
from edgereason.server.guard import Access, Guard, Keys
from edgereason.server.problems import LOG
from edgereason.server.routes import Routes
from edgereason.server.service import Loader, Service

ABORT: Final = "abort"
"""Under which a request's state has what cuts its connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How a server is reached, and by whom.

    Attributes:
        host: address to listen at; one that other machines reach needs a key.
        port: 0 for any that is free.
        keys: API keys; whoever has one of them may ask.
        allowed_hosts: names under which the server is addressed, beside those of this machine.
        cors_origins: of pages on other sites that may ask.
        drain_s: for the answers under way when the server is told to end.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    keys: tuple[str, ...] = field(default=(), repr=False)
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    drain_s: float = limits.DRAIN_S

    def __post_init__(self) -> None:
        for key in self.keys:
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise ConfigError("an API key must have printable ASCII characters only, and no blanks")
        if "*" in self.cors_origins and not self.keys:
            raise ConfigError(
                "every website could ask this server: name the origins that may, or set an API key"
            )


def serve(served: Served, load: Loader, config: ServerConfig, listener: socket.socket) -> None:
    """Answers requests until a signal ends it.

    Args:
        served: what is offered.
        load: loads the model, while the server says that it does.
        config: how it is reached.
        listener: of `listening`.

    Raises:
        EdgeReasonError: the model can't be loaded.
    """
    asyncio.run(_serve(served, load, config, listener))


@contextmanager
def listening(config: ServerConfig) -> Iterator[socket.socket]:
    """A socket that listens as the configuration says.

    Raises:
        ConfigError: other machines could reach it and there is no key, or it can't listen there.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if not config.keys and not is_local(str(address[0])):
            raise ConfigError(
                f"{config.host} can be reached from other machines: set an API key (--api-key-file, or "
                "EDGEREASON_API_KEY), or listen at 127.0.0.1"
            )
        listener = socket.create_server(address[:2], family=family, backlog=limits.MAX_CONNECTIONS)
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"can't listen at {config.host}:{config.port}: {reason}") from error
    with listener:
        # A client that does not read fills this, and is then found out.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.SEND_BUFFER_BYTES)
        yield listener


def is_local(address: str) -> bool:
    """Whether only this machine reaches an address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


async def _serve(served: Served, load: Loader, config: ServerConfig, listener: socket.socket) -> None:
    server = Server(Service(served, load), config, listener)
    with server.signals():
        await server.run()


def url_of(listener: socket.socket) -> str:
    """Under which a browser on this machine reaches the server."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def guarded(service: Service, config: ServerConfig, num_connections: Callable[[], int]) -> ASGIApp:
    """The whole application."""
    app = Routes(service, needs_key=bool(config.keys)).app()
    access = Access(
        keys=Keys(config.keys),
        hosts=frozenset(host.lower() for host in (*config.allowed_hosts, socket.gethostname(), config.host)),
        takes_addresses=not _is_local_host(config.host),
        origins=frozenset(config.cors_origins),
    )
    return Guard(app, access, num_connections=num_connections, note_status=service.metrics.note_status)


def _is_local_host(host: str) -> bool:
    try:
        return is_local(host)
    except ValueError:
        return host == "localhost"


class Server:
    """uvicorn and the service, and the order in which they begin and end."""

    def __init__(self, service: Service, config: ServerConfig, listener: socket.socket) -> None:
        self._service = service
        self._config = config
        self._listener = listener
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        app = guarded(service, config, lambda: self.num_connections)
        self._http = _Http(
            uvicorn.Config(
                app,
                http=_Protocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=limits.KEEP_ALIVE_S,
                timeout_graceful_shutdown=2,
            )
        )

    @property
    def num_connections(self) -> int:
        """Connections that are open."""
        return len(self._http.server_state.connections)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """The first signal ends the server in order, the second one at once. Only the main thread has any."""
        is_main = threading.current_thread() is threading.main_thread()
        numbers = [signal.SIGINT, signal.SIGTERM] if is_main else []
        before = {number: signal.getsignal(number) for number in numbers}
        handled = {number: was for number, was in before.items() if was is not signal.SIG_IGN}
        for number in handled:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, was in handled.items():
                signal.signal(number, was or signal.SIG_DFL)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.stop()

    def stop(self) -> None:
        """Ends the server in order; from any thread."""
        self._loop.call_soon_threadsafe(self._stop.set)

    async def run(self) -> None:
        """Serves until it is told to end, or can't load its model."""
        http = asyncio.create_task(self._http.serve(sockets=[self._listener]))
        loading = asyncio.create_task(self._service.start())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({http, loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done() and loading.exception() is None:
                await asyncio.wait({http, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                LOG.info("draining")
        finally:
            failure = loading.exception() if loading.done() and not loading.cancelled() else None
            if not loading.done():
                loading.cancel()
                with suppress(asyncio.CancelledError, EdgeReasonError):
                    await loading
            await self._service.drain(self._config.drain_s)
            self._http.should_exit = True
            stopping.cancel()
            await http
        if failure is not None:
            raise failure


class _Http(uvicorn.Server):
    """uvicorn without its handling of signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, which also ends connections that ask nothing, and lets a request cut its own."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, ABORT: transport.abort}
        self._patience = self.loop.call_later(limits.HEADERS_S, self._require_request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        super().connection_lost(exc)

    def _require_request(self) -> None:
        scope: Any = self.scope
        if scope is None and not self.transport.is_closing():
            self.transport.abort()


def configure_log(level: int = logging.WARNING) -> None:
    """Lets the server's own log and uvicorn's go to stderr, from a level on."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("edgereason.server", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.addHandler(handler)
        logger.propagate = False

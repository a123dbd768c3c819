"""Every test here has an empty cache of its own and no network but the loopback interface."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, handler

from edgereason.hub import huggingface


@pytest.fixture
def start_hub() -> Iterator[Callable[[], FakeHub]]:
    """Starts servers; all of them are stopped at the end."""
    servers: list[tuple[FakeHub, http.server.ThreadingHTTPServer, threading.Thread]] = []

    def start() -> FakeHub:
        hub = FakeHub()
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((hub, server, thread))
        return hub

    yield start
    for hub, server, thread in servers:
        hub.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no token, no proxy, and no waiting between attempts. Returns the models folder."""
    monkeypatch.setenv("EDGEREASON_CACHE", str(tmp_path / "cache"))
    for name in ("HF_TOKEN", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface, "RETRY_PAUSES_S", (0.0, 0.0, 0.0))
    return tmp_path / "cache" / "models"


@pytest.fixture
def hub(start_hub: Callable[[], FakeHub], monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = start_hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    return hub


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nothing listens: connections are refused."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all pip knows; wheels put into it can be downloaded."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder

"""Who may ask, from where and how much: refused before anything of a request is understood."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from edgereason.errors import (
    ConfigError,
    ContextOverflow,
    EngineError,
    QueueFull,
    RequestError,
    Unavailable,
)
from edgereason.server import guard as guard_module
from edgereason.server import limits
from edgereason.server.app import ServerConfig, is_local, listening
from edgereason.server.asking import UnknownModel
from edgereason.server.fields import Refused
from edgereason.server.guard import CLIENT, Access, Guard, Keys
from edgereason.server.problems import NotNow, problem_of

JSON = {"content-type": "application/json"}
Answered = tuple[int, dict[str, str], Any]


class Inner:
    """The application behind the guard: says that it was reached, and by whom."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.clients: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.clients.append(scope[CLIENT])
        if scope["method"] == "POST":
            self.bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'"inside"'})


def ask(
    access: Access | None = None,
    *,
    method: str = "GET",
    path: str = "/v1/models",
    chunks: list[bytes] | None = None,
    headers: dict[str, str] | None = None,
    inner: Inner | None = None,
    connections: int = 1,
    never_ends: bool = False,
) -> Answered:
    """What one request gets: status, headers, and its JSON."""
    sent: list[dict[str, Any]] = []
    given = {"host": "127.0.0.1:8080", **(headers or {})}
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks or []]
    if messages and not never_ends:
        messages[-1]["more_body"] = False

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(60)
        raise AssertionError("nobody waits so long")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "client": ("10.0.0.9", 5),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
    }
    statuses: list[int] = []
    guard = Guard(
        inner or Inner(), access or Access(), num_connections=lambda: connections, note_status=statuses.append
    )
    asyncio.run(guard(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    assert statuses == [sent[0]["status"]]
    return sent[0]["status"], answered, json.loads(body) if body else None


def code(answered: Answered) -> tuple[int, str]:
    return answered[0], answered[2]["error"]["code"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8080", "localhost:1", "[::1]:8080", "LOCALHOST"])
def test_names_of_this_machine_are_known(host: str) -> None:
    assert ask(headers={"host": host})[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8080",
        "",
        "10.0.0.5",
        "[",
        "a@localhost.b",
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(host: str) -> None:
    # ggml-org/llama.cpp#25655, nomic-ai/gpt4all#3587: rebinding
    assert code(ask(headers={"host": host})) == (403, "host_not_allowed")


def test_a_server_for_other_machines_knows_addresses_and_the_names_it_was_told() -> None:
    access = Access(takes_addresses=True, hosts=frozenset({"ai.example"}))
    assert [
        ask(access, headers={"host": host})[0] for host in ("10.0.0.5:80", "ai.example", "[fd00::1]")
    ] == [200] * 3
    assert code(ask(access, headers={"host": "evil.example"})) == (403, "host_not_allowed")


def test_pages_of_other_origins_are_refused_and_the_servers_own_is_not() -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9", "file://", "http://["):
        assert code(ask(headers={"origin": origin})) == (403, "origin_not_allowed")
    answered = ask(headers={"origin": "http://127.0.0.1:8080"})
    assert answered[0] == 200
    assert "access-control-allow-origin" not in answered[1]


def test_an_origin_that_was_named_may_ask_and_read() -> None:
    access = Access(origins=frozenset({"https://app.example"}), keys=Keys(["secret"]))
    headers = {"origin": "https://app.example"}
    wanted = {**headers, "access-control-request-headers": "authorization, x-stainless-os"}
    status, preflight, _ = ask(access, method="OPTIONS", headers=wanted)
    assert status == 204
    assert preflight["access-control-allow-headers"] == "authorization, x-stainless-os"
    status, answered, _ = ask(access, headers=headers)
    assert (status, answered["access-control-allow-origin"]) == (401, "https://app.example")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/chat/completions",
        "/metrics",
        "/api/info",
        "/nothing",
        "/pagex",
        "/health/",
        "/v1/../health",
    ],
)
def test_every_path_needs_the_key(path: str) -> None:
    # waybarrios/vllm-mlx#317, ggml-org/llama.cpp#24825
    access = Access(keys=Keys(["secret", "other"]))
    assert code(ask(access, path=path)) == (401, "invalid_api_key")
    assert code(ask(access, path=path, headers={"authorization": "Bearer wrong"})) == (401, "invalid_api_key")
    for headers in (
        {"authorization": "Bearer secret"},
        {"authorization": "bearer other"},
        {"x-api-key": "other"},
    ):
        assert ask(access, path=path, headers=headers)[0] == 200


def test_health_and_the_page_need_no_key() -> None:
    access = Access(keys=Keys(["secret"]))
    assert [ask(access, path=path)[0] for path in ("/health", "/", "/page/app.js")] == [200] * 3


def test_a_key_is_compared_in_constant_time_with_each_of_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(guard_module.hmac, "compare_digest", compare)
    keys = Keys(["first", "second", "third"])
    assert [keys.place(key) for key in ("first", "third", "x" * 10_000, "")] == [0, 2, None, None]
    assert len(compared) == 12
    assert {len(digest) for pair in compared for digest in pair} == {32}


def test_clients_are_told_apart_by_key_and_address() -> None:
    inner = Inner()
    ask(inner=inner)
    ask(Access(keys=Keys(["a", "b"])), headers={"x-api-key": "b"}, inner=inner)
    assert inner.clients == ["10.0.0.9", "1 10.0.0.9"]


def test_a_body_arrives_whole() -> None:
    inner = Inner()
    assert ask(method="POST", chunks=[b'{"a"', b":1}"], headers=JSON, inner=inner)[0] == 200
    assert inner.bodies == [b'{"a":1}']


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_only_json_is_taken(kind: str) -> None:
    # A form of another site can send these without being asked; it can't send JSON.
    headers = {"content-type": kind} if kind else {}
    assert code(ask(method="POST", chunks=[b"{}"], headers=headers)) == (415, "not_json")


def test_a_compressed_body_is_refused() -> None:
    headers = {**JSON, "content-encoding": "gzip"}
    assert code(ask(method="POST", chunks=[b"x"], headers=headers)) == (415, "compressed")


def test_a_body_is_bounded_before_it_is_understood() -> None:
    # agentrust-io/cmcp#147: what is counted is what came, whatever the headers say
    inner = Inner()
    longest = b" " * limits.MAX_BODY_BYTES
    assert ask(method="POST", chunks=[longest], headers=JSON, inner=inner)[0] == 200
    answered = ask(
        method="POST", chunks=[longest, b" "], headers={**JSON, "content-length": "5"}, inner=inner
    )
    assert code(answered) == (413, "body_too_long")
    assert answered[1]["connection"] == "close"
    endless = ask(method="POST", chunks=[longest] * 20, headers=JSON, inner=inner, never_ends=True)
    assert code(endless) == (413, "body_too_long")
    assert len(inner.bodies) == 1


def test_a_body_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_S", 0.05)
    answered = ask(method="POST", chunks=[b"{"], headers=JSON, never_ends=True)
    assert code(answered) == (408, "body_too_slow")


def test_too_many_connections_are_told_so() -> None:
    assert ask(connections=256)[0] == 200
    answered = ask(connections=257)
    assert code(answered) == (503, "too_many_connections")
    assert answered[1]["retry-after"] == "5"


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (
            Refused("no", "n", "invalid_value"),
            400,
            {"param": "n", "code": "invalid_value", "type": "invalid_request_error"},
        ),
        (UnknownModel("no", "model", "model_not_found"), 404, {"code": "model_not_found"}),
        (
            ContextOverflow(900, 512),
            400,
            {"code": "context_length_exceeded", "n_prompt_tokens": 900, "n_ctx": 512},
        ),
        (RequestError("no"), 400, {"code": "invalid_value"}),
        (QueueFull("no", 2.2), 429, {"code": "queue_full", "type": "rate_limit_error"}),
        (NotNow("draining", "no"), 503, {"code": "draining"}),
        (Unavailable("no"), 503, {"code": "unavailable"}),
        (EngineError("no"), 500, {"code": "engine_error", "type": "server_error"}),
    ],
)
def test_each_error_has_its_status_and_words(error: Exception, status: int, expected: dict[str, Any]) -> None:
    problem = problem_of(error)
    assert problem.status == status
    assert expected.items() <= problem.error.items()
    assert ("retry-after" in problem.headers) == (status in (429, 503))


def test_seconds_to_wait_are_rounded_up() -> None:
    assert problem_of(QueueFull("no", 2.2)).headers["retry-after"] == "3"


def test_what_nobody_foresaw_is_told_without_details(caplog: pytest.LogCaptureFixture) -> None:
    problem = problem_of(KeyError("/home/someone/secret"))
    assert (problem.status, problem.error["code"]) == (500, "internal_error")
    assert "secret" not in problem.body.decode()
    assert "secret" in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_are_served_only_with_a_key(host: str) -> None:
    # vllm-project/vllm#23052
    with pytest.raises(ConfigError, match="set an API key"), listening(ServerConfig(host=host, port=0)):
        pass


def test_an_open_address_with_a_key_is_listened_at() -> None:
    with listening(ServerConfig(host="0.0.0.0", port=0, keys=("secret",))) as listener:
        assert listener.getsockname()[1] > 0


def test_a_port_that_is_taken_is_told_in_a_line() -> None:
    with listening(ServerConfig(port=0)) as listener:
        port = listener.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f"can't listen at 127.0.0.1:{port}"),
            listening(ServerConfig(port=port)),
        ):
            pass


@pytest.mark.parametrize(
    "fields", [{"keys": ("",)}, {"keys": ("a b",)}, {"keys": ("é",)}, {"cors_origins": ("*",)}]
)
def test_a_configuration_that_protects_nothing_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ServerConfig(**fields)


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(ServerConfig(keys=("secret",)))


def test_loopback_addresses_are_local() -> None:
    found: Callable[[str], bool] = is_local
    assert [
        found(a) for a in ("127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "192.168.1.2", "fe80::1%eth0")
    ] == [
        *(True, True, True),
        *(False, False, False, False),
    ]

"""The server through real sockets, on a scripted engine: what clients do to it, and what it does to them."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from mutations import mutate_text

from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import EngineError
from edgereason.server import limits
from edgereason.server.app import ServerConfig
from edgereason.server.asking import Served
from served import USER, Raw, Reply, Site, served

FOUR = "2+2 is 4.\n</think>\n\nThe final answer is 4."
ENDLESS = "hm " * 20_000 + "\n</think>\n\nThe final answer is 6."
FOREVER = {"messages": USER, "stream": True, "edgereason": {"mode": "think", "budget": 30_000}}
THINK = {"reasoning_effort": "low"}


class SlowEngine(ScriptedEngine):
    """Takes its time, and counts what it is asked for.

    Attributes:
        step_s: seconds of a step.
        encode_s: seconds of each chunk that is read.
        fails_after: so many steps, the next one fails.
    """

    step_s = 0.001
    encode_s = 0.0
    fails_after: int | None = None
    num_steps = 0

    def step(self, feeds: Any) -> Any:
        self.num_steps += 1
        if self.num_steps == self.fails_after:
            raise EngineError("the device is gone")
        time.sleep(self.step_s)
        return super().step(feeds)

    def encode(self, *arguments: Any, **options: Any) -> bool:
        time.sleep(self.encode_s)
        return super().encode(*arguments, **options)


@pytest.fixture
def engine() -> SlowEngine:
    return SlowEngine([FOUR, ENDLESS])


@pytest.fixture
def site(engine: SlowEngine) -> Iterator[Site]:
    with served(engine) as site:
        yield site


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    """How long it took until it held."""
    start_s = time.monotonic()
    while not condition():
        assert time.monotonic() - start_s < seconds, "it never came to that"
        time.sleep(0.002)
    return time.monotonic() - start_s


def is_idle(site: Site) -> bool:
    load = site.service.model.load_figures()
    return load.running_requests == load.running_streams == load.waiting_requests == load.cells_running == 0


def answers(site: Site) -> bool:
    return site.chat(**THINK).said() == "The final answer is 4."


def test_an_answer_is_the_same_streamed_and_whole(site: Site) -> None:
    whole = site.chat(**THINK)
    streamed = site.chat(stream=True, **THINK)
    assert whole.headers["content-type"] == "application/json"
    assert streamed.headers["content-type"].startswith("text/event-stream")
    for reply in (whole, streamed):
        assert reply.said() == "The final answer is 4."
        assert reply.said("reasoning_content") == "2+2 is 4."
    assert streamed.body.endswith(b"data: [DONE]\n\n")


def test_the_models_names_are_listed_and_others_are_not_found(site: Site) -> None:
    listed = site.ask("/v1/models").json["data"]
    assert [model["id"] for model in listed] == ["small", "small:chat", "small:think", "small:vote"]
    assert listed[0]["max_model_len"] == 32_768
    assert site.ask("/v1/models/small:think").json["id"] == "small:think"
    assert (site.ask("/v1/models/gpt-4o").status, site.chat(model="gpt-4o").code) == (404, "model_not_found")


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/api/generate", "/api/tags", "/v1/embeddings", "/x", "/v1/models/"]
)
def test_a_path_that_is_not_there_names_those_that_are(site: Site, path: str) -> None:
    reply = site.ask(path)
    assert (reply.status, reply.code) == (404, "not_found" if path != "/v1/models/" else "model_not_found")
    assert "/v1/chat/completions" in reply.json["error"]["message"] or path == "/v1/models/"


def test_a_wrong_method_is_told_so(site: Site) -> None:
    assert site.ask("/v1/chat/completions", method="DELETE").code == "method_not_allowed"


def test_tokens_of_a_prompt_are_counted_without_an_answer(site: Site) -> None:
    # Three control tokens, "user\n", "2+2?", "\n" and "assistant\n", each byte a token.
    expected = 3 + 5 + 4 + 1 + 10
    counted = site.ask("/v1/chat/completions/input_tokens", {"messages": USER})
    assert counted.json == {"input_tokens": expected}
    assert site.ask("/v1/responses/input_tokens", {"input": "2+2?"}).json["input_tokens"] == expected


# The cases that servers like this one got wrong, after where they were reported.


def test_case_1_a_client_that_leaves_its_stream_frees_its_cells(site: Site, engine: SlowEngine) -> None:
    # cubist38/mlx-openai-server#269, ggml-org/llama.cpp#24496
    with site.open({**FOREVER, "seed": 1}) as client:
        client.read_until(b"reasoning_content")
        assert not is_idle(site)
    assert wait_for(lambda: is_idle(site)) < 0.5
    assert answers(site)
    assert engine.live_sequences <= 4  # of kept prompts only


def test_case_2_a_client_that_leaves_without_a_stream_frees_its_cells(site: Site) -> None:
    # BerriAI/litellm#37140, vllm-project/vllm#10087
    with site.open({**FOREVER, "seed": 1, "stream": False}):
        wait_for(lambda: site.service.model.load_figures().running_streams == 1)
    assert wait_for(lambda: is_idle(site)) < 0.5
    assert answers(site)
    assert b"edgereason_cancelled_total 1.0" in site.ask("/metrics").body


def test_case_3_headers_come_at_once_and_pings_while_a_prompt_is_read(
    engine: SlowEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ggml-org/llama.cpp#25241, ollama/ollama#16443
    monkeypatch.setattr(limits, "PING_S", 0.05)
    engine.encode_s = 0.4
    with served(engine) as site, site.open({"messages": USER, "stream": True, "seed": 0, **THINK}) as client:
        start_s = time.monotonic()
        head = client.read_until(b'"role":"assistant","content":""')
        assert head.startswith(b"HTTP/1.1 200")
        assert time.monotonic() - start_s < 0.3
        client.read_until(b": ping\n\n")
        assert b"4." not in client.heard
        client.read_until(b"[DONE]")


def test_case_4_a_prompt_is_read_beside_streams_that_go_on(site: Site, engine: SlowEngine) -> None:
    # ggml-org/llama.cpp#29175
    long = [{"role": "user", "content": "word " * 400}]  # 2,000 tokens: 32 chunks of 64
    with site.open({**FOREVER, "seed": 1}) as client:
        client.read_until(b"reasoning_content")
        engine.encode_s = 0.01
        before = engine.num_steps
        reply = site.ask("/api/chat", {"messages": long, "seed": 0, "mode": "chat"})
        readings = [event for event in reply.events if event["type"] == "reading"]
        assert engine.num_steps - before > 31
    assert readings[-1]["total"] > 2000
    assert [event["done"] for event in readings] == sorted(event["done"] for event in readings)


def test_case_5_a_stop_string_inside_thinking_ends_nothing(site: Site) -> None:
    # vllm-project/vllm#52393
    reply = site.chat(stop=["2 is"], **THINK)
    assert reply.said("reasoning_content") == "2+2 is 4."
    assert reply.said() == "The final answer is 4."


def test_case_6_thinking_that_eats_its_budget_still_answers(site: Site) -> None:
    # vllm-project/vllm#55420, sipeed/picoclaw#966
    reply = site.chat(seed=1, thinking_budget_tokens=100, think=True)
    assert reply.said() == "The final answer is 6."
    assert reply.json["usage"]["completion_tokens"] <= 100
    choice = reply.json["choices"][0]
    assert (choice["finish_reason"], reply.json["edgereason"]["stop"]) == ("stop", "budget")


def test_case_7_chunks_have_choices_and_usage_only_if_asked_for(site: Site) -> None:
    # Arthur-Ficial/apfel#100, ROCm/ATOM#1711, #1803
    plain = site.chat(stream=True, **THINK).events
    assert plain[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(event["choices"] and "usage" not in event for event in plain)
    asked = site.chat(stream=True, stream_options={"include_usage": True}, **THINK).events
    assert (asked[-1]["choices"], asked[-1]["usage"]["completion_tokens"]) == ([], 42)


def test_case_8_and_9_developers_and_text_parts_are_understood(site: Site) -> None:
    # ggml-org/llama.cpp#20215, qualcomm/GenieX#683
    parts = [{"type": "text", "text": "2+2?"}]
    messages = [{"role": "developer", "content": parts}, {"role": "user", "content": parts}]
    assert site.chat(messages=messages, **THINK).said() == "The final answer is 4."


def test_case_10_a_misplaced_budget_is_refused(site: Site) -> None:
    # vllm-project/vllm#50166
    reply = site.chat(chat_template_kwargs={"thinking_budget": 100})
    assert (reply.status, reply.json["error"]["param"]) == (400, "chat_template_kwargs.thinking_budget")


def test_case_11_a_failure_ends_the_stream_with_its_error(site: Site, engine: SlowEngine) -> None:
    # EricLBuehler/mistral.rs#1874
    engine.fails_after = 20
    reply = site.chat(stream=True, **THINK)
    assert reply.events[-1]["error"]["code"] == "engine_error"
    assert b"[DONE]" not in reply.body
    whole = site.chat(seed=0, **THINK)
    assert whole.said() == "The final answer is 4."  # the next one is answered
    engine.fails_after = engine.num_steps + 5
    failed = site.chat(**THINK)
    assert (failed.status, failed.json["error"]["type"]) == (500, "server_error")


def test_case_12_a_full_queue_refuses_at_once_and_before_anything_is_rendered(engine: SlowEngine) -> None:
    # vllm-project/vllm#49445, #58192, ollama/ollama#7758
    with served(engine, max_running=1, max_waiting=3) as site:
        clients = [site.open({**FOREVER, "seed": 1})]
        clients[0].read_until(b"reasoning_content")
        clients += [site.open({**FOREVER, "seed": 1}) for _ in range(3)]
        for client in clients:
            client.read_until(b'"role"')  # it has its place
        assert site.service.model.load_figures().waiting_requests == 3
        tokenize, engine.tokenize = engine.tokenize, None  # type: ignore[method-assign, assignment]
        try:
            start_s = time.monotonic()
            reply = site.chat()
            refused_s = time.monotonic() - start_s
        finally:
            engine.tokenize = tokenize  # type: ignore[method-assign]
        assert (reply.status, reply.code) == (429, "queue_full")
        assert int(reply.headers["retry-after"]) >= 1
        assert refused_s < 0.05 * patience()
        for client in clients:
            client.close()
        wait_for(lambda: is_idle(site))
        assert answers(site)


def patience() -> float:
    """How much longer than alone something may take on a machine that others use."""
    return max(1.0, os.getloadavg()[0]) if hasattr(os, "getloadavg") else 4.0


def test_case_13_rebinding_and_other_origins_are_refused(site: Site) -> None:
    # ggml-org/llama.cpp#25655, nomic-ai/gpt4all#3587, vllm-project/vllm#23052
    assert site.ask("/v1/models", headers={"host": "evil.example"}).code == "host_not_allowed"
    assert site.ask("/v1/models", headers={"origin": "https://evil.example"}).code == "origin_not_allowed"
    simple = {"content-type": "text/plain"}
    assert site.ask(body=b'{"messages":[]}', headers=simple).status == 415


def test_case_14_the_key_is_needed_on_every_path(engine: SlowEngine) -> None:
    # waybarrios/vllm-mlx#317, ggml-org/llama.cpp#24825
    with served(engine, ServerConfig(port=0, keys=("secret",), drain_s=0.0)) as site:
        paths = ("/v1/models", "/metrics", "/api/info", "/nothing", "/v1/chat/completions", "/docs")
        assert [site.ask(path).status for path in paths] == [401] * len(paths)
        assert site.ask(body={"messages": USER}).status == 401
        key = {"authorization": "Bearer secret"}
        assert (
            site.ask(body={"messages": USER, "seed": 0, **THINK}, headers=key).said()
            == "The final answer is 4."
        )
        assert site.ask("/health").json == {"status": "ok"}
        assert site.ask("/api/info", headers=key).json["needs_key"] is True


def test_case_15_a_body_is_bounded_before_its_json(site: Site) -> None:
    # agentrust-io/cmcp#147
    reply = site.ask(body=b'{"messages": "' + b"x" * (2 << 20) + b'"}')
    assert (reply.status, reply.code) == (413, "body_too_long")
    assert answers(site)


def test_case_16_a_character_of_several_tokens_arrives_whole(engine: SlowEngine) -> None:
    # abetlen/llama-cpp-python#372
    engine.replies = ["Yes 🙂🙃!".encode()]
    with served(engine) as site:
        reply = site.chat(stream=True, reasoning_effort="none")
        assert reply.said() == "Yes 🙂🙃!"
        assert "�" not in reply.body.decode()


@pytest.mark.parametrize(
    "path",
    [
        "../limits.py",
        "..%2flimits.py",
        "%2e%2e/limits.py",
        "/etc/passwd",
        "//etc/passwd",
        "index.html%00",
        "",
        ".",
        "C:%5c",
    ],
)
def test_case_17_no_path_of_a_request_is_opened(site: Site, path: str) -> None:
    # ggml-org/llama.cpp#26316
    reply = site.ask(f"/page/{path}")
    assert (reply.status, reply.code) == (404, "not_found")


SCRIPTED_SERVER = """
import sys
from edgereason.engine.scripted import ScriptedEngine
from edgereason.reasoning.async_model import AsyncModel
from edgereason.reasoning.model import Model
from edgereason.server.app import ServerConfig, listening, serve, url_of
from edgereason.server.asking import Served
import time

class Slow(ScriptedEngine):
    def step(self, feeds):
        time.sleep(0.002)
        return super().step(feeds)

async def load():
    reply = "hm " * 20_000 + "\\n</think>\\n\\nThe final answer is 6."
    return AsyncModel(Model(Slow([reply])), max_waiting=32)

config = ServerConfig(port=0, drain_s=10.0)
with listening(config) as listener:
    print(url_of(listener), flush=True)
    serve(Served(name="small"), load, config, listener)
"""


def test_case_18_sigterm_under_streams_gives_each_its_answer() -> None:
    # cubeplexai/cubeplex#606
    process = subprocess.Popen([sys.executable, "-c", SCRIPTED_SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline().rsplit(":", 1)[1])
    try:
        body = {**FOREVER, "edgereason": {"mode": "think", "budget": 30_000}}
        site = Site(port, None, None)  # type: ignore[arg-type]
        wait_for(lambda: site.ask("/health").status == 200, 30)
        with ThreadPoolExecutor(8) as pool:
            clients = [site.open(body) for _ in range(8)]
            for client in clients:
                client.read_until(b"reasoning_content")
            process.send_signal(signal.SIGTERM)
            start_s = time.monotonic()
            wait_for(lambda: site.ask("/health").json.get("status") == "draining", 5)
            refused = site.chat()
            assert (refused.status, refused.code) == (503, "draining")
            heard = list(pool.map(Raw.read_all, clients))
            for client in clients:
                client.close()
        assert process.wait(timeout=20) == 0
        assert time.monotonic() - start_s < 12
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert [client.said() for client in clients] == ["The final answer is 6."] * 8
    for text in heard:
        assert text.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_case_19_one_clients_tasks_dont_starve_anothers_chat(engine: SlowEngine) -> None:
    # open-webui/open-webui#16525: titles, tags and follow-ups, asked beside every answer
    keys = ("page", "other")
    config = ServerConfig(port=0, keys=keys, drain_s=0.0)
    with served(engine, config, max_running=1, max_waiting=32) as site, ThreadPoolExecutor(20) as pool:
        ended: list[str] = []

        def ask(key: str) -> Reply:
            body = {"messages": USER, "seed": 0, **THINK}
            reply = site.ask(body=body, headers={"authorization": f"Bearer {key}"})
            ended.append(key)
            return reply

        tasks = [pool.submit(ask, "page") for _ in range(16)]
        wait_for(lambda: site.service.model.load_figures().waiting_requests >= 8)
        done_before = len(ended)
        assert pool.submit(ask, "other").result().status == 200
        assert ended.index("other") - done_before <= 4
        assert all(task.result().status == 200 for task in tasks)


# What else is promised.


def test_a_request_answers_now_when_it_is_told_to(site: Site) -> None:
    with site.open({**FOREVER, "seed": 1}) as client:
        heard = client.read_until(b"reasoning_content").decode()
        request_id = heard.split('"id":"')[1].split('"')[0]
        done = site.ask("/v1/chat/completions/control", {"id": request_id, "action": "reasoning_end"})
        assert (done.status, done.json) == (200, {"success": True})
        client.read_until(b"[DONE]")
        assert client.said() == "The final answer is 6."
    assert (
        site.ask("/v1/chat/completions/control", {"id": request_id, "action": "reasoning_end"}).status == 404
    )


def test_the_page_answers_now_under_its_own_id(site: Site) -> None:
    body = {"id": "mine", "messages": USER, "mode": "think", "budget": 30_000, "seed": 1, "streams": 2}
    with site.open(body, "/api/chat") as client:
        client.read_until(b'"texts"')
        twice = site.ask("/api/chat", body)
        assert (twice.status, twice.code) == (400, "id_in_use")
        assert site.ask("/api/control", {"id": "mine", "action": "answer_now"}).status == 204
        client.read_until(b'"answered"')
    assert site.ask("/api/control", {"id": "mine", "action": "answer_now"}).status == 404


def test_texts_are_put_together_so_that_no_client_gets_more_than_20_frames_a_second(site: Site) -> None:
    with site.open({**FOREVER, "seed": 1}) as client:
        client.read_until(b"reasoning_content")
        start_s, before = time.monotonic(), client.heard.count(b"reasoning_content")
        while time.monotonic() - start_s < 1.0:
            client.heard += client.socket.recv(65536)
        assert 5 <= client.heard.count(b"reasoning_content") - before <= 22


def test_a_reader_that_stalls_is_dropped_and_others_go_on(
    engine: SlowEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STALLED_S", 0.5)
    monkeypatch.setattr(limits, "SEND_BUFFER_BYTES", 4096)
    engine.replies = [FOUR.encode(), ("x" * 25_000).encode()]
    engine.step_s = 0.0
    long = {"messages": USER, "stream": True, "seed": 1, "reasoning_effort": "none", "max_tokens": 30_000}
    with served(engine, max_running=8) as site:
        stalled = [site.open({**long, "n": 4}, receive_bytes=2048) for _ in range(2)]
        wait_for(lambda: site.service.model.load_figures().running_streams > 0)
        assert answers(site)
        wait_for(lambda: site.server.num_connections == 0 and is_idle(site), 30)
        for client in stalled:
            client.close()


def test_a_connection_that_asks_nothing_is_closed(
    engine: SlowEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEADERS_S", 0.1)
    with served(engine) as site, socket.create_connection(("127.0.0.1", site.port)) as client:
        client.sendall(b"POST /v1/chat")
        client.settimeout(10)
        with pytest.raises(ConnectionError):
            if client.recv(1) == b"":
                raise ConnectionError


def test_a_request_that_takes_too_long_is_made_to_answer(
    engine: SlowEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUEST_S", 0.3)
    with served(engine) as site:
        reply = site.ask(body={**FOREVER, "seed": 1, "stream": False})
        assert reply.said() == "The final answer is 6."


def test_health_says_that_the_model_is_being_loaded_and_asks_for_patience() -> None:
    late = "async def load():\n    import asyncio; await asyncio.sleep(2)\n"
    script = SCRIPTED_SERVER.replace("async def load():\n", late)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        site = Site(int(process.stdout.readline().rsplit(":", 1)[1]), None, None)  # type: ignore[arg-type]
        health = site.ask("/health")
        assert (health.status, health.json) == (503, {"status": "loading"})
        early = site.chat()
        assert (early.status, early.code, early.headers["retry-after"]) == (503, "loading", "5")
        assert site.ask("/v1/models").status == 503
        wait_for(lambda: site.ask("/health").status == 200, 30)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_model_that_cant_be_loaded_ends_the_server_with_its_error() -> None:
    from edgereason.errors import BundleError
    from edgereason.server.app import listening, serve

    async def load() -> Any:
        raise BundleError("there is no bundle here")

    config = ServerConfig(port=0)
    with listening(config) as listener, pytest.raises(BundleError, match="no bundle here"):
        serve(Served(name="small"), load, config, listener)


def test_the_page_learns_what_there_is(site: Site) -> None:
    info = site.ask("/api/info").json
    assert info["model"] == {"name": "small", "base": "scripted", "bundle": False, "context_tokens": 32_768}
    assert info["efforts"]["low"] == {"tokens": 256}
    assert info["heads"] == {"switcher": False, "threshold": None, "verifier": False}
    assert info["needs_key"] is False


def test_prometheus_reads_the_figures(site: Site) -> None:
    site.chat(seed=0, **THINK)
    site.chat(seed=0, **THINK)
    text = site.ask("/metrics").body.decode()
    assert 'edgereason_routes_total{route="think"} 2.0' in text
    assert "edgereason_prompt_tokens_total 46.0" in text
    assert "edgereason_tokens_predicted_total 84.0" in text
    assert "edgereason_requests_processing 0.0" in text
    assert "edgereason_ttft_seconds_count 2.0" in text
    # The second prompt is the first one's: all but its last token, whose logits are drawn from, may be kept.
    cached = float(text.split("\nedgereason_cached_tokens_total ")[1].split("\n")[0])
    assert cached >= 22


def test_files_are_imported_by_serve_alone() -> None:
    code = (
        "import sys, edgereason.cli.main, edgereason.reasoning.async_model;"
        "libraries = {'starlette', 'uvicorn', 'msgspec', 'prometheus_client', 'anyio'};"
        "print(sorted(libraries & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_64_readers_that_stall_cost_others_no_more_than_readers_and_are_dropped(
    engine: SlowEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEND_BUFFER_BYTES", 4096)
    engine.replies = [FOUR.encode(), ("x" * 25_000).encode()]
    engine.step_s = 0.0
    long = {"messages": USER, "stream": True, "seed": 1, "reasoning_effort": "none", "max_tokens": 30_000}

    def asked_s(site: Site, *, reads: bool) -> float:
        """Seconds of ten answers beside 64 streams."""
        clients = [site.open(long, receive_bytes=2048) for _ in range(64)]
        for client in clients:
            client.read_until(b'"role"')
        has_ended = threading.Event()

        def read_on() -> None:
            while not has_ended.is_set():
                for client in select.select([client.socket for client in clients], [], [], 0.05)[0]:
                    client.recv(65536)

        reading = threading.Thread(target=read_on if reads else has_ended.wait)
        reading.start()
        start_s = time.monotonic()
        for _ in range(10):
            assert answers(site)
        seconds = time.monotonic() - start_s
        if not reads:  # dropped once their buffers are full and nothing of them is read for 30 s
            wait_for(lambda: site.server.num_connections == 0, 300)
        has_ended.set()
        reading.join()
        for client in clients:
            client.close()
        wait_for(lambda: is_idle(site), 30)
        return seconds

    with served(engine, max_running=128, max_waiting=64) as site:
        beside_readers_s = min(asked_s(site, reads=True) for _ in range(2))
        assert asked_s(site, reads=False) < beside_readers_s / 0.95 + 0.1 * patience()
        assert answers(site)


def test_senseless_bodies_get_an_error_of_their_own(site: Site) -> None:
    bodies = [
        (
            "/v1/chat/completions",
            {"messages": USER, "seed": 0, "max_tokens": 8, "think": False, "stop": ["x"]},
        ),
        (
            "/v1/responses",
            {"input": "2+2?", "seed": 0, "max_output_tokens": 8, "reasoning": {"effort": "none"}},
        ),
        ("/v1/messages", {"messages": USER, "max_tokens": 8, "thinking": {"type": "disabled"}}),
        ("/api/chat", {"id": "a", "messages": USER, "mode": "chat", "max_tokens": 8, "budget": "9s"}),
        ("/api/control", {"id": "a", "action": "answer_now"}),
        ("/v1/chat/completions/control", {"id": "a", "action": "reasoning_end"}),
        ("/v1/chat/completions/input_tokens", {"messages": USER, "model": "small"}),
    ]
    statuses: dict[int, int] = {}
    for seed in range(1000):
        path, body = bodies[seed % len(bodies)]
        reply = site.ask(path, mutate_text(json.dumps(body).encode(), seed))
        statuses[reply.status] = statuses.get(reply.status, 0) + 1
        assert reply.status < 500, (seed, reply.body)
        if reply.status >= 400:
            error = reply.json["error"]
            assert error["message"] and error["code"] and error["type"], (seed, error)
    assert statuses[400] > 500

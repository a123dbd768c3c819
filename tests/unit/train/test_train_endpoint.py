"""A teacher behind a server that fails in every way: traces complete, nothing asked or written twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_train_generate import HENS, NOTHING, REPLIES, question, source

from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError, Unavailable
from edgereason.reasoning.model import Model
from edgereason.records.context import RunContext
from edgereason.records.journal import SAMPLES
from edgereason.train.data.endpoint import EndpointConfig, _retry_after_s, teacher_at
from edgereason.train.data.generate import GenerateConfig, generate, sample_seed
from edgereason.train.data.traces import TRACES, Lengths, read_traces
from served import served

CONFIG = GenerateConfig(samples=5, keep=2, max_tokens=200)
KEY = "sk-not-for-records"


class Endpoint(ThreadingHTTPServer):
    """An OpenAI-compatible server that answers with `REPLIES` by the seed, or with a fault.

    `faults` says what befalls a try: it is given the request's seed and how often it was asked before.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, faults=lambda seed, tries: None, models=("teacher-32b",)) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults, self.models = faults, models
        self.asked: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        self.times: list[tuple[float, int]] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.most_at_a_time = self._running = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are part of the test."""

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.lock:
            self._running += 1
            self.most_at_a_time = max(self.most_at_a_time, self._running)
        try:
            yield
        finally:
            with self.lock:
                self._running -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def log_message(self, *_: Any) -> None:
        pass

    def send(self, status: int, content: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        self.send(200, json.dumps({"data": [{"id": name} for name in self.server.models]}).encode())

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seed, server = body["seed"], self.server
        with server.lock:
            tries, server.asked[seed] = server.asked[seed], server.asked[seed] + 1
            server.bodies.append(body)
            server.times.append((time.monotonic(), seed))
            server.keys.add(self.headers["Authorization"])
        with server.running():
            self.answer(seed, server.faults(seed, tries))

    def answer(self, seed: int, fault: Any) -> None:
        text = REPLIES[seed % len(REPLIES)]
        match fault:
            case int() | (int(), _):
                status, headers = fault if isinstance(fault, tuple) else (fault, {})
                said = {"error": {"message": f"status {status} for the key {KEY}"}}
                self.send(status, json.dumps(said).encode(), **headers)
                return
            case "closed":
                self.close_connection = True
                return
            case "not json":
                self.send(200, b"<html>Bad gateway</html>")
                return
            case "other json":
                self.send(200, b'{"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]}')
                return
            case "error event":
                self.send(200, b'data: {"error": {"message": "worker died"}}\n\n', "text/event-stream")
                return
            case "whole":
                choice = {"message": {"content": text}, "finish_reason": "stop"}
                self.send(200, json.dumps({"choices": [choice]}).encode())
        if fault != "whole":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            half = len(text) // 2
            for part in (text[:half], text[half:]):
                self.event({"choices": [{"index": 0, "delta": {"content": part}, "finish_reason": None}]})
                if fault == "cut":
                    self.close_connection = True
                    return
                if fault == "silent":
                    time.sleep(1.5)
                    self.close_connection = True
                    return
                if fault == "slow":
                    time.sleep(0.3)
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self.event({"choices": [], "usage": {"completion_tokens": 11}})
            self.wfile.write(b"data: [DONE]\n\n")
            self.close_connection = True
        with self.server.lock:
            self.server.answered[seed] += 1

    def event(self, event: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()


@contextmanager
def endpoint(*given: Any, **named: Any) -> Iterator[Endpoint]:
    server = Endpoint(*given, **named)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make(
    folder: Path,
    url: str,
    config: GenerateConfig = CONFIG,
    *sources: Any,
    context=RunContext(),
    **settings: Any,
) -> dict[str, Any] | None:
    asked = EndpointConfig(url=url, **{"silence_s": 0.8, "patience_s": 20.0, **settings})
    with Model(ScriptedEngine()) as model:
        teacher = teacher_at(asked, Lengths.of(model.engine))
        return generate(
            folder, config, sources or (HENS,), NOTHING, model=model, teacher=teacher, context=context
        )


SEEDS = {sample_seed(0, f"q{n}", k) for n in range(8) for k in range(5)}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / SAMPLES).read_text().splitlines()]


def test_a_served_teacher_is_asked_once_for_each_sample_and_its_traces_are_those_of_the_rule(tmp_path):
    with endpoint() as server:
        record = make(tmp_path / "run", server.url, parallel=7)
    assert server.asked == dict.fromkeys(SEEDS, 1)
    assert server.most_at_a_time <= 7
    found = record["yield"]["hens.jsonl"]
    # By hand: the share of seeds that meet each reply is whatever it is, but every sample has one.
    by_reply = Counter(seed % 5 for seed in SEEDS)
    assert found["samples"] == 40
    assert found["wrong"] == by_reply[2]
    assert found["no_thinking"] == by_reply[4]
    traces = read_traces(tmp_path / "run" / TRACES).traces
    assert len(traces) == found["traces"] > 0
    assert {row["num_tokens"] for row in rows(tmp_path / "run")} == {11}  # as the server counted
    (body,) = [one for one in server.bodies if one["seed"] == sample_seed(0, "q3", 2)]
    assert body == {
        "model": "teacher-32b",  # the only one that is served
        "messages": [
            {"role": "system", "content": CONFIG.instruction},
            {"role": "user", "content": question(3).text},
        ],
        "temperature": 0.7, "top_p": 0.95, "max_tokens": 200, "seed": sample_seed(0, "q3", 2),
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert record["model"] == {"name": "teacher-32b", "sha256": None, "size_bytes": None, "served": True}
    assert "127.0.0.1" not in json.dumps(record)


KINDS = (
    429,
    500,
    502,
    503,
    (429, {"Retry_After": "0"}),
    "closed",
    "cut",
    "not json",
    "other json",
    "error event",
)


def test_through_faults_of_every_kind_traces_are_complete_and_nothing_is_written_twice(tmp_path):
    chance = random.Random(1)
    fate = {seed: [*chance.sample(KINDS, 2), None] for seed in sorted(SEEDS)}
    fate[min(SEEDS)] = ["silent", "slow"]
    fate[max(SEEDS)] = ["whole"]
    with endpoint(lambda seed, tries: fate[seed][tries]) as server:
        make(tmp_path / "faulty", server.url)
    with endpoint() as sound:
        make(tmp_path / "sound", sound.url)
    # A try more for each fault, and none once there is an answer: asked again, `fate` would have no entry.
    assert server.asked == {seed: len(kinds) for seed, kinds in fate.items()}
    assert (tmp_path / "faulty" / TRACES).read_bytes() == (tmp_path / "sound" / TRACES).read_bytes()
    keys = Counter((row["id"], row["number"]) for row in rows(tmp_path / "faulty"))
    assert keys == {(f"q{n}", k): 1 for n in range(8) for k in range(5)}


def test_retry_after_holds_for_every_request(tmp_path):
    first: list[float] = []

    def busy_once(seed: int, tries: int) -> Any:
        if first:
            return None
        first.append(time.monotonic())
        return 429, {"Retry_After": "1"}

    with endpoint(busy_once) as server:
        make(tmp_path, server.url, replace(CONFIG, samples=2), parallel=1)
    assert first[0] <= server.times[0][0] + 0.1
    assert min(at for at, _ in server.times[1:]) >= first[0] + 0.99


def test_retry_after_is_read_as_seconds_and_as_a_date():
    at = datetime.now(UTC) + timedelta(seconds=90)
    assert _retry_after_s({"retry-after": "2.5"}) == 2.5
    assert _retry_after_s({"retry-after": format_datetime(at, usegmt=True)}) == pytest.approx(90, abs=2)
    assert _retry_after_s({"retry-after": "-3"}) == 0
    assert _retry_after_s({"retry-after": "soon"}) is None
    assert _retry_after_s({}) is None


def test_a_stopped_run_goes_on_with_what_is_missing_alone(tmp_path):
    with endpoint(lambda seed, tries: "slow") as server:
        is_done = [0]

        def progress(stage: str, done: float, *_: Any) -> None:
            is_done[0] = done

        context = RunContext(should_stop=lambda: is_done[0] >= 8, progress=progress)
        assert make(tmp_path, server.url, parallel=4, context=context) is None
        written = {row["seed"] for row in rows(tmp_path)}
        assert 8 <= len(written) < 20
        assert not (tmp_path / TRACES).exists()
        before, server.faults = dict(server.asked), lambda seed, tries: None
        make(tmp_path, server.url)
        # What was written was not asked again; what was not, once.
        assert {seed: server.asked[seed] - before.get(seed, 0) for seed in SEEDS} == {
            seed: int(seed not in written) for seed in SEEDS
        }
        make(tmp_path, server.url)
        assert server.asked.total() == len(before) + 40 - len(written)  # a finished run asks nothing
    assert len({(row["id"], row["number"]) for row in rows(tmp_path)}) == len(rows(tmp_path)) == 40


_KILLED = """
import sys; from pathlib import Path
sys.path[:0] = [{tests!r}, {unit!r}, {here!r}]
from test_train_endpoint import make
make(Path(sys.argv[1]), sys.argv[2], parallel=4)
"""


def test_a_killed_run_goes_on_with_what_is_missing_alone(tmp_path):
    here = Path(__file__).parent
    script = _KILLED.format(tests=str(here.parents[1]), unit=str(here.parent), here=str(here))
    with endpoint(lambda seed, tries: "slow") as server:
        process = subprocess.Popen([sys.executable, "-c", script, tmp_path / "run", server.url])
        while server.answered.total() < 9:
            time.sleep(0.02)
            assert process.poll() is None
        process.kill()
        process.wait()
        written = {row["seed"] for row in rows(tmp_path / "run")}
        assert written
        before, server.faults = dict(server.asked), lambda seed, tries: None
        make(tmp_path / "run", server.url)
    assert {seed: server.asked[seed] - before.get(seed, 0) for seed in SEEDS} == {
        seed: int(seed not in written) for seed in SEEDS
    }
    with endpoint() as sound:
        make(tmp_path / "sound", sound.url)
    assert (tmp_path / "run" / TRACES).read_bytes() == (tmp_path / "sound" / TRACES).read_bytes()


def test_a_question_that_is_refused_or_always_fails_is_left_out_and_counted(tmp_path):
    refused, poison = sample_seed(0, "q2", 1), sample_seed(0, "q5", 0)
    first = sample_seed(0, "q0", 0)

    def faults(seed: int, tries: int) -> Any:
        if seed == refused:
            return 400
        if seed == poison:
            time.sleep(0.1)  # so that others are answered between its tries
            return 500
        return None if seed == first else "slow"

    with endpoint(faults) as server:
        record = make(tmp_path, server.url, parallel=3, attempts=2)
    found = record["yield"]["hens.jsonl"]
    assert (found["refused"], found["failed"], found["samples"]) == (1, 1, 38)
    assert server.asked[refused] == 1


def test_a_server_that_refuses_everything_ends_the_run_with_its_words(tmp_path):
    with (
        endpoint(lambda seed, tries: 400) as server,
        pytest.raises(ConfigError, match="status 400 for the key"),
    ):
        make(tmp_path, server.url)
    assert not (tmp_path / SAMPLES).exists()


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_what_no_try_can_mend_ends_the_run_at_once(tmp_path, status):
    with endpoint(lambda seed, tries: status) as server, pytest.raises(ConfigError, match=f"status {status}"):
        make(tmp_path, server.url, parallel=1)
    assert server.asked.total() == 1


def test_a_server_that_falls_silent_ends_the_run_and_what_was_drawn_stays(tmp_path):
    with endpoint(lambda seed, tries: None) as server:
        server.faults = lambda seed, tries: None if server.answered.total() < 6 else "closed"
        with pytest.raises(Unavailable, match="give the same command again"):
            make(tmp_path, server.url, parallel=2, patience_s=1.5)
        assert len(rows(tmp_path)) == server.answered.total() >= 6
        server.faults = lambda seed, tries: None
        assert make(tmp_path, server.url)["yield_of_all"]["samples"] == 40


def test_a_wait_that_is_longer_than_patience_is_told_and_not_waited(tmp_path):
    start = time.monotonic()
    with (
        endpoint(lambda seed, tries: (429, {"Retry_After": "3600"})) as server,
        pytest.raises(Unavailable, match="asks to wait 3600 s"),
    ):
        make(tmp_path, server.url)
    assert time.monotonic() - start < 10


def test_thinking_that_a_server_splits_off_becomes_the_traces_thinking(tmp_path, monkeypatch):
    def event(self: _Handler, event: dict[str, Any]) -> None:
        for choice in event["choices"]:
            if content := choice["delta"].pop("content", None):
                choice["delta"]["reasoning_content"] = content
            elif choice["finish_reason"]:
                choice["delta"]["content"] = "\n\nIt is \\boxed{18}."
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    monkeypatch.setattr(_Handler, "event", event)
    with endpoint() as server:
        make(tmp_path, server.url, replace(CONFIG, samples=1))
    said = {f"<think>\n{reply}\n</think>\n\n\n\nIt is \\boxed{{18}}." for reply in REPLIES}
    assert {row["text"] for row in rows(tmp_path)} <= said
    assert all(trace.answer == "The final answer is 18." for trace in read_traces(tmp_path / TRACES).traces)


def test_the_key_goes_into_the_header_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "another that nobody named")
    (tmp_path / "key").write_text(f"{KEY}\n")
    for name, settings in (
        ("a", {"key_env": "TEACHER_KEY"}),
        ("b", {"key_file": str(tmp_path / "key")}),
        ("c", {}),
    ):
        with endpoint() as server:
            make(tmp_path / name, server.url, replace(CONFIG, samples=1), **settings)
        assert server.keys == {f"Bearer {KEY}" if settings else None}
        assert not any(KEY in path.read_text("utf-8", "replace") for path in (tmp_path / name).iterdir())
    with endpoint(lambda seed, tries: 401) as server, pytest.raises(ConfigError) as refused:
        make(tmp_path / "d", server.url, key_env="TEACHER_KEY")
    assert KEY not in str(refused.value)  # though the server says it
    assert "for the key …" in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "localhost:8000"}, "must be an address"),
        ({"url": "ftp://host/v1"}, "must be an address"),
        ({"url": "http://user:secret@host/v1"}, "user or a password"),
        ({"url": "http://[host"}, "must be an address"),
        ({"url": "http://host", "parallel": 0}, "parallel must be"),
        ({"url": "http://host", "key_env": "A", "key_file": "b"}, "name one"),
    ],
)
def test_an_endpoint_out_of_range_is_refused_at_once(settings, says):
    with pytest.raises(ConfigError, match=says) as refused:
        EndpointConfig(**settings)
    assert "secret" not in str(refused.value)


def test_a_key_that_is_missing_or_no_word_is_refused_before_anything_is_asked(tmp_path):
    (tmp_path / "two").write_text("two words")
    for settings in (
        {"key_env": "NO_SUCH_KEY"},
        {"key_file": str(tmp_path / "no")},
        {"key_file": str(tmp_path / "two")},
    ):
        with endpoint() as server, pytest.raises(ConfigError, match="key"):
            make(tmp_path / "run", server.url, **settings)
        assert not server.asked


def test_of_several_models_one_has_to_be_named_and_another_is_another_run(tmp_path):
    with endpoint(models=("a", "b")) as server:
        with pytest.raises(ConfigError, match=r"serves a, b.*--teacher"):
            make(tmp_path, server.url)
        make(tmp_path, server.url, model="b")
        with pytest.raises(ConfigError, match="teacher: 'b' there, 'a' now"):
            make(tmp_path, server.url, model="a")


def test_our_own_server_is_such_an_endpoint(tmp_path):
    with served(ScriptedEngine(REPLIES)) as site:
        record = make(
            tmp_path, site.url, replace(CONFIG, samples=2), source(*HENS.questions[:3]), model="small:chat"
        )
    assert record["model"]["name"] == "small:chat"
    assert record["yield_of_all"]["samples"] == 6
    assert {row["text"] for row in rows(tmp_path)} <= set(REPLIES)
    assert record["yield_of_all"]["traces"] > 0

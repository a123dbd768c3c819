"""`bench serve`: the server over HTTP against the library, on one model, as its users would meet it.

::

    library   AsyncModel in this process ─┐  the same questions, seeds and limits,
    server    `edgereason serve`, started ┘  in turns                              ─→ ratios of minima

The server is a process of its own, reached over 127.0.0.1; nothing of it is imported here. What it does while
it is busy is measured too: gaps, kept prompts, clients that leave, a full queue, seconds, its end.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from edgereason.bench.engine import Target
from edgereason.bench.progress import SILENT, BenchTurn, Listener, take_turns
from edgereason.bench.record import FileBenchConfig, Recording, Subject, find_subject
from edgereason.config import require_at_least_one
from edgereason.errors import EngineError
from edgereason.reasoning.async_model import AsyncModel
from edgereason.reasoning.events import Text
from edgereason.records.measure import Timings

FORMAT: Final = "edgereason-bench-serve"
CLIENTS: Final = 8
TARGETS: Final[dict[str, Target]] = {
    "tokens_per_s_over_library_n1": Target(0.97, at_least=True),
    "tokens_per_s_over_library_n8": Target(0.95, at_least=True),
    "first_token_over_library_s": Target(0.015),
    "longest_gap_s": Target(0.7),
    "cached_harder": Target(1.0, at_least=True),
    "cached_next_turn": Target(0.95, at_least=True),
    "gone_to_free_s": Target(0.1),
    "refused_s": Target(0.05),
    "late_s": Target(0.3),
    "drain_s": Target(32.0),
    "health_s": Target(1.0),
}
_MAX_WAITING: Final = 32
_DRAIN_S: Final = 30
_PREFILL_TOKENS: Final = 2048
_QUESTION: Final = "A train goes {} km in an hour. How far does it go in three hours? Explain every step."
_START_S: Final = 60.0
_TURN_S: Final = 25.0


@dataclass(frozen=True, kw_only=True)
class ServeBenchConfig(FileBenchConfig):
    """What to measure.

    Attributes:
        tokens: of every answer whose speed is measured.
    """

    tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least_one(tokens=self.tokens)


def bench_serve(config: ServeBenchConfig, listener: Listener = SILENT) -> dict[str, Any]:
    """Measures the server; see `parallel.bench_parallel` for arguments and errors."""
    subject = find_subject(config.model, as_is=config.as_is, threads=config.threads, notice=listener.notice)
    with Recording(subject) as recording:
        speed = _measure_speed(subject, config, listener)
        with started(subject) as site:
            health_s = site.health_s
            behaviour = _measure_behaviour(site, listener)
            listener.notice("measuring the end")
            site.end_under_streams(behaviour)
    figures = {**_speed_figures(speed, config.tokens), **behaviour, "health_s": health_s}
    met = {name: target.is_met(figures[name]) for name, target in TARGETS.items()}
    return recording.close(
        {"rounds": config.rounds, **subject.entry(), **figures, "targets_met": met},
        format=FORMAT,
        config=asdict(config),
    )


class Site:
    """A server process, and clients of it.

    Attributes:
        health_s: seconds from its start to its first answer.
    """

    def __init__(self, process: subprocess.Popen[str], port: int, health_s: float) -> None:
        self.process = process
        self.port = port
        self.health_s = health_s

    def open(self, path: str, body: Mapping[str, Any] | None = None) -> http.client.HTTPResponse:
        """A request, its answer still to be read; closing the answer closes the connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        content = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, content, headers)
        return connection.getresponse()

    def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """A request's JSON."""
        with self.open(path, body) as answer:
            found = json.loads(answer.read())
        if "choices" not in found and "error" in found:
            raise EngineError(f"the server refused {path}: {found['error']['message']}")
        return found

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """A stream's events, as they come."""
        with self.open(path, body) as answer:
            for line in answer:
                if line.startswith(b"data: {"):
                    yield json.loads(line[6:])

    def figure(self, name: str) -> float:
        """A figure of /metrics."""
        with self.open("/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def end_under_streams(self, figures: dict[str, Any]) -> None:
        """Ends the server while all its places are taken, and notes how long that takes."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            started_all = threading.Barrier(CLIENTS + 1)

            def watch(seed: int) -> bool:
                is_whole, has_begun = False, False
                for event in self.events("/v1/chat/completions", _long(seed)):
                    choice = event["choices"][0] if "choices" in event else {"delta": {}}  # or an error
                    if not has_begun and choice["delta"].get("reasoning_content"):
                        has_begun = True
                        started_all.wait(120)
                    is_whole = bool(choice.get("finish_reason"))
                return is_whole

            clients = [pool.submit(watch, seed) for seed in range(CLIENTS)]
            started_all.wait(120)
            start_s = time.perf_counter()
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(_DRAIN_S + 30)
            figures["drain_s"] = time.perf_counter() - start_s
            figures["drain_exit_code"] = code
            figures["drain_answers"] = sum(client.result() for client in clients)


@contextmanager
def started(subject: Subject) -> Iterator[Site]:
    """A server of the measured file, ready to answer.

    Raises:
        EngineError: it did not begin to answer.
    """
    command = [sys.executable, "-m", "edgereason", "serve", "--model", str(subject.path), "--port", "0"]
    command += ["--threads", str(subject.threads), "--queue", str(_MAX_WAITING), "--drain", str(_DRAIN_S)]
    start_s = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        if "listening at" not in line:
            raise EngineError(f"the server did not start: {line.strip()}")
        site = Site(process, int(line.rsplit(":", 1)[1]), 0.0)
        site.open("/health").close()
        site.health_s = time.perf_counter() - start_s
        threading.Thread(target=process.stderr.read, daemon=True).start()
        _wait_for(lambda: site.open("/health").status == 200, _START_S)
        yield site
    finally:
        process.kill()
        process.wait()


def _wait_for(condition: Callable[[], bool], most_s: float) -> float:
    """Seconds until it holds."""
    start_s = time.perf_counter()
    while not condition():
        if time.perf_counter() - start_s > most_s:
            raise EngineError(f"the server did not come to it within {most_s:g} s")
        time.sleep(0.01)
    return time.perf_counter() - start_s


def _body(number: int, tokens: int) -> dict[str, Any]:
    """A question of its own, so that no prompt is there already."""
    return {
        "messages": [{"role": "user", "content": _QUESTION.format(number)}],
        "seed": number,
        "reasoning_effort": "none",
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _long(seed: int) -> dict[str, Any]:
    """A question that is thought about for long."""
    content = f"Write the numbers from {seed + 1} to 2000 as words, one on each line, and leave none out."
    return {
        "messages": [{"role": "user", "content": content}],
        "seed": seed,
        "stream": True,
        "think": True,
        "thinking_budget_tokens": 4096,
    }


@dataclass(frozen=True, slots=True)
class _Speed:
    """Seconds a token with one client and with eight, and seconds to the first token, by who answered."""

    one: Timings
    many: Timings
    first: Timings


def _measure_speed(subject: Subject, config: ServeBenchConfig, listener: Listener) -> _Speed:
    one: dict[str, list[float]] = {"library": [], "server": []}
    many: dict[str, list[float]] = {"library": [], "server": []}
    first: dict[str, list[float]] = {"library": [], "server": []}
    numbers = iter(range(1000, 10_000_000))

    def note(who: str, ask: Callable[[int, int], tuple[float, float]]) -> None:
        """A turn: one client, then eight at the same time."""
        seconds, first_s = ask(next(numbers), 1)
        one[who].append(seconds)
        first[who].append(first_s)
        many[who].append(ask(next(numbers), CLIENTS)[0])

    with started(subject) as site, _library(subject) as library:
        turns = [
            BenchTurn("library", _TURN_S, lambda: note("library", library(config.tokens))),
            BenchTurn("server", _TURN_S, lambda: note("server", _server(site, config.tokens))),
        ]
        take_turns([turns] * config.rounds, listener)
    return _Speed(Timings(one), Timings(many), Timings(first))


Asking = Callable[[int, int], tuple[float, float]]
"""Asks so many questions at once: seconds a token of all of them, and seconds to the first token."""


@contextmanager
def _library(subject: Subject) -> Iterator[Callable[[int], Asking]]:
    """The same model in this process, its loop on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    loading = AsyncModel.load(subject.path, threads=subject.threads, max_running=CLIENTS)
    model = asyncio.run_coroutine_threadsafe(loading, loop).result()

    def ask(tokens: int) -> Asking:
        def all_at_once(number: int, count: int) -> tuple[float, float]:
            asking = _ask_library(model, number, count, tokens)
            return asyncio.run_coroutine_threadsafe(asking, loop).result()

        return all_at_once

    try:
        yield ask
    finally:
        asyncio.run_coroutine_threadsafe(model.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _ask_library(model: AsyncModel, number: int, count: int, tokens: int) -> tuple[float, float]:
    start_s = time.perf_counter()
    first_s: list[float] = []

    async def one(index: int) -> int:
        spent = 0
        question = _QUESTION.format(number * 10 + index)
        options: Any = {"mode": "chat", "max_tokens": tokens, "seed": index, "enable_thinking": False}
        async with model.stream(question, **options) as events:
            async for event in events:
                if isinstance(event, Text):
                    first_s.append(time.perf_counter() - start_s)
                    spent = event.num_tokens
        return spent

    spent = sum(await asyncio.gather(*map(one, range(count))))
    return (time.perf_counter() - start_s) / spent, first_s[0]


def _server(site: Site, tokens: int) -> Asking:
    def ask(number: int, count: int) -> tuple[float, float]:
        start_s = time.perf_counter()
        first_s: list[float] = []

        def one(index: int) -> int:
            spent = 0
            body = {**_body(number * 10 + index, tokens), "seed": index}
            for event in site.events("/v1/chat/completions", body):
                if event["choices"] and event["choices"][0]["delta"].get("content"):
                    first_s.append(time.perf_counter() - start_s)
                if event.get("usage"):
                    spent = int(event["usage"]["completion_tokens"])
            return spent

        with ThreadPoolExecutor(count) as pool:
            spent = sum(pool.map(one, range(count)))
        return (time.perf_counter() - start_s) / spent, first_s[0]

    return ask


def _speed_figures(speed: _Speed, tokens: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"answer_tokens": tokens}
    for name, timings in (("n1", speed.one), (f"n{CLIENTS}", speed.many)):
        figures[f"tokens_per_s_over_library_{name}"] = timings.ratio("library", "server")
        figures[f"tokens_per_s_{name}"] = 1 / timings.best("server")
    figures["first_token_over_library_s"] = speed.first.best("server") - speed.first.best("library")
    figures["first_token_s"] = speed.first.best("server")
    figures["timings"] = {
        name: timings.summary()
        for name, timings in (("one", speed.one), ("many", speed.many), ("first", speed.first))
    }
    return figures


def _measure_behaviour(site: Site, listener: Listener) -> dict[str, Any]:
    """What the server does while it is busy."""
    figures: dict[str, Any] = {}
    for what, measure in (
        ("kept prompts", _cached),
        ("a client that leaves", _gone_to_free),
        ("a long prompt beside a stream", _longest_gap),
        ("seconds", _late),
        ("a full queue", _refused),
    ):
        listener.notice(f"measuring {what}")
        figures |= measure(site)
        _wait_for(lambda: site.figure("edgereason_requests_processing") == 0, 60)
    return figures


def _cached(site: Site) -> dict[str, float]:
    """Shares of a prompt that were not encoded again: thinking harder, and in the next turn."""
    ask = {**_body(1, 16), "stream": False}
    del ask["stream_options"]
    first = site.ask("/v1/chat/completions", ask)
    harder = {**ask, "reasoning_effort": "minimal", "max_tokens": 128}
    again = site.ask("/v1/chat/completions", harder)["usage"]
    turns = [
        *ask["messages"],
        {"role": "assistant", "content": first["choices"][0]["message"]["content"]},
        {"role": "user", "content": "And in four hours?"},
    ]
    usage = site.ask("/v1/chat/completions", {**ask, "messages": turns})["usage"]
    said_tokens = first["usage"]["prompt_tokens"]
    return {
        "cached_harder": _cached_tokens(again) / again["prompt_tokens"],
        "cached_next_turn": min(1.0, _cached_tokens(usage) / said_tokens),
    }


def _cached_tokens(usage: Mapping[str, Any]) -> int:
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def _gone_to_free(site: Site) -> dict[str, float]:
    """Seconds from a client's leaving to its cells being free; a step goes by before they can be."""
    events = site.events("/v1/chat/completions", _long(1))
    for event in events:
        if event["choices"][0]["delta"].get("reasoning_content"):
            break
    step_s = 1 / _rate(site)
    events.close()  # type: ignore[attr-defined]
    free_s = _wait_for(lambda: site.figure('edgereason_kv_cells{state="running"}') == 0, 30)
    return {"gone_to_free_s": max(0.0, free_s - step_s)}


def _rate(site: Site) -> float:
    """Tokens a second of one stream."""
    seconds, _ = _server(site, 16)(77, 1)
    return 1 / seconds


def _longest_gap(site: Site) -> dict[str, float]:
    """The longest time that a running stream says nothing while a long prompt is read beside it."""
    gaps: list[float] = []
    has_read, has_begun = threading.Event(), threading.Event()

    def watch() -> None:
        last_s = None
        for _ in site.events("/v1/chat/completions", _long(2)):
            now_s = time.perf_counter()
            if last_s is not None and has_begun.is_set():
                gaps.append(now_s - last_s)
            last_s = now_s
            if has_read.is_set():
                return

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        _wait_for(lambda: site.figure("edgereason_streams_processing") == 1, 60)
        has_begun.set()
        long = {**_body(3, 8), "messages": [{"role": "user", "content": _words(site)}], "stream": False}
        del long["stream_options"]
        site.ask("/v1/chat/completions", long)
        has_read.set()
        watching.result()
    return {"longest_gap_s": max(gaps)}


def _words(site: Site) -> str:
    """A text of about as many tokens as a long prompt has."""
    text = "The bakery on Mill Road opens at six. "
    count = site.ask(
        "/v1/chat/completions/input_tokens", {"messages": [{"role": "user", "content": text * 10}]}
    )
    return text * round(_PREFILL_TOKENS / (int(count["input_tokens"]) / 10))


def _late(site: Site) -> dict[str, float]:
    """How late a request of some seconds ends that had to wait among others."""
    budget_s = 8.0
    with ThreadPoolExecutor(CLIENTS) as pool:
        others = [
            pool.submit(site.ask, "/v1/chat/completions", _timed(number, 4.0)) for number in range(CLIENTS)
        ]
        start_s = time.perf_counter()
        try:
            site.ask("/v1/chat/completions", _timed(99, budget_s))
            late_s = time.perf_counter() - start_s - budget_s
        except EngineError:  # refused, since it could not be kept
            late_s = 0.0
        for other in others:
            other.exception()
    return {"late_s": max(0.0, late_s)}


def _timed(seed: int, seconds: float) -> dict[str, Any]:
    content = _QUESTION.format(seed)
    return {
        "messages": [{"role": "user", "content": content}],
        "seed": seed,
        "edgereason": {"mode": "think", "budget": f"{seconds:g}s"},
    }


def _refused(site: Site) -> dict[str, float]:
    """Seconds until the request after the last place is refused."""
    clients = [site.open("/v1/chat/completions", _long(seed)) for seed in range(CLIENTS)]
    _wait_for(lambda: site.figure("edgereason_streams_processing") == CLIENTS, 120)
    clients += [site.open("/v1/chat/completions", _long(seed)) for seed in range(_MAX_WAITING)]
    start_s = time.perf_counter()
    with site.open("/v1/chat/completions", _long(0)) as answer:
        status = answer.status
        answer.read()
    refused_s = time.perf_counter() - start_s
    for client in clients:
        client.close()
    if status != 429:
        raise EngineError(f"a full queue answered with status {status}")
    return {"refused_s": refused_s}

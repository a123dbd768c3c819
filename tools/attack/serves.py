"""Serves a scripted model to thousands of clients: a fifth leave early, a tenth send senseless bodies.

Whoever stays and asks for something sensible must get an answer within its budget. A senseless body must get
an error of its own, 4xx. Nothing may grow, and no answer may have a status of 5xx.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mutations import mutate_text

from edgereason.core.types import Sampling
from edgereason.engine.scripted import ScriptedEngine, ScriptedSampler
from served import Site, served
from tools.attack.asks import resident_bytes
from tools.attack.tally import Tally

REPLIES: Final = (
    "2+2 is 4.\n</think>\n\nThe final answer is 4.",
    "hm " * 200 + "\n</think>\n\nThe final answer is 6.",
    "Yes 🙂, " * 30,
    "Let me see.\n\n```\n</think>\n```\n</think>\n\nIt is \\boxed{4}.",
)
CONCURRENT: Final = 32
"""Clients at a time: fewer than run and wait, so that nobody is refused for want of a place."""
GROWTH_BYTES: Final = 10_000_000
_WARM_UP: Final = 0.2
_PATHS: Final = ("/v1/chat/completions", "/v1/responses", "/api/chat")


class ForgetfulEngine(ScriptedEngine):
    """A scripted engine that does not keep what tests would look at."""

    def sampler(self, sampling: Sampling, seed: int) -> ScriptedSampler:
        self.samplers.clear()
        self.decoded.clear()
        return super().sampler(sampling, seed)


@dataclass
class Answer:
    """What a client got: status, body, and whether it stayed to the end."""

    status: int
    body: bytes
    stayed: bool = True


def attack(tally: Tally, folder: Path, seed: int) -> None:
    """Asks `tally.planned` times, so many clients at a time."""
    rng = random.Random(f"serves {seed}")
    engine = ForgetfulEngine(REPLIES, context_tokens=32_768)
    with served(engine, max_running=8, max_waiting=CONCURRENT, cache_mib=1) as site:
        warm = max(1, round(tally.planned * _WARM_UP))
        asyncio.run(_ask_all(site, tally, range(warm), rng))
        warm_bytes = _resident()
        asyncio.run(_ask_all(site, tally, range(warm, tally.planned), rng))
        tally.figures["growth_bytes"] = grown = _resident() - warm_bytes
        tally.figures["most_growth_bytes"] = GROWTH_BYTES
        if grown > GROWTH_BYTES:
            tally.violated("serves", f"{grown / 1e6:.1f} MB more than after the warm-up")
        _check_idle(site, tally)


def _resident() -> int:
    gc.collect()
    return resident_bytes()


def _check_idle(site: Site, tally: Tally) -> None:
    load = site.service.model.load_figures()
    if load.running_requests or load.waiting_requests or load.cells_running:
        tally.violated("serves", f"something still runs: {load}")
    if not site.chat(reasoning_effort="low", seed=0).said().endswith("4."):
        tally.violated("serves", "no answer behind all of them")


async def _ask_all(site: Site, tally: Tally, numbers: range, rng: random.Random) -> None:
    """Lets clients ask, so many at a time; returns once all is over on the server's side, too."""
    # Made one by one: a generator takes 2.5 kB, and all at once would count as memory that the server keeps.
    upcoming = ((number, random.Random(rng.random())) for number in numbers)

    async def ask_on() -> None:
        for number, own in upcoming:
            await _ask(site.port, tally, number, own)

    await asyncio.gather(*(ask_on() for _ in range(CONCURRENT)))
    for _ in range(1000):
        if site.server.num_connections == 0:
            return
        await asyncio.sleep(0.01)
    tally.violated("serves", f"{site.server.num_connections} connections are still open")


async def _ask(port: int, tally: Tally, number: int, rng: random.Random) -> None:
    path = rng.choice(_PATHS)
    body = asked(path, rng)
    data, kind = json.dumps(body).encode(), "asks"
    way = rng.random()
    if way < 0.1:
        data, kind = mutate_text(data, rng.randrange(2**31)), "malformed"
    leaves_after = rng.choice((0, 1, 200, 2000)) if 0.1 <= way < 0.3 else None
    case = f"request {number}: POST {path} {data[:200]!r}"
    try:
        answer = await asyncio.wait_for(_send(port, path, data, leaves_after), 60)
    except TimeoutError:
        tally.violated(case, "no end within 60 s")
        tally.count(kind, "endless", case)
        return
    if not answer.stayed:
        tally.count("left", "left", case)
        return
    for fault in faults(answer, path, body if kind == "asks" else None):
        tally.violated(case, fault)
    tally.count(kind, str(answer.status), case)


def asked(path: str, rng: random.Random) -> dict[str, Any]:
    """A sensible body for a path."""
    text = "2+2? " * rng.choice((1, 1, 1, 40))
    found: dict[str, Any] = {"seed": rng.randrange(8)}
    budget, limit = rng.choice((48, 64, 200)), rng.choice((8, 40))
    if path == "/api/chat":
        found |= {"messages": [{"role": "user", "content": text}]}
        found |= rng.choice(
            ({"mode": "chat", "max_tokens": limit}, {"mode": "think", "budget": 64, "streams": 3})
        )
        return found
    found |= {"stream": rng.random() < 0.5}
    found |= rng.choice(({"thinking_budget_tokens": budget, "think": True}, {"think": False}))
    if path == "/v1/responses":
        return found | {"input": text} | ({} if found["think"] else {"max_output_tokens": limit})
    found |= {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": text}]}
    if found["think"] and rng.random() < 0.3:
        return found | rng.choice(({"n": 2}, {"edgereason": {"streams": 3}}))
    return found | ({} if found["think"] else {"max_tokens": limit})


async def _send(port: int, path: str, data: bytes, leaves_after: int | None) -> Answer:
    """One request on a connection of its own; left after so many bytes of the answer, if it is to be left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        if leaves_after == 0:
            writer.write((head.encode() + data)[: len(head) + len(data) // 2])
            await writer.drain()
            return Answer(0, b"", stayed=False)
        writer.write(head.encode() + data)
        if leaves_after is not None:
            await reader.read(leaves_after)
            return Answer(0, b"", stayed=False)
        answer = await reader.read()
        heading, _, body = answer.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in heading:
            body = _joined(body)
        return Answer(int(heading.split(b" ", 2)[1]), body)
    finally:
        writer.close()


def _joined(body: bytes) -> bytes:
    """A body without its chunks' lengths."""
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        found, body = found + rest[:length], rest[length + 2 :]
    return found


def faults(answer: Answer, path: str, body: dict[str, Any] | None) -> list[str]:
    """What is wrong with an answer; `body` is None where it was senseless, or may have been."""
    if answer.status >= 500:
        return [f"status {answer.status}: {answer.body[:200]!r}"]
    if answer.status >= 400:
        error = json.loads(answer.body).get("error", {})
        if not error.get("message") or not error.get("code"):
            return [f"an error without words: {answer.body[:200]!r}"]
        return [] if body is None else [f"status {answer.status}: {error['message']}"]
    if body is None:
        return []
    return [*_faults_of_text(answer, path, body)]


def _faults_of_text(answer: Answer, path: str, body: dict[str, Any]) -> list[str]:
    found = []
    lines = [line for line in answer.body.decode().split("\n") if line.startswith("data: {")]
    events = [json.loads(line[6:]) for line in lines] or [json.loads(answer.body)]
    if any(event.get("error") or event.get("type") == "error" for event in events):
        return [f"the answer failed: {answer.body[-300:]!r}"]
    last = events[-1]
    extension = last if path == "/api/chat" else last.get("response", last).get("edgereason")
    if extension is None:
        return [f"no end: {answer.body[-200:]!r}"]
    limit = body.get("budget") or body.get("thinking_budget_tokens") or 10_000
    limit = min(limit, body.get("max_tokens") or body.get("max_output_tokens") or 10_000)
    for stream in extension["streams"]:
        if stream["tokens"] > limit:
            found.append(f"{stream['tokens']} tokens of {limit}")
    if not _text(path, body, events).strip():
        found.append(f"an empty answer: {answer.body[-300:]!r}")
    return found


def _text(path: str, body: dict[str, Any], events: list[dict[str, Any]]) -> str:
    """What was said to the client as the answer."""
    if path == "/api/chat":
        return str(events[-1]["text"])
    if path == "/v1/responses":
        if body["stream"]:
            return "".join(
                event["delta"] for event in events if event["type"] == "response.output_text.delta"
            )
        return str(events[0]["output"][-1]["content"][0]["text"])
    if body["stream"]:
        choices = [choice for event in events for choice in event["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices)
    return str(events[0]["choices"][-1]["message"]["content"])

"""A server with scripted streams that speaks what the page speaks: for tests, and to look at the page.

::

    python tests/browser/page_stub.py [PORT]

What is asked chooses the script (see `_SCRIPTS`); anything else is thought about in as many streams as asked.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "src/edgereason/server/page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'"
)
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
INFO = {
    "name": "edgereason",
    "version": "0.2.0",
    "model": {
        "name": "qwen2.5-coder-0.5b-think",
        "base": "qwen2.5-coder-0.5b",
        "bundle": True,
        "context_tokens": 4096,
    },
    "modes": ["auto", "chat", "think"],
    "efforts": {
        "none": {"tokens": None},
        "minimal": {"tokens": 40},
        "low": {"tokens": 80},
        "medium": {"tokens": 160},
        "high": {"tokens": 1024},
        "xhigh": {"tokens": 2048},
        "max": {"tokens": 4096},
    },
    "votes": ["majority", "weighted", "best"],
    "heads": {"switcher": True, "threshold": 0.5, "verifier": True},
    "limits": {"streams": 64, "budget_tokens": 4096},
    "needs_key": False,
}
HOSTILE = """<img src=x onerror="document.title='owned'"> and <script>document.title='owned'</script>

<style>body { display: none }</style>

[click](javascript:document.title='owned') [data](data:text/html,x) [relative](/api/info) [fine](https://example.org/a)

![picture](https://example.org/p.png)

| a | b |
|--:|:-:|
| 1 | `<b>` |

- [x] done
- item with **bold** and $x_1$

$5 and $10 are money, $\\frac{a}{b}$ is not.

$$\\boxed{\\sqrt{x^2+1}}$$

\\[ \\href{javascript:alert(1)}{x} + \\fcolorbox{red}{blue}{y} \\]

```html
<b>code</b>
```
"""
THOUGHTS = (
    "She reads 15 pages a day for 6 days, so that is 15 × 6 = 90 pages.\n"
    "Then she reads 20 pages a day for 3 days, which is 20 × 3 = 60 pages.\n"
    "Let me add both: 90 + 60 = 150 pages in all.\n"
)
ANSWER = (
    "Sara reads $15 \\times 6 = 90$ pages in the first 6 days"
    " and $20 \\times 3 = 60$ pages in the next 3.\n\n"
    "$$90 + 60 = \\boxed{150}$$\n\nThe final answer is **150**.\n"
)

Frame = dict[str, Any]


class Stub(ThreadingHTTPServer):
    """The server; `asked`, `cut` and `hurried` say what came in.

    Args:
        port: 0 takes a free one.
        pace_s: seconds between frames.
        key: without it, only page files are given.
    """

    daemon_threads = True

    def __init__(self, port: int = 0, *, pace_s: float = 0.05, key: str = "") -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.pace_s = pace_s
        self.key = key
        self.is_loading = False
        self.asked: list[Frame] = []
        self.cut: list[str] = []
        self.hurried: dict[str, threading.Event] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        if self.path == "/api/info" and self.server.is_loading:
            message = "the model is still being loaded"
            return self._give_json(503, {"error": {"message": message, "code": "loading"}})
        if self.path == "/api/info":
            if self._is_allowed():
                self._give_json(200, INFO | {"needs_key": bool(self.server.key)})
            return
        name = "index.html" if self.path == "/" else self.path.removeprefix("/page/")
        if not (PAGE / name).is_file() or ".." in name:
            return self._give_json(404, {"error": {"message": "not found", "code": "not_found"}})
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        self._give(200, TYPES[Path(name).suffix], (PAGE / name).read_bytes(), headers)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._is_allowed():
            return
        if self.path == "/api/control":
            event = self.server.hurried.get(body["id"])
            if event is None:
                return self._give_json(404, {"error": {"message": "unknown request", "code": "not_found"}})
            event.set()
            return self._give(204, "text/plain", b"")
        self.server.asked.append(body)
        question = body["messages"][-1]["content"]
        if question == "busy":
            message = {"error": {"message": "32 requests are waiting.", "code": "queue_full"}}
            return self._give_json(429, message, {"Retry-After": "7"})
        self._stream(body, _SCRIPTS.get(question, _think))

    def _stream(
        self, body: Frame, script: Callable[[Frame, threading.Event], Iterator[Frame | bytes]]
    ) -> None:
        hurry = self.server.hurried[body["id"]] = threading.Event()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        frames: Iterator[Frame | bytes] = iter([{"type": "accepted", "id": body["id"], "seed": 1}])
        try:
            for source in (frames, script(body, hurry)):
                for frame in source:
                    if isinstance(frame, bytes):
                        self.wfile.write(frame)
                    else:
                        self.wfile.write(f"data: {json.dumps(frame)}\n\n".encode())
                    time.sleep(self.server.pace_s)
        except OSError:
            self.server.cut.append(body["id"])
        finally:
            del self.server.hurried[body["id"]]

    def _is_allowed(self) -> bool:
        if not self.server.key or self.headers["Authorization"] == f"Bearer {self.server.key}":
            return True
        self._give_json(401, {"error": {"message": "a key is needed", "code": "unauthorized"}})
        return False

    def _give_json(self, status: int, value: Frame, headers: dict[str, str] | None = None) -> None:
        self._give(status, "application/json", json.dumps(value).encode(), headers or {})

    def _give(self, status: int, kind: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def _limits(body: Frame) -> tuple[int, float | None]:
    budget = body.get("budget")
    if isinstance(budget, str):
        return 400, float(budget.removesuffix("s"))
    return budget or INFO["efforts"][body.get("effort", "medium")]["tokens"], None


def _routed(body: Frame, route: str, p_think: float | None) -> Frame:
    limit_tokens, limit_s = _limits(body)
    streams = body.get("streams", 1) if route == "think" else 1
    return {
        **{
            "type": "routed",
            "route": route,
            "p_think": p_think,
            "threshold": None if p_think is None else 0.5,
        },
        **{"prompt_tokens": 54, "streams": streams, "limit_tokens": limit_tokens, "limit_s": limit_s},
    }


def _answered(text: str, **fields: Any) -> Frame:
    return {
        **{
            "type": "answered",
            "text": text,
            "answer": text,
            "route": "think",
            "p_think": None,
            "winner": None,
        },
        **{"stop": "natural", "tally": [], "kv_bytes": 4_300_000, "notices": [], "harder": None},
        "usage": {"prompt": 54, "cached": 0, "thinking": 63, "answer": 9},
        "timing": {"ttft_s": 0.33, "total_s": 4.3, "tokens_per_s": 70.4},
        **fields,
    }


def _think(body: Frame, hurry: threading.Event) -> Iterator[Frame]:
    if body.get("mode") == "chat":
        yield from _chat(body, hurry)
        return
    yield {"type": "queued", "place": 1}
    yield from ({"type": "reading", "done": done, "total": 54, "cached": 0} for done in (0, 32, 54))
    yield _routed(body, "think", 0.64 if body.get("mode", "auto") == "auto" else None)
    streams, draw = body.get("streams", 1), random.Random(1)
    words = [THOUGHTS.replace("150", "130" if i == 1 else "150").split(" ") for i in range(streams)]
    at, tokens, standing, ended = [0] * streams, [0] * streams, {"150": 0.0}, 0
    running = list(range(streams))
    while running:
        items = []
        for i in list(running):
            pieces = words[i][at[i] : at[i] + draw.randint(0, 3)]
            at[i] += len(pieces)
            tokens[i] += 2 * len(pieces)
            if pieces:
                text = "".join(f"{piece} " for piece in pieces)
                items.append({"stream": i, "phase": "thinking", "text": text, "tokens": tokens[i]})
            if at[i] < len(words[i]) and not hurry.is_set():
                continue
            running.remove(i)
            answer, score = ("130", 0.21) if i == 1 else ("150", 0.7 + 0.02 * i)
            text = ANSWER.replace("150", answer)
            tokens[i] += 14
            items.append({"stream": i, "phase": "answer", "text": text, "tokens": tokens[i]})
            yield {"type": "texts", "items": items}
            items = []
            stop = "cancelled" if i == 3 and not hurry.is_set() else "budget" if hurry.is_set() else "natural"
            yield {
                **{"type": "ended", "stream": i, "answer": answer, "stop": stop, "tokens": tokens[i]},
                "score": None if stop == "cancelled" else score,
            }
            ended += 1
            if stop != "cancelled":
                standing[answer] = standing.get(answer, 0.0) + score
            if streams > 1:
                ranked = sorted(standing.items(), key=lambda pair: -pair[1])
                yield {"type": "tally", "standing": ranked, "running": len(running)}
        if items:
            yield {"type": "texts", "items": items}
    harder = {"options": {"effort": "high", "budget": None}} if body.get("effort") != "high" else None
    cached = 54 if body.get("effort") == "high" else 0
    yield _answered(
        ANSWER,
        answer="150",
        winner=0,
        harder=harder,
        usage={"prompt": 54, "cached": cached, "thinking": 63, "answer": 14},
    )


def _chat(body: Frame, _: threading.Event) -> Iterator[Frame]:
    yield _routed(body, "chat", 0.12 if body.get("mode", "auto") == "auto" else None)
    text = "A prime number has exactly two divisors: 1 and itself."
    for n, word in enumerate(text.split()):
        yield {
            "type": "texts",
            "items": [{"stream": 0, "phase": "answer", "text": f"{word} ", "tokens": n + 1}],
        }
    yield {"type": "ended", "stream": 0, "answer": text, "score": None, "stop": "natural", "tokens": 12}
    yield _answered(text, route="chat", harder={"options": {}})


def _say(text: str) -> Callable[[Frame, threading.Event], Iterator[Frame]]:
    def script(body: Frame, _: threading.Event) -> Iterator[Frame]:
        yield _routed(body, "chat", None)
        for place in range(0, len(text), 40):
            part = text[place : place + 40]
            yield {
                "type": "texts",
                "items": [{"stream": 0, "phase": "answer", "text": part, "tokens": place}],
            }
        yield _answered(text, route="chat")

    return script


def _fail(body: Frame, _: threading.Event) -> Iterator[Frame]:
    yield _routed(body, "chat", None)
    yield {"type": "texts", "items": [{"stream": 0, "phase": "answer", "text": "Half an ", "tokens": 3}]}
    yield {"type": "notice", "text": "The vote fell back to majority."}
    yield {"type": "error", "message": "The engine failed: out of memory.", "code": "engine_failed"}


def _break_off(body: Frame, _: threading.Event) -> Iterator[Frame]:
    yield _routed(body, "chat", None)


def _emoji(body: Frame, _: threading.Event) -> Iterator[Frame | bytes]:
    """An emoji's bytes come in two writes, and a second one as two surrogates in two frames."""
    yield _routed(body, "chat", None)
    item = {"stream": 0, "phase": "answer", "text": "party \U0001f389", "tokens": 3}
    data = f"data: {json.dumps({'type': 'texts', 'items': [item]}, ensure_ascii=False)}\n\n".encode()
    cut = data.index("\U0001f389".encode()) + 2
    yield data[:cut]
    yield data[cut:]
    for half in ("\ud83d", "\ude80"):  # JSON writes them as escapes
        yield {"type": "texts", "items": [{"stream": 0, "phase": "answer", "text": half, "tokens": 4}]}
    time.sleep(0.6)
    yield _answered("party \U0001f389\U0001f680", route="chat")


def _forever(body: Frame, hurry: threading.Event) -> Iterator[Frame]:
    """Streams that think until they are told to answer."""
    yield _routed(body, "think", 0.9)
    streams = range(body.get("streams", 1))
    for n in range(1, 100_000):
        yield {
            "type": "texts",
            "items": [
                {
                    "stream": i,
                    "phase": "thinking",
                    "text": f"step {n} of thinking that goes on. ",
                    "tokens": n,
                }
                for i in streams
            ],
        }
        if hurry.is_set():
            break
    for i in streams:
        yield {"type": "ended", "stream": i, "answer": "7", "score": 0.5, "stop": "budget", "tokens": n + 9}
    yield _answered("The final answer is 7.", winner=0, stop="budget")


def _load(body: Frame, _: threading.Event) -> Iterator[Frame]:
    """Streams that say much, in frames as fast as the server sends them."""
    yield _routed(body, "think", 0.9)
    streams = range(body.get("streams", 1))
    line = "Then 17 × 23 is computed as 391, and the remainder is carried to the next step of this line.\n"
    for n in range(120):
        items = [{"stream": i, "phase": "thinking", "text": line, "tokens": 24 * n} for i in streams]
        yield {"type": "texts", "items": items}
        if n % 5 == 0:
            standing = [(str(answer), float(answer + n)) for answer in range(5)]
            yield {"type": "tally", "standing": standing, "running": 8}
    for i in streams:
        yield {"type": "ended", "stream": i, "answer": "7", "score": 0.5, "stop": "natural", "tokens": 3000}
    yield _answered(HOSTILE * 2, winner=0)


_SCRIPTS: dict[str, Callable[[Frame, threading.Event], Iterator[Any]]] = {
    "What is a prime number?": _chat,
    "hostile": _say(HOSTILE),
    "fail": _fail,
    "break off": _break_off,
    "emoji": _emoji,
    "forever": _forever,
    "nothing": _say(""),
    "load": _load,
}


if __name__ == "__main__":
    server = Stub(int(sys.argv[1]) if len(sys.argv) > 1 else 8765)
    sys.stdout.write(f"{server.url}\n")
    sys.stdout.flush()
    server.serve_forever()

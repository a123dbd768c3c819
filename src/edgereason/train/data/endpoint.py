"""A teacher behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, `edgereason serve`) draws solutions.

::

    questions × samples ─ `parallel` requests at a time ─→ /v1/chat/completions, streamed ─→ SampleRow

Every sample is a request of its own, streamed, so that a connection that has died is noticed by its silence.

- What may pass is asked again: 408, 409, 425, 429, 5xx, a connection or a stream that is cut, silence, and
  what is not of the protocol. Waits grow, and are never shorter than the server's `Retry-After`, which holds
  for all requests.
- A sample that fails `attempts` times while others are answered is left out and counted as `failed`. Where
  nothing was heard for `patience_s`, the run ends; what was drawn is written.
- A question that the server refuses (400, 413, 422) is left out and counted as `refused`. Where the server
  refuses all that it is asked first, the run ends with its words.
- The key comes from an environment variable or a file. It goes to this server alone: redirects are not
  followed. Records name the model, neither key nor address.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from edgereason.config import require_at_least_one
from edgereason.core.chat import CLOSING, OPENING
from edgereason.core.types import Stop
from edgereason.data.rows import import_optional
from edgereason.errors import ConfigError, Unavailable
from edgereason.train.data.generate import (
    FAILED,
    REFUSED,
    GenerateConfig,
    Missing,
    Take,
    question_sha256,
    sample_seed,
)
from edgereason.train.data.questions import Question
from edgereason.train.data.solutions import SampleRow
from edgereason.train.data.traces import Lengths

_LATER: Final = frozenset({408, 409, 425})
_BUSY: Final = frozenset({429, 503, 529})
_UNFIT: Final = frozenset({400, 413, 422})
"""Statuses with which a server refuses one request for what it asks."""
_FIRST_REFUSED: Final = 8
"""So many refusals before any answer are the fault of settings, not of questions."""
_LONGEST_WAIT_S: Final = 60.0
_FIRST_CONTACT_S: Final = 30.0
_POLL_S: Final = 0.2
_WORDS: Final = 200
"""Most characters of a server's own words in a message."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """Where a teacher is served, and how it is asked.

    Attributes:
        url: of the server, as "http://host:8000"; "/v1" is added where no path is given.
        model: as the server calls it; None for the only one that it serves.
        key_env: environment variable that holds the key.
        key_file: file that holds it. Neither: no key is sent.
        parallel: requests at a time.
        attempts: after which a sample is given up, while others are answered.
        silence_s: longest silence in a response before it counts as dead.
        patience_s: longest time without any word from the server, waits included.
    """

    url: str
    model: str | None = None
    key_env: str | None = None
    key_file: str | None = None
    parallel: int = 64
    attempts: int = 6
    silence_s: float = 300.0
    patience_s: float = 900.0

    def __post_init__(self) -> None:
        require_at_least_one(parallel=self.parallel, attempts=self.attempts)
        if min(self.silence_s, self.patience_s) <= 0:
            raise ConfigError("silence_s and patience_s of an endpoint must be above 0")
        if self.key_env is not None and self.key_file is not None:
            raise ConfigError("the key of an endpoint comes from an environment variable or a file: name one")
        _ = self.base

    @property
    def base(self) -> str:
        """The address that paths are put behind.

        Raises:
            ConfigError: it is not an address, or holds a password, which records and logs would show.
        """
        try:
            parts = urlsplit(self.url)
            is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_whole = False
        if not is_whole or parts.query or parts.fragment:
            raise ConfigError(
                f"the endpoint must be an address such as http://host:8000/v1, got {self.url!r}"
            )
        if parts.username is not None or parts.password is not None:
            raise ConfigError(
                "the endpoint's address holds a user or a password: name a key's variable or file"
            )
        return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"

    def key(self, environment: Mapping[str, str] = os.environ) -> str | None:
        """The key, if one is named.

        Raises:
            ConfigError: it is not there, or can't stand in a header.
        """
        if self.key_env is not None:
            where, found = f"the environment variable {self.key_env}", environment.get(self.key_env, "")
        elif self.key_file is not None:
            where = f"the key file {self.key_file}"
            try:
                found = Path(self.key_file).expanduser().read_text("utf-8")
            except (OSError, ValueError) as error:
                raise ConfigError(f"{where} can't be read: {error}") from error
        else:
            return None
        key = found.strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(f"{where} holds no key: expected one word of ASCII")
        return key


class _Fault(Exception):
    """What another try may mend."""

    def __init__(self, what: str, *, is_busy: bool = False, wait_s: float | None = None) -> None:
        super().__init__(what)
        self.is_busy, self.wait_s = is_busy, wait_s


class _Refusal(Exception):
    """The server won't answer this request, however often it is asked."""


@dataclass(slots=True)
class EndpointTeacher:
    """A model that a server serves; see `teacher_at`.

    Attributes:
        config: where and how.
        model: as the server calls it.
        lengths: of the vocabulary that trains, for what the server doesn't count and for what fits.
    """

    config: EndpointConfig
    model: str
    lengths: Lengths
    _num_answered: int = 0
    _num_refused: int = 0
    _heard_at: float = field(default_factory=time.monotonic)
    _is_known: bool = False
    _ask_from: float = 0.0

    @property
    def entry(self) -> dict[str, Any]:
        """What the record says of it: a server tells no hash."""
        return {"name": self.model, "sha256": None, "size_bytes": None, "served": True}

    def run(self, config: GenerateConfig) -> dict[str, Any]:
        """What a sample depends on; top_k is not of the protocol, and is not sent."""
        return {"teacher": self.model} | {k: v for k, v in config.run.items() if k != "top_k"}

    def settings(self, config: GenerateConfig) -> dict[str, Any]:
        """What the record says of how it was asked."""
        kept = {k: v for k, v in asdict(config).items() if k not in ("top_k", "calculator")}
        return kept | {"parallel": self.config.parallel}

    def has_room(self, question: Question, config: GenerateConfig) -> bool:
        """Whether the model that is to learn could hold the question and one token."""
        asked = self.lengths.template.encode(
            config.request(question.text, 0, 1).messages[1:], self.lengths.seams.tokenize
        )
        return len(asked) + len(self.lengths.seams.opening) + 1 <= self.lengths.context_tokens

    def draw(
        self,
        config: GenerateConfig,
        missing: Sequence[Missing],
        take: Take,
        should_stop: Callable[[], bool],
    ) -> None:
        """Draws what is missing; told to stop, it drops what runs.

        Raises:
            ConfigError: key, model or settings are refused.
            Unavailable: the server was silent for longer than `patience_s`.
        """
        self._heard_at = time.monotonic()
        asyncio.run(self._draw(config, missing, take, should_stop))

    async def _draw(
        self,
        config: GenerateConfig,
        missing: Sequence[Missing],
        take: Take,
        should_stop: Callable[[], bool],
    ) -> None:
        pending = [(question, number) for question, numbers in missing for number in numbers]
        rest: Iterator[tuple[Question, int]] = iter(pending)
        async with self._client() as client:

            async def ask_on() -> None:
                for question, number in rest:
                    take(question, await self._row(client, config, question, number, len(pending)))

            tasks = [asyncio.create_task(ask_on()) for _ in pending[: self.config.parallel]]
            running = set(tasks)
            try:
                while running and not should_stop():
                    done, running = await asyncio.wait(
                        running, timeout=_POLL_S, return_when=asyncio.FIRST_EXCEPTION
                    )
                    for task in done:
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _row(
        self, client: Any, config: GenerateConfig, question: Question, number: int, num_pending: int
    ) -> list[SampleRow] | str:
        seed = sample_seed(config.seed, question.id, number)
        request = config.request(question.text, seed, 1)
        body = {
            "model": self.model,
            "messages": [{"role": one.role, "content": one.content} for one in request.messages],
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_tokens": config.max_tokens,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            said = await self._patiently(lambda: self._answer(client, body), gives_up=True)
        except _Refusal as refusal:
            self._num_refused += 1
            if not self._num_answered and self._num_refused >= min(_FIRST_REFUSED, num_pending):
                raise ConfigError(
                    f"the endpoint refuses what it is asked: {refusal}: change settings, such as --max-tokens"
                ) from refusal
            return REFUSED
        if said is None:
            return FAILED
        self._num_answered += 1
        text, stop, num_tokens = said
        return [
            SampleRow(
                id=question.id,
                number=number,
                question_sha256=question_sha256(question),
                seed=seed,
                text=text,
                num_tokens=len(self.lengths.seams.tokenize(text)) if num_tokens is None else num_tokens,
                stop=stop,
            )
        ]

    async def _patiently(self, ask: Callable[[], Awaitable[T]], *, gives_up: bool) -> T | None:
        """Asks until there is an answer; None where a try failed too often while others were answered."""
        config, answered, tries = self.config, self._num_answered, 0
        while True:
            await self._wait_turn()
            try:
                return await ask()
            except _Fault as fault:
                now = time.monotonic()
                wait_s = fault.wait_s or 0.0
                patience_s = config.patience_s
                if not self._is_known and not fault.is_busy:  # a wrong address should not take as long
                    patience_s = min(patience_s, _FIRST_CONTACT_S)
                if now + wait_s - self._heard_at > patience_s:
                    asks = f"; it asks to wait {wait_s:.0f} s" if wait_s else ""
                    raise Unavailable(
                        f"the endpoint gave no answer for {now - self._heard_at:.0f} s ({fault}{asks}): what "
                        "was drawn is written; give the same command again once the server answers"
                    ) from fault
                tries += not fault.is_busy
                if gives_up and tries >= config.attempts and self._num_answered > answered:
                    return None
                if fault.wait_s:  # it holds for everybody
                    self._ask_from = max(self._ask_from, now + fault.wait_s)
                grown_s = min(2.0 ** min(tries, 16) / 2, _LONGEST_WAIT_S)
                await asyncio.sleep(grown_s * random.uniform(0.5, 1.0))

    def _hear(self) -> None:
        self._heard_at, self._is_known = time.monotonic(), True

    async def _wait_turn(self) -> None:
        """Waits until the server's `Retry-After` is over."""
        while (wait_s := self._ask_from - time.monotonic()) > 0:
            await asyncio.sleep(wait_s + random.uniform(0.0, 0.1))

    # ── one request ───────────────────────────────────────────────────────────────────────────────

    def _client(self) -> Any:
        httpx = _httpx()
        config = self.config
        key = config.key()
        return httpx.AsyncClient(
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(config.silence_s, connect=min(30.0, config.silence_s), pool=None),
            limits=httpx.Limits(max_connections=config.parallel, max_keepalive_connections=config.parallel),
        )

    async def _answer(self, client: Any, body: dict[str, Any]) -> tuple[str, Stop, int | None]:
        """Text, why it ended, and its tokens if the server counted them."""
        answer = _Answer()
        url = f"{self.config.base}/chat/completions"
        async with _faults(), client.stream("POST", url, json=body) as response:
            await self._require_success(response)
            self._hear()
            if "text/event-stream" not in response.headers.get("content-type", ""):
                answer.add(_parsed((await response.aread()).decode("utf-8", "replace")), "message")
                return answer.finished()
            async for line in response.aiter_lines():
                self._hear()
                name, _, data = line.partition(":")
                if name != "data":
                    continue
                if data.strip() == "[DONE]":
                    break
                answer.add(_parsed(data), "delta")
        return answer.finished()

    async def _require_success(self, response: Any) -> None:
        status = response.status_code
        if status == 200:
            return
        said = self._words((await response.aread()).decode("utf-8", "replace"))
        what = f"status {status}{said}"
        if status in _BUSY | _LATER or status >= 500:
            raise _Fault(what, is_busy=status in _BUSY, wait_s=_retry_after_s(response.headers))
        if status in (401, 403):
            raise ConfigError(
                f"the endpoint refuses the key or its absence ({what}): see --key-env, --key-file"
            )
        if status in _UNFIT:
            raise _Refusal(what)
        raise ConfigError(
            f"the endpoint has no {response.url.path} for the model {self.model!r} ({what}): check "
            "address and model"
        )

    def _words(self, text: str) -> str:
        """A server's own words for a message, without the key, which some servers repeat."""
        try:
            found = json.loads(text)
            found = found.get("error", found) if isinstance(found, dict) else found
            said = found.get("message", found) if isinstance(found, dict) else found
        except (ValueError, RecursionError):
            said = text
        line = "".join(c if c.isprintable() else " " for c in " ".join(str(said).split()))
        if (key := self.config.key()) is not None:
            line = line.replace(key, "…")
        return f": {line[:_WORDS]}" if line else ""

    async def _served_models(self) -> list[str]:
        async def ask() -> list[str]:
            async with _faults():
                response = await client.get(f"{self.config.base}/models")
            await self._require_success(response)
            self._hear()
            found = _parsed(response.text).get("data")
            names = (
                [one.get("id") for one in found if isinstance(one, dict)] if isinstance(found, list) else []
            )
            return [name for name in names if isinstance(name, str)]

        async with self._client() as client:
            return await self._patiently(ask, gives_up=False) or []


def teacher_at(config: EndpointConfig, lengths: Lengths) -> EndpointTeacher:
    """The teacher that a server serves.

    Args:
        config: where and how; without a model, the server is asked which one it serves.
        lengths: of the vocabulary that is to learn.

    Raises:
        ConfigError: the key is missing or refused, or the server serves several models.
        Unavailable: it doesn't answer.
    """
    config.key()
    _httpx()
    teacher = EndpointTeacher(config, config.model or "", lengths)
    if config.model is None:
        try:
            names = asyncio.run(teacher._served_models())
        except _Refusal as refusal:
            raise ConfigError(
                f"the endpoint doesn't say which models it serves ({refusal}): name one"
            ) from refusal
        if len(names) != 1:
            said = f"serves {', '.join(names)}" if names else "names no model"
            raise ConfigError(f"the endpoint {said}: say which one is the teacher (--teacher)")
        teacher.model = names[0]
    return teacher


@dataclass(slots=True)
class _Answer:
    """What a response has said so far."""

    thinking: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    ended: str | None = None
    num_tokens: int | None = None

    def add(self, event: dict[str, Any], part: str) -> None:
        """Takes an event of a stream, or a whole response.

        Raises:
            _Fault: it tells of an error, or is of another form.
        """
        if event.get("error"):
            raise _Fault(f"an error in the response: {str(event['error'])[:_WORDS]}")
        try:
            for choice in event.get("choices") or ():
                said = choice.get(part) or {}
                self.content.append(said.get("content") or "")
                self.thinking.append(said.get("reasoning_content") or said.get("reasoning") or "")
                self.ended = choice.get("finish_reason") or self.ended
            counted = (event.get("usage") or {}).get("completion_tokens")
            texts = (self.content[-1:], self.thinking[-1:], [self.ended or ""])
            is_right = all(isinstance(text, str) for found in texts for text in found)
        except (AttributeError, TypeError) as error:
            raise _Fault(f"a response of another form ({error})") from error
        if not is_right:
            raise _Fault("a response whose texts are something else")
        if isinstance(counted, int) and not isinstance(counted, bool) and counted >= 0:
            self.num_tokens = counted

    def finished(self) -> tuple[str, Stop, int | None]:
        """All that was said, thinking between its tags.

        Raises:
            _Fault: the response was cut.
        """
        if self.ended is None:
            raise _Fault("a response that was cut off")
        thinking, content = (
            "".join(parts).encode("utf-8", "replace").decode() for parts in (self.thinking, self.content)
        )
        text = content
        if thinking.strip():
            text = f"{OPENING}{thinking.strip()}\n"
            text += f"{CLOSING}{content}" if content.strip() or self.ended == "stop" else ""
        stop = {"stop": Stop.NATURAL, "length": Stop.LENGTH}.get(self.ended, Stop.CANCELLED)
        return text, Stop.EMPTY if stop is Stop.NATURAL and not text.strip() else stop, self.num_tokens


@asynccontextmanager
async def _faults() -> AsyncIterator[None]:
    """Maps what can happen on the way to `_Fault`."""
    httpx = _httpx()
    try:
        yield
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise _Fault(f"{type(error).__name__}{f': {error}' if str(error) else ''}") from error


def _httpx() -> Any:
    return import_optional("httpx2", "endpoints are asked", extra="train")


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Fault("a response that is not JSON") from error
    if not isinstance(found, dict):
        raise _Fault("a response that is not a JSON object")
    return found


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: a number, or a date."""
    said = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(said)
    except ValueError:
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())

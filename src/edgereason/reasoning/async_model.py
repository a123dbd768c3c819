"""A model for asyncio: many tasks ask, one thread answers, in steps that they share.

        async with await edgereason.AsyncModel.load() as model:
            first, second = await asyncio.gather(model.ask("…"), model.ask("…"))

A request joins between two steps of those that run, a task that is cancelled leaves between two. Prompts that
begin alike share what is encoded of them. Everything of the model happens on one thread (`worker.py`); how a
request is answered is the pipeline's business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self, Unpack

from edgereason.core.checks import refusing_unknown, require, require_int
from edgereason.core.types import Message, Request, Response
from edgereason.errors import Unavailable
from edgereason.reasoning.events import Answered, Event
from edgereason.reasoning.model import LoadOptions, Model, load
from edgereason.reasoning.request import AskOptions, make_request
from edgereason.reasoning.session import Session, Turn
from edgereason.reasoning.worker import Asked, Load, Worker


class AsyncModel:
    """Answers concurrent tasks on one model; an async context manager.

    Args:
        model: owned from here on: used by nobody else, closed with this.
        max_running: no further request is started while so many streams run. Where the context's size was
            left open, it is made large enough for as many streams like those that are asked for.
        max_waiting: requests that may wait beside those that run; more get `QueueFull`. None: any number.
        cache_mib: most memory, in MiB, of prompts whose KV is kept for others that begin alike; 0 keeps none.
            By default 256, or an eighth of the memory where that is less.
    """

    @refusing_unknown
    def __init__(
        self,
        model: Model,
        *,
        max_running: int = 8,
        max_waiting: int | None = None,
        cache_mib: int | None = None,
    ) -> None:
        require("a model", model, Model)
        _require_limits(max_running, max_waiting, cache_mib)
        self._model = model
        self._worker = Worker(
            model,
            max_running=max_running,
            max_waiting=max_waiting,
            cache_bytes=None if cache_mib is None else cache_mib << 20,
        )

    @classmethod
    async def load(
        cls,
        bundle_or_model: str | Path | None = None,
        *,
        max_running: int = 8,
        max_waiting: int | None = None,
        cache_mib: int | None = None,
        **options: Unpack[LoadOptions],
    ) -> Self:
        """Loads a model as `edgereason.load` does, on another thread: the loop goes on meanwhile.

        Raises:
            BundleError, PullError, RequestError: as `edgereason.load`.
        """
        _require_limits(max_running, max_waiting, cache_mib)
        loading = asyncio.get_running_loop().run_in_executor(None, partial(load, bundle_or_model, **options))
        try:
            model = await asyncio.shield(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(_close_loaded)  # nobody will have it
            raise
        return cls(model, max_running=max_running, max_waiting=max_waiting, cache_mib=cache_mib)

    @property
    def model(self) -> Model:
        """What answers; only to be asked what it is, since the worker's thread owns it."""
        return self._model

    async def ask(self, question: str | Iterable[Message], **options: Unpack[AskOptions]) -> Response:
        """Answers a question, or a conversation whose last message is the user's; see `Model.ask`.

        Cancelling the task stops its streams at the next step.

        Raises:
            RequestError: an option can't be used, the prompt does not fit, or too many wait (`QueueFull`).
            Unavailable: the model was closed.
        """
        return await _last_response(self.stream(question, **options))

    def stream(self, question: str | Iterable[Message], **options: Unpack[AskOptions]) -> AsyncEvents:
        """Like `ask`, but gives events as they happen; the last one, `Answered`, has the response.

            async with model.stream("What is 17 × 23?", mode="think") as events:
                async for event in events: ...

        Whoever leaves before the last event ends the request by leaving the `with` block, or by `aclose`.
        """
        return self.run(make_request(question, **options))

    def run(self, request: Request, *, client: Hashable = None) -> AsyncEvents:
        """Answers a `Request`, as `stream` does.

        Args:
            request: what is asked.
            client: whose it is. Clients whose requests wait take turns.
        """
        require("a request", request, Request)
        run = partial(self._model.pipeline.run, request)
        return AsyncEvents(
            self._worker,
            Turn(
                request,
                lambda batch, caller, prompt: run(batch, caller, prefix=self._worker.prefixes, prompt=prompt),
            ),
            client,
        )

    @refusing_unknown
    def session(self, messages: Iterable[Message] = (), *, system: str | None = None) -> AsyncSession:
        """Begins a conversation, whose turns share one prompt KV; see `Model.session`."""
        return AsyncSession(self._model.session(messages, system=system), self._worker)

    async def load_session(self, path: str | Path) -> AsyncSession:
        """Goes on with a conversation that `save` wrote; see `Model.load_session`."""
        session = await self._worker.call(partial(self._model.load_session, path))
        return AsyncSession(session, self._worker)

    async def prompt_tokens(self, request: Request) -> int:
        """Tokens of a request's prompt, which is not asked.

        Raises:
            RequestError: its messages can't be rendered.
        """
        return len((await asyncio.to_thread(self._model.pipeline.prompt, request)).ids)

    def load_figures(self) -> Load:
        """How busy the model is; costs nothing, and may be asked on any thread."""
        return self._worker.figures

    async def close(self, drain_s: float = 0.0) -> None:
        """Frees the model. Tasks that have no answer by then get `Unavailable`, those that wait at once.

        Args:
            drain_s: what runs may go on for so many seconds; its thinking is ended, so that it answers.
        """
        require("drain_s", drain_s, float)
        self._worker.close(drain_s)
        await asyncio.to_thread(self._worker.join)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class AsyncSession:
    """A conversation on an `AsyncModel`, beside others; an async context manager. See `Session`.

    Turns of one session are asked one after the other; several sessions, and single questions, share steps.
    """

    def __init__(self, session: Session, worker: Worker) -> None:
        self._session = session
        self._worker = worker

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation: questions and answers, without the thinking."""
        return self._session.messages

    async def ask(self, text: str | None = None, **options: Unpack[AskOptions]) -> Response:
        """Asks the next question; see `Session.ask`."""
        return await _last_response(self.stream(text, **options))

    def stream(self, text: str | None = None, **options: Unpack[AskOptions]) -> AsyncEvents:
        """Like `ask`, but gives events as they happen. Left early, it adds no turn."""
        return AsyncEvents(self._worker, self._session.next_turn(text, options))

    async def think_harder(self, **options: Unpack[AskOptions]) -> Response:
        """Answers the last question again, thinking; see `Session.think_harder`."""
        return await _last_response(self.stream_harder(**options))

    def stream_harder(self, **options: Unpack[AskOptions]) -> AsyncEvents:
        """Like `think_harder`, but gives events as they happen. Left early, the old answer stays."""
        return AsyncEvents(self._worker, self._session.harder_turn(options))

    async def drop(self, num_turns: int) -> None:
        """Forgets the first turns; see `Session.drop`."""
        await self._worker.call(partial(self._session.drop, num_turns))

    async def save(self, path: str | Path) -> None:
        """Writes conversation and KV to a file; see `Session.save`."""
        await self._worker.call(partial(self._session.save, path))

    async def close(self) -> None:
        """Gives back the cells; what has been said can still be read."""
        with suppress(Unavailable):  # closed with the model
            await self._worker.call(self._session.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class AsyncEvents(AsyncIterator[Event]):
    """What happens while a request is answered: an async iterator, and a context manager that ends it."""

    def __init__(self, worker: Worker, turn: Turn, client: Hashable = None) -> None:
        self._worker = worker
        self._turn = turn
        self._client = client
        self._asked: Asked | None = None
        self._come: deque[Event | Exception] = deque()
        self._wants_answer = self._is_over = False

    async def admitted(self) -> None:
        """Waits until the request has its place in the queue, which reading the first event does, too.

        Raises:
            QueueFull: too many wait already.
            Unavailable: the model is closed, or about to be.
            RequestError: the request can't be served.
        """
        if self._asked is not None or self._is_over:
            return
        try:
            self._asked = await self._worker.admit(self._turn, self._client)
        except BaseException:
            self._is_over = True
            raise
        self._asked.caller.wants_answer |= self._wants_answer

    async def __anext__(self) -> Event:
        try:
            await self.admitted()
            while not self._is_over and not self._come:
                assert self._asked is not None
                self._come.extend(await self._asked.mailbox.get())
            if self._is_over:
                raise StopAsyncIteration
            event = self._come.popleft()
            if isinstance(event, Exception):
                raise event
        except BaseException:
            self._end()
            raise
        if isinstance(event, Answered):
            self._end()
        return event

    async def take(self) -> list[Event]:
        """All events that have come, at least one, for whoever has use for fewer but larger pieces.

        Raises:
            EdgeReasonError: as reading the next event does.

        Returns:
            Nothing once the request is over.
        """
        events: list[Event] = []
        async for event in self:
            events.append(event)
            if not self._come or isinstance(self._come[0], Exception):
                break
        return events

    async def pause(self, seconds: float) -> None:
        """Lets events come together for so long, less where the last one comes before that."""
        if self._asked is not None and not self._is_over:
            await self._asked.mailbox.pause(seconds)

    def answer_now(self) -> None:
        """Ends the thinking of every stream at its next token, so that it answers; from any thread."""
        self._wants_answer = True
        if self._asked is not None:
            self._asked.caller.wants_answer = True

    async def aclose(self) -> None:
        """Ends the request: its streams stop at the next step. Closing twice is harmless."""
        self._end()
        if self._asked is not None:
            self._asked.mailbox.wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._end()

    def _end(self) -> None:
        self._is_over = True
        if self._asked is not None:
            self._asked.is_wanted = False


async def _last_response(events: AsyncEvents) -> Response:
    async with events:
        async for event in events:
            if isinstance(event, Answered):
                return event.response
    raise AssertionError("a run always ends with an answer")


def _close_loaded(loading: asyncio.Future[Model]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        loading.result().close()


def _require_limits(max_running: int, max_waiting: int | None, cache_mib: int | None) -> None:
    require_int("max_running", max_running, least=1)
    if max_waiting is not None:
        require_int("max_waiting", max_waiting, least=0)
    if cache_mib is not None:
        require_int("cache_mib", cache_mib, least=0)

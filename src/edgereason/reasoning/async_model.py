"""A model for asyncio: many tasks ask, one thread answers, in steps that they share.

::

    task ─ ask ──┐            ┌ worker thread ─────────────────────────────┐
    task ─ stream ┼─ inbox ─→ │ take in, start what fits ─→ step ─→ events │ ─→ each task's own queue
    task ─ ask ──┘            └────────↑───────────────────────────┘

        async with await edgereason.AsyncModel.load() as model:
            first, second = await asyncio.gather(model.ask("…"), model.ask("…"))

A request joins between two steps of those that run, a task that is cancelled leaves between two. Everything
of the model happens on the one thread; tasks only wait. How a request is answered is the pipeline's business.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self, TypeVar, Unpack

from edgereason.core.checks import refusing_unknown, require, require_int
from edgereason.core.types import Message, Request, Response
from edgereason.errors import RequestError
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.events import Answered, Event
from edgereason.reasoning.many import make_room
from edgereason.reasoning.model import LoadOptions, Model, load
from edgereason.reasoning.plan import Room
from edgereason.reasoning.request import AskOptions, make_request
from edgereason.reasoning.runs import Run, Runs
from edgereason.reasoning.session import Session, Turn

T = TypeVar("T")


class AsyncModel:
    """Answers concurrent tasks on one model; an async context manager.

    Args:
        model: owned from here on: used by nobody else, closed with this.
        max_running: no further request is started while so many streams run. Where the context's size was
            left open, it is made large enough for as many streams like those that are asked for.
    """

    @refusing_unknown
    def __init__(self, model: Model, *, max_running: int = 8) -> None:
        require("a model", model, Model)
        require_int("max_running", max_running, least=1)
        self._model = model
        self._worker = _Worker(model, max_running)

    @classmethod
    async def load(
        cls,
        bundle_or_model: str | Path | None = None,
        *,
        max_running: int = 8,
        **options: Unpack[LoadOptions],
    ) -> Self:
        """Loads a model as `edgereason.load` does, on another thread: the loop goes on meanwhile.

        Raises:
            BundleError, PullError, RequestError: as `edgereason.load`.
        """
        require_int("max_running", max_running, least=1)
        loading = asyncio.get_running_loop().run_in_executor(None, partial(load, bundle_or_model, **options))
        try:
            return cls(await asyncio.shield(loading), max_running=max_running)
        except asyncio.CancelledError:
            loading.add_done_callback(_close_loaded)  # nobody will have it
            raise

    async def ask(self, question: str | Iterable[Message], **options: Unpack[AskOptions]) -> Response:
        """Answers a question, or a conversation whose last message is the user's; see `Model.ask`.

        Cancelling the task stops its streams at the next step.

        Raises:
            RequestError: an option can't be used, the prompt does not fit, or the model was closed.
        """
        return await _last_response(self.stream(question, **options))

    def stream(self, question: str | Iterable[Message], **options: Unpack[AskOptions]) -> AsyncEvents:
        """Like `ask`, but gives events as they happen; the last one, `Answered`, has the response.

            async with model.stream("What is 17 × 23?", mode="think") as events:
                async for event in events: ...

        Whoever leaves before the last event ends the request by leaving the `with` block, or by `aclose`.
        """
        return self.run(make_request(question, **options))

    def run(self, request: Request) -> AsyncEvents:
        """Answers a `Request`, as `stream` does."""
        require("a request", request, Request)
        return self._worker.events(_whole(self._model, request))

    @refusing_unknown
    def session(self, messages: Iterable[Message] = (), *, system: str | None = None) -> AsyncSession:
        """Begins a conversation, whose turns share one prompt KV; see `Model.session`."""
        return AsyncSession(self._model.session(messages, system=system), self._worker)

    async def load_session(self, path: str | Path) -> AsyncSession:
        """Goes on with a conversation that `save` wrote; see `Model.load_session`."""
        session = await self._worker.call(partial(self._model.load_session, path))
        return AsyncSession(session, self._worker)

    async def close(self) -> None:
        """Stops what still runs, whose tasks get a `RequestError`, and frees the model."""
        self._worker.put(None)
        await asyncio.to_thread(self._worker.join)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class AsyncSession:
    """A conversation on an `AsyncModel`, beside others; an async context manager. See `Session`.

    Turns of one session are asked one after the other; several sessions, and single questions, share steps.
    """

    def __init__(self, session: Session, worker: _Worker) -> None:
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
        return self._worker.events(self._session.next_turn(text, options))

    async def think_harder(self, **options: Unpack[AskOptions]) -> Response:
        """Answers the last question again, thinking; see `Session.think_harder`."""
        return await _last_response(self.stream_harder(**options))

    def stream_harder(self, **options: Unpack[AskOptions]) -> AsyncEvents:
        """Like `think_harder`, but gives events as they happen. Left early, the old answer stays."""
        return self._worker.events(self._session.harder_turn(options))

    async def drop(self, num_turns: int) -> None:
        """Forgets the first turns; see `Session.drop`."""
        await self._worker.call(partial(self._session.drop, num_turns))

    async def save(self, path: str | Path) -> None:
        """Writes conversation and KV to a file; see `Session.save`."""
        await self._worker.call(partial(self._session.save, path))

    async def close(self) -> None:
        """Gives back the cells; what has been said can still be read."""
        with suppress(RequestError):  # closed with the model
            await self._worker.call(self._session.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class AsyncEvents(AsyncIterator[Event]):
    """What happens while a request is answered: an async iterator, and a context manager that ends it."""

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        self._events = events

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def aclose(self) -> None:
        """Ends the request: its streams stop at the next step. Closing twice is harmless."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


async def _last_response(events: AsyncEvents) -> Response:
    async with events:
        async for event in events:
            if isinstance(event, Answered):
                return event.response
    raise AssertionError("a run always ends with an answer")


def _close_loaded(loading: asyncio.Future[Model]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        loading.result().close()


def _whole(model: Model, request: Request) -> Turn:
    """A request that is not a turn of a session."""
    return Turn(
        request,
        lambda batch, should_stop, accepted_s: model.pipeline.run(
            request, batch, should_stop, accepted_s=accepted_s
        ),
    )


class _Call:
    """Something to be done by the worker between two steps, and what came out."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act
        self.outcome: Future[Any] = Future()

    def do(self) -> None:
        if self.outcome.set_running_or_notify_cancel():
            try:
                self.outcome.set_result(self._act())
            except Exception as error:
                self.outcome.set_exception(error)

    def refuse(self, why: str) -> None:
        if self.outcome.set_running_or_notify_cancel():
            self.outcome.set_exception(RequestError(why))


class _Asked:
    """A request on its way, and where its events go. Made by the task; the worker only tells it things."""

    def __init__(self, turn: Turn, accepted_s: float) -> None:
        self.request = turn.request
        self._turn = turn
        self._accepted_s = accepted_s
        self.events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.is_wanted = True
        """Cleared by the task, looked at by the worker between steps."""
        self._loop = asyncio.get_running_loop()

    def start(self, batch: Batch) -> Run:
        """The run that answers it; may be called again if it found no room."""
        return self._turn.run(batch, self.is_given_up, self._accepted_s)

    def is_given_up(self) -> bool:
        """Whether nobody waits for it any more."""
        return not self.is_wanted

    def tell(self, events: Sequence[Event | Exception]) -> None:
        """From the worker's thread."""
        if events and self.is_wanted:
            try:
                self._loop.call_soon_threadsafe(self._take, events)
            except RuntimeError:  # the loop was closed, and its tasks with it
                self.is_wanted = False

    def _take(self, events: Sequence[Event | Exception]) -> None:
        for event in events:
            self.events.put_nowait(event)


class _Worker:
    """The thread that everything of the model happens on."""

    def __init__(self, model: Model, max_running: int) -> None:
        with model.engine.owner.entered():  # or a thread's request would not be over yet
            self._model = model
        self._max_running = max_running
        self._batch = Batch(model.engine)
        self._inbox: SimpleQueue[_Asked | _Call | None] = SimpleQueue()
        self._waiting: deque[_Asked] = deque()
        self._runs = Runs[_Asked]()
        self._is_closed = False
        self._gate = threading.Lock()
        # A daemon: a model that nobody closes must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._work, name="edgereason", daemon=True)
        self._thread.start()

    def put(self, work: _Asked | _Call | None) -> None:
        """Hands in something to do; None closes."""
        with self._gate:  # or it might come in behind the last look into the inbox
            if self._is_closed and work is not None:
                raise RequestError("the model is closed: load it again")
            self._is_closed = self._is_closed or work is None
            self._inbox.put(work)

    def events(self, turn: Turn) -> AsyncEvents:
        """Lets a turn be answered, once somebody reads its events."""
        return AsyncEvents(self._follow(turn))

    async def _follow(self, turn: Turn) -> AsyncGenerator[Event, None]:
        asked = _Asked(turn, self._model.pipeline.clock())
        self.put(asked)
        try:
            while True:
                event = await asked.events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Answered):
                    return
        finally:
            asked.is_wanted = False

    async def call(self, act: Callable[[], T]) -> T:
        """Does something with the model between two steps."""
        call = _Call(act)
        self.put(call)
        outcome: T = await asyncio.wrap_future(call.outcome)
        return outcome

    def join(self) -> None:
        """Waits until everything is freed."""
        self._thread.join()

    def _work(self) -> None:
        self._model.engine.owner.enter()
        try:
            while self._take_in():
                self._drop_unwanted()
                self._start_waiting()
                if self._runs:
                    self._step()
                    self._advance()
        finally:
            with self._gate:
                self._is_closed = True
            self._end_all("the model was closed before the answer was there")
            self._model.close()
            self._model.engine.owner.leave()

    def _take_in(self) -> bool:
        """Empties the inbox, and waits for it if there is nothing else to do; False once it says to close."""
        while not self._inbox.empty() or not (self._runs or self._waiting):
            work = self._inbox.get()
            if work is None:
                return False
            if isinstance(work, _Call):
                self._drop_unwanted()  # a turn that was left early must not seem to run still
                work.do()
            else:
                self._waiting.append(work)
        return True

    def _drop_unwanted(self) -> None:
        for asked in self._runs:
            if not asked.is_wanted:
                self._end(asked)
        self._waiting = deque(asked for asked in self._waiting if asked.is_wanted)

    def _start_waiting(self) -> None:
        if self._waiting and not self._runs:
            self._make_room()
        while self._waiting and self._runs.may_fit and self._batch.num_running < self._max_running:
            asked = self._waiting[0]
            try:
                events = self._runs.start(asked, asked.start(self._batch))
            except Exception as error:
                asked.tell([error])
            else:
                if events is None:
                    return
                asked.tell(events)
            self._waiting.popleft()

    def _make_room(self) -> None:
        """Makes the context as large as streams like the dearest of those that wait will need."""
        rooms: dict[_Asked, Room] = {}
        for asked in list(self._waiting):
            try:
                rooms[asked] = self._model.pipeline.room(asked.request)
            except Exception as error:
                self._waiting.remove(asked)
                asked.tell([error])
        if rooms:
            dearest = max(rooms, key=lambda asked: rooms[asked])
            at_a_time = -(-self._max_running // dearest.request.streams)
            try:
                make_room(self._model, [rooms[dearest]] * at_a_time, at_a_time)
            except Exception as error:
                self._waiting.remove(dearest)
                dearest.tell([error])

    def _step(self) -> None:
        try:
            self._batch.step()
        except Exception as error:  # of the engine: it concerns everyone who was in the step
            for asked in self._runs:
                self._end(asked, error)
            self._batch = Batch(self._model.engine)

    def _advance(self) -> None:
        for asked in self._runs:
            try:
                asked.tell(self._runs.advance(asked))
            except Exception as error:
                asked.tell([error])

    def _end(self, asked: _Asked, error: Exception | None = None) -> None:
        """Gives back what a request holds, and tells its task why, if there is something to tell."""
        try:
            self._runs.drop(asked)
        except Exception as failure:  # a native call, in giving back
            error = error or failure
        if error is not None:
            asked.tell([error])

    def _end_all(self, why: str) -> None:
        for asked in self._runs:
            self._end(asked, RequestError(why))
        while not self._inbox.empty():
            work = self._inbox.get()
            if isinstance(work, _Call):
                work.refuse(why)
            elif work is not None:
                self._waiting.append(work)
        for asked in self._waiting:
            asked.tell([RequestError(why)])

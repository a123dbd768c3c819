"""A model for asyncio: many tasks ask, one thread answers, in steps that they share.

::

    task ─ ask ──┐            ┌ worker thread ─────────────────────────────┐
    task ─ stream ┼─ inbox ─→ │ take in, start what fits ─→ step ─→ events │ ─→ each task's own queue
    task ─ ask ──┘            └────────↑───────────────────────────┘

        async with edgereason.AsyncModel(edgereason.load()) as model:
            first, second = await asyncio.gather(model.ask("…"), model.ask("…"))

A request joins between two steps of those that run, a task that is cancelled leaves between two. Everything
of the model happens on the one thread; tasks only wait.

Knows runs and queues; does not know how a request is answered.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from queue import SimpleQueue
from typing import Self, Unpack

from edgereason.core.types import Message, Request, Response
from edgereason.errors import RequestError
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.events import Answered, Event
from edgereason.reasoning.many import make_room
from edgereason.reasoning.model import AskOptions, Model, make_request
from edgereason.reasoning.plan import Room
from edgereason.reasoning.runs import Runs


class AsyncModel:
    """Answers concurrent tasks on one model; an async context manager.

    Args:
        model: owned from here on: used by nobody else, closed with this.
        max_running: no further request is started while so many streams run. Where the context's size was
            left open, it is made large enough for as many streams like those that are asked for.
    """

    def __init__(self, model: Model, *, max_running: int = 8) -> None:
        if max_running < 1:
            raise RequestError(f"max_running must be at least 1, got {max_running}")
        self._worker = _Worker(model, max_running)
        self._clock = model.pipeline.clock

    async def ask(self, question: str | Iterable[Message], **options: Unpack[AskOptions]) -> Response:
        """Answers a question, or a conversation whose last message is the user's; see `Model.ask`.

        Cancelling the task stops its streams at the next step.

        Raises:
            RequestError: something is out of range, the prompt does not fit, or the model was closed.
        """
        async with aclosing(self.stream(question, **options)) as events:
            async for event in events:
                if isinstance(event, Answered):
                    return event.response
        raise AssertionError("a run always ends with an answer")

    async def stream(
        self, question: str | Iterable[Message], **options: Unpack[AskOptions]
    ) -> AsyncGenerator[Event, None]:
        """Like `ask`, but yields events as they happen; the last one, `Answered`, has the response.

        Leaving the loop early stops the streams once the generator is closed: `contextlib.aclosing` does it
        at once.
        """
        asked = _Asked(make_request(question, **options), self._clock())
        self._worker.put(asked)
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

    async def close(self) -> None:
        """Stops what still runs, whose tasks get a `RequestError`, and frees the model."""
        self._worker.put(None)
        await asyncio.to_thread(self._worker.join)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class _Asked:
    """A request on its way, and where its events go. Made by the task; the worker only tells it things."""

    def __init__(self, request: Request, accepted_s: float) -> None:
        self.request = request
        self.accepted_s = accepted_s
        self.events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.is_wanted = True
        """Cleared by the task, looked at by the worker between steps."""
        self._loop = asyncio.get_running_loop()

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
        self._model = model
        self._max_running = max_running
        self._batch = Batch(model.engine)
        self._inbox: SimpleQueue[_Asked | None] = SimpleQueue()
        self._waiting: deque[_Asked] = deque()
        self._runs = Runs[_Asked]()
        self._is_closed = False
        self._gate = threading.Lock()
        # A daemon: a model that nobody closes must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._work, name="edgereason", daemon=True)
        self._thread.start()

    def put(self, asked: _Asked | None) -> None:
        """Hands in a request; None closes."""
        with self._gate:  # or a request might come in behind the last look into the inbox
            if self._is_closed and asked is not None:
                raise RequestError("the model is closed: load it again")
            self._is_closed = self._is_closed or asked is None
            self._inbox.put(asked)

    def join(self) -> None:
        """Waits until everything is freed."""
        self._thread.join()

    def _work(self) -> None:
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

    def _take_in(self) -> bool:
        """Empties the inbox, and waits for it if there is nothing else to do; False once it says to close."""
        while not self._inbox.empty() or not (self._runs or self._waiting):
            asked = self._inbox.get()
            if asked is None:
                return False
            self._waiting.append(asked)
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
            run = self._model.pipeline.run(
                asked.request, self._batch, asked.is_given_up, accepted_s=asked.accepted_s
            )
            try:
                events = self._runs.start(asked, run)
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
            if (asked_late := self._inbox.get()) is not None:
                self._waiting.append(asked_late)
        for asked in self._waiting:
            asked.tell([RequestError(why)])

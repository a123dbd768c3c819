"""The thread that a model's requests run on, for tasks that wait elsewhere.

::

    task ─ admit ──┐            ┌ worker thread ─────────────────────────────────┐
    task ─ admit ──┼─ inbox ─→  │ take in, start what fits ─→ step ─→ events ─┐  │
    task ─ call ───┘            └────────↑────────────────────────────────────│──┘
                                                  mailbox of each task, coalesced

A request is admitted (a place in the queue, rendered, tokenized, planned) by its own task, so that what can't
be served is refused before any work. A step is for all that run. Beside them one prompt is read at a time, in
chunks, and as long as a chunk or a start took, those that run go on alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from queue import SimpleQueue
from statistics import fmean
from typing import Any, Final, TypeVar

from edgereason.core.chat import Prompt
from edgereason.core.machine import memory_bytes
from edgereason.core.types import Request
from edgereason.errors import ContextOverflow, EngineError, QueueFull, RequestError, Unavailable
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.events import Answered, Event, Queued, Reading, Text
from edgereason.reasoning.many import make_room
from edgereason.reasoning.model import Model
from edgereason.reasoning.plan import NO_ROOM, Room
from edgereason.reasoning.runs import Caller, Run, Runs
from edgereason.reasoning.session import Turn
from edgereason.reasoning.waiting import Waiting

CHUNK_TOKENS: Final = 64
"""Tokens of a prompt that are read between two steps of streams that run."""

STALLED_S: Final = 30.0
"""A request whose events nobody reads for so long is ended."""

CACHE_BYTES: Final = 256 << 20
_CACHE_SHARE: Final = 8
"""Most memory of kept prompts where the caller names none, and no more than this part of what there is."""
_KEPT_SEQUENCES: Final = 16
"""Slots of the context for kept prompts; others wait outside of it."""

CLOSED: Final = "the model is closed: load it again"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy a model is.

    Attributes:
        cells_total: KV cells of the context; 0 before the first request.
        cells_running: that requests hold now.
        cells_kept: of prompts that wait to be used again.
        draining: whether it is about to be closed.
        failed: why it answers nobody any more; None while it does.
    """

    running_requests: int = 0
    running_streams: int = 0
    waiting_requests: int = 0
    cells_total: int = 0
    cells_running: int = 0
    cells_kept: int = 0
    draining: bool = False
    failed: str | None = None


class Mailbox:
    """Events on their way to a task. What one stream says is put together while nobody reads it.

    So a slow reader costs no more memory than its response, and the loop is woken once for all of them.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._gate = threading.Lock()
        self._items: list[Event | Exception] = []
        self._since_s = 0.0
        self._is_filled = asyncio.Event()
        self._has_end = asyncio.Event()

    def put(self, items: Iterable[Event | Exception]) -> bool:
        """From the worker's thread; False if the loop is closed, and its tasks with it."""
        items = list(items)
        with self._gate:
            was_empty = not self._items
            for item in items:
                _append(self._items, item)
            is_news = was_empty and bool(self._items)
            if is_news:
                self._since_s = self._clock()
        is_end = any(isinstance(item, Answered | Exception) for item in items)
        return not (is_news or is_end) or self._wake(is_end=is_end)

    async def pause(self, seconds: float) -> None:
        """Waits so long, or until the end has come."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._has_end.wait()

    async def get(self) -> list[Event | Exception]:
        """What has come, at least one; nothing once `wake` was called."""
        await self._is_filled.wait()
        self._is_filled.clear()
        with self._gate:
            items, self._items = self._items, []
        return items

    @property
    def stalled_s(self) -> float:
        """For how long something has waited to be read."""
        with self._gate:
            return self._clock() - self._since_s if self._items else 0.0

    def wake(self) -> None:
        """Has `get` return, in the loop's thread."""
        self._is_filled.set()

    def _wake(self, *, is_end: bool) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._is_filled.set)
            if is_end:
                self._loop.call_soon_threadsafe(self._has_end.set)
        except RuntimeError:
            return False
        return True


def _append(items: list[Event | Exception], item: Event | Exception) -> None:
    """Puts an event behind others, or into the one that it goes on with."""
    if isinstance(item, Queued | Reading) and items and type(items[-1]) is type(item):
        items[-1] = item
        return
    if isinstance(item, Text):
        for index in range(len(items) - 1, -1, -1):
            other = items[index]
            if not isinstance(other, Text):
                break
            if other.stream == item.stream:
                if other.phase is item.phase:
                    items[index] = replace(item, text=other.text + item.text)
                    return
                break
    items.append(item)


class Asked:
    """A request on its way. Made by its task; the worker starts it and tells it things."""

    def __init__(self, turn: Turn, client: Hashable, clock: Callable[[], float]) -> None:
        self.turn = turn
        self.client = client
        self.mailbox = Mailbox(clock)
        self.is_wanted = True
        """Cleared by the task, looked at by the worker between steps."""
        self.caller = Caller(should_stop=lambda: not self.is_wanted, accepted_s=clock())
        self.has_place = True
        self.place = 0
        self._prompt: Prompt | None = None
        self._room: Room | None = None

    @property
    def request(self) -> Request:
        return self.turn.request

    @property
    def room(self) -> Room:
        assert self._room is not None
        return self._room

    def prepare(self, model: Model) -> None:
        """Renders, tokenizes and plans it; on any thread.

        Raises:
            RequestError: it can't be served.
        """
        try:
            self._prompt = model.pipeline.prompt(self.request)
            self._room = model.pipeline.room(self.request, self._prompt)
        except ContextOverflow as error:
            raise self.turn.advised(error) from error

    def start(self, batch: Batch) -> Run:
        """The run that answers it; may be called again if it found no room."""
        return self.turn.run(batch, self.caller, self._prompt)

    def tell(self, items: Iterable[Event | Exception]) -> None:
        """From the worker's thread."""
        if self.is_wanted and not self.mailbox.put(items):
            self.is_wanted = False


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
            self.outcome.set_exception(Unavailable(why))


@dataclass(frozen=True, slots=True)
class _Close:
    """Has the worker end, at the latest so many seconds from now."""

    drain_s: float


class Worker:
    """The thread that everything of the model happens on.

    Args:
        model: used by nobody else, and closed in the end.
        max_running: no further request is started while so many streams run.
        max_waiting: requests beyond those that may run; more are refused. None for any number.
        cache_bytes: most memory of kept prompts; None for a part of what there is.
    """

    def __init__(
        self, model: Model, *, max_running: int, max_waiting: int | None, cache_bytes: int | None
    ) -> None:
        with model.engine.owner.entered():  # or a thread's request would not be over yet
            self._model = model
        self._clock = model.pipeline.clock
        self._max_running = max_running
        self._max_waiting = max_waiting
        if cache_bytes is None:
            cache_bytes = min(CACHE_BYTES, (memory_bytes() or CACHE_BYTES) // _CACHE_SHARE)
        self._cache_bytes = cache_bytes if model.engine.shares_cells else 0
        self.prefixes = model.pipeline.prefixes(self._cache_bytes) if self._cache_bytes else None
        self._batch = self._new_batch()
        self._inbox: SimpleQueue[Asked | _Call | _Close] = SimpleQueue()
        self._waiting = Waiting[Asked]()
        self._runs = Runs[Asked]()
        self._without_room: set[Asked] = set()
        self._roomy = NO_ROOM
        self._may_start_s = 0.0
        self._end_s: float | None = None
        self._ended_s: deque[float] = deque(maxlen=8)
        self._gate = threading.Lock()
        self._num_places = 0
        self._is_closed = False
        self._figures = Load()
        # A daemon: a model that nobody closes must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._work, name="edgereason", daemon=True)
        self._thread.start()

    # For tasks

    async def admit(self, turn: Turn, client: Hashable) -> Asked:
        """Lets a turn wait for its answer.

        Raises:
            QueueFull: too many wait already.
            Unavailable: the model is closed, or about to be.
            RequestError: it can't be served.
        """
        self._require_place()
        asked = Asked(turn, client, self._clock)
        try:
            await asyncio.to_thread(asked.prepare, self._model)
            self.put(asked)
        except BaseException as error:
            self._leave_place(asked)
            if isinstance(error, EngineError) and self._is_closed:  # while it was tokenized
                raise Unavailable(CLOSED) from error
            raise
        return asked

    def put(self, work: Asked | _Call | _Close) -> None:
        """Hands in something to do."""
        with self._gate:  # or it might come in behind the last look into the inbox
            if not isinstance(work, _Close):
                self._require_open()
            self._is_closed = self._is_closed or isinstance(work, _Close)
            self._inbox.put(work)

    async def call(self, act: Callable[[], T]) -> T:
        """Does something with the model between two steps."""
        call = _Call(act)
        self.put(call)
        outcome: T = await asyncio.wrap_future(call.outcome)
        return outcome

    def close(self, drain_s: float = 0.0) -> None:
        """Has the worker end: nothing new is taken in, and thinking is ended so that what runs answers."""
        self.put(_Close(drain_s))

    def join(self) -> None:
        """Waits until everything is freed."""
        self._thread.join()

    @property
    def figures(self) -> Load:
        """How busy the model is; from any thread."""
        is_draining = self._is_closed and self._thread.is_alive()
        return replace(self._figures, waiting_requests=self._num_places, draining=is_draining)

    def _require_place(self) -> None:
        with self._gate:
            self._require_open()
            free = max(0, self._max_running - self._figures.running_streams)
            if self._max_waiting is not None and self._num_places >= self._max_waiting + free:
                why = f"{self._num_places} requests wait already, and at most {self._max_waiting} may"
                raise QueueFull(f"{why}: try again", self._retry_after_s())
            self._num_places += 1

    def _leave_place(self, asked: Asked) -> None:
        with self._gate:
            self._num_places -= asked.has_place
            asked.has_place = False

    def _require_open(self) -> None:
        if self._figures.failed is not None:
            raise Unavailable(f"the model has failed: {self._figures.failed}")
        if self._is_closed:
            raise Unavailable(CLOSED)

    def _retry_after_s(self) -> float:
        """About when a place is free: as requests ended lately."""
        between = [later - earlier for earlier, later in pairwise([*self._ended_s])]
        return min(60.0, max(1.0, fmean(between))) if between else 1.0

    # The thread

    def _work(self) -> None:
        self._model.engine.owner.enter()
        why = "the model was closed before the answer was there"
        try:
            while self._take_in():
                self._drop_unwanted()
                self._start_waiting()
                if self._runs:
                    self._step()
                    self._advance()
                self._publish()
        except Exception as error:
            why = f"the model has failed: {error}"
            self._figures = replace(self._figures, failed=f"{type(error).__name__}: {error}")
        finally:
            with self._gate:
                self._is_closed = True
            self._end_all(Unavailable(why))
            if self.prefixes is not None:
                self.prefixes.close()
            self._model.close()
            self._model.engine.owner.leave()
            self._figures = Load(failed=self._figures.failed)

    def _take_in(self) -> bool:
        """Empties the inbox, and waits for it if there is nothing else to do; False once all is over."""
        while not self._inbox.empty() or not (self._runs or self._waiting or self._end_s is not None):
            work = self._inbox.get()
            if isinstance(work, _Close):
                self._begin_to_close(work.drain_s)
            elif isinstance(work, _Call):
                self._drop_unwanted()  # a turn that was left early must not seem to run still
                work.do()
            else:
                self._waiting.add(work, work.client)
        return self._end_s is None or (bool(self._runs) and self._clock() < self._end_s)

    def _begin_to_close(self, drain_s: float) -> None:
        end_s = self._clock() + drain_s
        self._end_s = end_s if self._end_s is None else min(self._end_s, end_s)
        for asked in [*self._waiting]:
            self._stop_waiting(asked, Unavailable("the model is being closed, and answers nobody new"))
        for asked in self._runs:
            asked.caller.wants_answer = True

    def _drop_unwanted(self) -> None:
        for asked in self._runs:
            if not asked.is_wanted:
                self._end(asked)
            elif asked.mailbox.stalled_s > STALLED_S:
                self._end(asked, RequestError(f"nobody read the events for {STALLED_S:g} s: ask again"))
        for asked in [*self._waiting]:
            if not asked.is_wanted:
                self._stop_waiting(asked)
            elif asked.request.budget is not None and asked.caller.accepted_s is not None:
                try:
                    waited_s = self._clock() - asked.caller.accepted_s
                    self._model.pipeline.require_time(asked.request, 0, waited_s)
                except RequestError as error:
                    self._stop_waiting(asked, error)

    def _start_waiting(self) -> None:
        if self._waiting and not self._runs:
            self._make_room()
        if self._runs.may_fit:
            self._without_room.clear()
        while (
            self._batch.num_running < self._max_running
            and not self._batch.is_reading
            and self._batch.may_read
            and not (self._batch.num_running and self._clock() < self._may_start_s)
            and self._waiting.begin_next(self._begin) is not None
        ):
            pass
        for place, asked in enumerate(self._waiting, 1):
            if place != asked.place:
                asked.place = place
                asked.tell([Queued(place)])

    def _begin(self, asked: Asked) -> bool:
        """Starts a request if there is room for it; whether it waits no more."""
        if asked in self._without_room:
            return False
        others, start_s = self._batch.num_running, self._clock()
        events: Sequence[Event | Exception] | None
        try:
            events = self._runs.start(asked, asked.start(self._batch))
        except Exception as error:
            events = [error]
        if events is None:
            self._without_room.add(asked)
            return False
        if others:
            self._may_start_s = 2 * self._clock() - start_s
        self._leave_place(asked)
        self._publish()
        asked.tell(events)
        return True

    def _make_room(self) -> None:
        """Makes the context as large as streams like the dearest of those that wait will need."""
        dearest = max(self._waiting, key=lambda asked: asked.room)
        at_a_time = -(-self._max_running // dearest.request.streams)
        cells, sequences, longest = dearest.room
        wanted = Room(at_a_time * cells, at_a_time * sequences, 0 if self.prefixes else longest)
        if all(there >= needed for there, needed in zip(self._roomy, wanted, strict=True)):
            return  # kept prompts leave for what runs
        kept_cells = self._cache_bytes // self._model.info.kv_bytes_per_cell
        spare = NO_ROOM if self.prefixes is None else Room(kept_cells, _KEPT_SEQUENCES, 0)
        try:
            make_room(self._model, [dearest.room] * at_a_time, at_a_time, spare)
        except Exception as error:
            self._stop_waiting(dearest, error)
        else:
            made = Room(*(need + more for need, more in zip(wanted, spare, strict=True)))
            self._roomy = Room(*map(max, self._roomy, made))

    def _step(self) -> None:
        try:
            self._batch.step()
        except Exception as error:  # of the engine: it concerns everyone who was in the step
            for asked in self._runs:
                self._end(asked, error)
            self._batch = self._new_batch()

    def _advance(self) -> None:
        news: list[tuple[Asked, Sequence[Event | Exception]]] = []
        for asked in self._runs:
            try:
                events = self._runs.advance(asked)
            except Exception as error:
                news.append((asked, [error]))
            else:
                news.append((asked, events))
                if events and isinstance(events[-1], Answered):
                    self._ended_s.append(self._clock())
        self._publish()  # first, so that whoever has an answer sees its cells free
        for asked, told in news:
            asked.tell(told)

    def _new_batch(self) -> Batch:
        return Batch(self._model.engine, chunk_tokens=CHUNK_TOKENS)

    def _stop_waiting(self, asked: Asked, error: Exception | None = None) -> None:
        self._waiting.discard(asked)
        self._leave_place(asked)
        if error is not None:
            asked.tell([error])

    def _end(self, asked: Asked, error: Exception | None = None) -> None:
        """Gives back what a request holds, and tells its task why, if there is something to tell."""
        try:
            self._runs.drop(asked)
        except Exception as failure:  # a native call, in giving back
            error = error or failure
        if error is not None:
            asked.tell([error])

    def _end_all(self, error: Exception) -> None:
        for asked in self._runs:
            self._end(asked, error)
        while not self._inbox.empty():
            work = self._inbox.get()
            if isinstance(work, _Call):
                work.refuse(str(error))
            elif isinstance(work, Asked):
                self._waiting.add(work, work.client)
        for asked in [*self._waiting]:
            self._stop_waiting(asked, error)

    def _publish(self) -> None:
        engine = self._model.engine
        kept_cells = min(engine.kept_cells, engine.used_cells)
        self._figures = Load(
            running_requests=len(self._runs),
            running_streams=self._batch.num_running,
            cells_total=engine.num_cells,
            cells_running=engine.used_cells - kept_cells,
            cells_kept=kept_cells,
        )

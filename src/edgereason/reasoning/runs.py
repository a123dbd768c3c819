"""Runs of requests that share a batch: started when there is room, and each moved on between two steps.

::

    Run          event, event, STEP, event, STEP, … Answered     it waits where the batch must take a step
    drive        one of them, as `Events`
    drive_many   many, as many at a time as there is room for
    Runs         those that run now, for whoever takes the steps and decides who is next
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgereason.core.closing import Closing
from edgereason.core.types import Response
from edgereason.errors import NoRoomNow
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.events import Answered, Event, Step

Run = Generator[Event | Step, None, None]


@dataclass(slots=True, kw_only=True)
class Caller:
    """Whoever asked, as a run sees them: looked at between steps.

    Attributes:
        should_stop: whether nobody wants more; the run then ends with what there is.
        wants_answer: set, by any thread, to have the thinking ended and the answer given.
        accepted_s: when seconds began to count, on the pipeline's clock; None for when the run begins.
    """

    should_stop: Callable[[], bool] = lambda: False
    wants_answer: bool = False
    accepted_s: float | None = None


K = TypeVar("K", bound=Hashable)


class Runs(Generic[K]):
    """The runs that have begun and not ended, by key, in the order in which they began.

    Attributes:
        may_fit: False once a run found no room; true again when another has given some back.
    """

    def __init__(self) -> None:
        self._running: dict[K, Run] = {}
        self.may_fit = True

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[K]:
        return iter([*self._running])

    def start(self, key: K, run: Run) -> Sequence[Event] | None:
        """A run's first events, up to where it wants a step; None if it must wait for others to end.

        Raises:
            Exception: whatever the run raises, `NoRoomNow` too where there is nobody to wait for; it is over.
        """
        try:
            events = _until_step(run)
        except NoRoomNow:
            run.close()
            if not self._running:
                raise
            self.may_fit = False
            return None
        if not _is_over(events):
            self._running[key] = run
        return events

    def advance(self, key: K) -> Sequence[Event]:
        """A run's next events, after a step; with the last of them it is over.

        Raises:
            Exception: whatever the run raises; it is over.
        """
        try:
            events = _until_step(self._running[key])
        except BaseException:
            self.drop(key)
            raise
        if _is_over(events):
            self.drop(key)
        return events

    def drop(self, key: K) -> None:
        """Ends a run, which gives back what it holds."""
        self.may_fit = True
        self._running.pop(key).close()

    def close(self) -> None:
        """Ends all."""
        for key in self:
            self.drop(key)


class Events(Iterator[Event], Closing):
    """What happens while a request is answered: an iterator, and a context manager that ends the request.

    What the request holds (KV cells, sequences, samplers) is given back with the last event, `Answered`. A
    caller who leaves before that gives it back at the end of the `with` block, or by `close`.
    """

    def __init__(self, run: Run, batch: Batch, caller: Caller | None = None) -> None:
        self._run = run
        self._batch = batch
        self._caller = caller or Caller()
        self._owner = batch.engine.owner
        self._has_begun = self._is_over = False

    def __next__(self) -> Event:
        if not (self._has_begun or self._is_over):
            self._owner.enter()
            self._has_begun = True
        with self._owner.using():
            try:
                while isinstance(event := next(self._run), Step):
                    self._batch.step()
            except BaseException:
                self.close()
                raise
            if isinstance(event, Answered):
                self._leave()
        return event

    def answer_now(self) -> None:
        """Ends the thinking of every stream at its next token, so that it answers; from any thread."""
        self._caller.wants_answer = True

    def close(self) -> None:
        """Ends the request and gives back what it holds. Closing twice is harmless.

        Raises:
            RequestError: another thread is reading its events, or those of another request.
        """
        if not self._has_begun or self._is_over:  # nothing of the engine is held
            self._is_over = True
            self._run.close()
            return
        with self._owner.using():
            try:
                self._run.close()
            finally:
                self._leave()

    def __del__(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._has_begun and not self._is_over:
            self._owner.leave()
        self._is_over = True


def drive(run: Run, batch: Batch, caller: Caller | None = None) -> Events:
    """One request's events: the batch takes its steps as they are read. `caller` is the one of the run."""
    return Events(run, batch, caller)


def last_response(events: Iterator[Event]) -> Response:
    """The response that ends a stream of events."""
    response = None
    for event in events:
        if isinstance(event, Answered):
            response = event.response
    assert response is not None
    return response


def drive_many(
    starts: Iterable[Callable[[], Run]], batch: Batch, *, max_running: int
) -> Generator[tuple[int, Event], None, None]:
    """Runs many requests, as many at a time as the context and `max_running` streams allow.

    Args:
        starts: makers of runs on `batch`, taken in order; a maker is called again if its run did not fit yet.
        batch: the engine's batch.
        max_running: no further request is started while so many streams run.

    Yields:
        (index of the request, its event). Requests end in the order in which they finish.
    """
    waiting = iter(enumerate(starts))
    pending = next(waiting, None)
    with closing(Runs[int]()) as runs:
        while runs or pending:
            while pending and runs.may_fit and batch.num_running < max_running:
                index, start = pending
                if (events := runs.start(index, start())) is None:
                    break
                pending = next(waiting, None)
                yield from ((index, event) for event in events)
            if batch.num_running:
                batch.step()
            for index in runs:
                yield from ((index, event) for event in runs.advance(index))


def _is_over(events: Sequence[Event]) -> bool:
    return bool(events) and isinstance(events[-1], Answered)


def _until_step(run: Run) -> Sequence[Event]:
    """A run's events until it wants a step, or to its end."""
    events: list[Event] = []
    for event in run:
        if isinstance(event, Step):
            break
        events.append(event)
    return events

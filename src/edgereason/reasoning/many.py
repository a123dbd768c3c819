"""Many requests in one batch: room is made for them, they run, and their responses come as they end.

::

    requests ─ a context as large as they need, and as the machine bears ─ drive_many ─→ (index, response) …
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from typing import Final

from edgereason.core.machine import memory_bytes
from edgereason.core.types import Request, Response
from edgereason.engine.base import MAX_SEQUENCES
from edgereason.errors import ContextOverflow
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.events import Answered
from edgereason.reasoning.model import Model
from edgereason.reasoning.plan import NO_ROOM, Room
from edgereason.reasoning.runs import Run, drive_many

_MEMORY_SHARE: Final = 0.4
"""Most of the usable memory that the context takes; fewer requests run at a time then."""

_AHEAD: Final = 2
"""With several streams a request, so many times the requests that fill the batch have room: the streams of
the next ones run beside the last of those before."""


def answer_many(
    model: Model,
    requests: Sequence[Request],
    *,
    max_running: int,
    batch: Batch | None = None,
    start: Callable[[int, Batch], Run] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[tuple[int, Response], None, None]:
    """Answers many requests, as many at a time as there is room for; seconds count from a request's start.

    Args:
        model: answers; nobody else may use it meanwhile.
        requests: in the order in which they are started; none is fine.
        max_running: no further request is started while so many streams run.
        batch: of the model's engine; one of its own without it.
        start: makes the run of the request with this index, where it is not `Pipeline.run`.
        should_stop: asked between steps; once true, what runs is dropped and the iteration ends.

    Yields:
        (index of the request, its response), in the order in which they end.

    Raises:
        ContextOverflow: a request does not fit; nothing was generated then.
        RequestError: a setting is out of range; nothing was generated then.
    """
    if not requests:
        return
    batch = batch or Batch(model.engine)
    streams = max(request.streams for request in requests)
    most = max_running if streams == 1 else _AHEAD * -(-max_running // streams)
    make_room(model, [model.pipeline.room(request) for request in requests], most)
    if start is None:
        starts = [partial(model.pipeline.run, request, batch) for request in requests]
    else:
        starts = [partial(start, index, batch) for index in range(len(requests))]
    with closing(drive_many(starts, batch, max_running=max_running)) as events:
        for index, event in events:
            if should_stop():
                return
            if isinstance(event, Answered):
                yield index, event.response


def make_room(model: Model, rooms: Sequence[Room], most: int, spare: Room = NO_ROOM) -> None:
    """Makes the context as large as the dearest requests that run at a time need, if the memory allows.

    Args:
        model: nobody uses it now.
        rooms: of each request (`Pipeline.room`).
        most: requests that run at a time.
        spare: what is good to have beside them.

    Raises:
        ContextOverflow: a request does not fit.
    """
    dearest, engine = sorted(rooms, reverse=True), model.engine
    bearable = int(_MEMORY_SHARE * (memory_bytes() or sys.maxsize)) // model.info.kv_bytes_per_cell
    cells = max(dearest[0].cells, min(spare.cells + sum(room.cells for room in dearest[:most]), bearable))
    sequences = min(MAX_SEQUENCES - 1, spare.sequences + sum(room.sequences for room in dearest[:most]))
    longest = max(room.longest for room in rooms)
    if not engine.shares_cells:
        sequences = max(dearest[0].sequences, min(sequences, bearable // longest))
    try:
        engine.reserve(cells=cells, sequences=sequences, longest=longest).close()
    except ContextOverflow:  # a context of fixed size: what fits runs, unless not even one would
        engine.reserve(cells=dearest[0].cells, sequences=sequences, longest=longest).close()

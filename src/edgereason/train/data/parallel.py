"""Work on the chunks of a data set, shared out to processes, its results in the chunks' order.

::

    chunks ─┬─ process ─┐
            ├─ process ─┼─→ results, in order; two chunks a process are under way at most
            └─ process ─┘

What fits in one chunk is done here: starting processes takes seconds. Processes begin anew (`spawn`), so that
a script that trains needs the usual `if __name__ == "__main__":`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from itertools import chain, islice
from typing import Any, Final, TypeVar

from edgereason.data.rows import Chunk, RowStream
from edgereason.errors import TrainingError
from edgereason.records.context import RunContext

C = TypeVar("C")
R = TypeVar("R")

_AHEAD: Final = 2
"""Chunks under way for each process: one that it works on, and the next."""

_work: Callable[[Any], Any]


class Stopped(Exception):
    """Reading was stopped."""


def each_row(work: Callable[[Chunk], list[R]], rows: RowStream, context: RunContext) -> Iterator[R]:
    """What `work` makes of every row of a data set.

    Args:
        work: of a chunk's rows; can be pickled, and is once for each process.
        rows: the data set.
        context: asked after every chunk whether to stop; has as many processes as threads.

    Raises:
        Stopped: the context said so.
        ConfigError: the source breaks off.
        TrainingError: a process ended.
    """
    shares: deque[float | None] = deque()

    def chunks() -> Iterator[Chunk]:
        for chunk in rows.chunks():
            shares.append(chunk.share)
            yield chunk

    done = 0
    with closing(in_order(work, chunks(), num_processes=context.num_threads)) as results:
        for of_chunk in results:
            if context.should_stop():
                raise Stopped
            yield from of_chunk
            done += len(of_chunk)
            share = shares.popleft()
            context.progress("rows", done, round(done / share) if share else done)


def in_order(work: Callable[[C], R], chunks: Iterable[C], *, num_processes: int) -> Generator[R, None, None]:
    """What `work` makes of each chunk.

    Args:
        work: can be pickled, and is once for each process.
        chunks: as many are read ahead as are under way.
        num_processes: that share the work; with 1, or for one chunk, it is done in this process.

    Raises:
        TrainingError: a process ended.
    """
    left = iter(chunks)
    first = list(islice(left, 2))
    every = chain(first, left)
    if num_processes == 1 or len(first) < 2:
        yield from map(work, every)
        return
    pool = ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), _begin, (work,))
    under_way: deque[Future[R]] = deque()
    try:
        for chunk in every:
            under_way.append(pool.submit(_do, chunk))
            if len(under_way) > _AHEAD * num_processes:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool as error:
        raise TrainingError(
            "a process that reads data ended: give it more memory or fewer --threads, and begin a script "
            "of your own with `if __name__ == '__main__':`"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Killed, a parent leaves its processes waiting for work."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _do(chunk: Any) -> Any:
    return _work(chunk)

"""Work on chunks in several processes: order, how much is under way, and what happens when one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from edgereason.data.rows import Chunk, RowStream
from edgereason.errors import TrainingError
from edgereason.records.context import RunContext
from edgereason.train.data.parallel import Stopped, each_row, in_order


def squared_slowly(number: int) -> int:
    time.sleep(0.05 if number % 3 == 0 else 0.0)
    return number * number


def end_at_seven(number: int) -> int:
    if number == 7:
        os._exit(3)
    return number


def numbers(chunk: Chunk) -> list[int]:
    return [number for number, _ in chunk.records]


def rows(*sizes: int) -> RowStream:
    chunks = [
        Chunk("x", tuple((n, {}) for n in range(size)), sum(sizes[: place + 1]) / sum(sizes))
        for place, size in enumerate(sizes)
    ]
    return RowStream(name="x", sha256=None, revision=None, chunks=lambda: iter(chunks))


def test_results_come_in_the_order_of_the_chunks_and_few_are_read_ahead() -> None:
    taken = 0

    def chunks():
        nonlocal taken
        for number in range(40):
            taken += 1
            yield number

    with closing(in_order(squared_slowly, chunks(), num_processes=2)) as results:
        found = []
        for done, result in enumerate(results, 1):
            found.append(result)
            assert taken <= done + 2 * 2  # two for each process
    assert found == [number * number for number in range(40)]


def test_a_single_chunk_is_worked_on_here() -> None:
    assert list(in_order(lambda _: os.getpid(), ["only"], num_processes=2)) == [os.getpid()]
    assert list(in_order(lambda _: os.getpid(), ["a", "b"], num_processes=1)) == [os.getpid()] * 2


def test_a_process_that_ends_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(TrainingError, match="a process that reads data ended: give it more memory"):
        list(in_order(end_at_seven, range(20), num_processes=2))


def test_progress_is_that_of_rows_and_ends_with_their_number() -> None:
    told = []
    context = RunContext(threads=1, progress=lambda _, done, total, *more: told.append((done, total)))
    assert list(each_row(numbers, rows(2, 1, 2), context)) == [0, 1, 0, 0, 1]
    assert told == [(2, 5), (3, 5), (5, 5)]


def test_it_is_asked_after_every_chunk_whether_to_stop() -> None:
    answers = iter([False, True])
    found = []
    with pytest.raises(Stopped):
        for number in each_row(
            numbers, rows(2, 1, 2), RunContext(threads=1, should_stop=lambda: next(answers))
        ):
            found.append(number)
    assert found == [0, 1]


SCRIPT = """
import sys, time
from pathlib import Path
from edgereason.train.data.parallel import in_order

def work(number):
    import os
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    list(in_order(work, range(9), num_processes=2))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="asks by signals")
def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (folder := tmp_path / "pids").mkdir()
    parent = subprocess.Popen([sys.executable, tmp_path / "script.py", folder])
    until(lambda: len(list(folder.iterdir())) == 2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not any(is_alive(int(path.name)) for path in folder.iterdir()))


def until(is_so) -> None:
    end_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.is_file() and "\nState:\tZ" in status.read_text())

"""Runs something in a process of its own and says how it ended: code or signal, seconds, memory, output.

::

    run_forked(act) → fork ─ limits, own output files ─ act() ─ exit code      → Ending
                       └ SIGKILL: behind so many seconds, or at its n-th change of a file

A fork starts with everything that its parent has imported, so a thousand processes don't cost a thousand
imports of torch. What forks must not have run native threads before; see `__main__.py`.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MEMORY_BYTES: Final = 4 << 30
"""More than this is a violation."""
LIMIT_S: Final = 20.0
"""Longer than this is a violation, where a case is to be short."""

_ADDRESSES_BYTES: Final = 24 << 30
"""Where the system ends a process, to protect the machine; addresses, not memory."""
_PYTHON_ERROR: Final = 99
_TICK_S: Final = 0.05
_CHANGING: Final = frozenset(
    {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
)
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """When a process kills itself or is killed, always by SIGKILL.

    Attributes:
        after_s: seconds from its start; None if it dies at a change.
        at_change: number of the change of a file, from 1, before which it dies.
        is_torn: whether it dies behind an opening instead, so that a new file is there and empty.
    """

    after_s: float | None = None
    at_change: int | None = None
    is_torn: bool = False


NO_KILL: Final = Kill()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a process ended.

    Attributes:
        code: its exit code; None if a signal ended it.
        signal: name of the signal.
        is_late: it was ended because it took longer than its limit.
        peak_bytes: most memory that was resident.
        crowding: how many times longer than on a quiet machine it may have taken.
        changes: changes of files below the watched folder, of a process that was not killed.
    """

    code: int | None
    signal: str | None
    is_late: bool
    seconds: float
    peak_bytes: int
    crowding: float
    changes: int
    out: str
    err: str

    @property
    def is_killed(self) -> bool:
        """Whether our SIGKILL ended it."""
        return self.signal == "SIGKILL" and not self.is_late

    def faults(self, *, limit_s: float | None = LIMIT_S) -> list[str]:
        """What no process may do, whatever it is given."""
        found = []
        if self.is_late or (limit_s is not None and self.seconds > limit_s * self.crowding):
            found.append(f"took {self.seconds:.1f} s")
        elif self.signal:
            found.append(f"ended by {self.signal}")
        if self.peak_bytes > MEMORY_BYTES:
            found.append(f"took {self.peak_bytes / 1e9:.1f} GB")
        if self.code == _PYTHON_ERROR or "Traceback (most recent call last)" in self.err:
            lines = self.err.strip().splitlines()
            found.append(f"traceback: {lines[-1][:200] if lines else ''}")
        return found


def crowding() -> float:
    """How many processes want each core: 1 on a machine that has cores for all of them."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def run_forked(
    act: Callable[[], object],
    folder: Path,
    *,
    stdin: bytes = b"",
    kill: Kill = NO_KILL,
    limit_s: float = LIMIT_S,
    environment: Mapping[str, str] | None = None,
) -> Ending:
    """Carries out something in a fork of this process, in `folder`.

    Args:
        act: returns, or raises SystemExit with a code.
        folder: becomes the working directory; its parent gets files for the output. Changes below the
            parent count.
        stdin: what the process reads.
        kill: when it dies.
        limit_s: when it is ended as too late, on a machine that is not crowded.
        environment: more variables.
    """
    place = folder.parent
    place.mkdir(parents=True, exist_ok=True)
    out, err, source, counted = (place / f".{name}" for name in ("out", "err", "in", "changes"))
    source.write_bytes(stdin)
    counted.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _in_child(act, folder, (source, out, err, counted), kill, environment or {})
    crowd = crowding()
    wait_s = limit_s * crowd if kill.after_s is None else kill.after_s
    status, usage, seconds, was_killed = _wait(child, wait_s)
    with suppress(ProcessLookupError, PermissionError):  # what it started and left behind
        os.killpg(child, signal.SIGKILL)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return Ending(
        code=None if number else os.WEXITSTATUS(status),
        signal=signal.Signals(number).name if number else None,
        is_late=was_killed and kill.after_s is None,
        seconds=seconds,
        peak_bytes=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        crowding=crowd,
        changes=int(counted.read_text()) if counted.is_file() else 0,
        out=out.read_text("utf-8", "replace"),
        err=err.read_text("utf-8", "replace"),
    )


def _wait(child: int, wait_s: float) -> tuple[int, resource.struct_rusage, float, bool]:
    """Waits for a process, and kills it when the time is over; also gives the seconds that it took.

    Where the hypervisor or a signal stops the whole attack for a while, that is not the process's time.
    """
    was_killed, took_s, now_s = False, 0.0, time.monotonic()
    descriptor = os.pidfd_open(child)
    try:
        while not select.select([descriptor], [], [], min(_TICK_S, max(0.0, wait_s - took_s)))[0]:
            before_s, now_s = now_s, time.monotonic()
            took_s += min(now_s - before_s, 4 * _TICK_S)
            if took_s >= wait_s:
                was_killed = True
                os.kill(child, signal.SIGKILL)
                break
        took_s += min(time.monotonic() - now_s, 4 * _TICK_S)
    finally:
        os.close(descriptor)
    _, status, usage = os.wait4(child, 0)
    return status, usage, took_s, was_killed


def _in_child(
    act: Callable[[], object],
    folder: Path,
    files: tuple[Path, Path, Path, Path],
    kill: Kill,
    environment: Mapping[str, str],
) -> None:
    """The child's whole life."""
    code = _PYTHON_ERROR
    changes: _Changes | None = None
    try:
        os.setsid()
        source, out, err, _ = files
        for number, (path, flags) in enumerate(
            [(source, os.O_RDONLY), *((p, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for p in (out, err))]
        ):
            os.dup2(os.open(path, flags, 0o644), number)
        os.environ.update(environment)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES_BYTES, _ADDRESSES_BYTES))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        changes = _Changes(folder.parent, kill)
        sys.addaudithook(changes)
        act()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            if changes is not None:
                changes.is_over = True
                files[3].write_text(str(changes.count))
        os._exit(code)


class _Changes:
    """An audit hook that counts the changes of files below a folder, and ends the process at one of them."""

    def __init__(self, below: Path, kill: Kill) -> None:
        self._below = str(below) + os.sep
        self._kill = kill
        self.count = 0
        self.is_over = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.is_over or not self._is_change(event, arguments):
            return
        self.count += 1
        if self.count == self._kill.at_change:
            if event == "open" and self._kill.is_torn:
                self.is_over = True  # the next line is seen by this hook, too
                path, _, flags = arguments
                assert isinstance(flags, int)
                os.open(str(path), flags, 0o644)  # its own flags: what is opened to append to keeps its bytes
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_change(self, event: str, arguments: tuple[object, ...]) -> bool:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITES:
                return False
        elif event in _CHANGING:
            path = arguments[0]
        else:
            return False
        if not isinstance(path, str | bytes | os.PathLike):
            return event == "os.truncate"  # of a descriptor
        return os.path.abspath(os.fsdecode(path)).startswith(self._below)  # noqa: PTH100 (no Path in a hook)

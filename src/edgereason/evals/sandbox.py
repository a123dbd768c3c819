"""Runs a program that a model wrote in a process that can do little, and says whether it ran to its end.

::

    parent ─ source, limits, nonce ─→ child: network, limits, boundary, audit hook ─→ program ─→ nonce │ error
       │  ←──────── where the child waits, before the program and behind it ────────┘
       └─ kills the child's whole group at the end, at the wall limit and when interrupted

A program has passed when the child sends back the nonce, which it does only after the last line of the
program, its tests included, was run: `sys.exit(0)` and `os._exit(0)` before that are failures.

`boundary` names what holds a program, joined by "+":

- ``landlock`` and ``seccomp`` (Linux): the kernel refuses files outside of the folder, except reading those
  of Python, and all system calls that reach beyond the process; see `edgereason.evals.boundary`.
- ``stack`` (Linux): the child waits twice, and both times its stack is equally deep. A program that finds the
  nonce and sends it waits deeper, and has not passed.
- ``guard``: where neither of the first two can be had, limits against accidents and simple mischief, no more.

The limits and Python's audit hook hold everywhere. The kernel limits CPU, memory, the size of a file, open
files and, for all users but root, processes; on Linux, where it lets us, it also takes the network away. The
hook refuses sockets, processes, signals, foreign functions and changes to files outside of the folder. It
lives in the interpreter of the program, which can get around it.

What remains: the number of files is not limited, macOS does not enforce the limit on memory, and a program
may give its tests objects that equal everything. One that gets native code to run may forge its own end, and
from Python 3.13 on also one that writes to the variables of this module's frames. Against faults of the
kernel only a virtual machine helps.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import marshal
import math
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final

from edgereason.errors import ConfigError
from edgereason.evals import boundary as walls
from edgereason.evals.boundary import enter


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may use.

    Attributes:
        cpu_s: processor time; the kernel counts whole seconds, so it is rounded up.
        wall_s: time on the clock, the start of Python included. It is there for programs that wait; how fast
            one runs is for `cpu_s` to limit, which does not depend on who else uses the machine.
        memory_bytes: address space, Python's own included (about 30 MB). Not enforced on macOS.
        file_bytes: size of any one file.
        num_open_files: at a time, Python's own included.
    """

    cpu_s: float = 10
    wall_s: float = 120
    memory_bytes: int = 2**30
    file_bytes: int = 2**20
    num_open_files: int = 64

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (0 < value < math.inf):
                raise ConfigError(f"a program's limit {name} is {value}; expected a number above 0")


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a program ended.

    Attributes:
        passed: it ran to its end.
        error: why it did not, in a line; None if it passed.
    """

    passed: bool
    error: str | None


DEFAULT_LIMITS: Final = Limits()
_STARTED: Final = "started "
_NUM_REPORT_BYTES: Final = 4096
_PLATFORMS: Final = ("linux", "darwin")
_READ: Final = {"x86_64": "0", "aarch64": "63"}
"""The number of the system call by which the child waits."""
_LOOK_S: Final = 0.0005
_FIRST_LOOK_S: Final = 10
_LISTEN_S: Final = 0.05
_MAY_ENTER: Final = True
"""False leaves the guard alone, for tests of it."""


def run_program(source: str, limits: Limits = DEFAULT_LIMITS) -> RunOutcome:
    """Run a Python program, alone, in a folder of its own that is deleted afterwards.

    It is a module whose name is not ``__main__``, as in the official scorers, so code under that guard does
    not run. It has the standard library without ``ctypes``, one process and one thread, empty standard input,
    nowhere to print to, and hashes that are the same in every run.

    Args:
        source: the program, tests included.
        limits: what it may use.

    Raises:
        ConfigError: this is neither Linux nor macOS, or the child could not be started under these limits.
    """
    return _run(source, limits)[0]


@cache
def boundary() -> str:
    """What holds programs on this machine, such as "landlock+seccomp+stack" or "guard"; see the module.

    Raises:
        ConfigError: programs can't be run here.
    """
    return _run("", DEFAULT_LIMITS)[1]


def _run(source: str, limits: Limits) -> tuple[RunOutcome, str]:
    """How a program ended, and what held it."""
    if sys.platform not in _PLATFORMS:
        raise ConfigError(
            f"programs are run on Linux and macOS only, and this is {sys.platform}: evaluate there, or "
            "leave out the tasks that run code"
        )
    nonce = secrets.token_hex(16)
    with (
        _folder() as folder,
        # A file, for a pipe would block us if the child never read it. It has no name to find it by.
        tempfile.TemporaryFile() as stdin,
        _pipe() as gate,
    ):
        orders = {"source": source, "limits": asdict(limits), "nonce": nonce, "gate": gate[0]}
        orders["may_enter"] = _MAY_ENTER
        stdin.write(_CHILD)
        stdin.write(json.dumps(orders).encode())
        stdin.seek(0)
        end = _supervise(folder, stdin.fileno(), gate, nonce, limits.wall_s)
    first, newline, said = end.report.partition("\n")
    if not (newline and first.startswith(_STARTED)) and not end.is_late and end.code != -signal.SIGALRM:
        why = _last_line(end.report) or _ending(end.code, limits)
        raise ConfigError(
            f"the process for a program did not start: {why}; "
            "raise its limits, or check that this user can run and read Python's files"
        )
    held = first.removeprefix(_STARTED) + ("" if end.depth_before is None else "+stack")
    if said == nonce:
        has_ended = end.depth_after == end.depth_before
        return RunOutcome(has_ended, None if has_ended else "said that it had ended before it had"), held
    if end.is_late or end.code == -signal.SIGALRM:
        return RunOutcome(False, f"stopped at the limit of {limits.wall_s:g} s"), held
    return RunOutcome(False, said or _ending(end.code, limits)), held


@dataclass(slots=True)
class _End:
    """How a child ended: its exit code (negative: a signal), what it reported, where it waited.

    A depth is the address of the stack at which it waited before the program, and behind it; None where it
    did not, or where the kernel does not tell.
    """

    code: int = 0
    report: str = ""
    is_late: bool = False
    depth_before: int | None = None
    depth_after: int | None = None


def _supervise(folder: str, stdin: int, gate: tuple[int, int], nonce: str, wall_s: float) -> _End:
    deadline_s = time.monotonic() + wall_s
    end = _End()
    with subprocess.Popen(
        # -P and -s: imports come from the standard library alone; -S: no site packages; -B: no .pyc files.
        [sys.executable, "-P", "-s", "-S", "-B", "-c", _BOOTSTRAP],
        cwd=folder,
        env={"PYTHONHASHSEED": "0", "TMPDIR": folder},
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=gate[:1],
        start_new_session=True,
    ) as child:
        try:
            heard = _listen(child, b"", b"\n", deadline_s)
            end.depth_before = _depth(child, gate[0], min(deadline_s, time.monotonic() + _FIRST_LOOK_S))
            os.write(gate[1], b".")
            heard = _listen(child, heard, nonce.encode(), deadline_s)
            if heard.endswith(nonce.encode()):
                if end.depth_before is not None:
                    end.depth_after = _depth(child, gate[0], deadline_s)
            else:
                child.wait(max(0.0, deadline_s - time.monotonic()))
            end.report = heard.decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            end.is_late = True
        finally:  # also when interrupted: in its own session, the child does not get the terminal's Ctrl-C
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            end.code = child.wait()  # here, for when interrupted Popen itself would leave it a zombie
    return end


def _listen(child: subprocess.Popen[bytes], heard: bytes, until: bytes, deadline_s: float) -> bytes:
    """What a child has reported: to the word it is waited for, to its end, or as much as a report may be."""
    assert child.stderr is not None
    poll = select.poll()
    poll.register(child.stderr, select.POLLIN)
    while not heard.endswith(until) and (room := _NUM_REPORT_BYTES - len(heard)) > 0:
        left_s = deadline_s - time.monotonic()
        is_over = left_s <= 0 or child.poll() is not None
        # If anything that got away still holds the other end, there is no end of file to wait for.
        if poll.poll(0 if is_over else math.ceil(1000 * min(left_s, _LISTEN_S))):
            if not (more := os.read(child.stderr.fileno(), room)):
                break
            heard += more
        elif is_over:
            break
    return heard


def _depth(child: subprocess.Popen[bytes], gate: int, deadline_s: float) -> int | None:
    """The address of a child's stack when it waits at the gate; None if it never does, or none is told."""
    number = _READ.get(os.uname().machine) if sys.platform == "linux" and sys.maxsize > 2**32 else None
    while number and child.poll() is None and time.monotonic() < deadline_s:
        try:
            words = Path(f"/proc/{child.pid}/syscall").read_text().split()
        except OSError:
            break
        # Number, six arguments, stack, program counter; other text if it runs.
        if len(words) == 9 and words[0] == number and int(words[1], 16) == gate:
            return int(words[7], 16)
        time.sleep(_LOOK_S)
    return None


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="program-")
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            _remove(Path(folder))


def _remove(folder: Path) -> None:
    """Delete a folder whose folders may lie deeper than Python's stack, and than a path may be long.

    What lies in a folder is moved up before the folder is deleted, so no path has more than two names.
    """

    def is_folder(path: Path) -> bool:
        return path.is_dir() and not path.is_symlink()

    names = (secrets.token_hex(16) for _ in count())
    while entries := list(folder.iterdir()):
        for entry in entries:
            if not is_folder(entry):
                entry.unlink()
                continue
            entry.chmod(0o700)
            for child in list(entry.iterdir()):
                if is_folder(child):
                    child.chmod(0o700)  # for its entry ".." changes
                    child.rename(folder / next(names))
                else:
                    child.unlink()
            entry.rmdir()
    folder.rmdir()


def _ending(code: int, limits: Limits) -> str:
    """What an exit code says."""
    if code == -signal.SIGXCPU:
        return f"stopped at the limit of {limits.cpu_s:g} s of processor time"
    if code < 0:
        return f"killed by signal {-code} ({signal.strsignal(-code)})"
    return f"exited with code {code} before its end"


def _last_line(report: str) -> str:
    return report.strip().rpartition("\n")[2]


# What follows runs in the child, which gets the source of these functions: they stand by themselves.


def _child_main() -> None:
    """Read the orders, give everything up, run the program, say how it ended."""
    import functools
    import json
    import os
    import sys
    import types

    orders = json.load(sys.stdin.buffer)
    # Until now, what went wrong was reported by Python itself, on standard error.
    report, nowhere = os.dup(2), os.open(os.devnull, os.O_RDWR)
    # The program may replace what these names mean elsewhere. All are C functions: what they call in Python
    # runs deeper in the stack than this frame does, which a Python function called from here would not.
    read, write, leave, run, any_error = os.read, os.write, os._exit, exec, BaseException
    tell = functools.partial(_child_tell, write, report)
    gate = orders["gate"]
    _child_leave_network()
    _child_limit(orders["limits"])
    held = enter(os.path.realpath(".")) if orders["may_enter"] else []
    # In a user namespace of its own root has no privileges left, and may not be able to read this any more.
    os.close(os.open(os.__file__, os.O_RDONLY))
    _child_refuse()
    program = types.ModuleType("program")
    sys.modules["program"] = program
    for stream in (0, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    write(report, f"started {'+'.join(held) or 'guard'}\n".encode())
    read(gate, 1)  # the parent looks how deep the stack is
    try:
        run(compile(orders["source"], "<program>", "exec", dont_inherit=True), program.__dict__)
    except any_error as error:
        try:
            tell(error)
        finally:  # no handler of a signal can lead past this
            leave(0)
    else:  # nothing leads here but the end of the program
        write(report, orders["nonce"].encode())
        read(gate, 1)  # in the same frame, so as deep as before; here the parent kills us


def _child_tell(write: Any, report: int, error: BaseException) -> None:
    """Say in a line how the program failed."""
    said = type(error).__name__
    with contextlib.suppress(BaseException):
        said = f"{said}: {' '.join(str(error).split())}"[:400].removesuffix(": ")
    write(report, said.encode("utf-8", "replace"))


def _child_leave_network() -> None:
    """Into a user and a network namespace without interfaces, where the kernel allows it."""
    import sys

    if sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER | CLONE_NEWNET


def _child_limit(limits: dict[str, Any]) -> None:
    import math
    import resource
    import signal
    import sys

    def limit(what: int, value: int, grace: int = 0) -> None:
        _, hard = resource.getrlimit(what)
        highest = value + grace if hard == resource.RLIM_INFINITY else min(value + grace, hard)
        resource.setrlimit(what, (min(value, highest), highest))

    # At the soft limit comes SIGXCPU, which says why; a program that ignores it is killed a second later.
    limit(resource.RLIMIT_CPU, math.ceil(limits["cpu_s"]), grace=1)
    limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    limit(resource.RLIMIT_NOFILE, limits["num_open_files"])
    limit(resource.RLIMIT_CORE, 0)
    # The kernel counts all processes (on Linux also threads) of a user, so the one useful limit is to
    # start none. It does not apply to root: for root there are only the refusals below.
    limit(resource.RLIMIT_NPROC, 0)
    if sys.platform == "linux":  # macOS may refuse any value, and enforces none
        limit(resource.RLIMIT_AS, limits["memory_bytes"])
    # The parent keeps the wall limit; this ends a program whose parent was killed.
    signal.setitimer(signal.ITIMER_REAL, limits["wall_s"])


def _child_refuse() -> None:
    """From here on, what does not concern the folder or this process alone is a PermissionError."""
    import _posixsubprocess
    import _thread
    import os
    import posix
    import signal
    import sys

    refused = (
        "_thread.start_", "ctypes.", "gc.get_", "os.exec", "os.fork", "os.kill", "os.link", "os.posix_spawn",
        "os.spawn", "os.symlink", "os.system", "pty.", "resource.", "signal.pthread_kill", "socket.",
        "subprocess.", "sys.setprofile", "sys.settrace",
    )  # fmt: skip
    # What reaches memory or has no hook, and modules that would come back without the refusals below.
    closed = (
        "_ctypes", "_interpreters", "_posixsubprocess", "_signal", "_testcapi", "_testinternalcapi",
        "_thread", "_xxsubinterpreters", "ctypes", "posix",
    )  # fmt: skip
    for name in [one for one in sys.modules if one.partition(".")[0] in ("_ctypes", "ctypes")]:
        del sys.modules[name]
    num_paths = {"os.rename": 2} | dict.fromkeys(
        ("os.chflags", "os.chmod", "os.chown", "os.mkdir", "os.remove", "os.removexattr", "os.rmdir",
         "os.setxattr", "os.truncate", "os.utime", "shutil.rmtree", "sqlite3.connect"), 1
    )  # fmt: skip
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    fsdecode, realpath = os.fsdecode, os.path.realpath
    folder, devnull = realpath("."), os.devnull
    # The program may replace what is built in, and a string of a class of its own may lie.
    is_a, some, exact, refusal = isinstance, any, str.__add__, PermissionError

    def is_outside(path: Any) -> bool:
        if is_a(path, int):  # a file that was looked at when it was opened
            return False
        named = exact(fsdecode(path), "")
        real = realpath(named)
        return (real not in (folder, devnull) and not real.startswith(f"{folder}/")) or named[:5] == "file:"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(refused):
            raise refusal(f"{event} is not allowed here")
        if event == "import":
            name = exact(arguments[0], "")
            if name in closed:
                raise refusal(f"import {name} is not allowed here")
            return
        if event == "open":
            path, mode, flags = arguments
            # No mode: os.open, which also opens folders. The paths of later calls may be relative to
            # such a folder, which their events don't resolve, so none outside may be opened at all.
            is_refused = (mode is None or flags & writing) and is_outside(path)
        else:
            is_refused = some(is_outside(path) for path in arguments[: num_paths.get(event, 0)])
        if is_refused:
            raise refusal(f"{event} is not allowed here")

    def refuse(*_: Any, **__: Any) -> None:
        raise refusal("threads, processes, signals and special files are not allowed here")

    # These have no audit event, or have one only in later versions of Python.
    for module, names in {
        _posixsubprocess: ("fork_exec",),
        sys.modules["_signal"]: ("pidfd_send_signal",),
        signal: ("pidfd_send_signal",),
        _thread: ("start_new_thread", "start_new", "start_joinable_thread"),
        os: ("mkfifo", "mknod"),
        posix: ("mkfifo", "mknod"),
    }.items():
        for name in names:
            if hasattr(module, name):
                setattr(module, name, refuse)
    sys.addaudithook(hook)


_SOURCE: Final = "\n".join(
    [
        inspect.getsource(walls),
        inspect.getsource(_child_leave_network),
        inspect.getsource(_child_limit),
        inspect.getsource(_child_refuse),
        inspect.getsource(_child_tell),
        inspect.getsource(_child_main),
        "_child_main()",
    ]
)
# Compiled once, here: the child would take longer over this than over all the rest of its start.
_CHILD: Final = marshal.dumps(compile(_SOURCE, "<sandbox>", "exec", dont_inherit=True))
_BOOTSTRAP: Final = "import marshal, sys; exec(marshal.load(sys.stdin.buffer))"

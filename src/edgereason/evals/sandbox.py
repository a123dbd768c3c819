"""Runs a program that a model wrote in a process that can do little, and says whether it ran to its end.

::

    parent ─ source, limits, nonce ─→ child: own network, limits, audit hook ─→ program ─→ nonce │ error
       └─ kills the child's whole group at the end, at the wall limit and when interrupted

A program has passed when the child sends back the nonce, which it does only after the last line of the
program, its tests included, was run: `sys.exit(0)` and `os._exit(0)` before that are failures.

What this is: limits against accidents and simple mischief. The kernel limits CPU, memory, the size of a
file, open files and, for all users but root, processes; on Linux, where it lets us, it also takes the network
away. Python's audit hook refuses sockets, processes, signals, foreign functions and changes to files outside
of the temporary folder; threads and forks below the hook are taken out. What this is *not*: a security
boundary. Files may be read, the number of files is not limited, macOS does not enforce the limit on memory,
and code that sets out to get around a hook that lives in its own interpreter, or to find the nonce there, can
do so. For programs that may be hostile run all of it in a container or a virtual machine.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from typing import Any, Final

from edgereason.errors import ConfigError


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
_STARTED: Final = "started\n"
_NUM_REPORT_BYTES: Final = 4096
_PLATFORMS: Final = ("linux", "darwin")


def run_program(source: str, limits: Limits = DEFAULT_LIMITS) -> RunOutcome:
    """Run a Python program, alone, in a folder of its own that is deleted afterwards.

    It is a module whose name is not ``__main__``, as in the official scorers, so code under that guard does
    not run. It has the standard library, one process and one thread, empty standard input, nowhere to
    print to, and hashes that are the same in every run.

    Args:
        source: the program, tests included.
        limits: what it may use.

    Raises:
        ConfigError: this is neither Linux nor macOS, or the child could not be started under these limits.
    """
    if sys.platform not in _PLATFORMS:
        raise ConfigError(
            f"programs are run on Linux and macOS only, and this is {sys.platform}: evaluate there, or "
            "leave out the tasks that run code"
        )
    nonce = secrets.token_hex(16)
    orders = {"source": source, "limits": asdict(limits), "nonce": nonce, "started": _STARTED}
    with (
        tempfile.TemporaryDirectory(prefix="program-", ignore_cleanup_errors=True) as folder,
        # A file, for a pipe would block us if the child never read it. It has no name to find it by.
        tempfile.TemporaryFile() as stdin,
    ):
        stdin.write(json.dumps(orders).encode())
        stdin.seek(0)
        is_late, code, report = _supervise(folder, stdin.fileno(), limits.wall_s)
    if report == _STARTED + nonce:
        return RunOutcome(True, None)
    if is_late or code == -signal.SIGALRM:
        return RunOutcome(False, f"stopped at the limit of {limits.wall_s:g} s")
    if not report.startswith(_STARTED):
        raise ConfigError(
            f"the process for a program did not start: {_last_line(report) or _ending(code, limits)}; "
            "raise its limits, or check that this user can run and read Python's files"
        )
    return RunOutcome(False, report.removeprefix(_STARTED) or _ending(code, limits))


def _supervise(folder: str, stdin: int, wall_s: float) -> tuple[bool, int, str]:
    """Whether the child had to be stopped, its exit code (negative: a signal), and what it reported."""
    with subprocess.Popen(
        # -P and -s: imports come from the standard library alone; -S: no site packages; -B: no .pyc files.
        [sys.executable, "-P", "-s", "-S", "-B", "-c", _BOOTSTRAP],
        cwd=folder,
        env={"PYTHONHASHSEED": "0", "TMPDIR": folder},
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        try:
            child.wait(wall_s)
            is_late = False
        except subprocess.TimeoutExpired:
            is_late = True
        finally:  # also when interrupted: in its own session, the child does not get the terminal's Ctrl-C
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            code = child.wait()  # here, for when interrupted Popen itself would leave it a zombie
        assert child.stderr is not None
        # A report is far smaller than a pipe's buffer, so nobody had to read along; and if anything that
        # got away still holds the other end, there is nothing to wait for.
        os.set_blocking(child.stderr.fileno(), False)
        report = child.stderr.read(_NUM_REPORT_BYTES) or b""
    return is_late, code, report.decode("utf-8", "replace")


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
    import json
    import os
    import sys
    import types

    orders = json.load(sys.stdin)
    # Until now, what went wrong was reported by Python itself, on standard error.
    report, nowhere = os.dup(2), os.open(os.devnull, os.O_RDWR)
    write, leave = os.write, os._exit  # the program may replace them
    _child_leave_network()
    _child_limit(orders["limits"])
    # In a user namespace of its own root has no privileges left, and may not be able to read this any more.
    os.close(os.open(os.__file__, os.O_RDONLY))
    _child_refuse()
    program = types.ModuleType("program")
    sys.modules["program"] = program
    write(report, orders["started"].encode())
    for stream in (0, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    try:
        exec(compile(orders["source"], "<program>", "exec", dont_inherit=True), program.__dict__)
        said = orders["nonce"]
    except BaseException as error:
        said = type(error).__name__
        with contextlib.suppress(BaseException):
            said = f"{said}: {' '.join(str(error).split())}"[:400].removesuffix(": ")
    write(report, said.encode("utf-8", "replace"))
    leave(0)


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
    import sys

    refused = (
        "_thread.start_", "ctypes.", "os.exec", "os.fork", "os.kill", "os.link", "os.posix_spawn", "os.spawn",
        "os.symlink", "os.system", "pty.", "resource.", "signal.pthread_kill", "socket.", "subprocess.",
    )  # fmt: skip
    num_paths = {"os.rename": 2} | dict.fromkeys(
        ("os.chflags", "os.chmod", "os.chown", "os.mkdir", "os.remove", "os.removexattr", "os.rmdir",
         "os.setxattr", "os.truncate", "os.utime", "shutil.rmtree", "sqlite3.connect"), 1
    )  # fmt: skip
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    fsdecode, realpath = os.fsdecode, os.path.realpath
    folder, devnull = realpath("."), os.devnull

    def is_outside(path: Any) -> bool:
        if isinstance(path, int):  # a file that was looked at when it was opened
            return False
        real = realpath(fsdecode(path))
        return real not in (folder, devnull) and not real.startswith(f"{folder}/")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            # No mode: os.open, which also opens folders. The paths of later calls may be relative to
            # such a folder, which their events don't resolve, so none outside may be opened at all.
            is_refused = bool(mode is None or flags & writing) and is_outside(path)
        else:
            paths = arguments[: num_paths.get(event, 0)]
            is_refused = event.startswith(refused) or any(is_outside(path) for path in paths)
        if is_refused:
            raise PermissionError(f"{event} is not allowed here")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("threads and processes are not allowed here")

    # These have no audit event, or have one only in later versions of Python.
    for module, names in {
        _posixsubprocess: ("fork_exec",),
        _thread: ("start_new_thread", "start_new", "start_joinable_thread"),
    }.items():
        for name in names:
            if hasattr(module, name):
                setattr(module, name, refuse)
    sys.addaudithook(hook)


_BOOTSTRAP: Final = "\n".join(
    [
        "from __future__ import annotations",
        "import contextlib",
        inspect.getsource(_child_leave_network),
        inspect.getsource(_child_limit),
        inspect.getsource(_child_refuse),
        inspect.getsource(_child_main),
        "_child_main()",
    ]
)

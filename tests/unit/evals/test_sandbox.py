"""Programs that behave, that fail, that cheat and that misbehave, each in a real process."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from edgereason.errors import ConfigError
from edgereason.evals import sandbox
from edgereason.evals.sandbox import Limits, RunOutcome, run_program

# Generous where it isn't what is tested: a shared machine may stand still for seconds.
PATIENT = Limits(cpu_s=20, wall_s=60)
HASTY = Limits(wall_s=0.5)


def can_unshare() -> bool:
    code = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x50000000))"
    return (
        sys.platform == "linux" and subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    )


@pytest.fixture
def children(monkeypatch):
    """The processes that the sandbox starts, recorded."""
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            started.append(self)

    monkeypatch.setattr(sandbox.subprocess, "Popen", Recorded)
    return started


def is_gone(child: subprocess.Popen) -> bool:
    """Whether the process was reaped and nobody is left in its group."""
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return child.returncode is not None
    return False


def test_a_program_that_runs_to_its_end_passes():
    program = """
from __future__ import annotations
import collections, dataclasses, random, tempfile

@dataclasses.dataclass
class Point:  # dataclasses look their module up
    x: int

with tempfile.TemporaryDirectory() as folder:
    open(f"{folder}/é", "w").write("é")
open("here", "w").write("ours")
assert open("here").read() == "ours"
assert Point(1) == Point(1)
print("said to nobody", file=open("/dev/null", "w"))
if __name__ == "__main__":
    raise AssertionError("as in the official scorers, this is not the main module")
"""
    assert run_program(program, PATIENT) == RunOutcome(True, None)


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("assert 1 + 1 == 3, 'no'", "AssertionError: no"),
        ("x = (", "SyntaxError: '(' was never closed (<program>, line 1)"),
        ("input()", "EOFError: EOF when reading a line"),
        ("import sys; sys.exit(0)\nassert False", "SystemExit: 0"),
        ("import os; os._exit(0)\nassert False", "exited with code 0 before its end"),
        ("import os; os.abort()", f"killed by signal 6 ({signal.strsignal(6)})"),
        ("class E(Exception):\n    def __str__(self): raise SystemExit\nraise E", "E"),
    ],
    ids=["assert", "syntax", "input", "exit", "hard exit", "abort", "error without text"],
)
def test_a_program_that_does_not_reach_its_end_fails_and_says_why(program, error):
    assert run_program(program, PATIENT) == RunOutcome(False, error)


def test_an_endless_loop_is_stopped_by_the_limit_on_processor_time():
    program = "try:\n    while True: pass\nexcept BaseException: pass"
    assert run_program(program, Limits(cpu_s=1, wall_s=60)) == RunOutcome(
        False, "stopped at the limit of 1 s of processor time"
    )


def test_a_sleeping_program_is_stopped_by_the_limit_on_wall_time(children):
    outcome = run_program("import time; time.sleep(600)", HASTY)
    assert outcome == RunOutcome(False, "stopped at the limit of 0.5 s")
    assert is_gone(children[0])


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not enforce the limit on memory")
def test_a_program_that_wants_more_memory_than_it_may_have_is_stopped():
    program = "x = bytearray({})"
    limits = Limits(memory_bytes=2**26)
    assert run_program(program.format(2**26), limits) == RunOutcome(False, "MemoryError")
    assert run_program(program.format(2**20), limits).passed


def test_no_file_grows_beyond_its_limit():
    limits = Limits(file_bytes=1000)
    program = "with open('a', 'wb') as file: file.write(bytes({}))"
    assert run_program(program.format(1000), limits) == RunOutcome(True, None)
    assert "File too large" in (run_program(program.format(1001), limits).error or "")


def test_the_limits_can_not_be_raised_and_none_is_left_out():
    program = """
import resource as r
got = [r.getrlimit(w) for w in (r.RLIMIT_CPU, r.RLIMIT_FSIZE, r.RLIMIT_NOFILE, r.RLIMIT_CORE, r.RLIMIT_NPROC)]
assert got == [(3, 4), (1000, 1000), (20, 20), (0, 0), (0, 0)], got
r.setrlimit(r.RLIMIT_CPU, (4, 4))
"""
    outcome = run_program(program, Limits(cpu_s=2.5, file_bytes=1000, num_open_files=20))
    assert outcome == RunOutcome(False, "PermissionError: resource.setrlimit is not allowed here")


def test_sockets_processes_threads_signals_and_foreign_functions_are_refused():
    attempts = [
        "socket.socket()",
        "socket.getaddrinfo('localhost', 80)",
        "urllib.request.urlopen('http://localhost')",
        "os.fork()",
        "os.system('true')",
        "os.popen('true')",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "subprocess.run(['true'])",
        "_posixsubprocess.fork_exec()",
        "multiprocessing.get_context('fork').Process(target=print).start()",
        "multiprocessing.get_context('spawn').Process(target=print).start()",
        "threading.Thread(target=print).start()",
        "os.kill(os.getppid(), 0)",
        "os.killpg(os.getppid(), 0)",
        "import ctypes",
        "import _ctypes",
    ]
    program = f"""
import _posixsubprocess, multiprocessing, os, socket, subprocess, threading, urllib.request
for attempt in {attempts!r}:
    try:
        exec(attempt)
    except OSError as error:  # of urllib's own kind, with the message in it
        assert "not allowed here" in str(error), (attempt, error)
    else:
        raise AssertionError(attempt)
"""
    assert run_program(program, PATIENT) == RunOutcome(True, None)


@pytest.mark.skipif(not can_unshare(), reason="the kernel gives no namespaces to this user")
def test_there_is_no_network_even_below_the_refusals(monkeypatch):
    monkeypatch.setattr(sandbox, "_MAY_ENTER", False)  # inside the boundary this can't even be read
    # Two lines of headings, then one line an interface: only the loopback, which is down.
    program = "lines = open('/proc/net/dev').readlines()\nassert len(lines) == 3 and 'lo:' in lines[2], lines"
    assert run_program(program, PATIENT) == RunOutcome(True, None)


def test_nothing_outside_of_the_folder_is_changed(tmp_path):
    # GIVEN a file of ours, and every way to a file that the standard library has
    ours = tmp_path / "folder" / "ours"
    ours.parent.mkdir()
    ours.write_text("ours")
    attempts = [
        "open(ours, 'w')",
        "open(ours, 'r+')",
        "open(ours + '2', 'x')",
        "open(ours.encode(), 'ab')",
        "open(os.path.relpath(ours), 'w')",
        "pathlib.Path(ours).write_text('theirs')",
        "os.open(ours, os.O_WRONLY)",
        "os.open(parent, os.O_RDONLY)",  # from where a file can be reached by its name alone
        "os.truncate(ours, 0)",
        "os.remove(ours)",
        "os.rename(ours, 'mine')",
        "os.rename('mine', ours)",
        "os.replace('mine', ours)",
        "os.chmod(ours, 0)",
        "os.mkdir(ours + '3')",
        "os.symlink(ours, 'link')",
        "os.link(ours, 'link')",
        "shutil.rmtree(parent)",
        "shutil.copy('mine', ours)",
    ]
    program = f"""
import os, pathlib, shutil
ours, parent = {str(ours)!r}, {str(ours.parent)!r}
open("mine", "w").write("mine")
for attempt in {attempts!r}:
    try:
        exec(attempt)
    except PermissionError as error:
        assert "not allowed here" in str(error), (attempt, error)
    else:
        raise AssertionError(attempt)
"""
    # THEN each is refused, and the file is as it was
    assert run_program(program, PATIENT) == RunOutcome(True, None)
    assert [path.name for path in ours.parent.iterdir()] == ["ours"]
    assert ours.read_text() == "ours"
    assert ours.stat().st_mode & 0o600 == 0o600


def test_a_flood_of_output_goes_nowhere():
    program = """
import os, sys
for _ in range(50):
    print("x" * 100_000)
    sys.stderr.write("x" * 100_000)
    os.write(2, b"x" * 100_000)
"""
    assert run_program(program, PATIENT) == RunOutcome(True, None)


def test_a_flood_into_every_open_file_neither_passes_nor_hangs():
    program = """
import os
for file in range(64):
    try: os.write(file, b"x" * 1_000_000)
    except OSError: pass
"""
    assert run_program(program, HASTY) == RunOutcome(False, "stopped at the limit of 0.5 s")


def test_the_temporary_folder_is_gone_whatever_was_left_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = f"""
import os
assert os.path.dirname(os.getcwd()) == {os.path.realpath(tmp_path)!r}
os.mkdir("locked")
open("locked/file", "w").close()
os.chmod("locked", 0)
"""
    assert run_program(program, PATIENT) == RunOutcome(True, None)
    assert list(tmp_path.iterdir()) == []


def test_the_program_sees_none_of_our_environment(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "secret")
    program = "import os; assert set(os.environ) <= {'PYTHONHASHSEED', 'TMPDIR', 'LC_CTYPE'}, set(os.environ)"
    assert run_program(program, PATIENT) == RunOutcome(True, None)


def test_strings_hash_the_same_in_every_run():
    errors = {run_program("assert False, hash('a')", PATIENT).error for _ in range(2)}
    assert len(errors) == 1


def test_an_interrupted_parent_leaves_no_process_and_no_folder(tmp_path, monkeypatch, children):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def interrupt_when_started():
        while not children:
            time.sleep(0.01)
        time.sleep(0.1)
        _thread.interrupt_main()

    interrupt = threading.Thread(target=interrupt_when_started)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        run_program("import time; time.sleep(600)", PATIENT)
    interrupt.join()
    assert is_gone(children[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not enforce the limit on memory")
def test_a_child_that_can_not_start_is_an_error_not_a_wrong_program():
    with pytest.raises(ConfigError, match=r"did not start: .*; raise its limits"):
        run_program("x = 1", Limits(memory_bytes=1000, wall_s=60))


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigError, match="Linux and macOS only, and this is win32"):
        run_program("x = 1")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_a_number_above_0(value):
    with pytest.raises(ConfigError, match="limit wall_s is"):
        Limits(wall_s=value)

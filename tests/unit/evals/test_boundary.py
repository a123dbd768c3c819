"""Tricks that get past a guard in the interpreter: the kernel's boundary stops each, even alone."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from edgereason.evals import boundary as walls
from edgereason.evals import sandbox
from edgereason.evals.sandbox import Limits, RunOutcome, run_program

PATIENT = Limits(cpu_s=20, wall_s=60)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the boundary is Linux's")


@pytest.fixture
def held() -> str:
    """What holds programs here; skips where that is the guard alone."""
    name = sandbox.boundary()
    if not name.startswith("landlock+seccomp"):
        pytest.skip(f"this kernel has no whole boundary: {name}")
    return name


@pytest.fixture
def peer():
    """Another process of this user."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is not the program's, with a key in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "key").write_text("secret")
    (folder / "key").chmod(0o600)
    return folder


# Each says nothing and passes when it works. OUT: the folder outside; PEER: the other process.
SPAWN = "import multiprocessing.util as u; u.spawnv_passfds(b'/bin/sh', [b'sh', b'-c', {!r}.encode()], [])"
TRICKS = {
    "named pipe": "os.mkfifo(f'{OUT}/x')",
    "named pipe in its own folder": "os.mkfifo('x')",
    "named pipe from the module below": "import posix; posix.mkfifo('x')",
    "device": "os.mknod('x', stat.S_IFCHR | 0o600, os.makedev(1, 1))",
    "block device": "os.mknod('x', stat.S_IFBLK | 0o600, os.makedev(7, 0))",
    "file by mknod": "os.mknod(f'{OUT}/x', stat.S_IFREG | 0o600)",
    "modules below put back": "del sys.modules['posix']; import posix; posix.mkfifo(f'{OUT}/x')",
    "SQLite attach": """
import sqlite3
database = sqlite3.connect(':memory:')
database.execute(f"attach '{OUT}/x' as other")
database.execute("create table other.t (a)")
""",
    "SQLite attach by URI": """
import sqlite3
database = sqlite3.connect('file:mine?mode=memory', uri=True)
database.execute(f"attach 'file:{OUT}/x?mode=rwc' as other")
database.execute("create table other.t (a)")
""",
    "SQLite vacuum": """
import sqlite3
sqlite3.connect(':memory:').execute(f"vacuum into '{OUT}/x'")
""",
    "SQLite URI": """
import sqlite3
sqlite3.connect(f'file:{OUT}/x?mode=rwc', uri=True).execute("create table t (a)")
""",
    "lying str": """
class Lie(str):
    def startswith(self, *_): return False
    def partition(self, _): return ('here', '', '')
open(Lie(f'{OUT}/x'), 'w')
""",
    "lying bytes": """
class Lie(bytes):
    def decode(self, *_): return 'here'
open(Lie(f'{OUT}/x'.encode()), 'w')
""",
    "lying path": """
class Lie:
    said = 0
    def __fspath__(self):
        self.said += 1
        return 'here' if self.said % 2 == 0 else f'{OUT}/x'
for _ in range(4):
    with contextlib.suppress(FileExistsError): os.mkdir(Lie())
assert os.path.exists(f'{OUT}/x')
""",
    "replaced isinstance": "builtins.isinstance = lambda *_: True; open(f'{OUT}/x', 'w')",
    "replaced any": "builtins.any = lambda *_: False; os.mkdir(f'{OUT}/x')",
    "replaced realpath": "os.path.abspath = lambda _: os.getcwd(); open(f'{OUT}/x', 'w')",
    "_posixsubprocess put back": "sys.modules.pop('_posixsubprocess', 0)\n" + SPAWN.format("true"),
    "child that outlives the program": "sys.modules.pop('_posixsubprocess', 0)\n"
    + SPAWN.format("exec setsid sh -c 'sleep 0.3; echo > $OUT/x; sleep 60'").replace("$OUT", "' + OUT + r'"),
    "thread put back": """
sys.modules.pop('_thread', 0)
import _thread
_thread.start_new_thread(print, ())
""",
    "pidfd_send_signal": "signal.pidfd_send_signal(os.pidfd_open(PEER), signal.SIGKILL)",
    "pidfd_send_signal put back": """
sys.modules.pop('_signal', 0)
import _signal
_signal.pidfd_send_signal(os.pidfd_open(PEER), 9)
""",
    "pidfd_open": "os.pidfd_open(PEER)",
    "signal to a pipe's owner": """
import fcntl
get, put = os.pipe()
fcntl.fcntl(get, fcntl.F_SETOWN, PEER)
fcntl.fcntl(get, 10, 9)
fcntl.fcntl(get, fcntl.F_SETFL, os.O_ASYNC)
os.write(put, b'x')
""",
    "priority of another": "os.setpriority(os.PRIO_PROCESS, PEER, 19)",
    "cores of another": "os.sched_setaffinity(PEER, {0})",
    "reading a key": "assert open(f'{OUT}/key').read() == 'secret'",
    "reading a key by descriptor": "os.read(os.open(f'{OUT}/key', os.O_RDONLY), 9)",
    "reading a key by its folder": "os.open('key', os.O_RDONLY, dir_fd=os.open(OUT, os.O_RDONLY))",
    "reading a key by mmap": """
import mmap
with open(f'{OUT}/key', 'rb') as file: mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
""",
    "reading /etc/shadow": "open('/etc/shadow').read()",
    "reading /etc/passwd": "open('/etc/passwd').read()",
    "reading the parent's environment": "open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "reading the parent's files": "os.listdir(f'/proc/{os.getppid()}/fd')",
    "listing a folder": "os.listdir(OUT)",
    "its own memory": "open('/proc/self/mem', 'rb').read(0)",
    "memory without a file": "os.memfd_create('x')",
    "socket from the module below": "import _socket; _socket.socket()",
    "pair of sockets": "import _socket; _socket.socketpair()",
    "hard link": "os.link(f'{OUT}/key', 'key')",
    "symbolic link": "os.symlink(f'{OUT}/key', 'key')",
    "session of its own": "os.setpgid(0, 0) if os.getpid() != os.getpgid(0) else os.setsid()",
    "fork": "os.fork() or os._exit(0)",
    "exec": "os.execv('/bin/true', ['true'])",
    "truncate": "os.truncate(f'{OUT}/key', 0)",
    "rename": "os.rename(f'{OUT}/key', 'key')",
    "foreign function": """
import ctypes
assert ctypes.CDLL(None).fork() >= 0
""",
    "trace": """
import ctypes
assert ctypes.CDLL(None).ptrace(16, PEER, None, None) >= 0
""",
    "network namespace": """
import ctypes
assert ctypes.CDLL(None).unshare(0x10000000) >= 0
""",
    "function by address": """
import ctypes
ctypes.memmove(id(1), id(1), 1)
assert ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.cast(ctypes.CDLL(None).vfork, ctypes.c_void_p).value)() >= 0
""",
}
PRELUDE = """
import builtins, contextlib, os, signal, stat, sys
OUT, PEER = {out!r}, {peer}
"""


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS)
def test_a_trick_changes_and_reads_nothing_outside(trick, held, outside, peer):
    outcome = run_program(PRELUDE.format(out=str(outside), peer=peer.pid) + trick, PATIENT)
    assert not outcome.passed
    assert_untouched(outside, peer, has_child="sleep" in trick)


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS)
def test_the_kernel_alone_stops_a_trick(trick, held, outside, peer, tmp_path):
    # GIVEN the boundary without the guard and without the limits
    folder = tmp_path / "own"
    folder.mkdir()
    program = f"""
{Path(walls.__file__).read_text()}
if enter({str(folder)!r}) != ["landlock", "seccomp"]:
    sys.exit("not entered")
{PRELUDE.format(out=str(outside), peer=peer.pid)}
try:
    exec({trick!r})
except BaseException:
    os._exit(3)
"""
    # THEN it ends in an error
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 3, done
    assert_untouched(outside, peer, has_child="sleep" in trick)


def assert_untouched(outside: Path, peer: subprocess.Popen[bytes], *, has_child: bool) -> None:
    if has_child:
        time.sleep(0.6)
    assert [path.name for path in outside.iterdir()] == ["key"]
    assert (outside / "key").read_text() == "secret"
    assert peer.poll() is None
    assert os.getpriority(os.PRIO_PROCESS, peer.pid) == os.getpriority(os.PRIO_PROCESS, 0)


def test_modes_owners_and_times_of_files_outside_stay(held, outside):
    key = outside / "key"
    before = key.stat()
    program = f"""
import os
class Lie(str):
    def startswith(self, *_): return False
    def partition(self, _): return ('here', '', '')
key = Lie({str(key)!r})
for call in ("chmod(key, 0o777)", "utime(key, (1, 1))", "chown(key, 1, 1)", "setxattr(key, 'user.a', b'')"):
    try: exec("os." + call)
    except OSError: pass
"""
    run_program(program, PATIENT)
    after = key.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime_ns,
    )
    assert stat.S_IMODE(after.st_mode) == 0o600
    assert os.listxattr(key) == []


def test_what_programs_need_is_there(held):
    program = """
import bisect, bz2, collections, csv, datetime, decimal, functools, hashlib, heapq, itertools, json, lzma
import math, os, pathlib, pickle, random, re, secrets, shutil, sqlite3, ssl, statistics, string, tempfile
import time, uuid
import zipfile, zlib, zoneinfo
pathlib.Path("a").write_text("a")
shutil.copy2("a", "b")
os.makedirs("c/d")
os.rename("b", "c/d/b")
assert pathlib.Path("c/d/b").read_text() == "a"
os.chmod("a", 0o700)
os.utime("a")
with tempfile.TemporaryDirectory() as folder, open(f"{folder}/x", "w+b") as file:
    file.write(b"abc"); file.truncate(1); file.seek(0)
    assert file.read() == b"a"
with zipfile.ZipFile("z", "w") as archive: archive.write("a")
database = sqlite3.connect("base")
database.execute("create table t (a)"); database.execute("insert into t values (1)"); database.commit()
assert database.execute("select a from t").fetchall() == [(1,)]
assert os.path.exists("base") and sorted(os.listdir("c")) == ["d"]
shutil.rmtree("c")
time.sleep(0.001), time.localtime(), os.urandom(4), secrets.token_hex(), uuid.uuid4(), os.getpid(), os.uname()
random.seed(1), hashlib.sha256(b"").hexdigest(), datetime.datetime.now().astimezone()
print("x", file=open("/dev/null", "w"))
"""
    assert run_program(program, PATIENT) == RunOutcome(True, None)


def test_a_container_without_the_two_falls_back_to_the_guard_and_says_so(monkeypatch):
    # GIVEN a child for which nothing can be entered
    monkeypatch.setattr(sandbox, "_MAY_ENTER", False)
    # THEN programs are run, held by the guard, and that is what stands in a record
    outcome, name = sandbox._run("open('mine', 'w').write('x')", PATIENT)
    assert outcome == RunOutcome(True, None)
    assert name.split("+")[0] == "guard"
    assert not run_program("import os; os.fork()", PATIENT).passed


# ── the nonce ────────────────────────────────────────────────────────────────────────────────────

FIND = """
import os, sys

def place():
    frame = sys._getframe()
    while "orders" not in frame.f_locals: frame = frame.f_back
    return frame

def forge(found=None):
    found = found or place().f_locals
    os.write(found["report"], found["orders"]["nonce"].encode())
    return found
"""
FORGERIES = {
    "from the frames": "forge(); os._exit(0)",
    "and hang": "forge()\nimport time; time.sleep(600)",
    "and loop": "forge()\nwhile True: pass",
    "and wait at the gate": "found = forge(); os.read(found['orders'].get('gate', 0), 1)",
    "and raise": "forge(); raise ValueError",
    "and exit": "forge(); sys.exit(0)",
    "and be killed": "forge(); os.abort()",
    "from a traceback": """
try: 1 / 0
except ZeroDivisionError as error: forge(error.__traceback__.tb_frame.f_back.f_locals); os._exit(0)
""",
    "from a generator": """
def steps():
    yield me.gi_frame.f_back.f_back
me = steps()
frame = next(me)
forge(frame.f_locals); os._exit(0)
""",
    "from all objects": """
import gc
found = [one for one in gc.get_objects() if isinstance(one, dict) and "nonce" in one]
os.write(3, found[0]["nonce"].encode()); os.write(4, found[0]["nonce"].encode()); os._exit(0)
""",
    "from the stack that inspect shows": """
import inspect
forge(inspect.stack()[-2].frame.f_locals); os._exit(0)
""",
    "in every file": """
nonce = place().f_locals["orders"]["nonce"].encode()
for file in range(64):
    try: os.write(file, nonce)
    except OSError: pass
os._exit(0)
""",
    "with a gate of its own": """
found = forge()
get, put = os.pipe()
os.dup2(get, found["orders"].get("gate", 0))
os.read(found["orders"].get("gate", 0), 1)
""",
    "in a signal's handler": """
import signal
def handler(*_):
    found = forge(); os.read(found["orders"].get("gate", 0), 1)
signal.signal(signal.SIGUSR1, handler)
signal.raise_signal(signal.SIGUSR1)
""",
    "when deleted": """
class Last:
    def __del__(self): found = forge(); os.read(found["orders"].get("gate", 0), 1)
Last()
""",
    "while the error is told": """
class Told(Exception):
    def __str__(self): found = forge(); os.read(found["orders"].get("gate", 0), 1)
raise Told
""",
    "in what tells the error": """
import contextlib
def suppress(*_): found = forge(); os.read(found["orders"].get("gate", 0), 1)
contextlib.suppress = suppress
sys.modules["__main__"].contextlib = contextlib
raise ValueError
""",
    "in what names the error": """
import builtins
def lie(*_): found = forge(); os.read(found["orders"].get("gate", 0), 1)
class Text(str):
    def split(self, *_): lie()
class Told(Exception):
    def __str__(self): return Text("x")
builtins.BaseException = ValueError
raise Told
""",
    "in a replaced type": """
import builtins
def lie(*_): found = forge(); os.read(found["orders"].get("gate", 0), 1)
builtins.type = builtins.str = lie
raise ValueError
""",
    "by errors of a handler": """
import signal, sys
def handler(*_):
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0002)
    raise SystemExit
signal.signal(signal.SIGVTALRM, handler)
import atexit
atexit.register(lambda: (forge(FOUND), os.read(FOUND["orders"].get("gate", 0), 1)))
FOUND = place().f_locals
signal.setitimer(signal.ITIMER_VIRTUAL, 0.0002)
while True: pass
""",
    "by a jump of the frame": """
frame = place()
def trace(at, event, _):
    if at is frame:
        try: at.f_lineno = at.f_lineno + 6
        except ValueError: pass
    return trace
frame.f_trace = trace
sys.settrace(trace)
raise ValueError
""",
    "from deep in the stack": """
def down(n):
    if n: sorted([1], key=lambda _: down(n - 1))
    else: found = forge(); os.read(found["orders"].get("gate", 0), 1)
down(20)
""",
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_who_sends_the_nonce_before_the_end_has_not_passed(forgery, held):
    if "stack" not in held:
        pytest.skip("this kernel does not tell where a process waits")
    outcome = run_program(f"{FIND}\n{forgery}\nassert False", Limits(cpu_s=2, wall_s=4))
    assert not outcome.passed


def test_a_forged_end_is_named(held):
    outcome = run_program(FIND + "found = forge(); os.read(found['orders']['gate'], 1)", Limits(wall_s=10))
    assert outcome == RunOutcome(False, "said that it had ended before it had")


# ── folders left behind ──────────────────────────────────────────────────────────────────────────

NESTED = {
    "deep": "for _ in range(1100): os.mkdir('d'); os.chdir('d')",
    "deeper than a path": "for _ in range(60): os.mkdir('d' * 200); os.chdir('d' * 200)",
    "with files": "for _ in range(100): open('f', 'w').close(); os.mkdir('d'); os.chdir('d')",
    "two in each": "for _ in range(60): os.mkdir('e'); os.mkdir('d'); os.chdir('d')",
    "locked": "for _ in range(100): os.mkdir('d'); os.chdir('d')\nos.chdir(HOME); os.chmod('d', 0)",
    "made without rights": "for _ in range(40): os.mkdir('d'); os.mkdir('e', 0); os.chdir('d')",
    "names as ours": "for _ in range(60): os.mkdir('0'); os.mkdir('1'); os.chdir('0')",
    "wide": "for n in range(300): os.mkdir(str(n))",
    "not UTF-8": "for _ in range(30): os.mkdir(b'\\xff'); os.chdir(b'\\xff')",
    "line ends": "for _ in range(30): os.mkdir('a\\n'); os.chdir('a\\n')",
}


@pytest.mark.parametrize("may_enter", [True, False], ids=["boundary", "guard"])
@pytest.mark.parametrize("nested", NESTED.values(), ids=NESTED)
def test_nested_folders_neither_end_the_evaluator_nor_stay(nested, may_enter, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sandbox, "_MAY_ENTER", may_enter)
    run_program(f"import os\nHOME = os.getcwd()\n{nested}", PATIENT)
    assert list(tmp_path.iterdir()) == []


def test_removing_does_not_follow_links(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    folder = tmp_path / "folder"
    (folder / "deep" / "er").mkdir(parents=True)
    for place in (folder, folder / "deep", folder / "deep" / "er"):
        (place / "link").symlink_to(kept)
        (place / "file").symlink_to(kept / "file")
        (place / "nowhere").symlink_to("nowhere")
    sandbox._remove(folder)
    assert not folder.exists()
    assert (kept / "file").read_text() == "kept"


def test_a_folder_far_deeper_than_a_path_is_removed(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    sandbox._remove(top)
    assert not top.exists()


def test_signals_to_itself_still_work(held):
    program = """
import signal
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
signal.raise_signal(signal.SIGALRM)
assert seen == [1]
"""
    assert run_program(program, PATIENT) == RunOutcome(True, None)
    assert (
        run_program("import os; os.abort()", PATIENT).error == f"killed by signal 6 ({signal.strsignal(6)})"
    )

"""What Windows does not have may be missing: every module is imported without it, and the machine described.

This stands in for Windows itself. It can't show that third-party packages work there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import edgereason

SOURCE = Path(edgereason.__file__).parent

# Third-party packages and the standard library choose their own way by `sys.platform`, so they are imported
# first, and the modules are missing for this package alone. Then everything of it is imported once more.
LIKE_WINDOWS = """
import builtins, importlib, json, os, signal, sys
from pathlib import Path

names = json.loads(sys.argv[1])
for name in names:
    importlib.import_module(name)
# Kept: llama.cpp holds pointers to callbacks of the first import.
first = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "edgereason"}

import_module = builtins.__import__
missing = set("curses fcntl grp posix pty pwd readline resource syslog termios tty".split())


def import_like_windows(name, globals=None, locals=None, fromlist=(), level=0):
    if name in missing and str((globals or {}).get("__name__")).startswith("edgereason"):
        raise ModuleNotFoundError(f"No module named {name!r}")
    return import_module(name, globals, locals, fromlist, level)


builtins.__import__ = import_like_windows
of_os = (
    "O_DIRECTORY chown fork forkpty geteuid getgid getloadavg getpgid getpriority getuid killpg mkfifo "
    "sched_getaffinity sched_setaffinity setsid sysconf uname"
)
of_signal = "ITIMER_REAL SIGALRM SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGXCPU alarm pthread_kill setitimer"
for module, gone in ((os, of_os), (signal, of_signal)):
    for name in gone.split():
        delattr(module, name)


def refuse_linux_folders(event, arguments):
    if event == "open" and str(arguments[0]).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(arguments[0])


sys.addaudithook(refuse_linux_folders)
Path.is_file = lambda path, is_file=Path.is_file: path.parts[1:2] != ("proc",) and is_file(path)
for name in names:
    importlib.import_module(name)
assert all(sys.modules[name] is not module for name, module in first.items())
"""

DESCRIBE = """
from edgereason.core.machine import memory_bytes, usable_cores
from edgereason.records.machine import describe
from edgereason.records.measure import CpuWatch
from edgereason.records.folder import about, peak_rss_bytes

about(None)
print(json.dumps([describe(3), os.cpu_count(), peak_rss_bytes(), CpuWatch().shares()]))
"""


def modules(*layers: str) -> list[str]:
    """Names of the modules of these layers, less those that only run as scripts."""
    paths = [path for layer in layers for path in SOURCE.rglob("*.py") if path.is_relative_to(SOURCE / layer)]
    paths += SOURCE.glob("*.py")
    names = [".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in paths]
    return sorted(name.removesuffix(".__init__") for name in names if not name.endswith("__main__"))


def run_like_windows(names: list[str], code: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIKE_WINDOWS + code, json.dumps(names)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_runtime_the_commands_and_the_evaluations_are_imported_without_what_windows_lacks():
    layers = ["core", "engine", "heads", "hub", "reasoning", "evals", "server", "cli"]
    names = modules(*layers)
    assert {name.split(".")[1] for name in names if "." in name} >= set(layers)
    run_like_windows(names)


@pytest.mark.timeout(900)
def test_training_and_quantization_are_imported_without_what_windows_lacks():
    pytest.importorskip("trl")
    run_like_windows(modules("quant", "train"))


def test_a_machine_is_described_without_what_windows_lacks_and_the_unknown_is_none():
    machine, cpu_count, peak, shares = json.loads(run_like_windows(modules("evals"), DESCRIBE))
    assert machine["cores"] == cpu_count
    assert machine["threads"] == 3
    assert machine["memory_bytes"] is None
    assert machine["cpu"] is not None
    assert machine.keys() == {
        "cpu", "cores", "threads", "memory_bytes", "system", "llama_cpp_features", "kernels",
        "gomp_spincount",
    }  # fmt: skip
    assert peak is None
    assert shares == {"steal_share": None, "others_share": None}

"""Installs llama-cpp-python built for this processor, trimmed, and with edgereason's kernels.

usage: python tools/native/install.py REQUIREMENT      (run by the Makefile with the venv's Python)

The build compiles llama.cpp: about 3 minutes on 2 cores, where the package's default takes 10. Two things
are left out, the multimodal library and the helpers of llama.cpp's own command-line tools. `kernels/` is
compiled in where it can be; one line says so, or why not.

The wheel is kept in pip's cache folder, so it is built once a machine. pip would keep it too, but under the
package's name alone: after a change of the kernels, the compiler or the processor it would give back the
old one. Here all of these are part of the wheel's place.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

HERE = Path(__file__).resolve().parent
STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]")
KERNELS = re.compile(r"edgereason kernels: (.*)")
NOTICE = "kernels.txt"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def main(requirement: str) -> int:
    started = time.monotonic()
    kept = kept_wheels() / build_key(requirement)
    if not any(kept.glob("*.whl")):
        print(f"{requirement}: fetching and building (about 3 minutes on 2 cores)", flush=True)
        if code := build(requirement, kept):
            return code
    print(f"edgereason kernels: {(kept / NOTICE).read_text('utf-8')}", flush=True)
    wheel = next(kept.glob("*.whl"))
    # First the wheel by itself, even over the same version of another build; then what it needs.
    for options in (["--force-reinstall", "--no-deps", str(wheel)], [requirement]):
        if code := subprocess.call([*PIP, "install", "-q", *options]):
            return code
    print(f"{requirement}: installed after {time.monotonic() - started:.0f} s", flush=True)
    return 0


def build(requirement: str, kept: Path) -> int:
    """Builds the wheel, with progress, and moves it to `kept` with the line about its kernels."""
    flags = f'-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF "-DCMAKE_PROJECT_INCLUDE={HERE / "trim.cmake"}"'
    environment = {**os.environ, "CMAKE_ARGS": f"{flags} {os.environ.get('CMAKE_ARGS', '')}".strip()}
    started, shown, tail, kernels = time.monotonic(), -1, deque[str](maxlen=40), "not mentioned by the build"
    with tempfile.TemporaryDirectory() as folder:
        # --no-binary: a ready-made wheel would have neither the kernels nor this processor's instructions.
        options = ["--no-deps", "--no-cache-dir", "--no-binary", "llama-cpp-python", "-w", folder]
        with subprocess.Popen(
            [*PIP, "wheel", "-v", *options, requirement],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as pip:
            assert pip.stdout is not None
            for line in pip.stdout:
                tail.append(line)
                if found := STEP.match(line):
                    shown = show(int(found[1]), int(found[2]), started, shown)
                elif found := KERNELS.search(line):
                    kernels = found[1].strip()
        if pip.returncode:
            print("".join(tail), file=sys.stderr)
            print("the build failed; it needs a C++ compiler (g++ or clang++) on the PATH", file=sys.stderr)
            return pip.returncode
        kept.mkdir(parents=True, exist_ok=True)
        (kept / NOTICE).write_text(kernels, "utf-8")
        for wheel in Path(folder).glob("*.whl"):
            # Copied beside its place first, so that a wheel that is there is whole.
            part = kept / f"{wheel.name}.{os.getpid()}.part"
            shutil.copyfile(wheel, part)
            part.replace(kept / wheel.name)
    return 0


def kept_wheels() -> Path:
    """The folder that keeps built wheels: in pip's cache, or one for this process where pip keeps nothing."""
    found = subprocess.run([*PIP, "cache", "dir"], capture_output=True, text=True)
    if found.returncode:
        return Path(tempfile.mkdtemp())
    return Path(found.stdout.strip()) / "edgereason"


def build_key(requirement: str) -> str:
    """A name for all that the built library depends on."""
    parts = [requirement, platform.system(), platform.machine(), instructions(), compiler()]
    parts += [os.environ.get(name, "") for name in ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS")]
    parts += [
        path.read_text("utf-8") for path in sorted(HERE.rglob("*")) if path.suffix in {".cmake", ".cpp", ".h"}
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def instructions() -> str:
    """What this processor can do, as Linux lists it; elsewhere its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def compiler() -> str:
    """The version of the C++ compiler; empty if it has none to tell."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if found := shutil.which(name):
            return subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    return ""


def show(done: int, total: int, started: float, shown: int) -> int:
    """One line, rewritten in a terminal; elsewhere a line for every tenth of the way."""
    text = f"  compiling llama.cpp {done}/{total}, {time.monotonic() - started:.0f} s"
    if sys.stdout.isatty():
        print(f"\r{text} ", end="\n" if done == total else "", flush=True)
    elif done * 10 // total > shown:
        shown = done * 10 // total
        print(text, flush=True)
    return shown


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))

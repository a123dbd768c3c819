"""Builds and tries the runtime for aarch64 Linux on an x86 machine, under user emulation.

usage: python tools/arm/emulate.py -o FOLDER [--cpu cortex-a76] [--arch armv8.2-a+dotprod+fp16] [STEP …]

::

    root     Debian's Python for arm64, unpacked into FOLDER/root; nothing is installed on this machine
    wheels   the runtime's dependencies as aarch64 wheels, in FOLDER/site
    build    llama.cpp, cross-compiled as `tools/native/install.py` builds it, for --arch
    ask      one question to SmolLM2-135M in Q4_0: on x86 with both kernels, and emulated; tokens compared
    tests    the engine's tests on the same model, emulated: many minutes

Steps that are done are not repeated; by default all but `tests` run. Debian or Ubuntu with the packages
qemu-user-static, g++-aarch64-linux-gnu and cmake. Seconds under emulation say nothing about any device.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
QEMU, CXX = "qemu-aarch64-static", "aarch64-linux-gnu-g++"
DEBIAN = ("python3", "libgomp1", "libstdc++6")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
TEST_FILES = ("tests/integration/test_llama_engine.py",)
PYTEST = ("pytest", "pytest-timeout", "hypothesis")


@dataclass(frozen=True)
class Place:
    """The folder that everything is made in.

    Attributes:
        cpu: what is emulated, by QEMU's name.
        arch: what llama.cpp is compiled for, by GCC's name.
    """

    folder: Path
    cpu: str
    arch: str

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def site(self) -> Path:
        return self.folder / "site"

    @property
    def packages(self) -> Path:
        """llama-cpp-python with libraries for `arch`."""
        return self.folder / f"llama-{self.arch}"

    @property
    def python(self) -> Path:
        """A script that runs the emulated Python, which takes it for its own program: for child processes."""
        return self.folder / f"python-{self.cpu}"

    def paths(self) -> str:
        return os.pathsep.join(map(str, (REPOSITORY / "src", self.packages, self.site)))


def root(place: Place) -> None:
    """Unpacks Debian's packages for arm64; apt's lists of this machine stay as they are."""
    if not (place.root / "usr/bin/python3").exists():
        state, cache = place.folder / "apt/state", place.folder / "apt/cache"
        for folder in (state / "lists/partial", cache / "archives/partial"):
            folder.mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        options = ["APT::Architecture=arm64", "APT::Architectures=arm64", f"Dir::State={state}"]
        options += [
            f"Dir::State::status={state / 'status'}",
            f"Dir::Cache={cache}",
            "APT::Sandbox::User=root",
        ]
        apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
        run([*apt, "update"])
        run([*apt, "install", "--download-only", "--no-install-recommends", "-y", *DEBIAN])
        for package in sorted((cache / "archives").glob("*.deb")):
            run(["dpkg-deb", "-x", str(package), str(place.root)])
    place.python.write_text(
        "#!/bin/sh\n"
        f"export PYTHONHOME={place.root}/usr PYTHONPATH={place.paths()}\n"
        f'exec {QEMU} -cpu {place.cpu} -L {place.root} -0 "$0" {place.root}/usr/bin/python3 "$@"\n',
        "utf-8",
    )
    place.python.chmod(0o755)
    print(output([str(place.python), "-c", "import platform; print(platform.platform())"]).strip())


def wheels(place: Place) -> None:
    """Installs what the runtime needs beside llama.cpp, for aarch64 and the emulated Python's version."""
    if (place.site / "done").exists():
        return
    version = output([str(place.python), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    requirements = [one for one in dependencies() if not one.startswith("llama-cpp-python")]
    # What the binding itself imports.
    requirements += ["typing-extensions", "diskcache", *PYTEST]
    platforms = [word for one in PLATFORMS for word in ("--platform", one)]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--only-binary=:all:", "--python-version", version]
    run([*pip, *platforms, "--target", str(place.site), *requirements])
    (place.site / "done").touch()


def build(place: Place) -> None:
    """Cross-compiles llama.cpp, and puts llama-cpp-python's own files beside the libraries."""
    package = place.packages / "llama_cpp"
    if not (package / "lib/libllama.so").exists():
        pinned = next(one for one in dependencies() if one.startswith("llama-cpp-python"))
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        source = place.folder / "source"
        if not list(source.glob("*/vendor")):
            run([*pip, "--no-binary", ":all:", "-d", str(source), pinned])
            with tarfile.open(next(source.glob("*.tar.gz"))) as archive:
                archive.extractall(source, filter="data")
        unpacked = next(source.glob("*/vendor")).parent
        made = place.folder / f"build-{place.arch}"
        flags = [f"-DCMAKE_PROJECT_INCLUDE={REPOSITORY / 'tools/native/trim.cmake'}", "-DGGML_NATIVE=OFF"]
        flags += [f"-DGGML_CPU_ARM_ARCH={place.arch}", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON"]
        flags += [
            "-DCMAKE_SYSTEM_NAME=Linux",
            "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
            f"-DCMAKE_CXX_COMPILER={CXX}",
        ]
        flags += [f"-DCMAKE_C_COMPILER={CXX.replace('g++', 'gcc')}", "-DLLAMA_CURL=OFF"]
        flags += [f"-DLLAMA_BUILD_{part}=OFF" for part in ("TESTS", "EXAMPLES", "TOOLS", "SERVER", "COMMON")]
        told = output(["cmake", "-S", str(unpacked / "vendor/llama.cpp"), "-B", str(made), *flags])
        print(next(line for line in told.splitlines() if "edgereason kernels" in line))
        run(["cmake", "--build", str(made), "--target", "llama", "-j", str(os.cpu_count() or 1)])
        shutil.copytree(unpacked / "llama_cpp", package, dirs_exist_ok=True)
        (package / "lib").mkdir(exist_ok=True)
        about = place.packages / f"{unpacked.name}.dist-info"
        about.mkdir(exist_ok=True)
        shutil.copy(unpacked / "PKG-INFO", about / "METADATA")
        for library in made.glob("bin/lib*.so*"):
            shutil.copy(library, package / "lib", follow_symlinks=True)
    print(output([*emulated(place), "import llama_cpp as l; print(l.llama_print_system_info().decode())"]))


def ask(place: Place) -> None:
    """Greedy tokens of one question, on x86 and emulated."""
    from edgereason.bench.files import plain_q4_0
    from edgereason.core.bundle import file_sha256
    from edgereason.hub.pull import resolve

    official = resolve("smollm2-135m")
    model = plain_q4_0(official, file_sha256(official), print)
    script = [str(HERE / "tokens.py"), str(model)]
    found = {
        "x86, edgereason's kernels": told([sys.executable, *script]),
        "x86, llama.cpp's kernels": told([sys.executable, *script], EDGEREASON_KERNELS="0"),
        f"aarch64, {place.cpu}": told([str(place.python), *script]),
    }
    (place.folder / f"tokens-{place.cpu}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    emulation = found[f"aarch64, {place.cpu}"]
    print(
        f"{emulation['machine']}: {' '.join(emulation['features'])}; "
        f"repacked: {emulation['repacked_mib']} MiB; kernels: {emulation['kernels']}"
    )
    for name, other in found.items():
        same, apart = agreement(other, emulation)
        print(f"{name}: {other['text']!r}")
        print(
            f"    {same} of {len(other['ids'])} tokens as emulated; "
            f"log-probabilities differ by {apart:.4f} at most"
        )


def tests(place: Place) -> None:
    """Runs the engine's tests, emulated."""
    options = ["-q", "-p", "no:cacheprovider", "--timeout", "3000", "-x", *TEST_FILES]
    subprocess.run([str(place.python), "-m", "pytest", *options], cwd=REPOSITORY, check=True)


def agreement(one: dict[str, Any], other: dict[str, Any]) -> tuple[int, float]:
    """How many tokens are the same from the first on, and how far their log-probabilities lie apart."""
    pairs = zip(one["ids"], other["ids"], one["logprobs"], other["logprobs"], strict=False)
    same, apart = 0, 0.0
    for a, b, p, q in pairs:
        if a != b:
            break
        same, apart = same + 1, max(apart, abs(p - q))
    return same, apart


def emulated(place: Place) -> list[str]:
    return [str(place.python), "-c"]


def dependencies() -> list[str]:
    import tomllib

    project: list[str] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"][
        "dependencies"
    ]
    return project


def told(command: Sequence[str], **environment: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output(command, **environment).splitlines()[-1])
    return found


def output(command: Sequence[str], **environment: str) -> str:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def run(command: Sequence[str]) -> None:
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True)


STEPS: dict[str, Callable[[Place], None]] = {
    "root": root,
    "wheels": wheels,
    "build": build,
    "ask": ask,
    "tests": tests,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for all that is made; kept")
    parser.add_argument("--cpu", default="cortex-a76", help="what QEMU emulates: that of a Raspberry Pi 5")
    parser.add_argument("--arch", default="armv8.2-a+dotprod+fp16", help="what llama.cpp is compiled for")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    asked = parser.parse_args()
    if unknown := set(asked.steps) - set(STEPS):
        parser.error(f"no step is called {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    if missing := [tool for tool in (QEMU, CXX, "cmake", "dpkg-deb") if shutil.which(tool) is None]:
        parser.error(
            f"missing: {', '.join(missing)}: apt-get install qemu-user-static g++-aarch64-linux-gnu cmake"
        )
    place = Place(asked.output.resolve(), asked.cpu, asked.arch)
    place.folder.mkdir(parents=True, exist_ok=True)
    for name in asked.steps or [name for name in STEPS if name != "tests"]:
        print(f"-- {name}", flush=True)
        STEPS[name](place)


if __name__ == "__main__":
    main()

"""Checks, builds and tries a release; it tags and uploads nothing.

usage: python tools/release.py [--skip-tests] [--native WHEEL]      (`make release` runs the tests too)

1. The tree is clean. The package, CITATION.cff and the first dated section of CHANGELOG.md have the version
   of pyproject.toml.
2. `make test`.
3. A source archive and a wheel of it, in dist/; the wheel is smaller than 100 MB.
4. The wheel is installed in an empty environment; `edgereason --version` and `models` answer there.

`--native` names a wheel of llama-cpp-python that was built already; without it, pip compiles for 10 minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_WHEEL_BYTES = 100_000_000
PIP = ("-m", "pip", "-q", "--disable-pip-version-check")


def main() -> int:
    """Runs the steps, and says in one line which failed."""
    parser = argparse.ArgumentParser(description="Checks, builds and tries a release.")
    parser.add_argument("--skip-tests", action="store_true", help="leave `make test` out")
    parser.add_argument("--native", type=Path, help="a wheel of llama-cpp-python that is there already")
    given = parser.parse_args()
    try:
        version = check_tree(ROOT)
        if not given.skip_tests:
            run("make", "test")
        wheel = build(version)
        try_out(wheel, version, given.native)
    except (ValueError, subprocess.CalledProcessError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print(
        f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB; tag it: git tag -a v{version} -m 'Release {version}'"
    )
    return 0


def check_tree(root: Path) -> str:
    """The version, if the tree is clean and every file names the same one.

    Raises:
        ValueError: it is not; the message names the file.
    """
    if changed := run("git", "status", "--porcelain", cwd=root):
        raise ValueError(f"the tree has changes: commit or remove them first: {changed.split()[1]} …")
    version = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    for name, pattern in {
        "src/edgereason/__init__.py": r'^__version__ = "([^"]+)"',
        "CITATION.cff": r"^version: (\S+)",
        "CHANGELOG.md": r"^## (\d\S*) - \d{4}-\d\d-\d\d$",
    }.items():
        found = re.search(pattern, (root / name).read_text("utf-8"), re.MULTILINE)
        if found is None or found[1] != version:
            told = "no dated version" if found is None else found[1]
            raise ValueError(f"{name} says {told}; pyproject.toml says {version}")
    return version


def build(version: str) -> Path:
    """The wheel, built from the source archive, so that the archive is tried too.

    Raises:
        ValueError: the wheel is too large for a package index.
    """
    with tempfile.TemporaryDirectory() as folder:
        python = environment(Path(folder))
        run(python, *PIP, "install", "build")
        run(python, "-m", "build", "--outdir", ROOT / "dist", ROOT)
    wheel = next((ROOT / "dist").glob(f"edgereason-{version}-*.whl"))
    if wheel.stat().st_size >= MOST_WHEEL_BYTES:
        raise ValueError(f"{wheel.name} has {wheel.stat().st_size:,} bytes; at most {MOST_WHEEL_BYTES:,} go")
    return wheel


def try_out(wheel: Path, version: str, native: Path | None) -> None:
    """Installs the wheel in an empty environment, outside of the tree, and lets it answer.

    Raises:
        ValueError: it answers something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        python = environment(Path(folder))
        run(python, *PIP, "install", *([native] if native else []), wheel)
        program = python.with_name("edgereason")
        for arguments, expected in (
            (["--version"], f"edgereason {version}"),
            (["models"], "bundles of this"),
        ):
            told = run(program, *arguments, cwd=Path(folder))
            if expected not in told:
                raise ValueError(f"edgereason {' '.join(arguments)} says {told!r}; expected {expected!r}")


def environment(folder: Path) -> Path:
    """The Python of a new virtual environment."""
    venv.create(folder / "venv", with_pip=True)
    return folder / "venv" / "bin" / "python"


def run(*command: object, cwd: Path = ROOT) -> str:
    """What a command prints on stdout; its stderr is shown."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environ, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


if __name__ == "__main__":
    sys.exit(main())

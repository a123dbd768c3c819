"""Attacks edgereason: kills, damaged files, senseless command lines, many requests. `make attack` runs it.

::

    python -m tools.attack [--scale 0.02] [--seed 1] [--only kills,files] [-o FOLDER]

Needs `tests` and `tests/unit` on the path, whose small models and mutations it uses. Each part runs in a
process of its own. The exit code is 1 if anything happened that must not happen; the records list it.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

CASES: Final = {"kills": 200, "files": 2000, "lines": 500, "asks": 500, "serves": 10_000}
LANES: Final = (("kills", "lines"), ("files",))
"""Parts that run beside each other, one core each; the others follow them, with all cores."""
ALONE: Final = ("asks", "serves")
FORMAT: Final = "edgereason-attack"
ENVIRONMENT: Final = {
    # One thread in what forks, and sums in one order.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "PIP_INDEX_URL": "http://127.0.0.1:9",
    "PIP_RETRIES": "0",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
}


def main() -> int:
    """Runs the parts that are asked for and prints what came of them."""
    parser = argparse.ArgumentParser(prog="python -m tools.attack", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of all cases")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(CASES), help="parts, separated by commas")
    parser.add_argument("-o", "--output", type=Path, help="folder of the records, one of each part")
    parser.add_argument("--part", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        return _run_part(given.part, _planned(given.part, given.scale), given.seed, given.folder)
    wanted = given.only.split(",")
    if unknown := [part for part in wanted if part not in CASES]:
        parser.error(f"there is no part {', '.join(unknown)}; known: {', '.join(CASES)}")
    with tempfile.TemporaryDirectory(prefix="edgereason-attack-") as folder:
        parts = _run_parts(wanted, given.scale, given.seed, Path(folder))
    for part, found in parts.items():
        record = _record(part, found, given.scale, given.seed)
        if given.output:
            given.output.mkdir(parents=True, exist_ok=True)
            text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
            (given.output / f"{part}.json").write_text(text)
        sys.stdout.write(
            f"{part}: {found.get('cases', 0)} cases in {found.get('seconds', 0):.0f} s, "
            f"{found['num_violations']} violations\n" + "".join(f"  {one}\n" for one in found["violations"])
        )
    return 1 if any(found["num_violations"] for found in parts.values()) else 0


def _planned(part: str, scale: float) -> int:
    return max(1, round(CASES[part] * scale))


def _run_parts(wanted: list[str], scale: float, seed: int, folder: Path) -> dict[str, Any]:
    """Runs each part in a process of its own; parts of different lanes beside each other."""
    found: dict[str, Any] = {}
    lanes = [[part for part in lane if part in wanted] for lane in LANES]
    if (os.cpu_count() or 1) < 2:
        lanes = [[part for lane in lanes for part in lane]]
    running: dict[subprocess.Popen[bytes], tuple[str, list[str]]] = {}

    def start(lane: list[str]) -> None:
        if lane:
            running[_start(lane[0], scale, seed, folder)] = (lane[0], lane[1:])

    for lane in lanes:
        start(lane)
    while running:
        for process in [one for one in running if one.poll() is not None]:
            part, rest = running.pop(process)
            found[part] = _read_part(part, process.returncode, folder)
            start(rest)
        time.sleep(0.1)
    for part in (part for part in ALONE if part in wanted):
        process = _start(part, scale, seed, folder)
        process.wait()
        found[part] = _read_part(part, process.returncode, folder)
    return found


def _start(part: str, scale: float, seed: int, folder: Path) -> subprocess.Popen[bytes]:
    (folder / part).mkdir()
    environment = {**os.environ, **ENVIRONMENT, "EDGEREASON_CACHE": str(folder / part / "cache")}
    if part in ALONE:  # a model of the user's cache, and all cores
        environment = dict(os.environ)
    command = [sys.executable, "-m", "tools.attack", "--part", part, "--scale", str(scale)]
    command += ["--seed", str(seed), "--folder", str(folder / part)]
    return subprocess.Popen(command, env=environment)


def _read_part(part: str, code: int, folder: Path) -> dict[str, Any]:
    path = folder / part / "part.json"
    if code == 0 and path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    return {"num_violations": 1, "violations": [f"the part itself ended with code {code}"]}


def _run_part(part: str, planned: int, seed: int, folder: Path) -> int:
    """Carries one part out in this process, and leaves its figures in the folder."""
    from tools.attack.tally import Tally

    tally = Tally(part, planned)
    if part not in ALONE:
        preload()
    importlib.import_module(f"tools.attack.{part}").attack(tally, folder, seed)
    text = json.dumps(tally.to_json()).replace(str(folder), "FOLDER")  # records hold no local paths
    (folder / "part.json").write_text(text)
    return 0


def preload() -> None:
    """Imports what commands import, so that forks need not; starts no native thread."""
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401
    import trl  # noqa: F401

    import edgereason.bundles.build
    import edgereason.cli.main
    import edgereason.engine.llama
    import edgereason.evals.run
    import edgereason.train.grpo.run
    import edgereason.train.heads.switcher
    import edgereason.train.heads.verifier
    import edgereason.train.lora.run
    import edgereason.train.quant.run  # noqa: F401

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # what is here stays; a fork that looked through it would copy it


def _record(part: str, found: dict[str, Any], scale: float, seed: int) -> dict[str, Any]:
    from edgereason.records.machine import describe, versions

    return {
        "format": FORMAT,
        "part": part,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"make attack ATTACK='--only {part} --scale {scale:g} --seed {seed}'",
        "scale": scale,
        "seed": seed,
        "machine": describe(os.cpu_count() or 1),
        "versions": versions(),
        **found,
    }


if __name__ == "__main__":
    sys.exit(main())

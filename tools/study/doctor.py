"""Estimates of `edgereason doctor` beside what `edgereason ask` then takes on the same machine.

::

    python tools/study/doctor.py --rounds 5 -o RECORD.json
    python tools/study/doctor.py --model qwen2.5-coder-1.5b

Each round is a whole checkup, then every kind of answer once, so that a disturbance meets both. An estimate
is of the lengths that came out. The record has all seconds, the least and the medians, and who had the CPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from edgereason.bench.costs import ask
from edgereason.bench.doctor import Checkup, examine
from edgereason.bench.request_measures import RACE_QUESTION
from edgereason.core.machine import usable_cores
from edgereason.records.machine import describe, versions
from edgereason.records.measure import CpuWatch

CASES: Final[dict[str, list[str]]] = {
    "chat": ["--mode", "chat", "--max-tokens", "256"],
    "think, 1 stream": ["--mode", "think", "--budget", "256", "--streams", "1"],
    "think, 4 streams": ["--mode", "think", "--budget", "256", "--streams", "4"],
    "think, 8 streams": ["--mode", "think", "--budget", "256", "--streams", "8"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", help="a bare model; by default the built-in bundle")
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    model = ["--model", asked.model] if asked.model else []
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in CASES}
    watch = CpuWatch()
    for _ in range(asked.rounds):
        with get_context("spawn").Pool(1) as pool:  # a process of its own, as the command is
            found: Checkup = pool.apply(examine, kwds={"model": asked.model})
        assert found.costs is not None
        for name, options in CASES.items():
            done = ask(model, options, RACE_QUESTION)
            estimated_s = found.costs.answer_s(done.prompt_tokens, done.lengths, thinks=name != "chat")
            rounds[name].append({"estimated_s": estimated_s, "asked_s": done.wall_s, "lengths": done.lengths})
    record = {
        "model": asked.model or "the built-in bundle",
        "cases": {name: summary(told) for name, told in rounds.items()},
        "machine": describe(usable_cores()),
        "versions": versions(),
        **watch.shares(),
    }
    text = json.dumps(record, indent=1)
    if asked.output:
        asked.output.write_text(text + os.linesep, "utf-8")
    print(text)


def summary(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Estimate over what was taken: of the least of both, and the median of the rounds' ratios."""
    least = min(one["estimated_s"] for one in told) / min(one["asked_s"] for one in told)
    ratios = [one["estimated_s"] / one["asked_s"] for one in told]
    return {"ratio_of_least": least, "median_ratio": statistics.median(ratios), "rounds": told}


if __name__ == "__main__":
    main()

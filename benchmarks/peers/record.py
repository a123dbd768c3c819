"""The record: from runs to entries of each contender and each case, and what a reader must know of both."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from benchmarks.peers.cases import OURS, PEERS, Case, PeerEntry
from benchmarks.peers.plan import REFERENCE, SHAPES, Shape
from edgereason.core.answers import grade


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRun:
    """One turn of a contender at a case, and what it did between its turns."""

    seconds: float
    tokens: int
    answer: str | None = None
    num_answers: int | None = None
    idle_s: float = 0.0
    idle_cpu_s: float = 0.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """A run as its worker told it."""
        return cls(**values)


@dataclass(slots=True)
class Standing:
    """All that a contender has shown.

    Attributes:
        about: what its worker said when it had loaded.
        missing: what it lacks, if it is not installed.
        error: why it has no more turns.
        runs: by case, in the order of the rounds.
    """

    about: dict[str, Any] | None = None
    missing: list[str] | None = None
    error: str | None = None
    runs: dict[str, list[PeerRun]] = field(default_factory=dict)

    def add(self, case: str, run: PeerRun) -> None:
        """Takes in a turn."""
        self.runs.setdefault(case, []).append(run)

    def best_s(self, case: str) -> float | None:
        """The least seconds of a case; None if there are none."""
        return min((run.seconds for run in self.runs.get(case, ())), default=None)


def peer_entry(entry: PeerEntry, standing: Standing) -> dict[str, Any]:
    """What the record says of a contender.

    `idle_cpu_share`, of one CPU: what it used while others had their turns; a spinning one would be near its
    threads.
    """
    if standing.missing is not None:
        return {"state": "not installed", "missing": standing.missing, "install": entry.install}
    runs = [run for case in standing.runs.values() for run in case]
    idle_s = sum(run.idle_s for run in runs)
    found = {
        "state": "measured" if standing.error is None else "failed",
        **(standing.about or {}),
        "idle_cpu_share": sum(run.idle_cpu_s for run in runs) / idle_s if idle_s else None,
    }
    return found if standing.error is None else found | {"error": standing.error}


def case_entry(
    shape: Shape, case: Case, standings: Mapping[str, Standing], read_s_per_token: float
) -> dict[str, Any]:
    """What the record says of a case: its size, and every contender's figures.

    Args:
        shape: of the case.
        case: as every contender got it.
        standings: by contender, ours among them.
        read_s_per_token: seconds that memory takes to deliver the file's weights once.
    """
    entries = {}
    for name, standing in standings.items():
        if runs := standing.runs.get(shape.name):
            entries[name] = _figures(shape, case, runs) | _ratios(shape, name, standings)
            if shape.num_completions == 1 and shape.limit_tokens > 1 and PEERS[name].reads_file:
                share = entries[name]["tokens_per_s"] * read_s_per_token
                entries[name]["roofline_share"] = share
    return {
        "prompt_tokens": len(case.prompt_ids),
        "completions": case.num_completions,
        "limit_tokens": case.limit_tokens,
        "contenders": entries,
    }


def peers_notes(standings: Mapping[str, Standing]) -> list[str]:
    """What a reader of the ratios must know."""
    notes = [
        "seconds are of a whole call, its prompt included; tokens_per_s is what came out of it a second "
        "(of prefill: what went in)",
        "GOMP_SPINCOUNT is left at each peer's default, as its users run it; ours sets its own",
        "edgereason's kernels are on in edgereason alone; llama-cpp-python has llama.cpp's, as for its users",
    ]
    capped = [f"{shape.name} {shape.max_rounds}" for shape in SHAPES if shape.max_rounds]
    capped += [f"{name} {PEERS[name].max_rounds}" for name in standings if PEERS[name].max_rounds]
    notes.append(f"what takes long has fewer rounds, at most: {', '.join(capped)}")
    ours = _features(standings[OURS])
    for name, standing in standings.items():
        if standing.missing is not None:
            notes.append(f"{name} is not installed: {PEERS[name].install}")
        if standing.error is not None:
            notes.append(f"{name} failed: {standing.error}")
        theirs = _features(standing)
        if theirs and (lacking := [feature for feature in ours if feature not in theirs]):
            notes.append(
                f"{name}'s llama.cpp runs without {', '.join(lacking)}, which ours has: a part of its ratios "
                "is the build's"
            )
    return notes


def _figures(shape: Shape, case: Case, runs: list[PeerRun]) -> dict[str, Any]:
    best = min(runs, key=lambda run: run.seconds)
    counted = len(case.prompt_ids) if shape.limit_tokens == 1 else best.tokens
    figures: dict[str, Any] = {
        "rounds": len(runs),
        "min_s": best.seconds,
        "median_s": statistics.median(run.seconds for run in runs),
        "tokens": best.tokens,
        "tokens_per_s": counted / best.seconds,
    }
    if not shape.votes:
        return figures
    is_correct = best.answer is not None and grade(best.answer, REFERENCE)
    return figures | {"answer": best.answer, "num_answers": best.num_answers, "is_correct": is_correct}


def _ratios(shape: Shape, name: str, standings: Mapping[str, Standing]) -> dict[str, float | None]:
    """Seconds over ours, of minima: above 1, ours is faster."""
    ours = standings[OURS]
    seconds = standings[name].best_s(shape.name)
    against = {"over_ours": ours.best_s(shape.name)}
    if shape.votes and not shape.only_ours:
        against["over_ours_early"] = ours.best_s(f"{shape.name}_early")
    return {key: seconds / other if seconds and other else None for key, other in against.items()}


def _features(standing: Standing) -> list[str]:
    return (standing.about or {}).get("features") or []

"""`bench engine`: the engine's figures on one machine, as one record.

::

    model file ─┬─ plain Q4_0 of it, made in the cache ─ all measures, ≥ 7 rounds ─→ the record's top level
                └─ the file itself ─ all measures, fewer rounds ─────────────────→ its "default_file"

Owns the targets, the order of the measures and the record's shape. Does not know how anything is measured
(`step_measures.py`, `request_measures.py`), nor how a record is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from edgereason.bench.files import Notice, plain_q4_0, random_adapter, read_per_token_bytes
from edgereason.bench.lab import EndlessEngine, Lab, Outcome
from edgereason.bench.progress import Meter, Report
from edgereason.bench.record import Recording, rounded, trial_note
from edgereason.bench.request_measures import cells, prefill, streams, switch
from edgereason.bench.step_measures import lora, reading, steps
from edgereason.config import nearest
from edgereason.core.bundle import file_sha256
from edgereason.core.machine import usable_cores
from edgereason.engine.handles import check_gguf
from edgereason.errors import ConfigError
from edgereason.evals.limits import require_at_least_one
from edgereason.hub.catalog import DEFAULT_MODEL
from edgereason.hub.pull import resolve
from edgereason.records.machine import read_bandwidth
from edgereason.records.measure import MIN_ROUNDS, CpuWatch

FORMAT: Final = "edgereason-bench-engine"
_DEFAULT_FILE_SLOWNESS: Final = 1.5
"""Time of a measure on the default file over the Q4_0's, for the time left."""


MEASURES: Final[dict[str, tuple[Callable[[Lab], Outcome], float, float]]] = {
    "steps": (steps, 7.2, 3.0),
    "prefill": (prefill, 14.0, 0.0),
    "switch": (switch, 8.5, 7.0),
    "streams": (streams, 7.5, 5.0),
    "cells": (cells, 0.0, 40.0),
    "lora": (lora, 2.5, 1.0),
    "reading": (reading, 4.5, 1.0),
}
"""Name → function, rough seconds a round and beside the rounds (0.5B, Q4_0, 2 cores), for the time left."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be: at most, or at least, `limit`."""

    limit: float
    at_least: bool = False

    def is_met(self, value: float | None) -> bool:
        """Whether `value` is on the right side; one that couldn't be measured is not."""
        return value is not None and (value >= self.limit if self.at_least else value <= self.limit)

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


TARGETS: Final[dict[str, Target]] = {
    "step_ratio_n1": Target(1.05),
    "step_ratio_n8": Target(1.05),
    "prefill_features_ratio": Target(1.10),
    "switch_speedup_1000": Target(20, at_least=True),
    "streams4_ratio": Target(1.75),
    "kv_cells_ratio": Target(1.05),
}
"""What is asked of the Q4_0; the other figures are reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBenchConfig:
    """What to measure.

    Attributes:
        model: a name of the catalogue or a GGUF file.
        rounds: on the Q4_0; fewer than 7 are a trial.
        default_file_rounds: on the file itself; never more than `rounds`.
        threads: CPU threads; by default as many as this process may use.
        only: names of measures; all of them if empty.
        seed: of adapter and streams.
    """

    model: str = DEFAULT_MODEL
    rounds: int = MIN_ROUNDS
    default_file_rounds: int = 3
    threads: int | None = None
    only: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least_one(rounds=self.rounds, threads=self.threads)
        for name in self.only:
            if name not in MEASURES:
                raise ConfigError(f"no measure is called {name!r}: {nearest(name, MEASURES)}")


def bench_engine(
    config: EngineBenchConfig,
    report: Report = lambda _: None,
    notice: Notice = lambda _: None,
) -> dict[str, Any]:
    """Measures the engine.

    Args:
        config: what to measure.
        report: told after every round.
        notice: told in a line what is made or fetched first.

    Returns:
        The record: figures of the Q4_0 at its top level, the file's own under `default_file`.

    Raises:
        PullError, ModelFileError: the model can't be had, read or quantized.
    """
    source = resolve(config.model, notice=notice)
    check_gguf(source, "model")
    sha256 = file_sha256(source)
    quantized = plain_q4_0(source, sha256, notice)
    adapter = random_adapter(source, sha256, notice, seed=config.seed)
    threads = config.threads or usable_cores()
    default_rounds = min(config.rounds, config.default_file_rounds)

    recording = Recording()
    bandwidth = read_bandwidth(threads)
    meter = Meter(report, _expected_s(config, config.rounds, default_rounds))
    q4_0 = _measure_file(config, quantized, "Q4_0", adapter, threads, config.rounds, 1.0, meter)
    default = _measure_file(
        config, source, "default file", adapter, threads, default_rounds, _DEFAULT_FILE_SLOWNESS, meter
    )
    bandwidth = max(bandwidth, read_bandwidth(threads))
    for file in (q4_0, default):
        if (rate := file.get("decode_tokens_per_s_n1")) is not None:
            file["roofline_share_n1"] = rate * file["read_per_token_bytes"] / bandwidth
    record = (
        q4_0
        | {"default_file": default, "targets": _judge(q4_0)}
        | recording.close(
            format=FORMAT,
            source=source,
            sha256=sha256,
            config=asdict(config),
            threads=threads,
            bandwidth=bandwidth,
            notes=_notes(config, default_rounds),
        )
    )
    return {key: rounded(value) for key, value in record.items()}


def _measure_file(
    config: EngineBenchConfig,
    path: Path,
    title: str,
    adapter: Path,
    threads: int,
    rounds: int,
    slowness: float,
    meter: Meter,
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    details: dict[str, Any] = {}
    with EndlessEngine(path, threads=threads) as engine:
        lab = Lab(engine, path, threads, rounds, config.seed, adapter, meter.advance)
        for name in config.only or MEASURES:
            measure, round_s, fixed_s = MEASURES[name]
            meter.enter(title, name, slowness * (rounds * round_s + fixed_s))
            watch = CpuWatch()
            outcome = measure(lab)
            figures |= outcome.figures
            details[name] = {**outcome.details, **watch.shares()}
    return figures | {
        "rounds": rounds,
        "model": {"name": path.name, "sha256": file_sha256(path), "quantization": title},
        "model_bytes": path.stat().st_size,
        "read_per_token_bytes": read_per_token_bytes(path),
        "details": details,
    }


def _expected_s(config: EngineBenchConfig, rounds: int, default_rounds: int) -> float:
    chosen = [MEASURES[name] for name in config.only or MEASURES]
    return sum(
        rounds * round_s + fixed_s + _DEFAULT_FILE_SLOWNESS * (default_rounds * round_s + fixed_s)
        for _, round_s, fixed_s in chosen
    )


def _judge(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: {"limit": target.limit, "at_least": target.at_least, "is_met": target.is_met(figures[name])}
        for name, target in TARGETS.items()
        if name in figures
    }


def _notes(config: EngineBenchConfig, default_rounds: int) -> list[str]:
    notes = trial_note(config.rounds)
    if default_rounds < config.rounds:
        notes.append(f"the default file was measured in {default_rounds} rounds, the Q4_0 in {config.rounds}")
    return notes

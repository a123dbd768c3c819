"""`bench engine`: the engine's figures on one machine, as one record.

::

    model file ─┬─ plain Q4_0 of it, made in the cache ─ all measures, ≥ 7 rounds ─→ the record's top level
                └─ the file itself ─ all measures, fewer rounds ─────────────────→ its "default_file"

The measures themselves stand in `step_measures.py` and `request_measures.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from edgereason.bench.files import random_adapter
from edgereason.bench.lab import EndlessEngine, Lab, Measured
from edgereason.bench.progress import SILENT, Listener, Meter
from edgereason.bench.record import AS_IS, BenchConfig, Recording, Subject, find_subject
from edgereason.bench.request_measures import cells, prefill, streams, switch
from edgereason.bench.step_measures import lora, reading, steps
from edgereason.config import nearest
from edgereason.errors import ConfigError
from edgereason.hub.catalog import DEFAULT_MODEL
from edgereason.records.measure import CpuWatch

FORMAT: Final = "edgereason-bench-engine"
_DEFAULT_FILE_SLOWNESS: Final = 1.5
"""Time of a measure on the default file over the Q4_0's, for the time left."""

MEASURES: Final[dict[str, tuple[Callable[[Lab], Measured], float, float]]] = {
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
    "streams4_ratio": Target(1.6),
    "bare_step_n8_over_n1": Target(2.6),
    "lora_tax_n1": Target(1.10),
    "kv_cells_ratio": Target(1.05),
}
"""What is asked of the Q4_0; the other figures are reported."""


@dataclass(frozen=True, kw_only=True)
class EngineBenchConfig(BenchConfig):
    """What to measure; `rounds` are on the Q4_0.

    Attributes:
        model: a name of the catalogue or a GGUF file.
        default_file_rounds: on the file itself; never more than `rounds`.
        only: names of measures; all of them if empty.
    """

    model: str = DEFAULT_MODEL
    default_file_rounds: int = 3
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.only:
            if name not in MEASURES:
                raise ConfigError(f"no measure is called {name!r}: {nearest(name, MEASURES)}")


@dataclass(frozen=True, slots=True)
class _Pass:
    """All measures on one file; `slowness` is the time of a measure over the Q4_0's, for the time left."""

    subject: Subject
    rounds: int
    slowness: float

    def expected_s(self, measure: str) -> float:
        """Rough seconds of a measure."""
        _, round_s, fixed_s = MEASURES[measure]
        return self.slowness * (self.rounds * round_s + fixed_s)


def bench_engine(config: EngineBenchConfig, listener: Listener = SILENT) -> dict[str, Any]:
    """Measures the engine.

    Args:
        config: what to measure.
        listener: told how far it is, and what is fetched or made first.

    Returns:
        The record: figures of the Q4_0 at its top level, the file's own under `default_file`.

    Raises:
        PullError, ModelFileError: the model can't be fetched, read or quantized.
    """
    subject = find_subject(config.model, as_is=False, threads=config.threads, notice=listener.notice)
    adapter = random_adapter(subject.source, subject.source_sha256, listener.notice, seed=config.seed)
    as_is = replace(subject, path=subject.source, quantization=AS_IS)
    default_rounds = min(config.rounds, config.default_file_rounds)
    passes = [_Pass(subject, config.rounds, 1.0), _Pass(as_is, default_rounds, _DEFAULT_FILE_SLOWNESS)]
    measures = config.only or tuple(MEASURES)
    with Recording(subject) as recording:
        meter = Meter(listener, sum(each.expected_s(name) for each in passes for name in measures))
        q4_0, default = (_measure_file(each, measures, adapter, config.seed, meter) for each in passes)
    for file in (q4_0, default):
        if (rate := file.get("decode_tokens_per_s_n1")) is not None:
            file["roofline_share_n1"] = rate * file["read_per_token_bytes"] / recording.read_bytes_per_s
    notes = []
    if default_rounds < config.rounds:
        notes.append(f"the default file was measured in {default_rounds} rounds, the Q4_0 in {config.rounds}")
    return recording.close(
        q4_0 | {"default_file": default, "targets": _judge(q4_0)},
        format=FORMAT,
        config=asdict(config),
        notes=notes,
    )


def _measure_file(
    each: _Pass, measures: tuple[str, ...], adapter: Path, seed: int, meter: Meter
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    details: dict[str, Any] = {}
    subject = each.subject
    with EndlessEngine(subject.path, threads=subject.threads) as engine:
        lab = Lab(engine, subject.path, subject.threads, each.rounds, seed, adapter, meter.advance)
        for name in measures:
            meter.enter(subject.quantization, name, each.expected_s(name))
            watch = CpuWatch()
            measured = MEASURES[name][0](lab)
            figures |= measured.figures
            details[name] = {**measured.details, **watch.shares()}
    return figures | {"rounds": each.rounds, **subject.entry(), "details": details}


def _judge(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: {"limit": target.limit, "at_least": target.at_least, "is_met": target.is_met(figures[name])}
        for name, target in TARGETS.items()
        if name in figures
    }

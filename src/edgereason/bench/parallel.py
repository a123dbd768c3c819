"""`bench parallel`: what N streams over one prompt cost, at several depths.

::

    depth 512  ┬─ N = 1    steps …   ┐
    (prompt)   ├─ N = 2    steps …   ├ one depth at a time, all N over the same cells; then the next depth,
               └─ N = 16   steps …   ┘ then the next round

A prompt is encoded again in every round: cells of other prompts in the context would slow its steps. A
round's figure is the mean of its steps. The adapter is off; `bench engine` says what it adds.

Owns the cases and the record's shape. Does not know how a stream decodes, nor how a record is shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from edgereason.bench.files import Notice
from edgereason.bench.lab import EndlessEngine, Lab
from edgereason.bench.progress import Meter, Report
from edgereason.bench.record import (
    Recording,
    find_subject,
    require_distinct,
    rounded,
    trial_note,
)
from edgereason.core.types import MAX_STREAMS
from edgereason.errors import ConfigError
from edgereason.evals.limits import require_at_least_one
from edgereason.hub.catalog import DEFAULT_MODEL
from edgereason.records.machine import read_bandwidth
from edgereason.records.measure import MIN_ROUNDS, Samples, interleave, timed

FORMAT: Final = "edgereason-bench-parallel"
_STEP_S: Final = 0.01
_ROW_S: Final = 0.008
_TOKEN_S: Final = 0.004
"""Rough seconds of a step, of each of its streams, and of a prompt token (0.5B, Q4_0, 2 cores)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelBenchConfig:
    """What to measure.

    Attributes:
        model: a name of the catalogue or a GGUF file.
        rounds: of every case; fewer than 7 are a trial.
        threads: CPU threads; by default as many as this process may use.
        streams: numbers of streams; 1 is always measured, for the ratios.
        depths: prompt lengths in tokens.
        steps: steps of a round.
        as_is: the file itself, not a plain Q4_0 of it.
        seed: of the streams.
    """

    model: str = DEFAULT_MODEL
    rounds: int = MIN_ROUNDS
    threads: int | None = None
    streams: tuple[int, ...] = (1, 2, 4, 8, 16)
    depths: tuple[int, ...] = (128, 512, 1024)
    steps: int = 16
    as_is: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least_one(rounds=self.rounds, threads=self.threads, steps=self.steps)
        require_distinct("streams", self.streams, most=MAX_STREAMS)
        require_distinct("depths", self.depths)

    @property
    def all_streams(self) -> tuple[int, ...]:
        """Numbers of streams in the order of measuring, 1 among them."""
        return tuple(sorted({1, *self.streams}))


@dataclass(frozen=True, slots=True)
class Timing:
    """One round of one case: mean seconds of a step, and cells in use after the last one."""

    step_s: float
    cells: int


Case = tuple[int, int]
"""Depth and number of streams."""


def bench_parallel(
    config: ParallelBenchConfig,
    report: Report = lambda _: None,
    notice: Notice = lambda _: None,
) -> dict[str, Any]:
    """Measures parallel streams.

    Args:
        config: what to measure.
        report: told after every case.
        notice: told in a line what is made or fetched first.

    Raises:
        ConfigError: a depth is beyond the model's context.
        PullError, ModelFileError: the model can't be had, read or quantized.
    """
    subject = find_subject(config.model, as_is=config.as_is, threads=config.threads, notice=notice)
    with EndlessEngine(subject.path, threads=subject.threads) as engine:
        lab = Lab(engine, subject.path, subject.threads, config.rounds, config.seed)
        _require_room(lab, config)
        recording, bandwidth = Recording(), read_bandwidth(subject.threads)
        meter = Meter(report, config.rounds * _round_s(config))
        timings = _measure(lab, config, meter, subject.quantization)
        kv_bytes_per_cell = engine.info.kv_bytes_per_cell
    bandwidth = max(bandwidth, read_bandwidth(subject.threads))
    file = subject.entry()
    record = (
        {
            "rounds": config.rounds,
            "kv_bytes_per_cell": kv_bytes_per_cell,
            "cases": case_entries(
                timings,
                kv_bytes_per_cell=kv_bytes_per_cell,
                read_per_token_bytes=file["read_per_token_bytes"],
                bandwidth=bandwidth,
            ),
        }
        | file
        | recording.close(
            format=FORMAT,
            source=subject.source,
            sha256=subject.source_sha256,
            config=asdict(config) | {"streams": config.all_streams},
            threads=subject.threads,
            bandwidth=bandwidth,
            notes=trial_note(config.rounds),
        )
    )
    return {key: rounded(value) for key, value in record.items()}


def case_entries(
    timings: Mapping[Case, list[Timing]],
    *,
    kv_bytes_per_cell: int,
    read_per_token_bytes: int,
    bandwidth: float,
) -> list[dict[str, Any]]:
    """What the record says of each case.

    `latency_ratio` is a step's time over that of one stream at the same depth, of minima; 1 would be free
    streams, N none gained. `roofline_share`, at N = 1: weights read a second over what memory delivers.

    Args:
        timings: rounds of every (depth, N); N = 1 at every depth.
        kv_bytes_per_cell: of the cache in use.
        read_per_token_bytes: of weights, by a step.
        bandwidth: bytes a second that memory delivers.
    """
    samples = Samples({str(case): [one.step_s for one in rounds] for case, rounds in timings.items()})
    entries = []
    for (depth, num_streams), rounds in timings.items():
        step_s = samples.best(str((depth, num_streams)))
        median_s = statistics.median(one.step_s for one in rounds)
        entries.append(
            {
                "depth": depth,
                "streams": num_streams,
                "min_step_s": step_s,
                "median_step_s": median_s,
                "tokens_per_s": num_streams / step_s,
                "median_tokens_per_s": num_streams / median_s,
                "latency_ratio": samples.ratio(str((depth, num_streams)), str((depth, 1))),
                "kv_cells": rounds[-1].cells,
                "kv_bytes": rounds[-1].cells * kv_bytes_per_cell,
                "roofline_share": read_per_token_bytes / step_s / bandwidth if num_streams == 1 else None,
            }
        )
    return entries


def _require_room(lab: Lab, config: ParallelBenchConfig) -> None:
    room = lab.engine.context_tokens - len(lab.opening) - config.steps - 2
    if max(config.depths) > room:
        raise ConfigError(
            f"the model's context holds prompts of {room} tokens at most, got {max(config.depths)}"
        )


def _measure(lab: Lab, config: ParallelBenchConfig, meter: Meter, title: str) -> dict[Case, list[Timing]]:
    engine, most = lab.engine, max(config.all_streams)
    cells = max(config.depths) + len(lab.opening) + most * (config.steps + 2)
    timings: dict[Case, list[Timing]] = {
        (depth, num_streams): [] for depth in config.depths for num_streams in config.all_streams
    }
    with engine.reserve(cells=cells, sequences=most + 2):
        for i in range(config.rounds):
            meter.enter(title, f"round {i + 1} of {config.rounds}", _round_s(config))
            for depth in config.depths:
                with lab.sequence() as prefix:
                    engine.encode(prefix, lab.prompt(depth))
                    meter.advance(_TOKEN_S * depth / _round_s(config))
                    for num_streams in config.all_streams:
                        with lab.streams(prefix, num_streams) as (batch, _):
                            batch.step()  # the first of a new shape rebuilds the graph
                            step_s = interleave({"step": timed(batch.step)}, config.steps).mean("step")
                            timings[depth, num_streams].append(Timing(step_s, engine.used_cells))
                        meter.advance(_case_s(num_streams, config.steps) / _round_s(config))
    return timings


def _case_s(num_streams: int, steps: int) -> float:
    return (_STEP_S + _ROW_S * num_streams) * (steps + 2)


def _round_s(config: ParallelBenchConfig) -> float:
    stepping_s = sum(_case_s(num_streams, config.steps) for num_streams in config.all_streams)
    return sum(_TOKEN_S * depth + stepping_s for depth in config.depths)

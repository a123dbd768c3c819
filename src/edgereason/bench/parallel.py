"""`bench parallel`: what N streams over one prompt cost, at several depths.

::

    depth 512  ┬─ N = 1    steps …   ┐
    (prompt)   ├─ N = 2    steps …   ├ one depth at a time, all N over the same cells; then the next depth,
               └─ N = 16   steps …   ┘ then the next round

A prompt is encoded again in every round: cells of other prompts in the context would slow its steps. A
round's figure is the mean of its steps. The adapter is off; `bench engine` says what it adds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

from edgereason.bench.lab import EndlessEngine, Lab, mean_step_s
from edgereason.bench.progress import SILENT, BenchTurn, Listener, take_turns
from edgereason.bench.record import FileBenchConfig, Recording, find_subject, require_distinct
from edgereason.config import require_at_least_one
from edgereason.core.types import MAX_STREAMS
from edgereason.errors import ConfigError
from edgereason.records.measure import Timings

FORMAT: Final = "edgereason-bench-parallel"
_STEP_S: Final = 0.01
_ROW_S: Final = 0.008
_TOKEN_S: Final = 0.004
"""Rough seconds of a step, of each of its streams, and of a prompt token (0.5B, Q4_0, 2 cores)."""


@dataclass(frozen=True, kw_only=True)
class ParallelBenchConfig(FileBenchConfig):
    """What to measure.

    Attributes:
        streams: numbers of streams; 1 is always measured, for the ratios.
        depths: prompt lengths in tokens.
        steps: steps of a round.
    """

    streams: tuple[int, ...] = (1, 2, 4, 8, 16)
    depths: tuple[int, ...] = (128, 512, 1024)
    steps: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least_one(steps=self.steps)
        require_distinct("streams", self.streams, most=MAX_STREAMS)
        require_distinct("depths", self.depths)

    @property
    def all_streams(self) -> tuple[int, ...]:
        """Numbers of streams in the order of measuring, 1 among them."""
        return tuple(sorted({1, *self.streams}))


@dataclass(frozen=True, slots=True)
class StepTiming:
    """One round of one case: mean seconds of a step, and cells in use after the last one."""

    step_s: float
    cells: int


DepthAndStreams = tuple[int, int]


def bench_parallel(config: ParallelBenchConfig, listener: Listener = SILENT) -> dict[str, Any]:
    """Measures parallel streams.

    Args:
        config: what to measure.
        listener: told how far it is, and what is fetched or made first.

    Raises:
        ConfigError: a depth is beyond the model's context.
        PullError, ModelFileError: the model can't be fetched, read or quantized.
    """
    subject = find_subject(config.model, as_is=config.as_is, threads=config.threads, notice=listener.notice)
    with Recording(subject) as recording, EndlessEngine(subject.path, threads=subject.threads) as engine:
        lab = Lab(engine, subject.path, subject.threads, config.rounds, config.seed)
        timings = _measure(lab, config, listener, subject.quantization)
        kv_bytes_per_cell = engine.info.kv_bytes_per_cell
    file = subject.entry()
    cases = case_entries(
        timings,
        kv_bytes_per_cell=kv_bytes_per_cell,
        read_per_token_bytes=file["read_per_token_bytes"],
        bandwidth=recording.read_bytes_per_s,
    )
    return recording.close(
        {"rounds": config.rounds, "kv_bytes_per_cell": kv_bytes_per_cell, "cases": cases} | file,
        format=FORMAT,
        config=asdict(config) | {"streams": config.all_streams},
    )


def case_entries(
    timings: Mapping[DepthAndStreams, list[StepTiming]],
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
    samples = Timings({str(case): [one.step_s for one in rounds] for case, rounds in timings.items()})
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


def _measure(
    lab: Lab, config: ParallelBenchConfig, listener: Listener, title: str
) -> dict[DepthAndStreams, list[StepTiming]]:
    engine, most, deepest = lab.engine, max(config.all_streams), max(config.depths)
    room = engine.context_tokens - len(lab.opening) - config.steps - 2
    if deepest > room:
        raise ConfigError(f"the model's context holds prompts of {room} tokens at most, got {deepest}")
    timings: dict[DepthAndStreams, list[StepTiming]] = {
        (depth, num_streams): [] for depth in config.depths for num_streams in config.all_streams
    }

    def turn(depth: int) -> None:
        with lab.sequence() as prefix:
            engine.encode(prefix, lab.prompt(depth))
            for num_streams in config.all_streams:
                with lab.streams(prefix, num_streams) as (batch, _):
                    step_s = mean_step_s(batch, config.steps)
                    timings[depth, num_streams].append(StepTiming(step_s, engine.used_cells))

    turns = [BenchTurn(title, _depth_s(depth, config), partial(turn, depth)) for depth in config.depths]
    cells = deepest + len(lab.opening) + most * (config.steps + 2)
    with engine.reserve(cells=cells, sequences=most + 2):
        take_turns([turns] * config.rounds, listener)
    return timings


def _depth_s(depth: int, config: ParallelBenchConfig) -> float:
    """Rough seconds of a depth's turn."""
    steps_s = sum((_STEP_S + _ROW_S * num_streams) * (config.steps + 2) for num_streams in config.all_streams)
    return _TOKEN_S * depth + steps_s

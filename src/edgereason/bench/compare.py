"""`bench compare`: model files beside each other, as a device would run them.

::

    round 1   A: prefill, N = 1, 4, 8   B: the same   …   round 2   A   B   …      minima, ratios to the first

All files are loaded at once and take turns, so that a disturbance of the machine meets all of them. Memory is
measured apart, in a process of its own for each file (`lab.peak_rss_of`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

from edgereason.bench.lab import EndlessEngine, Lab, mean_step_s, peak_rss_of
from edgereason.bench.progress import SILENT, BenchTurn, Listener, take_turns
from edgereason.bench.record import BenchConfig, Recording, Subject, find_subject, require_distinct
from edgereason.config import require_at_least_one
from edgereason.core.types import MAX_STREAMS
from edgereason.errors import ConfigError
from edgereason.records.measure import Timings, timed

FORMAT: Final = "edgereason-bench-compare"
_PROMPT_TOKENS: Final = 512
_ROUND_S: Final = 8.0
"""Rough seconds of one file's round (0.5B, 2 cores), for the time left."""


@dataclass(frozen=True, kw_only=True)
class CompareBenchConfig(BenchConfig):
    """What to measure.

    Attributes:
        models: names of the catalogue or GGUF files, two at least; ratios are to the first.
        streams: numbers of streams.
        steps: decode steps of a round.
    """

    models: tuple[str, ...]
    streams: tuple[int, ...] = (1, 4, 8)
    steps: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least_one(steps=self.steps)
        require_distinct("streams", self.streams, most=MAX_STREAMS)
        if len(self.models) < 2 or len(set(self.models)) < len(self.models):
            raise ConfigError(f"compare at least two different files, got {', '.join(self.models) or 'none'}")


def bench_compare(config: CompareBenchConfig, listener: Listener = SILENT) -> dict[str, Any]:
    """Measures files against each other; see `parallel.bench_parallel` for arguments and errors."""
    subjects = [
        find_subject(model, as_is=True, threads=config.threads, notice=listener.notice)
        for model in config.models
    ]
    names = [subject.path.name for subject in subjects]
    if len(set(names)) < len(names):
        raise ConfigError(f"files are told apart by their names, got {', '.join(names)}")
    with Recording(subjects[0]) as recording:
        prefill, decode = _measure(subjects, config, listener)
        files = []
        for subject in subjects:
            memory = peak_rss_of(subject.path, num_streams=max(config.streams), threads=subject.threads)
            speed = file_figures(subject.path.name, names[0], prefill, decode)
            files.append(subject.entry() | speed | memory)
    return recording.close(
        {"rounds": config.rounds, "files": files},
        format=FORMAT,
        config=asdict(config) | {"models": names, "model": names[0]},
    )


def file_figures(name: str, first: str, prefill: Timings, decode: Mapping[int, Timings]) -> dict[str, Any]:
    """A file's entry in the record: speeds, and seconds over those of the first file; below 1 is faster."""
    figures: dict[str, Any] = {
        "prefill_tokens_per_s": _PROMPT_TOKENS / prefill.best(name),
        "prefill_over_first": prefill.ratio(name, first),
    }
    for num_streams, samples in decode.items():
        figures[f"decode_tokens_per_s_n{num_streams}"] = num_streams / samples.best(name)
        figures[f"decode_n{num_streams}_over_first"] = samples.ratio(name, first)
        figures[f"decode_n{num_streams}_spread"] = samples.spread(name)
    return figures


def _measure(
    subjects: list[Subject], config: CompareBenchConfig, listener: Listener
) -> tuple[Timings, dict[int, Timings]]:
    """Seconds of a prefill, and of a decode step at every number of streams, by file."""
    prefill: dict[str, list[float]] = {subject.path.name: [] for subject in subjects}
    decode: dict[int, dict[str, list[float]]] = {
        num_streams: {name: [] for name in prefill} for num_streams in config.streams
    }
    most = max(config.streams)

    def turn(lab: Lab) -> None:
        name, prompt = lab.path.name, lab.prompt(_PROMPT_TOKENS)
        with lab.sequence() as prefix:
            prefill[name].append(timed(lambda: lab.engine.encode(prefix, prompt))())
            for num_streams in config.streams:
                with lab.streams(prefix, num_streams) as (batch, _):
                    decode[num_streams][name].append(mean_step_s(batch, config.steps))

    with ExitStack() as held:
        turns = []
        for subject in subjects:
            engine = held.enter_context(EndlessEngine(subject.path, threads=subject.threads))
            lab = Lab(engine, subject.path, subject.threads, config.rounds, config.seed)
            cells = _PROMPT_TOKENS + len(lab.opening) + most * (config.steps + 2)
            held.enter_context(engine.reserve(cells=cells, sequences=most + 2))
            turns.append(BenchTurn(lab.path.name, _ROUND_S, partial(turn, lab)))
        take_turns([turns] * config.rounds, listener)
    return Timings(prefill), {num_streams: Timings(seconds) for num_streams, seconds in decode.items()}

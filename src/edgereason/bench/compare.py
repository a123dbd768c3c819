"""`bench compare`: model files beside each other, as a device would run them.

::

    round 1   A: prefill, N = 1, 4, 8   B: the same   …   round 2   A   B   …      minima, ratios to the first

All files are loaded at once and take turns, so that they share the machine's weather. What memory each needs
is measured apart, in a process of its own that loads it and decodes (`memory.py`).

Owns the order of the measures and the record's shape. Does not know where files come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Final

from edgereason.bench.files import Notice
from edgereason.bench.lab import EndlessEngine, Lab
from edgereason.bench.memory import peak_rss_of
from edgereason.bench.progress import Meter, Report
from edgereason.bench.record import (
    Recording,
    Subject,
    find_subject,
    require_distinct,
    rounded,
    trial_note,
)
from edgereason.core.types import MAX_STREAMS
from edgereason.errors import ConfigError
from edgereason.evals.limits import require_at_least_one
from edgereason.records.machine import read_bandwidth
from edgereason.records.measure import MIN_ROUNDS, Samples, interleave, timed

FORMAT: Final = "edgereason-bench-compare"
_PROMPT_TOKENS: Final = 512
_ROUND_S: Final = 8.0
"""Rough seconds of one file's round (0.5B, 2 cores), for the time left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareBenchConfig:
    """What to measure.

    Attributes:
        models: names of the catalogue or GGUF files, two at least; ratios are to the first.
        rounds: of every case; fewer than 7 are a trial.
        threads: CPU threads; by default as many as this process may use.
        streams: numbers of streams.
        steps: decode steps of a round.
        seed: of the streams.
    """

    models: tuple[str, ...]
    rounds: int = MIN_ROUNDS
    threads: int | None = None
    streams: tuple[int, ...] = (1, 4, 8)
    steps: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least_one(rounds=self.rounds, threads=self.threads, steps=self.steps)
        require_distinct("streams", self.streams, most=MAX_STREAMS)
        if len(self.models) < 2 or len(set(self.models)) < len(self.models):
            raise ConfigError(f"two different files are compared at least, got {', '.join(self.models)}")


def bench_compare(
    config: CompareBenchConfig,
    report: Report = lambda _: None,
    notice: Notice = lambda _: None,
) -> dict[str, Any]:
    """Measures files against each other; see `parallel.bench_parallel` for what may be raised."""
    subjects = [
        find_subject(model, as_is=True, threads=config.threads, notice=notice) for model in config.models
    ]
    names = [subject.path.name for subject in subjects]
    if len(set(names)) < len(names):
        raise ConfigError(f"files are told apart by their names, got {', '.join(names)}")
    threads = subjects[0].threads
    recording, bandwidth = Recording(), read_bandwidth(threads)
    meter = Meter(report, config.rounds * _ROUND_S * len(subjects))
    prefill, decode = _measure(subjects, config, meter)
    entries = []
    for subject in subjects:
        memory = peak_rss_of(subject.path, num_streams=max(config.streams), threads=threads)
        entries.append(subject.entry() | file_figures(subject.path.name, names[0], prefill, decode) | memory)
    record = {"rounds": config.rounds, "files": entries} | recording.close(
        format=FORMAT,
        source=subjects[0].source,
        sha256=subjects[0].source_sha256,
        config=asdict(config) | {"models": names, "model": names[0]},
        threads=threads,
        bandwidth=max(bandwidth, read_bandwidth(threads)),
        notes=trial_note(config.rounds),
    )
    return {key: rounded(value) for key, value in record.items()}


def file_figures(name: str, first: str, prefill: Samples, decode: Mapping[int, Samples]) -> dict[str, Any]:
    """What the record says of a file: speeds, and seconds over those of the first file; below 1 is faster."""
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
    subjects: Sequence[Subject], config: CompareBenchConfig, meter: Meter
) -> tuple[Samples, dict[int, Samples]]:
    """Seconds of a prefill, and of a decode step at every number of streams, by file."""
    prefill: dict[str, list[float]] = {subject.path.name: [] for subject in subjects}
    decode: dict[int, dict[str, list[float]]] = {
        num_streams: {name: [] for name in prefill} for num_streams in config.streams
    }
    with ExitStack() as held:
        labs = []
        for subject in subjects:
            engine = held.enter_context(EndlessEngine(subject.path, threads=subject.threads))
            lab = Lab(engine, subject.path, subject.threads, config.rounds, config.seed)
            most = max(config.streams)
            cells = _PROMPT_TOKENS + len(lab.opening) + most * (config.steps + 2)
            held.enter_context(engine.reserve(cells=cells, sequences=most + 2))
            labs.append(lab)
        for i in range(config.rounds):
            for lab in labs:
                meter.enter(lab.path.name, f"round {i + 1} of {config.rounds}", _ROUND_S)
                _round(lab, config, prefill[lab.path.name], decode)
    return Samples(prefill), {num_streams: Samples(seconds) for num_streams, seconds in decode.items()}


def _round(
    lab: Lab,
    config: CompareBenchConfig,
    prefill: list[float],
    decode: Mapping[int, Mapping[str, list[float]]],
) -> None:
    prompt = lab.prompt(_PROMPT_TOKENS)
    with lab.sequence() as prefix:
        prefill.append(timed(lambda: lab.engine.encode(prefix, prompt))())
        for num_streams in config.streams:
            with lab.streams(prefix, num_streams) as (batch, _):
                batch.step()  # the first of a new shape rebuilds the graph
                mean_s = interleave({"step": timed(batch.step)}, config.steps).mean("step")
                decode[num_streams][lab.path.name].append(mean_s)

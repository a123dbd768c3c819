"""`bench peers`: ours beside other runtimes, on the same GGUF, prompts, lengths, draws and threads.

::

    round 1   prefill: ours, llama-cpp-python, xllamacpp …   decode_n1: ours, …   …   vote_n8: ours, …
    round 2   prefill: ours, …

Each contender is a process of its own (`process.py`); one is asked at a time, the others wait. All draw
by the same filters from an f16 cache in contexts of one size, and encode a case's prompt anew.

``vote_n8`` is *time to a voted answer*: eight completions of at most 160 tokens over a question and the
majority of their answers, which peers' callers must hold themselves. ``vote_n8_early`` is ours alone: the
vote stops what can't change it. Equal seeds do not draw equal texts across runtimes, so `tokens` says how
much each one wrote.

Owns cases, turns and the record's shape. Does not know the contenders (their own modules).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from benchmarks.peers.cases import OURS, PEERS, Case, PeerEntry
from benchmarks.peers.plan import SHAPES, Plan, Shape, make_plan
from benchmarks.peers.process import PeerProcess, command, environment, public
from benchmarks.peers.record import Run, Standing, case_entry, peer_entry, peers_notes
from edgereason.bench.files import Notice
from edgereason.bench.progress import Meter, Report
from edgereason.bench.record import Recording, find_subject, rounded, trial_note
from edgereason.config import nearest
from edgereason.errors import ConfigError, EngineError
from edgereason.evals.limits import require_at_least_one
from edgereason.hub.catalog import DEFAULT_MODEL
from edgereason.records.machine import read_bandwidth
from edgereason.records.measure import MIN_ROUNDS

FORMAT: Final = "edgereason-bench-peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersBenchConfig:
    """What to measure.

    Attributes:
        model: a name of the catalogue or a GGUF file.
        rounds: of the short cases; the long ones have fewer (`Shape.max_rounds`). Fewer than 7 are a trial.
        threads: CPU threads; by default as many as this process may use.
        only: names of peers; all of them if empty. Ours always takes part.
        peer_python: the interpreter that peers run in; edgereason must be importable there.
        as_is: the file itself, not a plain Q4_0 of it.
        seed: of the draws.
    """

    model: str = DEFAULT_MODEL
    rounds: int = MIN_ROUNDS
    threads: int | None = None
    only: tuple[str, ...] = ()
    peer_python: str = sys.executable
    as_is: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least_one(rounds=self.rounds, threads=self.threads)
        names = [name for name in PEERS if name != OURS]
        for name in self.only:
            if name not in names:
                raise ConfigError(f"no peer is called {name!r}: {nearest(name, names)}")

    @property
    def contenders(self) -> dict[str, PeerEntry]:
        """Who takes part, ours first."""
        return {name: entry for name, entry in PEERS.items() if name == OURS or name in (self.only or PEERS)}

    def rounds_of(self, shape: Shape, entry: PeerEntry) -> int:
        """How often a contender meets a case."""
        return min(self.rounds, shape.max_rounds or self.rounds, entry.max_rounds or self.rounds)


@dataclass(slots=True)
class _Contender:
    """A process under measurement, and what it has shown so far."""

    name: str
    entry: PeerEntry
    standing: Standing = field(default_factory=Standing)
    process: PeerProcess | None = None


def bench_peers(
    config: PeersBenchConfig,
    report: Report = lambda _: None,
    notice: Notice = lambda _: None,
) -> dict[str, Any]:
    """Measures ours and its peers. A peer that is missing or fails is recorded as that.

    Args:
        config: what to measure.
        report: told after every case of every contender.
        notice: told in a line what is made or fetched first, what loads, and what fails.

    Raises:
        EngineError: ours failed.
        PullError, ModelFileError: the model can't be had, read or quantized.
    """
    subject = find_subject(config.model, as_is=config.as_is, threads=config.threads, notice=notice)
    plan = make_plan(subject.path, subject.threads, config.seed)
    recording, workers_cpu_s = Recording(), _workers_cpu_s()
    bandwidth = read_bandwidth(subject.threads)
    with ExitStack() as held:
        contenders = [_Contender(name, entry) for name, entry in config.contenders.items()]
        for contender in contenders:
            _start(contender, config, plan, held, notice)
        _measure(config, contenders, plan, report, notice, subject.quantization)
    bandwidth = max(bandwidth, read_bandwidth(subject.threads))
    file = subject.entry()
    standings = {contender.name: contender.standing for contender in contenders}
    record = (
        {
            "rounds": config.rounds,
            "context_tokens": plan.setting.context_tokens,
            "peers": {name: peer_entry(PEERS[name], standing) for name, standing in standings.items()},
            "cases": {
                shape.name: case_entry(
                    shape, plan.cases[shape.name], standings, file["read_per_token_bytes"] / bandwidth
                )
                for shape in SHAPES
            },
        }
        | file
        | recording.close(
            format=FORMAT,
            source=subject.source,
            sha256=subject.source_sha256,
            config=_public(config),
            threads=subject.threads,
            bandwidth=bandwidth,
            notes=trial_note(config.rounds) + peers_notes(standings),
            workers_cpu_s=_workers_cpu_s() - workers_cpu_s,
        )
    )
    return {key: rounded(value) for key, value in record.items()}


def _start(
    contender: _Contender, config: PeersBenchConfig, plan: Plan, held: ExitStack, notice: Notice
) -> None:
    """Starts a contender's process, loads the model in it, and lets it warm up."""
    name, standing = contender.name, contender.standing
    notice(f"loading the model in {name}")
    python = sys.executable if name == OURS else config.peer_python
    try:
        process = held.enter_context(PeerProcess(name, command(python, name), environment(name)))
        about = process.ask({"op": "load", "setting": asdict(plan.setting)})
        if "missing" in about:
            standing.missing = about["missing"]
            notice(f"{name} is not installed: {contender.entry.install}")
            return
        standing.about = about
        process.ask({"op": "run", "case": asdict(plan.warm_up)})
    except EngineError as error:
        _fail(contender, error, notice)
    else:
        contender.process = process


def _measure(
    config: PeersBenchConfig,
    contenders: list[_Contender],
    plan: Plan,
    report: Report,
    notice: Notice,
    title: str,
) -> None:
    rounds = [
        [
            (contender, shape)
            for shape in SHAPES
            for contender in contenders
            if contender.process is not None
            and i < config.rounds_of(shape, contender.entry)
            and (contender.name == OURS or not shape.only_ours)
        ]
        for i in range(config.rounds)
    ]
    meter = Meter(report, sum(_expected_s(turns) for turns in rounds))
    for i, turns in enumerate(rounds):
        meter.enter(title, f"round {i + 1} of {config.rounds}", _expected_s(turns))
        for contender, shape in turns:
            _run(contender, plan.cases[shape.name], notice)
            meter.advance(_expected_s([(contender, shape)]) / _expected_s(turns))


def _run(contender: _Contender, case: Case, notice: Notice) -> None:
    """One turn; a contender that failed has no more of them."""
    if contender.process is None:
        return
    try:
        reply = contender.process.ask({"op": "run", "case": asdict(case)})
    except EngineError as error:
        _fail(contender, error, notice)
    else:
        contender.standing.add(case.name, Run.from_json(reply))


def _fail(contender: _Contender, error: EngineError, notice: Notice) -> None:
    if contender.name == OURS:
        raise error
    notice(str(error))
    contender.standing.error, contender.process = public(str(error)), None


def _expected_s(turns: list[tuple[_Contender, Shape]]) -> float:
    return sum(contender.entry.slowness * shape.expected_s for contender, shape in turns)


def _public(config: PeersBenchConfig) -> Mapping[str, Any]:
    """The configuration without the place of an interpreter: versions say what was in it."""
    values = asdict(config)
    del values["peer_python"]
    return values | {"only": config.only or tuple(name for name in PEERS if name != OURS)}


def _workers_cpu_s() -> float:
    """CPU seconds of this process' children that ended."""
    spent = os.times()
    return spent.children_user + spent.children_system

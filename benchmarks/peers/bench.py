"""Ours beside other runtimes, on the same GGUF, prompts, lengths, draws and threads.

::

    round 1   prefill: ours, llama-cpp-python, xllamacpp …   decode_n1: ours, …   …   vote_n8: ours, …
    round 2   prefill: ours, …

Each contender is a process of its own (`process.py`); one is asked at a time, the others wait. All draw
by the same filters from an f16 cache in contexts of one size, and encode a case's prompt anew.

``vote_n8`` is *time to a voted answer*: eight completions of at most 160 tokens over a question and the
majority of their answers, which peers' callers must hold themselves. ``vote_n8_early`` is ours alone: the
vote stops what can't change it. Equal seeds do not draw equal texts across runtimes, so `tokens` says how
much each one wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

from benchmarks.peers.cases import OURS, PEERS, Case, PeerEntry
from benchmarks.peers.plan import SHAPES, PeerPlan, Shape, make_plan
from benchmarks.peers.process import PeerProcess, command, environment, public
from benchmarks.peers.record import PeerRun, Standing, case_entry, peer_entry, peers_notes
from edgereason.bench.files import Notice
from edgereason.bench.progress import SILENT, BenchTurn, Listener, take_turns
from edgereason.bench.record import FileBenchConfig, Recording, find_subject
from edgereason.config import nearest
from edgereason.errors import ConfigError, EngineError

FORMAT: Final = "edgereason-bench-peers"


@dataclass(frozen=True, kw_only=True)
class PeersBenchConfig(FileBenchConfig):
    """What to measure; `rounds` are of the short cases, long ones have fewer (`Shape.max_rounds`).

    Attributes:
        only: names of peers; all of them if empty. Ours always takes part.
        peer_python: the interpreter that peers run in; edgereason must be importable there.
    """

    only: tuple[str, ...] = ()
    peer_python: str = sys.executable

    def __post_init__(self) -> None:
        super().__post_init__()
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


def bench_peers(config: PeersBenchConfig, listener: Listener = SILENT) -> dict[str, Any]:
    """Measures ours and its peers. A peer that is missing or fails is recorded as that.

    Args:
        config: what to measure.
        listener: told how far it is, what is fetched or made first, what loads, and what fails.

    Raises:
        EngineError: ours failed.
        PullError, ModelFileError: the model can't be fetched, read or quantized.
    """
    subject = find_subject(config.model, as_is=config.as_is, threads=config.threads, notice=listener.notice)
    plan = make_plan(subject.path, subject.threads, config.seed)
    contenders = [_Contender(name, entry) for name, entry in config.contenders.items()]
    with Recording(subject) as recording, ExitStack() as held:
        for contender in contenders:
            _start(contender, config, plan, held, listener.notice)
        take_turns(_rounds(config, contenders, plan, listener.notice, subject.quantization), listener)
    file = subject.entry()
    read_s_per_token = file["read_per_token_bytes"] / recording.read_bytes_per_s
    standings = {contender.name: contender.standing for contender in contenders}
    figures = {
        "rounds": config.rounds,
        "context_tokens": plan.setting.context_tokens,
        "peers": {name: peer_entry(PEERS[name], standing) for name, standing in standings.items()},
        "cases": {
            shape.name: case_entry(shape, plan.cases[shape.name], standings, read_s_per_token)
            for shape in SHAPES
        },
    }
    return recording.close(
        figures | file,
        format=FORMAT,
        config=_public(config),
        notes=peers_notes(standings),
    )


def _start(
    contender: _Contender, config: PeersBenchConfig, plan: PeerPlan, held: ExitStack, notice: Notice
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


def _rounds(
    config: PeersBenchConfig, contenders: Sequence[_Contender], plan: PeerPlan, notice: Notice, title: str
) -> list[list[BenchTurn]]:
    """The turns of every round: case by case, everyone that takes part in it."""
    return [
        [
            BenchTurn(
                title,
                contender.entry.slowness * shape.expected_s,
                partial(_run, contender, plan.cases[shape.name], notice),
            )
            for shape in SHAPES
            for contender in contenders
            if contender.process is not None
            and i < config.rounds_of(shape, contender.entry)
            and (contender.name == OURS or not shape.only_ours)
        ]
        for i in range(config.rounds)
    ]


def _run(contender: _Contender, case: Case, notice: Notice) -> None:
    """One turn; a contender that failed has no more of them."""
    if contender.process is None:
        return
    try:
        reply = contender.process.ask({"op": "run", "case": asdict(case)})
    except EngineError as error:
        _fail(contender, error, notice)
    else:
        contender.standing.add(case.name, PeerRun.from_json(reply))


def _fail(contender: _Contender, error: EngineError, notice: Notice) -> None:
    if contender.name == OURS:
        raise error
    notice(str(error))
    contender.standing.error, contender.process = public(str(error)), None


def _public(config: PeersBenchConfig) -> Mapping[str, Any]:
    """The configuration without the place of an interpreter: versions say what was in it."""
    values = asdict(config)
    del values["peer_python"]
    return values | {"only": config.only or tuple(name for name in PEERS if name != OURS)}

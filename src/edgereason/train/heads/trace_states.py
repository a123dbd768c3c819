"""What the verifier learns from: the model's own traces, whether they are right, and the states behind them.

::

    question ─ think, K streams ─ the pipeline has its verifier score them ─ which keeps what it reads instead
                    │                                                           │
                    └─ graded ─→ samples.jsonl: right or wrong, answer, tokens  └─→ states.f32

What is kept is what verifiers could read at run time, computed where they will stand and with no second
prefill: means of several layers over the trace, and the state behind the verification prompt.

Sample k of a question draws with a seed that comes from (seed, question, k) alone. A question's
samples are written when the last of them ends: a kill loses what was running.

Source: paper section 6 (16 candidates a question, states of the quantized model).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from edgereason.core.answers import grade, read_trace
from edgereason.core.chat import VERIFICATION
from edgereason.core.types import (
    Budget,
    Candidate,
    Message,
    Mode,
    Request,
    Stop,
    Vote,
)
from edgereason.engine.base import Engine
from edgereason.errors import ConfigError, ContextOverflow
from edgereason.heads.base import Array
from edgereason.reasoning.many import answer_many
from edgereason.reasoning.model import Model
from edgereason.records.context import RunContext
from edgereason.records.journal import JournalRow
from edgereason.train.data.generate import DrawConfig, require_streams, sample_seed
from edgereason.train.data.questions import Question
from edgereason.train.heads.record import StateJournal

_EXACT: Final = 1 << 24
"""Up to here float32 holds every whole number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceConfig(DrawConfig):
    """How traces are made.

    Attributes:
        samples: of each question.
        budget: most tokens of a trace.
    """

    samples: int = 8
    budget: int = 512

    def __post_init__(self) -> None:
        DrawConfig.__post_init__(self)
        require_streams(samples=self.samples)
        self.request("?", 0, self.samples)  # its ranges are refused now, not in the middle

    @property
    def run(self) -> dict[str, Any]:
        """What a trace depends on, beside its question, the model and the adapter."""
        return {name: getattr(self, name) for name in ("budget", "temperature", "top_p", "top_k", "seed")}

    def request(self, question: str, seed: int, streams: int) -> Request:
        """What the model is asked; stream i draws with seed + i."""
        return Request(
            messages=(Message("user", question),),
            mode=Mode.THINK,
            budget=Budget(limit_tokens=self.budget),
            streams=streams,
            vote=Vote.MAJORITY,
            stop_early=False,
            sampling=self.sampling,
            seed=seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStateRow(JournalRow):
    """A trace whose state is there.

    Attributes:
        id: of the question; `number` tells its traces apart, from 0.
        question_sha256: of the question's text and right answer.
        right: whether the answer is the right one; without an answer it is not.
        num_tokens: as the budget counts them.
    """

    id: str
    number: int
    source: str
    question_sha256: str
    seed: int
    answer: str | None
    right: bool
    num_tokens: int
    stop: Stop

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the row in its run."""
        return self.id, self.number


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Traces and what was kept of each, (N, W), in one order."""

    rows: tuple[TraceStateRow, ...]
    states: Array

    @classmethod
    def of(cls, journal: StateJournal[TraceStateRow]) -> Self:
        """All that a journal holds."""
        return cls(tuple(journal.rows), journal.states())

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each trace is right, (N,)."""
        return np.array([row.right for row in self.rows], np.bool_)

    @property
    def questions(self) -> list[str]:
        """The id of each trace's question."""
        return [row.id for row in self.rows]

    @property
    def counts(self) -> dict[str, int]:
        """For the record: questions, those of them that have right and wrong traces, traces, right ones."""
        by_question: dict[str, set[bool]] = {}
        for row in self.rows:
            by_question.setdefault(row.id, set()).add(row.right)
        mixed = sum(len(labels) == 2 for labels in by_question.values())
        counts = {"questions": len(by_question), "mixed_questions": mixed}
        return counts | {"samples": len(self.rows), "right": int(self.right.sum())}

    def only(self, is_wanted: Callable[[TraceStateRow], bool]) -> Samples:
        """Those of the traces that are wanted."""
        chosen = [i for i, row in enumerate(self.rows) if is_wanted(row)]
        return Samples(tuple(self.rows[i] for i in chosen), self.states[chosen])

    def about(self, questions: Sequence[Question]) -> Samples:
        """Those of these questions."""
        ids = {question.id for question in questions}
        return self.only(lambda row: row.id in ids)


class Recorder:
    """Stands in for a verifier and keeps the features that it is to score.

    What it returns are not probabilities: each "score" is a ticket, the running number of a state, exact in
    float32. Only for votes that read no scores.

    Args:
        layers: whose means it reads.
        prompt_ids: the verification prompt.
    """

    def __init__(self, layers: Sequence[int], prompt_ids: Sequence[int]) -> None:
        self._layers, self._prompt_ids = tuple(layers), tuple(prompt_ids)
        self._kept: dict[int, Array] = {}
        self._next = 0

    @property
    def layers(self) -> tuple[int, ...]:
        return self._layers

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self._prompt_ids

    def score(self, features: Array) -> Array:
        tickets = range(self._next, self._next + len(features))
        assert tickets.stop <= _EXACT
        self._next = tickets.stop
        self._kept.update(zip(tickets, features, strict=True))
        return np.array(tickets, np.float32)

    def take(self, ticket: float | None) -> Array:
        """The features that a ticket stands for, (F,); once."""
        assert ticket is not None, "the pipeline did not ask its verifier about a finished trace"
        return self._kept.pop(int(ticket))


def verification_ids(engine: Engine) -> tuple[int, ...]:
    """The verification prompt, as the engine's model has it put behind a trace."""
    return engine.info.template.next_turn(VERIFICATION, engine.tokenize)


def collect(
    journal: StateJournal[TraceStateRow],
    config: TraceConfig,
    questions: Sequence[Question],
    model: Model,
    layers: Sequence[int],
    context: RunContext,
) -> bool:
    """Adds the traces of questions that the journal lacks; False if stopped before the last.

    Args:
        journal: traces that are there are not made again.
        config: how.
        questions: with unique ids; those that do not fit are left out.
        model: with the adapter that will run; its heads are not used.
        layers: whose means are kept, in this order, before the state behind the verification prompt.
        context: asked between steps whether to stop; what is written stays.

    Raises:
        ConfigError: the journal has traces of another question with the same id.
    """
    recorder = Recorder(layers, verification_ids(model.engine))
    recording = model.with_heads(verifier=recorder)
    there = _num_there(journal, questions)
    pending: list[tuple[Question, int]] = []
    requests: list[Request] = []
    done = total = 0
    for question in questions:
        first = there.get(question.id, 0)
        seed = sample_seed(config.seed, question.id, first)
        request = config.request(question.text, seed, max(1, config.samples - first))
        try:
            recording.pipeline.room(request)
        except ContextOverflow:
            continue
        done, total = done + min(first, config.samples), total + config.samples
        if first < config.samples:
            pending.append((question, first))
            requests.append(request)
    context.progress("samples", done, total)
    num_missing = len(requests)
    answered = answer_many(recording, requests, max_running=config.parallel, should_stop=context.should_stop)
    with closing(answered):
        for index, response in answered:
            question, first = pending[index]
            rows = [_row(question, first, candidate) for candidate in response.candidates]
            states = [recorder.take(candidate.score) for candidate in response.candidates]
            journal.append(rows, np.stack(states))
            num_missing -= 1
            done += len(rows)
            context.progress("samples", done, total)
    return num_missing == 0


def _num_there(journal: StateJournal[TraceStateRow], questions: Sequence[Question]) -> dict[str, int]:
    """How many traces of each question are there, from number 0 on."""
    by_key = {row.key: row for row in journal.rows}
    num_there: dict[str, int] = {}
    for question in questions:
        number = 0
        while row := by_key.get((question.id, number)):
            if row.question_sha256 != _sha256(question):
                raise ConfigError(
                    f"{question.place}: the folder has traces of another question with the id "
                    f"{question.id!r}: choose a new folder (--output)"
                )
            number += 1
        num_there[question.id] = number
    return num_there


def _row(question: Question, first: int, candidate: Candidate) -> TraceStateRow:
    trace = candidate.trace
    answer = read_trace(trace.text, trace.thinking, question.text)
    return TraceStateRow(
        id=question.id,
        number=first + trace.index,
        source=question.source,
        question_sha256=_sha256(question),
        seed=trace.seed,
        answer=None if answer is None else answer.text,
        right=grade(answer, question.reference),
        num_tokens=trace.num_tokens,
        stop=trace.stop,
    )


def _sha256(question: Question) -> str:
    return hashlib.sha256(f"{question.text}\n{question.reference}".encode()).hexdigest()

"""Traces made here: a teacher solves questions on our own engine, and what comes out right is kept.

::

    questions ─ in no evaluation ─→ K samples each, samples.jsonl ─ right, whole, fitting, no duplicate ─┐
                                          traces.jsonl ←─ of each question the N nearest to the median ──┘

The teacher is any GGUF in chat mode, or a model that a server serves (`endpoint.py`). A system message asks
it to think aloud, to check, and to box its answer. A trace's own messages hold the plain question, and not
that one: nothing that differs between chat and thinking may stand in a prompt.

Which samples become traces is the rule of `solutions.choose`, which the record names.

Sample k of a question draws with a seed that comes from (seed, question, k) alone. A question's samples are
written when the last of them ends: a kill loses what was running, and the same call goes on behind it. What
runs beside a sample changes the rounding of a native batch, so only `parallel` 1 with one sample a question
gives the same tokens again; otherwise they are other draws from the same distribution.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from edgereason.config import require_at_least_one
from edgereason.core.types import MAX_STREAMS, Message, Mode, Request, Response, Sampling
from edgereason.errors import ConfigError, ContextOverflow
from edgereason.reasoning.many import answer_many
from edgereason.reasoning.model import Model
from edgereason.records.context import RunContext
from edgereason.records.folder import RunFolder, model_entry
from edgereason.records.journal import Journal
from edgereason.train.data.decontaminate import Evaluations
from edgereason.train.data.questions import LEFT_OUT, Question, Questions, require_unique_ids, usable
from edgereason.train.data.solutions import RULE, SampleRow, choose
from edgereason.train.data.traces import (
    FORMAT,
    TRACES,
    Drop,
    Lengths,
    TraceRow,
    finish_traces,
    length_summary,
    write_traces,
)

INSTRUCTION: Final = (
    "You solve problems by thinking aloud, in plain sentences, as a careful person does with pencil and "
    "paper. Never write a program: nothing can run it. No headings and no lists either. Take one small step "
    "at a time, say why you take it, and calculate it in full, by hand. Once you have a result, do not trust "
    "it yet: check it against the problem, by working backwards or by calculating it in another way, and "
    "where something does not fit, say so and correct it. End with one sentence that gives the final answer "
    "inside \\boxed{}."
)
"""What the teacher is told; the student never sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawConfig:
    """How responses to many questions are drawn.

    Attributes:
        temperature: 0 is greedy; top_p and top_k as of `Sampling`.
        seed: that every question's own seed follows from.
        parallel: responses that run at a time.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 40
    seed: int = 0
    parallel: int = 16

    def __post_init__(self) -> None:
        require_streams(parallel=self.parallel)
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed must be between 0 and 2147483647, got {self.seed}")

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


def require_streams(**values: int) -> None:
    """Refuses numbers of streams that are out of range.

    Raises:
        ConfigError: naming the setting.
    """
    for name, value in values.items():
        if not 1 <= value <= MAX_STREAMS:
            raise ConfigError(f"{name} must be between 1 and {MAX_STREAMS}, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig(DrawConfig):
    """How traces are made.

    Attributes:
        samples: of each question.
        keep: most traces of each question.
        max_tokens: longest sample and longest trace.
        instruction: the teacher's system message.
        calculator: whether exact results of arithmetic are forced in what the teacher says.
    """

    samples: int = 4
    keep: int = 2
    max_tokens: int = 512
    instruction: str = INSTRUCTION
    calculator: bool = False

    def __post_init__(self) -> None:
        DrawConfig.__post_init__(self)
        require_streams(samples=self.samples)
        require_at_least_one(keep=self.keep)
        self.request("?", 0, self.samples)  # its ranges are refused now, not in the middle

    @property
    def run(self) -> dict[str, Any]:
        """What a sample depends on, beside its question and the model."""
        names = ("temperature", "top_p", "top_k", "max_tokens", "seed", "instruction")
        run = {name: getattr(self, name) for name in names}
        return run | ({"calculator": True} if self.calculator else {})  # folders of before know no other

    def request(self, question: str, seed: int, streams: int) -> Request:
        """What the teacher is asked; stream i draws with seed + i."""
        return Request(
            messages=(Message("system", self.instruction), Message("user", question)),
            mode=Mode.CHAT,
            streams=streams,
            stop_early=False,
            sampling=self.sampling,
            seed=seed,
            max_tokens=self.max_tokens,
            calculator=self.calculator,
        )


_COUNTS: Final = (
    *(*LEFT_OUT, "question_too_long", "asked"),
    *(
        "samples",
        Drop.CUT,
        Drop.NO_ANSWER,
        Drop.NO_CLOSING,
        Drop.WRONG,
        Drop.NO_THINKING,
        Drop.TAGS,
        Drop.CODE,
    ),
    *(Drop.UNSTATED, "right", Drop.TOO_LONG, Drop.DUPLICATE, "not_chosen", "traces", "questions_with_traces"),
)
"""What records count, in the order in which things are left out; "right" are those that made a trace."""


REFUSED: Final = "refused"
FAILED: Final = "failed"
"""Samples that a server would not, or could not draw."""


@dataclass(slots=True)
class Yield:
    """What a source came to: counts by name, and the lengths of its traces."""

    counts: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        counts = self.counts
        shares = {
            "share_contaminated": _share(counts["contaminated"], counts["questions"]),
            "share_right": _share(counts["right"], counts["samples"]),
            "share_of_questions_with_traces": _share(counts["questions_with_traces"], counts["asked"]),
        }
        named = {str(name): counts[name] for name in _COUNTS}
        named |= {name: counts[name] for name in (REFUSED, FAILED) if counts[name]}
        return named | shares | {"tokens": length_summary(self.lengths)}


Missing = tuple[Question, Sequence[int]]
"""A question, and the numbers of the samples that it still needs."""

Take = Callable[[Question, "list[SampleRow] | str"], None]
"""Is given samples of a question, or why one of them can't be had."""


class Teacher(Protocol):
    """Who draws samples."""

    @property
    def entry(self) -> dict[str, Any]:
        """What the record says of it."""

    def run(self, config: GenerateConfig) -> dict[str, Any]:
        """What a sample depends on, beside its question."""

    def settings(self, config: GenerateConfig) -> dict[str, Any]:
        """What the record says of how it was asked."""

    def has_room(self, question: Question, config: GenerateConfig) -> bool:
        """Whether the question leaves room for an answer."""

    def draw(
        self,
        config: GenerateConfig,
        missing: Sequence[Missing],
        take: Take,
        should_stop: Callable[[], bool],
    ) -> None:
        """Draws what is missing; told to stop, it drops what runs."""


@dataclass(frozen=True, slots=True)
class EngineTeacher:
    """A model on our own engine; a question's samples share its prompt, and are taken together."""

    model: Model

    @property
    def entry(self) -> dict[str, Any]:
        """What the record says of it."""
        return model_entry(self.model.info)

    def run(self, config: GenerateConfig) -> dict[str, Any]:
        """What a sample depends on, beside its question."""
        entry = self.entry
        return {"teacher": entry["sha256"] or entry["name"], **config.run}

    def settings(self, config: GenerateConfig) -> dict[str, Any]:
        """What the record says of how it was asked."""
        return asdict(config)

    def has_room(self, question: Question, config: GenerateConfig) -> bool:
        """Whether the question leaves room for an answer in the teacher's context."""
        try:
            self.model.pipeline.room(config.request(question.text, 0, config.samples))
        except ContextOverflow:
            return False
        return True

    def draw(
        self,
        config: GenerateConfig,
        missing: Sequence[Missing],
        take: Take,
        should_stop: Callable[[], bool],
    ) -> None:
        """Draws what is missing; told to stop, it drops what runs."""
        requests = [
            config.request(question.text, sample_seed(config.seed, question.id, numbers[0]), len(numbers))
            for question, numbers in missing
        ]
        answered = answer_many(self.model, requests, max_running=config.parallel, should_stop=should_stop)
        with closing(answered):
            for index, response in answered:
                question, numbers = missing[index]
                take(question, _rows(question, numbers[0], response))


def generate(
    folder: Path,
    config: GenerateConfig,
    sources: Sequence[Questions],
    against: Evaluations,
    *,
    model: Model,
    teacher: Teacher | None = None,
    context: RunContext = RunContext(),
) -> dict[str, Any] | None:
    """Makes traces, or goes on with those of `folder`.

    More questions, more samples a question, another `keep` or other evaluations go on with the samples that
    are there; another model or other sampling is refused.

    Args:
        folder: of samples, traces and record; made if it is not there.
        config: how.
        sources: questions.
        against: evaluations; what they ask is not asked here.
        model: counts tokens; nobody else may use it meanwhile.
        teacher: draws samples; None for the model itself.
        context: stopped, it drops what runs and keeps what is written.

    Returns:
        The record; None if it was stopped.

    Raises:
        ConfigError: the folder holds something else, or two questions have one id.
        RequestError: a setting is out of range.
    """
    require_unique_ids(question for source in sources for question in source.questions)
    questions, counts = usable(sources, against)
    yields = {name: Yield(of_source) for name, of_source in counts.items()}
    teacher = teacher or EngineTeacher(model)
    run = teacher.run(config)
    RunFolder(folder, "set of traces").claim_record(FORMAT, run)
    with Journal(folder, SampleRow) as journal:
        samples = _sample(config, questions, teacher, journal, yields, context)
    if samples is None:
        return None
    lengths = Lengths.of(model.engine)
    traces: list[TraceRow] = []
    for question in questions:
        of_source = yields[question.source]
        kept = choose(
            question,
            samples.get(question.id, ()),
            lengths,
            max_tokens=config.max_tokens,
            keep=config.keep,
            counts=of_source.counts,
        )
        of_source.lengths += [trace.num_tokens or 0 for trace in kept]
        traces += kept
    everything = Yield(
        sum((one.counts for one in yields.values()), Counter()),
        [length for one in yields.values() for length in one.lengths],
    )
    record = {
        "way": "generated",
        "model": teacher.entry,
        "config": teacher.settings(config),
        "rule": RULE,
        "questions": [dict(source.entry) for source in sources],
        "against": list(against.files),
        "yield": {name: one.to_json() for name, one in yields.items()},
        "yield_of_all": everything.to_json(),
        "sampled_tokens": sum(row.num_tokens for rows in samples.values() for row in rows),
        **context.about(),
    }
    return finish_traces(folder, run, write_traces(folder / TRACES, traces), record)


def sample_seed(seed: int, question_id: str, number: int) -> int:
    """The seed of a question's sample: its own for every question, and the next one for the next sample."""
    digest = hashlib.sha256(f"{seed}/{question_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % (2**31 - MAX_STREAMS) + number


def _sample(
    config: GenerateConfig,
    questions: Sequence[Question],
    teacher: Teacher,
    journal: Journal[SampleRow],
    yields: Mapping[str, Yield],
    context: RunContext,
) -> dict[str, list[SampleRow]] | None:
    """Every question's samples, by its id, in order; those that are missing are drawn. None if stopped."""
    start_s = time.perf_counter()
    samples = _found(config, questions, journal)
    missing: list[Missing] = []
    num_asked = 0
    for question in questions:
        counts = yields[question.source].counts
        if not teacher.has_room(question, config):  # the question alone fills the context
            counts["question_too_long"] += 1
            continue
        num_asked += 1
        counts["asked"] += 1
        there = {row.number for row in samples.get(question.id, ())}
        if numbers := [number for number in range(config.samples) if number not in there]:
            missing.append((question, numbers))
    num_done, total = sum(map(len, samples.values())), num_asked * config.samples
    num_missing = sum(len(numbers) for _, numbers in missing)
    fresh_tokens = 0

    def report() -> None:
        speed = f"{fresh_tokens / (time.perf_counter() - start_s):.0f} tok/s" if fresh_tokens else ""
        context.progress("samples", num_done, total, speed)

    def take(question: Question, drawn: list[SampleRow] | str) -> None:
        nonlocal num_done, num_missing, fresh_tokens
        if isinstance(drawn, str):
            yields[question.source].counts[drawn] += 1
            num_done, num_missing = num_done + 1, num_missing - 1
        else:
            journal.append(*drawn)
            samples.setdefault(question.id, []).extend(drawn)
            num_done, num_missing = num_done + len(drawn), num_missing - len(drawn)
            fresh_tokens += sum(row.num_tokens for row in drawn)
        report()

    report()
    teacher.draw(config, missing, take, context.should_stop)
    if num_missing:
        return None
    return {name: sorted(rows, key=lambda row: row.number) for name, rows in samples.items()}


def _found(
    config: GenerateConfig, questions: Sequence[Question], journal: Journal[SampleRow]
) -> dict[str, list[SampleRow]]:
    """Samples that are there, of the questions asked now; an endpoint's come in any order."""
    by_key = {row.key: row for row in journal.found}
    samples = {}
    for question in questions:
        rows: list[SampleRow] = []
        for number in range(config.samples):
            if (row := by_key.get((question.id, number))) is None:
                continue
            if row.question_sha256 != question_sha256(question):
                raise ConfigError(
                    f"{question.place}: the folder has samples of another question with the id "
                    f"{question.id!r}: choose a new folder (--output)"
                )
            rows.append(row)
        if rows:
            samples[question.id] = rows
    return samples


def _rows(question: Question, first: int, response: Response) -> list[SampleRow]:
    return [
        SampleRow(
            id=question.id,
            number=first + candidate.trace.index,
            question_sha256=question_sha256(question),
            seed=candidate.trace.seed,
            text=candidate.trace.text,
            num_tokens=candidate.trace.num_tokens,
            stop=candidate.trace.stop,
        )
        for candidate in response.candidates
    ]


def question_sha256(question: Question) -> str:
    """Of a question's text and right answer: samples of another question don't count."""
    return hashlib.sha256(f"{question.text}\n{question.reference}".encode()).hexdigest()


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None

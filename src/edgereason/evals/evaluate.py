"""A task is asked: items become requests, requests run in one batch, and every response becomes a row.

::

    items × repeats ─ not yet in samples.jsonl ─→ requests ─ answer_many, one batch ─→ rows, one by one

The same pipeline as `ask`. A row is written when its request ends, so a kill loses what was running and
nothing else, and the same call goes on behind it. A row's seed comes from its question and repetition alone,
whatever runs beside it. But that changes the rounding of a native batch, so that only one stream at a time
(`parallel` 1) gives the same tokens again; several give other draws from the same distribution.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from edgereason.config import require_at_least_one
from edgereason.core.answers import Kind, read_trace
from edgereason.core.types import (
    DEFAULT_CHAT_TOKENS,
    MAX_STREAMS,
    Budget,
    Candidate,
    Effort,
    Message,
    Mode,
    Request,
    Response,
    Sampling,
    Stop,
    Vote,
)
from edgereason.engine.base import Engine, KvType
from edgereason.errors import ConfigError
from edgereason.evals.samples import RecordedTrace, Sample
from edgereason.evals.tasks.base import Item, Output, Preset
from edgereason.hub.catalog import DEFAULT_BUNDLE
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.many import answer_many
from edgereason.reasoning.model import Model
from edgereason.records.context import RunContext
from edgereason.records.journal import Journal

_FULL: Final = 0.9
"""A step counts as one of the full batch from this share of the most streams on."""


@dataclass(frozen=True, slots=True)
class TimedStep:
    """One step of the batch."""

    num_streams: int
    seconds: float


class TimedBatch(Batch):
    """A batch that notes what each step took."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.steps: list[TimedStep] = []

    def step(self) -> None:
        num_streams, start_s = self.num_running, time.perf_counter()
        super().step()
        self.steps.append(TimedStep(num_streams, time.perf_counter() - start_s))


def full_batch_rate(steps: list[TimedStep]) -> float | None:
    """Tokens a second over the steps in which the batch was full; None without steps."""
    most = max((step.num_streams for step in steps), default=0)
    full = [step for step in steps if step.num_streams >= _FULL * most]
    seconds = sum(step.seconds for step in full)
    return sum(step.num_streams for step in full) / seconds if seconds else None


@dataclass(slots=True)
class Speed:
    """What one session of an evaluation took; adds up as samples come in.

    The ideal is prompt tokens over the prefill speed, plus generated tokens over the decode speed of a full
    batch. What the wall time adds to it is the batch draining at the end, grading and writing. Prefill
    speed is over the seconds from each request's acceptance to its first token; decode speed over the steps
    in which the batch was full.
    """

    steps: list[TimedStep] = field(default_factory=list)
    num_samples: int = 0
    prompt_tokens: int = 0
    prefill_s: float = 0.0
    generated_tokens: int = 0

    def add(self, *, prompt_tokens: int, prefill_s: float, generated_tokens: int) -> None:
        """Counts a finished sample in."""
        self.num_samples += 1
        self.prompt_tokens += prompt_tokens
        self.prefill_s += prefill_s
        self.generated_tokens += generated_tokens

    def summary(self, wall_s: float) -> dict[str, float | int | None]:
        """The figures of a session that took `wall_s`; rates in tokens a second."""
        decode_rate = full_batch_rate(self.steps)
        ideal_s = self.prefill_s + (self.generated_tokens / decode_rate if decode_rate else 0.0)
        return {
            "timed_samples": self.num_samples,
            "wall_s": wall_s,
            "wall_ratio": wall_s / ideal_s if ideal_s else None,
            "prefill_tokens_per_s": self.prompt_tokens / self.prefill_s if self.prefill_s else None,
            "decode_tokens_per_s": decode_rate,
            "tokens_per_s": self.generated_tokens / wall_s if wall_s else None,
            "mean_streams": _mean_streams(self.steps),
        }


def _mean_streams(steps: list[TimedStep]) -> float | None:
    """Streams that ran in a step on average, weighted by time."""
    seconds = sum(step.seconds for step in steps)
    return sum(step.num_streams * step.seconds for step in steps) / seconds if seconds else None


_FEW_STREAMS: Final = 8
"""Up to here, sharing cells costs little time, and it takes less memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """What to evaluate and how; `None` leaves a setting to the task's preset, or to what `ask` does.

    Attributes:
        task: a name of the catalogue of tasks, or `gym:` and a generator.
        model: a name of the catalogue or a GGUF file; `bundle` instead brings its own. With neither, the
            bundle that comes with this package.
        budget: most tokens of a stream.
        budget_s: seconds for a request, which then has the machine to itself: `parallel` is 1.
        repeats: how often each question is asked.
        stage: how many streams begin with each stage; see `Request`.
        stop_early: whether streams stop when their vote is certain; off, all of them run to their ends, so
            that votes over fewer can be drawn from the rows.
        parallel: streams that run at a time; no request is started while there are so many.
        kv: type of the KV cache.
        calculator: whether exact results are forced in thinking; None leaves it to the bundle; see `Request`.
        enable_thinking: what the templates of natively reasoning models are told; None: not to think in chat.
        run_code: allows code tasks to run what the model wrote.
        label: what the run is called in reports.
    """

    task: str
    score: Literal["answer"] = "answer"
    model: str | None = None
    bundle: str | None = None
    mode: Mode = Mode.AUTO
    budget: int | None = None
    budget_s: float | None = None
    effort: Effort | None = None
    streams: int = 1
    vote: Vote | None = None
    stage: tuple[int, ...] | None = None
    stop_early: bool = True
    max_tokens: int | None = None
    system: str | None = None
    calculator: bool | None = None
    enable_thinking: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    repeats: int | None = None
    limit: int | None = None
    parallel: int = 16
    threads: int | None = None
    kv: KvType = "f16"
    run_code: bool = False
    label: str | None = None

    def __post_init__(self) -> None:
        require_at_least_one(
            repeats=self.repeats, limit=self.limit, threads=self.threads, parallel=self.parallel
        )
        if self.model is not None and self.bundle is not None:
            raise ConfigError("a bundle brings its model: give one of the two")
        if self.parallel > MAX_STREAMS:
            raise ConfigError(f"parallel must be at most {MAX_STREAMS}, got {self.parallel}")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed must be between 0 and 2147483647, got {self.seed}")

    def resolved(self, preset: Preset) -> EvalConfig:
        """The configuration with nothing left to presets and defaults, and no local path in it.

        Greedy decoding is asked once: its repetitions would say the same.
        """
        temperature = preset.temperature if self.temperature is None else self.temperature
        return replace(
            self,
            temperature=temperature,
            top_p=preset.top_p if self.top_p is None else self.top_p,
            repeats=self.repeats or (preset.repeats if temperature > 0 else 1),
            top_k=Sampling().top_k if self.top_k is None else self.top_k,
            effort=self.effort or (Effort.MEDIUM if self._budget is None else None),
            parallel=self.parallel if self.budget_s is None else 1,
            max_tokens=self.max_tokens or (DEFAULT_CHAT_TOKENS if self.mode is Mode.CHAT else None),
            model=None if self.model is None else Path(self.model).name,
            bundle=None if self.model is not None else Path(self.bundle or DEFAULT_BUNDLE).resolve().name,
        )

    @property
    def shares_cells(self) -> bool:
        """Whether so few streams run at a time that they share one pool of cells."""
        return self.budget_s is not None or self.parallel <= _FEW_STREAMS

    @property
    def _budget(self) -> Budget | None:
        if self.budget is None and self.budget_s is None:
            return None
        return Budget(limit_tokens=self.budget, limit_s=self.budget_s)

    def request(self, question: str, seed: int) -> Request:
        """What is asked of one question.

        Raises:
            RequestError: a setting is out of range.
        """
        user = Message("user", question)
        default = Sampling()
        return Request(
            messages=(Message("system", self.system), user) if self.system else (user,),
            mode=self.mode,
            effort=self.effort or Effort.MEDIUM,
            budget=self._budget,
            streams=self.streams,
            vote=self.vote,
            sampling=Sampling(
                temperature=default.temperature if self.temperature is None else self.temperature,
                top_k=default.top_k if self.top_k is None else self.top_k,
                top_p=default.top_p if self.top_p is None else self.top_p,
            ),
            seed=seed,
            max_tokens=self.max_tokens,
            stage=self.stage or (),
            stop_early=self.stop_early,
            calculator=self.calculator,
            enable_thinking=self.enable_thinking,
        )


def question_seed(seed: int, item_id: str, repeat: int) -> int:
    """The seed of a question's request, whose stream i draws with it + i: its own for every question.

    One seed for all would tie the draws of all questions together, and with them the errors of a vote curve.
    """
    digest = hashlib.sha256(f"{seed}/{repeat}/{item_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % (2**31 - MAX_STREAMS)


def evaluate(
    config: EvalConfig,
    items: Sequence[Item],
    model: Model,
    folder: Path,
    context: RunContext = RunContext(),
) -> tuple[list[Sample], dict[str, Any]]:
    """Asks what is not answered yet in `folder`, and appends each row as it comes.

    Args:
        config: resolved: its `repeats` is set.
        items: the task's.
        model: answers; nobody else may use it meanwhile.
        folder: exists; holds the rows.
        context: stopped, it drops what runs and keeps what is written.

    Returns:
        All rows, those found included, sorted by item and repetition; and the speed of this session.

    Raises:
        RequestError: a question does not fit, or a setting is out of range; nothing was generated then.
    """
    start_s, speed = time.perf_counter(), Speed()
    with Journal(folder, Sample) as journal:
        samples = {sample.key: sample for sample in journal.found}
        pending = [
            (item, repeat)
            for repeat in range(config.repeats or 1)
            for item in items
            if (item.id, repeat) not in samples
        ]
        requests = [
            config.request(item.question, question_seed(config.seed, item.id, r)) for item, r in pending
        ]
        total = len(samples) + len(pending)
        context.progress("", len(samples), total, _figures(samples, 0.0, speed))
        batch = TimedBatch(model.engine)
        answered = answer_many(
            model, requests, max_running=config.parallel, batch=batch, should_stop=context.should_stop
        )
        with closing(answered):
            for index, response in answered:
                item, repeat = pending[index]
                sample = _sample(item, repeat, response)
                journal.append(sample)
                samples[sample.key] = sample
                speed.add(
                    prompt_tokens=sample.prompt_tokens,
                    prefill_s=sample.ttft_s,
                    generated_tokens=sample.all_streams_tokens,
                )
                figures = _figures(samples, time.perf_counter() - start_s, speed)
                context.progress("", len(samples), total, figures)
        speed.steps = batch.steps
    order = {item.id: number for number, item in enumerate(items)}
    rows = sorted(samples.values(), key=lambda sample: (order.get(sample.id, len(order)), sample.repeat))
    return rows, speed.summary(time.perf_counter() - start_s)


def _sample(item: Item, repeat: int, response: Response) -> Sample:
    traces = tuple(_trace_row(item, candidate) for candidate in response.candidates)
    winning = {trace.index: trace for trace in traces}.get(-1 if response.winner is None else response.winner)
    return Sample(
        id=item.id,
        repeat=repeat,
        seed=response.seed,
        route=response.route,
        p_think=response.p_think,
        reference=item.reference,
        answer=winning.answer or "" if winning else "",
        score=winning.score if winning else 0.0,
        stop=response.stop,
        winner=response.winner,
        prompt_tokens=response.usage.prompt_tokens,
        thinking_tokens=response.usage.thinking_tokens,
        answer_tokens=response.usage.answer_tokens,
        all_streams_tokens=response.usage.all_streams_tokens,
        kv_bytes=response.kv_bytes,
        ttft_s=response.timing.ttft_s,
        total_s=response.timing.total_s,
        verify_s=response.timing.verify_s,
        traces=traces,
    )


def _trace_row(item: Item, candidate: Candidate) -> RecordedTrace:
    trace = candidate.trace
    return RecordedTrace(
        index=trace.index,
        stop=trace.stop,
        thinking_tokens=trace.thinking_tokens,
        answer_tokens=trace.answer_tokens,
        answer=_recorded(item, candidate),
        score=0.0
        if trace.stop is Stop.CANCELLED
        else item.score(Output(text=trace.text, answer=candidate.answer)),
        verifier_score=candidate.score,
        thinking=trace.thinking,
        text=trace.text,
        token_ids=trace.token_ids,
        forced=tuple(i for i, was_forced in enumerate(trace.forced) if was_forced),
    )


def _recorded(item: Item, candidate: Candidate) -> str | None:
    """The answer as it votes: an option quoted in its words is its letter, since rows hold no options."""
    if candidate.answer is None:
        return None
    thinking = candidate.trace.thinking if candidate.trace.thinking_tokens else None  # never a chat's draft
    answer = read_trace(candidate.trace.text, thinking, item.question)
    return answer.key if answer is not None and answer.kind is Kind.CHOICE else candidate.answer


def _figures(samples: Mapping[tuple[str, int], Sample], spent_s: float, speed: Speed) -> str:
    """What an evaluation has come to so far, in words."""
    words = []
    if samples:
        words.append(f"{sum(sample.score for sample in samples.values()) / len(samples):.1%} right")
    if spent_s and speed.generated_tokens:
        words.append(f"{speed.generated_tokens / spent_s:.0f} tok/s")
    return ", ".join(words)

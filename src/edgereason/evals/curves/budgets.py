"""Accuracy at hard budgets, from traces that are there: they are cut, and only the answers are generated.

::

    trace of 300 tokens ─┬─ at 512: as it was
                         ├─ at 256: its first tokens, closing and answer prefix forced, an answer drawn
                         └─ at 128: …

Cut by the same control that cuts a live stream, so a row here is what the run would have got with that
budget, up to the draws of the answer; but an adapter that was trained on hints thought under the hint of the
run's own budget, and live it would get another.

Source: paper section 5, figure of accuracy against hard budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, Final

from edgereason.core.types import Budget, Candidate, Mode, Route, Stop, Trace
from edgereason.errors import ConfigError
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.metrics import clustered_interval
from edgereason.evals.samples import RecordedTrace, Sample
from edgereason.evals.tasks.base import Item, Output
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.many import answer_many
from edgereason.reasoning.model import Model
from edgereason.reasoning.runs import Run
from edgereason.records.context import RunContext

_RUNNING: Final = 16
"""Streams that run at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRow:
    """What one trace came to under one limit."""

    id: str
    repeat: int
    index: int
    limit_tokens: int
    num_tokens: int
    answer: str | None
    score: float
    is_cut: bool


def budget_curve(
    config: EvalConfig,
    items: Mapping[str, Item],
    samples: Sequence[Sample],
    model: Model,
    limits_tokens: Sequence[int],
    context: RunContext = RunContext(),
) -> dict[str, Any] | None:
    """Truncates every finished trace of a think run at every limit.

    Args:
        config: the run's.
        items: the run's questions by id.
        samples: the run's rows.
        model: the run's.
        limits_tokens: hard budgets; none above the run's own.
        context: asked between steps whether to stop.

    Returns:
        `budgets`, and beside it lists in its order: `accuracy`, `ci95` (clustered by question),
        `mean_tokens`, `share_truncated`; `untruncated` with the run's own, `num_cancelled` traces that were
        left out, and every row under `rows`. None if it was stopped.

    Raises:
        ConfigError: see `require_cuttable`.
    """
    require_cuttable(config, items, samples, limits_tokens, model.buckets)
    limits = sorted(set(limits_tokens))
    traces = _finished(samples)
    rows: list[BudgetRow] = []
    context.progress("traces", 0, len(traces))
    for done, of_trace in enumerate(_truncated(config, items, traces, model, limits, context.should_stop), 1):
        rows += of_trace
        context.progress("traces", done, len(traces))
    if len(rows) < len(traces) * len(limits):
        return None
    num_cancelled = sum(len(sample.traces) for sample in samples) - len(traces)
    return _record(limits, rows, traces) | {"num_cancelled": num_cancelled}


def require_cuttable(
    config: EvalConfig,
    items: Mapping[str, Item],
    samples: Sequence[Sample],
    limits_tokens: Sequence[int],
    buckets: Sequence[int] = (),
) -> None:
    """Refuses what can't be cut; an effort is of as many tokens as the run's `buckets` make it.

    Raises:
        ConfigError: the run did not think, its questions are not those given, or a limit is too large.
        RequestError: a limit is too small.
    """
    own = config.request("?", 0).think_budget(buckets)
    if own is None or not _finished(samples) or any(sample.route is not Route.THINK for sample in samples):
        raise ConfigError("hard budgets cut thinking, and this run has rows that did not think")
    if own.limit_tokens is None:
        raise ConfigError("hard budgets cut what ran under a larger one in tokens; this run's was in seconds")
    most = min(own.limit_tokens, config.max_tokens or own.limit_tokens)
    if not limits_tokens or max(limits_tokens) > most:
        raise ConfigError(f"budgets must be at most the run's own, {most} tokens; got {list(limits_tokens)}")
    for limit in limits_tokens:
        Budget(limit_tokens=limit).require_room_to_think()
    if lacking := {sample.id for sample in samples} - items.keys():
        raise ConfigError(
            f"{len(lacking)} questions of the run are not in the data, such as {min(lacking)!r}"
        )


def _finished(samples: Sequence[Sample]) -> list[tuple[Sample, RecordedTrace]]:
    traces = [(sample, trace) for sample in samples for trace in sample.traces]
    return [(sample, trace) for sample, trace in traces if trace.stop is not Stop.CANCELLED]


def _truncated(
    config: EvalConfig,
    items: Mapping[str, Item],
    traces: Sequence[tuple[Sample, RecordedTrace]],
    model: Model,
    limits: Sequence[int],
    should_stop: Callable[[], bool],
) -> Iterator[list[BudgetRow]]:
    """The rows of each trace, in the order in which they are done."""
    requests = [
        replace(
            config.request(items[sample.id].question, sample.seed + trace.index),
            mode=Mode.THINK,
            streams=len(limits),
            stop_early=False,
        )
        for sample, trace in traces
    ]

    def start(number: int, batch: Batch) -> Run:
        sample, trace = traces[number]
        return model.pipeline.truncate(requests[number], _trace(trace, sample.seed), limits, batch)

    answered = answer_many(model, requests, max_running=_RUNNING, start=start, should_stop=should_stop)
    with closing(answered):
        for number, response in answered:
            sample, trace = traces[number]
            candidates = zip(limits, response.candidates, strict=True)
            yield [_row(items[sample.id], sample, trace, limit, cut) for limit, cut in candidates]


def _row(item: Item, sample: Sample, trace: RecordedTrace, limit_tokens: int, cut: Candidate) -> BudgetRow:
    is_cut = cut.trace.token_ids != trace.token_ids
    answer = cut.answer if is_cut else trace.answer
    return BudgetRow(
        id=sample.id,
        repeat=sample.repeat,
        index=trace.index,
        limit_tokens=limit_tokens,
        num_tokens=cut.trace.num_tokens,
        answer=answer,
        score=item.score(Output(text=cut.trace.text, answer=answer)) if is_cut else trace.score,
        is_cut=is_cut,
    )


def _trace(row: RecordedTrace, seed: int) -> Trace:
    forced = set(row.forced)
    return Trace(
        index=row.index,
        seed=seed + row.index,
        thinking=row.thinking,
        text=row.text,
        thinking_tokens=row.thinking_tokens,
        answer_tokens=row.answer_tokens,
        stop=row.stop,
        token_ids=row.token_ids,
        forced=tuple(i in forced for i in range(len(row.token_ids))),
    )


def _record(
    limits: Sequence[int], rows: Sequence[BudgetRow], traces: Sequence[tuple[Sample, RecordedTrace]]
) -> dict[str, Any]:
    by_limit = {limit: [row for row in rows if row.limit_tokens == limit] for limit in limits}
    scores = {limit: _by_question((row.id, row.score) for row in by_limit[limit]) for limit in limits}
    own = _by_question((sample.id, trace.score) for sample, trace in traces)
    return {
        "budgets": list(limits),
        "accuracy": [_mean(scores[limit]) for limit in limits],
        "ci95": [list(clustered_interval(scores[limit])) for limit in limits],
        "mean_tokens": [fmean(row.num_tokens for row in by_limit[limit]) for limit in limits],
        "share_truncated": [fmean(row.is_cut for row in by_limit[limit]) for limit in limits],
        "untruncated": {
            "accuracy": _mean(own),
            "mean_tokens": fmean(trace.num_tokens for _, trace in traces),
        },
        "rows": [
            asdict(row) for row in sorted(rows, key=lambda r: (r.id, r.repeat, r.index, r.limit_tokens))
        ],
    }


def _by_question(scores: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    grouped: dict[str, list[float]] = {}
    for question, score in scores:
        grouped.setdefault(question, []).append(score)
    return grouped


def _mean(scores: Mapping[str, Sequence[float]]) -> float:
    return fmean(fmean(each) for each in scores.values())

"""Rows of an evaluation for tests, given by what matters to a figure."""

from __future__ import annotations

from dataclasses import replace

from edgereason.core.types import Route, Stop
from edgereason.evals.samples import RecordedTrace, Sample


def trace(
    answer: str | None = "18",
    score: float = 1.0,
    *,
    index: int = 0,
    tokens: int = 100,
    verifier: float | None = None,
    stop: Stop = Stop.NATURAL,
) -> RecordedTrace:
    return RecordedTrace(
        index=index,
        stop=stop,
        thinking_tokens=tokens - 10,
        answer_tokens=10,
        answer=answer,
        score=score,
        verifier_score=verifier,
        thinking="",
        text=answer or "",
        token_ids=(),
    )


def sample(
    id: str = "q",
    score: float = 1.0,
    *,
    repeat: int = 0,
    route: Route = Route.THINK,
    tokens: int = 100,
    stop: Stop = Stop.NATURAL,
    winner: int | None = 0,
    p_think: float | None = None,
    reference: str = "18",
    all_streams_tokens: int | None = None,
    ttft_s: float = 1.0,
    total_s: float = 2.0,
    verify_s: float | None = None,
    traces: tuple[RecordedTrace, ...] | None = None,
) -> Sample:
    return Sample(
        id=id,
        repeat=repeat,
        seed=0,
        route=route,
        p_think=p_think,
        reference=reference,
        answer="18",
        score=score,
        stop=stop,
        winner=winner,
        prompt_tokens=50,
        thinking_tokens=tokens - 10,
        answer_tokens=10,
        all_streams_tokens=tokens if all_streams_tokens is None else all_streams_tokens,
        kv_bytes=0,
        ttft_s=ttft_s,
        total_s=total_s,
        verify_s=verify_s,
        traces=(trace(score=score, tokens=tokens, stop=stop),) if traces is None else traces,
    )


def pool(id: str, *traces: RecordedTrace, reference: str = "18") -> Sample:
    """A question whose streams said this, numbered in this order."""
    numbered = tuple(replace(one, index=index) for index, one in enumerate(traces))
    return sample(id, numbered[0].score, reference=reference, traces=numbered)

"""The JSON contract, key by key."""

from __future__ import annotations

from edgereason.core.json_output import to_json
from edgereason.core.types import Candidate, Response, Route, Stop, Timing, Trace, Usage


def _trace(index: int, stop: Stop, answer_tokens: int) -> Trace:
    return Trace(
        index=index,
        seed=7 + index,
        thinking="17 · 23",
        text="391",
        thinking_tokens=5,
        answer_tokens=answer_tokens,
        stop=stop,
    )


def _never_begun(index: int) -> Trace:
    return Trace(
        index=index,
        seed=7 + index,
        thinking="",
        text="",
        thinking_tokens=0,
        answer_tokens=0,
        stop=Stop.CANCELLED,
    )


def test_a_response_becomes_the_object_of_the_contract():
    response = Response(
        route=Route.THINK,
        p_think=0.75,
        answer="391",
        text="391",
        thinking="17 · 23",
        stop=Stop.BUDGET,
        seed=7,
        usage=Usage(
            prompt_tokens=10, thinking_tokens=5, answer_tokens=3, all_streams_tokens=12, cached_tokens=4
        ),
        timing=Timing(ttft_s=0.25, total_s=2.0, tokens_per_s=6.0, budget_s=1.5, verify_s=0.25),
        kv_bytes=4096,
        candidates=(
            Candidate(trace=_trace(0, Stop.BUDGET, 3), answer="391", score=0.5),
            # Cancelled streams may have said something; what it amounts to is nobody's answer.
            Candidate(trace=_trace(1, Stop.CANCELLED, 1), answer="3", score=0.1),
            Candidate(trace=_never_begun(2), answer=None),
        ),
        winner=0,
        notices=("a notice",),
        ended=True,
    )
    assert to_json(response, model="scripted", limit_tokens=40) == {
        "model": "scripted",
        "route": "think",
        "p_think": 0.75,
        "answer": "391",
        "text": "391",
        "thinking": "17 · 23",
        "stop": "budget",
        "finish_reason": "length",
        "ended": True,
        "seed": 7,
        "budget": 40,
        "usage": {
            "prompt_tokens": 10,
            "cached_tokens": 4,
            "thinking_tokens": 5,
            "answer_tokens": 3,
            "total_tokens": 18,  # 10 + 5 + 3
            "all_streams_tokens": 12,
            "streams_not_begun": 1,
            "tokens_saved": 8,  # as many as the one that finished drew
        },
        "timing": {
            "ttft_s": 0.25,
            "total_s": 2.0,
            "tokens_per_s": 6.0,
            "budget_s": 1.5,
            "overshoot_s": 0.5,
            "verify_s": 0.25,
        },
        "kv_bytes": 4096,
        "streams": [
            {"seed": 7, "answer": "391", "score": 0.5, "tokens": 8, "stop": "budget", "cancelled": False},
            {"seed": 8, "answer": None, "score": None, "tokens": 6, "stop": "cancelled", "cancelled": True},
            {"seed": 9, "answer": None, "score": None, "tokens": 0, "stop": "cancelled", "cancelled": True},
        ],
        "winner": 0,
        "notices": ["a notice"],
    }

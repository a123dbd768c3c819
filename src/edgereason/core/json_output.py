"""A response as the JSON object that other tools rely on.

Owns its keys: more may be added, none is ever renamed. Pure; does not know files, terminals or options.
"""

from __future__ import annotations

from typing import Any

from edgereason.core.types import Candidate, Response, Stop


def to_json(response: Response, *, model: str, limit_tokens: int) -> dict[str, Any]:
    """The object that `ask --json` prints.

    Args:
        response: what came out.
        model: what the caller calls it.
        limit_tokens: most tokens that a stream might spend.
    """
    usage, timing = response.usage, response.timing
    return {
        "model": model,
        "route": response.route.value,
        "p_think": response.p_think,
        "answer": response.answer,
        "text": response.text,
        "thinking": response.thinking,
        "stop": response.stop.value,
        "finish_reason": response.finish_reason,
        "ended": response.ended,
        "seed": response.seed,
        "budget": limit_tokens,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "thinking_tokens": usage.thinking_tokens,
            "answer_tokens": usage.answer_tokens,
            "total_tokens": usage.total_tokens,
            "all_streams_tokens": usage.all_streams_tokens,
            "streams_not_begun": response.streams_not_begun,
            "tokens_saved": response.tokens_saved,
        },
        "timing": {
            "ttft_s": timing.ttft_s,
            "total_s": timing.total_s,
            "tokens_per_s": timing.tokens_per_s,
            "budget_s": timing.budget_s,
            "overshoot_s": timing.overshoot_s,
            "verify_s": timing.verify_s,
        },
        "kv_bytes": response.kv_bytes,
        "streams": [_stream(candidate) for candidate in response.candidates],
        "winner": response.winner,
        "notices": list(response.notices),
    }


def _stream(candidate: Candidate) -> dict[str, Any]:
    trace = candidate.trace
    cancelled = trace.stop is Stop.CANCELLED
    return {
        "seed": trace.seed,
        "answer": None if cancelled else candidate.answer,
        "score": None if cancelled else candidate.score,
        "tokens": trace.num_tokens,
        "stop": trace.stop.value,
        "cancelled": cancelled,
    }

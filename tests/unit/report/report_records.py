"""Small records, written as their writers write them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from edgereason.core.types import Route, Stop
from edgereason.evals.metrics import summarise
from edgereason.evals.samples import RecordedTrace, Sample

COMMIT = "e8bb2017c1d2e3f4"
MODEL = {"name": "base-q4_0.gguf", "sha256": "ab" * 32, "size_bytes": 360_662_912}


def trace(
    index: int = 0, *, num_tokens: int = 10, answer: str = "7", score: float = 1.0, **other: Any
) -> RecordedTrace:
    """A trace whose answer takes up to 4 of its tokens."""
    answer_tokens = min(4, num_tokens)
    fields = {
        "index": index,
        "stop": Stop.NATURAL,
        "thinking_tokens": num_tokens - answer_tokens,
        "answer_tokens": answer_tokens,
        "answer": answer,
        "score": score,
        "verifier_score": None,
        "thinking": "",
        "text": answer,
        "token_ids": (),
    }
    return RecordedTrace(**fields | other)


def sample(id_: str, num_tokens: int = 10, score: float = 1.0, *, repeat: int = 0, **other: Any) -> Sample:
    """A row of one stream, unless `traces` says otherwise."""
    traces = other.pop("traces", (trace(num_tokens=num_tokens, score=score),))
    fields = {
        "id": id_,
        "repeat": repeat,
        "seed": 0,
        "route": Route.THINK,
        "p_think": None,
        "reference": "7",
        "answer": "7",
        "score": score,
        "stop": Stop.NATURAL,
        "winner": 0,
        "prompt_tokens": 20,
        "thinking_tokens": traces[0].thinking_tokens,
        "answer_tokens": traces[0].answer_tokens,
        "all_streams_tokens": sum(one.num_tokens for one in traces),
        "kv_bytes": 0,
        "ttft_s": 0.5,
        "total_s": num_tokens / 10,
        "traces": traces,
    }
    return Sample(**fields | other)


def write_run(folder: Path, samples: list[Sample], *, compressed: bool = False, **summary: Any) -> Path:
    """The folder of an evaluation; `summary` replaces keys of its summary, None takes one out."""
    folder.mkdir(parents=True)
    rows = "".join(json.dumps(one.to_json()) + "\n" for one in samples).encode()
    if compressed:
        (folder / "samples.jsonl.gz").write_bytes(gzip.compress(rows))
    else:
        (folder / "samples.jsonl").write_bytes(rows)
    values = {
        "format": "edgereason-eval",
        "task": "gsm8k",
        "label": None,
        **summarise(samples),
        "tokens_per_s": 60.0,
        "config": {"mode": "think"},
        "commit": COMMIT,
        "model": MODEL,
        "bundle": None,
        "machine": {"cpu": "AMD EPYC", "threads": 2},
    } | summary
    (folder / "summary.json").write_text(json.dumps(values))
    return folder


def write_json(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values))
    return path


def perplexity(ppl: float, sha256: str = MODEL["sha256"], **other: Any) -> dict[str, Any]:
    return {
        "format": "edgereason-ppl",
        "model": {"name": f"{sha256[:2]}.gguf", "sha256": sha256, "size_bytes": 500_000_000},
        "ppl": ppl,
        "nll_mean": 3.0,
        "window_tokens": 2048,
        "stride_tokens": 2048,
        "num_tokens": 1000,
        "data": {"name": "wikitext2_test.raw", "sha256": "ef" * 32},
    } | other

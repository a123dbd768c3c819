"""The kernels inside llama.cpp: a model draws with them as without, and alone as beside other streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgereason.bench.files import plain_q4_0
from edgereason.engine.native import kernels
from edgereason.hub.fingerprint import known_sha256

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not kernels(), reason="this build of llama.cpp is without our kernels"),
]

# Greedy tokens and their log-probabilities: of one stream alone, and of the same stream beside six others.
SCRIPT = """
import json, sys
from pathlib import Path
from edgereason.core.types import Sampling
from edgereason.engine.base import Feed
from edgereason.engine.llama import LlamaEngine
from edgereason.engine.native import kernels

def draw(engine, streams):
    drawn = []
    with engine.reserve(cells=512, sequences=streams + 1):
        prompt = engine.new_sequence()
        text = "One day a small engine learned to think before it spoke, and then" * 8
        engine.encode(prompt, engine.tokenize(text))
        forks = [engine.fork(prompt) for _ in range(streams)]
        samplers = [engine.sampler(Sampling(temperature=min(i, 1)), i) for i in range(streams)]
        last = [engine.sample(prompt, samplers[0]).token] * streams
        for _ in range(24):
            feeds = [Feed(f, [t], s, want_logprob=True) for f, t, s in zip(forks, last, samplers)]
            sampled = engine.step(feeds)
            last = [one.token for one in sampled]
            drawn.append(sampled[0])
        for sequence in (*forks, prompt):
            engine.release(sequence)
    return drawn

with LlamaEngine(Path(sys.argv[1]), threads=2) as engine:
    print(json.dumps({"kernels": kernels(), "alone": draw(engine, 1), "beside": draw(engine, 7)}))
"""


def run(model: Path, switch: str) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model)],
        env={**os.environ, "EDGEREASON_KERNELS": switch},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Path:
    """SmolLM2-135M as a plain Q4_0; its own file is Q4_1, which the kernels leave alone."""
    return plain_q4_0(smollm2, known_sha256(smollm2), notice=print)


@pytest.fixture(scope="module")
def with_kernels(model: Path) -> dict[str, Any]:
    return run(model, "1")


def test_the_switch_leaves_llama_cpp_as_it_is(model: Path, with_kernels: dict[str, Any]) -> None:
    without = run(model, "0")
    assert with_kernels["kernels"] == kernels() and without["kernels"] == ""
    tokens, reference = ([token for token, _ in found["alone"]] for found in (with_kernels, without))
    same = next((i for i, (a, b) in enumerate(zip(tokens, reference, strict=True)) if a != b), len(tokens))
    assert same >= 8
    for (_, ours), (_, theirs) in zip(with_kernels["alone"][:same], without["alone"], strict=False):
        assert abs(ours - theirs) < 0.05


def test_a_stream_is_the_same_to_the_last_bit_beside_others(with_kernels: dict[str, Any]) -> None:
    assert with_kernels["alone"] == with_kernels["beside"]

"""The kernels inside llama.cpp: a model draws with them as without, and alone as beside other streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgereason.bench.files import plain_q4_0
from edgereason.engine.native import kernels
from edgereason.hub.fingerprint import known_sha256
from edgereason.quant.adapter_file import AdapterGrid, Product, write_adapter
from edgereason.quant.gguf_file import GgufModel
from edgereason.quant.merge import is_linear

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not kernels(), reason="this build of llama.cpp is without our kernels"),
]

# Greedy tokens and their log-probabilities: of one stream alone, of the same stream beside six others, and of
# both under each adapter.
SCRIPT = """
import json, sys
from pathlib import Path
from edgereason.core.types import Sampling
from edgereason.engine.base import Feed
from edgereason.engine.llama import LlamaEngine
from edgereason.engine.native import kernels

def draw(engine, streams, adapter=None):
    drawn = []
    with engine.reserve(cells=512, sequences=streams + 1):
        prompt = engine.new_sequence()
        text = "One day a small engine learned to think before it spoke, and then" * 8
        engine.encode(prompt, engine.tokenize(text))
        forks = [engine.fork(prompt) for _ in range(streams)]
        samplers = [engine.sampler(Sampling(temperature=min(i, 1)), i) for i in range(streams)]
        last = [engine.sample(prompt, samplers[0]).token] * streams
        for fork in forks if adapter else ():
            engine.cross(fork, adapter)
        for _ in range(24):
            feeds = [Feed(f, [t], s, want_logprob=True) for f, t, s in zip(forks, last, samplers)]
            sampled = engine.step(feeds)
            last = [one.token for one in sampled]
            drawn.append(sampled[0])
        for sequence in (*forks, prompt):
            engine.release(sequence)
    return drawn

with LlamaEngine(Path(sys.argv[1]), threads=2) as engine:
    found = {"kernels": kernels(), "alone": draw(engine, 1), "beside": draw(engine, 7)}
    adapters = [engine.load_adapter(Path(path)) for path in sys.argv[2:]]
    found["adapted"] = [draw(engine, 1, one) for one in adapters]
    found["adapted_beside"] = [draw(engine, 7, one) for one in adapters]
    print(json.dumps(found))
"""


def run(model: Path, switch: str, adapters: tuple[Path, ...] = ()) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model), *map(str, adapters)],
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
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """The same adapter twice: the second's scale is 2 and its B is half as large, which is exact in Q8_0."""
    base, random, products = GgufModel(model), np.random.default_rng(0), {}
    for name in filter(is_linear, base.names):
        num_out, num_in = base.shape(name)
        a = random.standard_normal((32, num_in), np.float32) / np.float32(np.sqrt(num_in))
        products[name] = Product(a, random.standard_normal((num_out, 32), np.float32) * np.float32(0.05))
    paths = tuple(tmp_path_factory.mktemp("adapters") / f"scale-{scale}.gguf" for scale in (1, 2))
    for scale, path in zip((1, 2), paths, strict=True):
        scaled = {name: Product(one.a, one.b / np.float32(scale)) for name, one in products.items()}
        write_adapter(path, base, scaled, alpha=32.0 * scale, grid=AdapterGrid.Q8_0)
    return paths


@pytest.fixture(scope="module")
def with_kernels(model: Path, adapters: tuple[Path, ...]) -> dict[str, Any]:
    return run(model, "1", adapters)


@pytest.fixture(scope="module")
def without(model: Path, adapters: tuple[Path, ...]) -> dict[str, Any]:
    return run(model, "0", adapters)


def assert_same_but_for_rounding(ours: list[list[float]], theirs: list[list[float]]) -> None:
    """Texts may part where two tokens are nearly as likely, but not at once."""
    same = next((i for i, ((a, _), (b, _)) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(ours))
    assert same >= 8
    for (_, a), (_, b) in zip(ours[:same], theirs, strict=False):
        assert abs(a - b) < 0.05


def test_the_switch_leaves_llama_cpp_as_it_is(with_kernels: dict[str, Any], without: dict[str, Any]) -> None:
    assert with_kernels["kernels"] == kernels() and without["kernels"] == ""
    assert_same_but_for_rounding(with_kernels["alone"], without["alone"])


def test_an_adapter_draws_as_with_llama_cpps_kernels(
    with_kernels: dict[str, Any], without: dict[str, Any]
) -> None:
    for ours, theirs in zip(with_kernels["adapted"], without["adapted"], strict=True):
        assert_same_but_for_rounding(ours, theirs)
        assert ours != with_kernels["alone"]  # it does something


def test_an_adapters_scale_is_applied_once(with_kernels: dict[str, Any]) -> None:
    first, second = with_kernels["adapted"]
    assert first == second
    assert with_kernels["adapted_beside"] == with_kernels["adapted"]


def test_a_stream_is_the_same_to_the_last_bit_beside_others(with_kernels: dict[str, Any]) -> None:
    assert with_kernels["alone"] == with_kernels["beside"]

"""What several test folders need: the small real model, and engines over it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgereason.bench.files import write_random_adapter
from edgereason.engine.llama import LlamaEngine
from edgereason.hub.pull import resolve
from shallow_model import write_shallow

# A shell's background job starts with interrupts ignored, and hands that on to every process that a test
# starts to interrupt it: tests should not depend on how they were started.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, pulled once (98 MB)."""
    return resolve("smollm2-135m")


@pytest.fixture(scope="session")
def shallow(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six of SmolLM2's 30 layers: real weights and vocabulary, but what it says makes no sense."""
    return write_shallow(smollm2, tmp_path_factory.mktemp("shallow") / "six-layers.gguf", layers=6)


@pytest.fixture(scope="session", params=["shallow", pytest.param("smollm2", marks=pytest.mark.slow)])
def real_model(request: pytest.FixtureRequest) -> Path:
    """For claims that hold at any depth: six layers, and the whole model among the slow tests."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def random_adapter(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LoRA on all of SmolLM2's linears; making it takes seconds, so tests copy it."""
    path = tmp_path_factory.mktemp("random") / "adapter.gguf"
    write_random_adapter(smollm2, path, rank=32, seed=1)
    return path


@pytest.fixture(scope="session")
def qwen() -> Path:
    """The default model, pulled once (491 MB); for slow tests."""
    return resolve("qwen2.5-coder-0.5b")


@pytest.fixture
def engine(smollm2: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine(smollm2) as engine:
        yield engine

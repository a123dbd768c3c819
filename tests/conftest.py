"""What several test folders need: the small real model, and engines over it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    """Six of SmolLM2's 30 layers: for claims about the engine, which hold of any weights."""
    return write_shallow(smollm2, tmp_path_factory.mktemp("shallow") / "six-layers.gguf", layers=6)


@pytest.fixture(scope="session")
def qwen() -> Path:
    """The default model, pulled once (491 MB); for slow tests."""
    return resolve("qwen2.5-coder-0.5b")


@pytest.fixture
def engine(smollm2: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine(smollm2) as engine:
        yield engine

"""The real model as programs load it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import edgereason
from edgereason.reasoning.model import Model


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    """SmolLM2-135M, loaded once for all tests of a file."""
    with edgereason.load(smollm2) as model:
        yield model

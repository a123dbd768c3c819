"""Tiny teachers as files, by family."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_gguf import FAMILIES, Shape, random_weights, write_gguf


@pytest.fixture(scope="session")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Float32 GGUFs by family, of the shapes of `FAMILIES`; seed 7."""
    folder = tmp_path_factory.mktemp("teachers")
    return {s.arch: write_gguf(folder / f"{s.arch}.gguf", s, random_weights(s, 7)) for s in FAMILIES}


@pytest.fixture(params=FAMILIES, ids=lambda shape: shape.arch)
def shape(request: pytest.FixtureRequest) -> Shape:
    """Each family in turn."""
    return request.param


@pytest.fixture
def teacher(shape: Shape, teachers: dict[str, Path]) -> Path:
    """The family's file."""
    return teachers[shape.arch]

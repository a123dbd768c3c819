"""A tiny base and parts that fit it, for tests of bundles."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_bundle import write_base, write_questions, write_tiny_adapter, write_tiny_heads


@dataclass(frozen=True)
class Tiny:
    """Files of one base and of its parts."""

    base: Path
    adapter: Path
    heads: Path
    data: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Made once; tests leave the files as they are."""
    folder = tmp_path_factory.mktemp("tiny")
    base = write_base(folder / "tiny.gguf")
    adapter = write_tiny_adapter(folder / "adapter.gguf", base)
    return Tiny(
        base=base,
        adapter=adapter,
        heads=write_tiny_heads(folder / "heads.safetensors", base, adapter),
        data=write_questions(folder / "questions.jsonl", 8),
    )


_TESTS = itertools.count()


@pytest.fixture(autouse=True)
def local_bases(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test knows the bases of another, or of this machine."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{next(_TESTS)}"
    monkeypatch.setattr("edgereason.hub.local_bases.cache_folder", lambda: folder)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles that are built are looked at as on a machine that has not seen their base."""
    monkeypatch.setattr("edgereason.bundles.build.remember_base", lambda path, sha256: None)

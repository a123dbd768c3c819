"""What a training leaves at its end, and that a second call leaves it alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgereason.core.bundle import Base
from edgereason.records.context import RunContext
from edgereason.train.lora import run as lora_run

BASE = Base(
    name="tiny.gguf", sha256="ab" * 32, arch="qwen2", hidden_size=64, num_layers=2, vocab_sha256="cd" * 32
)


def test_a_finished_training_keeps_its_record_and_its_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = iter([{"sha256": "first"}])  # a second export would find nothing here
    monkeypatch.setattr(lora_run, "write_bundle", lambda *_, **__: next(exports))

    def end(record: dict[str, int]) -> dict[str, object]:
        return lora_run.finish(
            tmp_path, record | {"buckets": [64]}, tmp_path / BASE.name, BASE, (1,), RunContext(threads=1)
        )

    first = end({"steps": 4})
    assert (first["steps"], first["adapter"]) == (4, {"sha256": "first"})
    written = (tmp_path / "record.json").read_bytes()
    assert end({"steps": 4, "peak": 1}) == first == json.loads(written)
    assert (tmp_path / "record.json").read_bytes() == written

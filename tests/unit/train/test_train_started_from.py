"""What a training begins with is named by the hash under which it ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgereason.core.bundle import Base, Bundle, Part, file_sha256
from edgereason.errors import BundleError
from edgereason.train.lora.run import started_from


def bundle(folder: Path, *, has_adapter: bool = True) -> Bundle:
    folder.mkdir(parents=True)
    (folder / "reasoning.gguf").write_bytes(b"GGUF")
    part = Part(file="reasoning.gguf", sha256=file_sha256(folder / "reasoning.gguf"))
    base = Base(
        name="tiny.gguf",
        sha256="ab" * 32,
        arch="qwen2",
        hidden_size=64,
        num_layers=2,
        vocab_sha256="cd" * 32,
    )
    made = Bundle(
        folder=folder, base=base, opening_ids=(1,), closing="</think>", adapter=part if has_adapter else None
    )
    made.write()
    return made


def test_a_training_and_its_bundle_are_named_by_the_adapter_that_ships(tmp_path: Path) -> None:
    made = bundle(tmp_path / "sft" / "bundle")
    expected = {"started_from": made.adapter_sha256}
    assert started_from(tmp_path / "sft") == started_from(tmp_path / "sft" / "bundle") == expected


def test_a_new_adapter_or_one_that_was_never_exported_has_no_name(tmp_path: Path) -> None:
    (tmp_path / "sft" / "adapter").mkdir(parents=True)
    assert started_from(None) == started_from(tmp_path / "sft") == {}


def test_a_bundle_without_an_adapter_is_nothing_to_start_from(tmp_path: Path) -> None:
    bundle(tmp_path / "b", has_adapter=False)
    with pytest.raises(BundleError, match="without an adapter"):
        started_from(tmp_path / "b")

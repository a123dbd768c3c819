"""Heads, manifests, rows and records that are damaged or hostile are typed errors, or are read."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from mutations import mutate, mutate_heads, mutate_text
from tiny_bundle import write_base, write_evaluation, write_questions, write_tiny_adapter, write_tiny_heads

from edgereason.config import read_toml
from edgereason.core.bundle import Base, Bundle, Part
from edgereason.core.types import Mode
from edgereason.data import rows
from edgereason.errors import BundleError, ConfigError, EdgeReasonError
from edgereason.evals.samples import read_samples
from edgereason.heads.file import read_heads
from edgereason.report.records import read_records


@dataclass(frozen=True)
class Subject:
    """A sound file, what reads it, and how it is damaged."""

    path: Path
    read: Callable[[], object]
    damage: Callable[[bytes, int], bytes] = mutate_text


@pytest.fixture(scope="module")
def subjects(tmp_path_factory) -> dict[str, Subject]:
    folder = tmp_path_factory.mktemp("hostile")
    base = write_base(folder / "base.gguf")
    adapter = write_tiny_adapter(folder / "adapter.gguf", base)
    heads = write_tiny_heads(folder / "heads.safetensors", base, adapter)
    data = write_questions(folder / "questions.jsonl", 3)
    run = write_evaluation(folder / "run", Mode.THINK, [1.0, 0.0, 1.0], base=base, data=data)
    packed = folder / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(data.read_bytes()))
    manifest = Bundle(
        folder=folder,
        base=Base(name="b", sha256="0" * 64, arch="qwen2", hidden_size=1, num_layers=1, vocab_sha256="1"),
        opening_ids=(1, 2),
        closing="x",
        buckets=(128,),
        heads=Part(file="h", sha256="0"),
    )
    manifest.write()
    return {
        "heads": Subject(heads, partial(read_heads, heads), mutate_heads),
        "manifest": Subject(folder / "bundle.json", partial(Bundle.read, folder)),
        "rows of a run": Subject(run / "samples.jsonl", partial(read_samples, run)),
        "rows for a report": Subject(run / "samples.jsonl", partial(read_records, [run])),
        "summary": Subject(run / "summary.json", partial(read_records, [run])),
        "settings": Subject(run / "run.toml", partial(read_records, [run])),
        "data": Subject(data, partial(rows.read_file, data)),
        "gzip": Subject(packed, partial(rows.read_file, packed), partial(mutate, at_best=range(100))),
    }


KINDS = ("heads", "manifest", "rows of a run", "rows for a report", "summary", "settings", "data", "gzip")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("first", "count"), [(0, 60), pytest.param(1000, 3000, marks=pytest.mark.slow)])
def test_mutated_files_are_typed_errors_or_are_read(subjects, kind, first, count):
    subject = subjects[kind]
    sound, refused = subject.path.read_bytes(), 0
    subject.read()
    try:
        for seed in range(first, first + count):
            subject.path.write_bytes(subject.damage(sound, seed))
            try:
                subject.read()
            except EdgeReasonError:
                refused += 1
    finally:
        subject.path.write_bytes(sound)
    assert count / 4 < refused <= count


def test_a_gzip_that_opens_to_more_than_its_bound_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_MOST_BYTES", 1 << 20)
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n" * (200 << 20)))
    assert path.stat().st_size < 300_000
    start_s = time.perf_counter()
    with pytest.raises(ConfigError, match=r"bomb.jsonl.gz can't be read \(it unpacks to more than 1,048,576"):
        rows.read_file(path)
    path.rename(tmp_path / "samples.jsonl.gz")
    with pytest.raises(ConfigError, match="unpacks to more than"):
        read_samples(tmp_path)
    assert time.perf_counter() - start_s < 5


@pytest.mark.parametrize("text", ["x = " + "[" * 50_000, "x = " + "{a=" * 50_000])
def test_toml_that_is_nested_without_end_is_refused(tmp_path, text):
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"can.t be read: it is nested too deep"):
        read_toml(tmp_path / "run.toml")


def test_json_that_is_nested_without_end_is_refused(tmp_path):
    (tmp_path / "bundle.json").write_text("[" * 50_000)
    with pytest.raises(BundleError, match="can't be read as JSON"):
        Bundle.read(tmp_path)
    (tmp_path / "record.json").write_text(json.dumps({"format": "x"})[:-1] + ', "y": ' + '{"a":' * 50_000)
    with pytest.raises(ConfigError, match="is not JSON"):
        read_records([tmp_path / "record.json"])

"""The manifest: what is written is read back, and what is wrong is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from edgereason.core.bundle import (
    MANIFEST,
    Base,
    Bundle,
    Part,
    Result,
    clear_temporaries,
    temporary_beside,
    write_atomically,
)
from edgereason.errors import BundleError

BASE = Base(
    name="tiny", sha256="ab" * 32, arch="qwen2", hidden_size=896, num_layers=24, vocab_sha256="cd" * 32
)

RESULT = {"what": "x", "record": "edgereason-eval", "sha256": "12", "command": "y", "figures": {}}


def bundle_in(folder: Path) -> Bundle:
    (folder / "reasoning.gguf").write_bytes(b"GGUF adapter")
    adapter = Part(file="reasoning.gguf", sha256=hashlib.sha256(b"GGUF adapter").hexdigest())
    return Bundle(
        folder=folder,
        base=BASE,
        opening_ids=(13708, 766, 397),
        closing="</think>\n\n",
        buckets=(64, 128),
        adapter=adapter,
    )


def broken(folder: Path, change: dict[str, object], *, drop: str | None = None) -> None:
    bundle_in(folder).write()
    manifest = json.loads((folder / MANIFEST).read_text()) | change
    manifest.pop(drop, None)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path)
    bundle.write()
    assert Bundle.read(tmp_path) == bundle
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_history_and_figures_are_read_back_too(tmp_path: Path) -> None:
    result = Result(
        what="gsm8k, think",
        record="edgereason-eval",
        sha256="12" * 32,
        command="edgereason eval gsm8k",
        figures={"accuracy": 0.25, "num_questions": 8},
        parts=("34" * 32,),
        intervals={"accuracy": (0.1, 0.5)},
        machine="EPYC, 2 threads",
    )
    bundle = replace(
        bundle_in(tmp_path),
        name="Größe 0,5",
        earlier_heads=("56" * 32,),
        calibration={"threshold": 0.25},
        provenance={"adapter": {"steps": 40, "traces": [{"name": "t.jsonl"}]}},
        results=(result,),
    )
    bundle.write()
    assert Bundle.read(tmp_path) == bundle
    assert bundle.title == "Größe 0,5"
    assert bundle_in(tmp_path).title == tmp_path.name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 3}, "name must be a text"),
        ({"earlier_heads": [1]}, "earlier_heads[0] must be a text, got 1"),
        ({"calibration": []}, "calibration must hold values by name, got []"),
        ({"results": {}}, "results must be a list, got {}"),
        ({"results": [{}]}, "results[0] lacks what"),
        (
            {"results": [RESULT | {"figures": {"accuracy": "high"}}]},
            "results[0]: figures: accuracy must be a number, got 'high'",
        ),
        ({"results": [RESULT | {"intervals": {"a": [1]}}]}, "intervals: a must be a list of 2, got [1]"),
        (
            {"results": [RESULT | {"comand": "x"}]},
            "results[0] has no setting 'comand': did you mean 'command'",
        ),
        ({"version": 2}, "version 2"),
        ({"format": "zip"}, "bundle.json is not a manifest: its format is 'zip'"),
        ({"opening_ids": "think"}, "opening_ids must be a list, got 'think'"),
        ({"opening_ids": [1, "x"]}, "opening_ids[1] must be a whole number, got 'x'"),
        ({"bukets": [1]}, "bundle.json has no setting 'bukets': did you mean 'buckets'"),
        ({"adapter": {"file": "../../etc/passwd", "sha256": "00"}}, "inside the bundle"),
        ({"base": {"name": "x"}}, "bundle.json: base lacks sha256, arch"),
        ({"base": 3}, "base must hold values by name, got 3"),
        ({"buckets": [-1]}, "buckets must be numbers from 0 on"),
        ({"folder": "elsewhere"}, "folder must be"),
    ],
)
def test_a_wrong_manifest_is_refused_saying_what_is_wrong(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    broken(tmp_path, change)
    with pytest.raises(BundleError, match=re.escape(said)):
        Bundle.read(tmp_path)


def test_adapter_heads_and_buckets_may_be_left_out(tmp_path: Path) -> None:
    bundle_in(tmp_path).write()
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    for key in ("adapter", "heads", "buckets"):
        del manifest[key]
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    bundle = Bundle.read(tmp_path)
    assert (bundle.adapter, bundle.heads, bundle.buckets) == (None, None, ())


def test_a_missing_key_and_a_missing_manifest_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.read(tmp_path)
    broken(tmp_path, {}, drop="closing")
    with pytest.raises(BundleError, match="lacks closing"):
        Bundle.read(tmp_path)


def test_a_manifest_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="JSON"):
        Bundle.read(tmp_path)


def test_a_changed_or_missing_part_is_refused(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path)
    assert bundle.adapter is not None
    assert bundle.verified_file(bundle.adapter) == tmp_path / "reasoning.gguf"
    (tmp_path / "reasoning.gguf").write_bytes(b"GGUF adapted")
    with pytest.raises(BundleError, match="SHA-256"):
        bundle.verified_file(bundle.adapter)
    (tmp_path / "reasoning.gguf").unlink()
    with pytest.raises(BundleError, match="not in"):
        bundle.verified_file(bundle.adapter)


@pytest.mark.parametrize("field", ["sha256", "arch", "hidden_size", "num_layers", "vocab_sha256"])
def test_another_base_is_refused_naming_what_differs(tmp_path: Path, field: str) -> None:
    bundle = bundle_in(tmp_path)
    bundle.check_base(replace(BASE, name="the same under another name"))
    other = replace(BASE, **{field: 7 if isinstance(getattr(BASE, field), int) else "ff" * 32})
    with pytest.raises(BundleError, match=f"another base: {field}"):
        bundle.check_base(other)


def test_another_opening_or_closing_is_refused_with_both(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path)
    bundle.check_seams((13708, 766, 397), "</think>\n\n")
    for opening, closing in (((1,), "</think>\n\n"), ((13708, 766, 397), "</think>")):
        with pytest.raises(BundleError, match=r"opens thinking with ids \[13708, 766, 397\]"):
            bundle.check_seams(opening, closing)


def test_a_file_written_atomically_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a.json", "{}")
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("name", ["short", "long" * 40, "[0-9]*"])
def test_what_a_killed_writer_left_is_cleared(tmp_path, name):
    (tmp_path / name).write_text("whole")
    (tmp_path / ".other.fffff0cd").write_text("another's")
    with temporary_beside(tmp_path / name) as temporary:
        temporary.write_text("whole")
    killed = temporary.name.removesuffix(temporary.name[-8:]) + "ffffffab"  # a number that no process has
    temporary.with_name(killed).write_text("half")
    clear_temporaries(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {name, ".other.fffff0cd"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    # As root, `-o /dev/null` once put a file in the place of the device.
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_atomically(pipe, "all of it")
    reader.join(10)
    assert read == ["all of it"]
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.skipif(os.name == "nt", reason="there, a process can't be asked for without ending it")
def test_what_another_running_process_writes_is_left_alone(tmp_path):
    running = tmp_path / f".a.json.{os.getppid():06x}ab"
    killed = tmp_path / ".a.json.ffffffab"
    running.write_text("half")
    killed.write_text("half")
    write_atomically(tmp_path / "a.json", "{}")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", running.name}

"""A head that stays the same keeps its history, figures and threshold, whatever is put beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_bundle import write_evaluation, write_tiny_heads

from edgereason.bundles.build import Parts, build
from edgereason.core.bundle import Bundle, file_sha256
from edgereason.core.types import Mode
from edgereason.heads.file import merge_heads, read_heads, write_with_threshold

CALIBRATION = {"threshold": 0.5, "share_think": 0.3, "num_prompts": 9, "target_think_rate": 0.3}


@pytest.fixture
def judged(tiny, tmp_path) -> Bundle:
    """A bundle whose heads have records, and whose threshold was set."""
    record = {
        "format": "edgereason-head",
        "command": ["train", "heads", "switcher", "--bundle", "BUNDLE"],
        "heads": {"name": tiny.heads.name, "sha256": file_sha256(tiny.heads)},
        "model": {"name": "tiny.gguf", "sha256": file_sha256(tiny.base)},
        "reliability": {"held_out": {"auroc": 0.9, "ece": 0.1, "n": 40}},
    }
    records = []
    for head in ("switcher", "verifier"):
        records.append(tmp_path / f"{head}.json")
        records[-1].write_text(json.dumps(record | {"head": head}))
    parts = Parts(
        base=tiny.base, adapter=tiny.adapter, heads=tiny.heads, buckets=(64,), records=tuple(records)
    )
    return replace(build(tmp_path / "judged", parts), calibration=CALIBRATION)


def facts(bundle: Bundle) -> tuple[list[str], list[str], bool]:
    """Heads with a history, what was measured, and whether it is known how the threshold was set."""
    known = sorted({"switcher", "verifier"} & bundle.provenance.keys())
    return known, [one.what for one in bundle.results], bundle.calibration is not None


def heads_with(tiny, tmp_path: Path, kind: str) -> Path:
    """The tiny bundle's heads with another one of this kind."""
    path = tmp_path / f"other-{kind}.safetensors"
    path.write_bytes(tiny.heads.read_bytes())
    other = write_tiny_heads(tmp_path / "fresh", tiny.base, tiny.adapter, kinds=(kind,), seed=5)
    merge_heads(path, read_heads(other))
    return path


def test_a_new_verifier_costs_the_switcher_nothing(tiny, judged, tmp_path):
    said: list[str] = []
    heads = heads_with(tiny, tmp_path, "verifier")
    built = build(tmp_path / "b", Parts(base=tiny.base, start=judged, heads=heads), said.append)
    assert facts(built) == (["switcher"], ["switcher on held out"], True)
    assert built.results[0].parts == (file_sha256(heads),)
    assert built.results[0].figures == judged.results[0].figures
    assert said == ["1 results are of other parts or buckets and left out: measure them again"]


def test_a_new_switcher_costs_the_verifier_nothing(tiny, judged, tmp_path):
    heads = heads_with(tiny, tmp_path, "switcher")
    built = build(tmp_path / "b", Parts(base=tiny.base, start=judged, heads=heads))
    assert facts(built) == (["verifier"], ["verifier on held out"], False)
    assert built.results[0].parts == (judged.adapter.sha256, file_sha256(heads))


def test_a_new_switcher_leaves_what_was_measured_without_one(tiny, judged, tmp_path):
    parts = (tiny.adapter, tiny.heads)
    modes = (Mode.CHAT, Mode.THINK, Mode.AUTO)
    records = tuple(
        write_evaluation(tmp_path / mode, mode, [1, 0], base=tiny.base, data=tiny.data, parts=parts)
        for mode in modes
    )
    measured = build(tmp_path / "m", Parts(base=tiny.base, start=judged, records=records))
    said: list[str] = []
    for kind, kept in (("switcher", ["chat", "think"]), ("verifier", [])):
        heads = heads_with(tiny, tmp_path, kind)
        built = build(tmp_path / kind, Parts(base=tiny.base, start=measured, heads=heads), said.append)
        evaluated = [one for one in built.results if one.record == "edgereason-eval"]
        assert [one.what.split(", ")[1] for one in evaluated] == kept
        assert all(one.parts == (judged.adapter.sha256, file_sha256(heads)) for one in evaluated)
    # Of each, the figures of the head that was replaced are lost, too.
    assert [line.partition(" ")[0] for line in said] == ["2", "4"]


def test_another_threshold_is_all_that_is_unknown_of_the_same_weights(tiny, judged, tmp_path):
    heads = tmp_path / "heads.safetensors"
    write_with_threshold(tiny.heads, heads, 0.25)
    built = build(tmp_path / "b", Parts(base=tiny.base, start=judged, heads=heads))
    both = ["switcher", "verifier"]
    assert facts(built) == (both, [f"{head} on held out" for head in both], False)

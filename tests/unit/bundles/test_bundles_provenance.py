"""An adapter's history: trainings count if they lead to the adapter that is there."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest
from tiny_bundle import write_tiny_adapter

from edgereason.bundles.build import Parts, build
from edgereason.core.bundle import Bundle, file_sha256
from edgereason.errors import BundleError

FIRST, SECOND = "1a" * 32, "2b" * 32


def training(folder: Path, made: str, started_from: str | None = None, **other: object) -> Path:
    """A record of a fine-tuning, or with `budgets` of GRPO."""
    kind, buckets = ("grpo", "budgets") if "budgets" in other else ("sft", "hints")
    values = {
        "format": f"edgereason-{kind}",
        "recipe": {"base": {"name": "tiny"}, buckets: {"buckets": other.pop("budgets", [32, 96])}},
        "adapter": {"sha256": made},
        "versions": {},
        **({"started_from": started_from} if started_from else {}),
        **other,
    }
    folder.mkdir(parents=True)
    path = folder / "record.json"
    path.write_text(json.dumps(values))
    return path


@pytest.fixture
def chain(tiny, tmp_path) -> tuple[Path, ...]:
    """Two fine-tunings and a GRPO run, which made the tiny adapter."""
    return (
        training(tmp_path / "sft", FIRST, traces=[{"name": "t.jsonl", "sha256": "ab" * 32}], steps=10),
        training(
            tmp_path / "warm",
            SECOND,
            FIRST,
            traces=[{"name": "examples.jsonl", "sha256": "cd" * 32}],
            steps=20,
        ),
        training(tmp_path / "grpo", file_sha256(tiny.adapter), SECOND, budgets=[16, 48], steps=30),
    )


def steps(bundle: Bundle) -> list[int]:
    """Of the adapter's trainings, the latest first."""
    known = [bundle.provenance["adapter"], *bundle.provenance.get("earlier_adapters", [])]
    return [entry["steps"] for entry in known]


def test_trainings_stand_in_the_order_in_which_they_followed_whatever_order_they_are_given_in(
    tiny, chain, tmp_path
):
    made = {
        "format": "edgereason-traces",
        "traces": {"name": "t.jsonl", "sha256": "ab" * 32},
        "rule": "first",
    }
    kept = {
        "format": "edgereason-shortest",
        "examples": {"name": "e.jsonl", "sha256": "cd" * 32},
        "rule": "short",
    }
    for name, values in (("made", made), ("kept", kept)):
        (tmp_path / name).write_text(json.dumps(values))
    given = (tmp_path / "made", chain[1], chain[2], tmp_path / "kept", chain[0])
    built = build(tmp_path / "b", Parts(base=tiny.base, adapter=tiny.adapter, records=given))
    assert steps(built) == [30, 20, 10]
    assert built.buckets == (16, 48)  # of the training that made the adapter, not of those before it
    assert [entry["rule"] for entry in built.provenance["traces"]] == ["first", "short"]
    assert Bundle.read(built.folder) == built
    assert "| earlier adapters |" in (built.folder / "README.md").read_text()


def test_a_bundle_that_a_training_began_with_brings_its_history(tiny, tmp_path):
    sft = training(
        tmp_path / "sft",
        file_sha256(tiny.adapter),
        traces=[{"name": "t.jsonl", "sha256": "ab" * 32}],
        steps=10,
    )
    (tmp_path / "made").write_text(
        json.dumps({"format": "edgereason-traces", "traces": {"sha256": "ab" * 32}, "rule": "first"})
    )
    begun = build(
        tmp_path / "a", Parts(base=tiny.base, adapter=tiny.adapter, records=(sft, tmp_path / "made"))
    )
    adapter = write_tiny_adapter(tmp_path / "adapter.gguf", tiny.base, seed=5)
    grpo = training(tmp_path / "grpo", file_sha256(adapter), begun.adapter_sha256, budgets=[48], steps=30)
    built = build(tmp_path / "b", Parts(base=tiny.base, start=begun, adapter=adapter, records=(grpo,)))
    assert steps(built) == [30, 10]
    assert [entry["rule"] for entry in built.provenance["traces"]] == ["first"]
    again = build(tmp_path / "c", Parts(base=tiny.base, start=built, records=(grpo,)))
    assert again.provenance["earlier_adapters"] == built.provenance["earlier_adapters"]
    # An adapter that began with another one has none of it.
    other = training(tmp_path / "other", file_sha256(adapter), SECOND, budgets=[48], steps=30)
    alone = build(tmp_path / "d", Parts(base=tiny.base, start=begun, adapter=adapter, records=(other,)))
    assert (steps(alone), "traces" in alone.provenance) == ([30], False)


def test_a_training_that_leads_nowhere_is_refused(tiny, chain, tmp_path):
    for given in ((chain[0],), (chain[2], chain[0]), (chain[1], chain[0])):
        with pytest.raises(BundleError, match=r"of another adapter: it made (1a|2b)"):
            build(
                tmp_path / "b",
                Parts(base=tiny.base, adapter=tiny.adapter, buckets=(16, 48), records=given),
            )
        assert not (tmp_path / "b").exists()


def test_a_bundle_announces_what_examples_did_and_not_all_of_the_recipe(tiny, tmp_path):
    sft = training(tmp_path / "sft", file_sha256(tiny.adapter), buckets=[96], steps=10)
    built = build(tmp_path / "b", Parts(base=tiny.base, adapter=tiny.adapter, records=(sft,)))
    assert built.buckets == (96,)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_training_that_changed_nothing_is_the_last_one_and_its_buckets_count(tiny, tmp_path, order):
    """Its adapter has the hash of the one that it began with, so that two trainings made it."""
    made = file_sha256(tiny.adapter)
    given = (
        training(tmp_path / "sft", FIRST, buckets=[32, 96], steps=10),
        training(tmp_path / "warm", made, FIRST, buckets=[32], steps=20),
        training(tmp_path / "grpo", made, made, budgets=[16, 48], steps=30),
    )
    parts = Parts(base=tiny.base, adapter=tiny.adapter, records=tuple(given[n] for n in order))
    built = build(tmp_path / "b", parts)
    assert built.buckets == (16, 48)
    assert steps(built) == [30, 20, 10]


def test_of_trainings_that_changed_nothing_the_latest_counts(tiny, tmp_path):
    made = file_sha256(tiny.adapter)
    given = (
        training(tmp_path / "sft", made, buckets=[32], steps=10, date="2026-11-09T00:00:00+00:00"),
        training(tmp_path / "b2", made, made, budgets=[64], steps=30, date="2026-11-08T10:00:00+00:00"),
        training(tmp_path / "b1", made, made, budgets=[48], steps=20, date="2026-11-08T09:00:00+00:00"),
    )
    built = build(tmp_path / "b", Parts(base=tiny.base, adapter=tiny.adapter, records=given))
    assert (built.buckets, steps(built)) == ((64,), [30, 20, 10])


def test_a_bundle_with_a_new_adapter_is_not_called_what_it_starts_from(tiny, tmp_path):
    first = build(tmp_path / "a", Parts(base=tiny.base, adapter=tiny.adapter, name="First"))
    adapter = write_tiny_adapter(tmp_path / "adapter.gguf", tiny.base, seed=5)
    titles = {
        "same": Parts(base=tiny.base, start=first),
        "headed": Parts(base=tiny.base, start=first, heads=tiny.heads),
        "learned": Parts(base=tiny.base, start=first, adapter=adapter),
        "named": Parts(base=tiny.base, start=first, adapter=adapter, name="Mine"),
    }
    found = {folder: build(tmp_path / folder, parts).title for folder, parts in titles.items()}
    assert found == {"same": "First", "headed": "First", "learned": "learned", "named": "Mine"}

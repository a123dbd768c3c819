"""Bundles of parts that the engine really runs: what fits is put together, what does not is refused whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_bundle import OPENING, write_base, write_evaluation, write_tiny_adapter, write_tiny_heads

from edgereason.bundles.build import Parts, build
from edgereason.core.bundle import Bundle, file_sha256
from edgereason.core.types import Message, Mode, Request
from edgereason.errors import BundleError, ModelFileError
from edgereason.evals.record import bundle_entry
from edgereason.reasoning.model import load
from edgereason.records.lock import FolderLock


@pytest.fixture
def parts(tiny):
    """All parts of a bundle, with the options that are given instead."""
    whole = {"base": tiny.base, "adapter": tiny.adapter, "heads": tiny.heads, "buckets": (128, 64, 64)}
    return lambda **given: Parts(**whole | given)


def write_json(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def test_a_bundle_says_what_its_files_are_and_the_engine_answers_from_it(tiny, parts, tmp_path):
    built = build(tmp_path / "deep" / "b", parts())
    assert Bundle.read(tmp_path / "deep" / "b") == built
    assert sorted(path.name for path in built.folder.iterdir()) == [
        "README.md",
        "bundle.json",
        "heads.safetensors",
        "reasoning.gguf",
    ]
    assert (built.folder / "reasoning.gguf").read_bytes() == tiny.adapter.read_bytes()
    assert (built.adapter.sha256, built.heads.sha256) == (file_sha256(tiny.adapter), file_sha256(tiny.heads))
    assert (built.base.name, built.base.sha256) == ("tiny.gguf", file_sha256(tiny.base))
    assert (built.base.arch, built.base.hidden_size, built.base.num_layers) == ("qwen2", 64, 2)
    assert (built.opening_ids, built.closing, built.buckets) == (OPENING, "</think>\n\n", (64, 128))
    assert built.title == "b"
    assert [path.name for path in built.folder.parent.iterdir()] == ["b"]  # nothing half-made beside it
    with load(built.folder, base=tiny.base) as model:
        response = model.ask("How many?", budget=48, max_tokens=48, streams=2, mode="auto")
    assert 0 < response.p_think < 1


def test_parts_are_optional_and_the_base_may_be_put_in(tiny, tmp_path):
    built = build(tmp_path / "b", Parts(base=tiny.base, include_base=True, name="Just the base"))
    assert (built.adapter, built.heads, built.title) == (None, None, "Just the base")
    assert file_sha256(built.folder / "base.gguf") == built.base.sha256
    again = build(tmp_path / "c", Parts(base=built.folder / "base.gguf", start=built))
    assert (again.base.name, again.title) == ("tiny.gguf", "Just the base")  # and not base.gguf
    assert (again.folder / "base.gguf").is_file()


def test_what_is_there_is_never_changed(tiny, parts, tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(BundleError, match="is there already"):
        build(tmp_path / "b", parts())
    assert list((tmp_path / "b").iterdir()) == []


def test_heads_are_added_to_what_a_bundle_has(tiny, parts, tmp_path):
    first = build(tmp_path / "first", parts(heads=None))
    second = build(tmp_path / "second", Parts(base=tiny.base, start=first, heads=tiny.heads))
    assert (second.adapter, second.buckets) == (first.adapter, (64, 128))
    assert second.heads.sha256 == file_sha256(tiny.heads)
    assert second.title == "first"
    assert build(tmp_path / "third", Parts(base=tiny.base, start=second)).heads == second.heads


def test_a_changed_part_of_the_bundle_to_start_from_is_refused(tiny, parts, tmp_path):
    first = build(tmp_path / "first", parts())
    (first.folder / "reasoning.gguf").write_bytes(b"GGUF")
    with pytest.raises(BundleError, match="SHA-256"):
        build(tmp_path / "second", Parts(base=tiny.base, start=first))


@pytest.fixture(scope="module")
def others(tiny, tmp_path_factory):
    """Parts that do not fit, and why."""
    folder = tmp_path_factory.mktemp("others")
    base = write_base(folder / "other.gguf", seed=9)
    adapter = write_tiny_adapter(folder / "adapter.gguf", base)
    garbage = folder / "garbage"
    garbage.write_bytes(bytes(range(256)) * 8)
    return {
        "of another base": ({"adapter": adapter}, "names the base"),
        "with another opening": (
            {"adapter": write_tiny_adapter(folder / "a.gguf", tiny.base, invocation=(1, 2))},
            r"turned on by the ids \[1, 2\]",
        ),
        "heads of another base": (
            {"heads": write_tiny_heads(folder / "h", base, adapter)},
            "heads are for another base",
        ),
        "verifier of another adapter": (
            {"heads": write_tiny_heads(folder / "v", tiny.base, adapter, kinds=("verifier",))},
            "verifier is for another adapter",
        ),
        "no adapter": ({"adapter": garbage}, "can't be read as GGUF"),
        "no heads": ({"heads": garbage}, "can't be read as heads"),
        "missing": ({"adapter": folder / "nowhere.gguf"}, "is not a file: give the adapter's file"),
        "buckets of nothing": ({"adapter": None, "heads": None}, "buckets are budgets that an adapter"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "of another base",
        "with another opening",
        "heads of another base",
        "verifier of another adapter",
        "no adapter",
        "no heads",
        "missing",
        "buckets of nothing",
    ],
)
def test_parts_that_do_not_fit_are_refused_and_leave_nothing(parts, others, tmp_path, case):
    given, said = others[case]
    with pytest.raises(BundleError, match=said):
        build(tmp_path / "b", parts(**given))
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_is_none_is_refused(tiny, parts, tmp_path):
    with pytest.raises(ModelFileError):
        build(tmp_path / "b", parts(base=tiny.data))
    assert list(tmp_path.iterdir()) == []


# ── records ──────────────────────────────────────────────────────────────────────────────────────


def sft_record(tiny, **other) -> dict:
    return {
        "format": "edgereason-sft",
        "recipe": {"base": {"name": "/home/me/tiny.gguf"}, "hints": {"buckets": [32, 96]}},
        "base": {"name": "/home/me/tiny.gguf", "sha256": file_sha256(tiny.base)},
        "traces": [{"name": "traces.jsonl", "sha256": "ab" * 32}],
        "steps": 40,
        "adapter": {"sha256": file_sha256(tiny.adapter), "size_bytes": 1, "grid": "q8_0"},
        "versions": {"commit": "c0" * 20},
    } | other


def test_figures_and_origins_come_from_records_and_buckets_from_the_recipe(tiny, parts, tmp_path):
    runs = tmp_path / "runs"
    scores = [1, 1, 0, 1]
    think = write_evaluation(
        runs / "think", Mode.THINK, scores, base=tiny.base, data=tiny.data, parts=(tiny.adapter,)
    )
    record = write_json(runs / "sft" / "record.json", sft_record(tiny))
    traces = {
        "format": "edgereason-traces",
        "traces": {"name": "traces.jsonl", "sha256": "ab" * 32},
        "rule": "R",
    }
    made = write_json(runs / "traces.json", traces)
    # Traces first: what the adapter learned from is known whatever the order.
    built = build(tmp_path / "b", parts(buckets=None, records=(made, think, record.parent, think)))
    assert built.buckets == (32, 96)
    adapter = built.provenance["adapter"]
    assert adapter["record_sha256"] == file_sha256(record)
    assert (adapter["commit"], adapter["steps"]) == ("c0" * 20, 40)
    assert adapter["traces"] == [{"name": "traces.jsonl", "sha256": "ab" * 32}]
    assert [entry["rule"] for entry in built.provenance["traces"]] == ["R"]
    (result,) = built.results
    assert result.figures["accuracy"] == 0.75
    assert result.sha256 == file_sha256(think / "summary.json")
    assert result.parts == (built.adapter.sha256,)
    text = (built.folder / "bundle.json").read_text() + (built.folder / "README.md").read_text()
    assert "/home" not in text
    assert str(tmp_path) not in text
    assert build(tmp_path / "c", parts(records=(record,))).buckets == (64, 128)  # said aloud, they go first


def test_new_parts_begin_without_history_and_keep_only_figures_that_still_hold(tiny, parts, tmp_path):
    records = []
    for name, used in (("chat", ()), ("think", (tiny.adapter,)), ("auto", (tiny.adapter, tiny.heads))):
        folder = tmp_path / name
        mode = Mode(name)
        records.append(
            write_evaluation(folder, mode, [1, 0], base=tiny.base, data=tiny.data, parts=used, label=name)
        )
    records.append(write_json(tmp_path / "sft.json", sft_record(tiny)))
    first = build(tmp_path / "first", parts(records=tuple(records)))
    assert [result.what for result in first.results] == ["gsm8k: chat", "gsm8k: think", "gsm8k: auto"]

    said: list[str] = []
    heads = write_tiny_heads(tmp_path / "heads", tiny.base, tiny.adapter, seed=5)
    second = build(tmp_path / "second", Parts(base=tiny.base, start=first, heads=heads), said.append)
    assert [result.what for result in second.results] == ["gsm8k: chat", "gsm8k: think"]
    assert said == ["1 results are of other parts or buckets and left out: measure them again"]
    assert "adapter" in second.provenance

    adapter = write_tiny_adapter(tmp_path / "adapter.gguf", tiny.base, seed=5)
    heads = write_tiny_heads(tmp_path / "heads", tiny.base, adapter)
    third = build(tmp_path / "third", Parts(base=tiny.base, start=first, adapter=adapter, heads=heads))
    assert [result.what for result in third.results] == ["gsm8k: chat"]
    assert "adapter" not in third.provenance
    assert third.buckets == ()


def test_other_buckets_announce_other_budgets_so_figures_with_the_adapter_fall(tiny, parts, tmp_path):
    records = tuple(
        write_evaluation(
            tmp_path / name, Mode(name), [1, 0], base=tiny.base, data=tiny.data, parts=used, label=name
        )
        for name, used in (("chat", ()), ("think", (tiny.adapter,)))
    )
    first = build(tmp_path / "first", parts(records=records))
    said: list[str] = []
    same = Parts(base=tiny.base, start=replace(first, buckets=(128, 64)), buckets=(64, 128))
    assert build(tmp_path / "same", same, said.append).results == first.results
    assert said == []
    other = build(tmp_path / "other", replace(same, buckets=(64, 256)), said.append)
    assert (other.buckets, [one.what for one in other.results]) == ((64, 256), ["gsm8k: chat"])
    assert said == ["1 results are of other parts or buckets and left out: measure them again"]


def test_a_bundle_has_a_calculator_where_it_is_given_one_or_its_start_has(tiny, parts, tmp_path):
    plain = build(tmp_path / "plain", parts())
    first = build(tmp_path / "first", Parts(base=tiny.base, start=plain, calculator=True))
    assert (plain.calculator, first.calculator) == (False, True)
    assert Bundle.read(first.folder).calculator
    assert "Exact results of arithmetic are forced" in (first.folder / "README.md").read_text()
    assert "Exact results" not in (plain.folder / "README.md").read_text()
    assert build(tmp_path / "same", Parts(base=tiny.base, start=first)).calculator
    assert not build(tmp_path / "off", Parts(base=tiny.base, start=first, calculator=False)).calculator
    request = Request(messages=(Message("user", "?"),), mode=Mode.THINK)
    for bundle in (plain, first):
        with load(bundle.folder, base=tiny.base) as model:
            assert model.pipeline.calculates(request) is bundle.calculator


def test_figures_say_whether_they_were_measured_with_the_calculator(tiny, parts, tmp_path):
    records = tuple(
        write_evaluation(
            tmp_path / f"{has}",
            Mode.THINK,
            [1, 0],
            base=tiny.base,
            data=tiny.data,
            parts=(tiny.adapter,),
            budget=256,
            calculator=has,
        )
        for has in (False, True)
    )
    built = build(tmp_path / "b", parts(records=records))
    assert [one.what for one in built.results] == [
        "gsm8k, think, 256 tokens",
        "gsm8k, think, 256 tokens, calculator",
    ]
    assert ["--no-calculator" in one.command for one in built.results] == [True, False]
    assert [" --calculator" in one.command for one in built.results] == [False, True]


def test_an_evaluation_under_other_buckets_is_refused(tiny, parts, tmp_path):
    think = write_evaluation(
        tmp_path / "run", Mode.THINK, [1, 0], base=tiny.base, data=tiny.data, parts=(tiny.adapter,)
    )
    assert bundle_entry(build(tmp_path / "a", parts()))["buckets"] == [64, 128]
    summary = json.loads((think / "summary.json").read_text())
    for name, buckets in (("same", [128, 64]), ("other", [64, 256]), ("none", [])):
        record = write_json(tmp_path / name, summary | {"bundle": summary["bundle"] | {"buckets": buckets}})
        if name == "same":
            assert len(build(tmp_path / "b", parts(records=(record,))).results) == 1
            continue
        said = ", ".join(map(str, buckets)) or "none"
        with pytest.raises(BundleError, match=f"measured {said}, the bundle has 64, 128"):
            build(tmp_path / "c", parts(records=(record,)))


def test_a_threshold_by_accuracy_is_of_one_adapter_and_its_buckets(tiny, parts, tmp_path):
    first = build(tmp_path / "first", parts(buckets=(64,)))
    point = {"threshold": 0.5, "share_think": 0.3, "num_prompts": 9}
    by_share, by_accuracy = point | {"target_think_rate": 0.3}, point | {"min_accuracy": 0.6, "accuracy": 0.6}
    # Of a switcher alone: a verifier would be refused with another adapter.
    switcher = write_tiny_heads(tmp_path / "s", tiny.base, None, kinds=("switcher",))
    first = build(tmp_path / "second", Parts(base=tiny.base, start=first, heads=switcher))
    adapter = write_tiny_adapter(tmp_path / "adapter.gguf", tiny.base, seed=5)
    changes = {
        "nothing": {},
        "adapter": {"adapter": adapter, "buckets": (64,)},
        "buckets": {"buckets": (32,)},
    }
    for name, change in changes.items():
        for kind, values in (("share", by_share), ("accuracy", by_accuracy)):
            said: list[str] = []
            start = replace(first, calibration=values)
            again = build(
                tmp_path / f"{name}-{kind}", Parts(base=tiny.base, start=start, **change), said.append
            )
            holds = name == "nothing" or kind == "share"
            assert again.calibration == (start.calibration if holds else None)
            assert [line[:32] for line in said] == ([] if holds else ["the switcher's threshold stays, "])


def test_traces_are_named_once_however_often_their_record_is_given(tiny, parts, tmp_path):
    sft = write_json(tmp_path / "sft.json", sft_record(tiny))
    made = {"format": "edgereason-traces", "traces": {"name": "t.jsonl", "sha256": "ab" * 32}, "rule": "R"}
    traces = write_json(tmp_path / "traces.json", made)
    first = build(tmp_path / "first", parts(records=(sft, traces)))
    again = build(tmp_path / "again", Parts(base=tiny.base, start=first, records=(traces,)))
    assert again.provenance["traces"] == first.provenance["traces"]
    assert len(again.provenance["traces"]) == 1


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"format": "edgereason-sft", "adapter": {"sha256": "ff"}, "recipe": {}}, "of another adapter"),
        ({"format": "edgereason-sft"}, "is of another adapter: it made None"),
        ({"format": "edgereason-quantize", "base": {"sha256": "ff"}}, "of another base"),
        ({"format": "edgereason-quantize"}, "not of this version: it lacks 'base'"),
        ({"format": "edgereason-traces", "traces": {"sha256": "ff"}}, "the adapter's record lacks"),
        ({"format": "edgereason-own-answers"}, "which bundles do not use"),
        ({"format": "edgereason-eval", "accuracy": 1, "task": "x", "model": {"sha256": "f"}}, "another base"),
        ({"format": "edgereason-eval", "accuracy": 1}, "lacks task: write the record again"),
        ({"no": "format"}, "is not a record: it does not name its format"),
        ([], "is not a record"),
    ],
)
def test_a_record_of_something_else_is_refused(parts, tmp_path, record, said):
    path = write_json(tmp_path / "record.json", record)
    with pytest.raises(BundleError, match=said):
        build(tmp_path / "b", parts(records=(path,)))
    assert [one.name for one in tmp_path.iterdir()] == ["record.json"]


def test_a_recipe_that_is_none_is_refused(parts, tmp_path):
    path = write_json(tmp_path / "record.json", {"format": "edgereason-sft", "recipe": "mine"})
    with pytest.raises(BundleError, match="recipe must be a JSON object"):
        build(tmp_path / "b", parts(buckets=None, records=(path,)))
    assert [one.name for one in tmp_path.iterdir()] == ["record.json"]


def test_records_that_are_not_there_are_refused(parts, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(BundleError, match=r"holds neither summary.json nor record.json"):
        build(tmp_path / "b", parts(records=(tmp_path / "run",)))
    with pytest.raises(BundleError, match="can't be read: No such file"):
        build(tmp_path / "b", parts(records=(tmp_path / "nowhere.json",)))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(BundleError, match="is not JSON"):
        build(tmp_path / "b", parts(records=(tmp_path / "broken.json",)))


def test_an_adapter_of_another_machine_is_known_by_what_was_exported_beside_its_record(tiny, parts, tmp_path):
    record = sft_record(tiny)
    del record["adapter"]
    path = write_json(tmp_path / "sft" / "record.json", record)
    exported = build(tmp_path / "sft" / "bundle", parts(heads=None, buckets=(32, 96)))
    assert build(tmp_path / "b", parts(records=(path,))).provenance["adapter"]["steps"] == 40
    # What lies there must be of the recipe's base and buckets, and whole.
    replace(exported, buckets=(64,)).write()
    with pytest.raises(BundleError, match="of another adapter: it made None"):
        build(tmp_path / "c", parts(records=(path,)))
    exported.write()
    (exported.folder / "reasoning.gguf").write_bytes(b"GGUF")
    with pytest.raises(BundleError, match="SHA-256"):
        build(tmp_path / "c", parts(records=(path,)))


def test_a_verifier_was_judged_with_the_adapter_on(tiny, parts, tmp_path):
    figures = {"auroc": 0.9, "ece": 0.1, "n": 40}
    record = {
        "format": "edgereason-head",
        "command": ["train", "heads", "switcher", "--bundle", "BUNDLE"],
        "heads": {"name": tiny.heads.name, "sha256": file_sha256(tiny.heads)},
        "model": {"name": "tiny.gguf", "sha256": file_sha256(tiny.base)},
        "reliability": {"held_out": figures},
    }
    records = [
        write_json(tmp_path / f"{head}.json", record | {"head": head}) for head in ("switcher", "verifier")
    ]
    built = build(tmp_path / "b", parts(records=tuple(records)))
    assert [one.parts for one in built.results] == [
        (built.heads.sha256,),
        (built.adapter.sha256, built.heads.sha256),
    ]
    other = build(tmp_path / "c", Parts(base=tiny.base, start=built, buckets=(32,)))
    assert [one.what for one in other.results] == ["switcher on held out"]


def test_a_head_that_was_put_beside_another_is_known_by_its_weights(tiny, parts, tmp_path):
    for name, seed in (("mine", 0), ("other", 3)):
        folder = tmp_path / name
        folder.mkdir()
        alone = write_tiny_heads(
            folder / "heads.safetensors", tiny.base, tiny.adapter, kinds=("switcher",), seed=seed
        )
        figures = {"auroc": 0.9, "ece": 0.1, "n": 40, "curve": []}
        write_json(
            folder / "record.json",
            {
                "format": "edgereason-head",
                "command": ["train", "heads", "switcher", "--bundle", "BUNDLE"],
                "head": "switcher",
                "heads": {"name": alone.name, "sha256": file_sha256(alone)},
                "model": {"name": "tiny.gguf", "sha256": file_sha256(tiny.base)},
                "prompts": [{"name": "train.jsonl", "sha256": "aa"}],
                "tests": [{"name": "test.jsonl", "sha256": "bb"}],
                "reliability": {
                    "train": figures,
                    "held_out": figures,
                    "test.jsonl": figures | {"auroc": 0.8},
                },
            },
        )
    built = build(tmp_path / "b", parts(records=(tmp_path / "mine",)))
    assert built.provenance["switcher"]["prompts"] == [{"name": "train.jsonl", "sha256": "aa"}]
    assert [(one.what, one.figures["auroc"]) for one in built.results] == [
        ("switcher on held out", 0.9),
        ("switcher on test.jsonl", 0.8),
    ]
    assert built.results[0].parts == (built.heads.sha256,)
    assert built.results[0].command == "edgereason train heads switcher --bundle BUNDLE"
    with pytest.raises(BundleError, match="is of another switcher than the bundle's"):
        build(tmp_path / "c", parts(records=(tmp_path / "other",)))
    (tmp_path / "mine" / "heads.safetensors").unlink()
    with pytest.raises(BundleError, match=r"heads.safetensors is not beside the record"):
        build(tmp_path / "c", parts(records=(tmp_path / "mine",)))


def test_what_killed_builders_left_is_cleared_and_who_still_builds_is_left_alone(tiny, parts, tmp_path):
    killed, building, other = (tmp_path / f".{name}" for name in ("b.fffff0cd", "b.ffffffff", "c.fffff0cd"))
    for folder in (killed, building, other):
        folder.mkdir()
        (folder / "base.gguf").write_bytes(b"hundreds of megabytes")
        (folder / ".lock").touch()
    with FolderLock(building):
        build(tmp_path / "b", parts())
        assert {path.name for path in tmp_path.iterdir()} == {"b", building.name, other.name}
    assert not (tmp_path / "b" / ".lock").exists()

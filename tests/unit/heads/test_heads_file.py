"""`heads.safetensors`: what is written reads back, and what does not fit is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from some_heads import ADAPTER, BASE, BUCKETS, both_heads, random_switcher, random_verifier

from edgereason.errors import BundleError
from edgereason.heads.features import FeaturePart, Features
from edgereason.heads.file import (
    Heads,
    Storage,
    merge_heads,
    read_heads,
    to_int8,
    write_heads,
    write_with_threshold,
)

STATES = np.random.default_rng(9).standard_normal((64, 16)).astype(np.float32)
FITTING = {"base_sha256": BASE, "hidden_size": 16, "adapter_sha256": ADAPTER, "buckets": BUCKETS}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "heads.safetensors"


def test_what_is_written_reads_back_to_the_last_bit(path: Path) -> None:
    heads = both_heads()
    write_heads(path, heads)
    found = read_heads(path)
    assert found.switcher is not None
    assert found.verifier is not None
    assert (found.base_sha256, found.adapter_sha256, found.storage) == (BASE, ADAPTER, Storage.F32)
    assert found.switcher.threshold == 0.3
    assert (found.verifier.prompt, found.verifier.prompt_ids) == ("Is it right?", (256, 10, 257))
    assert np.array_equal(found.switcher.p_think(STATES), heads.switcher.p_think(STATES))
    assert np.array_equal(found.verifier.score(STATES), heads.verifier.score(STATES))
    assert list(path.parent.iterdir()) == [path]  # nothing temporary is left
    found.check(**FITTING)


def test_in_8_bits_a_weight_is_off_by_half_a_step_at_most_and_writing_again_changes_nothing(
    path: Path,
) -> None:
    heads = both_heads(Storage.INT8)
    write_heads(path, heads)
    found = read_heads(path)
    with safe_open(path, framework="numpy") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert stored["switcher.hidden_weight"].dtype == np.int8
    assert stored["switcher.hidden_weight_scale"].shape == (8,)
    assert stored["verifier.bias"].dtype == np.float32
    for before, after in (
        (heads.switcher.hidden_weight, found.switcher.hidden_weight),
        (heads.switcher.output_weight, found.switcher.output_weight),
        (heads.verifier.weight, found.verifier.weight),
    ):
        step = np.abs(before).max(axis=1, keepdims=True) / 127
        assert (np.abs(before - after) <= step / 2 * 1.001).all()
        assert not np.array_equal(before, after)
    np.testing.assert_allclose(found.verifier.score(STATES), heads.verifier.score(STATES), atol=0.02)
    again = path.with_name("again.safetensors")
    write_heads(again, found)
    assert again.read_bytes() == path.read_bytes()


def test_codes_of_a_row_by_hand() -> None:
    codes, scales = to_int8(np.array([[127, -63.6, 0.4], [0, 0, 0]], np.float32))
    assert codes.tolist() == [[127, -64, 0], [0, 0, 0]]
    assert scales.tolist() == [1, 1]


def test_either_head_may_be_absent_but_not_both(path: Path) -> None:
    write_heads(path, replace(both_heads(), verifier=None, adapter_sha256=None, buckets=None))
    only = read_heads(path)
    assert only.verifier is None
    only.check(**FITTING | {"adapter_sha256": None})  # a switcher knows no adapter
    only.check(**FITTING)
    only.check(**FITTING | {"buckets": (64,)})  # nor hints
    replace(both_heads(), buckets=None).check(**FITTING)  # nobody said
    write_heads(path, replace(both_heads(), switcher=None))
    assert read_heads(path).switcher is None
    with pytest.raises(BundleError, match="no head"):
        write_heads(path, Heads(base_sha256=BASE))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"base_sha256": "c" * 64}, "another base: they expect SHA-256 bbb"),
        ({"hidden_size": 896}, "reads states of size 16, the base's have 896"),
        ({"adapter_sha256": "c" * 64}, "another adapter: it expects SHA-256 aaa"),
        ({"adapter_sha256": None}, "another adapter: it expects SHA-256 a+, got no adapter"),
        ({"buckets": (128,)}, r"other hints: it expects the buckets \[128, 256\], got \[128\]"),
        ({"buckets": ()}, r"other hints: .* got \[\]"),
    ],
)
def test_another_base_or_adapter_is_refused(path: Path, other: dict, says: str) -> None:
    write_heads(path, both_heads())
    with pytest.raises(BundleError, match=says):
        read_heads(path).check(**FITTING | other)


def test_a_verifier_trained_without_an_adapter_is_refused_with_one() -> None:
    with pytest.raises(BundleError, match="it expects no adapter, got SHA-256 aaa"):
        replace(both_heads(), adapter_sha256=None).check(**FITTING)


def test_a_file_gets_another_head_beside_or_in_place_of_its_own(path: Path) -> None:
    merge_heads(path, replace(both_heads(), verifier=None, adapter_sha256=None, buckets=None))
    merge_heads(path, Heads(base_sha256=BASE, adapter_sha256="d" * 64, verifier=random_verifier(7)))
    merge_heads(path, Heads(base_sha256=BASE, switcher=random_switcher(8)))
    found = read_heads(path)
    assert found.adapter_sha256 == "d" * 64
    assert np.array_equal(found.verifier.score(STATES), random_verifier(7).score(STATES))
    assert np.array_equal(found.switcher.p_think(STATES), random_switcher(8).p_think(STATES))
    before = path.read_bytes()
    with pytest.raises(BundleError, match="two bases"):
        merge_heads(path, Heads(base_sha256="c" * 64, switcher=random_switcher(8)))
    assert path.read_bytes() == before


def stored_in(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    with safe_open(path, framework="numpy") as file:
        told = json.loads(file.metadata()["edgereason-heads"])
        return told, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("kept", ["switcher", "verifier"])
@pytest.mark.parametrize(("one", "other"), [(Storage.F32, Storage.INT8), (Storage.INT8, Storage.F32)])
def test_a_head_that_is_not_replaced_stays_bit_by_bit_as_it_is_stored(
    path: Path, kept: str, one: Storage, other: Storage
) -> None:
    write_heads(path, both_heads(one))
    told, tensors = stored_in(path)
    fresh = {
        "switcher": Heads(base_sha256=BASE, verifier=random_verifier(7), storage=other),
        "verifier": Heads(base_sha256=BASE, switcher=random_switcher(7), storage=other),
    }[kept]
    merge_heads(path, fresh)
    told_after, tensors_after = stored_in(path)
    assert told_after[kept] == told[kept]
    ours = {name for name in tensors if name.startswith(kept)}
    assert {name for name in tensors_after if name.startswith(kept)} == ours
    for name in ours:
        assert tensors_after[name].dtype == tensors[name].dtype
        assert np.array_equal(tensors_after[name], tensors[name])
    replaced = "verifier" if kept == "switcher" else "switcher"
    assert (told_after[kept]["storage"], told_after[replaced]["storage"]) == (one, other)
    # no scale of the head that was there is left
    assert any(name.endswith("_scale") and name.startswith(replaced) for name in tensors_after) == (
        other is Storage.INT8
    )
    found = read_heads(path)
    assert found.storage is None
    assert found.buckets == (BUCKETS if kept == "verifier" else None)
    with pytest.raises(BundleError, match="stored differently"):
        write_heads(path, found)


def test_features_are_stored_with_the_switcher_and_read_back(path: Path) -> None:
    features = Features(layer=-9, parts=(FeaturePart.AVERAGE, FeaturePart.LAST), skipped_tokens=24)
    switcher = random_switcher(features=features)
    write_heads(path, Heads(base_sha256=BASE, switcher=switcher))
    found = read_heads(path)
    assert found.switcher is not None
    assert (found.switcher.features, found.switcher.hidden_size) == (features, 16)
    found.check(**FITTING)
    states = np.random.default_rng(1).standard_normal((4, 32)).astype(np.float32)
    assert np.array_equal(found.switcher.p_think(states), switcher.p_think(states))


@pytest.mark.parametrize("threshold", [float("nan"), 30.0, -0.5])
def test_a_threshold_out_of_range_is_neither_written_nor_read(path: Path, threshold: float) -> None:
    changed(path, described={"switcher": told_of(path, both_heads())["switcher"] | {"threshold": threshold}})
    with pytest.raises(BundleError, match=r"heads\.safetensors: a switcher's threshold lies between 0"):
        read_heads(path)
    write_heads(path, both_heads())
    before = path.read_bytes()
    with pytest.raises(BundleError, match="threshold lies between 0"):
        write_with_threshold(path, path, threshold)
    assert path.read_bytes() == before


def told_of(path: Path, heads: Heads) -> dict:
    write_heads(path, heads)
    return stored_in(path)[0]


# Broken files


def changed(path: Path, *, described: dict | None = None, tensors: dict | None = None) -> None:
    """Writes both heads with some of its description or tensors replaced; None removes one."""
    write_heads(path, both_heads())
    with safe_open(path, framework="numpy") as file:
        told = json.loads(file.metadata()["edgereason-heads"]) | (described or {})
        stored = {name: file.get_tensor(name) for name in file.keys()} | (tensors or {})  # noqa: SIM118
    told = {key: value for key, value in told.items() if value is not None}
    stored = {key: value for key, value in stored.items() if value is not None}
    save_file(stored, path, {"edgereason-heads": json.dumps(told)})


@pytest.mark.parametrize(
    ("head", "change"),
    [
        ("switcher", {"threshold": "0.5"}),
        ("switcher", {"threshold": True}),
        ("switcher", {"features": {"skipped_tokens": 1.0}}),
        ("switcher", {"features": {"skipped_tokens": 1.5}}),
        ("switcher", {"features": {"skipped_tokens": True}}),
        ("switcher", {"features": {"layer": -2.0}}),
        ("switcher", {"features": {"layer": "-2"}}),
        ("verifier", {"prompt": 5}),
        ("verifier", {"prompt_ids": [1.5, 2]}),
        ("verifier", {"prompt_ids": ["1"]}),
        ("verifier", {"prompt_ids": "12"}),
        ("verifier", {"buckets": [128.0]}),
        ("verifier", {"features": {"behind_prompt": 1}}),
    ],
)
def test_a_value_of_another_type_never_becomes_a_number(path: Path, head: str, change: dict) -> None:
    described = told_of(path, both_heads())[head]
    inner = {"features": described["features"] | change["features"]} if "features" in change else change
    changed(path, described={head: described | inner})
    with pytest.raises(BundleError):
        read_heads(path)


@pytest.mark.parametrize("described", [{"hidden_size": 16.0}, {"hidden_size": "16"}, {"base_sha256": 5}])
def test_what_heads_belong_to_has_its_type(path: Path, described: dict) -> None:
    changed(path, described=described)
    with pytest.raises(BundleError):
        read_heads(path)


def test_a_missing_an_empty_a_truncated_and_a_foreign_file_are_refused(path: Path) -> None:
    with pytest.raises(BundleError, match="can't be read as heads"):
        read_heads(path)
    write_heads(path, both_heads())
    whole = path.read_bytes()
    for broken in (b"", whole[:100], whole[:-1], b"GGUF" + whole, json.dumps({"a": 1}).encode()):
        path.write_bytes(broken)
        with pytest.raises(BundleError, match=r"heads.safetensors can't be read as heads") as caught:
            read_heads(path)
        assert "\n" not in str(caught.value)
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleError, match="can't be read as heads"):
        read_heads(path)


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ({"version": 1}, "has version 1, this edgereason reads version 2"),
        ({"base_sha256": None}, "not a file of heads of this version"),
        ({"hidden_size": None}, "not a file of heads of this version"),
        ({"hidden_size": 896}, r"switcher.mean has shape \(16,\), expected \(F\)"),
        ({"verifier": {"storage": "int3"}}, "not a file of heads of this version"),
        ({"switcher": []}, "not a file of heads of this version"),
        ({"switcher": None, "verifier": None}, "neither a switcher nor a verifier"),
        (
            {"switcher": {"storage": "f32", "features": {"layer": -1}, "threshold": 0.5}},
            "features {'layer': -1}, this edgereason computes such as {'lay",
        ),
        ({"verifier": {"storage": "f32", "features": {"states": "layer 3"}}}, "the verifier reads features"),
    ],
)
def test_a_description_that_this_version_does_not_know_is_refused(
    path: Path, described: dict, says: str
) -> None:
    changed(path, described=described)
    with pytest.raises(BundleError, match=says) as caught:
        read_heads(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"edgereason-heads": "{"}])
def test_a_safetensors_file_of_something_else_is_refused(path: Path, metadata: dict | None) -> None:
    save_file({"weight": np.zeros((2, 2), np.float32)}, path, metadata)
    with pytest.raises(BundleError, match="is not a file of heads"):
        read_heads(path)


NAN = np.full((1, 16), np.nan, np.float32)


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        ("verifier.weight", NAN, "verifier.weight holds a non-finite value"),
        ("verifier.std", np.zeros(16, np.float32), "verifier.std holds a value that is not above 0"),
        ("verifier.weight", None, "not a file of heads of this version"),
        ("verifier.weight", np.zeros((1, 16), np.float64), "is of type float64, expected float32 or int8"),
        ("verifier.weight", np.zeros((1, 16), np.int8), "not a file of heads of this version"),  # no scale
        ("verifier.weight", np.zeros((2, 16), np.float32), r"shape \(2, 16\), expected \(1, V\)"),
        ("switcher.hidden_bias", np.zeros(7, np.float32), r"hidden_bias has shape \(7,\), expected \(U\)"),
        ("switcher.output_weight", np.zeros((1, 9), np.float32), r"expected \(1, U\)"),
    ],
)
def test_weights_of_another_shape_or_that_are_no_numbers_are_refused(
    path: Path, name: str, tensor: np.ndarray | None, says: str
) -> None:
    changed(path, tensors={name: tensor})
    with pytest.raises(BundleError, match=says):
        read_heads(path)


def test_what_is_no_number_is_not_written_and_a_failed_write_leaves_the_file_as_it_was(path: Path) -> None:
    write_heads(path, both_heads())
    before = path.read_bytes()
    with pytest.raises(BundleError, match="a non-finite value"):
        write_heads(path, replace(both_heads(), verifier=replace(random_verifier(), weight=NAN)))
    assert path.read_bytes() == before
    with pytest.raises(BundleError, match="can't be written"):
        write_heads(path / "in_a_file", both_heads())

"""Checks of a bundle: all is well, or the line that is not says why."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny_bundle import write_base, write_tiny_adapter, write_tiny_heads

from edgereason.bundles.build import Parts, build
from edgereason.bundles.card import render_card
from edgereason.bundles.verify import CheckOutcome, verify
from edgereason.core.bundle import Part, file_sha256


@pytest.fixture
def bundle(tiny, tmp_path, elsewhere):
    return build(tmp_path / "b", Parts(base=tiny.base, adapter=tiny.adapter, heads=tiny.heads))


def wrong(bundle, base=None):
    """What is wrong, as "check: text"."""
    checks = verify(bundle.folder, base)
    return [f"{check.what}: {check.text}" for check in checks if check.outcome is CheckOutcome.WRONG]


def with_part(bundle, kind, path):
    """The bundle with another file as its part, under its right hash."""
    (bundle.folder / path.name).write_bytes(path.read_bytes())
    other = replace(bundle, **{kind: Part(file=path.name, sha256=file_sha256(path))})
    other.write()
    if path.name != "garbage":  # there is nothing to say of it
        (bundle.folder / "README.md").write_text(render_card(other))
    return other


def test_a_sound_bundle_has_nothing_wrong(bundle, tiny):
    checks = list(verify(bundle.folder, tiny.base))
    assert [check.what for check in checks] == [
        "manifest", "base", "adapter", "adapter", "adapter", "heads", "seams", "card",
    ]  # fmt: skip
    assert {check.outcome for check in checks} == {CheckOutcome.OK}


def test_what_needs_the_base_is_left_out_without_it_and_the_rest_is_checked(bundle):
    checks = list(verify(bundle.folder))
    left_out = [check for check in checks if check.outcome is CheckOutcome.LEFT_OUT]
    assert [check.what for check in left_out] == ["base"]
    assert "give --base" in left_out[0].text
    assert not wrong(bundle)


def test_a_base_in_the_bundle_is_found(bundle, tiny, tmp_path):
    whole = build(tmp_path / "c", Parts(base=tiny.base, start=bundle, include_base=True))
    assert {check.outcome for check in verify(whole.folder)} == {CheckOutcome.OK}
    with (whole.folder / "base.gguf").open("ab") as file:
        file.write(b"\0")
    (text,) = wrong(whole)
    assert "base: this bundle was made for another base: sha256 is" in text


def test_a_changed_byte_is_found_wherever_it_is(bundle, tiny):
    for name in ("reasoning.gguf", "heads.safetensors"):
        path = bundle.folder / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        (text,) = wrong(bundle, tiny.base)
        assert "has SHA-256" in text
        path.write_bytes(content)
    (bundle.folder / "reasoning.gguf").unlink()
    texts = wrong(bundle, tiny.base)
    assert "adapter: the bundle names reasoning.gguf, which is not in" in texts[0]


def test_parts_of_something_else_are_found_though_their_hashes_are_right(bundle, tiny, tmp_path):
    foreign = write_base(tmp_path / "foreign.gguf", seed=3)
    adapter = write_tiny_adapter(tmp_path / "foreign-adapter.gguf", foreign)
    texts = wrong(with_part(bundle, "adapter", adapter), tiny.base)
    assert "adapter: the adapter foreign-adapter.gguf names the base" in texts[0]
    assert "heads: the verifier is for another adapter" in texts[1]
    late = write_tiny_adapter(tmp_path / "late.gguf", tiny.base, invocation=(1,))
    assert "turned on by the ids [1]" in wrong(with_part(bundle, "adapter", late), tiny.base)[0]
    heads = write_tiny_heads(tmp_path / "foreign-heads", foreign, tiny.adapter)
    (text,) = wrong(with_part(bundle, "heads", heads), tiny.base)
    assert "heads: the heads are for another base" in text
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\0" * 100)
    texts = wrong(with_part(bundle, "heads", garbage), tiny.base)
    assert [text.partition(" (")[0] for text in texts] == [
        "heads: garbage can't be read as heads",
        "card: garbage can't be read as heads",
    ]


def test_seams_of_another_version_are_found(bundle, tiny):
    replace(bundle, closing="</thought>").write()
    (text,) = wrong(bundle)
    assert "seams: the bundle opens thinking with ids" in text
    replace(bundle, opening_ids=(1, 2)).write()
    texts = wrong(bundle, tiny.base)
    assert [text.partition(":")[0] for text in texts] == ["adapter", "seams"]


def test_a_card_that_says_something_else_than_the_manifest_is_found(bundle):
    card = bundle.folder / "README.md"
    text = card.read_text()
    card.write_text(text.replace("A small model", "A large model"))
    assert wrong(bundle) == [
        "card: README.md is not what manifest and parts say: build it again (edgereason bundle build "
        "--from …)"
    ]
    older = replace(bundle, provenance={"bundle": {"edgereason": "0.0.1"}})
    older.write()
    (check,) = (one for one in verify(bundle.folder) if one.what == "card")
    assert (check.outcome, check.text[:46]) == (
        CheckOutcome.LEFT_OUT,
        "README.md was written by edgereason 0.0.1, thi",
    )
    card.unlink()
    (check,) = (one for one in verify(bundle.folder) if one.what == "card")
    assert (check.outcome, check.text[:23]) == (CheckOutcome.LEFT_OUT, "there is no README.md; ")


def test_another_base_is_wrong_and_checks_go_on_without_it(bundle, tmp_path):
    other = write_base(tmp_path / "other.gguf", seed=3)
    (text,) = wrong(bundle, other)
    assert "another base: sha256 is" in text
    (text,) = wrong(bundle, bundle.folder / "bundle.json")
    assert text.startswith("base: ")


def test_a_broken_manifest_is_the_only_line(bundle):
    (bundle.folder / "bundle.json").write_text(json.dumps({"format": "zip"}))
    (check,) = verify(bundle.folder)
    assert (check.what, check.outcome) == ("manifest", CheckOutcome.WRONG)

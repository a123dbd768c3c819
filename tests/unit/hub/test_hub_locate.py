"""Where a bundle's base is: inside, in the cache, in the catalogue or nowhere, in this order."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgereason.core.bundle import Base, Bundle
from edgereason.errors import BundleError
from edgereason.hub.catalog import CATALOG, find_by_sha256
from edgereason.hub.local_bases import remember_base
from edgereason.hub.pull import base_file, find_base
from edgereason.hub.store import model_path

KNOWN = CATALOG[0]


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """Makes a bundle on a base of this hash, beside an empty cache."""
    monkeypatch.setenv("EDGEREASON_CACHE", str(tmp_path / "cache"))
    (tmp_path / "b").mkdir()

    def make(sha256: str) -> Bundle:
        base = Base(name="x.gguf", sha256=sha256, arch="a", hidden_size=1, num_layers=1, vocab_sha256="1")
        return Bundle(folder=tmp_path / "b", base=base, opening_ids=(1,), closing="")

    return make


def never(name: str) -> Path:
    raise AssertionError(f"{name} must not be fetched")


def test_a_model_is_known_by_its_hash():
    assert all(find_by_sha256(model.sha256) is model for model in CATALOG)
    assert find_by_sha256("00" * 32) is None


def test_the_nearest_place_wins(bundle, tmp_path):
    known = bundle(KNOWN.sha256)
    fetched: list[str] = []
    assert (find_base(known).place, find_base(known).path) == ("can be pulled", None)
    path = base_file(known, lambda name: fetched.append(name) or Path("pulled.gguf"))
    assert (path, fetched) == (Path("pulled.gguf"), [KNOWN.name])
    cached = model_path(KNOWN)
    cached.parent.mkdir(parents=True)
    with cached.open("wb") as file:
        file.truncate(KNOWN.size_bytes)  # as large as it must be, and taking no room
    assert (find_base(known).place, find_base(known).path) == ("pulled", cached)
    (known.folder / "base.gguf").touch()
    assert (find_base(known).place, find_base(known).path) == ("in the bundle", known.folder / "base.gguf")
    assert find_base(known).model is KNOWN


@pytest.mark.parametrize("inside", [True, False])
def test_a_base_is_hashed_before_anything_parses_it(bundle, monkeypatch, inside):
    known = bundle(KNOWN.sha256)
    path = known.folder / "base.gguf" if inside else model_path(KNOWN)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(64 if inside else KNOWN.size_bytes)
    monkeypatch.setattr("edgereason.hub.pull.require_loadable", never)
    with pytest.raises(BundleError, match="made for another base: sha256 is"):
        base_file(known, never)


def test_a_base_that_nobody_knows_has_to_be_given(bundle):
    strange = bundle("00" * 32)
    assert find_base(strange).place == "neither here nor in the catalogue"
    with pytest.raises(
        BundleError, match=r"base x.gguf of b is neither in the bundle, .* bundle verify \S*b --base FILE"
    ):
        base_file(strange, never)


def test_a_base_of_this_machine_is_found_by_its_hash_until_it_is_changed(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("edgereason.hub.pull.require_loadable", lambda path: None)
    path = tmp_path / "made" / "base.gguf"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    strange = bundle(hashlib.sha256(b"weights").hexdigest())
    remember_base(path, strange.base.sha256)
    assert (find_base(strange).place, find_base(strange).path) == ("on this machine", path)
    assert base_file(strange, never) == path
    path.write_bytes(b"other weights")
    assert find_base(strange).path is None
    path.unlink()
    assert find_base(strange).path is None


def test_a_killed_note_leaves_nothing_once_the_base_is_noted_again(tmp_path, monkeypatch):
    monkeypatch.setattr("edgereason.hub.local_bases.cache_folder", lambda: tmp_path / "cache")
    path, sha256 = tmp_path / "own.gguf", "ab" * 32
    path.write_bytes(b"weights")
    left = tmp_path / "cache" / "bases" / f".{sha256[:50]}.fffff0cd"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    remember_base(path, sha256)
    assert [file.name for file in left.parent.iterdir()] == [f"{sha256}.json"]


def test_a_cache_that_cannot_be_written_remembers_nothing_and_does_not_complain(
    bundle, tmp_path, monkeypatch
):
    path = tmp_path / "base.gguf"
    path.write_bytes(b"weights")
    strange = bundle("00" * 32)
    monkeypatch.setattr("edgereason.hub.local_bases.cache_folder", lambda: path / "no-folder")
    remember_base(path, strange.base.sha256)
    assert find_base(strange).path is None

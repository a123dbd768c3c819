"""The bundle that comes with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgereason.core.bundle import Bundle
from edgereason.hub import catalog
from edgereason.hub.catalog import DEFAULT_BUNDLE, DEFAULT_MODEL, bundle_folder, bundle_names, find

MOST_BYTES = 25_000_000


def test_the_default_bundle_is_whole_small_and_on_the_default_model() -> None:
    bundle = Bundle.read(DEFAULT_BUNDLE)
    assert bundle.base.sha256 == find(DEFAULT_MODEL).sha256
    assert bundle.adapter is not None
    for part in bundle.parts:
        bundle.verified_file(part)
    assert sum(file.stat().st_size for file in DEFAULT_BUNDLE.iterdir()) <= MOST_BYTES


def test_the_default_bundle_is_meant_where_none_is_named_or_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundle_folder(None) == DEFAULT_BUNDLE
    assert bundle_folder(DEFAULT_BUNDLE.name) == DEFAULT_BUNDLE
    assert bundle_folder("another") == Path("another")
    (tmp_path / DEFAULT_BUNDLE.name).mkdir()  # a folder here goes before
    assert bundle_folder(DEFAULT_BUNDLE.name) == Path(DEFAULT_BUNDLE.name)


def test_every_bundle_of_the_package_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "package"
    (package / "another").mkdir(parents=True)
    monkeypatch.setattr(catalog, "BUNDLES", package)
    assert bundle_names() == ["another"]
    assert bundle_folder("another") == package / "another"
    assert bundle_folder("./runs/another") == Path("runs/another")
    assert bundle_folder("..") == Path("..")

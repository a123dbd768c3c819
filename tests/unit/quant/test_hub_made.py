"""A model of the catalogue that is made: of the teacher, once, and only with the right hash."""

from __future__ import annotations

import hashlib

import pytest
from tiny_gguf import QWEN2, learned_for, random_transforms

from edgereason.errors import PullError
from edgereason.hub import fingerprint
from edgereason.hub import pull as pull_module
from edgereason.hub.catalog import CATALOG, CatalogModel, MadeSource
from edgereason.hub.pull import LEARNED, pull
from edgereason.quant.apply import apply
from edgereason.quant.learned import Learned


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def entry(name, path, made=None, digest=None):
    return CatalogModel(
        name=name,
        title=name,
        num_parameters=1,
        file_name=f"{name}.gguf",
        size_bytes=path.stat().st_size,
        sha256=digest or sha256(path),
        licence="Apache-2.0",
        hub=None,
        mirror=None,
        made=made,
    )


@pytest.fixture
def catalogue(teachers, tmp_path, monkeypatch):
    """A teacher that is here already, what was learned for it, and the base's entry."""
    models, bases = tmp_path / "models", tmp_path / "bases"
    models.mkdir()
    bases.mkdir()
    monkeypatch.setenv("EDGEREASON_CACHE", str(tmp_path))
    monkeypatch.setattr(pull_module, "LEARNED", bases)
    teacher = models / "teacher.gguf"
    teacher.write_bytes(teachers["qwen2"].read_bytes())
    learned = learned_for(teacher, random_transforms(QWEN2, 1))
    learned.write(bases / "tiny.learned.gguf")
    apply(teacher, learned, tmp_path / "expected.gguf")
    base = entry(
        "tiny-w4", tmp_path / "expected.gguf", MadeSource(teacher="teacher", learned="tiny.learned.gguf")
    )
    known = {model.name: model for model in (entry("teacher", teacher), base)}
    monkeypatch.setattr(pull_module, "find", known.__getitem__)
    return base


def test_what_a_killed_making_left_is_cleared_by_the_next_one_and_nothing_else(catalogue, tmp_path):
    models = tmp_path / "models"
    ours = [".tiny-w4.gguf.made.fffff0cd", "tiny-w4.gguf.made", ".tiny-w4.gguf.made.ffffffff"]
    others = [".other.gguf.made.fffff0cd", ".tiny-w4.gguf.made.notes", "tiny-w4.gguf.made.fffff0cd"]
    for name in (*ours, *others):
        (models / name).write_bytes(b"GGUF of hundreds of megabytes")
    assert sha256(pull(catalogue)) == catalogue.sha256
    left = {path.name for path in models.iterdir()}
    assert left.isdisjoint(ours)
    assert left.issuperset(others)


def test_it_is_made_of_the_teacher_once(catalogue, tmp_path):
    seen, notices = [], []
    path = pull(catalogue, progress=seen.append, notice=notices.append)
    assert path == tmp_path / "models" / "tiny-w4.gguf"
    assert path.read_bytes() == (tmp_path / "expected.gguf").read_bytes()
    assert {state.source for state in seen} == {"made"}
    assert [state.done_bytes for state in seen] == sorted(state.done_bytes for state in seen)
    assert seen[-1].done_bytes == seen[-1].total_bytes == catalogue.size_bytes
    assert len(notices) == 1
    before = path.stat().st_mtime_ns
    pull(catalogue, progress=seen.append, notice=notices.append)
    assert path.stat().st_mtime_ns == before
    assert len(notices) == 1


def test_what_was_hashed_while_it_was_made_is_not_hashed_by_a_load(catalogue, monkeypatch):
    path = pull(catalogue)
    monkeypatch.setattr(fingerprint, "file_sha256", lambda path: pytest.fail(f"{path} was read again"))
    assert fingerprint.known_sha256(path) == catalogue.sha256


def test_other_bytes_than_the_catalogues_are_refused_and_removed(catalogue, tmp_path):
    wrong = entry("tiny-w4", tmp_path / "expected.gguf", catalogue.made, digest="0" * 64)
    with pytest.raises(PullError, match="instead of 0000"):
        pull(wrong)
    assert sorted(path.name for path in (tmp_path / "models").glob("tiny*")) == ["tiny-w4.gguf.lock"]


def test_another_teacher_than_the_one_learned_for_is_refused(catalogue, tmp_path):
    teacher = tmp_path / "models" / "teacher.gguf"
    changed = bytearray(teacher.read_bytes())
    changed[-1] ^= 1  # the same size, so the pull takes it for the right file
    teacher.write_bytes(changed)
    with pytest.raises(PullError, match=r"can't make tiny-w4.*SHA-256"):
        pull(catalogue)
    assert not (tmp_path / "models" / "tiny-w4.gguf").exists()


@pytest.mark.parametrize("model", [model for model in CATALOG if model.made], ids=lambda model: model.name)
def test_what_the_catalogue_makes_has_its_teacher_and_its_learned_file(model):
    teacher = next(known for known in CATALOG if known.name == model.made.teacher)
    learned = Learned.read(LEARNED / model.made.learned)
    assert learned.teacher_sha256 == teacher.sha256
    assert learned.name == model.name
    assert (LEARNED / model.made.learned).stat().st_size <= 8_000_000

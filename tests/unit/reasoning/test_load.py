"""`load` hashes a bundle's base once, and still refuses a base that is not the bundle's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edgereason.bundles.build import Parts, build
from edgereason.bundles.verify import CheckOutcome, verify
from edgereason.core import bundle as bundle_module
from edgereason.core.bundle import Bundle
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError
from edgereason.reasoning.model import load


@pytest.fixture
def base(tiny, tmp_path: Path) -> Path:
    """A base that no other test has loaded."""
    return Path(shutil.copy(tiny.base, tmp_path / "base-of-this-test.gguf"))


@pytest.fixture
def bundle(tiny, tmp_path: Path) -> Bundle:
    return build(tmp_path / "bundle", Parts(base=tiny.base, adapter=tiny.adapter, heads=tiny.heads))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is hashed from here on: files by name, and vocabularies."""
    done: list[str] = []
    digest, vocab_sha256 = bundle_module.hashlib.file_digest, LlamaEngine.vocab_sha256

    def watched_digest(file, algorithm):
        done.append(Path(file.name).name)
        return digest(file, algorithm)

    def watched_vocab(engine):
        done.append("vocabulary")
        return vocab_sha256(engine)

    monkeypatch.setattr(bundle_module.hashlib, "file_digest", watched_digest)
    monkeypatch.setattr(LlamaEngine, "vocab_sha256", watched_vocab)
    return done


def tamper(path: Path) -> None:
    """Changes the last byte, and puts the time back."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def test_the_base_and_its_vocabulary_are_hashed_by_the_first_load_alone(bundle, base, reads):
    load(bundle.folder, base=base).close()
    assert sorted(reads) == [base.name, "heads.safetensors", "reasoning.gguf", "vocabulary"]
    reads.clear()
    load(bundle.folder, base=base).close()
    assert sorted(reads) == ["heads.safetensors", "reasoning.gguf"]


def test_a_base_inside_a_bundle_is_hashed_once_and_what_is_kept_beside_it_disturbs_nothing(
    bundle, tiny, tmp_path, reads
):
    whole = build(tmp_path / "whole", Parts(base=tiny.base, start=bundle, include_base=True))
    load(whole.folder).close()
    reads.clear()
    load(whole.folder).close()
    assert sorted(reads) == ["heads.safetensors", "reasoning.gguf"]
    assert (whole.folder / ".base.gguf.json").is_file()
    assert {check.outcome for check in verify(whole.folder)} == {CheckOutcome.OK}
    again = build(tmp_path / "again", Parts(base=whole.folder / "base.gguf", start=Bundle.read(whole.folder)))
    assert not (again.folder / ".base.gguf.json").exists()


def test_verify_finds_a_change_that_size_and_time_hide_and_the_next_load_refuses_it(bundle, base):
    load(bundle.folder, base=base).close()
    tamper(base)
    load(bundle.folder, base=base).close()
    (found,) = (check for check in verify(bundle.folder, base) if check.what == "base")
    assert found.outcome is CheckOutcome.WRONG
    assert "another base: sha256 is" in found.text
    with pytest.raises(BundleError, match="another base: sha256 is"):
        load(bundle.folder, base=base)


def test_a_base_that_was_changed_is_refused(bundle, base):
    load(bundle.folder, base=base).close()
    stat = base.stat()
    tamper(base)
    os.utime(base, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(BundleError, match="another base: sha256 is"):
        load(bundle.folder, base=base)


def test_a_conversation_of_a_bare_model_is_saved_and_loaded_with_one_reading_of_its_file(
    base, tmp_path, reads
):
    for _ in range(2):
        with load(base) as model:
            session = model.session()
            session.save(tmp_path / "conversation")
            model.load_session(tmp_path / "conversation")
    assert reads == [base.name, "vocabulary"]

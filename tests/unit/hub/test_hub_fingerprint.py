"""A file's hashes are made once, kept beside it, and made again whenever the file may be another one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from edgereason.errors import ModelFileError
from edgereason.hub import fingerprint as module
from edgereason.hub.fingerprint import Fingerprint, fingerprint, known_sha256, try_once

VOCAB = "5a" * 32
HOUR_NS = 3600 * 10**9


class Reads:
    """Counts what is hashed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: list[str] = []
        self.vocabularies = 0
        real = module.file_sha256
        monkeypatch.setattr(module, "file_sha256", lambda path: self.files.append(path.name) or real(path))

    def vocab(self) -> str:
        self.vocabularies += 1
        return VOCAB

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.files), self.vocabularies


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "models here" / "model.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF one")
    return path


def of(content: bytes) -> Fingerprint:
    return Fingerprint(hashlib.sha256(content).hexdigest(), VOCAB)


def test_a_file_is_hashed_once(model, reads):
    assert fingerprint(model, reads.vocab) == of(b"GGUF one")
    assert fingerprint(model, reads.vocab) == of(b"GGUF one")
    assert reads.counts == (1, 1)
    assert [path.name for path in sorted(model.parent.iterdir())] == [".model.gguf.json", "model.gguf"]


def test_what_is_kept_holds_no_path(model, reads, tmp_path):
    fingerprint(model, reads.vocab)
    kept = model.with_name(".model.gguf.json").read_text()
    assert str(tmp_path) not in kept
    assert "models here" not in kept


@pytest.mark.parametrize("change", ["content", "content of the same size", "time"])
def test_a_changed_file_is_hashed_again(model, reads, change):
    fingerprint(model, reads.vocab)
    content, time_ns = b"GGUF one", model.stat().st_mtime_ns
    if change != "time":
        content = b"GGUF longer" if change == "content" else b"GGUF two"
        model.write_bytes(content)
    # A longer file is another one though its time is the same.
    os.utime(model, ns=(time_ns, time_ns + (0 if change == "content" else 1)))
    assert fingerprint(model, reads.vocab) == of(content)
    assert reads.counts == (2, 2)
    assert fingerprint(model, reads.vocab) == of(content)
    assert reads.counts == (2, 2)


def test_a_file_at_another_path_is_hashed_though_everything_else_is_the_same(model, reads, tmp_path):
    fingerprint(model, reads.vocab)
    moved = tmp_path / "moved" / "model.gguf"
    model.parent.rename(moved.parent)
    # Damaged on the way: what came along says nothing of it.
    time_ns = moved.stat().st_mtime_ns
    moved.write_bytes(b"GGUF 0ne")
    os.utime(moved, ns=(time_ns, time_ns))
    assert fingerprint(moved, reads.vocab) == of(b"GGUF 0ne")


def test_a_link_shares_what_is_known_of_its_file(model, reads, tmp_path):
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    fingerprint(model, reads.vocab)
    assert fingerprint(link, reads.vocab) == of(b"GGUF one")
    assert reads.counts == (1, 1)
    assert not (tmp_path / ".link.gguf.json").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: "",
        lambda kept: "not JSON",
        lambda kept: "[" * 100_000,
        lambda kept: "\x00\x00",
        lambda kept: "[]",
        lambda kept: "null",
        lambda kept: json.dumps(kept | {"version": 2}),
        lambda kept: json.dumps(kept | {"format": "another"}),
        lambda kept: json.dumps({key: value for key, value in kept.items() if key != "mtime_ns"}),
    ],
)
def test_damaged_or_foreign_content_is_ignored_and_rewritten(model, reads, damage):
    fingerprint(model, reads.vocab)
    kept = model.with_name(".model.gguf.json")
    sound = kept.read_text()
    kept.write_text(damage(json.loads(sound)))
    assert fingerprint(model, reads.vocab) == of(b"GGUF one")
    assert reads.counts == (2, 2)
    assert kept.read_text() == sound


@pytest.mark.parametrize(
    ("damage", "counts"),
    [
        ({"sha256": "12"}, (2, 1)),
        ({"sha256": 5}, (2, 1)),
        ({"vocab_sha256": None}, (1, 2)),
        ({"vocab_sha256": ["5a"]}, (1, 2)),
    ],
)
def test_only_what_is_damaged_is_computed_again(model, reads, damage, counts):
    fingerprint(model, reads.vocab)
    kept = model.with_name(".model.gguf.json")
    sound = kept.read_text()
    kept.write_text(json.dumps(json.loads(sound) | damage))
    assert fingerprint(model, reads.vocab) == of(b"GGUF one")
    assert reads.counts == counts
    assert kept.read_text() == sound


def test_the_file_is_hashed_before_its_vocabulary_is_known_and_not_again(model, reads):
    assert known_sha256(model) == of(b"GGUF one").sha256
    assert reads.counts == (1, 0)
    assert fingerprint(model, reads.vocab) == of(b"GGUF one")
    assert reads.counts == (1, 1)


def test_a_trial_is_carried_out_once_for_a_version_and_again_for_a_changed_file(model, reads):
    trials: list[int] = []
    for _ in range(2):
        try_once(model, "1.0", lambda: trials.append(1))
    assert len(trials) == 1
    fingerprint(model, reads.vocab)
    try_once(model, "1.0", lambda: trials.append(1))
    assert len(trials) == 1, "hashes that come later keep what the trial found"
    try_once(model, "1.1", lambda: trials.append(1))
    model.write_bytes(b"GGUF another")
    try_once(model, "1.1", lambda: trials.append(1))
    assert len(trials) == 3


def test_a_trial_that_fails_is_not_remembered(model):
    def refuse() -> None:
        raise ModelFileError("no")

    for _ in range(2):
        with pytest.raises(ModelFileError):
            try_once(model, "1.0", refuse)


def test_where_the_folder_is_read_only_hashes_are_kept_in_the_cache(model, reads, cache, monkeypatch):
    # GIVEN a read-only file system; permissions would not hold back root
    write = module.write_atomically

    def refuse(path: Path, text: str) -> None:
        if path.parent == model.parent:
            raise OSError(errno.EROFS, "Read-only file system")
        write(path, text)

    monkeypatch.setattr(module, "write_atomically", refuse)
    # THEN it is hashed once, and the folder stays as it was
    assert fingerprint(model, reads.vocab) == fingerprint(model, reads.vocab) == of(b"GGUF one")
    assert reads.counts == (1, 1)
    assert list(model.parent.iterdir()) == [model]
    (kept,) = (cache.parent / "fingerprints").iterdir()
    # AND a file beside it that is out of date hides nothing
    model.with_name(".model.gguf.json").write_text("{}")
    assert fingerprint(model, reads.vocab) == of(b"GGUF one")
    assert reads.counts == (1, 1)
    # AND another file has an entry of its own
    other = model.with_name("other.gguf")
    other.write_bytes(b"GGUF two")
    assert fingerprint(other, reads.vocab) == of(b"GGUF two")
    assert len({*(cache.parent / "fingerprints").iterdir()} - {kept}) == 1


def test_where_nothing_can_be_written_the_file_is_hashed_each_time(model, reads, cache):
    model.with_name(".model.gguf.json").mkdir()
    cache.parent.write_text("a file where the cache should be")
    for times in (1, 2):
        assert fingerprint(model, reads.vocab) == of(b"GGUF one")
        assert reads.counts == (times, times)
    assert {path.name for path in model.parent.iterdir()} == {".model.gguf.json", "model.gguf"}


def test_reading_all_sees_a_change_that_size_and_time_hide_and_corrects_what_is_kept(model, reads):
    fingerprint(model, reads.vocab)
    time_ns = time.time_ns() - HOUR_NS
    os.utime(model, ns=(time_ns, time_ns))
    fingerprint(model, reads.vocab)
    model.write_bytes(b"GGUF two")
    os.utime(model, ns=(time_ns, time_ns))
    assert fingerprint(model, reads.vocab) == of(b"GGUF one"), "this test hides the change from the quick way"
    assert fingerprint(model, reads.vocab, reads_all=True) == of(b"GGUF two")
    assert fingerprint(model, reads.vocab) == of(b"GGUF two")


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(model, reads):
    def vocab_while_it_grows() -> str:
        with model.open("ab") as file:
            file.write(b" and more")
        return VOCAB

    assert fingerprint(model, vocab_while_it_grows) == of(b"GGUF one")
    assert fingerprint(model, reads.vocab) == of(b"GGUF one and more")

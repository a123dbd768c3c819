"""Files of unknown origin are loaded in another process first: those that end it are refused in a line."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from mutations import change_value
from tiny_bundle import write_base

from edgereason.errors import ModelFileError
from edgereason.hub import trial
from edgereason.hub.catalog import CATALOG
from edgereason.hub.pull import resolve
from edgereason.hub.store import model_path


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGEREASON_CACHE", str(tmp_path / "cache"))
    return write_base(tmp_path / "base.gguf")


@pytest.fixture
def children(monkeypatch) -> list[str]:
    """Paths that were handed to another process."""
    started: list[str] = []
    run = trial.subprocess.run

    def counted(command, **options):
        started.append(command[-1])
        return run(command, **options)

    monkeypatch.setattr(trial.subprocess, "run", counted)
    return started


def no_blocks(data: bytes) -> bytes:
    return change_value(data, "qwen2.block_count", struct.pack("<I", 0))


def of_integers(data: bytes) -> bytes:
    """The head's weights as 32-bit integers, which no kernel multiplies."""
    return change_value(data, "output.weight", struct.pack("<I", 26), skip=4 + 2 * 8)


@pytest.mark.parametrize("damage", [no_blocks, of_integers])
def test_a_file_that_ends_its_process_is_refused_in_one_line_each_time(base, damage):
    base.write_bytes(damage(base.read_bytes()))
    for _ in range(2):
        with pytest.raises(
            ModelFileError, match=r"a process that loads it ends with SIG(ABRT|SEGV)"
        ) as found:
            resolve(str(base))
        assert "\n" not in str(found.value)
        assert str(base) in str(found.value)


def test_a_file_that_is_refused_by_the_engine_is_refused_in_its_words(base):
    base.write_bytes(base.read_bytes()[:5000])
    with pytest.raises(ModelFileError, match=r"base.gguf can't be loaded, it may be truncated"):
        resolve(str(base))


def test_a_sound_file_is_tried_once_and_again_when_it_may_be_another(base, children):
    assert resolve(str(base)) == base
    assert resolve(str(base)) == base
    assert children == [str(base)]
    write_base(base, seed=2)
    resolve(str(base))
    assert children == [str(base)] * 2


def test_a_pulled_file_of_the_catalogue_is_not_tried(base, children):
    known = model_path(CATALOG[0])
    known.parent.mkdir(parents=True)
    with known.open("wb") as file:
        file.truncate(CATALOG[0].size_bytes)
    assert resolve(str(known)) == known
    assert children == []


def test_a_file_that_keeps_its_process_busy_is_given_up(base, monkeypatch):
    monkeypatch.setattr(trial, "_COMMAND", "while True: pass")
    monkeypatch.setattr(trial, "_WALL_S", 1)
    with pytest.raises(ModelFileError, match="a process that loads it does not end"):
        resolve(str(base))


def test_a_file_that_disappears_is_an_error_in_one_line(base):
    with pytest.raises(ModelFileError, match="can't be read: No such file"):
        trial.require_loadable(base.with_name("gone.gguf"))

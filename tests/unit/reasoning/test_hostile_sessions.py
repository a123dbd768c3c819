"""Saved conversations that are damaged but carry the right hash: typed errors, and no long waits."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import mutate

from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import BundleError, EdgeReasonError
from edgereason.reasoning.model import Model
from edgereason.reasoning.prompt_cache import MAGIC

Arrays = dict[str, Any]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    with Model(ScriptedEngine(["It is 4."])).session(system="Be kind.") as session:
        session.ask("2+2?", mode="chat", max_tokens=30)
        session.save(tmp_path / "talk.kv")
    return tmp_path / "talk.kv"


def body(path: Path) -> bytes:
    return path.read_bytes()[len(MAGIC) + 32 :]


def rehashed(path: Path, content: bytes) -> Path:
    path.write_bytes(MAGIC + hashlib.sha256(content).digest() + content)
    return path


def npy(array: Any, shape: str | None = None) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    data = file.getvalue()
    if shape is not None:  # the header ends in blanks, so another shape leaves its length as it is
        old, new = (f"'shape': {one}, }}".encode().ljust(40) for one in (np.shape(array), shape))
        data = data.replace(old, new)
        assert new in data
    return data


def packed(entries: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(body(path))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def header(**changes: object) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def change(found: dict[str, bytes]) -> dict[str, bytes]:
        values = json.loads(found["header.npy"][128:])
        data = json.dumps(values | changes).encode()
        return {"header.npy": npy(np.frombuffer(data, np.uint8))}

    return change


def entry(name: str, data: bytes) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda _: {f"{name}.npy": data}


IDS = np.arange(5, dtype=np.int32)
NOTE = np.zeros(16, np.float32)
DEEP = np.frombuffer(b"[" * 100_000, np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        entry("ids", npy(-IDS)),
        entry("ids", npy(IDS + 10_000_000)),
        entry("ids", npy(IDS.astype(np.float32))),
        entry("ids", npy(IDS.astype(np.int64))),
        entry("ids", npy(IDS.reshape(1, 5))),
        entry("ids", npy(np.int32(3))),
        entry("ids", npy(IDS, "(6000000000,)")),
        entry("ids", npy(IDS, "(-5,)")),
        entry("ids", npy(IDS, "(5.0,)")),
        entry("ids", npy(IDS)[:-3]),
        entry("ids", b""),
        entry("ids", b"\x93NUMPY\x02\x00" + npy(IDS)[8:]),
        entry("header", npy(DEEP)),
        entry("header", npy(np.frombuffer(b"null", np.uint8))),
        entry("header", npy(np.frombuffer(b"\xff\xfe", np.uint8))),
        header(messages=None),
        header(messages=[{"role": "user"}]),
        header(messages=[{"role": "god", "content": "x"}]),
        header(messages={"role": "user"}),
        header(messages=[{"role": "user", "content": "\ud800"}]),
        header(origin=5),
        header(origin={"base": 5, "adapter": None, "heads": None, "engine": "x"}),
        header(origin={"base": "b"}),
        entry("note.3.last", npy(NOTE + np.nan)),
        entry("note.0.last", npy(NOTE)),
        entry("note.-1.last", npy(NOTE)),
        entry("note.1000000.last", npy(NOTE)),
        entry("note.x.last", npy(NOTE)),
        entry("note.3.last", npy(NOTE.astype(np.float64))),
    ],
)
def test_a_conversation_that_says_what_can_not_be_is_refused(saved, change):
    found = entries(saved)
    rehashed(saved, packed(found | change(found)))
    with pytest.raises(BundleError, match=r"talk.kv holds no conversation"):
        Model(ScriptedEngine()).load_session(saved)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_conversation_is_refused_before_it_is_unpacked(saved, kind):
    found = entries(saved) | {"kv.npy": npy(np.zeros(50_000_000, np.uint8))}
    rehashed(saved, packed(found, kind))
    with pytest.raises(BundleError, match="is compressed, or longer than the file"):
        Model(ScriptedEngine()).load_session(saved)


def test_mutated_conversations_are_typed_errors_or_go_on(saved):
    content, refused = body(saved), 0
    for seed in range(400):
        rehashed(saved, mutate(content, seed, range(0, len(content), 7)))
        try:
            with Model(ScriptedEngine(["Yes."])).load_session(saved) as session:
                session.ask("Sure?", mode="chat", max_tokens=30)
        except EdgeReasonError:
            refused += 1
    assert 100 < refused <= 400


def test_saving_clears_what_killed_savings_of_the_same_file_left(tmp_path):
    ours = [".talk.kv.fffff0cd", ".talk.kv.ffffffff"]
    others = [".other.kv.fffff0cd", ".talk.kv.notes", "talk.kv.fffff0cd"]
    for name in (*ours, *others):
        (tmp_path / name).write_bytes(b"half")
    with Model(ScriptedEngine(["It is 4."])).session() as session:
        session.ask("2+2?", mode="chat", max_tokens=30)
        session.save(tmp_path / "talk.kv")
    assert {path.name for path in tmp_path.iterdir()} == {*others, "talk.kv"}

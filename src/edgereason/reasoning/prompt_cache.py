r"""A conversation's prompt KV as a file, for the base, heads and engine that made it and for no other.

::

    EDGEKV1\n │ SHA-256 of the rest │ npz: header (JSON), ids, kv, and the switcher's notes note.LENGTH.NAME

What is read is checked whole before any of it is used. The KV is the base's alone, whatever the adapter; the
adapter must be the same all the same, since the answers in the conversation are its. Ids decide what of the
KV is used, never the text.

The hash tells damage, not intent: llama.cpp reads the KV's bytes as they are, so open only files of your own.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from edgereason.config import load_json, parse
from edgereason.core.bundle import temporary_beside
from edgereason.core.types import Message
from edgereason.errors import BundleError, ConfigError, RequestError
from edgereason.heads.base import Array
from edgereason.reasoning.prefix import Notes

MAGIC: Final = b"EDGEKV1\n"
_DIGEST_BYTES: Final = 32
_NOTE: Final = "note"
_UNREADABLE: Final = (
    ArithmeticError,
    BadZipFile,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RequestError,
    RuntimeError,  # an encrypted entry, JSON nested too deep
    TypeError,
    ValueError,
    struct.error,
)
"""What a damaged or hostile file meets, whose hash is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvOrigin:
    """What a cache was made with; it is read under the same and under nothing else.

    Attributes:
        base: SHA-256 of the base's file.
        adapter: SHA-256 of the adapter's; it answered what is in the conversation.
        heads: SHA-256 of the heads', whose switcher's notes are in the cache.
        engine: `Engine.state_format`.
    """

    base: str
    adapter: str | None
    heads: str | None
    engine: str

    def require(self, made_with: KvOrigin, path: Path) -> None:
        """Refuses a cache that was made with something else.

        Raises:
            BundleError: it names what differs first.
        """
        for field in fields(KvOrigin):
            got, expected = getattr(made_with, field.name), getattr(self, field.name)
            if got != expected:
                raise BundleError(
                    f"{path.name} was saved with another {field.name}: {_short(got)}, and this model has "
                    f"{_short(expected)}; load it with what it was saved with, or begin a new conversation"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCache:
    """What a session needs to go on.

    Attributes:
        ids: what the KV holds.
        kv: the engine's bytes.
        notes: what the switcher had read, chunk by chunk.
    """

    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    kv: bytes
    notes: Notes

    def write(self, path: Path, origin: KvOrigin) -> None:
        """Writes the cache, whole or not at all.

        Raises:
            ConfigError: it can't be written there.
        """
        header = {"origin": asdict(origin), "messages": [asdict(message) for message in self.messages]}
        arrays: dict[str, npt.NDArray[Any]] = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "ids": np.array(self.ids, np.int32),
            "kv": np.frombuffer(self.kv, np.uint8),
        }
        for length, note in self.notes.items():
            arrays |= {f"{_NOTE}.{length}.{name}": array for name, array in note.items()}
        body = io.BytesIO()
        np.savez(body, **arrays)  # type: ignore[arg-type]
        content = body.getvalue()
        try:
            with temporary_beside(path) as temporary, temporary.open("xb") as file:
                file.write(MAGIC + hashlib.sha256(content).digest())
                file.write(content)
        except OSError as error:
            raise ConfigError(f"can't save the conversation to {path}: {error.strerror}") from error

    @classmethod
    def read(cls, path: Path, origin: KvOrigin) -> PromptCache:
        """Reads a cache that was made with the same.

        Raises:
            BundleError: it is missing, damaged, no such file, or was made with something else.
        """
        content = _checked(path)
        try:
            arrays = _arrays(content)
            header = load_json(arrays["header"].tobytes())
            made_with = parse(KvOrigin, header["origin"], "origin", RequestError)
            ids = arrays["ids"]
            if ids.dtype != np.int32 or ids.ndim != 1 or (ids < 0).any():
                raise ValueError("its ids are not a list of whole numbers from 0 on")
            cache = cls(
                messages=tuple(Message(**message) for message in header["messages"]),
                ids=tuple(ids.tolist()),
                kv=arrays["kv"].tobytes(),
                notes=_notes(arrays, len(ids)),
            )
        except _UNREADABLE as error:
            raise BundleError(f"{path.name} holds no conversation that can be read: {error}") from error
        origin.require(made_with, path)
        return cache


def _checked(path: Path) -> bytes:
    """The file's content, its hash checked."""
    try:
        with path.open("rb") as file:
            magic, digest, content = file.read(len(MAGIC)), file.read(_DIGEST_BYTES), file.read()
    except OSError as error:
        raise BundleError(f"can't read a conversation from {path}: {error.strerror}") from error
    if magic != MAGIC:
        raise BundleError(f"{path.name} is not a saved conversation: it begins with {magic!r}, not {MAGIC!r}")
    if hashlib.sha256(content).digest() != digest:
        raise BundleError(f"{path.name} is truncated or damaged: its content has not the hash that it names")
    return content


def _arrays(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an npz as `write` makes it: stored as they are, and each as long as it says."""
    found: dict[str, npt.NDArray[Any]] = {}
    with ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            if entry.compress_type != ZIP_STORED or entry.file_size > len(content):
                raise ValueError(f"{entry.filename!r} is compressed, or longer than the file")
            file = io.BytesIO(archive.read(entry))
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError(f"{entry.filename!r} is an array of another format")
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
            data = file.read()
            if dtype.hasobject or is_fortran or math.prod(shape) * dtype.itemsize != len(data):
                raise ValueError(f"{entry.filename!r} is not the array that it says it is")
            found[entry.filename.removesuffix(".npy")] = np.frombuffer(data, dtype).reshape(shape)
    return found


def _notes(arrays: Mapping[str, npt.NDArray[Any]], num_ids: int) -> Notes:
    notes: dict[int, dict[str, Array]] = {}
    for key in arrays:
        kind, _, rest = key.partition(".")
        if kind == _NOTE:
            length, _, name = rest.partition(".")
            if not 0 < int(length) <= num_ids or arrays[key].dtype != np.float32:
                raise ValueError(f"{key} is a note of another prompt, or of another type")
            if not np.isfinite(arrays[key]).all():
                raise ValueError(f"{key} holds a non-finite value")
            notes.setdefault(int(length), {})[name] = arrays[key]
    return notes


def _short(value: str | None) -> str:
    """A hash as far as it tells it from another; what is short anyway as it is."""
    if value is None:
        return "none"
    return f"{value[:12]}…" if len(value) == 64 else value

"""llama.cpp's C API, its log, its texts and a sequence's KV as bytes, for the other modules of this folder.

`C` is llama-cpp-python's low-level binding. Nothing is printed: what llama.cpp logs as warning or error
is kept for the message of the exception that follows. Handles belong to the callers.

A sequence's KV is in llama.cpp's own format. llama.cpp checks size, cache type and shape, and aborts on none
of them; that the bytes belong to this base it can't know.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

# Between two nodes of a graph llama.cpp's threads meet at a barrier, where GNU OpenMP spins long enough to
# burn whole time slices when other processes hold the cores: with two of them on two cores, a step of 12 ms
# took 2.7 s. Giving up the core after a short spin keeps it below 0.1 s, and costs nothing that shows on a
# quiet machine (300 and 1000 did, 6000 and more did less for a busy one). Read when the library loads, so it
# must be set before; the user's own setting counts.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
# Where ggml aborts, it would start a debugger on its own process and print some 60 lines.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

import llama_cpp.llama_cpp as C  # noqa: N812
from llama_cpp import __version__ as VERSION  # noqa: N812
from llama_cpp import _ggml

from edgereason.errors import EngineError, ModelFileError

__all__ = [
    "GGUF_ARRAY",
    "GGUF_FLOAT32",
    "GGUF_STRING",
    "GGUF_UINT32",
    "VERSION",
    "C",
    "adds_space",
    "complaints",
    "fail",
    "forget_complaints",
    "ggml",
    "gguf_header",
    "gguf_types",
    "has_kernels",
    "kernels",
    "metadata",
    "piece",
    "read_state",
    "token_text",
    "tokenize",
    "vocab_sha256",
    "write_state",
]

GGUF_UINT32, GGUF_FLOAT32, GGUF_STRING, GGUF_ARRAY = 4, 6, 8, 9
_LOG_WARN, _LOG_ERROR, _LOG_CONTINUED = 3, 4, 5
_complaints: Final[deque[str]] = deque(maxlen=8)
_last_level = 0

ggml: Final[Any] = _ggml.libggml
ggml.ggml_get_name.argtypes, ggml.ggml_get_name.restype = [ctypes.c_void_p], ctypes.c_char_p
ggml.ggml_nrows.argtypes, ggml.ggml_nrows.restype = [ctypes.c_void_p], ctypes.c_int64
ggml.ggml_nbytes.argtypes, ggml.ggml_nbytes.restype = [ctypes.c_void_p], ctypes.c_size_t
ggml.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
ggml.ggml_backend_tensor_get.restype = None


def kernels() -> str:
    """Which of edgereason's kernels this build of llama.cpp uses, such as "avx512-vnni"; empty for none.

    They are compiled in by `tools/native/install.py`. EDGEREASON_KERNELS=0 in the environment means none.
    """
    if not has_kernels():
        return ""
    name = ggml.edgereason_kernels
    name.restype = ctypes.c_char_p
    found: bytes = name()
    return found.decode()


def has_kernels() -> bool:
    """Whether edgereason's kernels are in this build of llama.cpp, used or not."""
    return hasattr(ggml, "edgereason_kernels")


class _GgufParams(ctypes.Structure):
    """`gguf_init_params`: headers only, and no tensors made of them."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


# gguf-py reads a file of 151k vocabulary entries in ten seconds, the C library in a tenth of one.
ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, _GgufParams]
ggml.gguf_init_from_file.restype = ctypes.c_void_p
ggml.gguf_free.argtypes, ggml.gguf_free.restype = [ctypes.c_void_p], None
ggml.gguf_find_key.argtypes, ggml.gguf_find_key.restype = [ctypes.c_void_p, ctypes.c_char_p], ctypes.c_int64
ggml.gguf_get_n_tensors.argtypes, ggml.gguf_get_n_tensors.restype = [ctypes.c_void_p], ctypes.c_int64
for _name, _result in (
    ("kv_type", ctypes.c_int),
    ("arr_type", ctypes.c_int),
    ("tensor_type", ctypes.c_int),
    ("tensor_name", ctypes.c_char_p),
    ("tensor_size", ctypes.c_size_t),
):
    _getter = getattr(ggml, f"gguf_get_{_name}")
    _getter.argtypes, _getter.restype = [ctypes.c_void_p, ctypes.c_int64], _result


def _on_log(level: int, text: bytes | None, _user_data: object) -> None:
    global _last_level
    if level != _LOG_CONTINUED:
        _last_level = level
    if _last_level in (_LOG_WARN, _LOG_ERROR) and text:
        _complaints.append(text.decode("utf-8", "replace").strip())


_log_callback = C.llama_log_callback(_on_log)
"""Kept alive here: llama.cpp holds only the pointer."""
C.llama_log_set(_log_callback, None)
C.llama_backend_init()


def forget_complaints() -> None:
    """Empties what was logged, before a call whose failure should be explained by its own log."""
    _complaints.clear()


def complaints() -> str:
    """What llama.cpp complained of since then, in one line; without its function-name prefixes."""
    lines = [line.partition(": ")[2] or line for line in _complaints if line]
    return "; ".join(dict.fromkeys(lines)) or "llama.cpp gave no reason"


def fail(what: str) -> EngineError:
    """An EngineError saying what failed and what llama.cpp logged."""
    return EngineError(f"{what}: {complaints()}")


class GgufTypes(NamedTuple):
    """Types in a GGUF file, by ggml's numbers.

    Attributes:
        keys: of the metadata that was asked for, as far as it is there; (9, item) for a list.
        tensors: all that occur.
    """

    keys: dict[str, tuple[int, ...]]
    tensors: set[int]


@contextmanager
def gguf_header(path: Path) -> Iterator[Any]:
    """What ggml's functions on a GGUF take: its metadata and the tensors' names and types, no weights.

    Raises:
        ModelFileError: it is not a whole GGUF.
    """
    forget_complaints()
    file = ggml.gguf_init_from_file(os.fsencode(path), _GgufParams(True, None))
    if not file:
        raise ModelFileError(f"{path} can't be read as a GGUF file: {complaints()}")
    try:
        yield file
    finally:
        ggml.gguf_free(file)


def gguf_types(path: Path, keys: Iterable[str]) -> GgufTypes:
    """Types of some metadata and of the tensors, without their values.

    Raises:
        ModelFileError: it is not a whole GGUF.
    """
    found: dict[str, tuple[int, ...]] = {}
    with gguf_header(path) as file:
        for key in keys:
            if (index := ggml.gguf_find_key(file, key.encode())) >= 0:
                kind = ggml.gguf_get_kv_type(file, index)
                item = (ggml.gguf_get_arr_type(file, index),) if kind == GGUF_ARRAY else ()
                found[key] = (kind, *item)
        count = ggml.gguf_get_n_tensors(file)
        return GgufTypes(found, {ggml.gguf_get_tensor_type(file, index) for index in range(count)})


def vocab_sha256(vocab: Any) -> str:
    """Hash over every token's text in id order."""
    digest = hashlib.sha256()
    for token in range(C.llama_vocab_n_tokens(vocab)):
        digest.update(token_text(vocab, token).encode())
        digest.update(b"\0")
    return digest.hexdigest()


_GUARD: Final = "\x01"
"""A character that no vocabulary merges with what follows."""


def adds_space(vocab: Any) -> bool:
    """Whether the vocabulary puts a blank in front of every text, as those of SentencePiece often do."""
    ids = _tokenize(vocab, _GUARD, special=False)
    return b"".join(piece(vocab, token) for token in ids) == b" " + _GUARD.encode()


def tokenize(vocab: Any, text: str, *, special: bool, without_space: bool = False) -> list[int]:
    """Ids of `text` with nothing added.

    Args:
        vocab: llama.cpp's handle.
        text: to tokenize.
        special: whether control tokens are recognised.
        without_space: whether the vocabulary `adds_space`, so that the blank has to be left out. A text that
            begins with a control token keeps what the vocabulary puts behind that.
    """
    if without_space and text:
        guard = _tokenize(vocab, _GUARD, special=False)
        ids = _tokenize(vocab, _GUARD + text, special=special)
        if ids[: len(guard)] == guard:
            return ids[len(guard) :]
    return _tokenize(vocab, text, special=special)


def _tokenize(vocab: Any, text: str, *, special: bool) -> list[int]:
    data = text.encode("utf-8")
    room = len(data) + 8
    ids = (C.llama_token * room)()
    n = C.llama_tokenize(vocab, data, len(data), ids, room, False, special)
    if n < 0:
        raise EngineError(f"could not tokenize {len(data)} bytes of text")
    return list(ids[:n])


def piece(vocab: Any, token: int) -> bytes:
    """Bytes of one token; control tokens are empty."""
    buffer = ctypes.create_string_buffer(64)
    n = C.llama_token_to_piece(vocab, token, buffer, 64, 0, False)
    if n < 0:
        buffer = ctypes.create_string_buffer(-n)
        n = C.llama_token_to_piece(vocab, token, buffer, -n, 0, False)
    return buffer.raw[:n]


def token_text(vocab: Any, token: int) -> str:
    """How the vocabulary writes a token, control tokens included; "" for none."""
    text = C.llama_vocab_get_text(vocab, token) if token >= 0 else b""
    return bytes(text or b"").decode("utf-8", "replace")


def metadata(model: Any, key: str) -> str | None:
    """A GGUF metadata value as llama.cpp prints it, or None."""
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        n = C.llama_model_meta_val_str(model, key.encode(), buffer, size)
        if n < 0:
            return None
        if n < size:
            return buffer.value.decode("utf-8", "replace")
        size = n + 1


def read_state(context: Any, slot: int) -> bytes:
    """The KV of the sequence in a slot.

    Raises:
        EngineError: llama.cpp wrote less than it said it would.
    """
    forget_complaints()
    num_bytes = C.llama_state_seq_get_size(context, slot)
    state = (ctypes.c_uint8 * num_bytes)()
    if C.llama_state_seq_get_data(context, state, num_bytes, slot) != num_bytes:
        raise fail(f"the KV of {num_bytes} bytes could not be read")
    return bytes(state)


def write_state(context: Any, slot: int, state: bytes, length: int) -> None:
    """Fills an empty slot with a KV of `length` tokens; it is empty again if that fails.

    Raises:
        EngineError: the bytes are not such a KV for this context, or there is no room.
    """
    forget_complaints()
    num_bytes = len(state)
    buffer = (ctypes.c_uint8 * num_bytes).from_buffer_copy(state)
    read_bytes = C.llama_state_seq_set_data(context, buffer, num_bytes, slot)
    memory = C.llama_get_memory(context)
    if read_bytes != num_bytes or C.llama_memory_seq_pos_max(memory, slot) != length - 1:
        C.llama_memory_seq_rm(memory, slot, -1, -1)
        raise fail(f"{num_bytes} bytes are not a KV of {length} tokens for this context")

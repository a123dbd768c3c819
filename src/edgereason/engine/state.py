"""A sequence's KV as bytes, by llama.cpp's own format.

llama.cpp checks size, cache type and shape, and aborts on none of them; that the bytes belong to this base
it can't know. Owns nothing and keeps no count: which sequence may be read or written the engine decides.
"""

from __future__ import annotations

import ctypes
from typing import Any

from edgereason.engine.native import C, fail, forget_complaints


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
        EngineError: the bytes are no such KV for this context, or there is no room.
    """
    forget_complaints()
    num_bytes = len(state)
    buffer = (ctypes.c_uint8 * num_bytes).from_buffer_copy(state)
    read_bytes = C.llama_state_seq_set_data(context, buffer, num_bytes, slot)
    memory = C.llama_get_memory(context)
    if read_bytes != num_bytes or C.llama_memory_seq_pos_max(memory, slot) != length - 1:
        C.llama_memory_seq_rm(memory, slot, -1, -1)
        raise fail(f"{num_bytes} bytes are no KV of {length} tokens for this context")

"""What a model says of itself, and the context that the engine makes for it.

Knows llama.cpp's parameters and metadata keys; holds no handle and decides nothing about requests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from edgereason.engine import native
from edgereason.engine.base import KvType, ModelInfo
from edgereason.engine.cells import Ledger
from edgereason.engine.native import C

_KV_TYPES: Final[dict[KvType, tuple[int, float]]] = {"f16": (1, 2.0), "q8_0": (8, 34 / 32)}
"""ggml type number and bytes an element."""

BATCH_TOKENS: Final = 512
"""Most tokens of one native batch, and the chunk between two looks at `should_stop`."""
CELL_STEP: Final = 256
"""llama.cpp rounds a context up to this many cells."""
MIN_SEQUENCES: Final = 4


def context_params(ledger: Ledger, *, threads: int, kv: KvType = "f16") -> Any:
    """Native parameters of a context with the ledger's cells and slots, less the callback."""
    params = C.llama_context_default_params()
    params.n_ctx = ledger.cells + ledger.each
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_seq_max = ledger.slots + bool(ledger.each)
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = _KV_TYPES[kv][0]
    params.kv_unified = not ledger.each
    params.no_perf = True
    return params


def round_up(cells: int) -> int:
    """Cells of the context that holds so many."""
    return -(-cells // CELL_STEP) * CELL_STEP


def describe(path: Path, model: Any, vocab: Any, kv: KvType) -> ModelInfo:
    """What is read off a loaded model; `kv` prices its cells."""
    arch = native.metadata(model, "general.architecture") or "unknown"
    heads, kv_heads = C.llama_model_n_head(model), C.llama_model_n_head_kv(model)
    hidden_size, num_layers = C.llama_model_n_embd(model), C.llama_model_n_layer(model)
    head_size = hidden_size // heads
    key_size = int(native.metadata(model, f"{arch}.attention.key_length") or head_size)
    value_size = int(native.metadata(model, f"{arch}.attention.value_length") or head_size)
    template = C.llama_model_chat_template(model, None)
    return ModelInfo(
        path=path,
        name=native.metadata(model, "general.name") or path.stem,
        arch=arch,
        size_bytes=path.stat().st_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        vocab_size=C.llama_vocab_n_tokens(vocab),
        train_context_tokens=C.llama_model_n_ctx_train(model),
        kv_bytes_per_cell=int(num_layers * kv_heads * (key_size + value_size) * _KV_TYPES[kv][1]),
        chat_template=bytes(template).decode("utf-8") if template else "",
        bos_text=native.token_text(vocab, C.llama_vocab_bos(vocab)),
        eos_text=native.token_text(vocab, C.llama_vocab_eos(vocab)),
        add_bos=bool(C.llama_vocab_get_add_bos(vocab)),
    )

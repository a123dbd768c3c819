"""The engine on llama.cpp: one model, one context, many sequences over shared cells.

::

    encode(prompt) ─ base ─┬─ sample …                      chat
                           └─ fork ─ cross ─ encode(opening) ─ fork × N ─ step, step, …   think

The KV cache is *unified*: one pool of cells in which a fork is a note on each shared cell and copies no
bytes. The adapter is a property of the native context, so a step over sequences of different adapters is
one native batch per adapter; a switch rebuilds llama.cpp's graph, tens of milliseconds, and is made only
when the next batch needs it.

Knows token ids, cells and adapters; does not know text beyond tokenizing, nor why a token is forced.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import weakref
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Tokens
from pathlib import Path
from typing import Any, Final, Literal, Self

from edgereason.core.types import Sampling
from edgereason.engine import native
from edgereason.engine.base import Adapter, Feed, ModelInfo, Sampled, Sampler, Sequence, States, require_fresh
from edgereason.engine.cells import Ledger, Promise
from edgereason.engine.handles import Handles
from edgereason.engine.native import C, fail
from edgereason.engine.sampling import NativeSampler, log_probability, logits_row
from edgereason.engine.tap import StateTap
from edgereason.errors import ContextOverflow, EngineError

KvType = Literal["f16", "q8_0"]
_KV_TYPES: Final[dict[KvType, tuple[int, float]]] = {"f16": (1, 2.0), "q8_0": (8, 34 / 32)}
"""ggml type number and bytes an element."""

BATCH_TOKENS: Final = 512
"""Most tokens of one native batch, and the chunk between two looks at `should_stop`."""
CELL_STEP: Final = 256
"""llama.cpp rounds a context up to this many cells."""
_MIN_SLOTS: Final = 4


class LlamaEngine:
    """An `Engine` over a GGUF file.

    Args:
        path: the base model.
        threads: CPU threads; by default as many as this process may use.
        kv: type of the KV cache. q8_0 halves it, and costs time on x86, which has no fast path for it.
        context_tokens: size of the context in cells, fixed. By default the context is made when a request
            comes, as large as it needs, and made anew when a larger one comes.

    Raises:
        ModelFileError: the file is missing, truncated, or holds something else.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        kv: KvType = "f16",
        context_tokens: int | None = None,
    ) -> None:
        self._threads = threads or usable_cores()
        self._kv: KvType = kv
        self._fixed_cells = _round_up(context_tokens) if context_tokens else None
        self._handles = Handles(path)
        self._finalizer = weakref.finalize(self, self._handles.close)
        self._vocab = C.llama_model_get_vocab(self._handles.model)
        self._info = _describe(path, self._handles.model, self._vocab, kv)
        self._tap = StateTap(self._info.hidden_size, self._info.num_layers)
        self._pieces: dict[int, bytes] = {}
        self._ledger = Ledger(cells=0, slots=0)
        self._active: Adapter | None = None
        self._decodes = 0

    # What there is

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def context_tokens(self) -> int:
        train = self._info.train_context_tokens
        return min(self._fixed_cells, train) if self._fixed_cells else train

    @property
    def used_cells(self) -> int:
        return self._ledger.used_cells

    @property
    def num_cells(self) -> int:
        """Cells of the context as it stands; 0 before the first `reserve`."""
        return self._ledger.cells

    @property
    def num_handles(self) -> int:
        """Native handles alive, for leak tests."""
        return self._handles.num_open

    @property
    def native_context(self) -> Any:
        """The raw llama_context, for benchmarks that compare against bare calls."""
        return self._handles.context

    # Text

    def vocab_sha256(self) -> str:
        digest = hashlib.sha256()
        for token in range(self._info.vocab_size):
            digest.update(native.token_text(self._vocab, token).encode())
            digest.update(b"\0")
        return digest.hexdigest()

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return native.tokenize(self._vocab, text, special=special)

    def piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = native.piece(self._vocab, token)
        return piece

    def is_end(self, token: int) -> bool:
        return bool(C.llama_vocab_is_eog(self._vocab, token))

    # Sequences

    def reserve(self, *, cells: int, sequences: int) -> Promise:
        ledger = self._ledger
        if not ledger.has_room(cells, sequences):
            limit = self._fixed_cells
            if limit is not None and cells > limit - (ledger.cells - ledger.unpromised_cells):
                raise ContextOverflow(cells, limit - (ledger.cells - ledger.unpromised_cells))
            if not ledger.is_idle:
                raise ContextOverflow(
                    cells, ledger.unpromised_cells, "a request beside others that still run"
                )
            self._open_context(limit or max(ledger.cells, _round_up(cells)), max(_MIN_SLOTS, sequences))
        return self._ledger.promise(cells, sequences)

    def new_sequence(self) -> Sequence:
        return self._ledger.new()

    def cross(self, sequence: Sequence, adapter: Adapter | None) -> None:
        if adapter is not None and adapter.path not in self._handles.adapters:
            raise EngineError(f"{adapter.path.name} was unloaded: load it again")
        sequence.cross(adapter)

    def fork(self, sequence: Sequence) -> Sequence:
        child = self._ledger.fork(sequence)
        C.llama_memory_seq_cp(self._memory, sequence.slot, child.slot, -1, -1)
        return child

    def release(self, sequence: Sequence) -> None:
        if sequence.released:
            return
        C.llama_memory_seq_rm(self._memory, sequence.slot, -1, -1)
        self._ledger.release(sequence)

    # Encoding and drawing

    def encode(
        self,
        sequence: Sequence,
        tokens: Tokens[int],
        *,
        on_states: Callable[[States], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> bool:
        if not tokens:
            raise EngineError("nothing to encode: got no tokens")
        for start in range(0, len(tokens), BATCH_TOKENS):
            if start and should_stop is not None and should_stop():
                return False
            chunk = tokens[start : start + BATCH_TOKENS]
            is_last = start + BATCH_TOKENS >= len(tokens)
            if on_states is None:
                self._decode([(sequence, chunk, is_last)])
            else:
                on_states(self._decode_tapped([(sequence, chunk, is_last)], self._tap.every_token))
        return True

    def sampler(self, sampling: Sampling, seed: int) -> NativeSampler:
        return NativeSampler(sampling, seed, self._handles.samplers)

    def sample(self, sequence: Sequence, sampler: Sampler, *, want_logprob: bool = False) -> Sampled:
        row = require_fresh(sequence, self._decodes)
        assert isinstance(sampler, NativeSampler)
        token = int(C.llama_sampler_sample(sampler.chain, self._handles.context, row))
        if not want_logprob:
            return Sampled(token)
        logits = logits_row(self._handles.context, row, self._info.vocab_size)
        return Sampled(token, log_probability(logits, token, sampler.temperature))

    def step(self, feeds: Iterable[Feed]) -> list[Sampled]:
        feeds = list(feeds)
        drawn: dict[int, Sampled] = {}
        for batch in _pack(feeds):
            self._decode([(feeds[i].sequence, feeds[i].tokens, True) for i in batch])
            for i in batch:
                drawn[i] = self.sample(
                    feeds[i].sequence, feeds[i].sampler, want_logprob=feeds[i].want_logprob
                )
        return [drawn[i] for i in range(len(feeds))]

    def states(self, feeds: Iterable[tuple[Sequence, Tokens[int]]]) -> States:
        # All tokens but the last go first: logits are computed for every output row, so the batch that is
        # tapped holds one row a sequence.
        feeds = list(feeds)
        for sequence, tokens in feeds:
            if len(tokens) > 1:
                self.encode(sequence, tokens[:-1])
        rows = [(sequence, tokens[-1:], True) for sequence, tokens in feeds]
        return self._decode_tapped(rows, self._tap.outputs_only)

    def logits(self, sequence: Sequence) -> States:
        """A copy of the logits after a sequence whose logits are fresh, (V,) float32."""
        row = require_fresh(sequence, self._decodes)
        return logits_row(self._handles.context, row, self._info.vocab_size).copy()

    # Adapters

    def load_adapter(self, path: Path) -> Adapter:
        path = path.resolve()
        if path in self._handles.adapters:
            raise EngineError(f"{path.name} is loaded already: unload it first")
        self._handles.open_adapter(path)
        return Adapter(path)

    def unload_adapter(self, adapter: Adapter) -> None:
        if any(sequence.encoder is adapter for sequence in self._ledger.live):
            raise EngineError(f"{adapter.path.name} is in use by a live sequence: release it first")
        if self._active is adapter:
            # llama.cpp compares adapters by pointer, and a new one may get this one's address.
            self._use(None)
        self._handles.close_adapter(adapter.path)

    def _use(self, adapter: Adapter | None) -> None:
        if adapter is self._active:
            return
        pointers = [self._handles.adapters[adapter.path]] if adapter else []
        array = (C.llama_adapter_lora_p_ctypes * len(pointers))(*pointers)
        scales = (ctypes.c_float * len(pointers))(*[1.0] * len(pointers))
        if C.llama_set_adapters_lora(self._handles.context, array, len(pointers), scales) != 0:
            raise fail("the adapter could not be switched")
        self._active = adapter

    # The native batch

    @property
    def _memory(self) -> Any:
        return C.llama_get_memory(self._handles.context)

    def _open_context(self, cells: int, slots: int) -> None:
        params = context_params(cells=cells, slots=slots, threads=self._threads, kv=self._kv)
        params.cb_eval = self._tap.callback
        self._handles.open_context(params, BATCH_TOKENS)
        self._ledger, self._active = Ledger(cells=cells, slots=slots), None

    def _decode(self, rows: list[tuple[Sequence, Tokens[int], bool]]) -> None:
        """One native batch: each sequence's tokens, the last one's logits kept where asked."""
        self._use(rows[0][0].encoder)
        batch = self._handles.batch
        token, pos, num_ids, ids, output = batch.token, batch.pos, batch.n_seq_id, batch.seq_id, batch.logits
        n = 0
        for sequence, tokens, wanted in rows:
            if sequence.released:
                raise EngineError("can't encode onto a released sequence")
            if sequence.length + len(tokens) > self._info.train_context_tokens:
                raise ContextOverflow(
                    sequence.length + len(tokens), self._info.train_context_tokens, "a stream"
                )
            for position, one in enumerate(tokens, sequence.length):
                token[n], pos[n], num_ids[n], output[n] = one, position, 1, 0
                ids[n][0] = sequence.slot
                n += 1
            output[n - 1] = wanted
        batch.n_tokens = n
        native.forget_complaints()
        code = C.llama_decode(self._handles.context, batch)
        if code == 1:
            raise ContextOverflow(self._ledger.used_cells + n, self._ledger.cells)
        if code != 0:
            raise fail(f"decoding {n} tokens failed with code {code}")
        self._decodes += 1
        n = 0
        for sequence, tokens, wanted in rows:
            n += len(tokens)
            self._ledger.grow(sequence, len(tokens))
            sequence.logits_at = (self._decodes, n - 1) if wanted else None

    def _decode_tapped(self, rows: list[tuple[Sequence, Tokens[int], bool]], name: bytes) -> States:
        self._tap.open(name)
        try:
            self._decode(rows)
            return self._tap.take()
        finally:
            self._tap.close()

    # The end

    def close(self) -> None:
        self._finalizer()
        self._ledger = Ledger(cells=0, slots=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine's under a container's or taskset's limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def context_params(*, cells: int, slots: int, threads: int, kv: KvType = "f16") -> Any:
    """Native parameters of the engine's context, less the callback: one pool of cells for all sequences."""
    params = C.llama_context_default_params()
    params.n_ctx = cells
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_seq_max = slots
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = _KV_TYPES[kv][0]
    params.kv_unified = True
    params.no_perf = True
    return params


def _round_up(cells: int) -> int:
    return -(-cells // CELL_STEP) * CELL_STEP


def _pack(feeds: list[Feed]) -> list[list[int]]:
    """Indices of feeds, grouped by adapter and then into batches of at most `BATCH_TOKENS`."""
    by_adapter: dict[Adapter | None, list[int]] = {}
    for i, feed in enumerate(feeds):
        by_adapter.setdefault(feed.sequence.encoder, []).append(i)
    batches: list[list[int]] = []
    for group in by_adapter.values():
        room = 0
        for i in group:
            if len(feeds[i].tokens) > room:
                batches.append([])
                room = BATCH_TOKENS
            batches[-1].append(i)
            room -= len(feeds[i].tokens)
    return batches


def _describe(path: Path, model: Any, vocab: Any, kv: KvType) -> ModelInfo:
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

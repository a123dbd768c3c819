"""The engine on llama.cpp: one model, one context, many sequences over shared cells.

::

    encode(prompt) ─ base ─┬─ sample …                      chat
                           └─ fork ─ cross ─ encode(opening) ─ fork × N ─ step, step, …   think

The KV cache is one pool of cells in which a fork is a note on each shared cell and copies no bytes; but every
stream's attention walks over all of them. An engine for many requests gives each sequence cells of its own.
The adapter is a property of the native context, so a step over sequences of different adapters is one native
batch per adapter; a switch rebuilds llama.cpp's graph, tens of milliseconds, and is made when one needs it.

Text is only tokenized here; which tokens are drawn or forced, and why, the caller decides.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Tokens
from pathlib import Path
from typing import Any

import numpy as np

from edgereason.core.checks import require_int
from edgereason.core.closing import Closing
from edgereason.core.families import TAGS
from edgereason.core.machine import MAX_THREADS, memory_bytes, require_threads, usable_cores
from edgereason.core.types import Sampling
from edgereason.engine import native
from edgereason.engine.base import (
    Adapter,
    Feed,
    Ids,
    KvType,
    ModelInfo,
    OnStates,
    Owner,
    Reservation,
    Sampled,
    Sampler,
    Scored,
    Sequence,
    ShouldStop,
    States,
    begins_tag,
    require_base,
    require_empty,
    require_fresh,
)
from edgereason.engine.cells import Ledger, Promise
from edgereason.engine.handles import (
    BATCH_TOKENS,
    MIN_SEQUENCES,
    Handles,
    NativeSampler,
    SoftmaxSampler,
    context_params,
    describe,
    log_probability,
    logits_row,
    round_up,
)
from edgereason.engine.native import C, fail
from edgereason.engine.scoring import ScoreTable, score_batches
from edgereason.engine.tap import StateTap
from edgereason.errors import ContextOverflow, EngineError, RequestError

_Row = tuple[Sequence, Tokens[int], int]
"""A sequence, the tokens to encode onto it, and of how many of the last ones the logits are wanted."""


class LlamaEngine(Closing):
    """An `Engine` over a GGUF file.

    Args:
        path: the base model.
        threads: CPU threads; by default as many as this process may use.
        kv: type of the KV cache. q8_0 halves it, and costs time on x86, which has no fast path for it.
        context_tokens: size of the context in cells, fixed. By default the context is made when a request
            comes, as large as it needs, and made anew when a larger one comes and nothing else runs.
        min_sequences: sequences that a context has slots for at the least, by default 4. A request takes two
            more than it has streams, so a batch of many needs many; each slot costs a row of logits.
        shares_cells: whether sequences share one pool of cells. If not, dozens of streams run faster in more
            memory, and nothing can be restored; `context_tokens` must be left open.

    Raises:
        EngineError: a fixed context whose cells are not shared.
        RequestError: threads or context out of range, or a context beyond the model's or the memory.
        ModelFileError: the file is missing, truncated, or holds something else.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        kv: KvType = "f16",
        context_tokens: int | None = None,
        min_sequences: int | None = None,
        shares_cells: bool = True,
    ) -> None:
        if context_tokens and not shares_cells:
            raise EngineError("the cells of a context of fixed size are shared: leave its size open")
        require_threads(threads)
        if context_tokens is not None:
            require_int("context_tokens", context_tokens, least=1)
        self.owner = Owner()
        self._text = threading.Lock()
        """Held while the vocabulary is read, which any thread may do, and while it is freed."""
        self._shares_cells = shares_cells
        self._threads = threads or min(usable_cores(), MAX_THREADS)
        self._kv: KvType = kv
        self._min_sequences = min_sequences or MIN_SEQUENCES
        self._fixed_cells = context_tokens
        self._handles = Handles(path)
        self._finalizer = weakref.finalize(self, self._handles.close)
        self._info = describe(path, self._handles.model, self._vocab, kv)
        try:
            if self._fixed_cells and context_tokens:
                self._require_context(context_tokens)
        except RequestError:
            self._finalizer()
            raise
        self._adds_space = native.adds_space(self._vocab)
        self._tap = StateTap(self._info.hidden_size, self._info.num_layers)
        self._pieces = self._thinking_tags()
        self._ledger = Ledger(cells=0, slots=0)
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
    def shares_cells(self) -> bool:
        return self._shares_cells

    @property
    def used_cells(self) -> int:
        return self._ledger.used_cells

    @property
    def num_cells(self) -> int:
        """Cells of the context as it stands; 0 before the first `reserve`."""
        return self._ledger.cells

    @property
    def kept_cells(self) -> int:
        return self._ledger.kept_cells

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
        return native.vocab_sha256(self._vocab)

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        with self._text:
            return native.tokenize(self._vocab, text, special=special, without_space=self._adds_space)

    def piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = native.piece(self._vocab, token)
        return piece

    def _thinking_tags(self) -> dict[int, bytes]:
        """Tags of thinking that are one token: they are read as text even where they are control tokens."""
        tags = [tag for one in TAGS for tag in (one.opening_tag, one.closing_tag)]
        ids = {tag: native.tokenize(self._vocab, tag, special=True) for tag in tags}
        return {found[0]: tag.encode() for tag, found in ids.items() if len(found) == 1}

    def is_end(self, token: int) -> bool:
        return bool(C.llama_vocab_is_eog(self._vocab, token))

    @property
    def _vocab(self) -> Any:
        return C.llama_model_get_vocab(self._open.model)

    @property
    def _open(self) -> Handles:
        if self._handles.model is None:
            raise EngineError("the engine is closed: load the model again")
        return self._handles

    # Sequences

    def reserve(
        self, *, cells: int, sequences: int, longest: int | None = None, instead_of: Reservation | None = None
    ) -> Promise:
        if self._fixed_cells is not None and cells > self._fixed_cells:
            raise ContextOverflow(cells, self._fixed_cells)
        each = 0
        if not self._shares_cells:
            each = max(round_up(longest or cells), self._ledger.each)
            cells = sequences * each
        can_grow = self._fixed_cells is None
        if needed := self._ledger.clear(cells, sequences, instead_of, can_grow=can_grow, each=each):
            slots = max(self._ledger.slots, self._min_sequences, needed[1])
            fitting = slots * each or max(self._ledger.cells, round_up(needed[0]))
            self._open_context(Ledger(cells=self._fixed_cells or fitting, slots=slots, each=each))
        return self._ledger.promise(cells, sequences, instead_of=instead_of)

    def keep(self, sequence: Sequence, make_room: Callable[[], None]) -> Promise:
        return self._ledger.promise(self._ledger.each or sequence.length, 1, make_room=make_room)

    def new_sequence(self) -> Sequence:
        return self._ledger.new()

    def cross(self, sequence: Sequence, adapter: Adapter | None) -> None:
        if adapter is not None and adapter not in self._handles.adapters:
            raise EngineError(f"{adapter.path.name} was unloaded: load it again")
        sequence.cross(adapter)

    def fork(self, sequence: Sequence) -> Sequence:
        memory = self._memory
        child = self._ledger.fork(sequence)
        C.llama_memory_seq_cp(memory, sequence.slot, child.slot, -1, -1)
        return child

    def trim(self, sequence: Sequence, length: int) -> None:
        self._ledger.trim(sequence, length)
        C.llama_memory_seq_rm(self._memory, sequence.slot, length, -1)

    @property
    def state_format(self) -> str:
        return f"llama-cpp-python {native.VERSION} {self._kv}"

    def save(self, sequence: Sequence) -> bytes:
        require_base(sequence)
        return native.read_state(self._open.context, sequence.slot)

    def restore(self, sequence: Sequence, state: bytes, length: int) -> None:
        require_empty(sequence)
        if not self._shares_cells:  # a fork's copy is made at the next decode, and may be of this slot
            raise EngineError("nothing can be restored where sequences have cells of their own")
        native.write_state(self._open.context, sequence.slot, state, length)
        self._ledger.grow(sequence, length)

    def release(self, sequence: Sequence) -> None:
        if sequence.released:
            return
        C.llama_memory_seq_rm(self._memory, sequence.slot, -1, -1)
        self._ledger.release(sequence)

    # Encoding and drawing

    def encode(
        self, sequence: Sequence, tokens: Ids, *, on_states: OnStates = None, should_stop: ShouldStop = None
    ) -> bool:
        if not tokens:
            raise EngineError("nothing to encode: got no tokens")
        for start in range(0, len(tokens), BATCH_TOKENS):
            if start and should_stop is not None and should_stop():
                return False
            chunk = tokens[start : start + BATCH_TOKENS]
            num_outputs = int(start + BATCH_TOKENS >= len(tokens))
            names = map(self._tap.every_token, on_states or ())
            found = self._decode_tapped([(sequence, chunk, num_outputs)], *names)
            for take, states in zip((on_states or {}).values(), found, strict=True):
                take(states)
        return True

    def sampler(self, sampling: Sampling, seed: int) -> NativeSampler | SoftmaxSampler:
        if sampling.is_whole:
            return SoftmaxSampler(sampling.temperature, seed)
        return NativeSampler(sampling, seed, self._handles.samplers)

    def sample(
        self, sequence: Sequence, sampler: Sampler, *, want_logprob: bool = False, forbid_end: bool = False
    ) -> Sampled:
        row, context = require_fresh(sequence, self._decodes), self._open.context
        assert isinstance(sampler, NativeSampler | SoftmaxSampler)
        logits = logits_row(context, row, self._info.vocab_size)
        token = sampler.draw(context, row, logits)
        while forbid_end and (
            self.is_end(token) or begins_tag(self.piece(token))
        ):  # drawn again among the others, as if it were not there
            logits[token] = -np.inf
            token = sampler.draw(context, row, logits)
        return Sampled(token, log_probability(logits, token, sampler.temperature) if want_logprob else None)

    def step(self, feeds: Iterable[Feed]) -> list[Sampled]:
        feeds = list(feeds)
        if not self._shares_cells:
            self._line_up([feed.sequence for feed in feeds])
        drawn: dict[int, Sampled] = {}
        layers = sorted({layer for feed in feeds for layer in feed.on_states or ()})
        owed = [(feed.sequence, feed.tokens) for feed in feeds]
        for i, feed in enumerate(feeds if layers else ()):
            if len(feed.tokens) > 1:  # llama.cpp might mix the rows: a batch that is read has one of each
                self.encode(feed.sequence, feed.tokens[:-1], on_states=feed.on_states)
                owed[i] = feed.sequence, feed.tokens[-1:]
        for batch in self._packed(owed):
            rows = [(feeds[i].sequence, tokens, 1) for i, tokens in batch]
            found = self._decode_tapped(rows, *map(self._tap.every_token, layers))
            _hand_out(dict(zip(layers, found, strict=True)), [feeds[i] for i, _ in batch])
            for i, _ in batch:
                feed = feeds[i]
                drawn[i] = self.sample(
                    feed.sequence, feed.sampler, want_logprob=feed.want_logprob, forbid_end=feed.forbid_end
                )
        return [drawn[i] for i in range(len(feeds))]

    def states(self, feeds: Iterable[tuple[Sequence, Tokens[int]]]) -> States:
        # All tokens but the last go first: logits are computed for every output row, so the batches that
        # are tapped hold one row a sequence.
        feeds = list(feeds)
        heads = [(sequence, tokens[:-1]) for sequence, tokens in feeds if len(tokens) > 1]
        for batch in self._packed(heads):
            self._decode([(heads[i][0], tokens, 0) for i, tokens in batch])
        found = np.empty((len(feeds), self._info.hidden_size), np.float32)
        for batch in self._packed([(sequence, tokens[-1:]) for sequence, tokens in feeds]):
            rows = [(feeds[i][0], tokens, 1) for i, tokens in batch]
            (found[[i for i, _ in batch]],) = self._decode_tapped(rows, self._tap.outputs_only)
        return found

    def score(self, feeds: Iterable[tuple[Sequence, Tokens[int]]]) -> list[Scored]:
        feeds = list(feeds)
        tables = [ScoreTable(tokens) for _, tokens in feeds]
        for (sequence, _), table in zip(feeds, tables, strict=True):
            if sequence.length:
                table.note(0, self.logits(sequence))
        for batch in score_batches(feeds):
            self._decode([(feeds[i][0], feeds[i][1][start:stop], stop - start) for i, start, stop in batch])
            row = 0
            for i, start, stop in batch:
                for position in range(start, stop):
                    logits = logits_row(self._handles.context, row, self._info.vocab_size)
                    tables[i].note(position + 1, logits)
                    row += 1
        return [table.scored() for table in tables]

    def logits(self, sequence: Sequence) -> States:
        """A copy of the logits after a sequence whose logits are fresh, (V,) float32."""
        row = require_fresh(sequence, self._decodes)
        return logits_row(self._handles.context, row, self._info.vocab_size).copy()

    # Adapters

    def load_adapter(self, path: Path) -> Adapter:
        return self._open.open_adapter(path)

    def unload_adapter(self, adapter: Adapter) -> None:
        if adapter not in self._handles.adapters:
            raise EngineError(f"{adapter.path.name} is not loaded")
        if any(sequence.encoder is adapter for sequence in self._ledger.live):
            raise EngineError(f"{adapter.path.name} is in use by a live sequence: release it first")
        self._handles.close_adapter(adapter)

    # The native batch

    @property
    def _memory(self) -> Any:
        return C.llama_get_memory(self._open.context)

    def _require_context(self, tokens: int) -> None:
        """Refuses a context that the model was not made for, or that the memory can't hold."""
        if tokens > self._info.train_context_tokens:
            raise RequestError(
                f"a context of {tokens} tokens is beyond the model's: "
                f"{self._info.path and self._info.path.name} was trained on {self._info.train_context_tokens}"
            )
        self._require_memory(round_up(tokens))

    def _require_memory(self, cells: int) -> None:
        needed, there = cells * self._info.kv_bytes_per_cell, memory_bytes()
        if there is not None and needed + self._info.size_bytes > there:
            raise RequestError(
                f"a context of {cells} tokens takes {needed / 1e9:.1f} GB beside the model's "
                f"{self._info.size_bytes / 1e9:.1f} GB, and this process may use {there / 1e9:.1f} GB: "
                "take a smaller context, fewer streams, or an 8-bit KV cache"
            )

    def _open_context(self, ledger: Ledger) -> None:
        self._require_memory(ledger.cells)
        params = context_params(ledger, threads=self._threads, kv=self._kv)
        params.cb_eval = self._tap.callback
        self._ledger = Ledger(cells=0, slots=0)  # what holds if the next line fails
        self._open.open_context(params, BATCH_TOKENS)
        self._ledger = ledger

    def _line_up(self, sequences: Iterable[Sequence]) -> None:
        """Moves what steps together to slots that follow each other, else llama.cpp would split its batch."""
        for sequence, slot in self._ledger.line_up(sequences):
            C.llama_memory_seq_cp(self._memory, sequence.slot, slot, -1, -1)
            C.llama_memory_seq_rm(self._memory, sequence.slot, -1, -1)

    def _packed(self, feeds: list[tuple[Sequence, Tokens[int]]]) -> list[list[tuple[int, Tokens[int]]]]:
        """Batches of (index of the feed, its tokens), each of one adapter and `BATCH_TOKENS` at most.

        Of what is longer than a batch, all but the end is encoded here. Rows are in the order of slots:
        llama.cpp reorders them so where sequences have cells of their own.
        """
        for i, (sequence, tokens) in enumerate(feeds):
            if len(tokens) > BATCH_TOKENS:
                self.encode(sequence, tokens[:-BATCH_TOKENS])
                feeds[i] = sequence, tokens[-BATCH_TOKENS:]
        groups: dict[Adapter | None, list[list[tuple[int, Tokens[int]]]]] = {}
        for i, (sequence, tokens) in sorted(enumerate(feeds), key=lambda feed: feed[1][0].slot):
            batches = groups.setdefault(sequence.encoder, [[]])
            if sum(len(others) for _, others in batches[-1]) + len(tokens) > BATCH_TOKENS:
                batches.append([])
            batches[-1].append((i, tokens))
        return [batch for batches in groups.values() for batch in batches]

    def _decode(self, rows: list[_Row]) -> None:
        """One native batch under one adapter: each sequence's tokens, the logits of as many as wanted."""
        native_batch = self._open.batch
        _require_encodable(rows, self._info.train_context_tokens)
        self._handles.use(rows[0][0].encoder)
        num_tokens = _fill(native_batch, rows)
        native.forget_complaints()
        code = C.llama_decode(self._handles.context, native_batch)
        if code == 1:
            raise ContextOverflow(self._ledger.used_cells + num_tokens, self._ledger.cells)
        if code != 0:
            raise fail(f"decoding {num_tokens} tokens failed with code {code}")
        self._decodes += 1
        n = 0
        for sequence, tokens, num_outputs in rows:
            n += len(tokens)
            self._ledger.grow(sequence, len(tokens))
            sequence.logits_at = (self._decodes, n - 1) if num_outputs else None

    def _decode_tapped(self, rows: list[_Row], *names: bytes) -> list[States]:
        self._tap.open(*names)
        try:
            self._decode(rows)
            return self._tap.take()
        finally:
            self._tap.close()

    # The end

    def close(self) -> None:
        for sequence in self._ledger.live:
            sequence.released = True
        with self._text:
            self._finalizer()
        self._ledger = Ledger(cells=0, slots=0)


def _hand_out(found: Mapping[int, States], feeds: Iterable[Feed]) -> None:
    """Gives each feed the rows of its token, in the order in which they were encoded; one token a feed."""
    for row, feed in enumerate(feeds):
        for layer, take in (feed.on_states or {}).items():
            take(found[layer][row : row + 1])


def _require_encodable(rows: list[_Row], most_tokens: int) -> None:
    """Refuses rows that can't be encoded.

    Raises:
        EngineError: a sequence was released, or there are no tokens.
        ContextOverflow: a sequence would be longer than `most_tokens`.
    """
    for sequence, tokens, _ in rows:
        length = sequence.length + len(tokens)
        if sequence.released or not tokens:
            raise EngineError("nothing can be encoded: the sequence was released, or there are no tokens")
        if length > most_tokens:
            raise ContextOverflow(length, most_tokens, "a stream")


def _fill(batch: Any, rows: list[_Row]) -> int:
    """Writes rows into the native batch; returns how many tokens it holds."""
    token, pos, num_ids, ids, output = batch.token, batch.pos, batch.n_seq_id, batch.seq_id, batch.logits
    n = 0
    for sequence, tokens, num_outputs in rows:
        first_output = sequence.length + len(tokens) - num_outputs
        for position, one in enumerate(tokens, sequence.length):
            token[n], pos[n], num_ids[n], output[n] = one, position, 1, position >= first_output
            ids[n][0] = sequence.slot
            n += 1
    batch.n_tokens = n
    return n

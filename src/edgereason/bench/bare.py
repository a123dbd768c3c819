"""The decode loop as a C program would write it: what our own loop is measured against.

A context over the *same loaded model* with the same cells, sequences and threads, but without the evaluation
callback; one batch, made before; `llama_decode`, then `llama_sampler_sample` a row, with the same native
sampler chains. No text, no control, no bookkeeping.

Knows llama.cpp's calls; does not know what the product does beside them.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from typing import Any, Self

from edgereason.core.types import Sampling
from edgereason.engine.cells import Ledger
from edgereason.engine.native import C, fail
from edgereason.engine.params import BATCH_TOKENS, context_params
from edgereason.engine.sampling import NativeSampler


class BareLoop:
    """N streams over one prompt by bare calls.

    Args:
        beside: a native context whose model this one shares. Must stay open for as long.
        slots: most sequences: the prompt, the opening's, and the streams.
        threads: CPU threads.
    """

    def __init__(self, beside: Any, *, slots: int, threads: int) -> None:
        params = context_params(Ledger(cells=C.llama_n_ctx(beside), slots=slots), threads=threads)
        self._context: Any = C.llama_init_from_model(C.llama_get_model(beside), params)
        if self._context is None:
            raise fail("no second context could be made for the bare loop")
        self._memory: Any = C.llama_get_memory(self._context)
        self._batch: Any = C.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._samplers: set[NativeSampler] = set()
        self._chains: list[Any] = []
        self._num_prompt_tokens = 0
        self._position = 0
        self.drawn: list[list[int]] = []
        """Tokens that each stream drew, to compare with what ours drew."""

    def encode(self, prompt: Tokens[int]) -> None:
        """Encodes the prompt as sequence 0, which every `begin` forks."""
        self._prefill(0, 0, prompt)
        self._num_prompt_tokens = len(prompt)

    def begin(self, opening: Tokens[int], num_streams: int, sampling: Sampling, seed: int) -> None:
        """Encodes the opening on a fork of the prompt, forks the streams off it and draws their first tokens.

        Fills in all of the batch that stays the same from step to step.
        """
        C.llama_memory_seq_cp(self._memory, 0, 1, -1, -1)
        self._prefill(1, self._num_prompt_tokens, opening)
        self._position = self._num_prompt_tokens + len(opening)
        batch = self._batch
        self.drawn = [[] for _ in range(num_streams)]
        for i in range(num_streams):
            C.llama_memory_seq_cp(self._memory, 1, 2 + i, -1, -1)
            sampler = NativeSampler(sampling, seed + i, self._samplers)
            self._chains.append(sampler.chain)
            batch.token[i] = C.llama_sampler_sample(sampler.chain, self._context, len(opening) - 1)
            batch.n_seq_id[i], batch.logits[i] = 1, 1
            batch.seq_id[i][0] = 2 + i
            self.drawn[i].append(batch.token[i])
        batch.n_tokens = num_streams

    def step(self) -> None:
        """One token for every stream."""
        batch, context, position = self._batch, self._context, self._position
        for i in range(len(self._chains)):
            batch.pos[i] = position
        if C.llama_decode(context, batch) != 0:
            raise fail("the bare loop's decode failed")
        for i, chain in enumerate(self._chains):
            token = C.llama_sampler_sample(chain, context, i)
            batch.token[i] = token
            self.drawn[i].append(token)
        self._position = position + 1

    def end(self) -> None:
        """Drops the streams; the prompt stays."""
        for slot in range(1, 2 + len(self._chains)):
            C.llama_memory_seq_rm(self._memory, slot, -1, -1)
        self._chains = []
        for sampler in list(self._samplers):
            sampler.close()

    def close(self) -> None:
        """Frees everything; a second call does nothing."""
        if self._context is not None:
            self.end()
            C.llama_free(self._context)
            C.llama_batch_free(self._batch)
            self._context = None

    def _prefill(self, slot: int, position: int, tokens: Tokens[int]) -> None:
        batch = self._batch
        for start in range(0, len(tokens), BATCH_TOKENS):
            chunk = tokens[start : start + BATCH_TOKENS]
            for i, token in enumerate(chunk):
                batch.token[i], batch.pos[i] = token, position + start + i
                batch.n_seq_id[i], batch.logits[i] = 1, 0
                batch.seq_id[i][0] = slot
            batch.logits[len(chunk) - 1] = 1
            batch.n_tokens = len(chunk)
            if C.llama_decode(self._context, batch) != 0:
                raise fail("the bare loop's prefill failed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

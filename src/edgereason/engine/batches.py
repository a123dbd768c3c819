"""Rows of native batches: which tokens share a batch, and how they are written into it.

Knows sequences' slots and positions; decodes nothing and owns nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Tokens
from typing import Any

from edgereason.engine.base import Adapter, Feed, Sequence, States
from edgereason.engine.params import BATCH_TOKENS
from edgereason.errors import ContextOverflow, EngineError

Row = tuple[Sequence, Tokens[int], int]
"""A sequence, the tokens to encode onto it, and of how many of the last ones the logits are wanted."""


def packed(feeds: Iterable[tuple[Sequence, Tokens[int]]]) -> list[list[tuple[int, Tokens[int]]]]:
    """Batches of (index of the feed, its tokens), each of one adapter and `BATCH_TOKENS` at most.

    Their rows are in the order of slots: llama.cpp reorders them so where sequences have cells of their own.
    """
    groups: dict[Adapter | None, list[list[tuple[int, Tokens[int]]]]] = {}
    for i, (sequence, tokens) in sorted(enumerate(feeds), key=lambda feed: feed[1][0].slot):
        batches = groups.setdefault(sequence.encoder, [[]])
        if sum(len(others) for _, others in batches[-1]) + len(tokens) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append((i, tokens))
    return [batch for batches in groups.values() for batch in batches]


def layers_read(feeds: Iterable[Feed]) -> list[int]:
    """Layers that any of the feeds takes states of."""
    return sorted({layer for feed in feeds for layer in feed.on_states or ()})


def hand_out(found: Mapping[int, States], feeds: Iterable[Feed]) -> None:
    """Gives each feed the rows of its token, in the order in which they were encoded; one token a feed."""
    for row, feed in enumerate(feeds):
        for layer, take in (feed.on_states or {}).items():
            take(found[layer][row : row + 1])


def require_encodable(rows: list[Row], most_tokens: int) -> None:
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


def fill(batch: Any, rows: list[Row]) -> int:
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

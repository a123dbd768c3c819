r"""A deterministic engine without a model, for tests of everything above the engine.

Tokens are the bytes of UTF-8 text, 256 ends a turn, 257 begins one. A stream that draws with seed s recites
reply `s % len(replies)`, a plain text such as ``"2+2=4\n</think>\n\nThe final answer is 4."``. Where it is
fed what it did not draw, as a forced closing and answer prefix are, it goes on behind the same words in its
own reply, so that a budget that cuts thinking short gets the reply's answer. A number that it is fed stands
for the one that its reply has there.

Cells, slots, crossings and fresh logits obey the same rules as the real engine's, through the same code.
Knows nothing of llama.cpp.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from edgereason.core.chat import ANSWER_PREFIX, CLOSING
from edgereason.core.closing import Closing
from edgereason.core.types import Sampling
from edgereason.engine.base import (
    Adapter,
    Feed,
    Ids,
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
from edgereason.engine.scoring import ScoreTable
from edgereason.errors import ContextOverflow, EngineError

END: Final = 256
_NUMBER: Final = re.compile(rb"-?\d[\d.,]*(?<![.,])")
_MARKERS: Final = {"<|im_start|>": 257, "<|im_end|>": END}
_VOCAB_SIZE: Final = 258
_HIDDEN_SIZE: Final = 16
_SLOTS: Final = 64
_TEMPLATE: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(slots=True)
class ScriptedSampler:
    """Recites the reply that its seed picks."""

    reply: bytes
    temperature: float = 1.0
    position: int = 0
    closed: bool = False

    def draw(self) -> int:
        """The next byte of the reply, or the end of the turn."""
        self.position += 1
        return self.reply[self.position - 1] if self.position <= len(self.reply) else END

    def follow(self, fed: bytes) -> None:
        """Moves to where the reply goes on after `fed`."""
        if fed == self.reply[self.position - 1 : self.position]:
            return
        for cue in (ANSWER_PREFIX.encode(), CLOSING.encode()):
            if cue in fed and cue in self.reply:
                self.position = self.reply.index(cue) + len(cue)
                return
        own = _NUMBER.match(self.reply, self.position - 1)
        self.position = own.end() if own and _NUMBER.fullmatch(fed) else len(self.reply)

    def close(self) -> None:
        self.closed = True


class ScriptedEngine(Closing):
    """An `Engine` whose streams recite replies.

    Args:
        replies: what streams say; bytes where a reply is to break a character in two.
        context_tokens: cells of the context, fixed; None for as many as are asked for.
        train_context_tokens: longest single sequence.
        num_layers: whose states can be asked for.
        bigram: what `score` goes by, (V, V) float32: row t are the logits after token t. By default every
            token is as likely as any other.
    """

    def __init__(
        self,
        replies: Tokens[str | bytes] = ("4\n</think>\n\nThe final answer is 4.",),
        *,
        context_tokens: int | None = None,
        train_context_tokens: int = 32_768,
        num_layers: int = 2,
        bigram: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self.replies = [r.encode() if isinstance(r, str) else r for r in replies]
        self.owner = Owner()
        self._is_fixed = context_tokens is not None
        self._ledger = Ledger(cells=context_tokens or 0, slots=_SLOTS)
        self._adapters: dict[Path, Adapter] = {}
        self._bigram = np.zeros((_VOCAB_SIZE, _VOCAB_SIZE), np.float32) if bigram is None else bigram
        self._tokens: dict[Sequence, list[int]] = {}
        self._decodes = 0
        self.samplers: list[ScriptedSampler] = []
        self.decoded: list[int] = []
        """Tokens of each native batch that a real engine would have run."""
        self._info = ModelInfo(
            path=None,
            name="scripted",
            arch="scripted",
            size_bytes=0,
            hidden_size=_HIDDEN_SIZE,
            num_layers=num_layers,
            vocab_size=_VOCAB_SIZE,
            train_context_tokens=train_context_tokens,
            kv_bytes_per_cell=64,
            chat_template=_TEMPLATE,
            bos_text="",
            eos_text="<|im_end|>",
            add_bos=False,
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def context_tokens(self) -> int:
        train = self._info.train_context_tokens
        return min(self._ledger.cells, train) if self._is_fixed else train

    @property
    def used_cells(self) -> int:
        return self._ledger.used_cells

    @property
    def num_cells(self) -> int:
        return self._ledger.cells

    @property
    def kept_cells(self) -> int:
        return self._ledger.kept_cells

    @property
    def live_sequences(self) -> int:
        """Sequences not released, for leak tests."""
        return len(self._ledger.live)

    def vocab_sha256(self) -> str:
        return hashlib.sha256(b"scripted").hexdigest()

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        if special:
            for marker, token in _MARKERS.items():
                head, found, tail = text.partition(marker)
                if found:
                    return [*self.tokenize(head, special=True), token, *self.tokenize(tail, special=True)]
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def is_end(self, token: int) -> bool:
        return token == END

    @property
    def shares_cells(self) -> bool:
        return True

    def reserve(
        self, *, cells: int, sequences: int, longest: int | None = None, instead_of: Reservation | None = None
    ) -> Promise:
        if self._is_fixed and cells > self._ledger.cells:
            raise ContextOverflow(cells, self._ledger.cells)
        needed = self._ledger.clear(cells, sequences, instead_of, can_grow=not self._is_fixed)
        if needed is not None:
            most_cells = self._ledger.cells if self._is_fixed else needed[0]
            self._ledger = Ledger(cells=most_cells, slots=max(_SLOTS, needed[1]))
        return self._ledger.promise(cells, sequences, instead_of=instead_of)

    def keep(self, sequence: Sequence, make_room: Callable[[], None]) -> Promise:
        return self._ledger.promise(sequence.length, 1, make_room=make_room)

    def new_sequence(self) -> Sequence:
        sequence = self._ledger.new()
        self._tokens[sequence] = []
        return sequence

    def cross(self, sequence: Sequence, adapter: Adapter | None) -> None:
        sequence.cross(adapter)

    def fork(self, sequence: Sequence) -> Sequence:
        child = self._ledger.fork(sequence)
        self._tokens[child] = self._tokens[sequence].copy()
        return child

    def trim(self, sequence: Sequence, length: int) -> None:
        self._ledger.trim(sequence, length)
        del self._tokens[sequence][length:]

    @property
    def state_format(self) -> str:
        return f"scripted {self._info.kv_bytes_per_cell}"

    def save(self, sequence: Sequence) -> bytes:
        require_base(sequence)
        return np.array(self._tokens[sequence], "<i4").tobytes()

    def restore(self, sequence: Sequence, state: bytes, length: int) -> None:
        require_empty(sequence)
        if len(state) != 4 * length:
            raise EngineError(f"{len(state)} bytes are not a KV of {length} tokens")
        self._require_cells(length)
        self._ledger.grow(sequence, length)
        self._tokens[sequence] = np.frombuffer(state, "<i4").tolist()

    def release(self, sequence: Sequence) -> None:
        if not sequence.released:
            self._ledger.release(sequence)
            del self._tokens[sequence]

    def tokens(self, sequence: Sequence) -> list[int]:
        """What a live sequence's cells hold, for tests."""
        return self._tokens[sequence].copy()

    def encode(
        self, sequence: Sequence, tokens: Ids, *, on_states: OnStates = None, should_stop: ShouldStop = None
    ) -> bool:
        if not tokens:
            raise EngineError("nothing to encode: got no tokens")
        if should_stop is not None and should_stop():
            return False
        self._decode([(sequence, tokens)])
        _tell(tokens, on_states)
        return True

    def sampler(self, sampling: Sampling, seed: int) -> ScriptedSampler:
        sampler = ScriptedSampler(self.replies[seed % len(self.replies)], sampling.temperature or 1.0)
        self.samplers.append(sampler)
        return sampler

    def sample(
        self, sequence: Sequence, sampler: Sampler, *, want_logprob: bool = False, forbid_end: bool = False
    ) -> Sampled:
        require_fresh(sequence, self._decodes)
        assert isinstance(sampler, ScriptedSampler)
        token = sampler.draw()
        is_forbidden = forbid_end and (token == END or begins_tag(self.piece(token)))
        return Sampled(ord("?") if is_forbidden else token, -1.0 if want_logprob else None)

    def step(self, feeds: Iterable[Feed]) -> list[Sampled]:
        feeds = list(feeds)
        drawn: dict[int, Sampled] = {}
        for encoder in dict.fromkeys(feed.sequence.encoder for feed in feeds):
            batch = [i for i, feed in enumerate(feeds) if feed.sequence.encoder is encoder]
            self._decode([(feeds[i].sequence, feeds[i].tokens) for i in batch])
            for i in batch:
                _tell(feeds[i].tokens, feeds[i].on_states)
                sampler = feeds[i].sampler
                assert isinstance(sampler, ScriptedSampler)
                sampler.follow(b"".join(map(self.piece, feeds[i].tokens)))
                drawn[i] = self.sample(
                    feeds[i].sequence,
                    sampler,
                    want_logprob=feeds[i].want_logprob,
                    forbid_end=feeds[i].forbid_end,
                )
        return [drawn[i] for i in range(len(feeds))]

    def states(self, feeds: Iterable[tuple[Sequence, Tokens[int]]]) -> States:
        feeds = list(feeds)
        self._decode(feeds)
        return np.stack([_state(sequence.length) for sequence, _ in feeds])

    def score(self, feeds: Iterable[tuple[Sequence, Tokens[int]]]) -> list[Scored]:
        feeds = list(feeds)
        tables = [ScoreTable(tokens) for _, tokens in feeds]
        for (sequence, _), table in zip(feeds, tables, strict=True):
            if sequence.length:
                require_fresh(sequence, self._decodes)
                table.note(0, self._bigram[self._tokens[sequence][-1]])
        self._decode(feeds)
        for table in tables:
            for position, token in enumerate(table.tokens, 1):
                table.note(position, self._bigram[token])
        return [table.scored() for table in tables]

    def load_adapter(self, path: Path) -> Adapter:
        adapter = self._adapters[path] = Adapter(path)
        return adapter

    def unload_adapter(self, adapter: Adapter) -> None:
        if any(sequence.encoder is adapter for sequence in self._ledger.live):
            raise EngineError(f"{adapter.path.name} is in use by a live sequence: release it first")
        del self._adapters[adapter.path]

    def close(self) -> None:
        for sequence in self._ledger.live:
            sequence.released = True
        self._ledger = Ledger(cells=0, slots=0)

    def _decode(self, rows: list[tuple[Sequence, Tokens[int]]]) -> None:
        num_tokens = sum(len(tokens) for _, tokens in rows)
        self._require_cells(num_tokens)
        self._decodes += 1
        self.decoded.append(num_tokens)
        for row, (sequence, tokens) in enumerate(rows):
            if sequence.released:
                raise EngineError("can't encode onto a released sequence")
            if sequence.length + len(tokens) > self._info.train_context_tokens:
                raise ContextOverflow(
                    sequence.length + len(tokens), self._info.train_context_tokens, "a stream"
                )
            self._ledger.grow(sequence, len(tokens))
            self._tokens[sequence] += tokens
            sequence.logits_at = (self._decodes, row)

    def _require_cells(self, num_tokens: int) -> None:
        if self.used_cells + num_tokens > self._ledger.cells:
            raise ContextOverflow(self.used_cells + num_tokens, self._ledger.cells)


def _tell(tokens: Tokens[int], on_states: Mapping[int, Callable[[States], None]] | None) -> None:
    """States of tokens, to whoever takes them: of layer −2 as ever; each layer below says something else."""
    for layer, take in (on_states or {}).items():
        take(np.stack([_state(token + _VOCAB_SIZE * (-2 - layer)) for token in tokens]))


def _state(number: int) -> States:
    return np.asarray(np.random.default_rng(number).standard_normal(_HIDDEN_SIZE), np.float32)

"""The Engine protocol: token sequences over one context, and nothing about what their tokens mean.

An engine encodes tokens into KV cells, forks a sequence over the cells that it shares with its parent,
and steps any set of sequences in one batch. It does not know chat, thinking, budgets or votes.

Two rules hold for every engine, and are kept here so that all engines share them:

* *One crossing.* A sequence knows which adapter encoded its prefix. Base → adapter is the only legal
  crossing, it is explicit (`cross`), and there is no way back: KV made by an adapter is never read
  without it. (llama.cpp's own server once reused such cells silently, its issue #26207.)
* *Fresh logits.* A sequence can be sampled only until the engine encodes something else; `fork` shares
  what may be sampled. Sampling from overwritten logits raises instead of returning another's token.
"""

from __future__ import annotations

import codecs
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Tokens
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from edgereason.core.chat import ChatTemplate
from edgereason.core.types import Sampling
from edgereason.errors import AdapterCrossing, EngineError, RequestError

KvType = Literal["f16", "q8_0"]
"""Types that the KV cache may have."""

MAX_SEQUENCES: Final = 256
"""Most sequences of one context."""

States = npt.NDArray[np.float32]
"""Hidden states, one row a token: (T, H) float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a loaded base says of itself. `kv_bytes_per_cell` is for the cache type in use."""

    path: Path | None
    name: str
    arch: str
    size_bytes: int
    hidden_size: int
    num_layers: int
    vocab_size: int
    train_context_tokens: int
    kv_bytes_per_cell: int
    chat_template: str
    bos_text: str
    eos_text: str
    add_bos: bool

    @property
    def file_name(self) -> str:
        """What to call the model to people: its file's name, which they chose, not what it says of itself."""
        return self.path.name if self.path else self.name

    @property
    def template(self) -> ChatTemplate:
        """The chat template, compiled: ask once and keep it."""
        return ChatTemplate(self.chat_template, self.bos_text, self.eos_text, add_bos=self.add_bos)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A loaded LoRA adapter; compared by identity, as the engine compares the native pointer."""

    path: Path


@dataclass(slots=True, eq=False)
class Segment:
    """A run of KV cells that one or more sequences share; see `engine.cells`."""

    parent: Segment | None
    cells: int = 0
    users: int = 1


@dataclass(slots=True, eq=False)
class Sequence:
    """One token sequence in the context.

    Attributes:
        slot: the engine's number for it.
        length: tokens encoded so far; the next token takes this position.
        encoder: the adapter that encoded its tail, `None` while all of it is the base's.
        logits_at: (decode number, row) of the logits that follow its last token, if they were asked for.
        segment: the cells at its tail.
    """

    slot: int
    segment: Segment
    length: int = 0
    encoder: Adapter | None = None
    logits_at: tuple[int, int] | None = None
    released: bool = False

    def cross(self, adapter: Adapter | None) -> None:
        """Lets what follows be encoded under `adapter`; a no-op where it already is.

        Raises:
            AdapterCrossing: the prefix was made by another adapter, or `adapter` is None and it was made
                by one.
        """
        if adapter is self.encoder:
            return
        if self.encoder is not None:
            raise AdapterCrossing(
                f"this sequence was encoded under {self.encoder.path.name}, so it can't go on under "
                f"{adapter.path.name if adapter else 'the base'}: encode its text again from a base prefix"
            )
        self.encoder = adapter


class Reservation(Protocol):
    """Cells and slots promised to one holder; closing gives them back. Closing twice is harmless."""

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


class Sampler(Protocol):
    """A sampler chain with its own seed and state; closing it frees the native handle."""

    @property
    def temperature(self) -> float:
        """Temperature that its log-probabilities are stated at; 1 for a greedy chain."""
        ...

    def close(self) -> None: ...


class Sampled(NamedTuple):
    """A drawn token; `logprob` is under the full softmax at the sampler's temperature, if asked for."""

    token: int
    logprob: float | None = None


class Scored(NamedTuple):
    """How likely tokens were, each given all that precedes it in its sequence.

    Attributes:
        logprobs: natural logarithms under the full softmax, (T,) float64; NaN for the first token of an empty
            sequence, which nothing precedes.
        is_top: whether a greedy decode would have drawn it, (T,) bool; False where `logprobs` is NaN.
    """

    logprobs: npt.NDArray[np.float64]
    is_top: npt.NDArray[np.bool_]


@dataclass(slots=True)
class Feed:
    """One sequence's part of a step: tokens to encode, then a token to draw from `sampler`.

    `forbid_end` keeps the draw from ending the turn and from beginning a tag; `on_states` takes the tokens'
    states, as in `encode`.
    """

    sequence: Sequence
    tokens: Tokens[int]
    sampler: Sampler
    want_logprob: bool = False
    forbid_end: bool = False
    on_states: Mapping[int, Callable[[States], None]] | None = None


Ids = Tokens[int]
OnStates = Mapping[int, Callable[[States], None]] | None
"""By layer, who gets its output rows."""
ShouldStop = Callable[[], bool] | None


def begins_tag(piece: bytes) -> bool:
    """Whether a token's bytes begin a tag, such as the closing of thinking."""
    return piece.lstrip().startswith((b"<", b"[THINK]", b"[/THINK]"))


class Owner:
    """Which thread uses an engine: native calls of two at a time would end the process.

    A request is its thread's from its first event to its end. Its events may be read in other threads, one
    after the other, as servers do that read a generator in a pool.
    """

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._in_use = threading.RLock()
        self._thread: int | None = None
        self._requests = 0

    def enter(self) -> None:
        """Begins a request of this thread.

        Raises:
            RequestError: one of another thread is not over yet.
        """
        with self._gate:
            thread = threading.get_ident()
            if self._requests and self._thread != thread:
                raise RequestError(IN_USE)
            self._thread = thread
            self._requests += 1

    def leave(self) -> None:
        """Ends a request."""
        with self._gate:
            self._requests -= 1

    @contextmanager
    def using(self) -> Iterator[None]:
        """For as long as the engine is called.

        Raises:
            RequestError: another thread is calling it.
        """
        if not self._in_use.acquire(blocking=False):
            raise RequestError(IN_USE)
        try:
            yield
        finally:
            self._in_use.release()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """For something that is whole at once.

        Raises:
            RequestError: another thread has a request that is not over yet.
        """
        self.enter()
        try:
            with self.using():
                yield
        finally:
            self.leave()


IN_USE: Final = (
    "the model answers another thread's request: wait for it, or use AsyncModel, which answers many at a time"
)


class Engine(Protocol):
    """What reasoning needs of an engine. One thread at a time, whose `owner` it is; all may `tokenize`."""

    @property
    def owner(self) -> Owner:
        """Asked before the engine is used where several threads may want it."""
        ...

    @property
    def info(self) -> ModelInfo: ...

    @property
    def context_tokens(self) -> int:
        """Longest sequence that the context can hold at all."""
        ...

    @property
    def shares_cells(self) -> bool:
        """Whether sequences share one pool of cells; else each has as many of its own."""
        ...

    @property
    def used_cells(self) -> int:
        """KV cells that live sequences hold, shared ones counted once."""
        ...

    @property
    def num_cells(self) -> int:
        """KV cells that there are; 0 before the first `reserve` where the size was left open."""
        ...

    @property
    def kept_cells(self) -> int:
        """KV cells that are promised to sequences that only rest; shared ones count for each."""
        ...

    def vocab_sha256(self) -> str:
        """Hash over every token's text in id order: equal vocabularies, equal ids."""
        ...

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`, nothing added; `special` recognises control tokens written in it. On any thread."""
        ...

    def piece(self, token: int) -> bytes:
        """Bytes of a token; may be part of a character. Control tokens are empty."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether the token ends a turn."""
        ...

    def reserve(
        self, *, cells: int, sequences: int, longest: int | None = None, instead_of: Reservation | None = None
    ) -> Reservation:
        """Promises so many cells and sequences beside those promised already, until it is closed.

        Where there is no room, sequences that are only kept (`keep`) are told to make some. Then the context
        grows where it may: its size was left open, and nothing else is promised.

        Args:
            cells: most that will be filled at a time.
            sequences: most that will be alive at a time.
            longest: most cells of one of them; by default all. Counts where each has cells of its own.
            instead_of: a reservation that this one takes the place of, with whatever lives on it; closed if
                the promise is made, as it was if not.

        Raises:
            ContextOverflow: they can never fit.
            NoRoomNow: they don't fit beside what is promised to others.
        """
        ...

    def keep(self, sequence: Sequence, make_room: Callable[[], None]) -> Reservation:
        """Promises a sequence the cells that it has, while it rests between requests.

        Args:
            sequence: must not grow on this promise.
            make_room: called when the cells are wanted by others; it must release the sequence and close
                this reservation, and may `save` the sequence before.
        """
        ...

    def new_sequence(self) -> Sequence:
        """An empty sequence on the base."""
        ...

    def encode(
        self, sequence: Sequence, tokens: Ids, *, on_states: OnStates = None, should_stop: ShouldStop = None
    ) -> bool:
        """Encodes tokens in chunks under the sequence's encoder; the last one's logits can be sampled.

        Args:
            sequence: grows by the tokens encoded.
            tokens: at least one.
            on_states: by layer, who gets its output rows of every chunk, in order, (T, H): a switcher's raw
                features. Layers count from the end; −2, the last but one, is the highest.
            should_stop: asked between chunks.

        Returns:
            Whether all tokens were encoded (False: stopped in between).
        """
        ...

    def cross(self, sequence: Sequence, adapter: Adapter | None) -> None:
        """The one crossing; see `Sequence.cross`."""
        ...

    def fork(self, sequence: Sequence) -> Sequence:
        """A second sequence over the same cells; neither changes the other."""
        ...

    def trim(self, sequence: Sequence, length: int) -> None:
        """Takes back all but the first `length` tokens of a base sequence; forks keep what they share.

        Its logits are not fresh afterwards.

        Raises:
            EngineError: it is not so long, or not all the base's.
        """
        ...

    @property
    def state_format(self) -> str:
        """What the bytes of `save` are: engine, version and cache type; others can't `restore` them."""
        ...

    def save(self, sequence: Sequence) -> bytes:
        """A base sequence's KV."""
        ...

    def restore(self, sequence: Sequence, state: bytes, length: int) -> None:
        """Gives an empty base sequence the KV of one of `length` tokens; nothing of it can be sampled yet.

        Raises:
            EngineError: the bytes are not such a KV, or don't fit; the sequence is empty then.
        """
        ...

    def release(self, sequence: Sequence) -> None:
        """Frees the sequence's slot and the cells that nobody else uses. Releasing twice is harmless."""
        ...

    def sampler(self, sampling: Sampling, seed: int) -> Sampler:
        """A sampler chain; the caller closes it."""
        ...

    def sample(
        self, sequence: Sequence, sampler: Sampler, *, want_logprob: bool = False, forbid_end: bool = False
    ) -> Sampled:
        """Draws the token after a sequence whose logits are fresh; `forbid_end` as in `Feed`."""
        ...

    def step(self, feeds: Iterable[Feed]) -> list[Sampled]:
        """Encodes every feed's tokens, one native batch per adapter, and draws a token for each.

        Returns:
            One draw a feed, in the order of `feeds`.
        """
        ...

    def states(self, feeds: Iterable[tuple[Sequence, Tokens[int]]]) -> States:
        """Encodes tokens and returns the final-norm output at each one's last token, (N, H)."""
        ...

    def score(self, feeds: Iterable[tuple[Sequence, Tokens[int]]]) -> list[Scored]:
        """Encodes tokens and says how likely each of them was; at least one a feed.

        A sequence that is not empty needs fresh logits, as for `sample`: they score its first token. They
        are read before anything is encoded, so that forks of one prefix can be scored together, and must be:
        one feed's encoding makes the others' stale. Of a single feed, the last token's logits are fresh
        afterwards.

        Returns:
            One a feed, in the order of `feeds`.
        """
        ...

    def load_adapter(self, path: Path) -> Adapter:
        """Loads a LoRA adapter; off until a sequence crosses to it."""
        ...

    def unload_adapter(self, adapter: Adapter) -> None:
        """Frees an adapter that no live sequence was encoded under."""
        ...

    def close(self) -> None:
        """Frees every native handle, in the order that llama.cpp asks for."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


def require_base(sequence: Sequence) -> None:
    """Refuses what is not a live sequence on the base.

    Raises:
        EngineError: it was released, or crossed to an adapter.
    """
    if sequence.released or sequence.encoder is not None:
        raise EngineError("only a live sequence that is all the base's can be trimmed, saved or restored")


def require_empty(sequence: Sequence) -> None:
    """Refuses what is not a live sequence on the base without tokens.

    Raises:
        EngineError: as `require_base`, or it has tokens.
    """
    require_base(sequence)
    if sequence.length:
        raise EngineError(f"only an empty sequence can be restored, this one has {sequence.length} tokens")


def require_fresh(sequence: Sequence, decode_number: int) -> int:
    """The row of a sequence's logits in the latest decode.

    Raises:
        EngineError: it was never encoded, or something else was encoded since.
    """
    if sequence.released or sequence.logits_at is None or sequence.logits_at[0] != decode_number:
        raise EngineError(
            "no fresh logits for this sequence: encode its last token, then sample before anything else"
        )
    return sequence.logits_at[1]


@dataclass(slots=True)
class TextDecoder:
    """Bytes of tokens to text as they come, holding back a character that is not complete yet."""

    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )

    @property
    def is_mid_character(self) -> bool:
        """Whether bytes of an unfinished character are held back."""
        return bool(self._decoder.getstate()[0])

    def push(self, piece: bytes) -> str:
        """Text that `piece` completes; may be empty."""
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """What an unfinished character becomes at the end: U+FFFD, or nothing."""
        return self._decoder.decode(b"", final=True)

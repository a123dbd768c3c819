"""Continuous batching: one native step for every stream that runs, whoever asked for it.

A `Batch` belongs to an engine, not to a request: a request adds its forked streams, another one's go on
beside them, and a stream that ends makes room at once. A single question, an evaluation over hundreds
and rollouts for training all decode here.

::

    draw ─→ control decides ─→ keep / force / end
      ↑            │
      └── step: encode what each stream owes, draw for each ──┘
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from edgereason.core.chat import ANSWER_PREFIX, CLOSING_TAG
from edgereason.core.types import Stop
from edgereason.engine.base import Engine, Feed, Sampled, Sampler, Sequence, TextDecoder
from edgereason.heads.verifier import TraceMean
from edgereason.reasoning.control import ChatControl, Control, Phase, TextSplitter
from edgereason.reasoning.pace import Deadline, Pace

READ_TOKENS: Final = 512
"""Most tokens of a prompt that are read between two looks at whoever asked."""


@dataclass(eq=False, slots=True)
class Stream:
    """One of N decodes over one prompt.

    Attributes:
        unencoded: tokens said that the engine has not encoded yet; a verifier's prompt goes after them.
        token_ids: everything said, sampled or forced, without the end of turn.
        forced: which of them were forced.
        text: everything said, as text, up to a stop string.
        end: the draw that ended the turn; None while it runs, and where it was cut.
        means: take in the states of what it says, where a verifier reads them.
        stop: strings that end its answer.
        first: the draw that it will begin with; None once it has begun.
    """

    index: int
    seed: int
    sequence: Sequence
    sampler: Sampler
    control: Control
    want_logprobs: bool = False
    means: TraceMean | None = None
    stop: tuple[str, ...] = ()
    first: Sampled | None = None
    unencoded: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    end: Sampled | None = None
    is_running: bool = True
    _is_closing: bool = False
    _owes_answer: bool = False
    _news: list[tuple[Phase, str]] = field(default_factory=list)
    _decoder: TextDecoder = field(default_factory=TextDecoder)
    _splitter: TextSplitter = field(init=False)

    def __post_init__(self) -> None:
        self._splitter = TextSplitter(
            thinks=self.control.phase is Phase.THINKING,
            stop=self.stop,
            is_chat=isinstance(self.control, ChatControl),
            closing_tag=self.control.closing_tag,
        )

    @property
    def num_tokens(self) -> int:
        """Tokens spent, as the budget counts them."""
        return len(self.token_ids)

    @property
    def is_open(self) -> bool:
        """Whether it thinks, or has been told to close and the engine has not encoded that yet."""
        return self.control.phase is Phase.THINKING or self._is_closing

    @property
    def has_begun(self) -> bool:
        """Whether it has taken its first token; until then it costs no step."""
        return self.first is None

    def take_news(self) -> list[tuple[Phase, str]]:
        """What was said since the last call."""
        news, self._news = self._news, []
        return news

    def owed(self) -> Feed:
        """What the next step must encode and draw; an owed answer begins with no tag."""
        tokens, self.unencoded = self.unencoded, []
        return Feed(
            self.sequence,
            tokens,
            self.sampler,
            self.want_logprobs,
            forbid_end=self._owes_answer,
            on_states=self.means.takers if self.means else None,
        )

    def cancel(self) -> None:
        """Ends the stream where it stands."""
        if self.is_running:
            self.control.stop = Stop.CANCELLED
            self._end()

    def take(self, drawn: Sampled, piece: bytes, *, is_end: bool) -> None:
        """Takes in a drawn token and does what the control says."""
        text = "" if is_end else self._decoder.push(piece)
        verdict = self.control.on_token(text, is_end=is_end, mid_character=self._decoder.is_mid_character)
        if verdict.keep:
            self._say([drawn.token], text, forced=False)
            if drawn.logprob is not None:
                self.logprobs.append(drawn.logprob)
        self._is_closing = any(forced.phase is Phase.THINKING for forced in verdict.seams)
        # Owed until something is said: blanks behind an answer prefix are not an answer.
        self._owes_answer = bool(verdict.seams) or (self._owes_answer and not text.strip())
        if verdict.forced:
            self._say([], self._decoder.flush(), forced=True)
        for piece_of in verdict.forced:
            self._say(list(piece_of.ids), piece_of.text, forced=True)
        if self._splitter.is_stopped:
            self.control.stop = Stop.STOP_STRING
        if verdict.done or self._splitter.is_stopped:
            self.end = drawn if is_end else None
            self._end()

    def replay(
        self, token_ids: tuple[int, ...], forced: tuple[bool, ...], piece: Callable[[int], bytes]
    ) -> int:
        """Says again what a stream said, for as long as this one's control lets it.

        Where closing or answer prefix were forced without a token drawn, the turn had ended. Forced results
        of arithmetic are taken as drawn: a calculator forces them again.

        Args:
            token_ids: everything it said; `forced` tells what was not sampled.
            piece: bytes of a token.

        Returns:
            How many of the tokens this stream says too. It is running if it has something else to say.
        """
        said = 0
        while self.is_running and said < len(token_ids):
            token = token_ids[said]
            if forced[said] and _is_seam(token_ids[said:], forced[said:], piece):
                self.take(Sampled(token), b"", is_end=True)
            else:
                self.take(Sampled(token), piece(token), is_end=False)
            news = self.token_ids[said:]
            for new in news:
                if said == len(token_ids) or token_ids[said] != new:
                    return said
                said += 1
        if self.is_running:
            self.take(Sampled(0), b"", is_end=True)
        return said

    def _say(self, tokens: list[int], text: str, *, forced: bool) -> None:
        self.unencoded += tokens
        self.token_ids += tokens
        self.forced += [forced] * len(tokens)
        thinking, answer = self._splitter.push(text)
        self._tell(Phase.THINKING, thinking)
        self._tell(Phase.ANSWER, answer)

    def _tell(self, phase: Phase, text: str) -> None:
        self.text += text
        if text:
            self._news.append((phase, text))

    def _end(self) -> None:
        self.is_running = False
        self._say([], self._decoder.flush(), forced=False)
        self._tell(Phase.ANSWER, self._splitter.flush())
        self.sampler.close()


def _is_seam(token_ids: tuple[int, ...], forced: tuple[bool, ...], piece: Callable[[int], bytes]) -> bool:
    """Whether tokens begin with a closing or an answer prefix that was forced."""
    run = takewhile(lambda one: one[1], zip(token_ids, forced, strict=True))
    text = b"".join(piece(token) for token, _ in run).decode(errors="replace")
    return text.lstrip("\n").startswith((CLOSING_TAG, ANSWER_PREFIX))


class Batch:
    """The streams that run on one engine.

    Args:
        engine: what steps.
        chunk_tokens: most tokens of a prompt that are read between two steps of streams that run; None to
            read it without a step in between, which takes less time in all.
    """

    def __init__(self, engine: Engine, *, chunk_tokens: int | None = None) -> None:
        self._engine = engine
        self.chunk_tokens = chunk_tokens
        self.is_reading = False
        """Whether a prompt is being read, a chunk at a time."""
        self.deadlines: set[Deadline] = set()
        """Of the requests that run."""
        self._running: list[Stream] = []
        self._pace: Pace | None = None
        self._clock: Callable[[], float] = time.perf_counter

    @property
    def engine(self) -> Engine:
        """What steps."""
        return self._engine

    @property
    def num_running(self) -> int:
        return sum(stream.is_running for stream in self._running)

    @property
    def read_tokens(self) -> int:
        """Most tokens of a prompt to be read at a time now."""
        return READ_TOKENS if self.chunk_tokens is None or not self.num_running else self.chunk_tokens

    @contextmanager
    def reading(self) -> Iterator[None]:
        """For as long as a prompt is read."""
        self.is_reading = True
        if self._pace is not None and self.chunk_tokens is not None:
            self._pace.slowdown = 2.0
        try:
            yield
        finally:
            self.is_reading = False
            if self._pace is not None:
                self._pace.slowdown = 1.0

    @property
    def may_read(self) -> bool:
        """Whether no stream that runs must have answered before a chunk of a prompt would be read."""
        if self.chunk_tokens is None or self._pace is None:
            return True
        chunk_s = self._pace.encode_s(self.chunk_tokens)
        return not any(0 < deadline.left_s < chunk_s for deadline in self.deadlines)

    def tell(self, pace: Pace, clock: Callable[[], float]) -> None:
        """Lets a pace know from now on what steps take."""
        self._pace, self._clock = pace, clock

    def add(self, stream: Stream) -> None:
        """Draws a stream's first token and lets it run; its sequence's logits must be fresh."""
        self.draw_first(stream)
        self.begin(stream)

    def draw_first(self, stream: Stream) -> None:
        """Draws a stream's first token while its sequence's logits are fresh; it begins when told to."""
        stream.first = self._engine.sample(stream.sequence, stream.sampler, want_logprob=stream.want_logprobs)

    def begin(self, stream: Stream) -> None:
        """Lets a stream run whose first token is drawn."""
        assert stream.first is not None
        first, stream.first = stream.first, None
        self._take(stream, first)
        self._running.append(stream)

    def resume(self, stream: Stream) -> None:
        """Lets a stream run that owes the engine tokens; the next step encodes them and draws."""
        self._running.append(stream)

    def step(self) -> None:
        """One token for every running stream."""
        self._running = [stream for stream in self._running if stream.is_running]
        if not self._running:
            return
        feeds = [stream.owed() for stream in self._running]
        # One that also encodes what was forced on a stream says nothing of the others.
        is_plain = all(len(feed.tokens) <= 1 for feed in feeds)
        start_s = self._clock()
        draws = self._engine.step(feeds)
        if self._pace is not None and is_plain:
            self._pace.note_step(len(feeds), self._clock() - start_s)
        for stream, drawn in zip(self._running, draws, strict=True):
            self._take(stream, drawn)

    def _take(self, stream: Stream, drawn: Sampled) -> None:
        engine = self._engine
        stream.take(drawn, engine.piece(drawn.token), is_end=engine.is_end(drawn.token))

"""Responses drawn from the policy that is trained, on the engine and the base that ship.

::

    prompt ─ base, once ─→ fork ─ adapter on ─ opening, hint ─┬─ fork ─ sampled … end of turn
                                                              ├─ fork ─ sampled … cap
                                                              └─ …        each with its log-probabilities

Nothing is forced to an end: a response ends by itself or is cut at its cap, where the reward is at its floor
anyway. With a calculator, results of arithmetic are forced as at run time, and are not learned.
The log-probabilities are of the whole vocabulary at the temperature, so that they are the old policy's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from edgereason.core.chat import CLOSING_TAG
from edgereason.core.types import Sampling
from edgereason.engine.base import Adapter, Engine, TextDecoder
from edgereason.reasoning.batch import Batch, Stream
from edgereason.reasoning.calculator import Calculator
from edgereason.reasoning.control import ChatControl


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """Responses that are wanted to one prompt.

    Attributes:
        prompt: the base's own.
        forced: opening and hint; the adapter is on from their first token.
        cap_tokens: where a response is cut, even if its end of turn would have been next.
        count: of responses; response i draws with `seed` + i.
    """

    prompt: tuple[int, ...]
    forced: tuple[int, ...]
    cap_tokens: int
    count: int
    seed: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn behind opening and hint.

    Attributes:
        ids: sampled tokens, the end of turn among them where the response came to it; and forced results.
        logprobs: of each, natural, of the policy that drew it; 0 of those that were forced.
        is_whole: whether it came to the end of its turn.
        forced: places in `ids` of results that were forced.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    is_whole: bool
    forced: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        """L, as the budget counts: without the end of turn."""
        return len(self.ids) - self.is_whole

    @property
    def is_drawn(self) -> list[bool]:
        """Of each token, whether the policy drew it."""
        forced = {*self.forced}
        return [place not in forced for place in range(len(self.ids))]


class RolloutEngine(Protocol):
    """Draws responses from the current policy."""

    def __call__(self, wants: Sequence[Want]) -> list[list[Drawn]]:
        """The responses to each want, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What tokens say, and which of them end a turn."""

    pieces: tuple[bytes, ...]
    ends: frozenset[int]

    @classmethod
    def of(cls, engine: Engine) -> Self:
        """An engine's."""
        ids = range(engine.info.vocab_size)
        return cls(tuple(map(engine.piece, ids)), frozenset(filter(engine.is_end, ids)))

    def text(self, ids: Sequence[int]) -> str:
        """What the tokens say; control tokens say nothing."""
        decoder = TextDecoder()
        return "".join(decoder.push(self.pieces[token]) for token in ids) + decoder.flush()

    def thinking_tokens(self, ids: Sequence[int]) -> int:
        """Tokens up to the one that completes the closing, or all where there is none."""
        decoder, text = TextDecoder(), ""
        for count, token in enumerate(ids, 1):
            text = text[-len(CLOSING_TAG) :] + decoder.push(self.pieces[token])
            if CLOSING_TAG in text:
                return count
        return len(ids)


class EngineRollouts:
    """Draws on an engine; the adapter is reloaded before it is asked.

    Args:
        engine: of the base that ships; used by nobody else while it draws.
        temperature: of the draws, above 0; all of the vocabulary may be drawn.
        max_running: no further want is begun while so many responses are being drawn.
        adapter: the first.
        calculator: whether exact results of arithmetic are forced.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        temperature: float,
        max_running: int = 32,
        adapter: Adapter | None = None,
        calculator: bool = False,
    ) -> None:
        self._engine = engine
        self._sampling = Sampling(temperature=temperature, top_k=0, top_p=1.0)
        self._max_running = max_running
        self._adapter = adapter
        self._calculator = calculator

    def reload_adapter(self, write: Callable[[Path], None], path: Path) -> None:
        """Takes the current adapter in the place of the one before.

        Args:
            write: writes it as a GGUF.
            path: of that file.
        """
        if self._adapter is not None:
            self._engine.unload_adapter(self._adapter)
            self._adapter = None
        write(path)
        self._adapter = self._engine.load_adapter(path)

    def __call__(self, wants: Sequence[Want]) -> list[list[Drawn]]:
        """The responses to each want, in order.

        Raises:
            ContextOverflow: one does not fit in the context.
        """
        if not wants:
            return []
        engine, batch = self._engine, Batch(self._engine)
        most = max(self._max_running, *(want.count for want in wants))
        longest = max(len(want.prompt) + len(want.forced) + want.cap_tokens for want in wants)
        drawn: list[list[Stream]] = []
        waiting, running = list(reversed(wants)), list[Stream]()
        with engine.reserve(cells=most * longest, sequences=most + 1, longest=longest):
            try:
                while waiting or running:
                    while waiting and len(running) + waiting[-1].count <= most:
                        streams = self._begin(waiting.pop(), batch)
                        drawn.append(streams)
                        running += streams
                    if batch.num_running:
                        batch.step()
                    for stream in [stream for stream in running if not stream.is_running]:
                        running.remove(stream)
                        engine.release(stream.sequence)  # its cells are the next one's
            finally:
                self._give_back(running)
        return [[_drawn(stream) for stream in streams] for streams in drawn]

    def _begin(self, want: Want, batch: Batch) -> list[Stream]:
        engine = self._engine
        streams: list[Stream] = []
        opened = engine.new_sequence()
        try:
            engine.encode(opened, want.prompt)
            engine.cross(opened, self._adapter)
            engine.encode(opened, want.forced)
            for seed in range(want.seed, want.seed + want.count):
                calculator = Calculator(engine.tokenize) if self._calculator else None
                control = ChatControl(want.cap_tokens, calculator=calculator)
                sampler = engine.sampler(self._sampling, seed)
                fork = engine.fork(opened)
                streams.append(Stream(len(streams), seed, fork, sampler, control, want_logprobs=True))
            for stream in streams:  # all of them from the logits behind the hint
                batch.add(stream)
        except BaseException:
            self._give_back(streams)
            raise
        finally:
            engine.release(opened)
        return streams

    def _give_back(self, streams: Sequence[Stream]) -> None:
        for stream in streams:
            stream.cancel()
            self._engine.release(stream.sequence)


def _drawn(stream: Stream) -> Drawn:
    of_drawn = iter(stream.logprobs)
    ids, logprobs = list(stream.token_ids), [0.0 if forced else next(of_drawn) for forced in stream.forced]
    if stream.end is not None:
        ids.append(stream.end.token)
        logprobs.append(stream.end.logprob or 0.0)
    forced = tuple(place for place, was_forced in enumerate(stream.forced) if was_forced)
    return Drawn(tuple(ids), tuple(logprobs), stream.end is not None, forced)

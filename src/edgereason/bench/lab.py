"""What every measure of the engine needs: an engine whose streams never end early, prompts, streams.

Knows the engine and the batch; does not know what is compared with what (`step_measures.py`,
`request_measures.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgereason.core.chat import Seams
from edgereason.core.types import Sampling
from edgereason.engine.base import Adapter, Sequence
from edgereason.engine.llama import LlamaEngine
from edgereason.reasoning.batch import Batch, Stream
from edgereason.reasoning.control import ThinkControl

SAMPLING: Final = Sampling()
"""The product's default: top-k, temperature, top-p, draw."""

HINT_BUCKET: Final = 256
_NO_LIMIT: Final = 1_000_000
_FILLER: Final = (
    "The bakery on Mill Road opens at six. On Monday it sold 48 rolls before nine and half as many until "
    "noon; a roll costs 35 cents, a loaf 2.40. Ana bought three loaves for the school and paid with a note "
    "of ten. Behind her stood Mr Okafor, who wanted to know how many rolls fit into a box if each layer "
    "holds twelve and the box takes five layers. In the afternoon it rained, and a delivery of 25 kilograms "
    "of flour came 40 minutes late. "
)


class EndlessEngine(LlamaEngine):
    """The engine, except that no token ends a turn: every stream gets the length that it was given."""

    def is_end(self, token: int) -> bool:
        super().is_end(token)  # asked all the same: it is part of what a step costs
        return False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a measure found: figures for the record's top level, and what they were computed from."""

    figures: Mapping[str, float | None]
    details: Mapping[str, Any]


@dataclass(slots=True)
class Lab:
    """One model file under measurement.

    Attributes:
        adapter_path: a random adapter for the file, where a measure turns one on; loaded when it does.
        advance: told which further share of the running measure is done.
    """

    engine: EndlessEngine
    path: Path
    threads: int
    rounds: int
    seed: int
    adapter_path: Path | None = None
    advance: Callable[[float], None] = lambda _share: None
    seams: Seams = field(init=False)
    _adapter: Adapter | None = None

    def __post_init__(self) -> None:
        self.seams = Seams.of(self.engine.tokenize)

    @property
    def adapter(self) -> Adapter:
        if self._adapter is None:
            assert self.adapter_path is not None
            self._adapter = self.engine.load_adapter(self.adapter_path)
        return self._adapter

    @property
    def opening(self) -> tuple[int, ...]:
        """What the think route encodes before it draws, with an adapter that was trained on hints."""
        return self.seams.opening + self.seams.hint(HINT_BUCKET)

    def round_done(self) -> None:
        self.advance(1 / self.rounds)

    def prompt(self, num_tokens: int) -> list[int]:
        """So many tokens of plain text."""
        ids = self.engine.tokenize(_FILLER)
        return (ids * (num_tokens // len(ids) + 1))[:num_tokens]

    @contextmanager
    def sequence(self, parent: Sequence | None = None) -> Iterator[Sequence]:
        """A new sequence, or a fork of `parent`; released in the end."""
        sequence = self.engine.fork(parent) if parent else self.engine.new_sequence()
        try:
            yield sequence
        finally:
            self.engine.release(sequence)

    @contextmanager
    def streams(
        self, prefix: Sequence, num_streams: int, adapter: Adapter | None = None
    ) -> Iterator[tuple[Batch, list[Stream]]]:
        """Streams behind `prefix` and the opening, as the pipeline makes them; their first tokens drawn."""
        engine, batch, streams = self.engine, Batch(self.engine), []
        with ExitStack() as held:
            start = held.enter_context(self.sequence(prefix))
            engine.cross(start, adapter)
            engine.encode(start, self.opening)
            for i in range(num_streams):
                sequence = held.enter_context(self.sequence(start))
                sampler = engine.sampler(SAMPLING, self.seed + i)
                control = ThinkControl(self.seams, _NO_LIMIT)
                stream = Stream(i, self.seed + i, sequence, sampler, control)
                held.callback(stream.cancel)
                batch.add(stream)
                streams.append(stream)
            yield batch, streams

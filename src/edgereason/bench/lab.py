"""What every measure of the engine needs: an engine whose streams never end early, prompts and streams.

What is compared with what stands in `step_measures.py` and `request_measures.py`. Run as a module, this is
the process whose peak memory `peak_rss_of` measures; it imports no more than a run needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgereason.core.chat import Seams
from edgereason.core.types import Sampling
from edgereason.engine.base import Adapter, Sequence
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import EngineError
from edgereason.reasoning.batch import Batch, Stream
from edgereason.reasoning.control import ThinkControl
from edgereason.records.folder import peak_rss_bytes
from edgereason.records.measure import Case, Timings, interleave, timed

SAMPLING: Final = Sampling()
"""The product's default: top-k, temperature, top-p, draw."""

HINT_BUCKET: Final = 256
_NO_LIMIT: Final = 1_000_000
_MEMORY_PROMPT_TOKENS: Final = 512
_MEMORY_STEPS: Final = 8
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
class Measured:
    """Figures of a measure for the record's top level, and the details that they were computed from."""

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

    def interleave(self, cases: Mapping[str, Case]) -> Timings:
        """Times the cases in turns, `rounds` times, and advances with each round."""
        return interleave(cases, self.rounds, lambda: self.advance(1 / self.rounds))

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


def mean_step_s(batch: Batch, num_steps: int) -> float:
    """Mean seconds of a decode step, after one that does not count: the first rebuilds the graph."""
    batch.step()
    return interleave({"step": timed(batch.step)}, num_steps).mean("step")


def peak_rss_of(path: Path, *, num_streams: int, threads: int) -> dict[str, Any]:
    """`peak_rss_bytes` and `load_s` of a fresh process that runs the file; mapped weights count once read.

    Raises:
        EngineError: the process failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(path), str(num_streams), str(threads)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise EngineError(f"{path.name} could not be run by itself: {done.stderr.strip().splitlines()[-1]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _main(path: Path, num_streams: int, threads: int) -> None:
    start = time.perf_counter()
    with EndlessEngine(path, threads=threads) as engine:
        load_s = time.perf_counter() - start
        lab = Lab(engine, path, threads, rounds=1, seed=0)
        cells = _MEMORY_PROMPT_TOKENS + len(lab.opening) + num_streams * (_MEMORY_STEPS + 2)
        with engine.reserve(cells=cells, sequences=num_streams + 2), lab.sequence() as prefix:
            engine.encode(prefix, lab.prompt(_MEMORY_PROMPT_TOKENS))
            with lab.streams(prefix, num_streams) as (batch, _):
                for _step in range(_MEMORY_STEPS):
                    batch.step()
        sys.stdout.write(json.dumps({"peak_rss_bytes": peak_rss_bytes(), "load_s": load_s}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

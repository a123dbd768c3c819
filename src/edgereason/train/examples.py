r"""Traces as ids: the seams' one way from text to tokens, and the hint that half of them get.

::

    prompt      │ opening  hint?  │ thinking \n  closing  answer  end of turn
    messages    │ not trained     │ trained

A hint is given in hindsight: the smallest bucket B that the trace would have kept within (1 − m)·B, so that
what budgets mean is learned before it is rewarded. Which rows get one follows from the seed and the row's id.

Source: DESIGN, Seams. Deviation: the paper's SFT has no hints; they come with its RL only.

Knows text, seams and buckets; does not know models or losses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from edgereason.core.bundle import write_atomically
from edgereason.core.chat import ChatTemplate, Seams
from edgereason.engine.base import Engine
from edgereason.errors import ConfigError
from edgereason.train.traces import TraceRow


@dataclass(frozen=True, slots=True, kw_only=True)
class HintConfig:
    """Which budgets are announced, and to how many rows.

    Attributes:
        buckets: in tokens, rising.
        share: of the rows that get a hint, where one fits.
        margin: m; a bucket fits what is no longer than (1 − m) of it.
        seed: decides which rows.
    """

    buckets: tuple[int, ...] = ()
    share: float = 0.5
    margin: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if list(self.buckets) != sorted({*self.buckets}) or any(bucket < 1 for bucket in self.buckets):
            raise ConfigError(f"[hints] buckets must be positive and rise, got {list(self.buckets)}")
        if not (0 <= self.share <= 1 and 0 <= self.margin < 1):
            raise ConfigError("[hints] needs a share from 0 to 1 and a margin from 0 to below 1")

    def bucket(self, row_id: str, num_tokens: int) -> int | None:
        """The budget to announce to a row whose trace has so many tokens; None for no hint."""
        fits = [bucket for bucket in self.buckets if num_tokens <= (1 - self.margin) * bucket]
        drawn = hashlib.sha256(f"{self.seed}/{row_id}".encode()).digest()
        if not fits or int.from_bytes(drawn[:8], "big") >= self.share * 2**64:
            return None
        return fits[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A trace in ids.

    Attributes:
        prompt: up to and including the generation prompt: the base's own.
        response: from the opening to the end of the turn.
        num_forced: of `response`, from its start: opening and hint, which are given and not trained.
        bucket: what the hint says.
    """

    id: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    num_forced: int
    bucket: int | None = None

    @property
    def trained(self) -> tuple[bool, ...]:
        """Of each token of `response`, whether the model is to learn to say it."""
        return (False,) * self.num_forced + (True,) * (len(self.response) - self.num_forced)

    @property
    def num_tokens(self) -> int:
        """Of prompt and response together."""
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True, slots=True)
class Encoder:
    """The way from traces to ids, for one vocabulary."""

    template: ChatTemplate
    seams: Seams
    end: tuple[int, ...]

    @classmethod
    def of(cls, engine: Engine) -> Self:
        """The encoder of an engine's model."""
        info = engine.info
        return cls(
            info.template,
            Seams.of(engine.tokenize),
            tuple(engine.tokenize(info.eos_text, special=True)),
        )

    def encode(self, trace: TraceRow, hints: HintConfig) -> Example:
        """The example of a trace."""
        seams = self.seams
        body = [token for piece in trace.pieces for token in seams.tokenize(piece)]
        bucket = hints.bucket(trace.id, len(body))
        forced = seams.opening + (() if bucket is None else seams.hint(bucket))
        return Example(
            id=trace.id,
            prompt=self.template.encode(trace.messages, seams.tokenize),
            response=(*forced, *body, *self.end),
            num_forced=len(forced),
            bucket=bucket,
        )


def fitting(examples: Iterable[Example], max_tokens: int) -> tuple[list[Example], int]:
    """Those that are no longer than `max_tokens`, and how many are; none is ever cut."""
    examples = list(examples)
    kept = [example for example in examples if example.num_tokens <= max_tokens]
    return kept, len(examples) - len(kept)


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Writes ids as JSONL, for a machine that has no tokenizer."""
    write_atomically(path, "".join(json.dumps(asdict(example)) + "\n" for example in examples))


def read_examples(path: Path) -> list[Example]:
    """Reads what `write_examples` wrote.

    Raises:
        ConfigError: it can't be read, or a line is no example.
    """
    found = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read as examples: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            prompt, response = (tuple(map(int, fields.pop(name))) for name in ("prompt", "response"))
            found.append(Example(prompt=prompt, response=response, **fields))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{path.name}, line {number}: no example in ids ({error})") from error
    return found

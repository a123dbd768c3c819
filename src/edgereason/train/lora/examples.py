r"""Traces as ids: the seams' one way from text to tokens, and the hint that half of them get.

::

    prompt      │ opening  hint?  │ thinking \n  closing  answer  end of turn
    messages    │ not trained     │ trained

A hint is given in hindsight: the smallest bucket B that the trace would have kept within (1 − m)·B, so that
what budgets mean is learned before it is rewarded. Which rows get one follows from the seed and the row's id.

Source: DESIGN, Seams. Deviation: the paper's SFT has no hints; they come with its RL only.

Ids mean something for one base only. A file of examples therefore says what it was made for, and whoever
learns from it compares.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol, Self

import numpy as np
import numpy.typing as npt

from edgereason.config import load_json
from edgereason.core.bundle import Base, write_atomically
from edgereason.core.chat import ChatTemplate, Seams
from edgereason.data.rows import read_unpacked
from edgereason.engine.base import Engine
from edgereason.engine.vocabulary import portable_tokenize
from edgereason.errors import ConfigError
from edgereason.train.data.traces import TraceRow

FORMAT: Final = "edgereason-examples"


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
        computed: places in `response` of results that a calculator forced, which are not trained either.

    Raises:
        ValueError: more is given than the response has.
    """

    id: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    num_forced: int
    bucket: int | None = None
    computed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.num_forced <= len(self.response):
            raise ValueError(f"num_forced is {self.num_forced}, of {len(self.response)} tokens")

    @property
    def trained(self) -> tuple[bool, ...]:
        """Of each token of `response`, whether the model is to learn to say it."""
        computed = {*self.computed}
        return tuple(
            place >= self.num_forced and place not in computed for place in range(len(self.response))
        )

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
    vocab_size: int

    @classmethod
    def of(cls, engine: Engine) -> Self:
        """The encoder of an engine's model; pickled, that of the model's file."""
        info = engine.info
        return cls(
            info.template,
            Seams.of(portable_tokenize(engine)),
            tuple(engine.tokenize(info.eos_text, special=True)),
            info.vocab_size,
        )

    def forced(self, bucket: int | None) -> tuple[int, ...]:
        """Ids of the opening, and of the hint for a bucket if there is one."""
        return self.seams.opening + (() if bucket is None else self.seams.hint(bucket))

    def ids(self, trace: TraceRow) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A trace's prompt and body: what it spends of a budget.

        Raises:
            RequestError: the template takes no such order of roles.
        """
        seams = self.seams
        body = tuple(token for piece in trace.pieces for token in seams.tokenize(piece))
        return self.template.encode(trace.messages, seams.tokenize), body

    def encode(self, trace: TraceRow, hints: HintConfig) -> Example:
        """The example of a trace."""
        prompt, body = self.ids(trace)
        bucket = hints.bucket(trace.id, len(body))
        return example(trace.id, prompt, self.forced(bucket), body + self.end, bucket)


def example(
    name: str, prompt: tuple[int, ...], forced: tuple[int, ...], trained: tuple[int, ...], bucket: int | None
) -> Example:
    """An example of its pieces: `forced` are opening and hint, `trained` is all behind them."""
    return Example(id=name, prompt=prompt, response=forced + trained, num_forced=len(forced), bucket=bucket)


class Examples(Protocol):
    """Examples in an order, perhaps more than memory holds: a list, or `Tokens`."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> Example: ...
    def __iter__(self) -> Iterator[Example]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """Those examples that are no longer than a limit, in their order; none is ever cut.

    Attributes:
        examples: all of them.
        places: in `examples`, of those that fit.
        response_tokens: of each that fits.
        buckets: that hints of those that fit announce, rising.
        num_hinted: of those that fit.
        sha256: of ids, prompts and responses of those that fit.
    """

    examples: Examples
    places: npt.NDArray[np.int64]
    response_tokens: npt.NDArray[np.int64]
    buckets: tuple[int, ...]
    num_hinted: int
    sha256: str

    @classmethod
    def of(cls, examples: Examples, max_tokens: int) -> Self:
        """Those of at most `max_tokens`; every example is read once."""
        places, lengths, buckets = array("q"), array("q"), Counter[int | None]()
        # Of the JSON of a list: so runs of earlier versions are known again.
        digest = hashlib.sha256(b"[")
        for place, one in enumerate(examples):
            if one.num_tokens <= max_tokens:
                digest.update(b", " if places else b"")
                digest.update(json.dumps((one.id, one.prompt, one.response)).encode())
                places.append(place)
                lengths.append(len(one.response))
                buckets[one.bucket] += 1
        digest.update(b"]")
        return cls(
            examples=examples,
            places=np.array(places),
            response_tokens=np.array(lengths),
            buckets=tuple(sorted(bucket for bucket in buckets if bucket is not None)),
            num_hinted=len(places) - buckets[None],
            sha256=digest.hexdigest(),
        )

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Example:
        return self.examples[int(self.places[number])]

    @property
    def num_too_long(self) -> int:
        """Examples that are left out."""
        return len(self.examples) - len(self)


def announced(examples: Iterable[Example]) -> tuple[int, ...]:
    """Buckets of the hints that examples have, rising: the budgets that training on them teaches."""
    return tuple(sorted({one.bucket for one in examples if one.bucket is not None}))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamplesOrigin:
    """What examples in ids were made for; the first line of their file.

    Attributes:
        base_sha256: of the base's GGUF.
        vocab_sha256: of its vocabulary.
        opening: ids that turn the adapter on.
        buckets: of the hints, in tokens, rising.
    """

    base_sha256: str
    vocab_sha256: str
    opening: tuple[int, ...]
    buckets: tuple[int, ...]

    @classmethod
    def of(cls, base: Base, opening: tuple[int, ...], examples: Iterable[Example]) -> Self:
        """What examples of a base are made for."""
        return cls(
            base_sha256=base.sha256,
            vocab_sha256=base.vocab_sha256,
            opening=opening,
            buckets=announced(examples),
        )

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Self:
        """What `to_json` made.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        if line["format"] != FORMAT:
            raise ValueError(f"its format is {line['format']!r}, expected {FORMAT!r}")
        return cls(
            base_sha256=str(line["base_sha256"]),
            vocab_sha256=str(line["vocab_sha256"]),
            opening=tuple(map(int, line["opening"])),
            buckets=tuple(map(int, line["buckets"])),
        )


@dataclass(frozen=True, slots=True)
class ExamplesFile:
    """Examples as they were read.

    Attributes:
        name: of the file, for messages.
        examples: in its order.
        origin: what they were made for; None in files of before it was written.
    """

    name: str
    examples: list[Example]
    origin: ExamplesOrigin | None

    def require(self, encoder: Encoder, base: Base, hints: HintConfig) -> None:
        """Refuses examples that this base and these hints would not have given.

        A file that does not say what it was made for is judged by its examples alone.

        Args:
            encoder: of the base.
            base: that is trained on.
            hints: of the recipe; its buckets must be those of the examples, since the bundle announces them.

        Raises:
            ConfigError: something differs; it says what the file has and what was expected.
        """
        if self.origin is not None:
            now = replace(ExamplesOrigin.of(base, encoder.seams.opening, ()), buckets=hints.buckets)
            self._require_origin(self.origin, now)
        for one in self.examples:
            if one.bucket is not None and one.bucket not in hints.buckets:
                raise ConfigError(
                    f"{self.name}: example {one.id!r} announces a budget of {one.bucket} tokens, which "
                    f"the recipe's [hints] buckets {list(hints.buckets)} lack: list those of the examples"
                )
            self._require_ids(one, encoder)
        found = announced(self.examples)
        if missing := [bucket for bucket in hints.buckets if bucket not in found]:
            raise ConfigError(
                f"{self.name}: no example announces the [hints] buckets {missing} of the recipe, which would "
                f"not be trained; the file has {list(found)}: take the others out of the recipe"
            )

    def _require_origin(self, made_for: ExamplesOrigin, now: ExamplesOrigin) -> None:
        named = {
            "base_sha256": "the base with SHA-256",
            "vocab_sha256": "the vocabulary with SHA-256",
            "opening": "the opening",
            "buckets": "the buckets",
        }
        for name, words in named.items():
            there, here = (getattr(origin, name) for origin in (made_for, now))
            if there != here:
                whose = "the recipe's [hints]" if name == "buckets" else "this one"
                there, here = (list(one) if isinstance(one, tuple) else one for one in (there, here))
                raise ConfigError(
                    f"{self.name} was made for {words} {there}, {whose} has {here}: "
                    "make the examples again, or train with what they were made for"
                )

    def _require_ids(self, one: Example, encoder: Encoder) -> None:
        """Refuses ids that the vocabulary lacks, and another opening or hint than the encoder's."""
        strange = (token for token in one.prompt + one.response if not 0 <= token < encoder.vocab_size)
        if (token := next(strange, None)) is not None:
            raise ConfigError(
                f"{self.name}: example {one.id!r} has the token {token}, and the vocabulary has 0 to "
                f"{encoder.vocab_size - 1}: the examples are of another base"
            )
        expected = encoder.forced(one.bucket)
        # Without a prompt, all is response: what is the prompt's stands in front of the opening.
        found = one.response[: one.num_forced][0 if one.prompt else -len(expected) :]
        if found != expected:
            budget = "no budget" if one.bucket is None else f"a budget of {one.bucket} tokens"
            raise ConfigError(
                f"{self.name}: example {one.id!r} announces {budget}, so that its response begins with the "
                f"tokens {list(expected)}, but it has {list(found)}: the examples are of another base or "
                "other seams"
            )


def write_examples(path: Path, origin: ExamplesOrigin, examples: Sequence[Example]) -> None:
    """Writes ids as JSONL, for a machine that has no tokenizer; what they were made for comes first."""
    rows = [asdict(one) for one in examples]
    for row in rows:
        if not row["computed"]:  # as in files of before there was a calculator
            del row["computed"]
    lines = [origin.to_json(), *rows]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_examples(path: Path) -> ExamplesFile:
    """Reads what `write_examples` wrote, also if it was compressed (`.gz`) or lacks its first line.

    Raises:
        ConfigError: it can't be read, or a line is not an example.
    """
    found: list[Example] = []
    origin = None
    try:
        lines = read_unpacked(path).decode("utf-8").splitlines()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ConfigError(f"{path} can't be read as examples: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            fields = load_json(line)
            if number == 1 and "format" in fields:
                origin = ExamplesOrigin.from_json(fields)
                continue
            computed = tuple(map(int, fields.pop("computed", ())))
            prompt, response = (tuple(map(int, fields.pop(name))) for name in ("prompt", "response"))
            found.append(Example(prompt=prompt, response=response, computed=computed, **fields))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{path.name}, line {number}: no example in ids ({error})") from error
    return ExamplesFile(path.name, found, origin)

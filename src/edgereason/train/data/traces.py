"""Reasoning traces: one schema, whether they were read somewhere or made here.

::

    {"id": …, "messages": [{"role": "user", "content": …}], "thinking": "… is 84.",
     "answer": "The final answer is 84.", "source": …, "num_tokens": 212, "reference": "84"}

A trace holds texts. Whoever needs ids tokenizes its `pieces` one by one, as all seams are. Files are read and
written a row at a time; of the rows that went by, 16 to 32 bytes each stay for telling duplicates.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar

import numpy as np

from edgereason.core.bundle import file_sha256, temporary_beside
from edgereason.core.chat import CLOSING, CLOSING_TAG, OPENING, ChatTemplate, Seams
from edgereason.core.types import Message
from edgereason.data.questions import id_of, turns
from edgereason.data.rows import Row, RowError, no_rows, stream_files
from edgereason.engine.base import Engine
from edgereason.engine.vocabulary import portable_tokenize
from edgereason.errors import ConfigError
from edgereason.records.folder import RunFolder

TRACES: Final = "traces.jsonl"
FORMAT: Final = "edgereason-traces"

TAGS: Final = (OPENING.strip(), CLOSING_TAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """One trace.

    Attributes:
        id: unique in its file.
        messages: what was asked, plainly: without whatever made a teacher think. The last is the user's.
        thinking: what stands between opening and closing, its final line break left off.
        answer: what stands behind the closing.
        source: data set that the question, or the whole trace, is from.
        num_tokens: as the budget counts them, for one vocabulary; None if nobody has counted.
        reference: the right answer, if it is known.

    Raises:
        ConfigError: a text is blank or has blanks around it, or holds a tag, which would be a second seam.
    """

    id: str
    messages: tuple[Message, ...]
    thinking: str
    answer: str
    source: str
    num_tokens: int | None = None
    reference: str | None = None

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1].role != "user":
            raise ConfigError(f"trace {self.id}: messages must end with the user's")
        for name, text in (("thinking", self.thinking), ("answer", self.answer)):
            if not text or text != text.strip():
                raise ConfigError(f"trace {self.id}: {name} is empty or has blanks around it")
            if any(tag in text for tag in TAGS):
                raise ConfigError(f"trace {self.id}: {name} holds {' or '.join(TAGS)}; expected neither")

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file."""
        row = {one.name: getattr(self, one.name) for one in fields(self)}
        return row | {"messages": [{"role": one.role, "content": one.content} for one in self.messages]}

    @property
    def question(self) -> str:
        """The last user message."""
        return self.messages[-1].content

    @property
    def pieces(self) -> tuple[str, str, str]:
        """Thinking, closing and answer, to be tokenized one by one."""
        return self.thinking + "\n", CLOSING, self.answer


class Drop(StrEnum):
    """Why a trace was left out."""

    NO_CLOSING = "no_closing"
    """The thinking never ends: it was cut where it was made."""
    NO_THINKING = "no_thinking"
    NO_ANSWER = "no_answer"
    TAGS = "tags_inside"
    """Thinking or answer holds an opening or closing of its own."""
    CONTAMINATED = "contaminated"
    DUPLICATE = "duplicate"
    TOO_LONG = "too_long"
    """Beyond the limit, or beyond what the model's context holds."""
    ROLES = "roles"
    """The model's chat template takes no conversation with such an order of roles."""
    CUT = "cut"
    """The teacher did not come to an end by itself."""
    WRONG = "wrong"
    CODE = "code"
    """The teacher wrote a program, and made up what it prints: nothing ran it."""
    UNSTATED = "unstated"
    """Right in the teacher's words, and no longer when said as `The final answer is X.`"""


def trace_or_drop(trace_id: str, thinking: str, answer: str | None, **fields: Any) -> TraceRow | Drop:
    """A trace, unless its texts make none; `answer` None says that thinking was never closed."""
    if answer is None:
        return Drop.NO_CLOSING
    if not thinking.strip():
        return Drop.NO_THINKING
    if not answer.strip():
        return Drop.NO_ANSWER
    if any(tag in text for text in (thinking, answer) for tag in TAGS):
        return Drop.TAGS
    return TraceRow(id=trace_id, thinking=thinking.strip(), answer=answer.strip(), **fields)


@dataclass(slots=True)
class LeftOut:
    """How many rows of a data set are left out, by reason.

    Attributes:
        counts: a `Drop`, or the field that is wrong, such as ``bad_messages``.
        num_rows: that went by, of whatever kind.
        num_broken: rows that are not of their format.
        first: what is wrong with the first of these.
    """

    counts: Counter[str] = field(default_factory=Counter)
    num_rows: int = 0
    num_broken: int = 0
    first: str | None = None

    def count(self, why: Drop | RowError) -> None:
        """Counts a row that is left out."""
        if isinstance(why, Drop):
            self.counts[why.value] += 1
            return
        self.counts[why.reason] += 1
        self.num_broken += 1
        self.first = self.first or str(why)

    def require_some_rows(self, name: str) -> None:
        """Refuses a data set that has no row of its format.

        Raises:
            ConfigError: what is wrong with the first row, or that there is none.
        """
        if self.num_rows == 0:
            raise no_rows(name)
        if self.first is not None and self.num_broken == self.num_rows:
            raise ConfigError(self.first)

    def notice(self, name: str) -> str:
        """What a person should know of a file whose rows are not all used."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.counts.items()))
        first = "" if self.first is None else f"; {self.first}"
        return f"rows of {name} that are left out: {reasons}{first}"


class Seen:
    """What has been seen, by hashes of 64 bits, in 16 to 32 bytes each.

    Two things that differ are taken for the same by chance: once in ten million sets of two million.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 << 10))
        self._num = 0

    def add(self, hashed: bytes) -> bool:
        """Takes the first 8 bytes of a hash; whether they are new."""
        if 2 * self._num >= len(self._slots):
            before = self._slots
            self._slots = array("Q", bytes(16 * len(before)))
            for number in before:
                if number:
                    self._put(number)
        is_new = self._put(int.from_bytes(hashed[:8], "little") or 1)
        self._num += is_new
        return is_new

    def _put(self, number: int) -> bool:
        slots = self._slots
        at = number % len(slots)  # a power of two, and the number is random
        while found := slots[at]:
            if found == number:
                return False
            at = (at + 1) % len(slots)
        slots[at] = number
        return True


class UniqueIds:
    """Keeps traces with one id apart: ``q17``, ``q17#2``, ``q17#3``."""

    def __init__(self) -> None:
        self._taken = Seen()
        self._times: Counter[str] = Counter()

    def of(self, trace_id: str) -> str:
        """The id, or one made of it that none before it has."""
        name = trace_id
        while not self._taken.add(_hashed(name)):
            self._times[trace_id] += 1
            name = f"{trace_id}#{self._times[trace_id] + 1}"
        return name


def _hashed(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """What a row came to.

    Attributes:
        hashed: of what must not come twice.
        id: the row's own.
        value: what is made of its trace, or why it is of no use.
    """

    hashed: bytes
    id: str
    value: T | Drop


class Sieve:
    """Lets every trace of a data set through once, under an id of its own, and counts what it holds back.

    Attributes:
        left_out: rows that it held back so far.
    """

    def __init__(self) -> None:
        self.left_out = LeftOut()
        self._seen, self._ids = Seen(), UniqueIds()

    def kept(self, rows: Iterable[Drop | RowError | Found[T]]) -> Iterator[tuple[str, T]]:
        """What is made of the traces that are kept, each with its id."""
        for row in rows:
            self.left_out.num_rows += 1
            if not isinstance(row, Found):
                self.left_out.count(row)
            elif not self._seen.add(row.hashed):
                self.left_out.count(Drop.DUPLICATE)
            elif isinstance(row.value, Drop):
                self.left_out.count(row.value)
            else:
                yield self._ids.of(row.id), row.value


@dataclass(frozen=True, slots=True)
class TraceFile:
    """The traces of a file, and how many of its rows are left out, by reason."""

    traces: tuple[TraceRow, ...]
    left_out: LeftOut


def read_traces(path: Path) -> TraceFile:
    """All traces of a file.

    A row that is not a trace, or is the same as an earlier one, is left out and counted. Traces with one id
    and different texts are kept apart by `UniqueIds`.

    Raises:
        ConfigError: no row is a trace; the message names file, line and field of the first.
    """
    stream, sieve = stream_files(path), Sieve()
    rows = (find_trace(row) for chunk in stream.chunks() for row in chunk.rows())
    traces = tuple(renamed(trace, name) for name, trace in sieve.kept(rows))
    sieve.left_out.require_some_rows(stream.name)
    return TraceFile(traces, sieve.left_out)


def find_trace(row: Row | RowError) -> Drop | RowError | Found[TraceRow]:
    """The trace of a row of our schema."""
    trace = unless_broken(trace_or_why, row)
    return Found(_hashed(repr(trace)), trace.id, trace) if isinstance(trace, TraceRow) else trace


def unless_broken(read: Callable[[Row], TraceRow | Drop], row: Row | RowError) -> TraceRow | Drop | RowError:
    """What a reader makes of a row; its error if the row is of another shape."""
    try:
        return row if isinstance(row, RowError) else read(row)
    except RowError as error:
        return error


def renamed(trace: TraceRow, name: str) -> TraceRow:
    """The trace under another id."""
    return trace if name == trace.id else replace(trace, id=name)


def trace_or_why(row: Row) -> TraceRow | Drop:
    """The trace of a row of our schema, or why there is none.

    Raises:
        RowError: the row is of another shape.
    """
    texts = [text_or_blank(row, name) for name in ("thinking", "answer")]
    if not all(text.strip() for text in texts) or any(tag in text for text in texts for tag in TAGS):
        return trace_or_drop(row_id(row), texts[0], texts[1])
    return trace_of(row)


def text_or_blank(row: Row, name: str) -> str:
    """A text that may be empty or null, or the first of a list of such.

    Raises:
        RowError: the field is missing, or something else.
    """
    if name not in row.values:
        row.fail(name, f"is missing; fields here: {', '.join(row.values)}")
    value = row.values[name]
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    if value is not None and not isinstance(value, str):
        row.fail(name, "is not a text; expected a text, or a list of one")
    return "" if value is None or not value.strip() else Row(row.source, row.number, {name: value}).text(name)


def trace_of(row: Row) -> TraceRow:
    """The trace that a row of our schema holds; id and source may be left out.

    Raises:
        ConfigError: it holds none; the message names file, line and field.
    """
    num_tokens = row.values.get("num_tokens")
    if num_tokens is not None and (isinstance(num_tokens, bool) or not isinstance(num_tokens, int)):
        row.fail("num_tokens", f"is {num_tokens!r}; expected a whole number")
    for name in ("thinking", "answer"):
        if any(tag in row.text(name) for tag in TAGS):
            row.fail(name, f"holds {' or '.join(TAGS)}; expected neither")
    messages = turns(row, "messages")
    if messages[-1].role != "user":
        row.fail("messages", "end with another's turn; expected the user's last")
    return TraceRow(
        id=row_id(row),
        messages=messages,
        thinking=row.text("thinking").strip(),
        answer=row.text("answer").strip(),
        source=row.text("source") if row.has("source") else row.source,
        num_tokens=num_tokens,
        reference=row.text("reference") if row.has("reference") else None,
    )


def row_id(row: Row) -> str:
    """The row's own id, or one from its number where it has none or null: ``train.jsonl-00017``.

    A whole number that a table with gaps holds as 17.0 is "17", and its gaps (NaN) are null.

    Raises:
        RowError: the id is neither a text nor a whole number.
    """
    value = row.values.get("id")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    is_gap = value is None or (isinstance(value, float) and math.isnan(value))
    return f"{row.source}-{row.number:05d}" if is_gap else id_of(row, "id")


def without_opening(text: str) -> str:
    """What a model said that may have opened its thinking itself."""
    return text.lstrip().removeprefix(OPENING.strip())


def write_traces(path: Path, traces: Iterable[TraceRow]) -> int:
    """Writes a file of traces as they come, whole or not at all; returns their number."""
    num_traces = 0
    with temporary_beside(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for trace in traces:
            file.write(json.dumps(trace.to_json(), ensure_ascii=False) + "\n")
            num_traces += 1
    return num_traces


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long traces are in one model's tokens."""

    seams: Seams
    template: ChatTemplate
    context_tokens: int

    @classmethod
    def of(cls, engine: Engine) -> Self:
        """For the vocabulary, template and training context of the engine's model."""
        info = engine.info
        return cls(Seams.of(portable_tokenize(engine)), info.template, info.train_context_tokens)

    def budgeted(self, trace: TraceRow) -> int:
        """What the trace spends of a budget: thinking with its line break, closing and answer."""
        return sum(len(self.seams.tokenize(piece)) for piece in trace.pieces)

    def fits(self, trace: TraceRow, num_tokens: int) -> bool:
        """Whether prompt, opening, a trace of so many tokens and the end of the turn fit in the context."""
        prompt = self.template.encode(trace.messages, self.seams.tokenize)
        return len(prompt) + len(self.seams.opening) + num_tokens + 1 <= self.context_tokens


def finish_traces(
    folder: Path, run: Mapping[str, Any], num_traces: int, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes the record of the traces that are in a folder, and returns it."""
    whole = {
        "format": FORMAT,
        "run": run,
        "traces": {"name": TRACES, "sha256": file_sha256(folder / TRACES), "rows": num_traces},
        **record,
    }
    return RunFolder(folder, "set of traces").write(whole)


def length_summary(lengths: Sequence[int]) -> dict[str, float] | None:
    """Mean and percentiles of token counts, for records; None of nothing."""
    if not lengths:
        return None
    p10, median, p90 = (float(value) for value in np.percentile(lengths, (10, 50, 90)))
    return {"mean": float(np.mean(lengths)), "p10": p10, "median": median, "p90": p90, "max": max(lengths)}

"""Reasoning traces: one schema, whether they were read somewhere or made here.

::

    {"id": …, "messages": [{"role": "user", "content": …}], "thinking": "… is 84.",
     "answer": "The final answer is 84.", "source": …, "num_tokens": 212, "reference": "84"}

A trace holds texts. Whoever needs ids tokenizes its `pieces` one by one, as all seams are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from edgereason.core.bundle import file_sha256, write_atomically
from edgereason.core.chat import CLOSING, CLOSING_TAG, OPENING, ChatTemplate, Seams
from edgereason.core.types import Message
from edgereason.data.questions import id_of, turns
from edgereason.data.rows import Row, read_file
from edgereason.engine.base import Engine
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


def read_traces(path: Path) -> tuple[TraceRow, ...]:
    """All traces of a file.

    Raises:
        ConfigError: a row is not a trace, or two have one id; the message names file, line and field.
    """
    places: dict[str, str] = {}
    traces = []
    for row in read_file(path).rows:
        trace = trace_of(row)
        if trace.id in places:
            row.fail("id", f"is {trace.id!r}, as at {places[trace.id]}; expected unique ids")
        places[trace.id] = row.place
        traces.append(trace)
    return tuple(traces)


def trace_of(row: Row) -> TraceRow:
    """The trace that a row of our schema holds; id and source may be left out.

    Raises:
        ConfigError: it holds none; the message names file, line and field.
    """
    num_tokens = row.values.get("num_tokens")
    if num_tokens is not None and (isinstance(num_tokens, bool) or not isinstance(num_tokens, int)):
        row.fail("num_tokens", f"is {num_tokens!r}; expected a whole number")
    for field in ("thinking", "answer"):
        if any(tag in row.text(field) for tag in TAGS):
            row.fail(field, f"holds {' or '.join(TAGS)}; expected neither")
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
    """The row's own id, or one from its number: ``train.jsonl-00017``.

    Raises:
        ConfigError: the id is neither a text nor a whole number.
    """
    return id_of(row, "id") if "id" in row.values else f"{row.source}-{row.number:05d}"


def without_opening(text: str) -> str:
    """What a model said that may have opened its thinking itself."""
    return text.lstrip().removeprefix(OPENING.strip())


def write_traces(path: Path, traces: Iterable[TraceRow]) -> None:
    """Writes a file of traces, whole or not at all."""
    write_atomically(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in traces))


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
        return cls(Seams.of(engine.tokenize), info.template, info.train_context_tokens)

    def budgeted(self, trace: TraceRow) -> int:
        """What the trace spends of a budget: thinking with its line break, closing and answer."""
        return sum(len(self.seams.tokenize(piece)) for piece in trace.pieces)

    def fits(self, trace: TraceRow, num_tokens: int) -> bool:
        """Whether prompt, opening, a trace of so many tokens and the end of the turn fit in the context."""
        prompt = self.template.encode(trace.messages, self.seams.tokenize)
        return len(prompt) + len(self.seams.opening) + num_tokens + 1 <= self.context_tokens


def finish_traces(
    folder: Path, run: Mapping[str, Any], traces: Sequence[TraceRow], record: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes the traces and then the record, which says what they are; returns the record."""
    write_traces(folder / TRACES, traces)
    whole = {
        "format": FORMAT,
        "run": run,
        "traces": {"name": TRACES, "sha256": file_sha256(folder / TRACES), "rows": len(traces)},
        **record,
    }
    return RunFolder(folder, "set of traces").write(whole)


def length_summary(lengths: Sequence[int]) -> dict[str, float] | None:
    """Mean and percentiles of token counts, for records; None of nothing."""
    if not lengths:
        return None
    p10, median, p90 = (float(value) for value in np.percentile(lengths, (10, 50, 90)))
    return {"mean": float(np.mean(lengths)), "p10": p10, "median": median, "p90": p90, "max": max(lengths)}

r"""What others have: traces in their own formats, from files or from the hub.

::

    openthoughts3  {conversations: [{from: human, value}, {from: gpt, value: "<think>…</think>…"}]}  ─┐
    s1k            {question, thinking_trajectories or deepseek_thinking_trajectory, attempt}        ─┼→ trace
    worked         {question, answer, solution}, or GSM8K's {question, answer: "… #### 72"}          ─┤
    plain          our own schema                                                                    ─┘

A row of another shape, or whose trace is of no use because it has no answer or does not fit, is left out
whole and counted by reason; nothing is ever cut. If no row is of the format, the first one's error is raised:
it names file, line and field.

Source: fields of open-thoughts/OpenThoughts3-1.2M, simplescaling/s1K and s1K-1.1, openai/gsm8k.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from edgereason.core.answers import extract
from edgereason.core.chat import split_thinking
from edgereason.data.questions import Role, turns
from edgereason.data.rows import Row, Rows, read_file, read_hub
from edgereason.reasoning.model import Model
from edgereason.records.context import RunContext
from edgereason.records.folder import RunFolder, model_entry, source_entry
from edgereason.train.data.decontaminate import Evaluations, normalised
from edgereason.train.data.questions import answered
from edgereason.train.data.solutions import solution_trace
from edgereason.train.data.traces import (
    FORMAT,
    Drop,
    LeftOut,
    Lengths,
    TraceRow,
    UniqueIds,
    finish_traces,
    length_summary,
    row_id,
    text_or_blank,
    trace_or_drop,
    trace_or_why,
    without_opening,
)

_SHORT_SOLUTION_CHARS: Final = 40
_CALCULATOR: Final = re.compile(r"<<[^<>]*>>")
"""What GSM8K's solutions say to a calculator: ``48/2=<<48/2=24>>24``."""
_SPEAKERS: Final[Mapping[str, Role]] = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
}  # fmt: skip
_S1K: Final = (
    ("deepseek_thinking_trajectory", "deepseek_attempt"),
    ("thinking_trajectories", "attempt"),
    ("gemini_thinking_trajectory", "gemini_attempt"),
)
"""Fields of thinking and answer: of s1K-1.1, of s1K, and of s1K-1.1's other teacher."""


Reader = Callable[[Row], TraceRow | Drop]
"""The trace of a row, or why there is none; a row of another shape raises."""


def openthoughts3(row: Row) -> TraceRow | Drop:
    """The last turn of the conversation, which holds thinking and answer in one text."""
    *before, last = turns(row, "conversations", role="from", content="value", roles=_SPEAKERS)
    if last.role != "assistant" or not before or before[-1].role != "user":
        row.fail("conversations", "do not end with a question and its answer; expected human, then gpt")
    thinking, answer = split_thinking(without_opening(last.content))
    return trace_or_drop(row_id(row), thinking, answer, messages=tuple(before), source=row.source)


def s1k(row: Row) -> TraceRow | Drop:
    """A question with a teacher's thinking and attempt in fields of their own."""
    fields = next((pair for pair in _S1K if pair[0] in row.values), None)
    if fields is None:
        row.fail(_S1K[0][0], f"is missing, and so is {_S1K[1][0]}; expected either")
    thinking, answer = (text_or_blank(row, field) for field in fields)
    asked = Row(row.source, row.number, {"messages": [{"role": "user", "content": row.text("question")}]})
    return trace_or_drop(
        row_id(row),
        thinking,
        answer,
        messages=turns(asked, "messages"),
        source=row.source,
        reference=_short_solution(row),
    )


def worked(row: Row) -> TraceRow | Drop:
    """A question with the solution that a person wrote, as in GSM8K and MATH: terse thinking."""
    question = answered(row)
    if question is None:
        return Drop.NO_ANSWER
    solution = row.text("solution") if row.has("solution") else row.text("answer")
    trace = solution_trace(question, 0, _CALCULATOR.sub("", solution))
    return replace(trace, id=f"{question.id}/worked") if isinstance(trace, TraceRow) else trace


READERS: Final[Mapping[str, Reader]] = {
    "openthoughts3": openthoughts3,
    "s1k": s1k,
    "worked": worked,
    "plain": trace_or_why,
}


def _short_solution(row: Row) -> str | None:
    """The right answer, where the solution is one or boxes one; a proof has none."""
    solution = text_or_blank(row, "solution").strip() if "solution" in row.values else ""
    if not solution or (len(solution) > _SHORT_SOLUTION_CHARS and r"\boxed" not in solution):
        return None
    answer = extract(solution)
    return None if answer is None else answer.text


def find_rows(source: str, limit: int | None = None) -> Rows:
    """A local file, or the training split of a data set of the hub.

    Args:
        source: a path, or a name such as ``simplescaling/s1K-1.1``.
        limit: only the first so many rows.

    Raises:
        ConfigError: there is neither, or it can't be read.
    """
    path = Path(source)
    is_name = re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not path.suffix.endswith(
        ("jsonl", "gz", "parquet")
    )
    if path.is_file() or not is_name:
        rows = read_file(path)
        return replace(rows, rows=rows.rows[:limit])
    return read_hub(source, split="train" if limit is None else f"train[:{limit}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a data set came to.

    Attributes:
        traces: kept, in the source's order, their tokens counted.
        num_rows: that were read.
        dropped: how many were left out, by reason.
    """

    traces: tuple[TraceRow, ...]
    num_rows: int
    dropped: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {
            "rows": self.num_rows,
            "traces": len(self.traces),
            **dict(sorted(self.dropped.items())),
            "share_contaminated": self.dropped.get(Drop.CONTAMINATED, 0) / self.num_rows,
            "tokens": length_summary([trace.num_tokens or 0 for trace in self.traces]),
        }


def read_into(
    folder: Path,
    rows: Rows,
    format_name: str,
    *,
    against: Evaluations,
    model: Model,
    max_tokens: int | None = None,
    context: RunContext = RunContext(),
) -> dict[str, Any] | None:
    """Reads a data set into a folder of traces; see `read_source`.

    Args:
        format_name: one of `READERS`.
        model: its vocabulary counts, its context is the limit.
        context: stopped, it has written nothing but its claim to the folder.

    Returns:
        The record; None if it was stopped, with nothing written but a claim to the folder.

    Raises:
        ConfigError: the folder holds something else, or no row is of the format.
    """
    counter = model_entry(model.info)
    run = {
        "from": rows.sha256 or rows.revision or rows.name,
        "format": format_name,
        "counted_by": counter["sha256"] or counter["name"],
    }
    RunFolder(folder, "set of traces").claim_record(FORMAT, run)
    reading = read_source(
        rows,
        READERS[format_name],
        against=against,
        lengths=Lengths.of(model.engine),
        max_tokens=max_tokens,
        context=context,
    )
    if reading is None:
        return None
    record = {
        "way": "read",
        "model": counter,
        "config": {"format": format_name, "max_tokens": max_tokens},
        "from": source_entry(rows),
        "against": list(against.files),
        "yield": {rows.name: reading.to_json()},
        **context.about(),
    }
    return finish_traces(folder, run, reading.traces, record)


def read_source(
    rows: Rows,
    reader: Reader,
    *,
    against: Evaluations,
    lengths: Lengths,
    max_tokens: int | None = None,
    context: RunContext = RunContext(),
) -> Reading | None:
    """Every trace of a data set that is of use; None if it was stopped.

    Args:
        rows: the data set.
        reader: of its format.
        against: evaluations; what they ask is left out.
        lengths: counts tokens.
        max_tokens: longest trace, as the budget counts; the model's context is a limit anyway.
        context: asked before every row whether to stop, told after it.

    Raises:
        ConfigError: no row is of the format; the message names file, line and field of the first.
    """
    traces: list[TraceRow] = []
    left_out, ids = LeftOut(), UniqueIds()
    seen: set[bytes] = set()
    for done, row in enumerate(rows.rows, 1):
        if context.should_stop():
            return None
        trace = left_out.unless_broken(reader, row)
        if isinstance(trace, TraceRow):
            trace = _useful(trace, against, lengths, max_tokens, seen)
        if isinstance(trace, TraceRow):
            traces.append(ids.renamed(trace))
        else:
            left_out.count(trace)
        context.progress("rows", done, len(rows.rows))
    left_out.require_some_rows(len(rows.rows))
    if left_out.num_broken:
        context.notice(left_out.notice(rows.name))
    return Reading(traces=tuple(traces), num_rows=len(rows.rows), dropped=left_out.counts)


def _useful(
    trace: TraceRow, against: Evaluations, lengths: Lengths, max_tokens: int | None, seen: set[bytes]
) -> TraceRow | Drop:
    if any(against.know(message.content) for message in trace.messages if message.role == "user"):
        return Drop.CONTAMINATED
    said = hashlib.sha256(f"{normalised(trace.question)}\n{normalised(trace.thinking)}".encode()).digest()
    if said in seen:
        return Drop.DUPLICATE
    seen.add(said)
    num_tokens = lengths.budgeted(trace)
    if (max_tokens is not None and num_tokens > max_tokens) or not lengths.fits(trace, num_tokens):
        return Drop.TOO_LONG
    return replace(trace, num_tokens=num_tokens)

r"""What others have: traces in their own formats, from files or from the hub.

::

    openthoughts3, sharegpt      {conversations: [{from: human, value}, {from: gpt, value}]}         ─┐
    mixture-of-thoughts, trl     {messages: [{role, content}, …]}, {prompt, completion}, {text}      ─┤
    s1k              {question, thinking_trajectories or deepseek_thinking_trajectory, attempt}      ─┼→ trace
    worked, deepscaler   {question, answer, solution}, or GSM8K's {question, answer: "… #### 72"}    ─┤
    plain            our own schema                                                                  ─┘

In a conversation, the last turn is the trace: "<think>…</think>…", or its thinking in a field of its own. A
row of another shape, or whose trace is of no use because it has no answer or does not fit, is left out whole
and counted by reason; nothing is ever cut. If no row is of the format, the first one's error is raised: it
names file, line and field.

Rows are read, compared with evaluations and counted in tokens by several processes, a chunk at a time.

Source: fields of open-thoughts/OpenThoughts3-1.2M, open-r1/Mixture-of-Thoughts, simplescaling/s1K and
s1K-1.1, agentica-org/DeepScaleR-Preview-Dataset, openai/gsm8k; TRL's documentation, "Dataset formats".
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from edgereason.core.answers import extract
from edgereason.core.chat import OPENING, split_thinking
from edgereason.core.types import Message
from edgereason.data.questions import Role, turns
from edgereason.data.rows import Chunk, Row, RowError, RowStream, stream_files, stream_hub
from edgereason.errors import RequestError
from edgereason.reasoning.model import Model
from edgereason.records.context import RunContext
from edgereason.records.folder import RunFolder, data_entry, model_entry
from edgereason.train.data.decontaminate import Evaluations, normalised
from edgereason.train.data.parallel import Stopped, each_row
from edgereason.train.data.questions import answered
from edgereason.train.data.solutions import solution_trace
from edgereason.train.data.traces import (
    FORMAT,
    TRACES,
    Drop,
    Found,
    Lengths,
    Sieve,
    TraceRow,
    finish_traces,
    length_summary,
    renamed,
    row_id,
    text_or_blank,
    trace_or_drop,
    trace_or_why,
    unless_broken,
    without_opening,
    write_traces,
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


_THINKING: Final = ("reasoning_content", "thinking", "reasoning")
"""What chat templates of reasoning models call the thinking of a turn."""
_RENDERED: Final = re.compile(r"<\|[\w ]+\|>|\[INST\]|<start_of_turn>|<s>")
"""Control tokens of chat templates."""

Reader = Callable[[Row], TraceRow | Drop]
"""The trace of a row, or why there is none; a row of another shape raises."""


def conversation(row: Row) -> TraceRow | Drop:
    """The last turn of a conversation, which holds thinking and answer."""
    field, said = _turns_of(row)
    *before, last = said
    if last.role != "assistant" or not before or before[-1].role != "user":
        row.fail(field, "do not end with a question and its answer; expected a user, then an assistant")
    if (thinking := _apart(row, field)) is None:
        thinking, answer = split_thinking(without_opening(last.content))
    else:
        answer = last.content
    return trace_or_drop(row_id(row), thinking, answer, messages=tuple(before), source=row.source)


def _turns_of(row: Row) -> tuple[str, tuple[Message, ...]]:
    """The turns of a conversation in whatever fields it is, and the name of the field for messages."""
    if "conversations" not in row.values:
        if "messages" in row.values:
            return "messages", turns(row, "messages", roles=_SPEAKERS)
        if "completion" in row.values:
            return "completion", _prompt_of(row) + _completion_of(row)
        if "text" in row.values:
            return "text", _turns_of_text(row)
    keys = {"role": "from", "content": "value"} if _is_from_value(row) else {}
    system = (Message("system", row.text("system")),) if row.has("system") else ()
    return "conversations", system + turns(row, "conversations", roles=_SPEAKERS, **keys)


def _is_from_value(row: Row) -> bool:
    found = row.values.get("conversations")
    first = found[0] if isinstance(found, list | tuple) and found else None
    return not (isinstance(first, Mapping) and "role" in first)


def _prompt_of(row: Row) -> tuple[Message, ...]:
    value = row.value("prompt")
    return (
        (Message("user", row.text("prompt")),)
        if isinstance(value, str)
        else turns(row, "prompt", roles=_SPEAKERS)
    )


def _completion_of(row: Row) -> tuple[Message, ...]:
    if isinstance(row.value("completion"), str):
        return (Message("assistant", row.text("completion")),)
    return turns(row, "completion", roles=_SPEAKERS)


def _turns_of_text(row: Row) -> tuple[Message, ...]:
    """Of a text, what is asked stands before the opening. One that a template has rendered is broken."""
    question, opening, said = row.text("text").partition(OPENING.strip())
    if not opening or not question.strip():
        row.fail("text", f"has no question before {OPENING.strip()}; expected a question and its thinking")
    if _RENDERED.search(question):
        row.fail("text", "is rendered by a chat template; expected messages, or prompt and completion")
    return Message("user", question.strip()), Message("assistant", said or opening)


def _apart(row: Row, field: str) -> str | None:
    """The thinking of the last turn, where it stands in a field of its own."""
    found = row.values[field]
    last = found[-1] if isinstance(found, list | tuple) else {}
    name = next((name for name in _THINKING if last.get(name)), None)
    return None if name is None else Row(row.source, row.number, {name: last[name]}).text(name)


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
    "openthoughts3": conversation,
    "mixture-of-thoughts": conversation,
    "sharegpt": conversation,
    "trl": conversation,
    "s1k": s1k,
    "deepscaler": worked,
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


def find_rows(source: str, limit: int | None = None) -> RowStream:
    """A local file or a folder of files, or the training split of a data set of the hub.

    Args:
        source: a path, or a name such as ``simplescaling/s1K-1.1`` or ``open-r1/Mixture-of-Thoughts:all``,
            with its subset.
        limit: only the first so many rows.

    Raises:
        ConfigError: there is neither, or it can't be read.
    """
    path = Path(source)
    name = re.fullmatch(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?", source)
    if path.exists() or not name or path.suffix.endswith(("jsonl", "gz", "parquet")):
        return stream_files(path).first(limit)
    return stream_hub(name[1], config=name[2], split="train").first(limit)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is done with each chunk, here or in another process.

    Attributes:
        reader: of the format, by its name.
        against: evaluations; what they ask is left out.
        lengths: counts tokens.
        max_tokens: longest trace, as the budget counts; the model's context is a limit anyway.
    """

    reader: str
    against: Evaluations
    lengths: Lengths
    max_tokens: int | None

    def __call__(self, chunk: Chunk) -> list[Drop | RowError | Found[TraceRow]]:
        return [self._found(unless_broken(READERS[self.reader], row)) for row in chunk.rows()]

    def _found(self, trace: TraceRow | Drop | RowError) -> Drop | RowError | Found[TraceRow]:
        if not isinstance(trace, TraceRow):
            return trace
        if any(self.against.know(message.content) for message in trace.messages if message.role == "user"):
            return Drop.CONTAMINATED
        said = f"{normalised(trace.question)}\n{normalised(trace.thinking)}"
        return Found(hashlib.sha256(said.encode()).digest()[:8], trace.id, self._counted(trace))

    def _counted(self, trace: TraceRow) -> TraceRow | Drop:
        num_tokens = self.lengths.budgeted(trace)
        try:
            fits = self.lengths.fits(trace, num_tokens)
        except RequestError:
            return Drop.ROLES
        if not fits or (self.max_tokens is not None and num_tokens > self.max_tokens):
            return Drop.TOO_LONG
        return replace(trace, num_tokens=num_tokens)


def read_into(
    folder: Path,
    rows: RowStream,
    format_name: str,
    *,
    against: Evaluations,
    model: Model,
    max_tokens: int | None = None,
    context: RunContext = RunContext(),
) -> dict[str, Any] | None:
    """Reads every trace of a data set that is of use into a folder of traces.

    Args:
        folder: of traces and record; made if it is not there.
        rows: the data set.
        format_name: one of `READERS`.
        against: evaluations; what they ask is left out.
        model: its vocabulary counts, its context is the limit.
        max_tokens: longest trace, as the budget counts.
        context: asked after every chunk whether to stop, told how far it is.

    Returns:
        The record; None if it was stopped, with nothing written but a claim to the folder.

    Raises:
        ConfigError: the folder holds something else, the source breaks off, or no row is of the format; then
            the message names file, line and field of the first.
    """
    counter = model_entry(model.info)
    run = {
        "from": rows.sha256 or rows.revision or rows.name,
        "format": format_name,
        "counted_by": counter["sha256"] or counter["name"],
    }
    RunFolder(folder, "set of traces").claim_record(FORMAT, run)
    work = _Reading(format_name, against, Lengths.of(model.engine), max_tokens)
    sieve = Sieve()
    lengths = array("I")

    def kept() -> Iterator[TraceRow]:
        for name, trace in sieve.kept(each_row(work, rows, context)):
            lengths.append(trace.num_tokens or 0)
            yield renamed(trace, name)
        sieve.left_out.require_some_rows(rows.name)

    try:
        num_traces = write_traces(folder / TRACES, kept())
    except Stopped:
        return None
    left_out = sieve.left_out
    if left_out.num_broken:
        context.notice(left_out.notice(rows.name))
    counts = left_out.counts
    came_to = {
        "rows": left_out.num_rows,
        "traces": num_traces,
        **dict(sorted(counts.items())),
        "share_contaminated": counts[Drop.CONTAMINATED] / left_out.num_rows,
        "tokens": length_summary(lengths),
    }
    record = {
        "way": "read",
        "model": counter,
        "config": {"format": format_name, "max_tokens": max_tokens},
        "from": data_entry(rows.name, rows.sha256, rows.revision) | {"rows": left_out.num_rows},
        "against": list(against.files),
        "yield": {rows.name: came_to},
        **context.about(),
    }
    return finish_traces(folder, run, num_traces, record)

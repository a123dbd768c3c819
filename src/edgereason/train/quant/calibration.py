"""Calibration text as token ids: plain texts as they stand, conversations as the model has them.

    book.txt, rows with a `text`             → the ids of the text
    rows with `question` and `solution`      → the model's own chat template around both
    rows with `messages`                     → the same, around all of them

Tokenized by the engine that will run the model. Knows files and templates; does not know training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgereason.core.types import Message, Stop
from edgereason.data.questions import turns
from edgereason.data.rows import Row, Rows, read_file, read_text
from edgereason.engine.base import Engine


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """The ids of one file, and which file it is: its name, not its path."""

    name: str
    sha256: str
    ids: npt.NDArray[np.int64]


def read_calibration(engine: Engine, paths: Sequence[Path]) -> list[CalibrationText]:
    """Each file's ids, one text or conversation behind the other.

    Raises:
        ConfigError: a file can't be read, or a row has neither a text nor a question with a solution.
    """
    return [_read(engine, path) for path in paths]


def _read(engine: Engine, path: Path) -> CalibrationText:
    if path.suffix in (".raw", ".txt"):
        text = read_text(path)
        return CalibrationText(text.name, text.sha256, np.array(engine.tokenize(text.text), np.int64))
    rows = read_file(path)
    assert rows.sha256 is not None
    return CalibrationText(rows.name, rows.sha256, np.concatenate(list(_ids(engine, rows))))


def _ids(engine: Engine, rows: Rows) -> Iterator[npt.NDArray[np.int64]]:
    template = engine.info.template
    end = engine.tokenize(engine.info.eos_text, special=True)
    for row in rows.rows:
        if row.has("text"):
            yield np.array(engine.tokenize(row.text("text")), np.int64)
            continue
        asked, said = _conversation(row)
        # An answer that was cut does not end its turn.
        ending = [] if row.values.get("stop") == Stop.LENGTH else end
        ids = [*template.encode(asked, engine.tokenize), *engine.tokenize(said), *ending]
        yield np.array(ids, np.int64)


def _conversation(row: Row) -> tuple[list[Message], str]:
    """What was asked, and what was said to it last."""
    if not row.has("messages"):
        return [Message(role="user", content=row.text("question"))], row.text("solution")
    *asked, last = turns(row, "messages")
    if last.role != "assistant" or not asked:
        row.fail("messages", "expected to end with what an assistant said to something")
    return asked, last.content

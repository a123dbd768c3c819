"""The folder that traces are made in: samples on their way, traces, and the record of both.

::

    FOLDER/
      record.json     what traces depend on, from the start; in the end also what they came to
      samples.jsonl   all that a teacher said (of traces that are made, not read)
      traces.jsonl    one trace a line; there once all is done

A folder holds one run: another model or other settings are refused, naming what differs. Samples are a
journal (`records/journal.py`). Records hold names and hashes, no local paths. Knows files; does not know how
samples come about, nor which of them become traces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from edgereason.core.bundle import file_sha256, write_atomically
from edgereason.core.types import Stop
from edgereason.data.rows import Rows
from edgereason.engine.base import Engine
from edgereason.errors import ConfigError
from edgereason.records.lock import is_vacant
from edgereason.train.data.traces import TraceRow, write_traces

TRACES: Final = "traces.jsonl"
RECORD: Final = "record.json"
FORMAT: Final = "edgereason-traces"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One solution.

    Attributes:
        id: of the question; `number` tells its samples apart, from 0.
        question_sha256: of the question's text and right answer.
        text: all that the teacher said.
        num_tokens: that it spent, in its own vocabulary.
    """

    id: str
    number: int
    question_sha256: str
    seed: int
    text: str
    num_tokens: int
    stop: Stop

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the row in its run."""
        return self.id, self.number

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """The row that was written."""
        return cls(**row | {"stop": Stop(row["stop"])})


def claim_folder(folder: Path, run: Mapping[str, Any], form: str = FORMAT) -> None:
    """Makes the folder of a run, or finds that it is this run's already.

    Args:
        folder: of the run.
        run: what its rows depend on; stays in the record under "run".
        form: that the record names; a folder of another form holds something else.

    Raises:
        ConfigError: the folder holds another run or something else, or can't be written.
    """
    path = folder / RECORD
    try:
        if path.is_file():
            found = json.loads(path.read_text("utf-8"))
            if not isinstance(found, dict) or found.get("format") != form:
                raise ConfigError(f"{folder} holds something else: choose a new folder (--output)")
            before = found.get("run", {})
            different = [
                f"{key}: {before.get(key)!r} there, {run.get(key)!r} now"
                for key in sorted({*before, *run})
                if before.get(key) != run.get(key)
            ]
            if different:
                raise ConfigError(
                    f"{folder} holds other traces ({'; '.join(different)}): choose a new folder (--output), "
                    "or repeat its settings to go on with it"
                )
            return
        if not is_vacant(folder, RECORD):
            raise ConfigError(f"{folder} holds something else: choose a new folder (--output)")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"format": form, "run": run}, indent=2) + "\n")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} can't be used: {error}") from error


def finish_folder(
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
    write_atomically(folder / RECORD, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    return whole


def source_entry(rows: Rows) -> dict[str, Any]:
    """What a record says of a data set."""
    return {"name": rows.name, "sha256": rows.sha256, "revision": rows.revision, "rows": len(rows.rows)}


def model_entry(engine: Engine) -> dict[str, Any]:
    """What a record says of a model."""
    path = engine.info.path
    return {
        "name": path.name if path else engine.info.name,
        "sha256": file_sha256(path) if path else None,
    }


def length_summary(lengths: Sequence[int]) -> dict[str, float] | None:
    """Mean and percentiles of token counts, for records; None of nothing."""
    if not lengths:
        return None
    p10, median, p90 = (float(value) for value in np.percentile(lengths, (10, 50, 90)))
    return {"mean": float(np.mean(lengths)), "p10": p10, "median": median, "p90": p90, "max": max(lengths)}

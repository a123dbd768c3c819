"""The folder that traces are made in: samples on their way, traces, and the record of both.

::

    FOLDER/
      record.json     what traces depend on, from the start; in the end also what they came to
      samples.jsonl   all that a teacher said (of traces that are made, not read)
      traces.jsonl    one trace a line; there once all is done

A folder holds one run: another model or other settings are refused, naming what differs. Samples are appended
in whole lines, each handed to the operating system at once; a last line that a kill left unfinished is cut
off when the folder is opened again. Records hold names and hashes, no local paths.
Knows files; does not know how samples come about, nor which of them become traces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self, TextIO

import numpy as np
from filelock import FileLock, Timeout

from edgereason.core.bundle import file_sha256, write_atomically
from edgereason.core.types import Stop
from edgereason.engine.base import Engine
from edgereason.errors import ConfigError
from edgereason.hub.rows import Rows
from edgereason.train.traces import TraceRow, write_traces

TRACES: Final = "traces.jsonl"
RECORD: Final = "record.json"
FORMAT: Final = "edgereason-traces"
SAMPLES: Final = "samples.jsonl"


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

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """The row that was written."""
        return cls(**row | {"stop": Stop(row["stop"])})


class SampleJournal:
    """The samples of a run that goes on; a context manager.

    Args:
        folder: of the run; exists.

    Attributes:
        found: rows that were there.

    Raises:
        ConfigError: a row that is there can't be read, or another process writes to the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / SAMPLES
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(f"another process makes traces in {folder}: wait for it") from error
        self._file: TextIO | None = None
        try:
            self.found = self._read()
        except BaseException:
            self.close()
            raise

    def append(self, rows: Iterable[SampleRow]) -> None:
        """Writes rows."""
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))
        self._file.flush()

    def close(self) -> None:
        """Closes the file; what was appended stays."""
        if self._file is not None:
            self._file.close()
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read(self) -> tuple[SampleRow, ...]:
        if not self._path.is_file():
            return ()
        with self._path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
        rows = []
        # Not splitlines, which also breaks at characters that a JSON string may hold as they are (U+2028).
        *lines, _ = self._path.read_text("utf-8").split("\n")
        for number, line in enumerate(lines, 1):
            try:
                rows.append(SampleRow.from_json(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ConfigError(
                    f"{SAMPLES}, line {number} is no sample of this version ({error}): "
                    "remove the line, or choose a new folder"
                ) from error
        return tuple(rows)


def claim_folder(folder: Path, run: Mapping[str, Any]) -> None:
    """Makes the folder of a run, or finds that it is this run's already.

    Args:
        folder: of the run.
        run: what its rows depend on; stays in the record under "run".

    Raises:
        ConfigError: the folder holds another run or something else, or can't be written.
    """
    path = folder / RECORD
    try:
        if path.is_file():
            found = json.loads(path.read_text("utf-8"))
            before = found.get("run", {}) if isinstance(found, dict) else {}
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
        # A kill may have left a temporary file of ours.
        if folder.is_dir() and any(not entry.name.startswith(f".{RECORD}.") for entry in folder.iterdir()):
            raise ConfigError(f"{folder} holds something else: choose a new folder (--output)")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"format": FORMAT, "run": run}, indent=2) + "\n")
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

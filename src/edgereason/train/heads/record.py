"""What the training of a head leaves in its folder: states, a file of heads, and a record of their worth.

::

    FOLDER/
      samples.jsonl, states.f32    what was learned from: rows, and a float32 state for each
      heads.safetensors            the head
      record.json                  data, splits, reliability

Reliability is judged on the weights as the file has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Generic

import numpy as np

from edgereason.core.closing import Closing
from edgereason.errors import ConfigError
from edgereason.heads.base import Array
from edgereason.heads.file import Heads, read_heads, write_heads
from edgereason.heads.reliability import summary
from edgereason.reasoning.model import Model
from edgereason.records.folder import RunFolder, file_entry, model_entry
from edgereason.records.journal import Journal, R
from edgereason.train.data.decontaminate import Evaluations
from edgereason.train.heads.linear import Calibration, Labels

STATES: Final = "states.f32"

_FLOAT: Final = np.dtype("<f4")


class StateJournal(Closing, Generic[R]):
    """Rows and their states, of a run that goes on; a context manager.

    Args:
        folder: of the run; exists.
        kind: of the rows.
        hidden_size: of the states.

    Attributes:
        rows: all that there are, in the order of their states.

    Raises:
        ConfigError: what is there can't be read, or another process writes to the folder.
    """

    def __init__(self, folder: Path, kind: type[R], hidden_size: int) -> None:
        self._path = folder / STATES
        self._hidden_size = hidden_size
        self._journal = Journal(folder, kind)
        self._file: BinaryIO | None = None
        self.rows: list[R] = list(self._journal.found)
        try:
            self._file = self._path.open("ab")
            expected_bytes = len(self.rows) * hidden_size * _FLOAT.itemsize
            if self._file.tell() < expected_bytes:
                raise ConfigError(
                    f"{folder.name}/{STATES} has {self._file.tell()} bytes, its rows need {expected_bytes}: "
                    "begin again in a new folder (--output)"
                )
            self._file.truncate(expected_bytes)
        except OSError as error:
            self.close()
            raise ConfigError(f"{folder.name}/{STATES} can't be written: {error.strerror}") from error
        except ConfigError:
            self.close()
            raise

    def append(self, rows: Sequence[R], states: Array) -> None:
        """Adds rows with their states, (n, H)."""
        assert self._file is not None
        assert states.shape == (len(rows), self._hidden_size)
        self._file.write(np.ascontiguousarray(states, _FLOAT).tobytes())
        self._file.flush()
        self._journal.append(*rows)
        self.rows += rows

    def states(self) -> Array:
        """All states, (N, H), in the order of `rows`."""
        return np.fromfile(self._path, _FLOAT).reshape(-1, self._hidden_size).astype(np.float32)

    def close(self) -> None:
        """Closes the files; what was appended stays."""
        if self._file is not None:
            self._file.close()
        self._journal.close()


def base_sha256(model: Model) -> str:
    """What heads call the base that they were trained on: the hash of its file, or a fake engine's name."""
    entry = model_entry(model.info)
    return str(entry["sha256"] or entry["name"])


FORMAT: Final = "edgereason-head"
HEADS: Final = "heads.safetensors"


def store(folder: Path, heads: Heads) -> Heads:
    """Writes the head of a folder, and returns it as it reads back."""
    write_heads(folder / HEADS, heads)
    return read_heads(folder / HEADS)


def judge(p: Array, labels: Labels, sources: Sequence[str]) -> dict[str, Any]:
    """Reliability of probabilities, for the record, and how they go by source."""
    of_source = {name: np.array([source == name for source in sources]) for name in sorted(set(sources))}
    by_source = {
        name: {
            "n": int(rows.sum()),
            "share_true": float(labels[rows].mean()),
            "mean_p": float(p[rows].mean()),
        }
        for name, rows in of_source.items()
    }
    return summary(p, labels) | {"by_source": by_source}


def calibration_entry(calibration: Calibration) -> dict[str, Any]:
    """What a record says of a calibration."""
    return {**calibration._asdict(), "is_used": calibration.keeps_order}


def finish(folder: Path, run: Mapping[str, Any], heads: Heads, record: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the record of a folder that has its head; returns it as it reads back."""
    path = folder / HEADS
    whole = {
        "format": FORMAT,
        "run": run,
        "heads": {
            **file_entry(path),
            "storage": str(heads.storage),
            "base_sha256": heads.base_sha256,
            "adapter_sha256": heads.adapter_sha256,
            "buckets": heads.buckets,
        },
        **record,
    }
    return RunFolder(folder, "head").write(whole)


def require_names(entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuses two files of one name, which a record could not tell apart.

    Raises:
        ConfigError: there are such.
    """
    name, times = Counter(entry["name"] for entry in entries).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"{times} files are called {name}: give every file once, under its own name")


def both(one: Evaluations, other: Evaluations) -> Evaluations:
    """What either asks."""
    return Evaluations(one.files + other.files, one.ngrams | other.ngrams, one.short | other.short)

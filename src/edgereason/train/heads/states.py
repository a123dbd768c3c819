"""Rows of a run with a hidden state each: what heads are trained on.

::

    FOLDER/
      record.json      what the states depend on, from the start; in the end also what they came to
      samples.jsonl    a row a state
      states.f32       the states, (N, H) little-endian float32: row i belongs to line i

States are written before their rows: a kill leaves states without rows at the worst, which are cut off when
the folder is opened again. Knows files; does not know what a state is of.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final, Generic, Self

import numpy as np

from edgereason.errors import ConfigError
from edgereason.heads.base import Array
from edgereason.reasoning.model import Model
from edgereason.records.folder import model_entry
from edgereason.records.journal import Journal, R

STATES: Final = "states.f32"

_FLOAT: Final = np.dtype("<f4")


class StateJournal(Generic[R]):
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def base_sha256(model: Model) -> str:
    """What heads call the base that they were trained on: the hash of its file, or a fake engine's name."""
    entry = model_entry(model.info)
    return str(entry["sha256"] or entry["name"])

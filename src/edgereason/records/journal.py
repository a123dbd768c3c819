"""The rows of a run, appended to one file: `samples.jsonl`.

One row a line, whole lines only, each handed to the operating system at once. A last line that a kill left
unfinished is cut off when the file is opened again. Records that are kept for good may be compressed
(`samples.jsonl.gz`); readers take either.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Hashable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar

from edgereason.config import load_json, parse
from edgereason.core.closing import Closing
from edgereason.data.rows import read_unpacked
from edgereason.errors import ConfigError, EdgeReasonError
from edgereason.records.lock import FolderLock

SAMPLES: Final = "samples.jsonl"


class JournalRow:
    """Base of what a journal holds: a frozen dataclass with a key, written and read as plain values."""

    __slots__ = ()

    @property
    def key(self) -> Hashable:
        """What identifies the row in its run."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        row: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """The row that was written.

        Raises:
            ConfigError: a value is missing, unknown or of another type.
        """
        return parse(cls, row, cls.__name__)


R = TypeVar("R", bound=JournalRow)


def read_rows(folder: Path, kind: type[R]) -> list[R]:
    """All whole rows of a run, in the order in which they were written.

    Raises:
        ConfigError: there are none, or one can't be read.
    """
    path = next((p for p in (folder / SAMPLES, folder / f"{SAMPLES}.gz") if p.is_file()), None)
    if path is None:
        raise ConfigError(f"{folder} holds no {SAMPLES}: give the folder of a run")
    try:
        text = read_unpacked(path).decode("utf-8")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    rows = list(_parse(text, path, kind))
    keys = [row.key for row in rows]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(f"{path} has two rows of {twice}: two processes wrote to it; run it again")
    return rows


def _parse(text: str, path: Path, kind: type[R]) -> Iterator[R]:
    # Not splitlines, which also breaks at characters that a JSON string may hold as they are (U+2028).
    *lines, _unfinished = text.split("\n")
    for number, line in enumerate(lines, 1):
        try:
            yield kind.from_json(load_json(line))
        except (
            EdgeReasonError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            where = f"{path.parent.name}/{path.name}, line {number}"
            raise ConfigError(
                f"{where} is not a {kind.__name__} of this version ({error}): "
                "remove the line, or choose another folder"
            ) from error


class Journal(Closing, Generic[R]):
    """The rows of a run that goes on; a context manager.

    Args:
        folder: of the run; exists.
        kind: of the rows.

    Attributes:
        found: rows that were there; on a disk that can only be read, they can be read.

    Raises:
        ConfigError: a row that is there can't be read, or another process writes to the folder.
    """

    def __init__(self, folder: Path, kind: type[R]) -> None:
        path = folder / SAMPLES
        self.found: tuple[R, ...] = ()
        self._refusal = ""
        self._lock: FolderLock | None = None
        self._path = path
        self._file: io.FileIO | None = None
        try:
            self._lock = FolderLock(folder)
        except OSError as error:  # a disk that can only be read: so can the rows
            self._refusal = f"{folder} can't be written: {error.strerror}"
        try:
            if path.is_file():
                if self._lock is not None:
                    with path.open("rb+") as file:
                        file.truncate(file.read().rfind(b"\n") + 1)
                self.found = tuple(read_rows(folder, kind))
            elif (folder / f"{SAMPLES}.gz").is_file():
                self.found = tuple(read_rows(folder, kind))
                self._refusal = f"{path}.gz is compressed: unpack it to go on with the run"
        except BaseException:
            self.close()
            raise

    def append(self, *rows: R) -> None:
        """Writes rows, all of them or none.

        Raises:
            ConfigError: they can't be written: the disk is full or can only be read, or what is there is
                compressed, a record kept for good.
        """
        if self._refusal:
            raise ConfigError(self._refusal)
        lines = "".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in rows)
        try:
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            _write_whole(self._file, lines.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise ConfigError(
                f"{self._path} can't be written: {error.strerror}; its rows are whole: make room, and "
                "give the same command again"
            ) from error

    def close(self) -> None:
        """Closes the file; what was appended stays."""
        if self._file is not None:
            self._file.close()
        if self._lock is not None:
            self._lock.close()


def _write_whole(file: io.FileIO, data: bytes) -> None:
    """Appends all of the data, or leaves the file as it was."""
    start, left = file.seek(0, os.SEEK_END), memoryview(data)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError:
        file.truncate(start)
        raise

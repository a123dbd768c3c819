"""The rows of a run, appended to one file: `samples.jsonl`.

One row a line, whole lines only, each handed to the operating system at once. A last line that a kill left
unfinished is cut off when the file is opened again. Records that are kept for good may be compressed
(`samples.jsonl.gz`); readers take either.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Hashable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Generic, Self, TextIO, TypeVar

from edgereason.config import parse
from edgereason.core.closing import Closing
from edgereason.errors import ConfigError
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
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
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
            yield kind.from_json(json.loads(line))
        except (ConfigError, ValueError, TypeError, AttributeError) as error:
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
        found: rows that were there.

    Raises:
        ConfigError: a row that is there can't be read, or another process writes to the folder.
    """

    def __init__(self, folder: Path, kind: type[R]) -> None:
        path = folder / SAMPLES
        self.found: tuple[R, ...] = ()
        self._is_kept = False
        self._lock = FolderLock(folder)
        self._path = path
        self._file: TextIO | None = None
        try:
            if path.is_file():
                with path.open("rb+") as file:
                    file.truncate(file.read().rfind(b"\n") + 1)
                self.found = tuple(read_rows(folder, kind))
            elif (folder / f"{SAMPLES}.gz").is_file():
                self.found = tuple(read_rows(folder, kind))
                self._is_kept = True
        except BaseException:
            self.close()
            raise

    def append(self, *rows: R) -> None:
        """Writes rows, all of them in one go.

        Raises:
            ConfigError: the rows are compressed: a record kept for good, to which nothing is added.
        """
        if self._is_kept:
            raise ConfigError(f"{self._path}.gz is compressed: unpack it to go on with the run")
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write("".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in rows))
        self._file.flush()

    def close(self) -> None:
        """Closes the file; what was appended stays."""
        if self._file is not None:
            self._file.close()
        self._lock.close()

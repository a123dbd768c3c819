"""The rows of a run, appended to one file: `samples.jsonl`.

One row a line, whole lines only, each handed to the operating system at once. A last line that a kill left
unfinished is cut off when the file is opened again. Records that are kept for good may be compressed
(`samples.jsonl.gz`); readers take either.

Knows lines and files; does not know what a row says.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Generic, Protocol, Self, TextIO, TypeVar

from edgereason.errors import ConfigError

SAMPLES: Final = "samples.jsonl"


class Row(Protocol):
    """What a journal holds: something that has a form as plain values."""

    def to_json(self) -> dict[str, Any]: ...
    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self: ...


R = TypeVar("R", bound=Row)


def read_rows(folder: Path, kind: type[R]) -> list[R]:
    """All whole rows of a run, in the order in which they were written.

    Raises:
        ConfigError: there are none, or one can't be read.
    """
    path = next((p for p in (folder / SAMPLES, folder / f"{SAMPLES}.gz") if p.is_file()), None)
    if path is None:
        raise ConfigError(f"{folder} holds no {SAMPLES}: give the folder of an evaluation")
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    return list(_parse(text, path, kind))


def _parse(text: str, path: Path, kind: type[R]) -> Iterator[R]:
    # Not splitlines, which also breaks at characters that a JSON string may hold as they are (U+2028).
    *lines, _unfinished = text.split("\n")
    for number, line in enumerate(lines, 1):
        try:
            yield kind.from_json(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{path.name}, line {number} is no sample of this version ({error}): "
                "remove the line, or evaluate into another folder"
            ) from error


class Journal(Generic[R]):
    """The rows of a run that goes on; a context manager.

    Args:
        folder: of the run; exists.
        kind: of the rows.

    Attributes:
        found: rows that were there.

    Raises:
        ConfigError: a row that is there can't be read.
    """

    def __init__(self, folder: Path, kind: type[R]) -> None:
        path = folder / SAMPLES
        self.found: tuple[R, ...] = ()
        if path.is_file():
            with path.open("rb+") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
            self.found = tuple(read_rows(folder, kind))
        elif (folder / f"{SAMPLES}.gz").is_file():  # a record that was kept for good: nothing is added to it
            self.found = tuple(read_rows(folder, kind))
        self._path = path
        self._file: TextIO | None = None

    def append(self, row: R) -> None:
        """Writes a row."""
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps(row.to_json(), ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file; what was appended stays."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

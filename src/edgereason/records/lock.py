"""The folder of a run: one process at a time writes to it, and a new run needs a vacant one.

A run that is told to stop takes a while to leave its checkpoint. If it is started again in the meantime, two
processes would write to the same files. The lock goes with its process, however that ends.

The lock's file stays in the folder for good. A process may have opened it and wait for it; if the holder
removed it, that process would lock a removed file, and a third one a new file beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from edgereason.core.closing import Closing
from edgereason.errors import ConfigError

LOCK: Final = ".lock"


class FolderLock(Closing):
    """The right to write to a folder; a context manager.

    Args:
        folder: exists.

    Raises:
        ConfigError: another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = FileLock(folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(f"another process writes to {folder}: wait for it") from error

    def close(self) -> None:
        """Gives it back; once more does nothing."""
        self._lock.release()


def is_vacant(folder: Path, record: str) -> bool:
    """Whether a new run may use a folder.

    Args:
        folder: may be missing, which counts as vacant.
        record: name of the file that a run writes first; a kill may have left a temporary file of it.

    Returns:
        True if the folder holds nothing but a lock's file and such temporary files.

    Raises:
        OSError: the folder can't be read.
    """
    if not folder.is_dir():
        return True
    return all(path.name == LOCK or path.name.startswith(f".{record}.") for path in folder.iterdir())

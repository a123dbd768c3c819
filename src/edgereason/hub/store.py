"""Where pulled models lie on this machine: the folder, one lock per file, free space.

::

    $EDGEREASON_CACHE/models/          default: the platform's cache folder, edgereason/models
        X.gguf                         there only if its SHA-256 was right
        X.gguf.part                    a pull that was interrupted; the next one continues it
        X.gguf.part.json               … and which of the mirror's packages it already holds
        X.gguf.lock                    held while one process pulls
        .X.gguf.json                   its hashes, as far as they are known (`fingerprint.py`)
    $EDGEREASON_CACHE/gguf/            made of models of several files (`one_file.py`)

Does not know where models come from. Errors of the file system become `PullError` here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import platformdirs

from edgereason.errors import PullError
from edgereason.hub.catalog import CatalogModel

CACHE_VARIABLE: Final = "EDGEREASON_CACHE"


def cache_folder() -> Path:
    """`$EDGEREASON_CACHE`, or else the platform's cache folder for edgereason; it need not exist.

    Raises:
        PullError: it would be in a home directory, and there is none.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    try:
        return (Path(chosen) if chosen else platformdirs.user_cache_path("edgereason")).expanduser()
    except RuntimeError as error:
        raise PullError(
            f"there is no home directory to keep models in: set {CACHE_VARIABLE} to a folder"
        ) from error


def models_folder() -> Path:
    """The folder of pulled models, `models` in the cache; it need not exist."""
    return cache_folder() / "models"


def converted_folder() -> Path:
    """The folder of models that were converted for training; it need not exist."""
    return cache_folder() / "converted"


def tokens_folder() -> Path:
    """The folder of traces in ids, which trainings make again where they are missing; it need not exist."""
    return cache_folder() / "tokens"


def model_path(model: CatalogModel) -> Path:
    """Where the file of `model` is, or would be."""
    return models_folder() / model.file_name


def is_here(model: CatalogModel) -> bool:
    """Whether the file of `model` is in the cache with the right size.

    Its hash was checked before it got there; `matches_hash` checks it again.

    Raises:
        PullError: the cache can't be read.
    """
    path = model_path(model)
    with file_errors(path):
        try:
            return path.stat().st_size == model.size_bytes
        except (FileNotFoundError, NotADirectoryError):
            return False


def matches_hash(model: CatalogModel) -> bool:
    """Whether the file of `model`, which must be there, still has the catalogue's SHA-256."""
    path = model_path(model)
    with file_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into a `PullError` that says what can be done about them."""
    try:
        yield
    except OSError as error:
        raise PullError(
            f"can't use {path}: {error.strerror or error}; "
            f"set {CACHE_VARIABLE} to a folder that can be written"
        ) from error


@contextmanager
def pull_lock(target: Path, notice: Callable[[str], None], how: str = "pulled") -> Iterator[None]:
    """Hold the one right to pull or make `target`; wait, after one notice, while another process has it.

    Creates the folder of `target`.

    Raises:
        PullError: the folder can't be created or written.
    """
    import filelock  # loading a model that is here needs none

    lock = filelock.FileLock(target.with_name(target.name + ".lock"))
    with file_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            notice(f"{target.name} is being {how} by another process: waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def require_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to start what wouldn't fit.

    Raises:
        PullError: fewer than `needed_bytes` are free in `folder`.
    """
    with file_errors(folder):
        free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise PullError(
            f"not enough space in {folder}: {megabytes(needed_bytes)} needed, {megabytes(free_bytes)} free; "
            f"make room or set {CACHE_VARIABLE} to a folder on another disk"
        )


def megabytes(num_bytes: int) -> str:
    """`num_bytes` for people: decimal megabytes, one digit after the point."""
    return f"{num_bytes / 1e6:,.1f} MB"

"""What is known of a model file, kept so that loading need not read the whole file each time: its hash, its
vocabulary's, and which version of the engine loaded it once in a process of its own (`trial.py`).

::

    .NAME.gguf.json beside the file ─→ <cache>/fingerprints/ ─→ what is not known is computed, and kept in
    the first of the two places that can be written (of a checkpoint's files only the second)

What is kept is valid while the file has the same path, size and time of change. A change that preserves all
three goes unseen here; `bundle verify` reads the whole file. Local paths are kept as hashes only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from edgereason.core.bundle import clear_temporaries, file_sha256, write_atomically
from edgereason.errors import PullError
from edgereason.hub.store import cache_folder

FORMAT: Final = "edgereason-fingerprint"
VERSION: Final = 1
_SHA256: Final = re.compile("[0-9a-f]{64}")
_NAMES: Final = ("sha256", "vocab_sha256", "tried_with")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What identifies a model.

    Attributes:
        sha256: of the file, as hex.
        vocab_sha256: of its tokens' texts in id order (`Engine.vocab_sha256`), as hex.
    """

    sha256: str
    vocab_sha256: str


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is kept of a file; None for what is not known yet."""

    sha256: str | None = None
    vocab_sha256: str | None = None
    tried_with: str | None = None


def fingerprint(path: Path, vocab_sha256: Callable[[], str], *, reads_all: bool = False) -> Fingerprint:
    """The hashes of a model file.

    Args:
        path: of the file.
        vocab_sha256: computes the hash of its vocabulary; called if it is not known.
        reads_all: whether the file is read even if its hashes are known; what was kept is corrected then.

    Raises:
        OSError: the file can't be read.
    """
    with _Memory(path) as memory:
        if reads_all:
            memory.kept = replace(memory.kept, sha256=None, vocab_sha256=None)
        made = Fingerprint(memory.sha256(), memory.kept.vocab_sha256 or vocab_sha256())
        memory.kept = replace(memory.kept, vocab_sha256=made.vocab_sha256)
    return made


def known_sha256(path: Path) -> str:
    """The hash of a model file, which is read if it is not known.

    Raises:
        OSError: the file can't be read.
    """
    with _Memory(path) as memory:
        return memory.sha256()


def kept_sha256(path: Path) -> str | None:
    """The hash of a model file if it is known; reads nothing else.

    Raises:
        OSError: the file can't be read.
    """
    return _Memory(path).kept.sha256


def remember_sha256(path: Path, sha256: str) -> None:
    """Keeps the hash of a model file that was computed while the file was written.

    Raises:
        OSError: the file can't be read.
    """
    with _Memory(path) as memory:
        memory.kept = replace(memory.kept, sha256=sha256, vocab_sha256=None)


def clear_parts(path: Path) -> None:
    """Removes what killed processes left beside what is kept of a file.

    Raises:
        OSError: the file can't be read.
    """
    for place in _Memory(path).places:
        clear_temporaries(place)


def try_once(path: Path, version: str, carry_out: Callable[[], None]) -> None:
    """Carries out a trial of a file that raises nothing; once for each version of what loads it.

    Raises:
        OSError: the file can't be read.
    """
    with _Memory(path) as memory:
        if memory.kept.tried_with != version:
            carry_out()
            memory.kept = replace(memory.kept, tried_with=version)


class _Memory:
    """What is kept of a file, read at the start and written, if it has changed, where the block ends well."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._origin = _origin(self._path)
        is_model = self._path.suffix.lower() == ".gguf"  # a checkpoint's folder is left as it is
        self.places = [self._path.with_name(f".{self._path.name}.json")] if is_model else []
        with suppress(PullError):  # no home directory
            self.places.append(cache_folder() / "fingerprints" / f"{self._origin['path_sha256']}.json")
        found = (_read(place, self._origin) for place in self.places)
        self.kept = self._found = next(filter(None, found), _Kept())

    def sha256(self) -> str:
        """Of the file, read if it is not known."""
        sha256 = self.kept.sha256 or file_sha256(self._path)
        self.kept = replace(self.kept, sha256=sha256)
        return sha256

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        is_same = kind is None and _origin(self._path) == self._origin  # nobody wrote to the file meanwhile
        if is_same and self.kept != self._found:
            known = {name: value for name in _NAMES if (value := getattr(self.kept, name)) is not None}
            _keep(self.places, json.dumps(self._origin | known, indent=2) + "\n")


def _origin(path: Path) -> dict[str, object]:
    """What a kept fingerprint says of the file that it belongs to."""
    stat = path.stat()
    return {
        "format": FORMAT,
        "version": VERSION,
        "path_sha256": hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest(),
        "size_bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
    }


def _read(place: Path, origin: Mapping[str, object]) -> _Kept | None:
    """What is kept there, if it is of this file, as far as it is sound."""
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(kept, dict) or {key: kept.get(key) for key in origin} != origin:
        return None
    values = {name: kept.get(name) for name in _NAMES}
    return _Kept(
        **{
            name: value
            for name, value in values.items()
            if isinstance(value, str) and (name == "tried_with" or _SHA256.fullmatch(value))
        }
    )


def _keep(places: Sequence[Path], text: str) -> None:
    for place in places:
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, text)
            return

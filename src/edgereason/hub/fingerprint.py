"""Hashes of a model file and of its vocabulary, kept so that loading need not read the whole file each time.

::

    .NAME.gguf.json beside the file ─→ <cache>/fingerprints/ ─→ both hashes computed, and kept in the
    first of the two places that can be written

What is kept is valid while the file has the same path, size and time of change. A change that preserves all
three goes unseen here; `bundle verify` reads the whole file. Local paths are kept as hashes only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from edgereason.core.bundle import file_sha256, write_atomically
from edgereason.errors import PullError
from edgereason.hub.store import cache_folder

FORMAT: Final = "edgereason-fingerprint"
VERSION: Final = 1
_SHA256: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What identifies a model.

    Attributes:
        sha256: of the file, as hex.
        vocab_sha256: of its tokens' texts in id order (`Engine.vocab_sha256`), as hex.
    """

    sha256: str
    vocab_sha256: str


def fingerprint(path: Path, vocab_sha256: Callable[[], str], *, reads_all: bool = False) -> Fingerprint:
    """The hashes of a model file.

    Args:
        path: of the file.
        vocab_sha256: computes the hash of its vocabulary; called if it is not known.
        reads_all: whether the file is read even if its hashes are known; what was kept is corrected then.

    Raises:
        OSError: the file can't be read.
    """
    path = path.resolve()
    origin = _origin(path)
    places = [path.with_name(f".{path.name}.json")]
    with suppress(PullError):  # no home directory
        places.append(cache_folder() / "fingerprints" / f"{origin['path_sha256']}.json")
    if not reads_all:
        for place in places:
            if known := _read(place, origin):
                return known
    made = Fingerprint(file_sha256(path), vocab_sha256())
    if _origin(path) == origin:  # nobody wrote to the file meanwhile
        _keep(places, json.dumps(origin | asdict(made), indent=2) + "\n")
    return made


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


def _read(place: Path, origin: Mapping[str, object]) -> Fingerprint | None:
    """What is kept there, if it is of this file and sound."""
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(kept, dict) or {key: kept.get(key) for key in origin} != origin:
        return None
    hashes = [kept.get(field.name) for field in fields(Fingerprint)]
    sound = [one for one in hashes if isinstance(one, str) and _SHA256.fullmatch(one)]
    return Fingerprint(*sound) if len(sound) == len(hashes) else None


def _keep(places: Sequence[Path], text: str) -> None:
    for place in places:
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, text)
            return

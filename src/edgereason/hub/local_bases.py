"""Bases of this machine that no catalogue knows: where the file with a hash is.

::

    quantize, train, bundle build or verify ─→ <cache>/bases/SHA256.json: path, size, time of change
    a bundle names its base by hash ─────────→ the path, while size and time are the same

A cache that can't be written is no error: the base then has to be given by `--base`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from edgereason.config import load_json
from edgereason.core.bundle import write_atomically
from edgereason.errors import PullError
from edgereason.hub.catalog import find_by_sha256
from edgereason.hub.store import cache_folder


def remember_base(path: Path, sha256: str) -> None:
    """Notes where the base with this hash is; one of the catalogue is found without.

    Args:
        path: of the file, which was just hashed.
        sha256: of its bytes.
    """
    if find_by_sha256(sha256) is not None:
        return
    with suppress(OSError, PullError):
        place = _place(sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, json.dumps(_entry(path.resolve())) + "\n")


def remembered_base(sha256: str) -> Path | None:
    """The file with this hash, if it was noted and has not been changed or moved since."""
    try:
        found = load_json(_place(sha256).read_text("utf-8"))
        path = Path(found["path"])
        return path if _entry(path) == found else None
    except (OSError, PullError, ValueError, TypeError, KeyError):
        return None


def _place(sha256: str) -> Path:
    return cache_folder() / "bases" / f"{sha256}.json"


def _entry(path: Path) -> dict[str, object]:
    stat = path.stat()
    return {"path": str(path), "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}

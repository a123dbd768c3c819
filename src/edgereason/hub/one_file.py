"""A model of several files as one GGUF: a checkpoint converted, or parts joined; once, by one process.

::

    folder with config.json ─ hash of its files ─┐                              ┌ here → its path
    x-00001-of-00003.gguf ─── hashes of parts ───┴→ <cache>/gguf/<key>/NAME.gguf ┴ lock ─ write → its path

What a conversion writes depends on the files alone. Where the checkpoint is from stands beside it, in
`checkpoint.json`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgereason.core.bundle import clear_temporaries, parts_of
from edgereason.hub.fingerprint import known_sha256
from edgereason.hub.local_bases import remember_base
from edgereason.hub.part import PullProgress
from edgereason.hub.store import cache_folder, file_errors, pull_lock, require_space

if TYPE_CHECKING:
    from edgereason.quant.gguf_file import Checkpoint

_KEY_DIGITS: Final = 16
_METADATA_BYTES: Final = 64 << 20
"""Room for what stands in a GGUF beside its tensors: vocabularies have up to 20 MB."""
_SNAPSHOT: Final = re.compile(r"models--(.+)")
"""How huggingface_hub calls the folder of a repository: models--OWNER--NAME/snapshots/REVISION."""

Report = Callable[[PullProgress], None]
Notice = Callable[[str], None]


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint in Hugging Face's format, whole or not."""
    return (folder / "config.json").is_file() or any(folder.glob("*.safetensors"))


def convert_folder(folder: Path, report: Report, notice: Notice) -> Path:
    """The GGUF of a checkpoint.

    Args:
        folder: with config.json, tokenizer.json and safetensors.
        report: called often.
        notice: called with a line when something is made or waited for.

    Raises:
        ModelFileError: it is not whole, or of a kind that is not supported; nothing is written then.
        PullError: no space, or an unusable cache.
    """
    # numpy and gguf take longer to import than a file takes to be found
    from edgereason.quant.gguf_file import Checkpoint
    from edgereason.quant.huggingface.convert import VERSION, Conversion, checkpoint_sha256, source_files

    files = source_files(folder)
    with file_errors(folder):
        sha256 = checkpoint_sha256({path.name: known_sha256(path) for path in files})
    name, revision = _origin(folder)
    origin = Checkpoint(sha256=sha256, name=name, revision=revision)
    place = _folder(f"{sha256[:_KEY_DIGITS]}-{VERSION}")
    if (found := _in(place)) is not None:
        _note(origin, place)
        return found
    conversion = Conversion(folder)
    part = "; of its parts the language model alone" if conversion.header.is_part else ""

    def write(target: Path) -> None:
        notice(f"converting {name} to GGUF, once{part}: {target}")
        conversion.write(target, sha256, _reporter(report, folder.name))
        origin.write(place)

    return _made(place, f"{name.rpartition('/')[2]}.gguf", conversion.num_bytes, write, notice)


def join_parts(path: Path, report: Report, notice: Notice) -> Path:
    """The whole of a split GGUF.

    Args:
        path: any of its parts.
        report, notice: as for `convert_folder`.

    Raises:
        ModelFileError: a part is missing, can't be read, or is of another model; nothing is written then.
        PullError: no space, or an unusable cache.
    """
    from edgereason.quant.split import join, require_parts

    parts = parts_of(path)
    require_parts(parts)
    with file_errors(path):
        hashes = "".join(known_sha256(part) for part in parts)
        num_bytes = sum(part.stat().st_size for part in parts)
    place = _folder(hashlib.sha256(hashes.encode()).hexdigest()[:_KEY_DIGITS])
    if (found := _in(place)) is not None:
        return found
    name = parts[0].name[: -len(f"-00001-of-{len(parts):05d}.gguf")]

    def write(target: Path) -> None:
        notice(f"joining the {len(parts)} parts of {name}, once: {target}")
        join(parts, target, _reporter(report, name))

    return _made(place, f"{name or 'model'}.gguf", num_bytes, write, notice)


def _made(place: Path, name: str, num_bytes: int, write: Callable[[Path], None], notice: Notice) -> Path:
    """Writes a file by one process at a time; others wait, and find it."""
    target = place / name
    with pull_lock(place / "model", notice, "made"):
        if (found := _in(place)) is not None:
            return found
        with file_errors(target):
            clear_temporaries(target)
        require_space(place, num_bytes + _METADATA_BYTES)
        with file_errors(target):
            write(target)
            remember_base(target, known_sha256(target))
    return target


def _folder(key: str) -> Path:
    return cache_folder() / "gguf" / key


def _in(place: Path) -> Path | None:
    """The file that was made there, if one was: it is written whole or not at all."""
    with file_errors(place):
        return next((path for path in sorted(place.glob("*.gguf")) if not path.name.startswith(".")), None)


def _note(origin: Checkpoint, place: Path) -> None:
    """Notes the revision of a checkpoint that was converted from a folder that had none."""
    if origin.revision is not None and origin.read(place, origin.sha256).revision is None:
        with file_errors(place):
            origin.write(place)


def _origin(folder: Path) -> tuple[str, str | None]:
    """What a checkpoint is called, and its commit, which huggingface_hub's folders tell."""
    whole = folder.resolve()
    named = _SNAPSHOT.fullmatch(whole.parent.parent.name) if whole.parent.name == "snapshots" else None
    return (named[1].replace("--", "/", 1), whole.name) if named else (whole.name or "model", None)


def _reporter(report: Report, item: str) -> Callable[[int, int], None]:
    return lambda done, total: report(
        PullProgress(done_bytes=done, total_bytes=total, source="made", item=f"from {item}")
    )

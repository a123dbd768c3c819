"""The bundle: what training hands to the device, and what makes it fit one base and no other.

::

    bundle/
      bundle.json         this manifest, version 1
      reasoning.gguf      LoRA adapter          (optional)
      heads.safetensors   switcher, verifier    (optional)
      base.gguf           the base itself       (optional: else it is named, and found by hash)
      README.md           the manifest for people (`bundles/card.py`)

A bundle is consistent whenever its manifest is: parts are written under names of their own before the
manifest takes the place of the old one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from glob import escape
from pathlib import Path
from typing import Any, Final

from edgereason.config import load_json, parse, read_bounded
from edgereason.errors import BundleError, ModelFileError

MANIFEST: Final = "bundle.json"
BASE_FILE: Final = "base.gguf"
FORMAT: Final = "edgereason-bundle"
VERSION: Final = 1
_NAME_CHARACTERS: Final = 50
"""Of a file's name, that begin its temporary file's: longer names may have no room for more."""
_PART: Final = re.compile(r"-[0-9]{5}-of-([0-9]{5})\.gguf$", re.IGNORECASE)
"""How the parts of a split model end: ``x-00001-of-00003.gguf``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The base that everything in a bundle was made on.

    `vocab_sha256` runs over the tokens' texts in id order, so equal hashes mean equal ids.
    """

    name: str
    sha256: str
    arch: str
    hidden_size: int
    num_layers: int
    vocab_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file beside the manifest."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a record of a measurement says of a bundle, or of its base alone.

    Attributes:
        what: was measured, in a few words, such as "gsm8k, think".
        record: format of the record, such as "edgereason-eval".
        sha256: of the record.
        command: measures it again.
        figures: by name.
        parts: hashes of the parts that took part, beside the base.
        intervals: of 95 %, of those figures that have one.
        machine: that it was measured on, for figures that depend on it.
        commit: of the code that measured it.
    """

    what: str
    record: str
    sha256: str
    command: str
    figures: Mapping[str, float]
    parts: tuple[str, ...] = ()
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    machine: str | None = None
    commit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The manifest.

    Args:
        folder: where it lies; not part of the manifest.
        base: what it was made on.
        opening_ids: ids that turn the adapter on (the adapter's invocation tokens).
        closing: text that ends thinking.
        buckets: budgets that hints were trained with, in tokens.
        calculator: whether exact results of arithmetic are forced in what it thinks, unless a request says.
        adapter: the reasoning adapter.
        heads: switcher and verifier.
        name: what it is called; None for its folder's name.
        earlier_heads: hashes of heads that differed from these in the switcher's threshold alone.
        calibration: how the threshold was set, in plain values; None if it is as it was trained.
        provenance: what each part was made from, in plain values, by the part's name.
        results: what records say of it.
    """

    folder: Path
    base: Base
    opening_ids: tuple[int, ...]
    closing: str
    buckets: tuple[int, ...] = ()
    calculator: bool = False
    adapter: Part | None = None
    heads: Part | None = None
    name: str | None = None
    earlier_heads: tuple[str, ...] = ()
    calibration: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    results: tuple[Result, ...] = ()

    @property
    def title(self) -> str:
        """What it is called."""
        return self.name or self.folder.resolve().name

    @property
    def adapter_sha256(self) -> str | None:
        """Hash of the adapter, if there is one."""
        return self.adapter.sha256 if self.adapter else None

    @property
    def parts(self) -> tuple[Part, ...]:
        """Adapter and heads, as far as there are any."""
        return tuple(part for part in (self.adapter, self.heads) if part)

    @classmethod
    def read(cls, folder: Path) -> Bundle:
        """Reads `bundle.json` and checks its form; files are checked by `verified_file`.

        Raises:
            BundleError: it is missing, not JSON, of another version, or a field is wrong.
        """
        path = folder / MANIFEST
        try:
            manifest = load_json(read_bounded(path).decode("utf-8"))
        except FileNotFoundError as error:
            raise BundleError(f"no {MANIFEST} in {folder}: that folder is not a bundle") from error
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} can't be read as JSON: {error}") from error
        if not isinstance(manifest, dict):
            raise BundleError(f"{path} must be a JSON object, got {type(manifest).__name__}")
        if (kind := manifest.pop("format", None)) != FORMAT:
            raise BundleError(f"{path} is not a manifest: its format is {kind!r}, expected {FORMAT!r}")
        if (version := manifest.pop("version", None)) != VERSION:
            raise BundleError(f"the bundle has version {version}, this edgereason reads version {VERSION}")
        bundle = parse(cls, {"folder": folder} | manifest, MANIFEST, BundleError)
        for part in bundle.parts:
            if Path(part.file).name != part.file:
                raise BundleError(f"{MANIFEST}: file must name a file inside the bundle, got {part.file!r}")
        for key in ("opening_ids", "buckets"):
            if any(number < 0 for number in getattr(bundle, key)):
                raise BundleError(f"{MANIFEST}: {key} must be numbers from 0 on, got {getattr(bundle, key)}")
        return bundle

    def write(self) -> None:
        """Writes the manifest, whole or not at all."""
        manifest = {"format": FORMAT, "version": VERSION, **asdict(self)}
        del manifest["folder"]
        write_atomically(self.folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    def verified_file(self, part: Part) -> Path:
        """The path of a part, its hash checked.

        Raises:
            BundleError: it is missing or was changed.
        """
        path = self.folder / part.file
        if not path.is_file():
            raise BundleError(f"the bundle names {part.file}, which is not in {self.folder}")
        got = file_sha256(path)
        if got != part.sha256:
            raise BundleError(
                f"{path} has SHA-256 {got}, the bundle expects {part.sha256}: get the bundle again"
            )
        return path

    def check_base(self, base: Base) -> None:
        """Refuses a base other than the bundle's own.

        Raises:
            BundleError: a property differs; the message names the first one.
        """
        for one in fields(Base):
            if one.name != "name":
                self._check_same(one.name, base.name, getattr(base, one.name))

    def check_base_sha256(self, name: str, sha256: str) -> None:
        """Refuses a base by its hash alone, before anything reads the file.

        Args:
            name: of the file, for the message.
            sha256: of its bytes.

        Raises:
            BundleError: it is another one's.
        """
        self._check_same("sha256", name, sha256)

    def _check_same(self, what: str, name: str, got: object) -> None:
        expected = getattr(self.base, what)
        if got != expected:
            raise BundleError(
                f"this bundle was made for another base: {what} is {got} in {name}, "
                f"the bundle expects {expected} ({self.base.name})"
            )

    def check_seams(self, opening_ids: tuple[int, ...], closing: str) -> None:
        """Refuses an opening or a closing other than what the parts were trained with.

        Raises:
            BundleError: one differs.
        """
        if (self.opening_ids, self.closing) != (opening_ids, closing):
            raise BundleError(
                f"the bundle opens thinking with ids {list(self.opening_ids)} and closes it with "
                f"{self.closing!r}; this edgereason writes {list(opening_ids)} and {closing!r}"
            )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parts_of(path: Path) -> tuple[Path, ...]:
    """The files of the split model that a file is a part of by its name, in order; none for a whole model."""
    if (named := _PART.search(path.name)) is None or (count := int(named[1])) < 2:
        return ()
    stem, ending = path.name[: named.start()], path.name[-len(".gguf") :]
    of = path.name[named.start() + len("-00001") : -len(ending)]
    return tuple(path.with_name(f"{stem}-{n:05d}{of}{ending}") for n in range(1, count + 1))


def require_one_file(path: Path, num_parts: int = 1) -> None:
    """Refuses a part of a split model: each tool would take the first part for all of it.

    Args:
        path: of a GGUF.
        num_parts: files that the model has by its own metadata (`split.count`), if they were read.

    Raises:
        ModelFileError: the name or the metadata say that it is one of several parts.
    """
    num_parts = max(num_parts, len(parts_of(path)))
    if num_parts > 1:
        raise ModelFileError(
            f"{path.name} is one of the {num_parts} parts of a split model, and one file is needed: put "
            "all parts in "
            f"one folder under the names that they were published by, NAME-00001-of-{num_parts:05d}.gguf, "
            "and give "
            "the first where a model is named: they are joined, once"
        )


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with (
        temporary_beside(path) as temporary,
        # Bytes of a file's name that are not UTF-8 become what JSON spells them by.
        temporary.open("x", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.write(text)


def clear_temporaries(path: Path) -> None:
    """Removes what killed writers of `path`, or of a file whose name begins the same, left beside it.

    A temporary file's name has its writer's process in it. Those of processes that are there are left alone.
    What can't be removed stays: it is no reason not to write.
    """
    for left in _left_behind(path):
        with suppress(OSError):
            left.unlink()


def _left_behind(path: Path) -> list[Path]:
    """Temporary files and folders of writers of `path` that are gone."""
    there = path.parent.glob(f".{escape(path.name[:_NAME_CHARACTERS])}.{'[0-9a-f]' * 8}")
    return [left for left in there if not _is_running(int(left.name[-8:-2], 16))]


def _temporary_name(path: Path) -> str:
    """One that has its writer's process in it."""
    return f".{path.name[:_NAME_CHARACTERS]}.{os.getpid() & 0xFFFFFF:06x}{secrets.token_hex(1)}"


def _is_running(process: int) -> bool:
    """Whether there is a process with this number; on Windows, where a signal would end it, never."""
    if os.name == "nt":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what is there in the end takes the place of `path`.

    What killed writers of `path` left is removed first.
    A device or a pipe is written to and stays what it is: a rename would replace /dev/null by a file.

    Raises:
        OSError: it can't be written; the error names `path`.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # Not tempfile's: its files are for their owner's eyes only, whatever the umask says.
    temporary = path.with_name(_temporary_name(path))
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    if is_special:
        temporary = Path(tempfile.gettempdir()) / temporary.name
    clear_temporaries(path)
    try:
        yield temporary
        if is_special:
            path.write_bytes(temporary.read_bytes())
        else:
            temporary.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in {None, str(temporary)}:
            error.filename = str(path)
            del error.filename2  # None would be shown
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder_beside(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which in the end becomes `folder`; of a failure nothing stays.

    What killed writers of `folder` left is removed first.

    Args:
        folder: must not be there yet, or be empty.

    Raises:
        OSError: it can't be written.
    """
    for left in _left_behind(folder):
        shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(_temporary_name(folder))
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

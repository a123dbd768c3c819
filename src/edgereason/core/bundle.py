"""The bundle: what training hands to the device, and what makes it fit one base and no other.

::

    bundle/
      bundle.json         this manifest, version 1
      reasoning.gguf      LoRA adapter          (optional)
      heads.safetensors   switcher, verifier    (optional)
      base.gguf           the base itself       (optional: else it is named, and found by hash)

Knows the manifest and files' hashes; does not know what is in the files.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from edgereason.errors import BundleError

MANIFEST: Final = "bundle.json"
BASE_FILE: Final = "base.gguf"
FORMAT: Final = "edgereason-bundle"
VERSION: Final = 1

T = TypeVar("T")


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
class Bundle:
    """The manifest.

    Args:
        folder: where it lies; not part of the manifest.
        base: what it was made on.
        opening_ids: ids that turn the adapter on (the adapter's invocation tokens).
        closing: text that ends thinking.
        buckets: budgets that hints were trained with, in tokens.
        adapter: the reasoning adapter.
        heads: switcher and verifier.
    """

    folder: Path
    base: Base
    opening_ids: tuple[int, ...]
    closing: str
    buckets: tuple[int, ...] = ()
    adapter: Part | None = None
    heads: Part | None = None

    @classmethod
    def read(cls, folder: Path) -> Bundle:
        """Reads `bundle.json` and checks its form; files are checked by `verified_file`.

        Raises:
            BundleError: there is none, it is no JSON, of another version, or a field is wrong.
        """
        path = folder / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise BundleError(f"no {MANIFEST} in {folder}: that folder is no bundle") from error
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} can't be read as JSON: {error}") from error
        return cls._from_manifest(folder, _Fields(manifest, MANIFEST))

    @classmethod
    def _from_manifest(cls, folder: Path, manifest: _Fields) -> Bundle:
        if manifest.take("format", str) != FORMAT:
            raise BundleError(f"{folder / MANIFEST} is no edgereason bundle: its format is not {FORMAT!r}")
        version = manifest.take("version", int)
        if version != VERSION:
            raise BundleError(f"the bundle has version {version}, this edgereason reads version {VERSION}")
        base = manifest.section("base")
        assert base is not None
        bundle = cls(
            folder=folder,
            base=Base(
                name=base.take("name", str),
                sha256=base.take("sha256", str),
                arch=base.take("arch", str),
                hidden_size=base.take("hidden_size", int),
                num_layers=base.take("num_layers", int),
                vocab_sha256=base.take("vocab_sha256", str),
            ),
            opening_ids=manifest.ints("opening_ids"),
            closing=manifest.take("closing", str),
            buckets=manifest.ints("buckets", optional=True),
            adapter=_part(manifest.section("adapter", optional=True)),
            heads=_part(manifest.section("heads", optional=True)),
        )
        base.end()
        manifest.end()
        return bundle

    def write(self) -> None:
        """Writes the manifest, whole or not at all."""
        manifest = {"format": FORMAT, "version": VERSION, **asdict(self)}
        del manifest["folder"]
        write_atomically(self.folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")

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
        for field in fields(Base):
            got, expected = getattr(base, field.name), getattr(self.base, field.name)
            if field.name != "name" and got != expected:
                raise BundleError(
                    f"this bundle was made for another base: {field.name} is {got} in {base.name}, "
                    f"the bundle expects {expected} ({self.base.name})"
                )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with temporary_beside(path) as temporary, temporary.open("x", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what is there in the end takes the place of `path`."""
    # Not tempfile's: its files are for their owner's eyes only, whatever the umask says.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _part(section: _Fields | None) -> Part | None:
    if section is None:
        return None
    part = Part(file=section.take("file", str), sha256=section.take("sha256", str))
    if Path(part.file).name != part.file:
        raise BundleError(f"{section.where}.file must name a file inside the bundle, got {part.file!r}")
    section.end()
    return part


class _Fields:
    """A JSON object whose keys are taken one by one, so that what is left over is unknown."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise BundleError(f"{where} must be a JSON object, got {type(values).__name__}")
        self._left = dict(values)
        self._known: list[str] = []
        self.where = where

    def _pop(self, key: str, *, optional: bool = False) -> Any:
        self._known.append(key)
        if key not in self._left and not optional:
            raise BundleError(f"{self.where} lacks {key!r}")
        return self._left.pop(key, None)

    def take(self, key: str, kind: type[T]) -> T:
        value = self._pop(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BundleError(f"{self.where}: {key} must be of type {kind.__name__}, got {value!r}")
        return value

    def ints(self, key: str, *, optional: bool = False) -> tuple[int, ...]:
        if optional and key not in self._left:
            self._known.append(key)
            return ()
        values = self.take(key, list)
        if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values):
            raise BundleError(f"{self.where}: {key} must be a list of numbers, got {values!r}")
        return tuple(values)

    def section(self, key: str, *, optional: bool = False) -> _Fields | None:
        value = self._pop(key, optional=optional)
        return None if optional and value is None else _Fields(value, f"{self.where}: {key}")

    def end(self) -> None:
        for key in self._left:
            near = difflib.get_close_matches(key, self._known, n=1)
            raise BundleError(
                f"{self.where} has an unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")
            )

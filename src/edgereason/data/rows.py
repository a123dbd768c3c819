"""Records of a data set, from a file or from the Hugging Face hub, and where each one stands; plain texts.

::

    gsm8k.jsonl (.gz) │ test.parquet │ openai/gsm8k  ──→  Rows ──→  Row: "gsm8k.jsonl, line 17"
    wiki.txt │ the `text` fields of rows               ──→  TextFile

A row that can't be read is an error that names the file, the line and the field: an evaluation either has
all of its data or does not begin. What a row asks is read by `questions.py`.
"""

from __future__ import annotations

import gzip
import importlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from edgereason.core.bundle import file_sha256
from edgereason.errors import ConfigError

_LINED: Final = (".jsonl", ".jsonl.gz")
_PLAIN: Final = (".raw", ".txt")
_MOST_BYTES: Final = 1 << 30
_BOM: Final = b"\xef\xbb\xbf"


class RowError(ConfigError):
    """A row is not what its reader expects.

    Args:
        place: of the row.
        field: that is wrong, such as ``messages[0].role``.
        why: what is wrong with it, and what was expected.
    """

    def __init__(self, place: str, field: str, why: str) -> None:
        super().__init__(f"{place}: {field} {why}")
        self.reason = f"bad_{re.split(r'[^0-9A-Za-z_]', field)[0]}"
        """Under which a reader that leaves such rows out counts them: ``bad_messages``."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a data set.

    Attributes:
        source: name of the file (not its path) or of the hub's data set.
        number: line of a JSONL file, blank lines counted, or row of anything else; from 1.
        values: field → value, as the source has it.
    """

    source: str
    number: int
    values: Mapping[str, Any]

    @property
    def place(self) -> str:
        """Where it stands: ``gsm8k.jsonl, line 17``."""
        return _place(self.source, self.number)

    def has(self, field: str) -> bool:
        """Whether the field is there and says something: neither null, nor empty, nor only blanks."""
        value = self.values.get(field)
        return bool(value.strip()) if isinstance(value, str) else value is not None and value != []

    def text(self, field: str) -> str:
        """A text that is not blank, exactly as it stands.

        Raises:
            ConfigError: it is missing, not a text, blank, or not valid Unicode.
        """
        value = self.value(field)
        if not isinstance(value, str):
            self.fail(field, f"is {_kind(value)}; expected a text")
        return self._checked(field, value)

    def texts(self, field: str) -> list[str]:
        """A list of at least one text, none of them blank.

        Raises:
            ConfigError: it is missing, not a list, empty, or an entry is not such a text.
        """
        value = self.value(field)
        if not isinstance(value, list | tuple):
            self.fail(field, f"is {_kind(value)}; expected a list of texts")
        if not value:
            self.fail(field, "is an empty list; expected texts")
        for index, entry in enumerate(value):
            if not isinstance(entry, str):
                self.fail(f"{field}[{index}]", f"is {_kind(entry)}; expected a text")
            self._checked(f"{field}[{index}]", entry)
        return list(value)

    def value(self, field: str) -> Any:
        """Whatever the field holds.

        Raises:
            ConfigError: it is missing or null.
        """
        value = self.values.get(field)
        if value is None:
            got = ", ".join(map(str, self.values)) or "none"
            self.fail(field, f"is {'null' if field in self.values else 'missing'}; fields here: {got}")
        return value

    def fail(self, field: str, why: str) -> NoReturn:
        """Say what is wrong with a field: ``gsm8k.jsonl, line 17: answer is missing; …``.

        Raises:
            RowError: always.
        """
        raise RowError(self.place, field, why)

    def _checked(self, field: str, text: str) -> str:
        if not text.strip():
            self.fail(field, "is empty; expected a text")
        # JSON can escape half a character ("\ud800"), which no tokenizer and no record could take.
        if re.search(r"[\ud800-\udfff]", text):
            self.fail(field, "holds a lone surrogate; expected valid Unicode")
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A data set, whole.

    Attributes:
        name: name of the file, or ``openai/gsm8k main test``.
        sha256: of the file; None for a data set of the hub.
        revision: the hub's commit, or the library's fingerprint of the rows; None for a file.
        rows: at least one, in the source's order.
    """

    name: str
    sha256: str | None
    revision: str | None
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text and the file that it is from: its name, not its path."""

    name: str
    sha256: str
    text: str


def read_file(path: Path) -> Rows:
    """Read a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file.

    Raises:
        ConfigError: it can't be read, a line is not a JSON object, or it holds no rows.
    """
    name = path.name
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; expected a data set as .jsonl, .jsonl.gz or .parquet")
    try:
        if name.endswith(".parquet"):
            parquet = import_optional("pyarrow.parquet", f"{name} is read")
            rows = _numbered(name, parquet.read_table(path).to_pylist())
        elif name.endswith(_LINED):
            rows = _from_lines(name, read_unpacked(path))
        else:
            raise ConfigError(f"{name} has an unknown format; expected .jsonl, .jsonl.gz or .parquet")
    # ArrowInvalid is a ValueError; a cut gzip ends in EOFError.
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ConfigError(f"{name} can't be read ({_one_line(error)}): get the file again") from error
    return Rows(name=name, sha256=file_sha256(path), revision=None, rows=_not_none(name, rows))


def read_unpacked(path: Path) -> bytes:
    """A file's content; of a ``.gz`` what is packed in it, up to a gigabyte.

    Raises:
        OSError, EOFError, ValueError, zlib.error: it can't be read, or is longer.
    """
    if path.suffix != ".gz":
        return path.read_bytes()
    with gzip.open(path) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it unpacks to more than {_MOST_BYTES:,} bytes: unpack it yourself")
    return content


def read_text(path: Path) -> TextFile:
    """A .raw or .txt file as it stands, or the `text` fields of a data set's rows, joined without anything.

    Raises:
        ConfigError: it can't be read, is not UTF-8, is empty, or a row has no text.
    """
    if path.suffix not in _PLAIN:
        rows = read_file(path)
        assert rows.sha256 is not None
        return TextFile(rows.name, rows.sha256, "".join(map(_text_of, rows.rows)))
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 at byte {error.start + 1}: save it as UTF-8") from error
    if not text:
        raise ConfigError(f"{path.name} is empty: expected a text")
    return TextFile(path.name, file_sha256(path), text)


def read_hub(dataset: str, *, config: str | None = None, split: str) -> Rows:
    """Read a data set of the Hugging Face hub, from its cache if it is there.

    Args:
        dataset: such as ``openai/gsm8k``.
        config: its subset, such as ``main``.
        split: such as ``test``.

    Raises:
        ConfigError: the package is missing, or the data set, subset or split can't be had.
    """
    datasets = import_optional("datasets", f"{dataset} is read from the Hugging Face hub")
    name = " ".join(part for part in (dataset, config, split) if part)
    try:
        loaded = datasets.load_dataset(dataset, config, split=split)
    # Its own errors, unreachable and gated data sets are OSErrors; unknown subsets and splits ValueErrors.
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{name} can't be had from the Hugging Face hub ({_one_line(error)}): check the network and, for "
            "a gated data set, your token, or give a local file instead"
        ) from error
    rows = _not_none(name, _numbered(dataset, loaded))
    return Rows(name=name, sha256=None, revision=_revision(loaded), rows=rows)


def import_optional(module: str, why: str, *, extra: str = "eval") -> Any:
    """A module of an optional part of the installation.

    Args:
        module: its full name.
        why: what needs it, with its verb, for the message.
        extra: the part that brings it.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise ConfigError(
            f"{why} with the package {package}, which is not installed: pip install 'edgereason[{extra}]'"
        ) from error


def _text_of(row: Row) -> str:
    value = row.value("text")
    is_blank = isinstance(value, str) and not value.strip()  # a line between paragraphs, say
    return value if is_blank else row.text("text")


def _from_lines(name: str, content: bytes) -> list[Row]:
    rows = []
    # Only "\n" ends a line: JSON texts may hold the other characters that splitlines() breaks at.
    for number, line in enumerate(content.removeprefix(_BOM).split(b"\n"), start=1):
        if not line.strip():
            continue
        place = _place(name, number)
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{place}: not UTF-8 at byte {error.start + 1} of the line; save as UTF-8"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{place}: not JSON ({_one_line(error)}); expected one object a line"
            ) from error
        if not isinstance(record, dict):
            raise ConfigError(f"{place}: {_kind(record)}; expected one JSON object a line")
        rows.append(Row(name, number, record))
    return rows


def _numbered(source: str, records: Iterable[Mapping[str, Any]]) -> list[Row]:
    return [Row(source, number, record) for number, record in enumerate(records, start=1)]


def _not_none(name: str, rows: list[Row]) -> tuple[Row, ...]:
    if not rows:
        raise ConfigError(f"{name} holds no rows; expected at least one")
    return tuple(rows)


def _revision(loaded: Any) -> str | None:
    """The commit that the files came from, as their addresses have it; else the library's fingerprint."""
    for url in getattr(getattr(loaded, "info", None), "download_checksums", None) or {}:
        if match := re.search(r"@([0-9a-f]{40})/", str(url)):
            return match[1]
    fingerprint = getattr(loaded, "_fingerprint", None)
    return None if fingerprint is None else f"fingerprint {fingerprint}"


def _place(source: str, number: int) -> str:
    return f"{source}, {'line' if source.endswith(_LINED) else 'row'} {number}"


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", dict: "an object"}
    return names.get(
        type(value), "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

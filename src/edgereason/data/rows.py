"""Records of a data set, from files or from the Hugging Face hub, and where each one stands; plain texts.

::

    gsm8k.jsonl (.gz) │ test.parquet │ a folder of them │ openai/gsm8k
        ──→ RowStream ──→ Chunk, Chunk, …  ──→  Row: "gsm8k.jsonl, line 17", or RowError
        ──→ Rows (all of a stream)
    wiki.txt │ the `text` fields of rows  ──→  TextFile

A stream holds one chunk at a time, and a row that can't be read is an error among its rows: whoever trains
leaves it out and counts it. `Rows` are whole: an evaluation has all of its data or does not begin, and the
error names the file, the line and the field. What a row asks is read by `questions.py`.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from edgereason.core.bundle import file_sha256
from edgereason.errors import ConfigError

_LINED: Final = (".jsonl", ".jsonl.gz")
_PARQUET: Final = ".parquet"
_PLAIN: Final = (".raw", ".txt")
_MOST_BYTES: Final = 1 << 30
_LINE_BYTES: Final = 1 << 26
_CHUNK_ROWS: Final = 1024
_CHUNK_BYTES: Final = 1 << 22
_BOM: Final = b"\xef\xbb\xbf"


class RowError(ConfigError):
    """A row is not what its reader expects.

    Args:
        message: where the row stands, what is wrong with it, and what was expected.
        reason: under which a reader that leaves such rows out counts them: ``bad_messages``.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str]]:
        """Errors are pickled by their message alone, and these come from other processes."""
        return RowError, (str(self), self.reason)


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
            RowError: always; its reason is the field's first name: ``bad_messages`` of ``messages[0].role``.
        """
        raise RowError(f"{self.place}: {field} {why}", f"bad_{re.split(r'[^0-9A-Za-z_]', field)[0]}")

    def _checked(self, field: str, text: str) -> str:
        if not text.strip():
            self.fail(field, "is empty; expected a text")
        # JSON can escape half a character ("\ud800"), which no tokenizer and no record could take.
        if re.search(r"[\ud800-\udfff]", text):
            self.fail(field, "holds a lone surrogate; expected valid Unicode")
        return text


Record = bytes | Mapping[str, Any] | RowError
"""As it stands in its source: a line of JSON, values by field, or why it is neither."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some records that follow one another, to be read as rows here or in another process.

    Attributes:
        source: name of the file (not its path) or of the hub's data set.
        records: each with its number, as `Row` has it.
        share: of the data set that is read with this chunk, from above 0 to 1; None if nobody knows.
    """

    source: str
    records: tuple[tuple[int, Record], ...]
    share: float | None

    def __len__(self) -> int:
        return len(self.records)

    def rows(self) -> Iterator[Row | RowError]:
        """Every record as a row, or what is wrong with it."""
        for number, record in self.records:
            if isinstance(record, bytes):
                yield _row_of_line(self.source, number, record)
            else:
                yield record if isinstance(record, RowError) else Row(self.source, number, record)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStream:
    """A data set, a chunk at a time.

    Attributes:
        name: of the file or folder, or ``openai/gsm8k main test``.
        sha256: of the file, or of the hashes and names of a folder's files; None for a data set of the hub.
        revision: the hub's commit, or the library's fingerprint of the data; None for files.
        chunks: reads from the beginning; raises ConfigError where the source breaks off.
    """

    name: str
    sha256: str | None
    revision: str | None
    chunks: Callable[[], Iterator[Chunk]]

    def first(self, limit: int | None) -> RowStream:
        """Only the first so many rows; None for all."""
        return self if limit is None else replace(self, chunks=partial(_first, self.chunks, limit))


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


def stream_files(path: Path) -> RowStream:
    """A ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file, or all of a folder in the order of their names.

    Raises:
        ConfigError: there is no such file, or it can't be read.
    """
    is_folder = path.is_dir()
    files = sorted(one for one in path.iterdir() if _is_data(one)) if is_folder else [path]
    if not files:
        raise ConfigError(f"{path} holds no data; expected files as .jsonl, .jsonl.gz or .parquet")
    for file in files:
        if not file.is_file():
            raise ConfigError(
                f"{path} is not a file; expected a data set as .jsonl, .jsonl.gz or .parquet, or a folder"
            )
        if not _is_data(file):
            raise ConfigError(f"{file.name} has an unknown format; expected .jsonl, .jsonl.gz or .parquet")
    hashes = []
    for file in files:
        with _read_errors(file.name):
            hashes.append(file_sha256(file))
    of_all = "".join(f"{sha256}  {file.name}\n" for sha256, file in zip(hashes, files, strict=True))
    sha256 = hashlib.sha256(of_all.encode("utf-8", "surrogateescape")).hexdigest() if is_folder else hashes[0]
    return RowStream(name=path.name, sha256=sha256, revision=None, chunks=partial(_chunks, files))


def stream_hub(dataset: str, *, config: str | None = None, split: str) -> RowStream:
    """A data set of the Hugging Face hub, read as it comes over the network.

    Args:
        dataset: such as ``open-thoughts/OpenThoughts3-1.2M``.
        config: its subset, such as ``main``.
        split: such as ``train``.

    Raises:
        ConfigError: the package is missing, or the data set or subset can't be had.
    """
    datasets = import_optional("datasets", f"{dataset} is read from the Hugging Face hub")
    name = _hub_name(dataset, config, split)
    with _hub_errors(name):
        builder = datasets.load_dataset_builder(dataset, config)
        files = builder.config.data_files or {}
        if split not in files:
            raise ValueError(f"it has the splits {', '.join(map(str, files)) or 'of no files'}")

    def chunks() -> Iterator[Chunk]:
        known = (builder.info.splits or {}).get(split)
        total = known.num_examples if known is not None else None
        with _hub_errors(name):
            rows = enumerate(builder.as_streaming_dataset(split=split), 1)
            while records := tuple(islice(rows, _CHUNK_ROWS)):
                yield Chunk(dataset, records, records[-1][0] / total if total else None)

    return RowStream(
        name=name,
        sha256=None,
        revision=_commit(map(str, files[split])) or f"fingerprint {builder.hash}",
        chunks=chunks,
    )


def read_file(path: Path) -> Rows:
    """Read a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file, whole.

    Raises:
        ConfigError: it can't be read, a line is not a JSON object, or it holds no rows.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; expected a data set as .jsonl, .jsonl.gz or .parquet")
    stream = stream_files(path)
    rows = []
    for chunk in _chunks([path], most_bytes=_MOST_BYTES):
        for row in chunk.rows():
            if isinstance(row, RowError):
                raise row
            rows.append(row)
    return Rows(name=stream.name, sha256=stream.sha256, revision=None, rows=_not_none(stream.name, rows))


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
    name = _hub_name(dataset, config, split)
    with _hub_errors(name):
        loaded = datasets.load_dataset(dataset, config, split=split)
    rows = [Row(dataset, number, record) for number, record in enumerate(loaded, 1)]
    checksums = getattr(getattr(loaded, "info", None), "download_checksums", None) or {}
    fingerprint = getattr(loaded, "_fingerprint", None)
    revision = _commit(map(str, checksums)) or (fingerprint and f"fingerprint {fingerprint}")
    return Rows(name=name, sha256=None, revision=revision, rows=_not_none(name, rows))


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


def _is_data(path: Path) -> bool:
    return path.name.endswith((*_LINED, _PARQUET)) and not path.name.startswith(".")


def _chunks(files: list[Path], most_bytes: int | None = None) -> Iterator[Chunk]:
    """The records of files; of a ``.gz`` at most so many bytes are unpacked."""
    total = sum(file.stat().st_size for file in files) or 1
    before = 0
    for file in files:
        size = file.stat().st_size
        is_table = file.name.endswith(_PARQUET)
        with _read_errors(file.name):
            for records, share in _parquet_chunks(file) if is_table else _line_chunks(file, most_bytes):
                yield Chunk(file.name, records, (before + share * size) / total)
        before += size


_Records = tuple[tuple[int, Record], ...]
_File = IO[bytes] | gzip.GzipFile


def _parquet_chunks(path: Path) -> Iterator[tuple[_Records, float]]:
    parquet = import_optional("pyarrow.parquet", f"{path.name} is read")
    with parquet.ParquetFile(path) as file:
        total, done = file.metadata.num_rows, 0
        for batch in file.iter_batches(batch_size=_CHUNK_ROWS):
            yield tuple(enumerate(batch.to_pylist(), done + 1)), (done + len(batch)) / total
            done += len(batch)


def _line_chunks(path: Path, most_bytes: int | None) -> Iterator[tuple[_Records, float]]:
    size = path.stat().st_size or 1
    with path.open("rb") as packed, _unpacking(path, packed) as file:
        records: list[tuple[int, Record]] = []
        num_bytes = 0
        for number, line in _lines(path, file, most_bytes if file is not packed else None):
            records.append((number, line))
            num_bytes += len(line) if isinstance(line, bytes) else 0
            if len(records) == _CHUNK_ROWS or num_bytes >= _CHUNK_BYTES:
                yield tuple(records), min(1.0, packed.tell() / size)
                records, num_bytes = [], 0
        if records:
            yield tuple(records), 1.0


@contextmanager
def _unpacking(path: Path, packed: IO[bytes]) -> Iterator[_File]:
    if path.suffix != ".gz":
        yield packed
        return
    with gzip.open(packed) as file:
        yield file


def _lines(path: Path, file: _File, most_bytes: int | None) -> Iterator[tuple[int, Record]]:
    """Lines that are not blank, each with its number; one that is too long for memory is an error."""
    number = num_bytes = 0
    # Only "\n" ends a line: JSON texts may hold the other characters that splitlines() breaks at.
    while line := file.readline(_LINE_BYTES):
        number += 1
        num_bytes += len(line)
        record: Record = line
        if len(line) == _LINE_BYTES and not line.endswith(b"\n"):
            place = _place(path.name, number)
            record = RowError(f"{place}: longer than {_LINE_BYTES:,} bytes; expected a row", "bad_line")
            while (line := file.readline(_LINE_BYTES)) and not line.endswith(b"\n"):
                num_bytes += len(line)
        if most_bytes is not None and num_bytes > most_bytes:
            raise ValueError(f"it unpacks to more than {most_bytes:,} bytes: unpack it yourself")
        if number == 1 and isinstance(record, bytes):
            record = record.removeprefix(_BOM)
        if not isinstance(record, bytes) or record.strip():
            yield number, record


def _row_of_line(source: str, number: int, line: bytes) -> Row | RowError:
    place = _place(source, number)
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        why = f"not UTF-8 at byte {error.start + 1} of the line; save as UTF-8"
    except (ValueError, RecursionError) as error:
        why = f"not JSON ({_one_line(error)}); expected one object a line"
    else:
        if isinstance(record, dict):
            return Row(source, number, record)
        why = f"{_kind(record)}; expected one JSON object a line"
    return RowError(f"{place}: {why}", "bad_line")


def _first(chunks: Callable[[], Iterator[Chunk]], limit: int) -> Iterator[Chunk]:
    left = limit
    for chunk in chunks():
        share = max(chunk.share or 0.0, min(1.0, (limit - left + len(chunk)) / limit))
        yield Chunk(chunk.source, chunk.records[:left], share)
        left -= len(chunk)
        if left <= 0:
            return


@contextmanager
def _read_errors(name: str) -> Iterator[None]:
    try:
        yield
    # ArrowInvalid is a ValueError; a cut gzip ends in EOFError.
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ConfigError(f"{name} can't be read ({_one_line(error)}): get the file again") from error


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    try:
        yield
    # Its own errors, unreachable and gated data sets are OSErrors; unknown subsets and splits ValueErrors.
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{name} can't be had from the Hugging Face hub ({_one_line(error)}): check the network and, for "
            "a gated data set, your token, or give a local file instead"
        ) from error


def _hub_name(dataset: str, config: str | None, split: str) -> str:
    return " ".join(part for part in (dataset, config, split) if part)


def _commit(addresses: Iterable[str]) -> str | None:
    """The commit that the files come from, as their addresses have it."""
    found = (re.search(r"@([0-9a-f]{40})/", address) for address in addresses)
    return next((match[1] for match in found if match), None)


def _not_none(name: str, rows: list[Row]) -> tuple[Row, ...]:
    if not rows:
        raise no_rows(name)
    return tuple(rows)


def no_rows(name: str) -> ConfigError:
    """What is wrong with a data set that is empty."""
    return ConfigError(f"{name} holds no rows; expected at least one")


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

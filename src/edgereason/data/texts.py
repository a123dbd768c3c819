"""Plain texts, from a file as it stands or from the `text` fields of a data set.

Knows files; does not know tokens, nor what a text is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgereason.core.bundle import file_sha256
from edgereason.data.rows import Row, read_file
from edgereason.errors import ConfigError

_PLAIN: Final = (".raw", ".txt")


@dataclass(frozen=True, slots=True)
class Text:
    """A text and the file that it is from: its name, not its path."""

    name: str
    sha256: str
    text: str


def read_text(path: Path) -> Text:
    """A .raw or .txt file as it stands, or the `text` fields of a data set's rows, joined without anything.

    Raises:
        ConfigError: it can't be read, is no UTF-8, is empty, or a row has no text.
    """
    if path.suffix not in _PLAIN:
        rows = read_file(path)
        assert rows.sha256 is not None
        return Text(rows.name, rows.sha256, "".join(map(_text, rows.rows)))
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 at byte {error.start + 1}: save it as UTF-8") from error
    if not text:
        raise ConfigError(f"{path.name} is empty: expected a text")
    return Text(path.name, file_sha256(path), text)


def _text(row: Row) -> str:
    value = row.value("text")
    is_blank = isinstance(value, str) and not value.strip()  # a line between paragraphs, say
    return value if is_blank else row.text("text")

"""Text of models, files and other people on its way to a terminal or a page, without what would drive it.

Escape sequences begin with a control character; without it, what is left of one is harmless letters. Marks
that turn the direction of writing can make a line read as another one, so they go too.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

# All control characters but tab and line break, and the marks that embed, override or isolate a direction.
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """`text` without control characters; tabs and line breaks stay."""
    return _CONTROLS.sub("", text)


def on_one_line(text: str) -> str:
    """`text` without control characters, its white space as single blanks."""
    return printable(" ".join(text.split()))


def json_text(value: Any, **options: Any) -> str:
    """`value` as JSON that can be shown: what JSON itself leaves of the control characters is escaped.

    Args:
        value: plain values.
        options: of `json.dumps`.
    """
    return _CONTROLS.sub(_escaped, json.dumps(value, **options))


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"

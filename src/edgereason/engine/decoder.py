"""Bytes of tokens as text: a token may end in the middle of a character.

Knows bytes; does not know tokens.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field


@dataclass(slots=True)
class TextDecoder:
    """Bytes of tokens to text as they come, holding back a character that is not complete yet."""

    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )

    @property
    def is_mid_character(self) -> bool:
        """Whether bytes of an unfinished character are held back."""
        return bool(self._decoder.getstate()[0])

    def push(self, piece: bytes) -> str:
        """Text that `piece` completes; may be empty."""
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """What an unfinished character becomes at the end: U+FFFD, or nothing."""
        return self._decoder.decode(b"", final=True)

"""What an engine encodes, for tests that claim how little it is."""

from __future__ import annotations

from edgereason.engine.base import Sequence


class EncodingsNoted:
    """Named before an engine among a class's bases, it notes how many tokens every encoding has."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.encoded: list[int] = []

    def encode(self, sequence: Sequence, tokens: object, **options: object) -> bool:
        self.encoded.append(len(tokens))  # type: ignore[arg-type]
        return super().encode(sequence, tokens, **options)  # type: ignore[misc]

    def take_encoded(self) -> list[int]:
        """Those since the last call."""
        encoded, self.encoded = self.encoded, []
        return encoded

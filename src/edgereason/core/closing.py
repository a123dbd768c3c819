"""What is closed when a `with` block ends."""

from __future__ import annotations

from typing import Self


class Closing:
    """Base of objects that hold something until `close`; a context manager."""

    __slots__ = ()

    def close(self) -> None:
        """Gives back what the object holds; once more does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

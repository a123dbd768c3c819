"""Heads that stay the same where their file becomes another: what is known of them still holds.

`train heads verifier --into FILE` puts a new verifier beside a switcher that nobody touched. The file's hash
is another then; the switcher's history, figures and threshold are not.

Knows files of heads and results; does not know what made either.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np

from edgereason.bundles.results import HEAD
from edgereason.core.bundle import Bundle, Result
from edgereason.heads.file import Heads, read_heads

SWITCHER: Final = "switcher"
VERIFIER: Final = "verifier"
_THRESHOLD: Final = "threshold"


@dataclass(frozen=True, slots=True, kw_only=True)
class SameHeads:
    """What a bundle's heads have in common with those of the bundle that it is made from.

    Attributes:
        kinds: of the heads that are the same in both.
        has_same_threshold: whether the switcher is one of them, and begins to think where it did.
        before: hashes that their file had.
    """

    kinds: frozenset[str] = frozenset()
    has_same_threshold: bool = False
    before: frozenset[str] = frozenset()

    @classmethod
    def of(cls, bundle: Bundle, start: Bundle | None) -> SameHeads:
        """Compares the files of two bundles.

        Raises:
            BundleError: a file can't be read, or is not the one that its manifest names.
        """
        if start is None or start.heads is None or bundle.heads is None:
            return cls()
        ours = read_heads(bundle.folder / bundle.heads.file)
        theirs = read_heads(start.verified_file(start.heads))
        kinds = frozenset(kind for kind in (SWITCHER, VERIFIER) if is_same(kind, ours, theirs))
        return cls(
            kinds=kinds,
            has_same_threshold=SWITCHER in kinds
            and _plain(ours.switcher)[_THRESHOLD] == _plain(theirs.switcher)[_THRESHOLD],
            before=frozenset((start.heads.sha256, *start.earlier_heads)),
        )

    def moved(self, result: Result, sha256: str | None) -> Result:
        """A result, told of the file that its head is in now, if that is another file with the same head."""
        if sha256 is None or sha256 in self.before:
            return result
        if result.record != HEAD or result.what.split()[0] not in self.kinds:
            return result
        return replace(result, parts=tuple(sha256 if part in self.before else part for part in result.parts))


def is_same(kind: str, ours: Heads, theirs: Heads) -> bool:
    """Whether a head has the same weights and reads the same; the threshold may differ."""
    one, other = getattr(ours, kind), getattr(theirs, kind)
    if one is None or other is None:
        return False
    a, b = _plain(one), _plain(other)
    return all(_equal(a[name], b[name]) for name in a if name != _THRESHOLD)


def _equal(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other)


def _plain(head: Any) -> dict[str, Any]:
    return {field.name: getattr(head, field.name) for field in fields(head)}

"""Everything about a bundle that can be checked without answering a question, one line a check.

::

    manifest → base found, hashed, as described → adapter hashed, readable, for this base, loads
                                                → heads hashed, readable, for base and adapter
                                                → opening and closing as this version writes them

What needs the base is left out, and that is said, where it is not on this machine. Knows how parts are
checked; does not know terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from edgereason.core.bundle import Bundle, Part
from edgereason.core.chat import CLOSING
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import EdgeReasonError
from edgereason.evals.bundles.base import BaseFile, find_base, read_base
from edgereason.evals.bundles.fit import require_adapter, require_heads


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WRONG = "wrong"
    LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Check:
    """What was checked, and what came out."""

    what: str
    outcome: Outcome
    text: str


def verify(folder: Path, base_path: Path | None = None) -> Iterator[Check]:
    """Checks a bundle, from the manifest on; each check goes on behind one that failed.

    Args:
        folder: of the bundle.
        base_path: of the base, where it is neither in the bundle nor in the cache.
    """
    try:
        bundle = Bundle.read(folder)
    except EdgeReasonError as error:
        yield Check("manifest", Outcome.WRONG, str(error))
        return
    yield Check("manifest", Outcome.OK, f"{bundle.title}, form and version")
    path, base = base_path or find_base(bundle).path, None
    if path is None:
        yield Check("base", Outcome.LEFT_OUT, f"{bundle.base.name} is not here: pull it, or give --base")
    else:
        try:
            base = _checked_base(bundle, path)
            yield Check("base", Outcome.OK, f"{bundle.base.name}, hash, shapes and vocabulary")
        except EdgeReasonError as error:
            yield Check("base", Outcome.WRONG, str(error))
    if bundle.adapter is not None:
        yield from _adapter_checks(bundle, bundle.adapter, base)
    if bundle.heads is not None:
        heads = bundle.heads
        yield _check("heads", lambda: _hash_of(bundle, heads))
        yield _check("heads", lambda: _heads_of(bundle, heads))
    yield _check("seams", lambda: _seams_of(bundle, base))


def _adapter_checks(bundle: Bundle, part: Part, base: BaseFile | None) -> Iterator[Check]:
    yield _check("adapter", lambda: _hash_of(bundle, part))
    fits = _check("adapter", lambda: _adapter_of(bundle, part, base))
    yield fits
    if base is not None and fits.outcome is Outcome.OK:
        yield _check("adapter", lambda: _loaded(bundle, part, base))


def _check(what: str, carry_out: Callable[[], str]) -> Check:
    """A check whose error is what is wrong."""
    try:
        return Check(what, Outcome.OK, carry_out())
    except EdgeReasonError as error:
        return Check(what, Outcome.WRONG, str(error))


def _checked_base(bundle: Bundle, path: Path) -> BaseFile:
    base = read_base(path)
    bundle.check_base(base.base)
    return base


def _hash_of(bundle: Bundle, part: Part) -> str:
    return f"{bundle.verified_file(part).name}, hash"


def _adapter_of(bundle: Bundle, part: Part, base: BaseFile | None) -> str:
    path = bundle.folder / part.file
    info = require_adapter(path, bundle.base, bundle.opening_ids, base.path if base else None)
    shapes = "its shapes" if base else "not its shapes, without the base"
    return f"rank {info.rank}, {info.storage}, for this base and opening, {shapes}"


def _loaded(bundle: Bundle, part: Part, base: BaseFile) -> str:
    with LlamaEngine(base.path) as engine:
        engine.load_adapter(bundle.folder / part.file)
    return "the engine loads it"


def _heads_of(bundle: Bundle, part: Part) -> str:
    heads = require_heads(bundle.folder / part.file, bundle.base, bundle.adapter_sha256)
    names = []
    if heads.switcher is not None:
        names.append(f"switcher (thinks from {heads.switcher.threshold:.3g} on)")
    if heads.verifier is not None:
        names.append("verifier")
    return f"{' and '.join(names)}, for this base and adapter"


def _seams_of(bundle: Bundle, base: BaseFile | None) -> str:
    bundle.check_seams(base.opening_ids if base else bundle.opening_ids, CLOSING)
    return "opening and closing" if base else "closing; not the opening, without the base"

"""Everything about a bundle that can be checked without answering a question, one line a check.

::

    manifest → base found, hashed, as described → adapter hashed, readable, for this base, loads
                                                → heads hashed, readable, for base and adapter
                                                → opening and closing as this version writes them
                                                → README.md as manifest and parts say

Checks that need the base are left out where it is not on this machine, and their lines say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from edgereason.bundles.card import CARD, render_card
from edgereason.core.bundle import Base, Bundle, Part
from edgereason.core.chat import CLOSING, Seams
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError, EdgeReasonError
from edgereason.hub.catalog import find_by_sha256
from edgereason.hub.local_bases import remember_base
from edgereason.hub.pull import find_base, require_base
from edgereason.quant.adapter_file import AdapterInfo, read_adapter_info, require_fit
from edgereason.quant.gguf_file import GgufModel
from edgereason.reasoning.model import describe_base, heads_of
from edgereason.records.machine import versions


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFile:
    """A base that was loaded once: what a bundle says of it, and the ids of the opening in its vocabulary."""

    path: Path
    base: Base
    opening_ids: tuple[int, ...]


class CheckOutcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WRONG = "wrong"
    LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Check:
    """What was checked, and what came out."""

    what: str
    outcome: CheckOutcome
    text: str


def read_base(path: Path, name: str | None = None) -> BaseFile:
    """Loads a base and says what a bundle must know of it.

    Args:
        path: of the file.
        name: what it is called; by default as in the catalogue, else as its file.

    Raises:
        ModelFileError: it can't be loaded.
    """
    with LlamaEngine(path) as engine:
        base, opening_ids = describe_base(engine, path), Seams.of(engine.tokenize).opening
    model = find_by_sha256(base.sha256)
    called = name or (model.file_name if model else path.name)
    return BaseFile(path=path, base=replace(base, name=called), opening_ids=opening_ids)


def require_adapter(
    path: Path, base: Base, opening_ids: Sequence[int], base_path: Path | None = None
) -> AdapterInfo:
    """What an adapter says of itself, which is what the base and the opening ask for.

    Args:
        path: of the adapter.
        base: that it must be for.
        opening_ids: that must turn it on.
        base_path: of the base, for its shapes; None where it is not here.

    Raises:
        BundleError: it can't be read, or is for something else.
    """
    info = read_adapter_info(path)
    if info.base_sha256 != base.sha256:
        said = "no base" if info.base_sha256 is None else f"the base {info.base_sha256}"
        raise BundleError(
            f"the adapter {path.name} names {said}, the bundle's is {base.sha256} ({base.name}): "
            "train or export it on this one"
        )
    if info.invocation != tuple(opening_ids):
        raise BundleError(
            f"the adapter {path.name} is turned on by the ids {list(info.invocation)}, the opening has "
            f"{list(opening_ids)}: export it with this version"
        )
    if info.arch != base.arch:
        raise BundleError(
            f"the adapter {path.name} is for the family {info.arch}, the base is of {base.arch}"
        )
    if base_path is not None:
        require_fit(info, GgufModel(base_path))
    return info


def verify(folder: Path, base_path: Path | None = None) -> Iterator[Check]:
    """Checks a bundle, from the manifest on; each check goes on behind one that failed.

    Args:
        folder: of the bundle.
        base_path: of the base, where it is neither in the bundle nor in the cache.
    """
    try:
        bundle = Bundle.read(folder)
    except EdgeReasonError as error:
        yield Check("manifest", CheckOutcome.WRONG, str(error))
        return
    yield Check("manifest", CheckOutcome.OK, f"{bundle.title}, form and version")
    path, base = base_path or find_base(bundle).path, None
    if path is None:
        yield Check("base", CheckOutcome.LEFT_OUT, f"{bundle.base.name} is not here: pull it, or give --base")
    else:
        try:
            base = _checked_base(bundle, path)
            yield Check("base", CheckOutcome.OK, f"{bundle.base.name}, hash, shapes and vocabulary")
        except EdgeReasonError as error:
            yield Check("base", CheckOutcome.WRONG, str(error))
    if bundle.adapter is not None:
        yield from _adapter_checks(bundle, bundle.adapter, base)
    if bundle.heads is not None:
        yield _check("heads", lambda: _heads_of(bundle))
    yield _check("seams", lambda: _seams_of(bundle, base))
    yield _card_check(bundle)


def _adapter_checks(bundle: Bundle, part: Part, base: BaseFile | None) -> Iterator[Check]:
    yield _check("adapter", lambda: _hash_of(bundle, part))
    fits = _check("adapter", lambda: _adapter_of(bundle, part, base))
    yield fits
    if base is not None and fits.outcome is CheckOutcome.OK:
        yield _check("adapter", lambda: _loaded(bundle, part, base))


def _check(what: str, carry_out: Callable[[], str]) -> Check:
    """A check whose error is what is wrong."""
    try:
        return Check(what, CheckOutcome.OK, carry_out())
    except EdgeReasonError as error:
        return Check(what, CheckOutcome.WRONG, str(error))


def _checked_base(bundle: Bundle, path: Path) -> BaseFile:
    require_base(bundle, path)
    base = read_base(path)
    bundle.check_base(base.base)
    remember_base(path, base.base.sha256)
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


def _heads_of(bundle: Bundle) -> str:
    heads = heads_of(bundle)
    assert heads is not None
    assert bundle.heads is not None
    names = []
    if heads.switcher is not None:
        names.append(f"switcher (thinks from {heads.switcher.threshold:.3g} on)")
    if heads.verifier is not None:
        names.append("verifier")
    return f"{bundle.heads.file}, hash; {' and '.join(names)}, for this base and adapter"


def _seams_of(bundle: Bundle, base: BaseFile | None) -> str:
    bundle.check_seams(base.opening_ids if base else bundle.opening_ids, CLOSING)
    return "opening and closing" if base else "closing; not the opening, without the base"


def _card_check(bundle: Bundle) -> Check:
    if not (bundle.folder / CARD).is_file():
        return Check("card", CheckOutcome.LEFT_OUT, f"there is no {CARD}; edgereason bundle build writes one")
    try:
        text = (bundle.folder / CARD).read_text(encoding="utf-8")
        is_same = text == render_card(bundle)
    except OSError as error:
        return Check(
            "card", CheckOutcome.WRONG, f"{CARD} or what it describes can't be read: {error.strerror}"
        )
    except (UnicodeDecodeError, BundleError) as error:
        return Check("card", CheckOutcome.WRONG, str(error))
    if is_same:
        return Check("card", CheckOutcome.OK, f"{CARD}, as manifest and parts say")
    if (ours := versions()["edgereason"]) not in (writers := _writers(bundle)):
        said = " and ".join(writers) or "another version"
        return Check(
            "card", CheckOutcome.LEFT_OUT, f"{CARD} was written by edgereason {said}, this is {ours}"
        )
    return Check(
        "card",
        CheckOutcome.WRONG,
        f"{CARD} is not what manifest and parts say: build it again (edgereason bundle build --from …)",
    )


def _writers(bundle: Bundle) -> list[str]:
    """Versions of edgereason that may have written the card."""
    entries = (bundle.provenance.get("bundle"), (bundle.calibration or {}).get("versions"))
    return sorted({str(one.get("edgereason")) for one in entries if isinstance(one, Mapping)})

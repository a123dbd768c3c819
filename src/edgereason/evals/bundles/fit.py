"""Whether the parts of a bundle fit one another: adapter to base, heads to both.

Knows what the parts' files say of themselves; does not know manifests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgereason.core.bundle import Base
from edgereason.errors import BundleError
from edgereason.heads.file import Heads, read_heads
from edgereason.quant.adapter_info import AdapterInfo, read_adapter_info, require_fit
from edgereason.quant.gguf_file import GgufModel


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


def require_heads(path: Path, base: Base, adapter_sha256: str | None) -> Heads:
    """Heads that are for this base and adapter.

    Raises:
        BundleError: they can't be read, or are for something else.
    """
    heads = read_heads(path)
    heads.check(base_sha256=base.sha256, hidden_size=base.hidden_size, adapter_sha256=adapter_sha256)
    return heads

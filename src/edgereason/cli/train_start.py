"""What a training begins with: an adapter of an earlier one, or of a bundle.

::

    FOLDER of a training    adapter/ (PEFT's) and bundle/ (what ships)
    FOLDER of a bundle      bundle.json and a GGUF, which is unpacked where the training is

Knows folders; does not know what is trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgereason.core.bundle import MANIFEST, Bundle, Part
from edgereason.errors import BundleError

if TYPE_CHECKING:
    from edgereason.core.bundle import Base
    from edgereason.quant.gguf_file import GgufModel


def shipped(start: Path) -> tuple[Bundle, Part]:
    """The bundle at `start`, or of the training there, and its adapter.

    Raises:
        BundleError: there is none.
    """
    bundle = Bundle.read(start if (start / MANIFEST).is_file() else start / "bundle")
    if bundle.adapter is None:
        raise BundleError(f"{start} has a bundle without an adapter: give the folder of a training")
    return bundle, bundle.adapter


def trainable(start: Path, base: GgufModel, about_base: Base, output: Path) -> Path:
    """The folder of PEFT's adapter at `start`; that of a bundle is unpacked in `output`, as it ships.

    Raises:
        BundleError: there is none, or it is for another base.
    """
    from edgereason.train.adapters import import_adapter
    from edgereason.train.sft import ADAPTER

    if not (start / MANIFEST).is_file():
        return start / ADAPTER
    bundle, part = shipped(start)
    bundle.check_base(about_base)
    import_adapter(
        bundle.verified_file(part),
        base,
        output / "start",
        base_name=about_base.name,
        base_sha256=about_base.sha256,
        opening=bundle.opening_ids,
    )
    return output / "start"

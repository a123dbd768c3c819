"""What a training begins with: an adapter of an earlier one, or of a bundle.

::

    FOLDER of a training    adapter/ (PEFT's) and bundle/ (what ships)
    FOLDER of a bundle      bundle.json and a GGUF, which is unpacked for as long as it is read

Knows folders; does not know what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
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


def started_from(start: Path | None) -> dict[str, str]:
    """What a record says of the adapter that a training began with, so that a bundle can tell its history.

    Returns:
        Its hash as it ships, under `started_from`; nothing for a new adapter, or one that was never exported.
    """
    if start is None or not any((folder / MANIFEST).is_file() for folder in (start, start / "bundle")):
        return {}
    _, part = shipped(start)
    return {"started_from": part.sha256}


@contextmanager
def trainable(start: Path, base: GgufModel, about_base: Base) -> Iterator[Path]:
    """The folder of PEFT's adapter at `start`; a bundle's is unpacked as it ships, and goes with the context.

    Raises:
        BundleError: there is none, or it is for another base.
    """
    from edgereason.train.lora.adapters import import_adapter
    from edgereason.train.lora.sft import ADAPTER

    if not (start / MANIFEST).is_file():
        yield start / ADAPTER
        return
    bundle, part = shipped(start)
    bundle.check_base(about_base)
    with TemporaryDirectory() as folder:
        import_adapter(
            bundle.verified_file(part),
            base,
            Path(folder),
            base_name=about_base.name,
            base_sha256=about_base.sha256,
            opening=bundle.opening_ids,
        )
        yield Path(folder)

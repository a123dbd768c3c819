"""What a training ends with: its adapter as a bundle, and a record of all of it.

::

    FOLDER of a training    bundle/ (what ships) and record.json

Knows folders; does not know how an adapter is trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgereason.core.bundle import Base


def finish(
    folder: Path,
    record: dict[str, Any],
    base_path: Path,
    base: Base,
    opening: tuple[int, ...],
    buckets: tuple[int, ...],
    threads: int | None,
) -> dict[str, Any]:
    """Puts bundle and record beside a trained adapter, or leaves those of a run that was finished before.

    Args:
        folder: of the training.
        record: what it says of itself.
        base_path: of the base; base, opening, buckets: for the manifest.
        threads: CPU threads; None for all.

    Returns:
        The record that is there now.
    """
    from edgereason.core.bundle import write_atomically
    from edgereason.records.folder import about, peak_rss_bytes

    path = folder / "record.json"
    if path.is_file():  # this call's date and machine trained nothing, and the bundle may have heads by now
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found
    record = record | {"adapter": write_bundle(folder, base_path, base, opening, buckets)}
    record |= about(threads) | {"peak_rss_bytes": peak_rss_bytes()}
    write_atomically(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def write_bundle(
    folder: Path, base_path: Path, base: Base, opening: tuple[int, ...], buckets: tuple[int, ...]
) -> dict[str, Any]:
    """Exports the adapter and puts a manifest beside it, so that `ask` and `eval` take the folder."""
    from edgereason.core.bundle import Bundle, Part, file_sha256
    from edgereason.core.chat import CLOSING
    from edgereason.quant.gguf_file import GgufModel
    from edgereason.train.lora.adapters import export_adapter, grid_for, settings_of
    from edgereason.train.lora.sft import ADAPTER

    bundle, source = folder / "bundle", folder / ADAPTER
    bundle.mkdir(exist_ok=True)
    target = bundle / "reasoning.gguf"
    grid = grid_for(settings_of(source).rank)
    export_adapter(source, GgufModel(base_path), target, base_sha256=base.sha256, grid=grid)
    part = Part(file=target.name, sha256=file_sha256(target))
    Bundle(
        folder=bundle, base=base, opening_ids=opening, closing=CLOSING, buckets=buckets, adapter=part
    ).write()
    return {"sha256": part.sha256, "size_bytes": target.stat().st_size, "grid": str(grid)}

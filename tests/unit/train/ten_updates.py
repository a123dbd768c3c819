"""Begins a training on traces and stops it behind ten updates, in a process whose memory can be watched."""

from __future__ import annotations

import sys
from pathlib import Path


def main(base: Path, traces: Path, folder: Path) -> None:
    # Not at the top, where the processes that tokenize would load it all.
    from edgereason.records.context import RunContext
    from edgereason.train.lora.adapters import LoraSettings
    from edgereason.train.lora.loop import TrainConfig
    from edgereason.train.lora.run import BaseConfig, SftRecipe, run

    metrics = folder / "metrics.jsonl"

    def has_ten_updates() -> bool:
        return metrics.is_file() and metrics.read_text().count("\n") >= 10

    recipe = SftRecipe(
        base=BaseConfig(name=str(base)),
        lora=LoraSettings(rank=4),
        training=TrainConfig(batch_rows=8, micro_rows=4),
    )
    assert run(recipe, folder, RunContext(should_stop=has_ten_updates), traces=[traces]) is None


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))

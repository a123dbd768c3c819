"""Begins a training on traces and stops it behind ten updates; a program of its own, so that its memory is."""

from __future__ import annotations

import sys
from pathlib import Path

from edgereason.records.context import RunContext
from edgereason.train.lora.adapters import LoraSettings
from edgereason.train.lora.loop import TrainConfig
from edgereason.train.lora.run import BaseConfig, SftRecipe, run

if __name__ == "__main__":
    base, traces, folder = map(Path, sys.argv[1:4])
    metrics = folder / "metrics.jsonl"

    def has_ten_updates() -> bool:
        return metrics.is_file() and metrics.read_text().count("\n") >= 10

    recipe = SftRecipe(
        base=BaseConfig(name=str(base)),
        lora=LoraSettings(rank=4),
        training=TrainConfig(batch_rows=8, micro_rows=4),
    )
    assert run(recipe, folder, RunContext(should_stop=has_ten_updates), traces=[traces]) is None

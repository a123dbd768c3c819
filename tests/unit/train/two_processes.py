"""Fine-tunes the tiny model in one process, and in two; a test runs it as a process that has not trained."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from processes import together
from test_train_sft import CONFIG, RECIPE, train

from edgereason.train.lora.adapters import LoraSettings

if __name__ == "__main__":
    recipe = replace(RECIPE, lora=LoraSettings(rank=4), training=replace(CONFIG, micro_rows=2))
    for count, name in ((1, "one"), (2, "two")):
        together(count, lambda name=name: train(Path(sys.argv[1]) / name, recipe))

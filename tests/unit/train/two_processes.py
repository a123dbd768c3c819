"""Fine-tunes the tiny model in one of two processes; run by torch's launcher."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from test_train_sft import CONFIG, RECIPE, train

from edgereason.train.lora.adapters import LoraSettings

if __name__ == "__main__":
    recipe = replace(RECIPE, lora=LoraSettings(rank=4), training=replace(CONFIG, micro_rows=int(sys.argv[2])))
    train(Path(sys.argv[1]), recipe)

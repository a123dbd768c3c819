"""Fine-tunes the tiny model in two processes, kills them in a later epoch, and starts them again.

    python two_processes_resumed.py FOLDER STEP …

`FOLDER/whole` runs to its end; `FOLDER/STEP` is killed behind that update and goes on.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from processes import together
from test_train_sft import CONFIG, RECIPE, after, train

from edgereason.train.lora.adapters import LoraSettings

# No dropout: its masks are each process's own, and go on exactly with its random state anyway.
SETTINGS = replace(RECIPE, lora=LoraSettings(rank=4), training=replace(CONFIG, micro_rows=2))


def killed(folder: Path, step: int) -> None:
    """Leaves a checkpoint behind `step`, and dies without any clean-up."""
    assert train(folder, SETTINGS, should_stop=after(step)) is None
    os._exit(0)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    together(2, lambda: train(root / "whole", SETTINGS))
    for step in map(int, sys.argv[2:]):
        folder = root / str(step)
        together(2, lambda folder=folder, step=step: killed(folder, step))
        together(2, lambda folder=folder: train(folder, SETTINGS))

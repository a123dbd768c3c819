"""Fine-tunes the tiny model in two processes, kills them, and goes on in one; and the other way round.

python processes_change.py FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from processes import together
from test_train_sft import after, train
from two_processes_resumed import SETTINGS


def killed(folder: Path) -> None:
    """Leaves a checkpoint behind the third update, and dies without any clean-up."""
    assert train(folder, SETTINGS, should_stop=after(3)) is None
    os._exit(0)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    together(2, lambda: train(root / "whole", SETTINGS))
    for before, behind in ((2, 1), (1, 2)):
        folder = root / f"{before}-{behind}"
        together(before, lambda folder=folder: killed(folder))
        together(behind, lambda folder=folder: train(folder, SETTINGS))

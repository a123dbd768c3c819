"""GRPO of the tiny model in one of two processes; run by torch's launcher."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from test_train_grpo import CONFIG, RECIPE, train

if __name__ == "__main__":
    # Two groups an update, whole in a process; nothing is replaced, since that depends on who draws.
    recipe = replace(RECIPE, training=replace(CONFIG, steps=2, micro_rows=4, redraws=0, learning_rate=1e-3))
    train(Path(sys.argv[2]), Path(sys.argv[1]), recipe)

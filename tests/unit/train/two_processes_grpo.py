"""GRPO of the tiny model in one process, and in two; a test runs it as a process that has not trained."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from processes import together
from test_train_grpo import CONFIG, RECIPE, train

if __name__ == "__main__":
    # Two groups an update, whole in a process; nothing is replaced, since that depends on who draws.
    recipe = replace(RECIPE, training=replace(CONFIG, steps=2, micro_rows=4, redraws=0, learning_rate=1e-3))
    start, folder = map(Path, sys.argv[1:])
    for count, name in ((1, "one"), (2, "two")):
        together(count, lambda name=name: train(folder / name, start, recipe))

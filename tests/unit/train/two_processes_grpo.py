"""GRPO of the tiny model in one process, in two, and in two that are killed and go on.

A test runs it as a process that has not trained.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from processes import together
from test_train_grpo import CONFIG, RECIPE, after, train


def killed(folder: Path) -> None:
    """Leaves a checkpoint behind the first update, and dies without any clean-up."""
    assert train(folder, start, recipe, should_stop=after(1)) is None
    os._exit(0)


if __name__ == "__main__":
    # Two groups an update, whole in a process; nothing is replaced, since that depends on who draws.
    recipe = replace(RECIPE, training=replace(CONFIG, steps=2, micro_rows=4, redraws=0, learning_rate=1e-3))
    start, folder = map(Path, sys.argv[1:])
    for count, name in ((1, "one"), (2, "two")):
        together(count, lambda name=name: train(folder / name, start, recipe))
    together(2, lambda: killed(folder / "killed"))
    together(2, lambda: train(folder / "killed", start, recipe))

"""Additions that a model is trained on in tests: a recipe, traces that say how, and questions that ask."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RECIPE = """
[base]
name = "smollm2-135m"
[lora]
rank = 32
[training]
epochs = 1
batch_rows = 2
micro_rows = 2
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs `edgereason ARGUMENTS` to its end."""
    return subprocess.run([sys.executable, "-m", "edgereason", *arguments], capture_output=True, text=True)


def write_traces(path: Path, count: int) -> Path:
    """Traces of n + 1."""
    return write_lines(
        path,
        (
            {
                "id": str(n),
                "messages": [{"role": "user", "content": f"What is {n} + 1?"}],
                "thinking": f"One more than {n} is {n + 1}.",
                "answer": f"The final answer is {n + 1}.",
                "source": "sums",
            }
            for n in range(count)
        ),
    )


def write_questions(path: Path, count: int) -> Path:
    """Questions for n + 2."""
    rows = ({"id": f"q{n}", "question": f"What is {n} + 2?", "answer": f"{n + 2}"} for n in range(count))
    return write_lines(path, rows)


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path

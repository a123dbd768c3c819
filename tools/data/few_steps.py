"""Keeps the questions whose worked solution has few steps: a small model is right on them now and then.

Groups whose responses are all wrong teach nothing. Of the questions of two or three steps the 0.5B gets about
a third right, of those of five and more one in twenty (results/quant/trained/gsm8k).

    python tools/data/few_steps.py gsm8k_train.jsonl.gz --most 3 -o few_steps.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edgereason.core.bundle import write_atomically
from edgereason.data.rows import read_file
from edgereason.train.data.solutions import num_steps


def main() -> None:
    """Reads, chooses and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", type=Path, help="JSONL of questions with a solution each, a line a step")
    parser.add_argument("--most", type=int, default=3, help="steps [3]")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows = read_file(arguments.questions).rows
    kept = [row for row in rows if num_steps(row.text("solution")) <= arguments.most]
    lines = (json.dumps(dict(row.values), ensure_ascii=False) + "\n" for row in kept)
    write_atomically(arguments.output, "".join(lines))
    print(f"{arguments.output}: {len(kept)} of {len(rows)} questions")


if __name__ == "__main__":
    main()

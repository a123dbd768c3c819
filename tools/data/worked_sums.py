"""Makes sums with worked solutions, a task for the smallest model; see `edgereason.train.data.worked_sums`.

python tools/data/worked_sums.py --count 1500 --seed 1 -o sums.jsonl
edgereason train traces --from sums.jsonl --format worked --model smollm2-135m -o traces
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edgereason.core.bundle import write_atomically
from edgereason.train.data.worked_sums import rows


def main() -> None:
    """Makes and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1, help="1 or more")
    parser.add_argument("--most-terms", type=int, help="leave longer sums out")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.seed < 1:
        parser.error(f"--seed must be 1 or more, got {arguments.seed}: those below are the evaluation's")
    made = list(rows(arguments.count, arguments.seed, arguments.most_terms))
    write_atomically(arguments.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made))
    print(f"{arguments.output}: {len(made)} sums")


if __name__ == "__main__":
    main()

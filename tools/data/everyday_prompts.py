"""Writes the prompts of `generate = "everyday:COUNT"` to a file, for `train heads switcher --prompts`.

python tools/data/everyday_prompts.py --count 2400 -o everyday.jsonl
python tools/data/everyday_prompts.py --count 600 --seed 1 -o other_everyday.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edgereason.train.data.everyday import DEFAULT_COUNT, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=DEFAULT_COUNT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows(given.count, given.seed))
    given.output.write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()

r"""Makes rows in the schema of OpenThoughts3; every fiftieth is of a kind that can't be used.

::

    {difficulty, source, domain, conversations: [{from: human, value}, {from: gpt, value: "<think>…"}]}

Texts are short sums: what is tried with them is reading, not learning. Of a hundred rows that follow one
another, two are of one of the kinds of `BAD`, each in its turn, so that what a reader leaves out can be told
beforehand. The same arguments give the same rows.

    python tools/data/openthoughts_rows.py --count 2000000 -o /tmp/openthoughts
    edgereason train traces --from /tmp/openthoughts --format openthoughts3 \
        --against /tmp/openthoughts/eval/questions.jsonl -o traces
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BAD = (
    "no_closing",
    "no_answer",
    "no_thinking",
    "tags_inside",
    "bad_conversations",
    "contaminated",
    "duplicate",
)
"""Reasons, as the record of a reading counts them."""
EVERY = 50
"""Of so many rows that follow one another the last can't be used."""
SHARD_ROWS = 50_000


def evaluation_question(number: int) -> str:
    """A question that must not be learned from, of more than 13 words."""
    return (
        f"A train leaves at {number} minutes past nine and another one an hour later, "
        "so when do the two of them meet on the way?"
    )


def row(number: int, seed: int) -> dict[str, Any]:
    """The row of a number, from 0."""
    drawn = random.Random(f"{seed}/{number}")
    a, b, c = (drawn.randrange(10**6) for _ in range(3))
    question = f"Row {number}: what is {a} + {b}, and what is left of it without {c}?"
    thinking = f"First {a} + {b} = {a + b}.\nThen {a + b} - {c} = {a + b - c}."
    said = f"<think>\n{thinking}\n</think>\n\nIt is {a + b - c}."
    conversations: Any = [{"from": "human", "value": question}, {"from": "gpt", "value": said}]
    if number % EVERY == EVERY - 1:
        kind = BAD[number // EVERY % len(BAD)]
        if kind == "duplicate":
            return row(number - 1, seed)
        if kind == "contaminated":
            conversations[0]["value"] = f"Please answer briefly. {evaluation_question(number % 60)}"
        elif kind == "bad_conversations":
            conversations = conversations[:1] if number // EVERY % 2 else None
        else:
            conversations[1]["value"] = {
                "no_closing": said.partition("</think>")[0],
                "no_answer": said.partition("It is")[0],
                "no_thinking": "<think>\n\n</think>\n\n4",
                "tags_inside": said + " </think>",
            }[kind]
    return {
        "difficulty": number % 10,
        "source": "synthetic",
        "domain": "math",
        "conversations": conversations,
    }


def expected(count: int) -> dict[str, int]:
    """How many rows are left out, by reason."""
    kinds = [BAD[number // EVERY % len(BAD)] for number in range(EVERY - 1, count, EVERY)]
    return {kind: kinds.count(kind) for kind in BAD if kind in kinds}


def write(folder: Path, count: int, seed: int = 0) -> None:
    """Writes shards of Parquet as they are published, and beside them what is asked in an evaluation."""
    import pyarrow as arrow
    from pyarrow import parquet

    texts = arrow.struct({"from": arrow.string(), "value": arrow.string()})
    schema = arrow.schema(
        {
            "difficulty": arrow.int64(),
            "source": arrow.string(),
            "domain": arrow.string(),
            "conversations": arrow.list_(texts),
        }
    )
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    asked = (json.dumps({"question": evaluation_question(number)}) + "\n" for number in range(60))
    (folder / "eval" / "questions.jsonl").write_text("".join(asked))
    num_shards = -(-count // SHARD_ROWS)
    for shard, start in enumerate(range(0, count, SHARD_ROWS)):
        rows: Iterator[dict[str, Any]] = (row(n, seed) for n in range(start, min(start + SHARD_ROWS, count)))
        table = arrow.Table.from_pylist(list(rows), schema=schema)
        parquet.write_table(table, folder / f"train-{shard:05}-of-{num_shards:05}.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    write(given.output, given.count, given.seed)


if __name__ == "__main__":
    main()

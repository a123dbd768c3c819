r"""Makes traces of programs that passed their tests: what a model said before its code block is the thinking.

::

    "The function has to …, so it can …      thinking
     ```python
     def …                                   answer
     ```"

An adapter that has seen nothing but sums ends every thought in "The final answer is …", also where a function
was asked for. MBPP's test split is left out; the model is asked for words by a system message, which
traces leave out.

    python tools/data/code_traces.py rows mbpp.jsonl -o mbpp_train.jsonl
    edgereason eval mbpp --run-code --mode chat --model qwen2.5-coder-0.5b-w4 --data mbpp_train.jsonl \
        --system "First say …, then answer with the program." -o runs/mbpp
    python tools/data/code_traces.py traces runs/mbpp --data mbpp_train.jsonl -o said.jsonl
    edgereason train traces --from said.jsonl --format plain --against humaneval_prompts.jsonl -o code
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgereason.core.bundle import write_atomically
from edgereason.core.types import Stop
from edgereason.evals.samples import read_samples
from edgereason.evals.tasks.catalog import load_task
from edgereason.hub.rows import read_file

FENCE = "```"


def train_rows(path: Path) -> Iterator[dict[str, Any]]:
    """MBPP's rows outside its test split, and no longer saying which split they are of."""
    for row in read_file(path).rows:
        if row.text("split") != "test":
            yield {name: value for name, value in row.values.items() if name != "split"}


def traces(run: Path, data: Path) -> Iterator[dict[str, Any]]:
    """A trace for every right answer that says something first and holds one block."""
    questions = {item.id: item.question for item in load_task("mbpp", data=data).items}
    for sample in read_samples(run):
        text = sample.traces[0].text
        thinking, fence, block = text.partition(FENCE)
        program, end, _ = block.partition(FENCE)
        if sample.score < 1 or sample.stop is not Stop.NATURAL or not (thinking.strip() and end):
            continue
        yield {
            "id": sample.id,
            "messages": [{"role": "user", "content": questions[sample.id]}],
            "thinking": thinking.strip(),
            "answer": f"{fence}{program}{end}",
            "source": data.name,
        }


def main() -> None:
    """Reads, chooses and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("rows", "traces"))
    parser.add_argument("source", type=Path, help="MBPP's file; of traces, the folder of an evaluation")
    parser.add_argument("--data", type=Path, help="of traces: what was evaluated")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.what == "traces" and arguments.data is None:
        parser.error("traces are of an evaluation: say what was asked (--data)")
    rows = list(
        train_rows(arguments.source) if arguments.what == "rows" else traces(arguments.source, arguments.data)
    )
    write_atomically(arguments.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{arguments.output}: {len(rows)} {arguments.what}")


if __name__ == "__main__":
    main()

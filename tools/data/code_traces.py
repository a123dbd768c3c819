r"""Makes traces of programs that passed their tests: a program's own comments are what was thought.

::

    ```python                              thinking   Sort the numbers.
    def second(numbers):                              Return the second of them.
        # Sort the numbers
        found = sorted(numbers)            answer     ```python
        # Return the second of them                   def second(numbers): …
        return found[1]                               ```

    # Test cases                           left out, as all that is neither definition nor import

An adapter that has seen nothing but sums ends every thought in "The final answer is …", also where a function
was asked for. Rows of MBPP's test split are left out, and programs without a comment in a function.

    python tools/data/code_traces.py rows mbpp.jsonl -o mbpp_train.jsonl
    edgereason eval mbpp --run-code --mode chat --model qwen2.5-coder-0.5b-w4 --data mbpp_train.jsonl \
        -o runs/mbpp
    python tools/data/code_traces.py traces runs/mbpp --data mbpp_train.jsonl -o programs.jsonl
    python tools/data/code_traces.py prompts humaneval.jsonl -o humaneval_prompts.jsonl
    edgereason train traces --from programs.jsonl --format plain --against humaneval_prompts.jsonl -o code

`prompts` are what an evaluation of HumanEval asks: to decontaminate against, and easy prompts
for a switcher.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgereason.core.bundle import write_atomically
from edgereason.core.types import Stop
from edgereason.data.rows import read_file
from edgereason.evals.samples import read_samples
from edgereason.evals.tasks.catalog import load_task
from edgereason.evals.tasks.code import extract_program

KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)


def train_rows(path: Path) -> Iterator[dict[str, Any]]:
    """MBPP's rows outside its test split, and no longer saying which split they are of."""
    for row in read_file(path).rows:
        if row.text("split") != "test":
            yield {name: value for name, value in row.values.items() if name != "split"}


def prompts(path: Path) -> Iterator[dict[str, Any]]:
    """What is asked of HumanEval's rows, as rows for a switcher too."""
    for item in load_task("humaneval", data=path).items:
        yield {"id": item.id, "prompt": item.question, "label": 0, "source": "humaneval"}


def traces(run: Path, data: Path) -> Iterator[dict[str, Any]]:
    """A trace for every right answer whose functions have comments."""
    questions = {item.id: item.question for item in load_task("mbpp", data=data).items}
    for sample in read_samples(run):
        program = extract_program(sample.traces[0].text)
        if sample.score < 1 or sample.stop is not Stop.NATURAL or program is None:
            continue
        program = definitions(program)
        if thoughts := comments(program):
            yield {
                "id": sample.id,
                "messages": [{"role": "user", "content": questions[sample.id]}],
                "thinking": "\n".join(thoughts),
                "answer": f"```python\n{program}\n```",
                "source": data.name,
            }


def definitions(program: str) -> str:
    """What a program imports, defines and assigns at its top level, as it stands there."""
    lines = program.splitlines()
    kept = (node for node in ast.parse(program).body if isinstance(node, KEPT))
    return "\n\n".join("\n".join(lines[_first_line(node) - 1 : node.end_lineno]) for node in kept)


def comments(program: str) -> list[str]:
    """What its comments say, a sentence each."""
    tokens = tokenize.generate_tokens(io.StringIO(program).readline)
    said = (token.string.lstrip("# ").strip() for token in tokens if token.type == tokenize.COMMENT)
    return [text if text.endswith((".", ":", "?")) else f"{text}." for text in said if text]


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def main() -> None:
    """Reads, chooses and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("rows", "traces", "prompts"))
    parser.add_argument("source", type=Path, help="data file; of traces, the folder of an evaluation")
    parser.add_argument("--data", type=Path, help="of traces: what was evaluated")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.what == "traces" and arguments.data is None:
        parser.error("traces are of an evaluation: say what was asked (--data)")
    match arguments.what:
        case "rows":
            rows = list(train_rows(arguments.source))
        case "prompts":
            rows = list(prompts(arguments.source))
        case _:
            rows = list(traces(arguments.source, arguments.data))
    write_atomically(arguments.output, "".join(json.dumps(row) + "\n" for row in rows))
    print(f"{arguments.output}: {len(rows)} {arguments.what}")


if __name__ == "__main__":
    main()

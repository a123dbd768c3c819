"""Whether a model writes the same with edgereason's kernels as with llama.cpp's own.

::

    python tools/study/kernel_texts.py QUESTIONS.jsonl --limit 50 -o RECORD.json

Each question is answered greedily in chat, and thought about with the bundle's adapter: in one process with
our kernels, in another with llama.cpp's. The two add sums in another order, so log-probabilities differ a
little. Where two tokens are nearly equally likely, the texts part. The record has the log-probabilities of
both tokens there, under both kernels, and how far log-probabilities differ where the texts are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from edgereason.core.chat import Seams
from edgereason.core.types import Message, Sampling
from edgereason.engine.base import Adapter, Feed, Sequence
from edgereason.engine.llama import LlamaEngine
from edgereason.engine.native import kernels
from edgereason.records.machine import describe, versions

GREEDY = Sampling(temperature=0)
Drawn = list[tuple[int, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("questions", type=Path, help="JSONL with a column `question`")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=160, help="drawn for each text, at most")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        return work(asked)
    lines = asked.questions.read_text("utf-8").splitlines()[: asked.limit]
    questions = [json.loads(line)["question"] for line in lines]
    with Worker("1") as ours, Worker("0") as theirs:
        record = compare(questions, ours, theirs)
    record |= {"tokens": asked.tokens, "machine": describe(threads=2), "versions": versions()}
    text = json.dumps(record, indent=1)
    if asked.output:
        asked.output.write_text(text + "\n", "utf-8")
    print(text)


class Worker:
    """A process that draws with one of the kernels; this program again, with `--worker`."""

    def __init__(self, switch: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *sys.argv, "--worker"],
            env={**os.environ, "EDGEREASON_KERNELS": switch},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate()

    def ask(self, **message: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        print(json.dumps(message), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def compare(questions: list[str], ours: Worker, theirs: Worker) -> dict[str, Any]:
    """Draws all texts with both, and looks at each first place where they part."""
    spread, partings, same = [], [], 0
    for number, question in enumerate(questions):
        for mode in ("chat", "think"):
            a = ours.ask(question=question, mode=mode)
            b = theirs.ask(question=question, mode=mode)
            common = len(list(takewhile(lambda pair: pair[0][0] == pair[1][0], zip(a, b, strict=False))))
            spread += [abs(x[1] - y[1]) for x, y in zip(a[:common], b[:common], strict=True)]
            if common == len(a) == len(b):
                same += 1
                continue
            tokens = [a[common][0], b[common][0]]
            prefix = [token for token, _ in a[:common]]
            probe = {"question": question, "mode": mode, "prefix": prefix, "tokens": tokens}
            under = {"ours": ours.ask(**probe), "llama.cpp": theirs.ask(**probe)}
            gaps = {name: first - second for name, (first, second) in under.items()}
            partings.append({"row": number, "mode": mode, "at": common, "logprobs": under, "gaps": gaps})
        print(f"{number + 1} of {len(questions)}: {same} texts the same", file=sys.stderr, flush=True)
    return {
        "texts": 2 * len(questions),
        "same": same,
        "same_tokens": len(spread),
        "spread_p50_p99_max": [float(np.quantile(spread, q)) for q in (0.5, 0.99, 1.0)],
        "largest_gap": max((abs(g) for p in partings for g in p["gaps"].values()), default=0.0),
        "partings": partings,
        "kernels": ours.ask(name=True),
    }


def work(asked: argparse.Namespace) -> None:
    """Answers lines of JSON: a text's tokens, or how likely two tokens are behind a prefix."""
    with LlamaEngine(asked.base, threads=2) as engine:
        adapter = engine.load_adapter(asked.adapter)
        for line in sys.stdin:
            message = json.loads(line)
            if "name" in message:
                print(json.dumps(kernels()), flush=True)
                continue
            with engine.reserve(cells=1536, sequences=4):
                sequence = start(engine, adapter, message["question"], message["mode"])
                if "prefix" in message:
                    reply: Any = likelihoods(engine, sequence, message["prefix"], message["tokens"])
                else:
                    reply = draw(engine, sequence, asked.tokens)
                engine.release(sequence)
            print(json.dumps(reply), flush=True)


def start(engine: LlamaEngine, adapter: Adapter, question: str, mode: str) -> Sequence:
    """The prompt on the base; for thinking the adapter and the opening behind it."""
    sequence = engine.new_sequence()
    engine.encode(sequence, engine.info.template.encode([Message("user", question)], engine.tokenize))
    if mode == "think":
        engine.cross(sequence, adapter)
        engine.encode(sequence, Seams.of(engine.tokenize).opening)
    return sequence


def draw(engine: LlamaEngine, sequence: Sequence, limit: int) -> Drawn:
    sampler = engine.sampler(GREEDY, 0)
    drawn = [engine.sample(sequence, sampler, want_logprob=True)]
    while len(drawn) < limit and not engine.is_end(drawn[-1].token):
        drawn += engine.step([Feed(sequence, [drawn[-1].token], sampler, want_logprob=True)])
    sampler.close()
    return [(one.token, one.logprob or 0.0) for one in drawn]


def likelihoods(engine: LlamaEngine, sequence: Sequence, prefix: list[int], tokens: list[int]) -> list[float]:
    """Log-probabilities of tokens behind the prefix, each drawn alone as in `draw`."""
    if prefix:
        sampler = engine.sampler(GREEDY, 0)
        for token in prefix:
            engine.step([Feed(sequence, [token], sampler)])
        sampler.close()
    forks = [engine.fork(sequence) for _ in tokens]
    scored = engine.score([(fork, [token]) for fork, token in zip(forks, tokens, strict=True)])
    for fork in forks:
        engine.release(fork)
    return [float(one.logprobs[0]) for one in scored]


if __name__ == "__main__":
    main()

"""A small real thing of everything that commands read: a base of 400 kB, its parts, data, recipes, records.

Command lines name them by an `@`: `ask Hi --model @base.gguf`.
"""

from __future__ import annotations

import json
import random
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tiny_bundle import write_base, write_evaluation, write_questions, write_tiny_adapter, write_tiny_heads

from edgereason.core.types import Mode
from tools.attack.processes import run_forked

SFT: Final = """[base]
name = "tiny"
[lora]
rank = 32
[hints]
buckets = [32, 64]
[training]
epochs = 3
batch_rows = 4
micro_rows = 4
learning_rate = 5e-3
checkpoint_minutes = 0.001
"""
LONG: Final = SFT.replace("epochs = 3", "epochs = 10").replace("minutes = 0.001", "minutes = 10")
"""So long that some answers are right."""
GRPO: Final = """[base]
name = "tiny"
[budgets]
buckets = [32, 64]
[training]
steps = 4
prompts = 2
samples = 8
micro_rows = 8
redraws = 2
beta = 0.01
learning_rate = 3e-4
checkpoint_minutes = 0.001
"""
QUANTIZE: Final = """[base]
name = "tiny-w4"
[transforms]
keys = false
[corrections]
rank = 1
[local]
steps = 4
layers = 1
[end_to_end]
steps = 12
windows = 1
window_tokens = 32
"""
EVAL: Final = """[eval]
task = "gsm8k"
mode = "think"
budget = 64
temperature = 0.0
parallel = 1
threads = 1
"""


_RUN: Final[dict[str, Any]] = {"budget": 64, "max_tokens": 64}
"""Settings of the evaluations."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where everything lies: in one folder, by these names."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Writes all of it."""
        folder.mkdir(parents=True, exist_ok=True)
        scene = cls(folder)
        base = write_base(scene["base.gguf"], context=1024)
        adapter = write_tiny_adapter(scene["adapter.gguf"], base)
        write_tiny_heads(scene["heads.safetensors"], base, adapter)
        write_questions(scene["questions.jsonl"], 12)
        _write_lines(scene["sums.jsonl"], _sums(24))
        _write_lines(scene["traces.jsonl"], _traces(24))
        _write_lines(scene["prompts.jsonl"], _prompts(60))
        _write_lines(scene["choices.jsonl"], _choices(6))
        scene["text.txt"].write_text("A bakery sells forty rolls a day, and ten loaves of bread. " * 60)
        scene["question.txt"].write_text("How many rolls are sold in a week?")
        for name, text in (
            ("sft", SFT),
            ("long", LONG),
            ("grpo", GRPO),
            ("quantize", QUANTIZE),
            ("eval", EVAL),
        ):
            scene[f"{name}.toml"].write_text(text)
        for mode, scores in ((Mode.CHAT, [0.0, 1.0, 0.0]), (Mode.THINK, [1.0, 0.0, 1.0])):
            data = scene["questions.jsonl"]
            write_evaluation(scene[f"run-{mode.value}"], mode, scores, base=base, data=data, **_RUN)
        parts = "--base @base.gguf --adapter @adapter.gguf --heads @heads.safetensors --bucket 64"
        scene._run(f"bundle build {parts} --include-base -o @bundle")
        scene._run("train sft @long.toml --traces @traces.jsonl --base @base.gguf --threads 1 -o @sft")
        scene._run("bundle build --from @sft/bundle --base @base.gguf --include-base -o @trained")
        shutil.copyfile(scene["sft"] / "bundle" / "reasoning.gguf", scene["learned.gguf"])
        return scene

    def moved(self, folder: Path) -> Self:
        """The same in another place."""
        return type(self)(self.folder.rename(folder))

    def copied(self, folder: Path) -> Self:
        """A copy for a command that may change it."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
        return type(self)(folder)

    def words(self, line: str) -> list[str]:
        """The arguments of a command line."""
        return [str(self[word[1:]]) if word.startswith("@") else word for word in shlex.split(line)]

    def command(self, line: str, **files: Path) -> None:
        """Runs an `edgereason` command line in this process; `{name}` in it is one of `files`.

        Raises:
            SystemExit: it did not end well.
        """
        command(*(word.format(**files) for word in self.words(line)))

    def _run(self, line: str) -> None:
        # In a fork: what trains in this process could not fork any more.
        ended = run_forked(lambda: self.command(line), self.folder.parent / ".made" / "work", limit_s=120)
        if ended.code != 0:
            raise RuntimeError(f"{line} does not work at all: {ended.err}")

    def __getitem__(self, name: str) -> Path:
        return self.folder / name


def command(*arguments: str | Path) -> None:
    """Runs an `edgereason` command line in this process.

    Raises:
        SystemExit: it did not end well.
    """
    from edgereason.cli.main import main

    sys.argv = ["edgereason", *map(str, arguments)]
    main()


def _sums(count: int) -> Iterable[dict[str, Any]]:
    return ({"id": f"s{n}", "question": f"What is {n}?", "answer": str(n % 2)} for n in range(count))


def _traces(count: int) -> Iterable[dict[str, Any]]:
    return (
        {
            "id": str(n),
            "messages": [{"role": "user", "content": f"What is {n}?"}],
            "thinking": f"It is {n % 2}.",
            "answer": f"The final answer is {n % 2}.",
            "source": "sums",
        }
        for n in range(count)
    )


def _choices(count: int) -> Iterable[dict[str, Any]]:
    return (
        {"id": str(n), "question": f"Is it {n}?", "choices": list("0123"), "answer": n % 4}
        for n in range(count)
    )


def _prompts(count: int) -> Iterable[dict[str, Any]]:
    rng = random.Random(1)
    return (
        {"id": str(n), "label": n % 2, "prompt": "".join(rng.choices("0123" if n % 2 else "abcd", k=20))}
        for n in range(count)
    )


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

"""The help of every command: an example, and rare options apart from the others.

The examples stand in one place: `docs/cli.md` shows them, and a test parses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import typer
from typer.core import TyperCommand

RARE: Final = "Rare options"
"""The heading (`rich_help_panel`) of options that most callers never need."""

EXAMPLES: Final[Mapping[str, str]] = {
    "ask": 'edgereason ask --streams 4 --budget 5s "A box holds 12 eggs. How many eggs are in 7 boxes?"',
    "chat": "edgereason chat --mode think --budget 400",
    "models": "edgereason models --json",
    "pull": "edgereason pull smollm2-135m",
    "doctor": "edgereason doctor --model qwen2.5-coder-1.5b-w4",
    "quantize": (
        "edgereason quantize smollm2-135m --recipe configs/quantize-smollm2-135m.toml --text text.txt -o base"
    ),
    "report": "edgereason report runs/chat runs/think -o report",
    "serve": "edgereason serve --port 8080",
    "bench engine": "edgereason bench engine --only steps --only lora",
    "bench parallel": "edgereason bench parallel --streams 1,4,8 --depths 128,1024",
    "bench compare": "edgereason bench compare qwen2.5-coder-0.5b qwen2.5-coder-0.5b-w4",
    "bench switch": "edgereason bench switch --lengths 256,1024",
    "bench serve": "edgereason bench serve --model smollm2-135m --json",
    "bench train": "edgereason bench train --only rollouts --rounds 2",
    "bundle build": "edgereason bundle build -o mine --from sft/bundle --heads heads.safetensors",
    "bundle show": "edgereason bundle show mine",
    "bundle verify": "edgereason bundle verify mine",
    "bundle calibrate": "edgereason bundle calibrate mine --needless-cost 1 --prompts prompts.jsonl",
    "eval task": "edgereason eval gsm8k --mode think --budget 320 --limit 100 -o runs/think",
    "eval sweep": "edgereason eval sweep runs/think --budgets 64,128,256 -o runs/sweep.json",
    "eval compare": "edgereason eval compare runs/chat runs/think",
    "eval ppl": "edgereason eval ppl text.txt --model smollm2-135m",
    "export onnx": "edgereason export onnx mine -o export --target onnxruntime",
    "export gguf": "edgereason export gguf mine -o export",
    "export peft": "edgereason export peft mine -o export --hub-base Qwen/Qwen2.5-7B-Instruct",
    "make init": "edgereason make init smollm2-135m -o recipe.toml",
    "make run": "edgereason make recipe.toml -o runs/mine --smoke",
    "train traces": (
        "edgereason train traces --questions train.jsonl --against test.jsonl --samples 4 -o traces"
    ),
    "train answers": "edgereason train answers --questions train.jsonl --limit 500 -o answers",
    "train sft": "edgereason train sft configs/sft-smollm2-135m.toml --traces traces/traces.jsonl -o sft",
    "train export": "edgereason train export sft",
    "train shortest": (
        "edgereason train shortest configs/grpo-smollm2-135m.toml --from sft "
        "--questions train.jsonl -o shortest"
    ),
    "train grpo": (
        "edgereason train grpo configs/grpo-smollm2-135m.toml --from sft "
        "--questions reasoning-gym:chain_sum:500 -o grpo"
    ),
    "train sweep": (
        "edgereason train sweep configs/study-smollm2-135m.toml --traces traces/traces.jsonl -o study"
    ),
    "train heads switcher": (
        "edgereason train heads switcher --prompts prompts.jsonl --bundle sft/bundle -o switcher"
    ),
    "train heads verifier": (
        "edgereason train heads verifier --questions train.jsonl --bundle sft/bundle -o verifier"
    ),
}
"""One command line for each command, by the command's path."""


class _Command(TyperCommand):
    """A command whose options stand under the headings that they name."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record := parameter.get_help_record(ctx):
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for heading, records in panels.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Example"):
            formatter.write_text(
                f"\b\n{self.epilog}"
            )  # \b: on one line at any width, so that it can be copied


def add_examples(app: typer.Typer, path: tuple[str, ...] = ()) -> None:
    """Gives every command below `app` its example and its headings.

    Raises:
        KeyError: a command has no example.
    """
    for command in app.registered_commands:
        assert command.callback
        name = " ".join((*path, command.name or command.callback.__name__))
        command.cls, command.epilog = _Command, EXAMPLES[name]
    for group in app.registered_groups:
        assert group.typer_instance
        add_examples(group.typer_instance, (*path, str(group.typer_instance.info.name)))
